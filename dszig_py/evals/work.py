"""One process's part of an evaluation: makes an example, runs a system on it, judges it. Also what an actor holds."""

from __future__ import annotations

import time
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import anyio
import anyio.to_thread

from dszig_py.environments.base import Environment
from dszig_py.errors import DszigError
from dszig_py.evals import systems as systems_
from dszig_py.evals.reader import ReaderLM
from dszig_py.evals.store import Row
from dszig_py.evals.systems import Outcome, Setup, System
from dszig_py.evals.tasks import Example, Score, Task
from dszig_py.lm.base import LM, Reply, Request
from dszig_py.rlm import RLM
from dszig_py.usage import Budget

__all__ = ["Config", "Job", "Worker", "model"]

OFF_LOOP = 200_000  # characters of an example above which making and judging it leaves the event loop


@dataclass(frozen=True, slots=True)
class Job:
    """One system on one example, by names, so that it can be sent to another machine."""

    task: str
    length: int
    index: int
    system: str


@dataclass(frozen=True)
class Config:
    """Everything a worker needs but the jobs. ``systems``: a name -> itself where it is looked up, else a callable.

    ``concurrency``: model calls in flight in all runs of one worker.
    """

    tasks: Sequence[Task]
    systems: Mapping[str, System | str]
    lm: Any
    sub_lm: Any
    seed: int = 0
    budget: Budget = field(default_factory=Budget)
    environment: str | Environment = "auto"
    concurrency: int = 64


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

    async def run(self, job: Job) -> Row:
        """The row of one job. What a system fails by is in the row; a foreign system may raise anything."""
        task = self._tasks[job.task]
        example = await self._example(task, job)
        started = time.monotonic()
        try:
            outcome = await self._systems[job.system](task, example, self.setup)
        except DszigError:
            raise
        except Exception as error:
            told = f"{type(error).__name__}: {error}"[:1_000]
            outcome = Outcome({}, "error", "environment", told, seconds=time.monotonic() - started)
        score = task.score(example, outcome.outputs) if outcome.kind != "error" else Score(0.0, outcome.detail)
        return Row.of(example, job.index, job.system, outcome, score)

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
