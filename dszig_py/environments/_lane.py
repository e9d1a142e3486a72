"""A thread of its own for blocking work, one job after the other, awaited from an event loop.

Not a pool: work that waits for a nested run would, in a shared one, wait for itself. And what runs here may insist on
being used by one thread only.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import ctypes
import queue
import threading
from collections.abc import Callable
from typing import Any

__all__ = ["Lane", "Stoppable"]


class Lane:
    """``run`` from the event loop; jobs see the caller's context variables. ``stop`` ends the thread."""

    def __init__(self, name: str) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self.thread = threading.Thread(target=self._work, name=name, daemon=True)
        self.thread.start()

    def run(self, function: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        """What ``function(*args)`` will return or raise. Cancelling the future does not stop the thread."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        context = contextvars.copy_context()

        def job() -> None:
            value, error = None, None
            try:
                value = context.run(function, *args)
            except BaseException as raised:
                error = raised
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(_settle, future, value, error)

        self._jobs.put(job)
        return future

    def stop(self) -> None:
        """End the thread after the jobs it has."""
        self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
            del job  # it holds its result, and the next one may be long in coming


class Stoppable:
    """Work that another thread can end by an exception, between ``begin`` and ``finish``, and not after."""

    def __init__(self) -> None:
        self.thread = 0
        self._lock = threading.Lock()
        self._finished = False
        self._stopped: type[BaseException] | None = None

    def begin(self) -> None:
        """Called by the thread that works. Raises what it was stopped with before it began."""
        with self._lock:
            self.thread = threading.get_ident()
            if self._stopped is not None:
                raise self._stopped

    def finish(self) -> None:
        """Called by the same thread: what has not been raised in it yet never will be."""
        with self._lock:
            self._finished = True
            if self._stopped is not None:
                _take_back(self.thread)

    def stop(self, error: type[BaseException]) -> None:
        """Raise ``error`` in the thread at its next bytecode; a call of C code first comes to its end."""
        with self._lock:
            self._stopped = error
            if self.thread and not self._finished:
                _raise_in(self.thread, error)


def _raise_in(thread: int, error: type[BaseException]) -> None:
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(error))


class _TakenBack(BaseException):
    """Raised in the place of what came too late."""


def _take_back(own: int) -> None:
    """What has not been raised in this thread yet is not raised any more.

    Not by the NULL that CPython documents for it: that too sets the process's flag that something is to be raised, which on
    3.11 only an exception that is raised takes away (``Python/ceval_gil.h``). The program's next call under a profiler or a
    debugger would look for it for ever.
    """
    with contextlib.suppress(_TakenBack):
        _raise_in(own, _TakenBack)
        for _ in range(1_000):
            pass


def _settle(future: asyncio.Future[Any], value: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(value)
    elif isinstance(error, (StopIteration, KeyboardInterrupt, SystemExit)):
        # A future takes no StopIteration, and an event loop ends itself on the other two.
        future.set_exception(RuntimeError(f"{type(error).__name__}: {error}"))
    else:
        future.set_exception(error)
