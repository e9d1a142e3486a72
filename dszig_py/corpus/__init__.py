"""One RLM over many inputs: side by side, under one budget, each result on disk before the next is begun."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Self, cast

import anyio
import anyio.to_thread

from dszig_py import portal
from dszig_py.corpus._engines import Element, Engine, Here, OnRay
from dszig_py.corpus._results import Log, Mapped, key_of
from dszig_py.errors import InputError
from dszig_py.lm.journals import Journals
from dszig_py.usage import Budget

if TYPE_CHECKING:
    import os

    from dszig_py.rlm import RLM

__all__ = ["Corpus", "Mapped"]

_END = object()


class Corpus:
    """Results of ``rlm.map(...)`` as they end: an iterator, sync or async; leaving it stops the runs under way.

    ``ordered``: in the order of the inputs, each held back until those before it are there. ``budget``: of all runs together
    (``max_llm_calls``, ``max_tokens``, ``max_cost``, ``max_seconds``, as far as they are given); a run's own is the RLM's.
    ``stopped`` says which limit kept elements from being run. ``path``: a JSONL file; elements that are in it are not run
    again, and those that were under way when the process ended go on from where they were (what that needs is in the folder
    ``<path>.runs`` meanwhile: whole prompts and replies).

    ``engine``: "local", or "ray": the actors of a Ray cluster, so many ``workers`` (default: one a processor). An RLM is
    pickled for them, so its models are best given as text. What a lost actor had under way is run again on another one, and
    goes on from where it was where ``path`` is on a file system of both. Before a run begins there, its own limit of each
    kind that ``budget`` has is put aside, so that all together never pass it.

    Inputs are taken as they are needed, so that they may be endless and need not fit into memory.
    """

    def __init__(
        self,
        rlm: RLM,
        inputs: Iterable[Mapping[str, Any]],
        *,
        max_concurrency: int = 8,
        ordered: bool = False,
        budget: Budget | None = None,
        path: str | os.PathLike[str] | None = None,
        progress: bool = False,
        engine: str = "local",
        workers: int | None = None,
    ) -> None:
        if max_concurrency < 1:
            raise InputError("max_concurrency must be at least 1")
        self._rlm, self._inputs = rlm, enumerate(inputs)
        self._width, self._ordered = max_concurrency, ordered
        self._at_hand = isinstance(inputs, (list, tuple))
        self._total = len(cast("list[Any]", inputs)) if hasattr(inputs, "__len__") else None
        plan = rlm.plan()  # raises for whatever cannot be run at all
        calls = (budget or plan.budget).max_concurrency
        self._log, self._journals = Log(path, str(rlm.signature)), Journals(None)
        try:
            self._journals = Journals.beside(path)
            self._engine = _engine(engine, rlm, _as_given(budget), calls, self._journals, max_concurrency, workers)
        except BaseException:
            self._end()
            raise
        self._progress = progress
        self.stopped = ""
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._task: Any = None

    async def _run(self, tell: Callable[[Any], None]) -> None:
        """All elements, each told as it ends (or in order), then the end."""
        self._taking = anyio.Lock()
        line = _InOrder(tell) if self._ordered else tell
        bar = _bar(self._total) if self._progress else None
        try:
            async with self._engine, anyio.create_task_group() as group:
                for _ in range(self._width):
                    group.start_soon(self._work, line, bar, group.cancel_scope)
            if isinstance(line, _InOrder):
                line.rest()
        finally:
            self._end()
            if bar is not None:
                bar.close()

    async def _work(self, tell: Callable[[Any], None], bar: Any, group: anyio.CancelScope) -> None:
        while not self.stopped:
            try:
                index, inputs = await self._taken()
                if index is None or inputs is None:
                    return
                mapped = await self._one(index, inputs)
            except Exception as error:  # the iterator's own, or an input that does not fit: whoever iterates gets it
                self.stopped = f"{type(error).__name__}: {error}"
                tell(error)
                group.cancel()
                return
            if mapped is None:
                return
            tell(mapped)
            if bar is not None:
                bar.update()

    async def _taken(self) -> tuple[int | None, Mapping[str, Any] | None]:
        """The next element, or nothing. What is no list may take its time to make one: that is done in a thread."""
        if self._at_hand:
            return next(self._inputs, (None, None))
        async with self._taking:  # a generator cannot be asked from two threads
            return await anyio.to_thread.run_sync(next, self._inputs, (None, None))

    async def _one(self, index: int, inputs: Mapping[str, Any]) -> Mapped | None:
        """What came of one element, now or an earlier time; ``None`` where the budget is over."""
        if not isinstance(cast(object, inputs), Mapping):
            kind = type(cast(object, inputs)).__name__
            raise InputError(f"element {index} is a {kind}, not a dict of inputs by name")
        # In a thread for large inputs, and only where it is used: between threads an event loop under load waits.
        key = await anyio.to_thread.run_sync(key_of, inputs) if self._log.kept else ""
        element = Element(index, key, inputs)
        if (known := self._log.known(index, element.key, self._rlm)) is not None:
            self._journals.drop(element.name)  # the process may have been killed between the two
            return known
        if over := await self._engine.over():
            self.stopped = over
            return None
        mapped = await self._engine.run(element)
        if self._log.kept:
            await anyio.to_thread.run_sync(self._log.add, element.key, mapped)
        if not mapped.failed:  # what a provider failed at goes on from there when it is tried again
            self._journals.drop(element.name)
        return mapped

    def _end(self) -> None:
        self._log.close()
        self._journals.close()

    def __iter__(self) -> Iterator[Mapped]:
        return self

    def __next__(self) -> Mapped:
        if self._task is None:
            self._task = portal.start(self._to_end, self._queue.put)
        item = self._queue.get()
        if item is _END:
            self._queue.put(_END)
            self._task.result()
        return self._given(item, StopIteration)

    async def _to_end(self, put: Callable[[Any], None]) -> None:
        try:
            await self._run(put)
        finally:
            put(_END)

    def _given(self, item: Any, end: type[Exception]) -> Mapped:
        if item is _END:
            raise end
        if isinstance(item, Exception):
            raise item
        return item

    def close(self) -> None:
        """Stop the runs under way, and wait for their clean-up. What has ended is in the file."""
        if self._task is not None:
            self._task.cancel()
            self._task.wait(10)
        self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __aiter__(self) -> AsyncIterator[Mapped]:
        return _Async(self)


class _Async:
    """The same on the caller's own event loop."""

    def __init__(self, corpus: Corpus) -> None:
        self._corpus = corpus
        self._items: asyncio.Queue[Any] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Mapped:
        if self._task is None:
            self._task = asyncio.create_task(self._corpus._to_end(self._items.put_nowait))
        item = await self._items.get()
        if item is _END:
            self._items.put_nowait(_END)
            await self._task
        return self._corpus._given(item, StopAsyncIteration)

    def __del__(self) -> None:
        if self._task is not None and not self._task.done() and not self._task.get_loop().is_closed():
            self._task.get_loop().call_soon_threadsafe(self._task.cancel)


class _InOrder:
    """Holds results back until those before them have been told."""

    def __init__(self, tell: Callable[[Any], None]) -> None:
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


def _as_given(budget: Budget | None) -> Budget:
    """The limits that somebody set: the defaults are those of one run, and fifty calls are little for a thousand."""
    given = budget or Budget()
    own = {"max_iters", "max_llm_calls"} - given.model_fields_set
    return given.model_copy(update=dict.fromkeys(own))


def _engine(
    name: str, rlm: RLM, budget: Budget, calls: int, journals: Journals, width: int, workers: int | None
) -> Engine:
    if name == "local":
        return Here(rlm, budget, calls, journals)
    if name == "ray":
        return OnRay(rlm, budget, calls, journals, width=width, workers=workers)
    raise InputError(f'engine is "local" or "ray", not {name!r}')
