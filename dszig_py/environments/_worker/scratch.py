"""The scratch folder as the worker has it: its working directory, and what ``os`` does there. Standard library only.

A name can be given and changed, and never taken away: a file that is removed while it is open would go on growing where
nobody can measure it. So the kernel refuses unlink, and renames only to what does not exist; removing a file is done here by
emptying it and giving it another name. Code that goes round this module gets refusals, and nothing else.
"""

from __future__ import annotations

import ctypes
import errno
import gc
import importlib.machinery
import io
import itertools
import os
import shutil
import stat
import tempfile
from typing import Any

if __package__:
    from dszig_py.environments._worker import harden
else:  # in the worker: this file's folder was on the path when the zygote loaded it
    import harden

HIDDEN = ".removed-"
_AT_FDCWD = -100
_numbers = itertools.count(1)
# Not what a REPL imports: a toolkit for windows, terminals, CPython's own tests; and libraries that are no modules.
_UNUSED = ("lib", "_tkinter", "_test", "_curses", "readline", "xx", "_xx", "_dbm", "_gdbm", "nis", "ossaudiodev")
_SUFFIXES = tuple(suffix for suffix in importlib.machinery.EXTENSION_SUFFIXES if suffix != ".so")
_handles: list[int] = []


def enter(fd: int) -> None:
    """Make the open folder the working directory, and ``os`` work in it. Before the filters are on."""
    os.fchdir(fd)
    os.umask(0o077)
    for function in vars(tempfile._TemporaryFileCloser).values():  # which has bound the other one
        if os.unlink in (defaults := getattr(function, "__defaults__", None) or ()):
            function.__defaults__ = tuple(remove if value is os.unlink else value for value in defaults)
    os.remove = os.unlink = remove  # type: ignore[assignment]
    os.rename = os.replace = rename  # type: ignore[assignment]
    os.rmdir = rmdir  # type: ignore[assignment]
    shutil.copymode = shutil.copystat = _nothing  # type: ignore[assignment]  # else shutil.copy fails after it has copied


def load_extensions(folders: list[str]) -> None:
    """Map every extension module beneath now: once the filters are on, no file is mapped as code, so that none that was
    written can be. What is loaded already can still be imported.
    """
    import _ctypes

    for folder in folders:
        for path in _extensions(folder):
            try:
                _handles.append(_ctypes.dlopen(path, os.RTLD_NOW | os.RTLD_LOCAL))
            except OSError:  # of another Python, or its import has to go first
                continue


def _extensions(folder: str) -> Any:
    if folder.endswith(".so"):
        yield folder
    elif os.path.isdir(folder):
        for place, _folders, names in os.walk(folder):
            for name in sorted(names):
                tagged = name.endswith(_SUFFIXES)
                if (tagged or name.endswith(".so")) and not name.startswith(_UNUSED[tagged:]):
                    yield os.path.join(place, name)


def flush(beneath: str = "") -> None:
    """Write out what files that are still open hold back: their paths are about to be given away. ``beneath``: of this
    folder alone.
    """
    for file in gc.get_objects():
        if type(file) in (io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom):
            try:
                if not file.closed and isinstance(file.name, str) and file.name.startswith(beneath):
                    file.flush()
            except (OSError, ValueError, AttributeError):
                continue


def remove(path: Any, *, dir_fd: int | None = None) -> None:
    """``os.remove``: the file is emptied, and its name is free again."""
    if stat.S_ISDIR(os.stat(path, dir_fd=dir_fd, follow_symlinks=False).st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    os.close(os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd))
    _hide(path, dir_fd)


def rmdir(path: Any, *, dir_fd: int | None = None) -> None:
    """``os.rmdir``: a folder that holds nothing but what was removed gets another name."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        if not all(name.startswith(HIDDEN) for name in os.listdir(fd)):
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), path)
    finally:
        os.close(fd)
    _hide(path, dir_fd)


def rename(src: Any, dst: Any, *, src_dir_fd: int | None = None, dst_dir_fd: int | None = None) -> None:
    """``os.rename`` and ``os.replace``: a file in the way is removed; into another folder it is copied."""
    places = (src, src_dir_fd, dst, dst_dir_fd)
    try:
        _renamed(*places)
    except FileExistsError:
        about = os.stat(dst, dir_fd=dst_dir_fd, follow_symlinks=False)
        if os.path.samestat(about, os.stat(src, dir_fd=src_dir_fd, follow_symlinks=False)):
            return
        (rmdir if stat.S_ISDIR(about.st_mode) else remove)(dst, dir_fd=dst_dir_fd)
        rename(src, dst, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)
    except OSError as error:
        if error.errno != errno.EXDEV or src_dir_fd is not None or dst_dir_fd is not None or os.path.isdir(src):
            raise
        shutil.copyfile(src, dst)
        remove(src)


def _hide(path: Any, dir_fd: int | None) -> None:
    place = os.path.dirname(os.path.normpath(os.fsdecode(path)))
    while True:
        try:
            return _renamed(path, dir_fd, os.path.join(place, f"{HIDDEN}{next(_numbers)}"), dir_fd)
        except FileExistsError:  # made by the worker before this one
            continue


def _renamed(src: Any, src_dir_fd: int | None, dst: Any, dst_dir_fd: int | None) -> None:
    """renameat2(2) with RENAME_NOREPLACE, the one form the kernel lets through."""
    source, target = (ctypes.create_string_buffer(os.fsencode(path)) for path in (src, dst))
    within = [_AT_FDCWD if fd is None else fd for fd in (src_dir_fd, dst_dir_fd)]
    addresses = ctypes.addressof(source), ctypes.addressof(target)
    if harden._syscall("renameat2", within[0], addresses[0], within[1], addresses[1], 1) < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), src, None, dst)


def _nothing(*_: Any, **__: Any) -> None:
    """A file's mode and times are not the code's to choose."""
