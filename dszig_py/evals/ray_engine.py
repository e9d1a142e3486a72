"""The same evaluation on a Ray cluster: actors that each own runs and their REPL processes, results back in the driver.

The driver alone writes results and keeps the evaluation's account; an actor gets a job with its budget and answers with
a row. Where an actor is lost, another one takes its place and its jobs are done again.
"""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass, replace
from typing import Any, Self

import anyio
import anyio.to_thread

from dszig_py.errors import EnvironmentFailure, InputError
from dszig_py.evals.store import Row
from dszig_py.evals.work import Config, Job, Worker

__all__ = ["RayEngine"]

NO_RAY = 'engine="ray" needs Ray: pip install "dszig-py[ray]"'
ATTEMPTS = 3  # of one job, where actor after actor is lost


@dataclass(eq=False)
class _Slot:
    """An actor's place: the actor that fills it now, and how many jobs it has."""

    actor: Any
    jobs: int = 0


class RayEngine:
    """Jobs on actors, the least busy first. Uses the Ray of the caller where it is initialized, else starts or joins one.

    ``workers``: how many actors (default: one a processor of the cluster), one processor each.
    """

    def __init__(self, config: Config, workers: int | None = None) -> None:
        try:
            self._ray: Any = importlib.import_module("ray")
            self._exceptions: Any = importlib.import_module("ray.exceptions")
        except ImportError as error:
            raise InputError(NO_RAY) from error
        self._config, self._workers = config, workers
        self._slots: list[_Slot] = []
        self._started = False

    async def __aenter__(self) -> Self:
        await anyio.to_thread.run_sync(self._start)
        return self

    def _start(self) -> None:
        ray = self._ray
        if not ray.is_initialized():
            ray.init(address=os.environ.get("RAY_ADDRESS"), include_dashboard=False, log_to_driver=False)
            self._started = True
        count = self._workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
        count = min(count, self._config.concurrency)
        calls, jobs = self._config.concurrency // count, -(-self._config.concurrency // count)
        self._config = replace(self._config, concurrency=calls)  # rounded down: the sum keeps to the limit
        # One more at a time than it has jobs, so that asking how it is never waits behind them.
        self._class: Any = ray.remote(num_cpus=1, max_concurrency=jobs + 1)(_Actor)
        self._slots = [_Slot(self._class.remote(self._config)) for _ in range(count)]

    async def __aexit__(self, *_: object) -> None:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self._stop)

    def _stop(self) -> None:
        for slot in self._slots:
            self._ray.kill(slot.actor)
        if self._started:
            self._ray.shutdown()

    async def run(self, job: Job) -> Row:
        """The row of one job, on another actor where the first one is lost. Raises :class:`EnvironmentFailure`."""
        lost: Exception | None = None
        for _ in range(ATTEMPTS):
            slot = min(self._slots, key=lambda one: one.jobs)
            actor = slot.actor
            slot.jobs += 1
            try:
                return await actor.run.remote(job)
            except self._exceptions.RayActorError as error:
                lost = error
                if slot.actor is actor:  # the first of its jobs to learn of it fills the place
                    slot.actor = self._class.remote(self._config)
            except self._exceptions.RayTaskError as error:
                raise getattr(error, "cause", None) or error from None
            finally:
                slot.jobs -= 1
        raise EnvironmentFailure(f"{ATTEMPTS} actors in a row were lost over {job}: {lost}")


class _Actor:
    """A worker in a process of its own; its limiter belongs to the actor's event loop."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._worker: Worker | None = None

    async def run(self, job: Job) -> Row:
        if self._worker is None:
            self._worker = Worker(self._config)
        return await self._worker.run(job)
