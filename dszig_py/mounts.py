"""Where an open file or folder is, and what is mounted there. Source: proc_pid_mountinfo(5), proc_pid_fd(5)."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from dszig_py.errors import InputError

__all__ = ["kernel_devices", "made_up_beneath", "whereabouts"]

_KERNELS = (b"proc", b"sysfs", b"devtmpfs", b"debugfs", b"tracefs", b"securityfs")
_ESCAPED = re.compile(rb"\\([0-7]{3})")


def kernel_devices() -> set[int]:
    """Of the file systems whose files the kernel makes up, or are devices: /proc, /sys, /dev (/dev/shm is one of its own)."""
    return {os.stat(place).st_dev for place in ("/proc", "/sys", "/dev") if os.path.ismount(place)}


def made_up_beneath(fd: int) -> str | None:
    """A mount of the kernel's or of devices beneath an open folder. A Landlock rule for a folder holds for every mount in it,
    so that code that opens files by itself would read them.
    """
    return next((place for place, kind in _beneath(fd) if kind in _KERNELS), None)


def whereabouts(name: str, path: str, fd: int) -> str:
    """The path that leads to what ``fd`` has open, for an engine that mounts by path; ``name``, ``path``: as it was given.

    Raises :class:`InputError` where none does any more, and for a folder with mounts in it.
    """
    try:
        found = os.readlink(f"/proc/self/fd/{fd}")
    except OSError:  # no /proc
        found = os.path.abspath(path)
    try:
        there = os.path.samestat(os.stat(found), os.fstat(fd))
    except OSError:
        there = False
    if not there:
        raise InputError(f"input {name!r}: {path!a} has been moved or removed; a container gets it by its path")
    if stat.S_ISDIR(os.fstat(fd).st_mode) and (mounts := _beneath(fd)):
        why = "which a container might write to; give a folder without mounts"
        raise InputError(f"input {name!r}: {path!a} holds the mount {mounts[0][0]!a}, {why}")
    return found


def _beneath(fd: int) -> list[tuple[str, bytes]]:
    """(place, kind of file system) of the mounts beneath an open folder."""
    try:
        beneath = os.readlink(f"/proc/self/fd/{fd}").rstrip("/") + "/"
        mounts = Path("/proc/self/mountinfo").read_bytes().splitlines()
    except OSError:  # no /proc: macOS, which has no Landlock either
        return []
    found: list[tuple[str, bytes]] = []
    for mount in mounts:
        before, _, after = mount.partition(b" - ")
        place = os.fsdecode(_ESCAPED.sub(lambda octal: bytes([int(octal[1], 8)]), before.split(b" ")[4]))
        if place.startswith(beneath):
            found.append((place, after.split(b" ")[0]))
    return found
