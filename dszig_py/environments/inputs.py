"""Inputs on their way into a worker: once, by value, in memory that both sides map.

Text and bytes of any size go through a sealed memfd (man memfd_create(2)), encoded in chunks so that the host never holds
a second copy; small values ride in the bind frame. One value given to many sessions at once (the children of a run, the
runs of an evaluation) is encoded once: packs are shared by identity while any session holds them. macOS has no memfd; an
unlinked temporary file does the same there.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pickle
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any, Protocol

from dszig_py.environments._worker import codec
from dszig_py.errors import InputError
from dszig_py.files import Opened

SMALL = 32 * 1024  # bytes or characters; below this a frame is cheaper than a descriptor
# Bytes above which sessions at once also share the decoded value. Not below: glibc maps what is larger for itself, always,
# so that it leaves no trace in a worker that is not to see it (M_MMAP_THRESHOLD, mallopt(3)).
SHARED = 64 * 1024 * 1024
_CHUNK = 4 * 1024 * 1024
_MOST = 1 << 30  # bytes of one write; the kernel takes at most two GiB


class Keeper(Protocol):
    """Keeps decoded texts for the sessions it starts."""

    def forget_text(self, key: int) -> None: ...


@dataclass(slots=True, eq=False)
class _Pack:
    """One value in a memfd. ``value`` keeps the object alive, so that its ``id`` stays its own. ``keepers`` are told when
    nobody holds it any more.
    """

    value: Any
    kind: str
    fd: int = -1
    size: int = 0
    holders: int = 1
    written: threading.Event = field(default_factory=threading.Event)
    failed: BaseException | None = None
    key: int = field(default_factory=itertools.count(1).__next__)
    keepers: dict[int, Keeper] = field(default_factory=dict[int, "Keeper"])


@dataclass(frozen=True, slots=True, eq=False)
class _Passed:
    """A file, a folder or a text that is read in place, by a descriptor of the session's own."""

    name: str
    fd: int
    size: int
    value: Opened

    def spec(self, index: int) -> list[Any]:
        about = {"name": self.value.name, "encoding": self.value.encoding}
        return [self.name, self.value.kind, index, self.size, about]


@dataclass(slots=True, eq=False)
class Packed:
    """The inputs of one session: ``inline`` values for the bind frame, ``packs`` for the fork."""

    inline: list[list[Any]] = field(default_factory=list[list[Any]])
    packs: list[tuple[str, _Pack]] = field(default_factory=list[tuple[str, "_Pack"]])
    opened: list[_Passed] = field(default_factory=list["_Passed"])

    @property
    def fds(self) -> list[int]:
        return [*(pack.fd for _, pack in self.packs), *(passed.fd for passed in self.opened)]

    def specs(self, first: int) -> list[list[Any]]:
        """[name, kind, index of the descriptor, bytes], descriptors counted from ``first``; files also have what is known
        of them.
        """
        specs: list[list[Any]] = [[name, p.kind, first + i, p.size] for i, (name, p) in enumerate(self.packs)]
        return [*specs, *(p.spec(first + len(specs) + i) for i, p in enumerate(self.opened))]

    def shared(self, keeper: Keeper) -> dict[str, tuple[int, bool]]:
        """By name, keys of the large texts that other sessions hold too: ``keeper`` may decode them once for all of them,
        until it is told to forget them. And whether a text is ASCII, so that its bytes are its characters.
        """
        found: dict[str, tuple[int, bool]] = {}
        with _lock:
            for name, pack in self.packs if sys.platform == "linux" else ():
                if pack.kind in ("text", "bytes") and pack.size >= SHARED and (pack.holders > 1 or pack.keepers):
                    pack.keepers[id(keeper)] = keeper
                    found[name] = pack.key, pack.kind == "text" and pack.value.isascii()
        return found

    @property
    def size(self) -> int:
        """Bytes that every worker will hold."""
        return sum(pack.size for _, pack in self.packs)

    def release(self) -> None:
        """Give the packs back, by the session's close; more than once is fine."""
        packs, self.packs = self.packs, []
        for _, pack in packs:
            _release(pack)
        passed, self.opened = self.opened, []
        for one in passed:
            os.close(one.fd)

    def __del__(self) -> None:
        # Packing goes on in its thread when the caller is cancelled, or the loop is gone: nobody takes the result then.
        self.release()


_shared: dict[int, _Pack] = {}
_lock = threading.Lock()


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()  # another thread of the parent may have held it, and would hold it here for ever


os.register_at_fork(after_in_child=_after_fork)


def pack(variables: Mapping[str, Any], modules: frozenset[str] = frozenset()) -> Packed:
    """Pack ``variables`` (name -> value). Raises :class:`InputError` for a value that has no form outside this process.

    ``modules``: of packages that workers may import; values of their types (arrays, tables) are pickled here, and
    unpickled there. Nothing is ever unpickled here.
    """
    packed = Packed()
    try:
        for name, value in variables.items():
            _pack_one(packed, name, value, modules)
    except BaseException:
        packed.release()
        raise
    return packed


def _pack_one(packed: Packed, name: str, value: Any, modules: frozenset[str]) -> None:
    if isinstance(value, Opened):
        packed.opened.append(_passed(name, value))
        return
    if _top_module(value) in modules:
        packed.packs.append((name, _acquire(value, "pickle", _pickled(name, value))))
        return
    if type(value) in (str, bytes, bytearray) and len(value) > SMALL:
        packed.packs.append((name, _acquire(value, "text" if isinstance(value, str) else "bytes")))
        return
    try:
        encoded = codec.encode_strictly(value)
    except TypeError as error:
        data = "pass text, bytes, numbers, lists, dicts, dates, sets, pydantic models or dataclasses"
        raise InputError(f"input {name!r}: {error}; {data}{_or_allow(value)}") from None
    data = codec.dumps(encoded)
    if len(data) > SMALL:
        packed.packs.append((name, _acquire(value, "data", data)))
    else:
        packed.inline.append([name, encoded])


def _passed(name: str, value: Opened) -> _Passed:
    if value.fd >= 0:
        return _Passed(name, os.dup(value.fd), value.size, value)
    pack = _acquire(value.content, "text")  # shared with sessions that have the same text as a str
    try:
        return _Passed(name, os.dup(pack.fd), pack.size, value)
    finally:
        _release(pack)


def _top_module(value: Any) -> str:
    return type(value).__module__.partition(".")[0]


def _pickled(name: str, value: Any) -> bytes:
    try:
        return pickle.dumps(value, protocol=5)
    except Exception as error:  # the value's own code
        raise InputError(f"input {name!r}: a {type(value).__name__} that cannot be pickled: {error}") from error


def _or_allow(value: Any) -> str:
    """The way for values of installed packages, such as an array or a table."""
    top = _top_module(value)
    if top not in metadata.packages_distributions():
        return ""
    return f'; or allow its package: environment=ProcessEnvironment(packages=["{top}"])'


def _acquire(value: Any, kind: str, data: bytes | None = None) -> _Pack:
    # A list or dict may have changed since it was packed; only what cannot change is shared by identity.
    lasting = isinstance(value, (str, bytes))
    with _lock:
        known = _shared.get(id(value)) if lasting else None
        pack = known or _Pack(value, kind)
        if known is not None:
            known.holders += 1
        elif lasting:
            _shared[id(value)] = pack
    if known is None:
        _fill(pack, data)
    else:
        known.written.wait()  # sessions that open at once wait for the one that writes
        if known.failed is not None:
            raise known.failed
    return pack


def _fill(pack: _Pack, data: bytes | None) -> None:
    try:
        pack.fd = _anonymous_file()
        pack.size = sum(_write(pack.fd, chunk) for chunk in _chunks(pack.value, pack.kind, data))
        _seal(pack.fd)
    except BaseException as error:
        pack.failed = error
        with _lock:
            if _shared.get(id(pack.value)) is pack:
                del _shared[id(pack.value)]
        if pack.fd >= 0:
            os.close(pack.fd)
        raise
    finally:
        pack.written.set()


def _release(pack: _Pack) -> None:
    with _lock:
        pack.holders -= 1
        if pack.holders:
            return
        if _shared.get(id(pack.value)) is pack:
            del _shared[id(pack.value)]
    os.close(pack.fd)
    for keeper in pack.keepers.values():
        keeper.forget_text(pack.key)


def _chunks(value: Any, kind: str, data: bytes | None) -> Iterator[bytes | memoryview]:
    if kind == "text" and value.isascii() and sys.implementation.name == "cpython":
        yield _in_place(value)
    elif kind == "text":
        for start in range(0, len(value), _CHUNK):
            # surrogatepass: a lone surrogate is a legal str, and the worker decodes the same way
            yield value[start : start + _CHUNK].encode("utf-8", "surrogatepass")
    else:
        yield memoryview(data if data is not None else value)


def _in_place(text: str) -> memoryview:
    """The bytes of an ASCII text where they are: UTF-8 already, so that writing them is the only copy. A third of the time."""
    import ctypes

    address = ctypes.pythonapi.PyUnicode_AsUTF8AndSize
    address.restype, address.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_void_p)
    return memoryview((ctypes.c_char * len(text)).from_address(address(text, None))).cast("B").toreadonly()


def _write(fd: int, chunk: bytes | memoryview) -> int:
    view, done = memoryview(chunk), 0
    while done < len(view):
        done += os.write(fd, view[done : done + _MOST])
    return done


def _anonymous_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("input", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    handle, path = tempfile.mkstemp()
    os.unlink(path)
    return handle


def _seal(fd: int) -> None:
    """No side may change it any more: F_ADD_SEALS with SEAL | SHRINK | GROW | WRITE (man fcntl(2))."""
    if hasattr(os, "memfd_create"):
        import fcntl

        with contextlib.suppress(OSError):
            fcntl.fcntl(fd, 1033, 0x1 | 0x2 | 0x4 | 0x8)
