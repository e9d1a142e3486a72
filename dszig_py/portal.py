"""The synchronous face: one background event loop, on which every sync call runs the same coroutine as the async face.

It works in scripts, in threads, and inside a notebook whose loop already runs. ``contextvars`` of the caller cross over.
The loop lives from the first sync call to the end of the process; a forked child starts its own.

Ctrl-C is the reason for most of what is here. Python raises KeyboardInterrupt between two instructions of the main thread,
so a run may be under way before its starter knows; and a signal that comes just before a thread blocks on a lock is told
only when that lock is given (CPython looks for signals before it waits for the interpreter's own lock, not after). Hence a
task is known before it is begun, nothing waits for the loop to begin it, and the main thread waits in short stretches.
Rejected: anyio's BlockingPortal, whose start of a task waits for the loop without a limit and gives nothing to cancel by.
"""

from __future__ import annotations

import asyncio
import atexit
import contextvars
import os
import queue
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar, cast

import anyio

__all__ = ["Task", "call", "take"]

T = TypeVar("T")
_CLEANUP_SECONDS = 10.0
_STRETCH_SECONDS = 0.2  # how late a signal can be

_lock = threading.Lock()
_background: _Loop | None = None


class _Loop:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._ended = asyncio.Event()
        self.thread = threading.Thread(target=self._serve, name="dszig-loop", daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: self.loop) as runner:
                runner.run(self._until_stopped())  # then what is left is cancelled, and the loop closed
        except RuntimeError:  # Python 3.12 starts no thread at a program's end, not even to wait for asyncio's others
            if threading.main_thread().is_alive():
                raise

    async def _until_stopped(self) -> None:
        await self._ended.wait()

    def soon(self, function: Callable[[], object]) -> None:
        """Have ``function`` called by the loop, in the context of whoever asks, after what was asked for before."""
        self.loop.call_soon_threadsafe(function, context=contextvars.copy_context())

    def stop(self) -> None:
        """End it, and wait for the clean-up of what is under way."""
        if self.thread.is_alive():
            self.soon(self._ended.set)
            self.thread.join(_CLEANUP_SECONDS)


class Task(Generic[T]):
    """``function(*args)`` on the background loop, once :meth:`begin` is called. Nothing it raises reaches the loop, which
    a KeyboardInterrupt would end.
    """

    def __init__(self, function: Callable[..., Awaitable[T]], args: tuple[Any, ...] = ()) -> None:
        self._function, self._args = function, args
        self._ended = threading.Event()
        self._on: _Loop | None = None
        self._scope: anyio.CancelScope | None = None
        self._running: asyncio.Task[None] | None = None
        self._unwanted = False
        self._value: T | None = None
        self.error: BaseException | None = None

    def begin(self) -> None:
        """Start it, or have it never start. Raises ``RuntimeError`` where waiting for it would wait for itself."""
        try:
            self._on = _current()
            self._on.soon(self._spawn)
        except BaseException:
            self.cancel()
            raise

    def _spawn(self) -> None:
        self._running = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        try:
            with anyio.CancelScope() as self._scope:
                if self._unwanted:
                    self._scope.cancel()
                self._value = await self._kept()
        finally:
            self._ended.set()

    async def _kept(self) -> T | None:
        try:
            return await self._function(*self._args)
        except anyio.get_cancelled_exc_class() as error:
            self.error = error
            raise
        except BaseException as error:
            self.error = error
            return None

    def cancel(self) -> None:
        """Ask it to stop; its clean-up still runs. Not begun, it never will be."""
        self._unwanted = True
        try:
            if self._on is not None:
                self._on.soon(self._stop)
                return
        except RuntimeError:  # the loop is closed, and with it whatever was on it
            pass
        self._ended.set()

    def _stop(self) -> None:
        if self._scope is not None:
            self._scope.cancel()
        elif self._running is None:  # whoever began it was interrupted before the loop was told
            self._ended.set()

    def wait(self, timeout: float | None = None) -> bool:
        """Whether it has ended, within ``timeout`` seconds."""
        if threading.current_thread() is not threading.main_thread():
            return self._ended.wait(timeout)
        end = float("inf") if timeout is None else time.monotonic() + timeout
        while not self._ended.wait(min(_STRETCH_SECONDS, max(0.0, end - time.monotonic()))):
            if time.monotonic() >= end:
                return False
        return True

    def result(self) -> T:
        """Its value, or the exception it ended with."""
        self.wait()
        if self.error is not None:
            raise self.error
        return cast("T", self._value)


def call(function: Callable[..., Awaitable[T]], *args: Any) -> T:
    """Run ``function(*args)`` to its end. Ctrl-C cancels it, waits for its clean-up, and propagates with what there is."""
    task = Task(function, args)
    try:
        task.begin()
        return task.result()
    except BaseException as error:
        if error is not task.error:
            task.cancel()
            task.wait(_CLEANUP_SECONDS)
            error.prediction = getattr(task.error, "prediction", None)  # type: ignore[attr-defined]
        raise


def take(items: queue.SimpleQueue[T]) -> T:
    """The next of ``items``, which the background loop puts there. Ctrl-C is raised while waiting for it."""
    if threading.current_thread() is not threading.main_thread():
        return items.get()
    while True:
        try:
            return items.get(timeout=_STRETCH_SECONDS)
        except queue.Empty:
            continue


def _current() -> _Loop:
    global _background
    with _lock:
        # Its thread has ended where somebody's task called sys.exit().
        if _background is None or not _background.thread.is_alive():
            _background = _Loop()
        if threading.current_thread() is _background.thread:
            raise RuntimeError("a synchronous call on the background loop would wait for itself; use acall")
        return _background


def stop() -> None:
    """End the background loop; the next sync call starts another."""
    global _background
    with _lock:
        ended, _background = _background, None
    if ended is not None:
        ended.stop()


_of_parents: list[_Loop] = []


def _after_fork() -> None:
    global _background, _lock
    _lock = threading.Lock()
    if _background is not None:
        _of_parents.append(_background)  # dropped, its event loop would warn that nobody closed it
    _background = None


atexit.register(stop)
os.register_at_fork(after_in_child=_after_fork)
