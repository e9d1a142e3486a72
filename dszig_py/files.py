"""Files and folders as inputs: opened here, read-only, and handed to the worker as descriptors; never read into this process.

Of a file the host reads the first 16 KiB, for what the model is told of it; of a folder the names, up to a bound. What
somebody puts in a path's place later changes nothing: the worker reads what was opened. (Prior art: predict-rlm copies
files into its sandbox.)
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, cast, get_args, get_origin

from dszig_py import mounts
from dszig_py.errors import InputError

__all__ = ["File", "Folder", "Opened", "Text", "any_to_open", "asked_for", "opened", "refused", "wanted", "written"]

COLLECT = "dszig.collect"  # in pydantic's context: what makes a File of a submitted path
_HEAD = 16 * 1024
_MOST_ENTRIES = 50_000  # of a folder, counted for the model; the worker sees them all
_MOST_OPEN = 200  # folders waiting to be counted, each a descriptor
_TREE_LINES = 40
# Windows has none of these, and this module is imported there as well.
_SAFELY = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
_OUTER = os.O_RDONLY | _SAFELY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)
_INNER = os.O_RDONLY | _SAFELY | getattr(os, "O_DIRECTORY", 0)
_BOMS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe\0\0", "utf-32"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))


class _Place:
    """A value that pydantic takes as it is, or makes of a path."""

    __slots__ = ()

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        return core_schema.with_info_plain_validator_function(cls._judged)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: Any) -> Any:
        """A model that is asked for one gives a path."""
        return {"type": "string", "description": f"path of a {cls.__name__.lower()}"}

    @classmethod
    def _judged(cls, value: Any, info: Any) -> Any:
        context: Any = info.context
        if cls is File and context and COLLECT in context:  # what code submits: a path of its own, not yet the caller's
            return context[COLLECT](value)
        if isinstance(value, cls):
            return value
        if cls is Folder and context and COLLECT in context:
            raise ValueError("no folder can be given here")
        made, kind = cast("Any", cls), type(value).__name__
        try:  # a mapping is what a trace or a results file holds
            return made(**value) if isinstance(value, Mapping) else made(os.fspath(value))
        except TypeError:
            raise ValueError(f"pass a path, not a {kind}") from None  # pydantic's word for "no"


@dataclass(frozen=True, slots=True)
class File(_Place):
    """A file by its path, as a field's type and as a value. In the REPL it is a read-only object (``.text()``, ``.lines()``).

    As an output it is what the code wrote, in ``RLM(output_dir=...)``; ``size`` is then its bytes.
    """

    path: str | os.PathLike[str]
    size: int | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Folder(_Place):
    """A folder by its path, with all beneath; links in it are not followed.

    The path itself may be no link, as that of a ``File``. What leads to it may: ``/tmp`` is a link on macOS, and which folders
    a path goes through is the caller's choice. What is opened is what is read, whatever is renamed afterwards.
    """

    path: str | os.PathLike[str]


@dataclass(frozen=True, slots=True)
class Text(_Place):
    """Text that the REPL reads in place, by slices and blocks, instead of holding a ``str``: of a ``str``, or of a file
    (``Text(File("x.log"))``; in a field declared ``Text``, a ``Path`` or ``File`` is the file, a ``str`` the text itself).
    """

    content: str | File = field(repr=False)


@dataclass(slots=True, eq=False)
class Opened:
    """An input that goes to the worker as a descriptor, closed with this object.

    ``kind``: "file", "folder" or "view". ``fd``: -1 where ``content`` is the text. ``size``: bytes.
    """

    kind: str
    name: str
    path: str
    fd: int
    size: int
    told: str
    preview: str
    encoding: str = "utf-8"
    content: str = field(default="", repr=False)

    @property
    def type(self) -> str:
        """What the model is told that it is."""
        return {"file": "File", "folder": "Folder", "view": "Text"}[self.kind]

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)


_KINDS: tuple[Any, ...] = (File, Folder, Path, Text)


def wanted(tp: Any) -> Any:
    """File, Folder, Path or Text where a field's type is one of these (also ``| None``, ``Annotated``), else None."""
    if tp in _KINDS:
        return tp
    if get_origin(tp) is Annotated:
        return wanted(get_args(tp)[0])
    if get_origin(tp) in (Union, UnionType):
        found = [wanted(arg) for arg in get_args(tp) if arg is not type(None)]
        return found[0] if len(found) == 1 else None
    return None


def asked_for(tp: Any, *kinds: Any) -> bool:
    """Whether a type has to do with files (or with ``kinds`` of these), anywhere in it."""
    return any(tp is kind for kind in kinds or _KINDS) or any(asked_for(arg, *kinds) for arg in get_args(tp))


def any_to_open(types: Mapping[str, Any], values: Mapping[str, Any]) -> bool:
    """Whether inputs of these types are files or folders, which take a while to open."""
    return any(wanted(tp) or isinstance(values.get(name), (File, Folder, Text)) for name, tp in types.items())


def refused(variables: Mapping[str, Any], environment: str) -> None:
    """Raise :class:`InputError` for files where an environment cannot take them."""
    if names := [name for name, value in variables.items() if isinstance(value, Opened)]:
        raise InputError(
            f'input {names[0]!r} is a file, a folder or a Text, which environment="{environment}" cannot take; '
            'use environment="process" (or "docker", "inprocess"), or pass the text as a str'
        )


def written(name: str, tp: Any, value: Any) -> Any:
    """An input as a resumable run writes it down: a file by its path, to be opened again. Raises :class:`InputError`."""
    if not isinstance(value, (File, Folder, Text, Path)):
        return value
    if wanted(tp) in (File, Folder, Path) and not isinstance(value, Text):
        return os.path.abspath(value if isinstance(value, Path) else value.path)
    raise InputError(f"a resumable run cannot write down input {name!r}: declare it File or Folder, and pass its path")


def opened(name: str, tp: Any, value: Any, limit: int) -> Opened | None:
    """The input ``name`` as a descriptor, or None where it is no matter of files. ``limit``: characters of preview.

    Raises :class:`InputError` for what is not there, is a link, or is neither a file nor a folder.
    """
    kind = wanted(tp)
    if isinstance(value, Text) or (kind is Text and isinstance(value, str)):
        content = value.content if isinstance(value, Text) else value
        if isinstance(content, str):
            return _of_str(name, content, limit)
        return _at(name, content.path, Text, limit)
    if isinstance(value, (File, Folder)):
        return _at(name, value.path, type(value) if kind is not Text else Text, limit)
    if kind is None or value is None:
        return None
    if not isinstance(value, (str, os.PathLike)):
        raise InputError(f"input {name!r} is declared {kind.__name__}: pass a path, not a {type(value).__name__}")
    return _at(name, cast("str | os.PathLike[str]", value), kind, limit)


def _of_str(name: str, content: str, limit: int) -> Opened:
    head = content[: limit * 3 // 4]
    told = f"{len(content):,} characters, read in place; positions are bytes of its UTF-8"
    return Opened("view", name, "", -1, 0, told, f"starts {head!r}\n     {_TEXT_HAS}", content=content)


_TEXT_HAS = (
    "It is no str: it has len, in, [start:stop] (a str), find, rfind, count, search/finditer/findall (regex), "
    "lines(offsets=True), chunks(size), chunks(lines=n); positions are bytes"
)
_FILE_HAS = "It has .name, .size, .text() (a Text), .lines(), .bytes(start, stop), .open() (binary, read-only).\n     A Text: {}"
_FOLDER_HAS = (
    'Iterating gives names ("x", "sub/"); it has ["sub/file"] (a File or Folder), .files(), .glob("**/*.py"), '
    '.grep(regex, glob="**/*", limit=200) -> [(name, line number, line)], .tree(limit). A File has .name, .size, '
    ".text(), .lines(), .bytes(start, stop); .text() has len, [start:stop], find, count, search, lines, chunks"
)


def _at(name: str, given: str | os.PathLike[str], kind: Any, limit: int) -> Opened:
    path = os.fspath(given)

    def fail(why: str) -> InputError:
        return InputError(f"input {name!r}: {path!a} {why}")

    if isinstance(cast("object", path), bytes):
        raise fail("is bytes; pass os.fsdecode(path)")
    if not path or "\0" in path:
        raise fail("is no path")
    try:
        # Asked before it is opened: opening a fifo or a device does things. And by its bare name: the kernel follows "link/".
        bare = path.rstrip("/") or "/"
        mode = os.lstat(bare).st_mode
        if stat.S_ISLNK(mode):
            raise fail(f"is a link to {os.readlink(bare)!a}; links are not followed, give the path itself")
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise fail("is neither a regular file nor a folder")
        fd = os.open(path, _OUTER)
    except (OSError, UnicodeEncodeError) as error:
        raise fail(f"cannot be opened: {getattr(error, 'strerror', None) or error}") from None
    try:
        return _judged(fd, path, kind, limit, fail)
    except BaseException:
        os.close(fd)
        raise


def _judged(fd: int, path: str, kind: Any, limit: int, fail: Any) -> Opened:
    about = os.fstat(fd)
    if about.st_dev in mounts.kernel_devices():
        raise fail("is the kernel's, not a file on a disk")
    if stat.S_ISDIR(about.st_mode):
        if kind in (File, Text):
            raise fail("is a folder; declare the field Folder")
        if os.path.samestat(about, os.stat("/")):
            raise fail("is everything there is; give the folder that is meant")
        if made_up := mounts.made_up_beneath(fd):
            raise fail(f"holds {made_up!a}, which is the kernel's; give a folder without it")
        tree = _Tree(fd)
        if tree.device:
            raise fail(f"holds the device {tree.device!a}; give a folder without it")
        return Opened("folder", _shown(path), path, fd, 0, tree.told, f"{tree.text}\n     {_FOLDER_HAS}")
    if not stat.S_ISREG(about.st_mode):
        raise fail("is neither a regular file nor a folder")
    if kind is Folder:
        raise fail("is a file; declare the field File")
    try:
        head = os.pread(fd, _HEAD, 0)
    except OSError as error:  # some of the kernel's are for writing, or have nothing to say now
        raise fail(f"cannot be read: {error.strerror}") from None
    encoding = _encoding(head)
    what = "binary" if encoding is None else f"text, {encoding}"
    told = f"{_shown(path)!a}, {about.st_size:,} bytes, {what}"
    shown = repr(head[:64]) if encoding is None else repr(head.decode(encoding, "replace")[: limit * 3 // 4])
    view = kind is Text
    has = _TEXT_HAS if view else _FILE_HAS.format(_TEXT_HAS)
    of = ("view" if view else "file", _shown(path), path, fd, about.st_size, told, f"starts {shown}\n     {has}")
    return Opened(*of, encoding or "utf-8")


def _shown(path: str) -> str:
    return os.path.basename(path.rstrip("/")) or path


def _encoding(head: bytes) -> str | None:
    """A guess: a byte order mark, no NULs and valid UTF-8 up to a cut character, or else cp1252; None for binary."""
    for mark, name in _BOMS:
        if head.startswith(mark):
            return name
    if b"\0" in head:
        return None
    for cut in range(4):
        try:
            head[: len(head) - cut].decode()
        except UnicodeDecodeError:
            continue
        return "utf-8"
    odd = sum(byte < 32 and byte not in b"\t\n\r\f\b\x1b" for byte in head)
    return None if odd > len(head) // 50 else "cp1252"


class _Tree:
    """What a folder holds: counts, and the first lines of a tree level by level; ``more``: not all was looked at."""

    def __init__(self, fd: int) -> None:
        self.files = self.folders = 0
        self.more = self.full = False
        self.device = ""
        self.lines: list[str] = []
        todo = [(os.dup(fd), "")]
        try:
            while todo and not self.full:
                at, prefix = todo.pop(0)
                try:
                    self._level(at, prefix, todo)
                finally:
                    os.close(at)
        finally:
            for at, _ in todo:
                os.close(at)

    def _level(self, at: int, prefix: str, todo: list[tuple[int, str]]) -> None:
        room = _TREE_LINES // 2 if not prefix else 5
        with os.scandir(at) as entries:
            for number, entry in enumerate(entries):
                if self.files + self.folders >= _MOST_ENTRIES:
                    self.more = self.full = True
                    return
                is_folder = entry.is_dir(follow_symlinks=False)
                if not (is_folder or entry.is_file(follow_symlinks=False) or entry.is_symlink()):
                    self._special(prefix, entry)
                self.folders += is_folder
                self.files += not is_folder
                if number < room and len(self.lines) < _TREE_LINES:
                    self.lines.append(ascii(prefix + entry.name + "/" * is_folder)[1:-1])
                if is_folder and len(todo) >= _MOST_OPEN:
                    self.more = True  # counted, not looked into: the files beside it still count
                elif is_folder:
                    with contextlib.suppress(OSError):  # not to be read by this user
                        todo.append((os.open(entry.name, _INNER, dir_fd=at), f"{prefix}{entry.name}/"))

    def _special(self, prefix: str, entry: os.DirEntry[str]) -> None:
        """Pipes and sockets are left alone, for working folders have some; a device in one is no data of the caller's, and
        whether code may open it is for its permissions alone to say: Landlock knows of no kinds of files.
        """
        with contextlib.suppress(OSError):  # gone meanwhile
            mode = entry.stat(follow_symlinks=False).st_mode
            if stat.S_ISBLK(mode) or stat.S_ISCHR(mode):
                self.device, self.full = prefix + entry.name, True

    @property
    def told(self) -> str:
        """The counts in words."""
        return f"{'over ' * self.more}{self.files:,} files and {self.folders:,} folders"

    @property
    def text(self) -> str:
        """The tree."""
        more = self.more or self.files + self.folders > len(self.lines)
        return "\n     ".join([*self.lines, *(["..."] if more else [])])
