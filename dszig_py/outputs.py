"""Files as outputs: a path that was submitted becomes a file of the caller's.

The file is opened once, beneath the scratch folder and without following links, judged by its descriptor, and copied from
that descriptor: whatever the code puts in its place, or does to it afterwards, changes nothing of the copy. (Prior art:
predict-rlm fetches what its sandbox wrote.)
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import secrets
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import FileIO
from types import NoneType, TracebackType, UnionType
from typing import Annotated, Any, Self, Union, cast, get_args, get_origin

from dszig_py import files, images
from dszig_py.errors import InputError
from dszig_py.files import File
from dszig_py.scratch import Scratch
from dszig_py.typetree import types_within

__all__ = ["DEFAULT_FOLDER", "Collection", "Outbox", "TooLate", "are_files", "can_be_files"]

DEFAULT_FOLDER = "dszig-outputs"
_BLOCK = 1 << 20
_NUMBERED = 20  # names tried as report-2.md, report-3.md, ...; then it gets a number of its own
_MOST_REFUSED = 20  # files of one submission; the model is told of the first five
_LONGEST = 150  # bytes of a name; file systems take 255
_UNSAFE = re.compile(r"[^\w.\- ()+,=@]")


def are_files(tp: Any) -> bool:
    """Whether an output of this type holds files, in a class's fields too."""
    return any(part is File for part in types_within(tp))


def can_be_files(tp: Any) -> bool:
    """Whether every value of this type is made of files: File, also ``| None``, in a list, a tuple, a dict's values."""
    origin, args = get_origin(tp), get_args(tp)
    if tp is File or origin is Annotated:
        return tp is File or can_be_files(args[0])
    if origin in (Union, UnionType):
        return all(can_be_files(arg) for arg in args if arg is not NoneType)
    if origin is dict:
        return not are_files(args[0]) and can_be_files(args[1])
    return origin in (list, tuple) and all(arg is ... or can_be_files(arg) for arg in args)


class TooLate(ValueError):
    """Outputs were submitted before, or the run is over."""

    def __init__(self) -> None:
        super().__init__("outputs were submitted before, or the run is over")


@dataclass(eq=False)
class Outbox:
    """Where the files of one run go: out of ``scratch``, which is there once the REPL is, into ``folder``.

    ``closed``: outputs have been accepted, or the run is over, so that nothing more is delivered. Raises
    :class:`InputError` where the folder cannot be written in, or made.
    """

    folder: str
    scratch: Scratch | None = None
    delivered: list[File] = field(default_factory=list[File])
    closed: bool = False
    delivering: threading.Lock = field(default_factory=threading.Lock)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        there = self.folder = os.path.abspath(os.path.expanduser(self.folder))
        while not os.path.lexists(there):  # it is made with the first file
            there = os.path.dirname(there)
        if not os.path.isdir(there) or not os.access(there, os.W_OK | os.X_OK):
            raise InputError(f"output_dir={self.folder!r}: nothing can be written in {there!r}")

    def attach(self, session: Any, output: str, environment: str) -> None:
        """The REPL is there, and its scratch folder with it. Raises :class:`InputError` where it has none."""
        self.scratch = getattr(session, "scratch", None)
        if self.scratch is None:
            raise InputError(
                f'output {output!r} is a file, which code in environment="{environment}" cannot write; '
                'use environment="process" (or "inprocess"), or declare it str'
            )

    def add(self, file: File) -> None:
        """A file has been delivered. Raises :class:`TooLate`."""
        with self._lock:
            if self.closed:
                raise TooLate
            self.delivered.append(file)

    async def first(self, judged: Callable[[Collection], Awaitable[dict[str, Any]]]) -> dict[str, Any]:
        """The outputs that ``judged`` gives, its files delivered, if no others were accepted before. Raises :class:`TooLate`
        and what ``judged`` raises.
        """
        collection = Collection(self)
        try:
            found = await judged(collection)
        except BaseException:
            collection.abandon()  # it goes on in its thread where this is a cancellation
            raise
        if self.closed:
            collection.withdraw()
            raise TooLate
        self.closed = True
        return found

    def reopen(self) -> None:
        """Code is about to run: what was delivered before did not end the run, as it came between two cells."""
        with self._lock:
            self.closed, before = False, self.delivered
        self.remove(before)

    def settle(self, outputs: Mapping[str, Any]) -> None:
        """The run is over: of what was delivered only these outputs stay."""
        kept = {id(file) for file in _files(outputs)}
        with self._lock:
            self.closed = True
            gone = [file for file in self.delivered if id(file) not in kept]
        self.remove(gone)

    def remove(self, gone: Sequence[File]) -> None:
        """Take back what was delivered."""
        these = {id(file) for file in gone}
        with self._lock:
            self.delivered = [file for file in self.delivered if id(file) not in these]
        for file in gone:
            with contextlib.suppress(OSError):
                os.unlink(file.path)


def _files(value: Any) -> Iterator[File]:
    if isinstance(value, File):
        yield value
    elif isinstance(value, Mapping):
        for item in cast("Mapping[Any, Any]", value).values():
            yield from _files(item)
    elif isinstance(value, (list, tuple)):
        for item in cast("Sequence[Any]", value):
            yield from _files(item)
    else:  # a record's fields
        yield from _files(list(getattr(value, "__dict__", {}).values()))


class Collection:
    """The files of one submission: each judged when it is met (``context`` is for pydantic), all copied by :meth:`deliver`.

    A context manager: on an exception what was copied is taken back.
    """

    def __init__(self, outbox: Outbox | None) -> None:
        self._outbox = outbox
        self._files: dict[str, File] = {}
        self._copies: list[File] = []
        self._refused = 0
        self._abandoned = False

    @property
    def context(self) -> dict[str, Any]:
        """What makes files of paths while a value is judged, and an image of bytes alone: a path is none of this process."""
        return {files.COLLECT: self._collected, images.CODE: {}}

    def _collected(self, value: Any) -> File:
        given = value.path if isinstance(value, File) else value
        given = os.fspath(cast("os.PathLike[str]", given)) if isinstance(given, os.PathLike) else given
        if not isinstance(given, str):
            raise ValueError(f"give the path of a file that you wrote, not a {type(given).__name__}")  # noqa: TRY004 - pydantic's word for "no"
        if self._outbox is None or self._outbox.scratch is None:
            raise ValueError("no file can be given here")
        if self._refused >= _MOST_REFUSED:  # pydantic goes on to the end of a list, which may have a million wrong ones
            raise ValueError("not looked at, for others before it are wrong")
        try:
            name = self._outbox.scratch.relative(given)
            if name not in self._files:  # by any spelling it is one file, however often it is met
                os.close(self._outbox.scratch.opened(given))
                self._files[name] = File(given)
        except ValueError:
            self._refused += 1
            raise
        return self._files[name]

    def deliver(self) -> None:
        """Copy what was collected: one submission at a time, and none after one that was accepted.

        Raises ``ValueError`` for the model, ``OSError`` where it cannot be written.
        """
        box = self._outbox
        if box is None or box.scratch is None or not self._files:
            return
        with box.delivering:
            left = box.scratch.most_bytes
            for name, file in self._files.items():
                if self._abandoned or box.closed:
                    raise TooLate
                with open(box.scratch.opened(name), "rb", buffering=0) as source:
                    path, size = _copied(source, left, box.folder, name)
                left -= size
                # The value is here already, somewhere in a list or a dict; nobody else has seen it yet.
                object.__setattr__(file, "path", path)
                object.__setattr__(file, "size", size)
                self._copies.append(file)
                box.add(file)

    def abandon(self) -> None:
        """Nobody waits for it any more."""
        self._abandoned = True

    def withdraw(self) -> None:
        """Take back what was copied."""
        if self._outbox is not None:
            self._outbox.remove(self._copies)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if kind is not None or self._abandoned:
            self.withdraw()


def _copied(source: FileIO, most: int, folder: str, name: str) -> tuple[str, int]:
    """The file's path in ``folder`` and its bytes: those it had when they were read."""
    made, path = _created(folder, _safe(name))
    size = 0
    try:
        with open(made, "wb", buffering=0) as copy:
            while block := source.read(_BLOCK):
                size += len(block)
                if size > most:
                    raise ValueError(f"{name[:200]!a} goes over the {most:,} bytes that are left for files")
                while block:
                    block = block[copy.write(block) :]
    except BaseException:
        os.unlink(path)
        raise
    return path, size


def _created(folder: str, name: str) -> tuple[int, str]:
    """A new file by this name or the next one free: what is there stays as it is."""
    os.makedirs(folder, exist_ok=True)
    stem, dot, suffix = name.rpartition(".")
    for number in itertools.count(1):
        if number == 1:
            own = name
        else:
            mark = f"-{number if number <= _NUMBERED else secrets.token_hex(4)}"
            own = f"{stem}{mark}.{suffix}" if dot else f"{name}{mark}"
        path = os.path.join(folder, own)
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
            return os.open(path, flags, 0o600), path
        except FileExistsError:
            continue
    raise AssertionError("unreachable")


def _safe(given: str) -> str:
    """The name of a file as any file system, shell and page can have it: its last part, everything odd in it replaced."""
    name = given.rstrip("/").rpartition("/")[2].encode("utf-8", "replace").decode()
    name = _UNSAFE.sub("_", name).strip(". -") or "output"
    stem, dot, suffix = name.rpartition(".")
    if not dot or len(suffix.encode()) > 20:
        return _cut(name, _LONGEST)
    return f"{_cut(stem, _LONGEST - len(suffix.encode()) - 1)}.{suffix}"


def _cut(text: str, size: int) -> str:
    return text.encode()[:size].decode("utf-8", "ignore")
