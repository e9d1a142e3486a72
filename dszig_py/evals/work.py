"""One process's part of an evaluation: makes an example, runs a system on it, judges it. Also what an actor holds."""

from __future__ import annotations

import time
import weakref
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import anyio
import anyio.to_thread

from dszig_py.environments.base import Environment
from dszig_py.errors import DszigError
from dszig_py.evals import systems as systems_
from dszig_py.evals.reader import ReaderLM
from dszig_py.evals.store import Row
from dszig_py.evals.systems import ONE_CALL, Outcome, Setup, System
from dszig_py.evals.tasks import Example, Score, Task
from dszig_py.lm.base import LM, Reply, Request
from dszig_py.lm.journals import Journals
from dszig_py.lm.resumed import Journal
from dszig_py.rlm import RLM
from dszig_py.usage import Budget

__all__ = ["Config", "Job", "Worker", "model", "worker"]

OFF_LOOP = 200_000  # characters of an example above which making and judging it leaves the event loop


@dataclass(frozen=True, slots=True)
class Job:
    """One system on one example, by names, so that it can be sent to another machine."""

    task: str
    length: int
    index: int
    system: str

    @property
    def name(self) -> str:
        """What its journal is known by."""
        return f"{self.system}/{self.task}/{self.length}/{self.index}"

    @classmethod
    def of(cls, row: Row) -> Job:
        """The job that ``row`` came of."""
        return cls(*row.key)


@dataclass(frozen=True)
class Config:
    """Everything a worker needs but the jobs. ``systems``: a name -> itself where it is looked up, else a callable.

    ``concurrency``: model calls in flight in all runs of one worker. ``journals``: the folder where what jobs under way
    were answered is kept, so that a job that was cut off goes on.
    """

    tasks: Sequence[Task]
    systems: Mapping[str, System | str]
    lm: Any
    sub_lm: Any
    seed: int = 0
    budget: Budget = field(default_factory=Budget)
    environment: str | Environment = "auto"
    concurrency: int = 64
    journals: str | None = None


def worker(config: Config, calls: int) -> Callable[[Job], Awaitable[Row]]:
    """What does jobs in a process that may have so many model calls in flight."""
    return Worker(replace(config, concurrency=calls)).run


def model(spec: Any) -> Any:
    """``"reader"`` is the suite's own fake model; anything else is what ``RLM(lm=...)`` takes."""
    return ReaderLM() if spec == "reader" else spec


class _Limited:
    """A model under a limit that all runs of a worker share. What it says of itself besides is the model's own."""

    def __init__(self, lm: LM, limiter: anyio.CapacityLimiter) -> None:
        self._lm, self._limiter = lm, limiter

    @property
    def model(self) -> str:
        return self._lm.model

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_lm"], name)

    async def complete(self, request: Request) -> Reply:
        async with self._limiter:
            return await self._lm.complete(request)


def _journaled(setup: Setup, journal: Journal) -> Setup:
    """The setup with both models behind the journal. It is their replies that are kept, so any system can go on."""
    return replace(setup, lm=journal.around(setup.lm, root=True), sub_lm=journal.around(setup.sub_lm, root=False))


def _system(system: System | str) -> System:
    return systems_.resolve(system)[system] if isinstance(system, str) else system


class Worker:
    """Performs jobs, in one event loop. Raises InputError and SignatureError where nothing can be run at all."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._tasks = {task.name: task for task in config.tasks}
        self._systems = {name: _system(system) for name, system in config.systems.items()}
        limiter = anyio.CapacityLimiter(config.concurrency)
        plan = RLM(
            "a -> b",
            lm=model(config.lm),
            sub_lm=model(config.sub_lm),
            budget=config.budget,
            environment=config.environment,
        ).plan()
        lm, sub_lm = (_Limited(one, limiter) for one in (plan.lms[0], plan.sub_lms[0]))
        self.setup = Setup(lm, sub_lm, config.budget, config.environment)
        self._examples: weakref.WeakValueDictionary[tuple[str, int, int], Example] = weakref.WeakValueDictionary()
        self._making = anyio.Lock()
        self._journals = Journals(config.journals)

    async def run(self, job: Job) -> Row:
        """The row of one job. What a system fails by is in the row; a foreign system may raise anything."""
        task = self._tasks[job.task]
        example = await self._example(task, job)
        # Of one call there is nothing to go on with.
        journal = None if job.system in ONE_CALL else await self._journals.open(job.name)
        outcome = await self._outcome(job, task, example, journal)
        if journal is not None and journal.mismatched:
            # Its code does something else each time (the clock, random numbers): what was paid cannot be used again.
            journal = await self._journals.open(job.name, anew=True)
            outcome = await self._outcome(job, task, example, journal)
        score = task.score(example, outcome.outputs) if outcome.kind != "error" else Score(0.0, outcome.detail)
        resumed = journal is not None and journal.resumed
        return Row.of(example, job.index, job.system, outcome, score, resumed=resumed)

    async def _outcome(self, job: Job, task: Task, example: Example, journal: Journal | None) -> Outcome:
        setup = self.setup if journal is None else _journaled(self.setup, journal)
        started = time.monotonic()
        try:
            return await self._systems[job.system](task, example, setup)
        except DszigError:
            if journal is None or not journal.mismatched:
                raise
            told = "its replies did not fit"
        except Exception as error:
            told = f"{type(error).__name__}: {error}"[:1_000]
        return Outcome({}, "error", "environment", told, seconds=time.monotonic() - started)

    async def _example(self, task: Task, job: Job) -> Example:
        """Made once for all systems that are at it; one at a time, since making is the processor's work."""
        key = (job.task, job.length, job.index)
        async with self._making:
            example = self._examples.get(key)
            if example is None:
                if job.length > OFF_LOOP:
                    example = await anyio.to_thread.run_sync(self._make, task, job)
                else:
                    example = self._make(task, job)
                self._examples[key] = example
        return example

    def _make(self, task: Task, job: Job) -> Example:
        return task.example(job.length, seed=self._config.seed, index=job.index)
