"""One worker's socket on the host's side: frames in and out, their first judgement, and the clock of the cell that runs.

Everything that arrives is untrusted. What a frame may cost is bounded before it is parsed: its bytes, and the values it
holds, since three bytes of JSON become a hundred of Python.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from typing import Any, cast

from dszig_py.environments._worker import codec

__all__ = ["CellClock", "Link", "call_values", "done_values", "is_heavy", "parse"]

_HEADER = struct.Struct(">I")
_AT_ONCE = 64  # frames handled before the event loop gets its turn
_OFF_LOOP = 256 * 1024  # bytes of a frame above which it is parsed in a thread
_TAGGED_OFF_LOOP = 16 * 1024  # the same for values that are built by our code instead of json's
_MAX_ERROR = 20_000  # characters; a worker that keeps to its program sends far less
_MAX_NAMES, _MAX_NAME = 200, 100


class Link(asyncio.Protocol):
    """Frames of one worker. ``on_frame`` gets raw bodies in order; ``gone`` is done, with the reason, when the socket ends.

    A size is checked before anything is kept for it; a worker that announces more than ``max_frame`` is cut off. One
    that sends faster than it is served, or does not read what it is sent, is held back by the kernel's buffer.
    """

    def __init__(self, max_frame: int, on_frame: Callable[[Link, bytes], None]) -> None:
        self._buffer = bytearray()
        self._max_frame = max_frame
        self._on_frame = on_frame
        self._holds: set[str] = set()
        self._scheduled = self._dropped = False
        self._why = ""
        self.gone: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if self._dropped:
            return
        self._buffer += data
        if not self._scheduled:
            self._handle_some()

    def _handle_some(self) -> None:
        self._scheduled = False
        buffer, start, handled = self._buffer, 0, 0
        while len(buffer) - start >= _HEADER.size and not (self._holds or self.gone.done()):
            (size,) = _HEADER.unpack_from(buffer, start)
            if size > self._max_frame:
                self.break_off("it announced a message larger than allowed")
                return
            first = start + _HEADER.size
            if len(buffer) - first < size:
                break
            if handled == _AT_ONCE:
                self._scheduled = True
                asyncio.get_running_loop().call_soon(self._handle_some)
                break
            start, handled = first + size, handled + 1
            self._on_frame(self, bytes(memoryview(buffer)[first:start]))
        del buffer[:start]
        self._read_or_not()

    def _read_or_not(self) -> None:
        if self.transport is None or self.transport.is_closing():
            return
        wait = bool(self._holds) or self._scheduled
        if wait and self.transport.is_reading():
            self.transport.pause_reading()
        elif not wait and not self.transport.is_reading():
            self.transport.resume_reading()

    def hold(self, reason: str, held: bool) -> None:
        """Stop handing out frames, for ``reason``, or go on: what is not read holds the worker back."""
        if held == (reason in self._holds):
            return
        (self._holds.add if held else self._holds.discard)(reason)
        if not self._holds and not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._handle_some)
        self._read_or_not()

    def pause_writing(self) -> None:
        self.hold("unread", True)

    def resume_writing(self) -> None:
        self.hold("unread", False)

    def drop(self, why: str = "") -> None:
        """Take no more frames, and read on only to see the end of the socket; ``why`` it will have ended."""
        self._dropped, self._why = True, why or self._why
        self._buffer = bytearray()
        self._holds.clear()
        self._scheduled = False
        self._read_or_not()

    def break_off(self, why: str) -> None:
        """Cut the worker off; what it sent so far is dropped."""
        if not self.gone.done():
            self.gone.set_result(why)
        self._buffer = bytearray()
        if self.transport is not None:
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.gone.done():
            self.gone.set_result(self._why or "it was killed, ran out of memory, or crashed")

    def send(self, frame: dict[str, Any]) -> None:
        """One frame out; dropped where the worker is gone. Raises ``ValueError`` where it is larger than allowed."""
        body = codec.dumps(frame)
        if len(body) > self._max_frame:
            raise ValueError(f"{len(body):,} bytes; at most {self._max_frame:,} can cross at once")
        if self.transport is not None and not self.transport.is_closing():
            self.transport.writelines([_HEADER.pack(len(body)), body])


def is_heavy(body: bytes) -> bool:
    """Whether reading this frame may take long enough to be felt on an event loop."""
    return len(body) > _OFF_LOOP or (len(body) > _TAGGED_OFF_LOOP and b'"~"' in body)


def parse(body: bytes) -> dict[str, Any]:
    """The frame. Raises ``ValueError``, ``TypeError`` for anything else, and for more values than a host should have to hold."""
    if codec.too_many_values(body):
        raise ValueError("too many values in a frame")
    frame = codec.loads(body)
    if not isinstance(frame, dict) or not isinstance(cast("dict[str, Any]", frame).get("t"), str):
        raise TypeError("a frame is an object with a type")
    return cast("dict[str, Any]", frame)


def call_values(args: Any, kwargs: Any) -> tuple[list[Any], dict[str, Any]]:
    """The arguments of a call from inside. Raises ``ValueError``, ``TypeError`` where they are none."""
    values = codec.decode(args, records=codec.plain_record)
    named = codec.decode(kwargs, records=codec.plain_record)
    if not isinstance(values, list) or not isinstance(named, dict):
        raise TypeError("a call takes a list and a dict")
    if not all(isinstance(key, str) for key in cast("dict[Any, Any]", named)):
        raise ValueError("keywords must be text")
    return cast("list[Any]", values), cast("dict[str, Any]", named)


def done_values(frame: dict[str, Any]) -> dict[str, Any]:
    """What a cell left behind, each value of its type and bounded. Raises ``KeyError``, ``ValueError``."""
    names, chars, value = frame["names"], frame["chars"], frame["value"]
    texts = [frame["head"], frame["tail"], frame["error"], *([] if value is None else [value])]
    if type(chars) is not int or not 0 <= chars < 1 << 62 or not isinstance(names, list):
        raise ValueError("malformed")
    names = cast("list[Any]", names)[:_MAX_NAMES]
    if not all(isinstance(text, str) for text in [*texts, *names]):
        raise ValueError("malformed")
    return {
        "text": f"{frame['head']}{frame['tail']}",
        "chars": chars,
        "value": value,
        "error": frame["error"][:_MAX_ERROR],
        "names": [name for name in names if len(name) <= _MAX_NAME and name.isidentifier()],  # a prompt tells them
    }


class CellClock:
    """A cell's own seconds: runs while no host call is outstanding, then calls ``expired`` once a cell.

    One timer serves all cells of a session and all their calls: when it rings it is looked at what is left, and set again
    for that. One for each stretch would be a timer a call, and asyncio keeps those that were cancelled.
    """

    def __init__(self, seconds: float, expired: Callable[[], None]) -> None:
        self._seconds = self._left = seconds
        self._expired = expired
        self._since: float | None = None  # on the loop's clock; None while it stands
        self._over = False
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """A new cell, which has all of its seconds."""
        self._left, self._since, self._over = self._seconds, None, False

    def run(self) -> None:
        if self._since is not None or self._over:
            return
        loop = asyncio.get_running_loop()
        self._since = loop.time()
        if self._timer is None:
            self._timer = loop.call_later(max(self._left, 0.0), self._ring)

    def hold(self) -> None:
        if self._since is not None:
            self._left -= asyncio.get_running_loop().time() - self._since
            self._since = None

    def stop(self) -> None:
        """The session is over."""
        self._over = True
        if self._timer is not None:
            self._timer.cancel()

    def _ring(self) -> None:
        self._timer = None
        if self._since is None:
            return  # set again when it runs again
        loop = asyncio.get_running_loop()
        left = self._left - (loop.time() - self._since)
        if left > 0:
            self._timer = loop.call_later(left, self._ring)
            return
        self.hold()
        self._over = True
        self._expired()
