"""One RLM over many inputs: side by side, under one budget, each result on disk before the next is begun."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import queue
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

import anyio
import anyio.to_thread

from dszig_py import portal
from dszig_py.environments._worker import codec
from dszig_py.errors import DszigError, InputError
from dszig_py.lm.gate import Gate
from dszig_py.runner import Shared
from dszig_py.trajectory import Prediction, Termination
from dszig_py.usage import Budget, Ledger, Usage
from dszig_py.validation import coerce

if TYPE_CHECKING:
    from dszig_py.rlm import RLM

__all__ = ["Corpus", "Mapped"]

SCHEMA = "dszig.map/1"
_END = object()


@dataclass(frozen=True)
class Mapped:
    """What came of one element. ``index``: its place among the inputs.

    ``prediction`` is ``None`` where the result was read from a file, and where the run failed, which ``error`` then tells.
    Elements that the budget did not suffice for are left out.
    """

    index: int
    outputs: Mapping[str, Any]
    termination: Termination
    usage: Usage = field(default_factory=Usage)
    error: str = ""
    prediction: Prediction | None = field(default=None, repr=False)

    @property
    def failed(self) -> bool:
        """Whether something else than the model failed: a rerun tries it again."""
        return self.termination.kind == "error" and self.termination.cause in ("provider", "environment")


class Corpus:
    """Results of ``rlm.map(...)`` as they end: an iterator, sync or async; leaving it stops the runs under way.

    ``ordered``: in the order of the inputs, each held back until those before it are there. ``budget``: of all runs together
    (``max_llm_calls``, ``max_tokens``, ``max_cost``, ``max_seconds``); a run's own is the RLM's. ``stopped`` says which limit
    kept elements from being run. ``path``: a JSONL file; elements that are in it are not run again.

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
    ) -> None:
        if max_concurrency < 1:
            raise InputError("max_concurrency must be at least 1")
        self._rlm, self._inputs = rlm, enumerate(inputs)
        self._width, self._ordered = max_concurrency, ordered
        self._total = len(cast("list[Any]", inputs)) if hasattr(inputs, "__len__") else None
        plan = rlm.plan()  # raises for whatever cannot be run at all
        self._budget = budget or Budget(max_iters=None, max_llm_calls=None)
        self._calls_in_flight = (budget or plan.budget).max_concurrency
        self._log = _Log(path, str(rlm.signature))
        self._progress = progress
        self.stopped = ""
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._task: Any = None

    async def _run(self, tell: Callable[[Any], None]) -> None:
        """All elements, each told as it ends (or in order), then the end."""
        ledger = Ledger(self._budget)
        shared = Shared(ledger, Gate(self._calls_in_flight))
        self._taking = anyio.Lock()
        line = _InOrder(tell) if self._ordered else tell
        bar = _bar(self._total) if self._progress else None
        try:
            async with anyio.create_task_group() as group:
                for _ in range(self._width):
                    group.start_soon(self._work, shared, line, bar, group.cancel_scope)
        finally:
            self._log.close()
            if bar is not None:
                bar.close()

    async def _work(self, shared: Shared, tell: Callable[[Any], None], bar: Any, group: anyio.CancelScope) -> None:
        while not self.stopped:
            try:
                async with self._taking:  # a generator cannot be asked from two threads
                    index, inputs = await anyio.to_thread.run_sync(next, self._inputs, (None, None))
                if index is None or inputs is None:
                    return
                if (over := shared.ledger.over) is not None:
                    self.stopped = over
                    return
                mapped = await self._one(index, inputs, shared)
            except Exception as error:  # the iterator's own, or an input that does not fit: whoever iterates gets it
                self.stopped = f"{type(error).__name__}: {error}"
                tell(error)
                group.cancel()
                return
            tell(mapped)
            if bar is not None:
                bar.update()

    async def _one(self, index: int, inputs: Mapping[str, Any], shared: Shared) -> Mapped:
        key = await anyio.to_thread.run_sync(_key, inputs)
        if (known := self._log.known(index, key, self._rlm)) is not None:
            return known
        try:
            prediction = await self._rlm._run(inputs, shared=shared)
            mapped = Mapped(index, prediction.outputs, prediction.termination, prediction.usage, "", prediction)
        except InputError:
            raise
        except DszigError as error:
            ended: Prediction | None = getattr(error, "prediction", None)
            termination = Termination("error", "caller", str(error)) if ended is None else ended.termination
            usage = Usage() if ended is None else ended.usage
            mapped = Mapped(index, {}, termination, usage, f"{type(error).__name__}: {error}")
        await anyio.to_thread.run_sync(self._log.add, key, mapped)
        return mapped

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
        self._log.close()

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


class _Log:
    """Results by place and inputs, in a JSONL file whose first line says of what signature."""

    def __init__(self, path: str | os.PathLike[str] | None, signature: str) -> None:
        self._rows: dict[tuple[int, str], dict[str, Any]] = {}
        self._fd: int | None = None
        if path is None:
            return
        place = Path(path).expanduser()
        place.parent.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(place, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._read(place, signature)
        except BlockingIOError:
            self.close()
            raise InputError(f"{place}: another process is writing to it") from None
        except BaseException:
            self.close()
            raise

    def _read(self, path: Path, signature: str) -> None:
        assert self._fd is not None
        data = path.read_bytes()
        whole = data.rfind(b"\n") + 1
        os.ftruncate(self._fd, whole)  # the last writer may have been killed within a line
        if not whole:
            self._write({"schema": SCHEMA, "signature": signature})
            return
        head, *rows = data[:whole].splitlines()
        try:
            read = cast("dict[str, Any]", codec.loads(head))
            if (read["schema"], read["signature"]) != (SCHEMA, signature):
                raise ValueError(f"it holds results of {read['signature']!r} ({read['schema']})")
            for row in map(codec.loads, rows):
                self._rows[row["index"], row["key"]] = row
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} cannot be gone on with: {error}; give another path, or remove it") from None

    def known(self, index: int, key: str, rlm: RLM) -> Mapped | None:
        """The result of an earlier time, its outputs typed again."""
        row = self._rows.get((index, key))
        if row is None:
            return None
        given = codec.decode(row["outputs"], records=codec.plain_record)
        types = {f.name: f.type for f in rlm.signature.outputs}
        outputs = {n: value if value is None else coerce(types[n], value) for n, value in given.items()}
        usage = Usage(**row["usage"])
        mapped = Mapped(index, outputs, Termination(*row["termination"]), usage, row["error"])
        return None if mapped.failed else mapped

    def add(self, key: str, mapped: Mapped) -> None:
        """Keep a result; it is in the file when this returns."""
        why, usage = mapped.termination, mapped.usage
        row = {
            "index": mapped.index,
            "key": key,
            "outputs": codec.encode(dict(mapped.outputs)),
            "termination": [why.kind, why.cause, why.detail],
            "usage": {n: getattr(usage, n) for n in ("calls", "input_tokens", "output_tokens", "cost", "seconds")},
            "error": mapped.error,
        }
        if self._fd is not None:
            self._write(row)

    def _write(self, row: Mapping[str, Any]) -> None:
        assert self._fd is not None
        line = codec.dumps(dict(row)) + b"\n"
        while line:
            line = line[os.write(self._fd, line) :]

    def close(self) -> None:
        """Let go of the file. May be called twice."""
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)


def _key(inputs: Mapping[str, Any]) -> str:
    """What inputs are known by: a digest of their values, so that an element that was changed is run again."""
    digest = hashlib.sha256()
    for name in sorted(inputs):
        digest.update(name.encode())
        value = inputs[name]
        text = value if isinstance(value, str) else codec.dumps(codec.encode(value)).decode("ascii")
        digest.update(text.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:32]


def _bar(total: int | None) -> Any:
    from tqdm.auto import tqdm

    return tqdm(total=total, unit="run")
