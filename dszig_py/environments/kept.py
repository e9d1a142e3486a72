"""An environment whose REPL stays from one run to the next: what a :class:`~dszig_py.sessions.Session` runs in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from dszig_py.environments.base import (
    Binding,
    CellLimits,
    Environment,
    Execution,
    Host,
    Isolation,
    LastingSession,
    Session,
    Snapshot,
)
from dszig_py.errors import InputError
from dszig_py.language import Language, language_of
from dszig_py.scratch import Scratch

if TYPE_CHECKING:
    from dszig_py.contract import Contract

__all__ = ["Kept"]


class Kept:
    """``environment`` with one REPL for the root runs that follow each other in it; child runs get their own, as always.

    Belongs to one event loop. ``snapshot``: what the REPL held when the last run ended, or what a file had kept; a REPL that
    has to be replaced (its worker died, its event loop is gone) starts from it.
    """

    def __init__(self, environment: Environment, snapshot: Snapshot | None = None) -> None:
        self.environment = environment
        self.snapshot = snapshot or Snapshot()
        self._session: LastingSession | None = None
        self._in_use = False

    @property
    def name(self) -> str:
        """The name of what it wraps."""
        return self.environment.name

    @property
    def language(self) -> Language:
        """What code is written in there."""
        return language_of(self.environment)

    async def open(self, contract: Contract, host: Host, limits: CellLimits) -> Session:
        """The kept REPL with this run's inputs. Raises :class:`InputError` where the environment cannot keep one."""
        if self._in_use:  # by the root: this is a child's
            return await self.environment.open(contract, host, limits)
        session = self._session
        if session is None:
            lasting = CellLimits(limits.output_chars, limits.seconds, lasting=True)
            opened = await self.environment.open(contract, host, lasting)
            if not isinstance(opened, LastingSession):
                await opened.close()
                raise InputError(f'environment="{self.name}" cannot keep its variables from one call to the next')
            session = self._session = opened
        self._in_use = True
        try:
            await session.renew(contract, host, self.snapshot)
        except BaseException:
            self._in_use = False
            raise
        return _BindingUse(self, session) if isinstance(session, Binding) else _Use(self, session)

    async def release(self, session: LastingSession) -> None:
        """A run is over: what it leaves is noted, for the REPL may not live until the next."""
        found = await session.snapshot()
        if found.values or found.lost:
            self.snapshot = found
        self._in_use = False

    async def close(self) -> None:
        """End the REPL. Never raises, may be called twice."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()


@dataclass(frozen=True)
class _Use:
    """The kept session as one run has it: closing it gives it back."""

    kept: Kept
    session: LastingSession

    @property
    def isolation(self) -> Isolation:
        return self.session.isolation

    @property
    def scratch(self) -> Scratch | None:
        return getattr(self.session, "scratch", None)

    async def execute(self, code: str) -> Execution:
        return await self.session.execute(code)

    async def variables(self) -> dict[str, str]:
        return await self.session.variables()

    async def close(self) -> None:
        await self.kept.release(self.session)


@dataclass(frozen=True)
class _BindingUse(_Use):
    def bind(self, name: str, value: Any) -> bool:
        return cast(Binding, self.session).bind(name, value)
