"""``File`` and ``Folder`` inside the REPL: descriptors that the host opened, and nothing but what they lead to.

Standard library only. What holds the code is the kernel (a descriptor is read-only, and of the file system the worker sees
what Landlock allows); what is refused here, ``..`` and links, is refused so that the same code means the same where there
is no boundary.
"""

from __future__ import annotations

import fnmatch
import io
import os
import re
import stat
import warnings
from typing import Any

if __package__:
    from dszig_py.environments._worker import text as texts
else:  # in the worker: this file's folder was on the path when the zygote loaded it
    import text as texts

KINDS = ("file", "folder", "view")
MOST_FOUND = 10_000
_SAFELY = getattr(os, "O_NOFOLLOW", 0) | getattr(
    os, "O_CLOEXEC", 0
)  # Windows, which can import this, has none of these
_FOLDER = os.O_RDONLY | _SAFELY | getattr(os, "O_DIRECTORY", 0)
_FILE = os.O_RDONLY | _SAFELY | getattr(os, "O_NONBLOCK", 0)
_MAX_DEPTH = 64


class File:
    """An input file, read-only: ``.name``, ``.size`` (bytes), ``.text()``, ``.lines()``, ``.bytes(start, stop)``, ``.open()``."""

    _way_out = "pass its text, such as file.text()[start:stop]"
    _cited_as = "file"

    def __init__(self, name: str, fd: int, size: int, encoding: str = "utf-8", place: str = "") -> None:
        self.name, self.size, self.encoding = name, size, encoding
        self._stored, self._place = texts.Stored(fd, size), place

    def text(self, encoding: str | None = None) -> texts.Text:
        """Its text, read where it is when it is asked for."""
        return texts.Text(self._stored, encoding or self.encoding, self._place)

    def lines(self, **options: Any) -> Any:
        """Its lines; ``offsets=True`` with their positions."""
        return self.text().lines(**options)

    def bytes(self, start: int = 0, stop: int | None = None) -> bytes:
        """Bytes ``start`` to ``stop``."""
        first, last, _ = slice(start, stop).indices(self.size)
        return self._stored.read(first, last)

    def open(self) -> io.BufferedReader:
        """A binary file object with a place of its own."""
        return io.BufferedReader(_Reader(self._stored), 1 << 20)

    def __len__(self) -> int:
        return self.size

    def __repr__(self) -> str:
        return f"<File {self.name!r}, {self.size:,} bytes>"


class _Reader(io.RawIOBase):
    """A file's bytes in order. The descriptor's own position is shared with the host, and never used."""

    def __init__(self, stored: Any) -> None:
        self._stored, self._at = stored, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = max(offset + (0, self._at, self._stored.size)[whence], 0)
        return self._at

    def readinto(self, buffer: Any) -> int:
        data = self._stored.read(self._at, self._at + len(buffer))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


class Folder:
    """An input folder, read-only: iterate over names, ``folder["sub/file"]``, ``.files()``, ``.glob()``, ``.grep()``, ``.tree()``.

    Names are relative to it. Links are not followed, and ``..`` is refused.
    """

    _way_out = "pass names in it, or the text of its files"
    _cited_as = "folder"

    def __init__(self, name: str, fd: int, place: tuple[str, str] = ("", "")) -> None:
        """``place``: the input it is or lies in, and its path in there."""
        self.name, self._fd, self._close, self._place = name, fd, os.close, place

    def __del__(self) -> None:
        try:
            self._close(self._fd)
        except (OSError, AttributeError):  # at the interpreter's end
            pass

    def __iter__(self) -> Any:
        """The names in it, in order; those of folders end with a slash."""
        with os.scandir(self._fd) as entries:
            found = [entry.name + "/" * entry.is_dir(follow_symlinks=False) for entry in entries]
        return iter(sorted(found))

    def __contains__(self, path: str) -> bool:
        try:
            self[path]
        except (OSError, ValueError, KeyError):
            return False
        return True

    def __getitem__(self, path: str) -> Any:
        """The :class:`File` or :class:`Folder` of that name. Raises ``FileNotFoundError``, ``PermissionError``."""
        parts = [part for part in str(path).split("/") if part not in ("", ".")]
        if str(path).startswith("/") or ".." in parts:
            raise PermissionError(f"{path!r}: names in a Folder are relative to it, and .. is not followed")
        if not parts:
            return Folder(self.name, os.dup(self._fd), self._place)
        fd = os.dup(self._fd)
        try:
            for part in parts[:-1]:
                fd, outer = self._opened(part, _FOLDER, fd, path), fd
                os.close(outer)
            return self._found(parts, fd, path)
        finally:
            os.close(fd)

    def _found(self, parts: list[str], within: int, path: str) -> Any:
        name, (root, prefix) = parts[-1], self._place
        inside = "/".join([*prefix.split("/"), *parts] if prefix else parts)
        mode = self._asked(name, within, path)
        if stat.S_ISDIR(mode):
            return Folder(str(path).strip("/"), self._opened(name, _FOLDER, within, path), (root, inside))
        if not stat.S_ISREG(mode):
            kind = "a link, and links are not followed" if stat.S_ISLNK(mode) else "neither a file nor a folder"
            raise PermissionError(f"{path!r} is {kind}")
        fd = self._opened(name, _FILE, within, path)
        about = os.fstat(fd)
        if not stat.S_ISREG(about.st_mode):
            os.close(fd)
            raise PermissionError(f"{path!r} is no regular file")
        return File(str(path), fd, about.st_size, place=f"{root}[{inside!r}]" if root else "")

    def _asked(self, name: str, within: int, path: str) -> int:
        try:
            return os.stat(name, dir_fd=within, follow_symlinks=False).st_mode
        except OSError as error:
            raise type(error)(error.errno, error.strerror, path) from None

    def _opened(self, name: str, flags: int, within: int, path: str) -> int:
        try:
            return os.open(name, flags, dir_fd=within)
        except (NotADirectoryError, OSError) as error:
            raise type(error)(error.errno, f"{error.strerror} (links are not followed)", path) from None

    def files(self) -> Any:
        """The names of all files beneath, in order; a warning tells of what is too deep to be listed (64 folders)."""
        return (path for path, is_folder in self._walk(self._fd, "", 0) if not is_folder)

    def _walk(self, fd: int, prefix: str, depth: int) -> Any:
        """(name, whether it is a folder) of what lies beneath, links and special files left out."""
        with os.scandir(fd) as entries:
            found = sorted(
                (entry.name, entry.is_dir(follow_symlinks=False))
                for entry in entries
                if entry.is_dir(follow_symlinks=False) or entry.is_file(follow_symlinks=False)
            )
        for name, is_folder in found:
            yield prefix + name, is_folder
            if not is_folder:
                continue
            if depth >= _MAX_DEPTH:  # each level holds a descriptor
                way = f"{self.name!r}: what is more than {_MAX_DEPTH} folders deep is left out; go on from folder[name]"
                warnings.warn(f"{way} with name = {(prefix + name)[:200]!r}", stacklevel=2)
                continue
            try:
                inner = os.open(name, _FOLDER, dir_fd=fd)
            except OSError:  # gone meanwhile, or not to be read by this user
                continue
            try:
                yield from self._walk(inner, f"{prefix}{name}/", depth + 1)
            finally:
                os.close(inner)

    def glob(self, pattern: str = "**/*", limit: int = MOST_FOUND) -> list[str]:
        """Names of files that match: ``*`` within a folder, ``**/`` for any number of folders. At most ``limit``."""
        wanted = _glob(pattern)
        found: list[str] = []
        for path in self.files():
            if wanted(path):
                found.append(path)
                if len(found) >= limit:
                    break
        return found

    def grep(self, pattern: str, glob: str = "**/*", limit: int = 200, flags: int = 0) -> list[tuple[str, int, str]]:
        """(name, number of the line from 1, the line's first 500 characters) where a line matches. At most ``limit``."""
        compiled, wanted = re.compile(pattern, flags), _glob(glob)
        found: list[tuple[str, int, str]] = []
        for path in self.files():
            if not wanted(path):
                continue
            try:
                file = self[path]
            except OSError:  # not to be read by this user
                continue
            if b"\0" in file.bytes(0, 8192):  # binary
                continue
            for number, line in enumerate(file.lines(), 1):
                if compiled.search(line):
                    found.append((path, number, line[:500]))
                    if len(found) >= limit:
                        return found
        return found

    def tree(self, limit: int = 200) -> str:
        """What lies beneath, indented, at most ``limit`` lines."""
        lines: list[str] = []
        for path, is_folder in self._walk(self._fd, "", 0):
            if len(lines) >= limit:
                lines.append("...")
                break
            depth = path.count("/")
            too_deep = " (what is in it is left out)" * (is_folder and depth == _MAX_DEPTH)
            lines.append("  " * depth + path.rpartition("/")[2] + "/" * is_folder + too_deep)
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<Folder {self.name!r}>"


def _glob(pattern: str) -> Any:
    """Whether a name matches: ``fnmatch``'s star crosses folders, a glob's does not."""
    parts = re.split(r"(\*\*/|\*\*|\*|\?)", pattern)
    meaning = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    translated = [
        meaning.get(part) or fnmatch.translate(part).removeprefix("(?s:").removesuffix(")\\Z") for part in parts
    ]
    return re.compile("(?s:" + "".join(translated) + r")\Z").match


def received(name: str, kind: str, fd: int, size: int, about: dict[str, Any]) -> Any:
    """The value of an input that came as a descriptor, which stays the caller's; ``name``: the input's."""
    own = os.dup(fd)
    if kind == "folder":
        return Folder(about["name"], own, (name, ""))
    file = File(about.get("name", name), own, size, about["encoding"], name)
    return file.text() if kind == "view" else file
