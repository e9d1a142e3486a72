"""What a suite found, and what its checks are written with."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from dszig_py.contract import compile_contract
from dszig_py.environments.base import CellLimits, Environment, Execution, Session
from dszig_py.language import language_of
from dszig_py.signature import Field, Signature
from dszig_py.testing.host import RecordingHost

__all__ = ["Bench", "Check", "Repl", "Report", "Result", "Unmet", "check", "expect", "same"]


@dataclass(frozen=True, slots=True)
class Result:
    """One check. ``detail``: what was found instead of what should be, or why it was skipped."""

    name: str
    ok: bool
    detail: str = ""
    skipped: bool = False
    seconds: float = 0.0

    def __str__(self) -> str:
        mark = "skipped" if self.skipped else "ok" if self.ok else "FAILED"
        return f"{mark:8}{self.name}{': ' + self.detail if self.detail else ''}"


@dataclass(frozen=True, slots=True)
class Report:
    """Every check of one suite over one environment; ``isolation`` is the level the environment declared."""

    environment: str
    isolation: str
    results: tuple[Result, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing failed."""
        return not self.failed

    @property
    def failed(self) -> tuple[Result, ...]:
        return tuple(result for result in self.results if not result.ok and not result.skipped)

    def __str__(self) -> str:
        shown = [str(result) for result in self.results]
        passed = sum(result.ok for result in self.results)
        skipped = sum(result.skipped for result in self.results)
        counts = f"{passed} ok, {len(self.failed)} failed, {skipped} skipped"
        return "\n".join([f"{self.environment} ({self.isolation}): {counts}", *shown])


class Unmet(AssertionError):
    """What an environment should do and does not."""


def expect(actual: Any, wanted: Any, what: str) -> None:
    """Raise :class:`Unmet` where ``actual`` is not ``wanted``."""
    if actual == wanted:
        return
    if isinstance(actual, str) and isinstance(wanted, str) and max(len(actual), len(wanted)) > 200:
        at = next((i for i, (a, b) in enumerate(zip(actual, wanted, strict=False)) if a != b), -1)
        ratio = difflib.SequenceMatcher(None, actual[:200], wanted[:200]).ratio()
        raise Unmet(f"{what}: text of {len(actual)} instead of {len(wanted)}, differing at {at} ({ratio:.1f} alike)")
    raise Unmet(f"{what}: {actual!r:.500} instead of {wanted!r:.500}")


@dataclass(frozen=True, slots=True)
class Repl:
    """One session under test."""

    session: Session
    host: RecordingHost

    async def run(self, code: str) -> Execution:
        """One cell, whatever comes of it."""
        return await self.session.execute(code)

    async def good(self, code: str) -> Execution:
        """One cell that has to run through."""
        execution = await self.session.execute(code)
        if execution.error or execution.lost:
            raise Unmet(f"{code!r:.200} should run through: {execution.error or execution.lost}")
        return execution

    async def shows(self, code: str, value: str | None) -> None:
        """One cell that has to run through and show ``value``."""
        expect((await self.good(code)).value, value, f"value of {code!r:.200}")

    async def fails(self, code: str, *parts: str) -> Execution:
        """One cell that has to end in an error which names all ``parts``."""
        execution = await self.session.execute(code)
        for part in parts:
            if part not in execution.error:
                raise Unmet(f"the error of {code!r:.200} should name {part!r}: {execution.error!r:.500}")
        return execution


@dataclass(frozen=True, slots=True)
class Bench:
    """Opens sessions of the environment under test."""

    environment: Environment

    @contextlib.asynccontextmanager
    async def repl(
        self,
        inputs: Mapping[str, Any] | None = None,
        *,
        outputs: Mapping[str, Any] | None = None,
        functions: Mapping[str, Callable[..., Any]] | None = None,
        limits: CellLimits | None = None,
    ) -> AsyncGenerator[Repl, None]:
        """A session with ``inputs`` bound, whose SUBMIT takes ``outputs`` (name -> type, default one of any type)."""
        fields = tuple(Field(name, Any) for name in inputs or {})
        wanted = tuple(Field(name, tp) for name, tp in (outputs or {"answer": Any}).items())
        contract = compile_contract(Signature(fields, wanted), inputs or {}, language=language_of(self.environment))
        host = RecordingHost(contract, functions)
        session = await self.environment.open(contract, host, limits or CellLimits(seconds=20))
        try:
            yield Repl(session, host)
        finally:
            await session.close()


@dataclass(frozen=True, slots=True)
class Check:
    """One claim about environments. ``needs``: what not every kind of environment can do by its nature; ``python``: whether
    its cells are Python.
    """

    name: str
    run: Callable[[Bench], Awaitable[None]]
    needs: str = ""
    python: bool = True


def same(value: Any) -> Any:
    """What was given: the function to offer where values are to cross and come back."""
    return value


def check(
    into: list[Check], needs: str = "", *, python: bool = True
) -> Callable[[Callable[[Bench], Awaitable[None]]], Any]:
    """Add the decorated function to a list of checks, under its own name."""

    def add(function: Callable[[Bench], Awaitable[None]]) -> Callable[[Bench], Awaitable[None]]:
        into.append(Check(getattr(function, "__name__", "").replace("_", " "), function, needs, python))
        return function

    return add
