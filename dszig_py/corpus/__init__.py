"""One RLM over many inputs: side by side, under one budget, each result on disk before the next is begun."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Self

from dszig_py import portal
from dszig_py.arguments import check_counts
from dszig_py.corpus._engines import Engine, Here, OnRay
from dszig_py.corpus._inputs import Inputs, Raised
from dszig_py.corpus._results import Log, Mapped
from dszig_py.corpus._work import END, Kept, Work
from dszig_py.errors import InputError
from dszig_py.lm.journals import Journals
from dszig_py.usage import Budget

if TYPE_CHECKING:
    import os

    from dszig_py.rlm import RLM

__all__ = ["Corpus", "Mapped"]


class Corpus:
    """Results of ``rlm.map(...)`` as they end: an iterator, sync or async; leaving it stops the runs under way.

    It is left by its ``with`` or ``async with``, by ``close()`` or ``aclose()``, by Ctrl-C while it is waited for, and where
    nobody has it any more. Several threads (or several tasks) may take from one; each result goes to one of them.

    ``ordered``: in the order of the inputs, each held back until those before it are there. ``budget``: of all runs together
    (``max_llm_calls``, ``max_tokens``, ``max_cost``, ``max_seconds``, as far as they are given); a run's own is the RLM's.
    ``stopped`` says which limit kept elements from being run. ``path``: a JSONL file; elements that are in it are not run
    again, and those that were under way when the process ended go on from where they were (what that needs is in the folder
    ``<path>.runs`` meanwhile: whole prompts and replies).

    ``engine``: "local", or "ray": the actors of a Ray cluster, so many ``workers`` (default: one a processor). An RLM is
    pickled for them, so its models are best given as text. What a lost actor had under way is run again on another one, and
    goes on from where it was where ``path`` is on a file system of both. Before a run begins there, its own limit of each
    kind that ``budget`` has is put aside, so that all together never pass it.

    Inputs are taken as they are needed, so that they may be endless and need not fit into memory: a thousand results may wait
    to be taken, and until then no further run is begun. What is no list is asked for its elements in a thread of its own.
    A ``File`` or a ``Folder`` in an element counts as changed with its path, its size or its time.
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
        check_counts(max_concurrency=max_concurrency, workers=1 if workers is None else workers)
        elements = Inputs(inputs)
        plan = rlm.plan()  # raises for whatever cannot be run at all
        calls = (budget or plan.budget).max_concurrency
        kept = _kept(path, str(rlm.signature))
        try:
            runs = _engine(engine, rlm, _as_given(budget), calls, kept.journals, max_concurrency, workers)
        except BaseException:
            kept.close()
            raise
        self._work = Work(rlm.signature, elements, runs, kept, max_concurrency, ordered, progress)
        self._lock = threading.Lock()
        self._results: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._task: portal.Task[None] | None = None
        self._arrived: asyncio.Queue[Any] = asyncio.Queue()  # the same on the caller's own event loop
        self._here: asyncio.Task[None] | None = None

    @property
    def stopped(self) -> str:
        """Why elements were not run: the limit of ``budget``, or what was raised; nothing where all of them were."""
        return self._work.stopped

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Mapped:
        try:
            task = self._begun()
            item = portal.take(self._results)
        except BaseException:
            # Ctrl-C: a notebook keeps its traceback and with it this object, so the runs would go on.
            if self._task is not None:
                self.close()
            raise
        if item is END:
            self._results.put(END)
            task.result()  # raises what ended them, if anything did
            raise StopIteration
        self._took()
        if isinstance(item, Raised):
            self.close()  # so that whoever mends it can begin again at once, with the same file
            raise item.error
        return item

    def _begun(self) -> portal.Task[None]:
        with self._lock:
            if self._here is not None:
                raise RuntimeError("these results are being taken on an event loop; go on there, with async for")
            if self._task is None:
                self._task = portal.Task(self._work.to_end, (self._results.put,))
                self._task.begin()
            return self._task

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Mapped:
        here = self._begun_here()
        item = await self._arrived.get()
        if item is END:
            self._arrived.put_nowait(END)
            if not here.done():
                await asyncio.wait([here])
            if not here.cancelled():  # with its event loop, where that came to its end first
                here.result()
            raise StopAsyncIteration
        self._took()
        if isinstance(item, Raised):
            await self.aclose()
            raise item.error
        return item

    def _begun_here(self) -> asyncio.Task[None]:
        with self._lock:
            if self._task is not None:
                raise RuntimeError("these results are being taken by a thread; go on there, with for")
            if self._here is not None and not self._here.done():
                if self._here.get_loop() is not asyncio.get_running_loop():
                    raise RuntimeError("these results are being taken on another event loop")
            elif self._here is None:
                self._here = asyncio.create_task(self._work.to_end(self._arrived.put_nowait))
            return self._here

    def _took(self) -> None:
        with self._lock:
            self._work.took()

    def close(self) -> None:
        """Stop the runs under way, and wait for their clean-up. What has ended is in the file."""
        self._work.leave()
        if self._task is not None:
            self._task.wait(10)

    async def aclose(self) -> None:
        """The same on the event loop that takes the results."""
        self._work.leave()
        if self._here is not None:
            if not self._here.done():
                await asyncio.wait([self._here])
        elif self._task is not None:
            await asyncio.to_thread(self._task.wait, 10)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __del__(self) -> None:
        if work := getattr(self, "_work", None):  # it has none where it could not be made
            work.leave()


def _kept(path: str | os.PathLike[str] | None, signature: str) -> Kept:
    log = Log(path, signature)
    try:
        return Kept(log, Journals.beside(path))
    except BaseException:
        log.close()
        raise


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
