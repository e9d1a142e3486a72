"""Events of one run as an iterator: sync or async, context manager either way, stopped by leaving it.

An object over a queue rather than a generator: a generator that yields inside a task group breaks on ``break``, because
its cancel scope is then left in another task (measured with anyio). A slow reader never slows the run: events wait in the
queue, and past ``events.BACKLOG`` those are left out that a later one makes up for.
"""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Callable, Coroutine
from typing import Any, Self

from dszig_py import portal
from dszig_py.events import Event, RunFinished, worth_keeping
from dszig_py.trajectory import Prediction

__all__ = ["AsyncStream", "Stream"]

Begin = Callable[[Callable[[Event], None]], Coroutine[Any, Any, Prediction]]
_END = object()


class Stream:
    """Iterates over the events of a run on the background loop; the last one is a :class:`RunFinished`."""

    def __init__(self, begin: Begin) -> None:
        self._events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._over = False
        self._task = portal.Task(self._run, (begin,))
        try:
            self._task.begin()
        except BaseException:  # Ctrl-C: nobody would have the run that has begun
            self.close()
            raise

    async def _run(self, begin: Begin) -> None:
        try:
            await begin(self._keep)
        finally:
            self._events.put(_END)

    def _keep(self, event: Event) -> None:
        if worth_keeping(event, self._events.qsize()):
            self._events.put(event)

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> Event:
        if self._over:
            raise StopIteration
        try:
            event = portal.take(self._events)
        except BaseException as error:
            # Ctrl-C: a notebook keeps its traceback and with it this object, so the run would go on.
            self.close()
            error.prediction = getattr(self._task.error, "prediction", None)  # type: ignore[attr-defined]  # as any call's
            raise
        if event is _END:
            self._over = True
            self._task.result()  # raises what ended the run, if anything did
            raise StopIteration
        return event

    def close(self) -> None:
        """Stop the run if it still goes, and wait for its clean-up."""
        self._over = True
        self._task.cancel()
        self._task.wait(10)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if not self._over:
            self._over = True
            self._task.cancel()


class AsyncStream:
    """The same on the caller's own loop. The run starts with the first event asked for."""

    def __init__(self, begin: Begin) -> None:
        self._begin = begin
        self._events: asyncio.Queue[Any] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    async def _run(self) -> None:
        try:
            await self._begin(self._keep)
        finally:
            self._events.put_nowait(_END)

    def _keep(self, event: Event) -> None:
        if worth_keeping(event, self._events.qsize()):
            self._events.put_nowait(event)

    def __aiter__(self) -> AsyncStream:
        return self

    async def __anext__(self) -> Event:
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())
        elif self._task.done() and self._events.empty():
            raise StopAsyncIteration
        event = await self._events.get()
        if event is _END:
            await self._task
            raise StopAsyncIteration
        return event

    async def aclose(self) -> None:
        """Stop the run if it still goes, and wait for its clean-up."""
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task])

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __del__(self) -> None:
        if self._task is not None and not self._task.done() and not self._task.get_loop().is_closed():
            self._task.get_loop().call_soon_threadsafe(self._task.cancel)


def is_last(event: Event) -> bool:
    """Whether ``event`` ends the root run and carries its prediction."""
    return isinstance(event, RunFinished) and event.depth == 0
