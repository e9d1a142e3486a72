"""The host's end of the zygote: one per process, started when the first session opens, gone with the process.

Thread-safe and free of any event loop, since sessions of several loops share it. In a forked child of the host it starts
afresh: the parent's control socket is closed there, or the zygote would not see its end of file.
"""

from __future__ import annotations

import atexit
import itertools
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from dszig_py.errors import EnvironmentFailure

_PROGRAM = Path(__file__).with_name("_worker") / "zygote.py"
_HEADER = struct.Struct(">I")
_START_SECONDS = 60.0
# MALLOC_ARENA_MAX: glibc's arenas else use up the address space after 15 threads. A fixed hash seed lets a replayed
# run iterate its sets in the recorded order.
_ENVIRON = {"MALLOC_ARENA_MAX": "2", "PYTHONHASHSEED": "0", "PYTHONUTF8": "1", "PYTHONDONTWRITEBYTECODE": "1"}
# NumPy's libraries start a thread for each core when they are imported, which with an array as input is before the
# filters are on: those would not hold them.
_ONE_THREAD = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class Zygote:
    """A running zygote process. ``facts`` is what it found: ``arch``, ``landlock`` (ABI, 0 for none), ``seccomp``, and
    ``seatbelt``, where ``command``, which starts it, is macOS's ``sandbox-exec``.
    """

    def __init__(self, command: tuple[str, ...] = ()) -> None:
        ours, theirs = socket.socketpair()
        self._control = ours
        self._lock = threading.Lock()
        self._lost = False
        self.kinds: set[tuple[object, ...]] = set()  # of workers that have come up
        self._tokens = itertools.count(1)
        with theirs:
            self._process = self._started(command, theirs.fileno())
        self.facts = {**self._await_ready(), "seatbelt": bool(command)}
        self.pid: int = self._process.pid

    def _started(self, command: tuple[str, ...], descriptor: int) -> subprocess.Popen[bytes]:
        # A program that has Python inside (uWSGI, an application of one file) may say of none, or of itself.
        python = sys.executable or "python"
        try:
            return subprocess.Popen(  # noqa: S603 - this interpreter, our own program
                [*command, python, "-S", "-s", "-P", str(_PROGRAM), str(descriptor)],
                env={**_ENVIRON, **_ONE_THREAD},
                pass_fds=(descriptor,),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            self._control.close()
            told = f"{python} cannot be started ({error.strerror or error})"
            raise EnvironmentFailure(f"the process that model-written code runs in did not start: {told}") from error

    def _await_ready(self) -> dict[str, Any]:
        self._control.settimeout(_START_SECONDS)
        try:
            header = self._control.recv(_HEADER.size, socket.MSG_WAITALL)
            if len(header) == _HEADER.size:
                body = self._control.recv(_HEADER.unpack(header)[0], socket.MSG_WAITALL)
                self._control.settimeout(None)
                return json.loads(body)
            why = "it ended at once"
        except TimeoutError:
            why = f"it was not ready after {_START_SECONDS:g} s"
        self._process.kill()
        said = self._process.stderr.read().decode("utf-8", "replace")[-800:] if self._process.stderr else ""
        self.close()
        raise EnvironmentFailure(f"the process that model-written code runs in did not start: {why}. {said}".strip())

    def fork(self, request: dict[str, Any], fds: list[int]) -> int:
        """Ask for a worker that owns ``fds``; its token. Raises ``OSError`` where the zygote is gone."""
        token = next(self._tokens)
        body = json.dumps({"op": "fork", "token": token, **request}).encode()
        message = _HEADER.pack(len(body)) + body
        with self._lock:
            try:
                # In one piece: woken by a header alone, the zygote would take the processor and wait for the rest.
                sent = socket.send_fds(self._control, [message], fds)
                self._control.sendall(message[sent:])
            except OSError:
                self._lost = True  # its sockets close a moment before the kernel calls it dead
                raise
        return token

    def signal(self, token: int, number: signal.Signals) -> None:
        """Signal one worker, if it still runs."""
        self._tell({"op": "signal", "token": token, "signal": int(number)})

    def forget_text(self, key: int) -> None:
        """Drop a text that was kept for several sessions."""
        self._tell({"op": "forget", "key": key})

    def _tell(self, message: dict[str, Any]) -> None:
        """Silent where the zygote is gone: its workers went with it."""
        body = json.dumps(message).encode()
        with self._lock:
            try:
                self._control.sendall(_HEADER.pack(len(body)) + body)
            except OSError:
                return

    @property
    def alive(self) -> bool:
        return not self._lost and self._process.poll() is None

    def close(self) -> None:
        """End the zygote and with it every worker."""
        self._control.close()
        if self._process.stderr is not None:
            self._process.stderr.close()
        if self._lost:
            self._process.kill()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def forget(self) -> None:
        """Let go without ending it: this process is a forked copy of the owner."""
        self._control.close()
        if self._process.stderr is not None:
            self._process.stderr.close()
        self._process.returncode = 0  # not ours to wait for


_running: dict[tuple[str, ...], Zygote] = {}  # by command: macOS has one for each set of paths that may be read
_lock = threading.Lock()


def zygote(command: tuple[str, ...] = ()) -> Zygote:
    """This process's zygote, started if need be (0.1 to 0.2 s, blocking). Raises :class:`EnvironmentFailure`."""
    with _lock:
        current = _running.get(command)
        if current is None or not current.alive:
            if current is not None:
                current.close()
            current = _running[command] = Zygote(command)
        return current


def known(kind: tuple[object, ...]) -> Zygote | None:
    """A zygote that runs and has started such a worker, if there is one; never waits."""
    return next((one for one in list(_running.values()) if kind in one.kinds and one.alive), None)


def stop() -> None:
    """End this process's zygotes, if any run. The next session starts another."""
    with _lock:
        while _running:
            _running.popitem()[1].close()


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()
    while _running:
        _running.popitem()[1].forget()


atexit.register(stop)
os.register_at_fork(after_in_child=_after_fork)
