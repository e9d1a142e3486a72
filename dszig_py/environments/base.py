"""The seam between a run and the place its code runs: ``Environment.open(contract, host) -> Session``.

An :class:`Execution` is one record, never a union, and an error in it is a field, never a prefix of the output.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from dszig_py.contract import Contract

__all__ = [
    "Binding",
    "CallRefused",
    "CellLimits",
    "Environment",
    "Execution",
    "Host",
    "Isolation",
    "LastingSession",
    "Session",
    "Snapshot",
]


@dataclass(frozen=True, slots=True)
class Execution:
    """What the REPL gave back for the cells of one iteration.

    ``stdout``: what was printed, at most ``max_output_chars`` characters, of ``stdout_chars`` printed in all.
    ``value``: repr of the last expression, ``None`` where the last line was no expression or gave None.
    ``error``: a traceback naming the line of the cell, ``""`` where nothing was raised.
    ``submission``: the validated outputs, where SUBMIT was accepted. ``seconds``: wall time.
    ``lost``: what a replaced worker took along, in words for the model; ``""`` where nothing was lost.
    """

    stdout: str = ""
    stdout_chars: int = 0
    value: str | None = None
    error: str = ""
    submission: dict[str, Any] | None = None
    seconds: float = 0.0
    lost: str = ""


@dataclass(frozen=True, slots=True)
class Isolation:
    """What holds around model-written code. ``level``: "full" | "strict" | "seatbelt" | "container" | "interpreted" |
    "script" | "none".

    ``covered`` and ``not_covered`` say it line by line, in plain words.
    """

    level: str
    covered: tuple[str, ...] = ()
    not_covered: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.level


class CallRefused(Exception):
    """The host declines a call from inside: raised in the cell, at the line of the call, as ``kind`` with the message.

    ``kind`` is the name of the builtin exception the cell sees: RuntimeError, ValueError, TypeError, KeyError,
    TimeoutError.
    """

    def __init__(self, message: str, kind: str = "RuntimeError") -> None:
        super().__init__(message)
        self.kind = kind


class Host(Protocol):
    """What the code in a REPL can reach. Budgets, schemas, model choice and credentials live behind it."""

    @property
    def functions(self) -> Mapping[str, str]:
        """Name -> docstring of every callable but SUBMIT."""
        ...

    async def call(self, name: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
        """One call from inside; calls run concurrently. Raises :class:`CallRefused`."""
        ...

    async def submit(self, args: list[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
        """The validated outputs. Raises :class:`CallRefused` with a message the model can act on."""
        ...


@runtime_checkable
class Session(Protocol):
    """One live REPL. State persists across executions, also after an exception.

    One whose code can write files has a ``scratch`` besides, where the contract's outputs are such
    (:class:`~dszig_py.scratch.Scratch`, else ``None``).
    """

    @property
    def isolation(self) -> Isolation: ...

    async def execute(self, code: str) -> Execution:
        """Run one cell. Raises :class:`~dszig_py.errors.EnvironmentFailure` where no worker can be kept alive."""
        ...

    async def variables(self) -> dict[str, str]:
        """Name -> short repr of what the REPL holds."""
        ...

    async def close(self) -> None:
        """End the session and everything it started. Never raises, may be called twice."""
        ...


@runtime_checkable
class Binding(Protocol):
    """A session that takes data without code, because its language cannot write data."""

    def bind(self, name: str, value: Any) -> bool:
        """Bind JSON data to a variable. Whether there was room for it."""
        ...


@runtime_checkable
class Environment(Protocol):
    """Where code runs. Immutable and shared by any number of runs, threads and event loops.

    One whose code is not Python also has a ``language``; see :class:`~dszig_py.language.Language`.
    """

    @property
    def name(self) -> str: ...

    async def open(self, contract: Contract, host: Host, limits: CellLimits) -> Session: ...


@dataclass(frozen=True, slots=True)
class CellLimits:
    """Bounds of one session. ``output_chars``: characters of stdout kept a cell; ``seconds``: a cell's own time
    (waiting for host calls not counted), ``None`` = the environment's default. ``lasting``: other runs will follow in it.
    """

    output_chars: int = 10_000
    seconds: float | None = None
    lasting: bool = False


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a REPL holds beyond its inputs. ``values``: [name, value as the codec encodes it], to be bound again;
    ``lost``: name -> type of what has no such form (functions, modules, classes, open files).
    """

    values: tuple[tuple[str, Any], ...] = ()
    lost: Mapping[str, str] = field(default_factory=dict[str, str])


@runtime_checkable
class LastingSession(Session, Protocol):
    """A session that can serve one run after the other."""

    async def snapshot(self) -> Snapshot:
        """What it holds now. A worker that is gone, or does not answer, holds nothing."""
        ...

    async def renew(self, contract: Contract, host: Host, carried: Snapshot) -> None:
        """Serve another run: its inputs bound, its host asked. ``carried``: what a new worker is given besides."""
        ...
