"""The default environment: a CPython worker forked from a clean zygote, hardened by the kernel.

The host speaks length-prefixed JSON frames with it, checks sizes before it allocates, never unpickles and takes no
descriptors. A worker has no authority beyond the code it runs: forging a frame gains it nothing. What the kernel layers
are and what else was considered is in ``_worker/harden.py``.
"""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dszig_py.environments import _zygote, inputs
from dszig_py.environments._link import Link
from dszig_py.environments._opening import off_loop, packed_inputs, size_in_bytes, started
from dszig_py.environments.base import CellLimits, Host
from dszig_py.environments.isolation import Boundary, boundary, seatbelt_command
from dszig_py.environments.packages import Packages, find_packages
from dszig_py.environments.session import WorkerSession
from dszig_py.errors import EnvironmentFailure, InputError

if TYPE_CHECKING:
    from dszig_py.contract import Contract

__all__ = ["ProcessEnvironment", "ProcessSession"]

_OWN_MEMORY = 256 * 1024 * 1024  # bytes of address space that interpreter, preloaded modules and thread stacks take


@dataclass(frozen=True, slots=True)
class ProcessEnvironment:
    """Cells run in a worker process of their own, one a session, hardened by the kernel.

    ``packages``: installed packages the code may import, besides the standard library and pydantic; values of their
    types (arrays, tables) arrive as such. ``read``: files and
    folders it may read. ``memory``: of one worker, bytes or text like "4GiB"; the default is 1 GiB + 2 x the inputs.
    ``cpu_seconds``: of one worker in all, ``None`` = not limited. ``cell_seconds``: a cell's own time, waiting for host
    calls not counted. ``max_frame``: bytes of one message either way.
    """

    packages: Sequence[str] = ()
    read: Sequence[str] = ()
    memory: int | str | None = None
    cpu_seconds: int | None = None
    cell_seconds: float = 30.0
    max_frame: int = 64 * 1024 * 1024
    name: str = field(default="process", init=False)

    async def open(self, contract: Contract, host: Host, limits: CellLimits) -> ProcessSession:
        """Pack the inputs, start a worker. Raises :class:`InputError`, :class:`EnvironmentFailure`."""
        await off_loop(self.importable)  # reads the metadata of installed packages, once
        zygote = await off_loop(_zygote.zygote, self.command())
        packed = await packed_inputs(contract, self.value_modules())
        try:
            session = ProcessSession(self, zygote, packed, host, limits)
        except BaseException:
            packed.release()
            raise
        return await started(session)

    def importable(self) -> Packages:
        """What the worker may import from site-packages."""
        return find_packages(("pydantic", *self.packages))

    def value_modules(self) -> frozenset[str]:
        """Top-level modules whose values may be inputs as they are: those of the packages that were asked for."""
        return frozenset(name for name, _, _ in find_packages(tuple(self.packages)).modules)

    def command(self) -> tuple[str, ...]:
        """What the zygote is started with, where the boundary is not one that a worker puts around itself."""
        return seatbelt_command(self._read())

    def _read(self) -> tuple[str, ...]:
        return (*self.importable().read, *(str(path) for path in self.read))

    def boundary(self, facts: dict[str, Any], input_bytes: int, given: Sequence[str] = ()) -> Boundary:
        """What will hold around a worker with inputs of that size. Raises :class:`EnvironmentFailure`."""
        memory = size_in_bytes(self.memory) if self.memory is not None else (1 << 30) + 2 * input_bytes
        return boundary(
            facts,
            read=self._read(),
            memory=memory + _OWN_MEMORY,
            cpu_seconds=self.cpu_seconds,
            packages=("pydantic", *self.packages),
            given=given,
        )


class ProcessSession(WorkerSession):
    """One live REPL in a hardened worker, forked from the zygote of this process."""

    def __init__(
        self,
        environment: ProcessEnvironment,
        zygote: _zygote.Zygote,
        packed: inputs.Packed,
        host: Host,
        limits: CellLimits,
    ) -> None:
        self._environment = environment
        self._zygote = zygote
        self._token = 0
        given = [passed.value.path for passed in packed.opened if passed.value.path]
        self._boundary = environment.boundary(zygote.facts, packed.size, given)
        level = self._boundary.isolation.level
        if level != "full" and (folders := [p.name for p in packed.opened if p.value.kind == "folder"]):
            raise InputError(f"input {folders[0]!r}: a folder needs Landlock, and the isolation here is {level!r}")
        super().__init__(
            packed,
            host,
            limits,
            isolation=self._boundary.isolation,
            seconds=environment.cell_seconds,
            max_frame=environment.max_frame,
        )

    async def _connect(self, protocol: Callable[[], Link]) -> Link:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        try:
            await self._fork(theirs)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        return (await asyncio.get_running_loop().create_unix_connection(protocol, sock=ours))[1]

    async def _fork(self, theirs: socket.socket) -> None:
        """Have a worker made that owns ``theirs``; where the zygote is gone, by another one, once."""
        for last in (False, True):
            if not self._zygote.alive:
                self._zygote = await off_loop(_zygote.zygote, self._environment.command())
            try:
                self._token = self._zygote.fork(self._request(), [theirs.fileno(), *self._packed.fds])
            except OSError as error:
                if last:
                    raise EnvironmentFailure(f"no worker could be started: {error}") from error
            else:
                return

    def _request(self) -> dict[str, Any]:
        return {
            "inputs": self._packed.specs(1),
            "shared": self._packed.shared(self._zygote),
            "max_frame": self._environment.max_frame,
            "policy": self._boundary.policy,
            "import": self._environment.importable().modules,
        }

    def _modules(self) -> frozenset[str]:
        return self._environment.value_modules()

    def _signal(self, number: signal.Signals) -> None:
        if self._token:
            self._zygote.signal(self._token, number)
