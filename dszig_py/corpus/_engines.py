"""Where the runs of a corpus are: on this event loop, or on the actors of a Ray cluster. One run, one result."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

import anyio

from dszig_py import resume
from dszig_py.actors import Actors, sendable
from dszig_py.corpus._results import Mapped
from dszig_py.errors import DszigError, InputError
from dszig_py.lm.gate import Gate
from dszig_py.lm.journals import Journals
from dszig_py.lm.resumed import Journal
from dszig_py.purse import Purse
from dszig_py.runner import Shared
from dszig_py.trajectory import Prediction, Termination
from dszig_py.usage import Budget, Ledger, Usage

if TYPE_CHECKING:
    from dszig_py.rlm import RLM

__all__ = ["Element", "Engine", "Here", "OnRay"]

KINDS = ("max_cost", "max_tokens", "max_llm_calls")  # limits of all runs together that are put aside before one begins
MANY = 1 << 62  # of calls; no limit, but one that counts


@dataclass(frozen=True)
class Element:
    """One element of a corpus: its place, what it is known by, its inputs."""

    index: int
    key: str
    inputs: Mapping[str, Any] = field(repr=False)

    @property
    def name(self) -> str:
        """What its journal is known by."""
        return f"{self.index}/{self.key}"


class Engine(Protocol):
    """Where elements are run."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...

    async def over(self) -> str:
        """The limit that keeps another run from beginning; nothing where :meth:`run` may, and then must, be called."""
        ...

    async def run(self, element: Element, /) -> Mapped:
        """What came of it. Raises :class:`InputError`."""
        ...

    def cut_short(self, mapped: Mapped, /) -> bool:
        """Whether it was the limits of all runs that ended this one, so that with more it would go on."""
        ...


class Here:
    """This event loop, with one account and one gate for all runs."""

    def __init__(self, rlm: RLM, budget: Budget, calls: int, journals: Journals) -> None:
        self._rlm, self._budget, self._calls, self._journals = rlm, budget, calls, journals

    async def __aenter__(self) -> Self:
        self._shared = Shared(Ledger(self._budget), Gate(self._calls))
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    async def over(self) -> str:
        return self._shared.ledger.over or ""

    async def run(self, element: Element, /) -> Mapped:
        return await _mapped(self._rlm, element, self._shared, self._journals)

    def cut_short(self, mapped: Mapped, /) -> bool:
        return _cut_short(mapped, self._rlm.budget, self._shared.ledger, (*KINDS, "max_seconds"))


@dataclass(frozen=True)
class _Job:
    element: Element
    seconds: float | None


class OnRay:
    """Actors. Before a run begins its own limit is put aside of what all may spend, as an evaluation does: between processes
    there is no account that could be asked before each call.
    """

    def __init__(
        self, rlm: RLM, budget: Budget, calls: int, journals: Journals, *, width: int, workers: int | None
    ) -> None:
        self._purse, self._own = Purse(budget, rlm.budget, KINDS), rlm.budget
        self._ledger = Ledger(budget)
        _check_sendable(rlm)
        make = functools.partial(_worker, rlm, journals.folder)
        self._actors: Actors[_Job, tuple[Mapped, int]] = Actors(make, width=width, calls=calls, workers=workers)

    async def __aenter__(self) -> Self:
        await self._actors.__aenter__()
        self._ledger = Ledger(self._ledger.budget)  # its seconds begin when there is something to run on
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._actors.__aexit__()

    async def over(self) -> str:
        late = self._ledger.over
        return late or ("" if await self._purse.take() else self._purse.stopped)

    async def run(self, element: Element, /) -> Mapped:
        mapped, calls = None, 0
        try:
            mapped, calls = await self._actors.run(_Job(element, self._ledger.remaining().seconds))
            return mapped
        finally:
            usage = Usage() if mapped is None else mapped.usage
            with anyio.CancelScope(shield=True):
                await self._purse.give(usage.cost, usage.tokens, calls)

    def cut_short(self, mapped: Mapped, /) -> bool:
        return _cut_short(mapped, self._own, self._ledger, ("max_seconds",))


def _worker(rlm: RLM, folder: str | None, calls: int) -> Callable[[_Job], Awaitable[tuple[Mapped, int]]]:
    """What runs elements in an actor."""
    gate, journals = Gate(calls), Journals(folder)

    async def run(job: _Job) -> tuple[Mapped, int]:
        ledger = Ledger(Budget(max_iters=None, max_llm_calls=MANY, max_seconds=job.seconds and max(job.seconds, 0.001)))
        mapped = await _mapped(rlm, job.element, Shared(ledger, gate), journals)
        return mapped, MANY - (ledger.remaining().llm_calls or 0)

    return run


def _cut_short(mapped: Mapped, own: Budget, common: Ledger, kinds: Sequence[str]) -> bool:
    """Of a limit that both have, the one that less is left of has ended the run."""
    kind = mapped.termination.kind
    if mapped.termination.cause != "budget" or kind not in kinds or getattr(common.budget, kind) is None:
        return False
    limit, left, usage = getattr(own, kind), common.remaining(), mapped.usage
    if limit is None:
        return True
    seconds = usage.seconds if mapped.prediction is None else mapped.prediction.trajectory.seconds
    spent, rest = {
        "max_cost": (usage.cost, left.cost),
        "max_tokens": (usage.tokens, left.tokens),
        "max_llm_calls": (usage.calls, left.llm_calls),
        "max_seconds": (seconds, left.seconds),
    }[kind]
    return (rest or 0) < limit - (spent or 0)


def _check_sendable(rlm: RLM) -> None:
    """Raises :class:`InputError` naming what of ``rlm`` other processes cannot have."""
    if rlm.on_event is not None:
        raise InputError('on_event would be called in other processes; with engine="ray" give trace= a folder instead')
    if not sendable(rlm):
        return
    for name, value in vars(rlm).items():
        if why := sendable(value):
            hint = "; give models as text, such as 'openai/gpt-5'" if "lm" in name else ""
            raise InputError(f"{name.lstrip('_')} cannot be sent to Ray's actors: {why}{hint}")
    raise InputError(f"this RLM cannot be sent to Ray's actors: {sendable(rlm)}")


async def _mapped(rlm: RLM, element: Element, shared: Shared, journals: Journals) -> Mapped:
    """The run of one element, gone on with where its journal says that it was begun."""
    # Of one call there is nothing to go on with.
    journal = None if rlm.strategy.route == "direct" else await journals.open(element.name)
    mapped = await _run(rlm, element, shared, journal)
    if journal is not None and journal.mismatched:
        # Its code does something else each time (the clock, random numbers): what was paid cannot be used again.
        return await _run(rlm, element, shared, await journals.open(element.name, anew=True))
    return mapped


async def _run(rlm: RLM, element: Element, shared: Shared, journal: Journal | None) -> Mapped:
    adapt = None if journal is None else functools.partial(resume.with_journal, journal=journal)
    try:
        prediction = await rlm._run(element.inputs, None, adapt, shared)
        return Mapped(element.index, prediction.outputs, prediction.termination, prediction.usage, "", prediction)
    except InputError:
        raise
    except DszigError as error:
        ended: Prediction | None = getattr(error, "prediction", None)
        termination = Termination("error", "caller", str(error)) if ended is None else ended.termination
        usage = Usage() if ended is None else ended.usage
        return Mapped(element.index, {}, termination, usage, f"{type(error).__name__}: {error}")
