"""The synchronous face: one background event loop, on which every sync call runs the same coroutine as the async face.

It works in scripts, in threads, and inside a notebook whose loop already runs. ``contextvars`` of the caller cross over.
The portal lives from the first sync call to the end of the process; a forked child starts its own.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import threading
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from typing import Any, Generic, TypeVar, cast

import anyio
from anyio.from_thread import BlockingPortal, start_blocking_portal

__all__ = ["call", "start"]

T = TypeVar("T")
_CLEANUP_SECONDS = 10.0

_lock = threading.Lock()
_portal: BlockingPortal | None = None
_owner: AbstractContextManager[BlockingPortal] | None = None
_loop_thread: threading.Thread | None = None


class _Task(Generic[T]):
    """One coroutine on the background loop. Nothing it raises reaches the portal, which a KeyboardInterrupt would end."""

    def __init__(self, function: Callable[..., Awaitable[T]], args: tuple[Any, ...]) -> None:
        self._function, self._args = function, args
        self._ended = threading.Event()
        self._value: T | None = None
        self.error: BaseException | None = None
        self._future = _get().start_task_soon(self._run)

    async def _run(self) -> None:
        try:
            self._value = await self._function(*self._args)
        except anyio.get_cancelled_exc_class() as error:
            self.error = error
            raise
        except BaseException as error:
            self.error = error
        finally:
            self._ended.set()

    def cancel(self) -> None:
        """Ask it to stop; its clean-up still runs."""
        self._future.cancel()

    def wait(self, timeout: float | None = None) -> bool:
        """Whether it has ended, within ``timeout`` seconds."""
        return self._ended.wait(timeout)

    def result(self) -> T:
        """Its value, or the exception it ended with."""
        self._ended.wait()
        if self.error is not None:
            raise self.error
        return cast("T", self._value)


def start(function: Callable[..., Awaitable[T]], *args: Any) -> _Task[T]:
    """Begin ``function(*args)`` on the background loop. Raises ``RuntimeError`` where waiting would wait for itself."""
    return _Task(function, args)


def call(function: Callable[..., Awaitable[T]], *args: Any) -> T:
    """Run ``function(*args)`` to its end. Ctrl-C cancels it, waits for its clean-up, and propagates with what there is."""
    task = start(function, *args)
    try:
        return task.result()
    except BaseException as error:
        if error is not task.error:
            task.cancel()
            task.wait(_CLEANUP_SECONDS)
            error.prediction = getattr(task.error, "prediction", None)  # type: ignore[attr-defined]
        raise


def _get() -> BlockingPortal:
    global _portal, _owner
    with _lock:
        # Its thread has ended where somebody's task called sys.exit().
        if _portal is None or not (_loop_thread and _loop_thread.is_alive()):
            _owner = start_blocking_portal("asyncio")
            _portal = _owner.__enter__()
            _portal.call(_note_loop_thread)
        if threading.current_thread() is _loop_thread:
            raise RuntimeError("a synchronous call on the background loop would wait for itself; use acall")
        return _portal


def _note_loop_thread() -> None:
    global _loop_thread
    _loop_thread = threading.current_thread()


def stop() -> None:
    """End the background loop; the next sync call starts another."""
    global _portal, _owner
    with _lock:
        owner, _portal, _owner = _owner, None, None
    if owner is not None:
        owner.__exit__(None, None, None)


def _after_fork() -> None:
    global _portal, _owner, _lock
    _lock = threading.Lock()
    if _owner is not None:
        # Dropped, it would wait for a thread that the child has not: subprocess and multiprocessing would hang.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(_owner))
    _portal = _owner = None


atexit.register(stop)
os.register_at_fork(after_in_child=_after_fork)
