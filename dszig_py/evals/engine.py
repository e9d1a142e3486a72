"""Runs an evaluation: jobs side by side under one limit, each result on disk before the next is begun."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from itertools import zip_longest
from types import TracebackType
from typing import Any, Protocol, Self, cast

import anyio

from dszig_py.arguments import check_budgets, check_counts
from dszig_py.environments.base import Environment
from dszig_py.errors import DszigError, InputError
from dszig_py.evals import suite
from dszig_py.evals import systems as systems_
from dszig_py.evals.evaluation import Evaluation
from dszig_py.evals.progress import Progress
from dszig_py.evals.store import Key, Row, Store
from dszig_py.evals.systems import System
from dszig_py.evals.tasks import Task
from dszig_py.evals.work import Config, Job, Worker, worker
from dszig_py.lm.journals import Journals
from dszig_py.purse import Purse
from dszig_py.usage import Budget

__all__ = ["LENGTHS", "aevaluate", "evaluate"]

LENGTHS = (8_000, 32_000, 128_000)
FAILURES = 20  # rows in a row for which the provider or the environment failed, after which going on is waste
Tasks = str | Task | Iterable[str | Task]
Place = tuple[str, int, int]  # task, length, index
Systems = str | Iterable[str] | Mapping[str, System]


def evaluate(tasks: Tasks, systems: Systems = "rlm", **options: Any) -> Evaluation:
    """:func:`aevaluate`, for scripts and notebooks. Ctrl-C ends it; what was finished is in ``path``."""
    from dszig_py import portal

    async def run() -> Evaluation:
        return await aevaluate(tasks, systems, **options)

    return portal.call(run)


async def aevaluate(
    tasks: Tasks,
    systems: Systems = "rlm",
    *,
    lm: Any = None,
    sub_lm: Any = None,
    lengths: Sequence[int] = LENGTHS,
    n: int = 20,
    seed: int = 0,
    budget: Budget | None = None,
    total: Budget | None = None,
    path: str | os.PathLike[str] | None = None,
    max_concurrency: int = 64,
    engine: str = "local",
    workers: int | None = None,
    environment: str | Environment = "auto",
    progress: bool = False,
    on_row: Callable[[Row], None] | None = None,
) -> Evaluation:
    """Run each of ``systems`` on ``n`` examples of each of ``tasks`` at each of ``lengths``, with one model and budget.

    ``lm``, ``sub_lm``: as ``RLM`` takes them, or ``"reader"``, the suite's own fake. ``budget``: of one example.
    ``total``: of the whole evaluation (``max_cost`` and ``max_tokens``, which then need one in ``budget`` too, and
    ``max_seconds``); where it ends, the evaluation says so in ``stopped``. ``path``: a JSONL file of results; where it
    exists, only what is missing in it is run, and runs that were under way go on from where they were cut off, with what
    is kept of them in the folder ``<path>.runs``. ``max_concurrency``: runs, and model calls of them all, in flight.
    ``engine``: "local", or "ray" with so many ``workers`` (default: one a processor of the cluster). ``on_row``: called
    with each result.

    Raises ``InputError`` before any model call, and ``DszigError`` where run after run fails.
    """
    check_counts(n=n, max_concurrency=max_concurrency, workers=1 if workers is None else workers)
    check_budgets(budget=budget, total=total)
    _check_lengths(lengths)
    found = suite.resolve_all(tasks)
    used = budget or Budget()
    config = Config(found, _sendable(systems), lm, sub_lm, seed, used, environment, max_concurrency)
    setup = Worker(config).setup  # raises for whatever cannot be run at all
    head = {"model": setup.lm.model, "sub_model": setup.sub_lm.model, "seed": seed, "budget": used.model_dump()}
    store = Store(path, head)
    journals = Journals(None)
    try:
        journals = Journals.beside(path)
        config = replace(config, journals=journals.folder)
        plan = (found, tuple(lengths), n, tuple(config.systems), dict(store.rows))
        async with AsyncExitStack() as stack:
            left = sum(1 for _ in _jobs(*plan))
            shown = stack.enter_context(Progress(left, store.rows.values(), enabled=progress))
            runner = await stack.enter_async_context(_engine(engine, config, workers))
            told = [shown.add, *([on_row] if on_row else [])]
            going = _Evaluating(runner, store, journals, Purse(total or Budget(), used), told)
            await going.go(_jobs(*plan), max_concurrency, (total or Budget()).max_seconds)
        return Evaluation(list(store.rows.values()), store.head, stopped=going.stopped, path=store.path)
    finally:
        journals.close()
        store.close()


def _check_lengths(lengths: object) -> None:
    if lengths in ((), []):
        raise InputError("no length is given; lengths are characters of context, (8_000, 128_000) say")
    several = isinstance(lengths, Sequence) and not isinstance(lengths, (str, bytes))
    if not several or any(type(length) is not int for length in cast("Sequence[object]", lengths)):
        raise InputError("lengths are numbers of characters of context, (8_000, 128_000) say")


def _sendable(systems: Systems) -> Mapping[str, System | str]:
    """Names stay names, which every machine looks up for itself; all are looked up here once, to fail early."""
    found = systems_.resolve(systems)
    return found if isinstance(systems, Mapping) else {name: name for name in found}


def _jobs(
    tasks: Sequence[Task], lengths: Sequence[int], n: int, systems: Sequence[str], done: Mapping[Key, Row]
) -> Iterator[Job]:
    """What is left to do, tasks and lengths by turns, all systems on one example next to each other."""
    turns: Iterator[tuple[Place | None, ...]] = zip_longest(*(_places(task, lengths, n) for task in tasks))
    for places in turns:
        for task, length, index in filter(None, places):
            for system in systems:
                old = done.get((task, length, index, system))
                if old is None or old.failed:
                    yield Job(task, length, index, system)


def _places(task: Task, lengths: Sequence[int], n: int) -> Iterator[Place]:
    for length, index in task.places(lengths, n):
        yield task.name, length, index


class Engine(Protocol):
    """Where jobs are done."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...

    async def run(self, job: Job, /) -> Row: ...


class _Local(Worker):
    """This process."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None


def _engine(name: str, config: Config, workers: int | None) -> Engine:
    if name == "local":
        return _Local(config)
    if name == "ray":
        from dszig_py.actors import Actors

        width = config.concurrency
        return Actors(functools.partial(worker, config), width=width, calls=width, workers=workers)
    raise InputError(f'engine is "local" or "ray", not {name!r}')


class _Evaluating:
    """The state of an evaluation under way."""

    def __init__(
        self,
        engine: Engine,
        store: Store,
        journals: Journals,
        purse: Purse,
        told: Sequence[Callable[[Row], None]],
    ) -> None:
        self._engine, self._store, self._journals, self._purse, self._told = engine, store, journals, purse, told
        self._failures = 0
        self._error: BaseException | None = None
        self.stopped = ""
        for row in store.rows.values():  # the process may have been killed between a row and its journal's end
            self._drop(row)
        before: dict[Key, Row] = {}
        for row in store.earlier:
            purse.count(*_spent(row, before.get(row.key)))
            before[row.key] = row

    async def go(self, jobs: Iterator[Job], width: int, seconds: float | None) -> None:
        """Do ``jobs``, ``width`` at a time. They are taken as they are needed: their number costs no memory."""
        with anyio.move_on_after(seconds) as scope:
            async with anyio.create_task_group() as group:
                for _ in range(width):
                    group.start_soon(self._work, jobs, group.cancel_scope)
        if self._error is not None:
            raise self._error
        if scope.cancelled_caught:
            self.stopped = f"total max_seconds: {seconds:g} s are over"
        elif next(jobs, None) is not None:  # a total that is spent to its last run has stopped nothing
            self.stopped = self._purse.stopped

    async def _work(self, jobs: Iterator[Job], group: anyio.CancelScope) -> None:
        while await self._purse.take():
            spent: tuple[float | None, int] = (0.0, 0)
            try:
                job = next(jobs, None)
                if job is None:
                    return
                row = await self._engine.run(job)
                spent = _spent(row, self._store.rows.get(row.key))
                self._finished(row)
            except Exception as error:  # a task group would wrap it, and its type is what the caller acts on
                self._error = self._error or error
                group.cancel()
                return
            finally:
                with anyio.CancelScope(shield=True):
                    await self._purse.give(*spent)

    def _finished(self, row: Row) -> None:
        self._store.add(row)
        self._drop(row)
        for tell in self._told:
            tell(row)
        self._failures = self._failures + 1 if row.failed else 0
        if self._failures >= FAILURES:
            raise DszigError(f"{FAILURES} runs in a row failed; the last one by: {row.detail}")

    def _drop(self, row: Row) -> None:
        if not row.failed:  # what a provider failed at goes on from there when it is tried again
            self._journals.drop(Job.of(row).name)


def _spent(row: Row, before: Row | None) -> tuple[float | None, int]:
    """Dollars and tokens that ``row`` took; one that went on from the row ``before`` it tells of that one's as well."""
    cost, tokens = row.cost, row.input_tokens + row.output_tokens
    if not row.resumed or before is None:
        return cost, tokens
    earlier = before.input_tokens + before.output_tokens
    return None if cost is None or before.cost is None else cost - before.cost, tokens - earlier
