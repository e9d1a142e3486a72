"""The worker's end of the protocol: length-prefixed JSON frames on one socket. Standard library only.

Calls come from any thread of a cell at once. Whoever waits for a reply reads the socket while nobody else does, and
hands the frames of others over (leader and followers, as in the ACE pattern of that name): a lone call costs no thread
switch, which a dedicated reader thread would charge every one of them.
"""

from __future__ import annotations

import select
import socket
import struct
import threading
from typing import Any

HEADER = struct.Struct(">I")
_TOGETHER = 64 * 1024  # bytes; what is smaller goes out in one system call, and wakes the host once
_COMMAND = 0  # the slot of the main thread between cells; calls count from 1
_Lock = threading.Lock  # bound now, like the socket's methods below: a cell may put something else in their place


class HostGone(BaseException):
    """The host closed the socket; the worker ends."""


class _Slot:
    __slots__ = ("frame", "wake")

    def __init__(self) -> None:
        self.frame: dict[str, Any] | None = None
        self.wake = _Lock()  # held while waiting; released to wake the waiter
        self.wake.acquire()


class Channel:
    """Frames out under one lock; frames in by whichever thread waits."""

    def __init__(self, sock: socket.socket, dumps: Any, loads: Any, too_many: Any, max_frame: int) -> None:
        self._sendall, self._recv_into, self._fd = sock.sendall, sock.recv_into, sock.fileno()
        self._dumps, self._loads, self._too_many = dumps, loads, too_many
        self._max_frame = max_frame
        self._sending = _Lock()
        self._reading = _Lock()
        self._table = _Lock()
        self._slots: dict[int, _Slot] = {}
        self._commands: list[dict[str, Any]] = []
        self._next_id = 0
        self.execution = 0

    def send(self, frame: dict[str, Any]) -> None:
        """One frame out. Raises ``ValueError`` before sending anything where it would be too large or hold too much."""
        body = self._dumps(frame)
        if len(body) > self._max_frame:
            raise ValueError(
                f"the value takes {len(body):,} bytes; at most {self._max_frame:,} can leave the REPL at once"
            )
        if self._too_many(body):
            raise ValueError("the value holds over half a million items, more than can leave the REPL at once")
        header = HEADER.pack(len(body))
        with self._sending:
            if len(body) > _TOGETHER:
                self._sendall(header)
                header = b""
            self._sendall(header + body)

    def call(self, name: str, args: Any, kwargs: Any) -> dict[str, Any]:
        """One call to the host and its reply, in any thread."""
        slot = _Slot()
        with self._table:
            self._next_id += 1
            call_id = self._next_id
            self._slots[call_id] = slot
        try:
            self.send({"t": "call", "x": self.execution, "id": call_id, "name": name, "args": args, "kwargs": kwargs})
        except BaseException:
            with self._table:
                del self._slots[call_id]
            raise
        return self._reply(call_id, slot)

    def command(self) -> dict[str, Any]:
        """The host's next command (bind, exec, vars), for the main thread between cells."""
        slot = _Slot()
        with self._table:
            if self._commands:
                return self._commands.pop(0)
            self._slots[_COMMAND] = slot
        return self._reply(_COMMAND, slot)

    def waiting(self) -> bool:
        """Whether something of the host's can be read."""
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        return bool(poll.poll(0))

    def _reply(self, key: int, slot: _Slot) -> dict[str, Any]:
        try:
            self._await(slot)
        finally:
            with self._table:
                self._slots.pop(key, None)
                self._promote()
        assert slot.frame is not None
        return slot.frame

    def _await(self, slot: _Slot) -> None:
        while slot.frame is None:
            if self._reading.acquire(blocking=False):
                try:
                    while slot.frame is None:
                        self._dispatch(self._receive())
                finally:
                    self._reading.release()
            else:
                # The leader may have left between the two lines; the timeout bounds what that race can cost.
                slot.wake.acquire(timeout=0.05)

    def _promote(self) -> None:
        """Wake one thread that still waits, so that somebody reads on."""
        for slot in self._slots.values():
            if slot.frame is None:
                _poke(slot)
                return

    def _dispatch(self, frame: dict[str, Any]) -> None:
        is_reply = frame.get("t") == "reply"
        with self._table:
            slot = self._slots.get(frame["id"] if is_reply else _COMMAND)
            if slot is None or slot.frame is not None:
                if not is_reply:
                    self._commands.append(frame)
                return
            slot.frame = frame
        _poke(slot)

    def _receive(self) -> dict[str, Any]:
        (size,) = HEADER.unpack(self._exactly(HEADER.size))
        return self._loads(self._exactly(size))

    def _exactly(self, size: int) -> bytearray:
        data = bytearray(size)
        view, got = memoryview(data), 0
        while got < size:
            n = self._recv_into(view[got:])
            if n == 0:
                raise HostGone
            got += n
        return data


def _poke(slot: _Slot) -> None:
    try:
        slot.wake.release()
    except RuntimeError:  # already awake
        pass
