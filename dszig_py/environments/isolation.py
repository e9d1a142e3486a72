"""What holds around a worker on this machine, and how it is said.

The ladder fails closed: Landlock and seccomp together ("full"); seccomp alone with no call that takes a path ("strict",
for kernels without Landlock); Seatbelt on macOS ("seatbelt"); a container, where docker or podman runs; else nothing is
run here, and the refusal names the ways out.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dszig_py.environments._worker import harden
from dszig_py.environments.base import Isolation
from dszig_py.errors import EnvironmentFailure

__all__ = ["Boundary", "boundary", "facts", "has_boundary", "refusal", "seatbelt", "seatbelt_command"]

REFUSAL = """\
no boundary for model-written code can be had here: {why}. Ways out:
  environment="docker"      a container, where docker or podman is installed and running
  environment="inprocess"   trusted: the code runs in this process, with everything this process may do"""
SANDBOX_EXEC = "/usr/bin/sandbox-exec"

_COVERED = {
    "files": "files: the code can read {reads}, and write {writes}",
    "network": "network: no socket can be made",
    "processes": "processes: it can start none, and signal none but itself",
    "secrets": "secrets: an empty environment, no memory and no descriptors of the host",
    "limits": "limits: memory, CPU time, output and open files of each worker",
    "calls": "kernel: about a hundred system calls are allowed, no new privileges, no capabilities",
}
_NOT_COVERED = (
    "whether a path exists can be found out (stat), its content cannot",
    "bugs of the kernel in the allowed calls, and side channels of the processor",
    "a worker can use a core for as long as its time allows, and start threads up to its memory",
    "what the code puts into a prompt leaves this machine: sub-calls are a channel by design",
)
_STRICT_NOTE = (
    "imports beyond the preloaded standard library fail: the kernel has no Landlock, so nothing can be opened"
)
_WRITTEN_NOTE = (
    "a folder to write in is measured four times a second: what is written in between may go over its size, until the "
    "worker is ended; if this process is killed, the folder stays until another makes one"
)
_DARWIN_COVERED = (
    _COVERED["files"],
    "network: nothing can be connected to, bound or looked up",
    "processes: no other program can be started",
    _COVERED["secrets"],
    "limits: CPU time, output and open files of each worker",
)
_DARWIN_NOT_COVERED = (
    "macOS: written from the documentation of Seatbelt, not tested on a Mac by this project",
    "memory: macOS does not hold a process to RLIMIT_AS",
    "a worker can fork copies of itself, and signal other workers of this process; all are under the same profile",
    *_NOT_COVERED[1:],
)


@dataclass(frozen=True, slots=True)
class Boundary:
    """How workers are started here: the ``policy`` the zygote applies, and what to say of it."""

    policy: dict[str, Any]
    isolation: Isolation


@functools.cache
def facts() -> Mapping[str, Any]:
    """What this machine offers: ``arch``, ``landlock`` (ABI, 0 for none), ``seccomp``, ``seatbelt``."""
    return {**dataclasses.asdict(harden.available()), "seatbelt": has_seatbelt()}


def has_seatbelt() -> bool:
    return sys.platform == "darwin" and os.access(SANDBOX_EXEC, os.X_OK)


def has_boundary(facts: Mapping[str, Any]) -> bool:
    """Whether a worker can be held by this kernel."""
    return bool(facts.get("seatbelt") or (facts["seccomp"] and facts["arch"] is not None))


def refusal(facts: Mapping[str, Any], more: str = "") -> str:
    """Why nothing is run here, and what can be done."""
    if sys.platform != "linux":
        why = f"this is {sys.platform}"
    elif facts["arch"] is None:
        why = f"the system calls of {os.uname().machine} are not known to this project"
    else:
        why = "the kernel has no seccomp filter"
    return REFUSAL.format(why=why + more)


def boundary(
    facts: Mapping[str, Any],
    *,
    read: Sequence[str],
    memory: int | None,
    cpu_seconds: int | None,
    packages: Sequence[str],
    given: Sequence[str] = (),
    written: int = 0,
) -> Boundary:
    """The strongest boundary that ``facts`` (what the zygote probed) allow. Raises :class:`EnvironmentFailure`.

    ``memory``: bytes of address space of one worker. ``read``: what may be read besides the standard library.
    ``given``: paths of the inputs, which come as descriptors. ``written``: bytes that a scratch folder may hold, 0 for none.
    """
    if not has_boundary(facts):
        raise EnvironmentFailure(refusal(facts))
    known = tuple(sorted(facts.items()))
    return _boundary(known, tuple(read), memory, cpu_seconds, tuple(packages), tuple(given), written)


@functools.lru_cache(maxsize=64)  # of all sessions that are alike
def _boundary(
    known: tuple[tuple[str, Any], ...],
    read: tuple[str, ...],
    memory: int | None,
    cpu_seconds: int | None,
    packages: tuple[str, ...],
    given: tuple[str, ...],
    written: int,
) -> Boundary:
    facts = dict(known)
    mac = bool(facts.get("seatbelt"))
    strict = not mac and not facts["landlock"]
    policy = {"read": list(read), "address_space": memory, "cpu_seconds": cpu_seconds, "strict": strict}
    policy["file_size"] = written
    reads = "nothing but preloaded modules" if strict else "the standard library"
    if not strict and packages:
        reads += f", the packages {', '.join(packages)}"
    if not strict and (own := [p for p in read if "site-packages" not in p]):
        reads += f", {', '.join(own[:5])}"
    if given:
        reads += f", the inputs {', '.join(ascii(path) for path in given)}"
    writes = "nothing"
    if written:
        writes = f"beneath a folder of its own alone, {written:,} bytes, of which none can be run, and no code mapped"
    covered = tuple(text.format(reads=reads, writes=writes) for text in (_DARWIN_COVERED if mac else _COVERED.values()))
    if mac:
        return Boundary({**policy, "address_space": None}, Isolation("seatbelt", covered, _DARWIN_NOT_COVERED))
    not_covered = (*_NOT_COVERED, *((_STRICT_NOTE,) if strict else ()), *((_WRITTEN_NOTE,) if written else ()))
    return Boundary(policy, Isolation("strict" if strict else "full", covered, not_covered))


def seatbelt(read: Sequence[str], program: str, prefix: str, library: str, worker: str) -> str:
    """The Seatbelt profile of a zygote and its workers: read ``read`` and what Python itself needs, reach nothing else.

    ``program``, ``prefix``, ``library``: of this Python; ``worker``: the folder of the worker's program. Untested:
    written from what is published of the language (sandbox-exec(1), the profiles in Chromium), where the last rule that
    matches decides. Forking stays allowed, for it is how the zygote makes workers; they are under the same profile.
    """
    program, prefix, library, worker = (os.path.realpath(path) for path in (program, prefix, library, worker))
    system = ("/usr/lib", "/System/Library", "/System/Volumes/Preboot/Cryptexes/OS", "/private/var/db/timezone")
    own = (prefix, library, worker, *system, "/usr/share/zoneinfo")
    framework = os.path.join(prefix, "Resources")  # python.org's program starts the one in there
    return "\n".join(
        [
            "(version 1)",
            "(deny default)",
            f"(allow process-exec (literal {_quoted(program)}) (subpath {_quoted(framework)}))",
            "(allow process-fork)",
            "(allow signal (target same-sandbox))",
            "(allow sysctl-read)",
            '(allow file-read-metadata (literal "/"))',
            _reading([program, "/dev/null", "/dev/urandom", "/dev/random"], own),
            f"(deny file-read* (subpath {_quoted(os.path.join(library, 'site-packages'))}))",
            *([_reading((), [os.path.realpath(path) for path in read])] if read else ()),
            '(allow file-write-data (literal "/dev/null"))',
            "(deny file-write-create)",
            "(deny network*)",
            "(deny mach-lookup)",
        ]
    )


def _reading(files: Sequence[str], folders: Sequence[str]) -> str:
    what = [f"(literal {_quoted(path)})" for path in files] + [f"(subpath {_quoted(path)})" for path in folders]
    return "\n  ".join(["(allow file-read*", *what]) + ")"


def seatbelt_command(read: Sequence[str]) -> tuple[str, ...]:
    """What the zygote is started with on macOS: ``sandbox-exec`` and the profile; nothing elsewhere."""
    if not has_seatbelt():
        return ()
    library = os.path.dirname(os.__file__)
    worker = os.path.join(os.path.dirname(os.path.abspath(__file__)), "_worker")
    return (SANDBOX_EXEC, "-p", seatbelt(read, sys.executable, sys.base_prefix, library, worker))


def _quoted(path: str) -> str:
    return '"' + path.replace("\\", "\\\\").replace('"', '\\"') + '"'
