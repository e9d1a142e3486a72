"""Work on the actors of a Ray cluster: each owns runs and their REPL processes, results come back to the driver.

The driver alone writes results and keeps the account; an actor gets a piece of work with its limits and answers with
what came of it. Where an actor is lost, another one takes its place and its work is done again. An evaluation and
``rlm.map`` both stand on this.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, Self, TypeVar

import anyio
import anyio.to_thread

from dszig_py.errors import EnvironmentFailure, InputError

__all__ = ["Actors", "sendable"]

NO_RAY = 'engine="ray" needs Ray: pip install "dszig-py[ray]"'
ATTEMPTS = 3  # of one piece of work, where actor after actor is lost

Work = TypeVar("Work")
Result = TypeVar("Result")
Make = Callable[[int], Callable[[Work], Awaitable[Result]]]


@dataclass(eq=False)
class _Slot:
    """An actor's place: the actor that fills it now, and how many pieces of work it has."""

    actor: Any
    jobs: int = 0


class Actors(Generic[Work, Result]):
    """Work on actors, the least busy first. Uses the Ray of the caller where it is initialized, else starts or joins one.

    ``make``: called once in each actor, on its event loop, with the model calls that it may have in flight; what it gives
    does one piece of work. ``width``: pieces under way at a time. ``calls``: model calls in flight in all actors together.
    ``workers``: how many actors (default: one a processor of the cluster), one processor each.
    """

    def __init__(self, make: Make[Work, Result], *, width: int, calls: int, workers: int | None = None) -> None:
        self._ray, self._exceptions = _ray()
        self._make, self._width, self._calls, self._workers = make, width, calls, workers
        self._slots: list[_Slot] = []
        self._started = False
        # Ray has its servers die with the thread that starts them (prctl(2), PR_SET_PDEATHSIG), and anyio ends its threads
        # after ten idle seconds.
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="dszig-ray")

    async def __aenter__(self) -> Self:
        await anyio.to_thread.run_sync(lambda: self._starter.submit(self._start).result())
        return self

    def _start(self) -> None:
        ray = self._ray
        if not ray.is_initialized():
            ray.init(address=os.environ.get("RAY_ADDRESS"), include_dashboard=False, log_to_driver=False)
            self._started = True
        count = self._workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
        count = min(count, self._width, self._calls)
        self._share = self._calls // count  # rounded down: the sum keeps to the limit
        # One more at a time than it has work, so that asking how it is never waits behind that.
        self._class: Any = ray.remote(num_cpus=1, max_concurrency=-(-self._width // count) + 1)(_Actor)
        self._slots = [_Slot(self._new()) for _ in range(count)]

    def _new(self) -> Any:
        return self._class.remote(self._make, self._share)

    async def __aexit__(self, *_: object) -> None:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self._stop)

    def _stop(self) -> None:
        for slot in self._slots:
            self._ray.kill(slot.actor)
        if self._started:
            self._ray.shutdown()
        self._starter.shutdown(wait=False)

    async def run(self, work: Work) -> Result:
        """What came of ``work``, on another actor where the first one is lost.

        Raises :class:`InputError` for work that cannot be sent, :class:`EnvironmentFailure` where actor after actor is
        lost, and what the work raised.
        """
        lost: Exception | None = None
        for _ in range(ATTEMPTS):
            slot = min(self._slots, key=lambda one: one.jobs)
            actor = slot.actor
            slot.jobs += 1
            try:
                return await (await self._sent(actor, work))
            except self._exceptions.RayActorError as error:
                lost = error
                if slot.actor is actor:  # the first of its work to learn of it fills the place
                    slot.actor = self._new()
            except self._exceptions.RayTaskError as error:
                raise getattr(error, "cause", None) or error from None
            finally:
                slot.jobs -= 1
        raise EnvironmentFailure(f"{ATTEMPTS} actors in a row were lost over {work!r:.200}: {lost}")

    async def _sent(self, actor: Any, work: Work) -> Any:
        """Off the event loop: what is sent is pickled first, and an input may be a hundred megabytes."""
        try:
            return await anyio.to_thread.run_sync(actor.run.remote, work)
        except (TypeError, AttributeError, ValueError) as error:  # pickle's own, by the kind of value it meets
            raise InputError(f"this cannot be sent to Ray's actors: {_first_line(error)}") from error


class _Actor:
    """What does the work, in a process of its own; its limiters belong to the actor's event loop."""

    def __init__(self, make: Make[Any, Any], calls: int) -> None:
        self._make, self._calls = make, calls
        self._do: Callable[[Any], Awaitable[Any]] | None = None

    async def run(self, work: Any) -> Any:
        if self._do is None:
            self._do = self._make(self._calls)
        return await self._do(work)


def sendable(value: Any) -> str:
    """Why ``value`` cannot be sent to another process; nothing where it can. Raises :class:`InputError` without Ray."""
    _ray()
    pickle: Any = importlib.import_module("ray.cloudpickle")
    try:
        pickle.dumps(value)
    except Exception as error:  # pickling runs code of whatever it meets
        return _first_line(error)
    return ""


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0]


def _ray() -> tuple[Any, Any]:
    try:
        return importlib.import_module("ray"), importlib.import_module("ray.exceptions")
    except ImportError as error:
        raise InputError(NO_RAY) from error
