"""Large texts on the pages of a file: a fork copies a table entry for each page of plain memory, and none for a file's, which
for 200 MB makes 10 ms of every fork and exit, or nothing. CPython on Linux; elsewhere texts stay where they are.

Rejected: huge pages (MADV_COLLAPSE), which where memory is in pieces took over half a second to come by.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from collections.abc import Callable

MAP_FIXED = 0x10  # mman.h, Linux: in place of what is mapped there


def put_on_a_file(text: str | bytes) -> None:
    """Move a text, of which nothing changes any more; it stays where it is where there is no room for a second copy."""
    if sys.implementation.name == "cpython":
        start = id(text)
        onto_a_file(start, start + sys.getsizeof(text), lambda first, last: memory(first, last - first))


def ascii_text(fd: int, size: int) -> str | None:
    """A text of so many ASCII characters, which are ``fd``'s bytes, on a file's pages from the start: one copy, where to
    decode it and to move it then are two. None where there is no room for it, or Python keeps its texts in another way.
    """
    if sys.implementation.name != "cpython":
        return None
    new = ctypes.pythonapi.PyUnicode_New
    new.restype, new.argtypes = ctypes.py_object, (ctypes.c_ssize_t, ctypes.c_uint32)
    text: str = new(size, 127)
    start = id(text) + sys.getsizeof("") - 1  # behind the head of a compact text: PyASCIIObject, unicodeobject.h
    with mmap.mmap(fd, size, access=mmap.ACCESS_READ) as data, memoryview(data) as given:

        def content(first: int, last: int) -> memoryview:
            memory(start, first - start)[:] = given[: first - start]
            memory(last, start + size - last)[:] = given[last - start :]
            return given[first - start : last - start]

        return text if onto_a_file(start, start + size, content) else None


def onto_a_file(start: int, end: int, content: Callable[[int, int], memoryview]) -> bool:
    """Have the whole pages from ``start`` to ``end`` of this process be a file's that holds what ``content`` gives for two
    addresses. Whether there was room for it.
    """
    first, last = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE, end // mmap.PAGESIZE * mmap.PAGESIZE
    try:
        fd = os.memfd_create("text")
    except OSError:
        return False
    try:
        view, done = content(first, last), 0
        while done < len(view):
            done += os.write(fd, view[done : done + (1 << 30)])
        place = ctypes.CDLL(None).mmap
        place.restype, place.argtypes = (
            ctypes.c_void_p,
            [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long],
        )
        mapped = place(first, last - first, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | MAP_FIXED, fd, 0)
        return mapped == first
    except OSError:
        return False
    finally:
        os.close(fd)


def memory(address: int, size: int) -> memoryview:
    return memoryview((ctypes.c_char * size).from_address(address)).cast("B")
