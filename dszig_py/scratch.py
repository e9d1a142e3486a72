"""A folder that model-written code may write in: made for one REPL, bounded, and gone with it.

How much it holds is measured from here while code runs, several times a second; what is over its bounds by then is what
can be written between two looks, and a worker that is over them is killed. A file system of its own (tmpfs, a quota) would
bound it exactly, and needs rights that ordinary users do not have. Only what has a name can be measured: so where there
is a boundary, the worker can take no name away (see ``_worker/scratch.py``).
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Generator, Iterator

__all__ = ["MOST_BYTES", "MOST_ENTRIES", "VARIABLE", "Scratch"]

VARIABLE = "scratch"  # what the folder's path is called in the REPL
MOST_BYTES = 256 * 1024 * 1024
MOST_ENTRIES = 10_000
_MOST_DEPTH = 32
_TRIES = 5
_PREFIX = "dszig-scratch-"
_ABANDONED = 60.0  # seconds after which a folder that nobody holds is of a process that was killed
# Windows has none of these, and this module is imported there as well.
_SAFELY = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
_FOLDER = os.O_RDONLY | _SAFELY | getattr(os, "O_DIRECTORY", 0)
_FILE = os.O_RDONLY | _SAFELY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)


class _Over(Exception):
    """The folder holds more than it may."""


class Scratch:
    """A new folder, of mode 0700, in the system's folder for temporary files; removed by :meth:`close`, at the latest when
    this process ends. One of a process that was killed is removed by the next that makes one, of the same user.

    ``path``: absolute, without links. ``most_bytes``, ``most_entries``: what it may hold in all.
    """

    def __init__(self, most_bytes: int = MOST_BYTES, most_entries: int = MOST_ENTRIES) -> None:
        _sweep()
        self.most_bytes, self.most_entries = most_bytes, most_entries
        self.path = os.path.realpath(tempfile.mkdtemp(prefix=_PREFIX))
        self.fd = os.open(self.path, _FOLDER)
        _locked(self.fd)
        self._end = weakref.finalize(self, _removed, self.path, self.fd, os.getpid())
        self._lock = threading.Lock()  # a descriptor's number may be another file's once it is closed

    @property
    def told(self) -> str:
        """Its bounds in words."""
        return f"{_size(self.most_bytes)} and {self.most_entries:,} files"

    def overfull(self) -> str:
        """What it holds too much of, in words; "" where all is well. May be called while code writes in it."""
        for _ in range(_TRIES):
            try:
                with self._lock:
                    held = sum(self._sizes(self.fd, 0, [0])) if self._end.alive else 0
            # Renamed while it was looked at, or a file in a folder's place; always so, it is somebody who hides something.
            except (FileNotFoundError, NotADirectoryError):
                continue
            except PermissionError:
                return "a folder in it cannot be read"
            except _Over as over:
                return str(over)
            return f"it held over {_size(self.most_bytes)}" if held > self.most_bytes else ""
        return "what it held changed faster than it could be measured"

    def _sizes(self, within: int, depth: int, count: list[int]) -> Iterator[int]:
        """Bytes of each entry beneath: those of a file with holes are what it would have without."""
        if depth > _MOST_DEPTH:
            raise _Over(f"folders in it were nested over {_MOST_DEPTH} levels")
        with _opened(".", within) as fd, os.scandir(fd) as entries:
            for entry in entries:
                count[0] += 1
                if count[0] > self.most_entries:
                    raise _Over(f"it held over {self.most_entries:,} files and folders")
                about = entry.stat(follow_symlinks=False)
                yield max(about.st_size, 512 * getattr(about, "st_blocks", 0))
                if stat.S_ISDIR(about.st_mode):
                    with _opened(entry.name, fd) as inner:
                        yield from self._sizes(inner, depth + 1, count)

    def opened(self, given: str) -> int:
        """A descriptor of the regular file ``given``, a path relative to the folder or an absolute one of it.

        Raises ``ValueError``, whose message is for the model, for what is not in it, no regular file, empty or too large.
        """
        *folders, name = self._parts(given)
        with self._lock, contextlib.ExitStack() as stack:
            if not self._end.alive:
                raise ValueError("the run is over")
            within = self.fd
            try:
                for folder in folders:
                    within = stack.enter_context(_opened(folder, within))
                _check(os.stat(name, dir_fd=within, follow_symlinks=False), given, self.most_bytes)
                fd = os.open(name, _FILE, dir_fd=within)
            except (OSError, UnicodeEncodeError) as error:
                raise ValueError(f"{given[:200]!a} {self._why(error)}") from None
        try:
            _check(os.fstat(fd), given, self.most_bytes)  # again: what has that name may be another by now
        except BaseException:
            os.close(fd)
            raise
        return fd

    def relative(self, given: str) -> str:
        """The same for every spelling of one path. Raises ``ValueError`` for one that is not in the folder."""
        return "/".join(self._parts(given))

    def _parts(self, given: str) -> list[str]:
        relative = given
        if given.startswith("/"):
            inside = given.startswith(f"{self.path}/")
            relative = given[len(self.path) + 1 :] if inside else ".."
        parts = [part for part in relative.split("/") if part not in ("", ".")]
        if not given or "\0" in given:
            raise ValueError(f"{given[:200]!a} is no path; give the path of a file that you wrote beneath `{VARIABLE}`")
        if len(parts) > _MOST_DEPTH + 1:  # each folder on the way is a descriptor of this process
            raise ValueError(f"{given[:200]!a} is nested over {_MOST_DEPTH} levels")
        if ".." in parts or not parts:
            raise ValueError(f"{given[:200]!a} is no file beneath `{VARIABLE}`; write it there")
        return parts

    def _why(self, error: Exception) -> str:
        if isinstance(error, FileNotFoundError):
            with contextlib.suppress(OSError):
                names = sorted(name for name in os.listdir(self.path) if not name.startswith("."))
                if names:
                    return f"does not exist; `{VARIABLE}` holds {', '.join(ascii(name) for name in names[:10])}"
            return f"does not exist; write it beneath `{VARIABLE}`"
        if getattr(error, "errno", 0) in (errno.ELOOP, errno.ENOTDIR):
            return f"is not beneath `{VARIABLE}` (links are not followed)"
        return f"cannot be opened: {getattr(error, 'strerror', None) or error}"

    def empty(self) -> None:
        """Remove what it holds; what cannot be removed stays. For when no code runs."""
        with self._lock, contextlib.suppress(OSError):
            if self._end.alive:
                _emptied(self.fd)

    def close(self) -> None:
        """Remove the folder with all it holds. Never raises, may be called twice."""
        with self._lock:
            self._end()


def _check(about: os.stat_result, given: str, most: int) -> None:
    shown = f"{given[:200]!a}"
    if stat.S_ISLNK(about.st_mode):
        raise ValueError(f"{shown} is a link; links are not followed")
    if not stat.S_ISREG(about.st_mode):
        raise ValueError(f"{shown} is {'a folder' if stat.S_ISDIR(about.st_mode) else 'no regular file'}; give a file")
    if about.st_nlink != 1:
        raise ValueError(f"{shown} has {about.st_nlink} names; write a file of its own")
    if not about.st_size:
        raise ValueError(f"{shown} is empty; write it, and close it, before")
    if about.st_size > most:
        raise ValueError(f"{shown} has {about.st_size:,} bytes, at most {most:,} are allowed")


@contextlib.contextmanager
def _opened(name: str, within: int) -> Generator[int]:
    """A folder, open for a while. Always anew: descriptors that share an open file share their place in a listing."""
    fd = os.open(name, _FOLDER, dir_fd=within)
    try:
        yield fd
    finally:
        os.close(fd)


def _size(count: int) -> str:
    return f"{count >> 20:,} MiB" if count >= 1 << 20 and not count % (1 << 20) else f"{count:,} bytes"


def _removed(path: str, fd: int, owner: int) -> None:
    if os.getpid() == owner:  # else this is a forked copy of it
        for _ in range(_TRIES):
            with contextlib.suppress(OSError):
                _emptied(fd)
                os.rmdir(path)
                break
            time.sleep(0.01)  # a worker that was killed a moment ago may have written once more
    with contextlib.suppress(OSError):
        os.close(fd)


def _emptied(top: int) -> None:
    """Remove everything beneath. Folders are moved up and then removed, so that no depth of them matters."""
    todo, moved = ["."], 0
    while todo:
        folder = todo.pop()
        with _opened(folder, top) as fd:
            for name in os.listdir(fd):
                if not stat.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
                    os.unlink(name, dir_fd=fd)
                    continue
                moved += 1
                above = f".{_PREFIX}{moved}-{os.urandom(4).hex()}"
                os.chmod(name, 0o700, dir_fd=fd)  # the code may have shut it; a link it is not
                os.rename(name, above, src_dir_fd=fd, dst_dir_fd=top)
                todo.append(above)
        if folder != ".":
            os.rmdir(folder, dir_fd=top)


def _locked(fd: int) -> bool:
    """Whether this process could take the folder for its own; the kernel gives it back when the process ends."""
    if sys.platform == "win32":
        return False
    import fcntl

    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


_swept: list[str] = []
_sweeping = threading.Lock()


def _sweep() -> None:
    """Remove what killed processes of this user have left, once a process."""
    place = tempfile.gettempdir()
    with _sweeping:
        if place in _swept:
            return
        _swept.append(place)
    with contextlib.suppress(OSError), os.scandir(place) as entries:
        for entry in entries:
            if entry.name.startswith(_PREFIX):
                _abandoned(entry.path)


def _abandoned(path: str) -> None:
    with contextlib.suppress(OSError):
        fd = os.open(path, _FOLDER)
        about = os.fstat(fd)
        old = time.time() - about.st_mtime > _ABANDONED
        if about.st_uid == os.geteuid() and old and _locked(fd):
            _removed(path, fd, os.getpid())
        else:
            os.close(fd)
