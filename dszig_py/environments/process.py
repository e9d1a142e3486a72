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

import anyio

from dszig_py.environments import _zygote, inputs
from dszig_py.environments._link import Link
from dszig_py.environments._opening import off_loop, packed_inputs, size_in_bytes, started
from dszig_py.environments.base import CellLimits, Host
from dszig_py.environments.isolation import Boundary, boundary, seatbelt_command
from dszig_py.environments.packages import Packages, find_packages
from dszig_py.environments.session import WorkerSession
from dszig_py.errors import EnvironmentFailure, InputError
from dszig_py.scratch import MOST_BYTES, VARIABLE, Scratch

if TYPE_CHECKING:
    from dszig_py.contract import Contract

__all__ = ["ProcessEnvironment", "ProcessSession"]

_LOOK_SECONDS, _KILL_SECONDS = 0.25, 5.0  # between two looks at a scratch folder; until a killed worker is gone
_OWN_MEMORY = 256 * 1024 * 1024  # bytes of address space that interpreter, preloaded modules and thread stacks take


@dataclass(frozen=True, slots=True)
class ProcessEnvironment:
    """Cells run in a worker process of their own, one a session, hardened by the kernel.

    ``packages``: installed packages the code may import, besides the standard library and pydantic; values of their
    types (arrays, tables) arrive as such. ``read``: files and
    folders it may read. ``memory``: of one worker, bytes or text like "4GiB"; the default is 1 GiB + 2 x the inputs.
    ``cpu_seconds``: of one worker in all, ``None`` = not limited. ``cell_seconds``: a cell's own time, waiting for host
    calls not counted. ``max_frame``: bytes of one message either way. ``scratch``: what the folder may hold that code
    writes outputs of type :class:`~dszig_py.File` in, bytes or text; what a worker writes within a quarter of a second may
    go beyond it before the worker is ended.
    """

    packages: Sequence[str] = ()
    read: Sequence[str] = ()
    memory: int | str | None = None
    cpu_seconds: int | None = None
    cell_seconds: float = 30.0
    max_frame: int = 64 * 1024 * 1024
    scratch: int | str = MOST_BYTES
    name: str = field(default="process", init=False)

    async def open(self, contract: Contract, host: Host, limits: CellLimits) -> ProcessSession:
        """Pack the inputs, start a worker. Raises :class:`InputError`, :class:`EnvironmentFailure`."""
        zygote = _zygote.known(self.kind())
        if zygote is None:
            await off_loop(self.importable)  # reads the metadata of installed packages, once
            zygote = await off_loop(_zygote.zygote, self.command())
        packed = await packed_inputs(contract, self.value_modules())
        scratch: Scratch | None = None
        try:
            if contract.writes:
                scratch = await off_loop(Scratch, size_in_bytes(self.scratch))
            session = ProcessSession(self, zygote, packed, host, limits, scratch)
        except BaseException:
            packed.release()
            if scratch is not None:
                scratch.close()
            raise
        return await started(session)

    def kind(self) -> tuple[object, ...]:
        """What workers of one kind have in common: where one has come up, another will."""
        return (tuple(self.packages), tuple(self.read), self.memory, self.cpu_seconds)

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

    def boundary(
        self, facts: dict[str, Any], input_bytes: int, given: Sequence[str] = (), written: int = 0
    ) -> Boundary:
        """What will hold around a worker with inputs of that size. Raises :class:`EnvironmentFailure`."""
        memory = size_in_bytes(self.memory) if self.memory is not None else (1 << 30) + 2 * input_bytes
        return boundary(
            facts,
            read=self._read(),
            memory=memory + _OWN_MEMORY,
            cpu_seconds=self.cpu_seconds,
            packages=("pydantic", *self.packages),
            given=given,
            written=written,
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
        scratch: Scratch | None = None,
    ) -> None:
        self._environment = environment
        self._zygote = zygote
        self._token = 0
        given = [passed.value.path for passed in packed.opened if passed.value.path]
        written = 0 if scratch is None else scratch.most_bytes
        self._boundary = environment.boundary(zygote.facts, packed.size, given, written)
        level = self._boundary.isolation.level
        if level != "full" and (folders := [p.name for p in packed.opened if p.value.kind == "folder"]):
            raise InputError(f"input {folders[0]!r}: a folder needs Landlock, and the isolation here is {level!r}")
        if level != "full" and scratch is not None:
            raise InputError(
                f"an output that is a file needs Landlock, and the isolation here is {level!r}; declare it str"
            )
        super().__init__(
            packed,
            host,
            limits,
            isolation=self._boundary.isolation,
            seconds=environment.cell_seconds,
            max_frame=environment.max_frame,
        )
        self.scratch = scratch
        self._watching: asyncio.Task[None] | None = None
        self._emptied, self._emptying = True, None if scratch is None else asyncio.Lock()

    async def start(self) -> None:
        """Start a worker, and see to it that its scratch folder holds no more than it may."""
        await self._empty()
        await super().start()
        if self.scratch is not None and self._watching is None:
            self._watching = asyncio.create_task(self._watch(self.scratch))

    async def _watch(self, scratch: Scratch) -> None:
        """Measure the folder, cell or no cell (threads go on between two); end a worker that has filled it."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            if self._link is None or self._link.gone.done():
                continue
            try:
                why = await off_loop(scratch.overfull)
            except OSError:  # this process has no descriptor left, say: looked at again next time
                continue
            if why and not self._link.gone.done():
                link, told = self._link, f"its `{VARIABLE}` folder is emptied, because {why}"
                self._emptied = False
                link.drop(told)
                self._kill()
                await asyncio.wait([link.gone], timeout=_KILL_SECONDS)
                link.break_off(told)
                await self._empty()

    async def _empty(self) -> None:
        """Empty a folder that was too full, once its worker is gone and before there is another."""
        if self.scratch is None or self._emptying is None:
            return
        async with self._emptying:
            if not self._emptied:
                await off_loop(self.scratch.empty)
                self._emptied = True

    async def close(self) -> None:
        """End the worker, then remove its scratch folder."""
        if self._watching is not None:
            self._watching.cancel()
        if self.scratch is None:
            return await super().close()
        with anyio.CancelScope(shield=True):  # a run that was cancelled closes, too
            await super().close()
            try:
                await off_loop(self.scratch.close)
            except RuntimeError:  # the loop's threads have ended already
                self.scratch.close()

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
                fds = [theirs.fileno(), *self._packed.fds]
                written = [] if self.scratch is None else [self.scratch.fd]
                self._token = self._zygote.fork(self._request(len(fds)), [*fds, *written])
            except OSError as error:
                if last:
                    raise EnvironmentFailure(f"no worker could be started: {error}") from error
            else:
                return

    def _request(self, more: int) -> dict[str, Any]:
        """What the zygote is told; ``more`` is the place of the descriptor that follows the inputs'."""
        return {
            **({} if self.scratch is None else {"scratch": more}),
            "inputs": self._packed.specs(1),
            "shared": self._packed.shared(self._zygote),
            "max_frame": self._environment.max_frame,
            "policy": self._boundary.policy,
            "import": self._environment.importable().modules,
        }

    def _sure(self) -> bool:
        plain = (
            self.scratch is None
            and not self._packed.opened
            and all(pack.kind != "pickle" for _, pack in self._packed.packs)
        )
        return plain and self._environment.kind() in self._zygote.kinds

    def _sees_its_end(self) -> bool:
        # The zygote obeys in order, so it is killed before anything else is started; going takes the kernel another
        # millisecond, cut off from the host. What wrote files has to be gone before they are removed.
        return self.scratch is not None

    def _is_up(self) -> None:
        self._zygote.kinds.add(self._environment.kind())

    def _modules(self) -> frozenset[str]:
        return self._environment.value_modules()

    def _signal(self, number: signal.Signals) -> None:
        if self._token:
            self._zygote.signal(self._token, number)
