"""Bytes by position, of a file or in memory: what a ``Text`` and a ``File`` read. Standard library only.

Files are read by ``pread`` and not through a mapping: one of ten gigabytes counts against the worker's address space
(RLIMIT_AS), and a file that is cut short while it is mapped kills the process (SIGBUS), the host's own where the code runs
in it. What stays in the processor's cache makes up for the copy: a scan takes 1.0 to 1.4 times as long as through a mapping.
"""

from __future__ import annotations

import os

_PART = 256 << 10  # bytes of one read on the way into a view


class Stored:
    """Bytes behind a descriptor, which is closed with this; ``size`` is what they were when it was opened."""

    def __init__(self, fd: int, size: int) -> None:
        self.fd, self.size = fd, size
        self._pread, self._close = os.pread, os.close  # bound now: a cell may put something else in their place

    def read(self, start: int, stop: int) -> bytes:
        """Bytes ``start`` to ``stop``; fewer where the file has become shorter."""
        start, stop = max(start, 0), min(stop, self.size)
        data = self._pread(self.fd, stop - start, start) if start < stop else b""
        if len(data) == stop - start or not data:
            return data
        parts = [data]
        while (start := start + len(parts[-1])) < stop and (part := self._pread(self.fd, stop - start, start)):
            parts.append(part)
        return b"".join(parts)

    def view(self, start: int, stop: int, room: bytearray) -> memoryview:
        """The same in ``room``, which is used again and again. Where each block is new memory, and the text made of it too, the
        allocator may give both back to the kernel each time: the page faults of that took thrice the time of the search
        itself. (``preadv`` would save a copy in the cache, 3 %; Python calls it preadv2, which the filter does not let through.)
        """
        start, stop = max(start, 0), min(stop, self.size)
        if len(room) < stop - start:
            room.extend(bytes(stop - start - len(room)))
        done, data = 0, memoryview(room)
        while start + done < stop and (part := self._pread(self.fd, min(stop - start - done, _PART), start + done)):
            data[done : done + len(part)] = part
            done += len(part)
        return data[:done]

    def __del__(self) -> None:
        try:
            self._close(self.fd)
        except (OSError, AttributeError):  # at the interpreter's end
            pass


class Held:
    """The same for bytes in memory."""

    def __init__(self, data: bytes) -> None:
        self.data, self.size = data, len(data)

    def read(self, start: int, stop: int) -> bytes:
        """Bytes ``start`` to ``stop``."""
        return self.data[max(start, 0) : max(stop, 0)]

    def view(self, start: int, stop: int, room: bytearray) -> memoryview:
        """The same without a copy."""
        return memoryview(self.data)[max(start, 0) : max(stop, 0)]
