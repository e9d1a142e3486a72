"""The elements of a corpus, one after another, from whatever the caller gave."""

from __future__ import annotations

import asyncio
import contextvars
import queue
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast

from dszig_py.errors import InputError

__all__ = ["Inputs", "Raised", "checked"]

Numbered = Iterator[tuple[int, Any]]


@dataclass(frozen=True)
class Raised:
    """What the caller's iterator raised: a value, since a KeyboardInterrupt of its would end the event loop of all runs."""

    error: BaseException


class Inputs:
    """Elements with their places, as they are asked for. A list is asked on the event loop; what may take its time to make
    an element has a thread of its own, always the same one: a generator may hold what belongs to a thread (an SQLite
    connection), and it may wait for other runs, so it takes none of the threads that they need.
    """

    def __init__(self, inputs: Iterable[Any]) -> None:
        self.total = len(cast("list[Any]", inputs)) if hasattr(inputs, "__len__") else None
        self._items: Numbered = enumerate(inputs)
        self._at_hand = isinstance(inputs, (list, tuple))
        self._asked: queue.SimpleQueue[asyncio.Future[Any] | None] | None = None

    async def next(self) -> tuple[int, Any] | Raised | None:
        """The next one, ``None`` at the end. May be asked again while an answer is awaited."""
        if self._at_hand:
            return next(self._items, None)
        if self._asked is None:
            self._asked = queue.SimpleQueue()
            # A daemon: a generator that waits for ever is not to keep the process from ending.
            work = contextvars.copy_context().run
            args = (_answer, self._items, self._asked)
            threading.Thread(target=work, args=args, name="dszig-inputs", daemon=True).start()
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._asked.put(future)
        return await future

    def end(self) -> None:
        """Nothing is asked any more."""
        if self._asked is not None:
            self._asked.put(None)


def _answer(items: Numbered, asked: queue.SimpleQueue[asyncio.Future[Any] | None]) -> None:
    while (future := asked.get()) is not None:
        if future.cancelled():  # nobody is there for the element: it is the caller's still
            continue
        try:
            found: Any = _own(next(items, None))
        except BaseException as error:
            found = Raised(error)
        with suppress(RuntimeError):  # its loop has been closed
            future.get_loop().call_soon_threadsafe(_settle, future, found)


def _own(found: tuple[int, Any] | None) -> Any:
    """With a dict of its own: a generator may fill the same one again for the next element."""
    if found is None or not isinstance(found[1], Mapping):
        return found
    return found[0], dict(cast("Mapping[Any, Any]", found[1]))


def _settle(future: asyncio.Future[Any], found: Any) -> None:
    if not future.done():
        future.set_result(found)


def checked(index: int, inputs: Any) -> Mapping[str, Any]:
    """An element that is inputs by name. Raises :class:`InputError`."""
    if not isinstance(inputs, Mapping):
        raise InputError(f"element {index} is a {type(inputs).__name__}, not a dict of inputs by name")
    for name in cast("Mapping[Any, Any]", inputs):
        if not isinstance(name, str):
            raise InputError(f"element {index} has an input whose name is no text: {name!r:.80}")
    return cast("Mapping[str, Any]", inputs)
