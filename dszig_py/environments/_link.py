"""One worker's socket on the host's side: frames in and out, and the clock of the cell that runs."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from typing import Any

from dszig_py.environments._worker import codec

__all__ = ["CellClock", "Link"]

_HEADER = struct.Struct(">I")


class Link(asyncio.Protocol):
    """Frames of one worker. ``on_frame`` gets raw bodies in order; ``gone`` is done, with the reason, when the socket ends.

    A size is checked before anything is kept for it; a worker that announces more than ``max_frame`` is cut off.
    """

    def __init__(self, max_frame: int, on_frame: Callable[[bytes], None]) -> None:
        self._buffer = bytearray()
        self._max_frame = max_frame
        self._on_frame = on_frame
        self.gone: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        start = 0
        while len(buffer) - start >= _HEADER.size:
            (size,) = _HEADER.unpack_from(buffer, start)
            if size > self._max_frame:
                self.break_off("it announced a message larger than allowed")
                return
            if len(buffer) - start - _HEADER.size < size:
                break
            first = start + _HEADER.size
            body = bytes(memoryview(buffer)[first : first + size])
            start = first + size
            self._on_frame(body)
            if self.gone.done():
                return
        del buffer[:start]

    def break_off(self, why: str) -> None:
        """Cut the worker off; what it sent so far is dropped."""
        if not self.gone.done():
            self.gone.set_result(why)
        self._buffer = bytearray()
        if self.transport is not None:
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.gone.done():
            self.gone.set_result("it was killed, ran out of memory, or crashed")

    def send(self, frame: dict[str, Any]) -> None:
        """One frame out; dropped where the worker is gone."""
        body = codec.dumps(frame)
        if self.transport is not None and not self.transport.is_closing():
            self.transport.writelines([_HEADER.pack(len(body)), body])

    def hold(self, held: bool) -> None:
        """Stop or resume reading: the kernel's buffer then holds the worker back."""
        if self.transport is None or self.transport.is_closing():
            return
        if held:
            self.transport.pause_reading()
        elif not self.transport.is_reading():
            self.transport.resume_reading()


class CellClock:
    """A cell's own seconds: runs while no host call is outstanding, then calls ``expired`` once."""

    def __init__(self, seconds: float, expired: Callable[[], None]) -> None:
        self._left = seconds
        self._expired = expired
        self._since = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def run(self) -> None:
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._since = loop.time()
            self._timer = loop.call_later(max(self._left, 0.0), self._expired)

    def hold(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._left -= asyncio.get_running_loop().time() - self._since
