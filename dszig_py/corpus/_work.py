"""The runs of a corpus, side by side on one event loop: what ends is told, what is left is stopped."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import anyio
import anyio.to_thread

from dszig_py.corpus._engines import Element, Engine
from dszig_py.corpus._inputs import Inputs, Raised, checked
from dszig_py.corpus._results import Log, Mapped, key_of
from dszig_py.errors import InputError
from dszig_py.lm.journals import Journals
from dszig_py.signature import Signature

__all__ = ["AHEAD", "END", "Kept", "Work"]

END = object()
AHEAD = 1_000  # results that nobody has taken yet; with more, no further run is begun

Tell = Callable[[Any], None]


@dataclass(frozen=True)
class Kept:
    """What is on disk: results, and journals of the runs under way."""

    log: Log
    journals: Journals

    def close(self) -> None:
        """Let go of both. May be called twice."""
        self.journals.close()  # first: with the file its lock goes, and another map may have made the folder anew
        self.log.close()


class Work:
    """All elements of a corpus on the way to their results. Knows nothing of who takes these, so that it does not keep a
    :class:`Corpus` alive that nobody has any more.
    """

    def __init__(
        self,
        signature: Signature,
        inputs: Inputs,
        engine: Engine,
        kept: Kept,
        width: int,
        ordered: bool,
        progress: bool,
    ) -> None:
        self._signature, self._inputs, self._engine, self._kept = signature, inputs, engine, kept
        self._width, self._ordered, self._progress = width, ordered, progress
        self.stopped = ""
        self._pid = os.getpid()
        self._left = self._over = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._scope: anyio.CancelScope | None = None
        self._begun = self._taken = 0
        self._room: asyncio.Event | None = None  # where a worker waits for results to be taken

    async def to_end(self, put: Tell) -> None:
        """Every result, or the exception that ended it all, and then ``END``."""
        try:
            with anyio.CancelScope() as scope:
                self._scope, self._loop = scope, asyncio.get_running_loop()
                if not self._left:
                    await self._run(put)
        except anyio.get_cancelled_exc_class():
            self.stopped = self.stopped or "cancelled"
            raise
        finally:
            self._end()
            self._over = True
            put(END)

    @property
    def over(self) -> bool:
        """Whether nothing is under way any more."""
        return self._over

    def leave(self) -> None:
        """Stop the runs under way, and begin no more. From any thread, at any time, does not wait."""
        if self._pid != os.getpid():  # a fork's copy: file, folder and event loop are its parent's
            return
        self._left = True  # before the loop is looked at: it may just be about to begin
        loop, scope = self._loop, self._scope
        if loop is None or scope is None:
            self._end()
            return
        with suppress(RuntimeError):  # the loop has been closed
            loop.call_soon_threadsafe(scope.cancel)

    def _end(self) -> None:
        self._inputs.end()
        self._kept.close()

    def took(self) -> None:
        """Somebody has taken a result; called by one thread at a time."""
        self._taken += 1
        room, loop = self._room, self._loop
        if room is not None and loop is not None and not room.is_set():
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(room.set)

    async def _run(self, put: Tell) -> None:
        line = _InOrder(put) if self._ordered else put
        bar = _bar(self._inputs.total) if self._progress else None
        try:
            async with self._engine, anyio.create_task_group() as group:
                for _ in range(self._width):
                    group.start_soon(self._work, line, bar, group.cancel_scope)
            if isinstance(line, _InOrder):
                line.rest()
        finally:
            if bar is not None:
                bar.close()

    async def _work(self, tell: Tell, bar: Any, group: anyio.CancelScope) -> None:
        while not self.stopped:
            try:
                mapped = await self._next()
            except Exception as error:  # an input that does not fit, a disk that is full: whoever iterates gets it
                mapped = Raised(error)
            if mapped is None:
                return
            if isinstance(mapped, Raised):
                self.stopped = f"{type(mapped.error).__name__}: {mapped.error}"
                tell(mapped)
                group.cancel()
                return
            tell(mapped)
            if bar is not None:
                bar.update()

    async def _next(self) -> Mapped | Raised | None:
        await self._wanted()
        taken = await self._inputs.next()
        return await self._one(*taken) if isinstance(taken, tuple) else taken

    async def _wanted(self) -> None:
        """Wait while so much has not been taken that more of it would only fill the memory."""
        most = AHEAD + self._width
        while self._begun - self._taken >= most:
            if self._room is None or self._room.is_set():
                self._room = asyncio.Event()
            if self._begun - self._taken >= most:  # still, now that taking says so
                await self._room.wait()
        self._begun += 1

    async def _one(self, index: int, inputs: Any) -> Mapped | None:
        """What came of one element, now or an earlier time; ``None`` where the budget is over."""
        inputs, key = checked(index, inputs), ""
        if self._kept.log.kept:
            # In a thread for large inputs, and only where it is used: between threads an event loop under load waits.
            key = await anyio.to_thread.run_sync(key_of, inputs, self._signature)
        element = Element(index, key, inputs)
        if (known := self._kept.log.known(index, key, self._signature)) is not None:
            self._kept.journals.drop(element.name)  # the process may have been killed between the two
            return known
        if over := await self._engine.over():
            self.stopped = over
            return None
        try:
            mapped = await self._engine.run(element)
        except InputError as error:
            raise InputError(f"element {index}: {error}") from error
        if self._engine.cut_short(mapped):  # a rerun, with more, goes on with it from its journal
            return mapped
        if self._kept.log.kept:
            await anyio.to_thread.run_sync(self._kept.log.add, key, mapped)
        if not mapped.failed:  # what a provider failed at goes on from there when it is tried again
            self._kept.journals.drop(element.name)
        return mapped


class _InOrder:
    """Holds results back until those before them have been told."""

    def __init__(self, tell: Tell) -> None:
        self._tell, self._next, self._held = tell, 0, dict[int, Mapped]()

    def __call__(self, item: Any) -> None:
        if not isinstance(item, Mapped):
            self._tell(item)
            return
        self._held[item.index] = item
        while self._next in self._held:
            self._tell(self._held.pop(self._next))
            self._next += 1

    def rest(self) -> None:
        """Tell those that are held back for one that the budget left out."""
        for index in sorted(self._held):
            self._tell(self._held.pop(index))


def _bar(total: int | None) -> Any:
    from tqdm.auto import tqdm

    return tqdm(total=total, unit="run")
