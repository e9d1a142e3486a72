"""What holds around a worker on this machine, and how it is said.

The ladder fails closed: Landlock and seccomp together ("full"); seccomp alone with no call that takes a path ("strict",
for kernels without Landlock); Seatbelt on macOS; else nothing is run here, and the refusal names the ways out.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dszig_py.environments.base import Isolation
from dszig_py.errors import EnvironmentFailure

__all__ = ["Boundary", "boundary"]

REFUSAL = """\
no boundary for model-written code can be had here: {why}. Ways out:
  environment="docker"      a container, where docker or podman is installed and running
  environment="inprocess"   trusted: the code runs in this process, with everything this process may do"""

_COVERED = {
    "files": "files: the code can read {reads}, and write nothing",
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
_DARWIN_NOTE = "macOS: written from the documentation of Seatbelt, not tested on a Mac by this project"


@dataclass(frozen=True, slots=True)
class Boundary:
    """How workers are started here: the ``policy`` the zygote applies, and what to say of it."""

    policy: dict[str, Any]
    isolation: Isolation


def boundary(
    facts: Mapping[str, Any],
    *,
    read: Sequence[str],
    memory: int | None,
    cpu_seconds: int | None,
    packages: Sequence[str],
) -> Boundary:
    """The strongest boundary that ``facts`` (what the zygote probed) allow. Raises :class:`EnvironmentFailure`.

    ``memory``: bytes of address space of one worker. ``read``: what may be read besides the standard library.
    """
    if not facts["seccomp"] or facts["arch"] is None:
        why = (
            f"this is {sys.platform}"
            if sys.platform != "linux"
            else "the kernel has no seccomp filter for this machine"
        )
        raise EnvironmentFailure(REFUSAL.format(why=why))
    strict = not facts["landlock"]
    policy = {"read": list(read), "address_space": memory, "cpu_seconds": cpu_seconds, "strict": strict}
    reads = "nothing but preloaded modules" if strict else "the standard library"
    if not strict and packages:
        reads += f", the packages {', '.join(packages)}"
    if not strict and (own := [p for p in read if "site-packages" not in p]):
        reads += f", {', '.join(own[:5])}"
    covered = tuple(text.format(reads=reads) for text in _COVERED.values())
    not_covered = (*_NOT_COVERED, *((_STRICT_NOTE,) if strict else ()))
    return Boundary(policy, Isolation("strict" if strict else "full", covered, not_covered))
