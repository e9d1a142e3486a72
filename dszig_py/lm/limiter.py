"""How many model calls are in flight: of one tree (``Budget.max_concurrency``), and of the whole process, whatever trees,
threads and event loops they come from.

A limiter belongs to no event loop: an anyio or asyncio one that is used from two loops hangs one of them, and anyio's lets
every other task run before it gives a free slot, which a tenth of a call's cost here went to. First come, first served.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections import deque
from contextlib import suppress

from dszig_py.errors import InputError

__all__ = ["DEFAULT", "Limiter", "limit", "process"]

logger = logging.getLogger("dszig_py")

DEFAULT = 1_024  # calls; far above what one process of LiteLLM can drive, below the usual limit of open files


class _Waiter:
    __slots__ = ("future", "granted", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop, self.future, self.granted = loop, loop.create_future(), False


class Limiter:
    """``async with limiter:`` holds one of ``total`` slots. Thread-safe; waiting is cancelled as anything else is."""

    def __init__(self, total: int) -> None:
        self._lock = threading.RLock()  # the collector may end an abandoned waiter in the thread that holds it
        self._total = total
        self._held = 0
        self._waiting: deque[_Waiter] = deque()

    @property
    def held(self) -> int:
        """Slots in use now."""
        return self._held

    @property
    def total(self) -> int:
        """Slots there are."""
        return self._total

    def resize(self, total: int) -> None:
        """Another number of slots, from now on; calls under way keep theirs."""
        with self._lock:
            self._total = total
            while self._held < self._total and self._hand_on():
                self._held += 1

    async def __aenter__(self) -> None:
        with self._lock:
            if self._held < self._total and not self._waiting:
                self._held += 1
                return
            waiter = _Waiter(asyncio.get_running_loop())
            self._waiting.append(waiter)
        try:
            await waiter.future
        except BaseException:
            with self._lock:
                if waiter.granted:
                    self._give_up()
                else:
                    with suppress(ValueError):  # passed over already, its loop being closed
                        self._waiting.remove(waiter)
            raise

    async def __aexit__(self, *_: object) -> None:
        with self._lock:
            self._give_up()

    def _give_up(self) -> None:
        if self._held > self._total or not self._hand_on():
            self._held -= 1

    def _hand_on(self) -> bool:
        """Give a slot to whoever waits longest; whether anybody did. The lock is held."""
        while self._waiting:
            waiter = self._waiting.popleft()
            waiter.granted = True
            try:
                waiter.loop.call_soon_threadsafe(_wake, waiter.future)
            except RuntimeError:  # its loop is closed: nobody is there any more
                waiter.granted = False
                continue
            return True
        return False


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _given() -> int:
    text = os.environ.get("DSZIG_MAX_CONCURRENCY", "")
    if text.isdecimal() and int(text):
        return int(text)
    if text:  # an import is no place to raise for it
        logger.warning("DSZIG_MAX_CONCURRENCY=%r is no number from 1 up; %d is used", text, DEFAULT)
    return DEFAULT


process = Limiter(_given())
"""The limiter that every model call of this process goes through: DSZIG_MAX_CONCURRENCY of them at once, or 1,024."""


def limit(max_concurrency: int) -> None:
    """Let the whole process have at most so many model calls in flight. Raises :class:`InputError` below 1."""
    if max_concurrency < 1:
        raise InputError("max_concurrency must be at least 1")
    process.resize(max_concurrency)


def _after_fork() -> None:
    process.__init__(process._total)  # who held and who waited is in the parent


os.register_at_fork(after_in_child=_after_fork)
