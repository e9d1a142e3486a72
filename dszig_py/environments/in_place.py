"""Inputs that the host has opened, as the REPL's own objects, in this process: for code that is trusted, and for evidence."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from itertools import accumulate
from typing import Any

from dszig_py.environments._worker import files, text
from dszig_py.files import Opened

__all__ = ["in_place"]

_PIECE = 64 * 1024  # characters


def in_place(name: str, value: Opened) -> Any:
    """What the REPL has as the input ``name``: a ``File``, a ``Folder`` or a ``Text``, with a descriptor of its own."""
    if value.fd >= 0:
        about = {"name": value.name, "encoding": value.encoding}
        return files.received(name, value.kind, value.fd, value.size, about)
    return text.Text(_Encoded(value.content), place=name)


class _Encoded:
    """The UTF-8 of a ``str``, made for the part that is read: encoded whole, the text would be in memory twice."""

    def __init__(self, content: str) -> None:
        self._content = content
        pieces = range(0, 0 if content.isascii() else len(content), _PIECE)
        self._ends = list(accumulate(len(self._of(at, at + _PIECE)) for at in pieces))
        self.size = self._ends[-1] if self._ends else len(content)

    def _of(self, start: int, stop: int) -> bytes:
        return self._content[start:stop].encode("utf-8", "surrogatepass")

    def read(self, start: int, stop: int) -> bytes:
        start, stop = max(start, 0), min(stop, self.size)
        if not self._ends or start >= stop:
            return self._of(start, max(start, stop))
        first, last = bisect_right(self._ends, start), bisect_left(self._ends, stop)
        begun = self._ends[first - 1] if first else 0
        return self._of(first * _PIECE, (last + 1) * _PIECE)[start - begun : stop - begun]

    def view(self, start: int, stop: int, room: bytearray) -> memoryview:
        return memoryview(self.read(start, stop))
