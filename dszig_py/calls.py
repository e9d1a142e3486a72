"""The sub-calls of one run: each is recorded and published when it ends, however it ends."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, Self, TypeVar

import anyio

from dszig_py.environments.base import CallRefused
from dszig_py.events import BudgetChanged, Event, SubCallFinished, SubCallStarted, nobody
from dszig_py.previews import brief
from dszig_py.text import truncate
from dszig_py.trajectory import SubCall
from dszig_py.usage import Ledger

__all__ = ["PROMPT_KEPT", "Calls", "OpenCall", "contained"]

PROMPT_KEPT = 2_000  # characters of a sub-call's prompt kept in the trajectory
MAX_REFUSED = 10_000  # in a row; what asks on is answered, but no longer written down: nothing else would bound that
# Calls of tools kept of a run: no budget bounds how many there are, and further ones are only counted.
MAX_TOOLS = 10_000
T = TypeVar("T")
SETTLE_SECONDS = 6.0  # a cancelled child closes its session, which takes at most five


class OpenCall:
    """A sub-call that is under way, as a context: it is recorded however it ends, a cancelled one too, since it may have been
    paid for. ``done`` is what will be recorded of it, where it is ``kept``.
    """

    __slots__ = ("_begun", "_book", "_call", "_noted", "kept")

    def __init__(self, book: Calls, call: SubCall, begun: float, *, kept: bool) -> None:
        self._book, self._call, self._begun, self.kept = book, call, begun, kept
        self._noted: dict[str, Any] = {}

    @property
    def done(self) -> SubCall:
        if self._noted:  # put together once, where it is read: a copy of fourteen fields for each note is felt
            self._call, self._noted = replace(self._call, **self._noted), {}
        return self._call

    def note(self, **what: Any) -> None:
        self._noted.update(what)

    def __enter__(self) -> Self:
        self._book.begun(self)
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if error is not None:
            self.note(error=str(error) if isinstance(error, CallRefused) else type(error).__name__)
        self.note(seconds=time.monotonic() - self._begun)
        self._book.ended(self)


class Calls:
    """The book of a run's sub-calls. ``publish`` takes events and never raises."""

    def __init__(self, run: str, ledger: Ledger, publish: Callable[[Event], None]) -> None:
        self.run, self.ledger, self.publish = run, ledger, publish
        self.sizes: dict[str, int] = {}  # of batches under way
        self._done: list[SubCall] = []
        self._count = self._under_way = self._refused = self._tools = self._unkept = 0
        self._idle: anyio.Event | None = None
        self._told = ledger.usage
        self._started = time.monotonic()

    def __bool__(self) -> bool:
        """Whether there are any to take."""
        return bool(self._done or self._unkept)

    def take(self) -> tuple[SubCall, ...]:
        """The sub-calls recorded since this was last called; one line for those that were only counted."""
        if self._unkept:
            told = f"{self._unkept:,} more calls of tools, over the {MAX_TOOLS:,} that are kept of a run"
            self._unkept, now = 0, time.monotonic()
            line = SubCall(self.new_id(), "tool", told, len(told), started=now - self._started)
            with OpenCall(self, line, now, kept=True):
                pass
        taken, self._done = self._done, []
        return tuple(taken)

    def new_id(self) -> str:
        """An id for a sub-call or a batch, which begins with the run's."""
        self._count += 1
        return f"{self.run}.{self._count}"

    async def settled(self) -> None:
        """Wait until cancelled calls have ended and are recorded."""
        if self._under_way:
            self._idle = anyio.Event()
            with anyio.move_on_after(SETTLE_SECONDS):
                await self._idle.wait()

    def budget_changed(self) -> None:
        """Publish what was spent, where it is not what was last published."""
        usage = self.ledger.usage
        if usage is not self._told and self.publish is not nobody:  # a ledger's usage is replaced, never changed
            self._told = usage
            self.publish(BudgetChanged(self.run, self.ledger.depth, usage, self.ledger.remaining()))

    def recorded(self, kind: str, prompt: Any, batch: str, index: int) -> OpenCall:
        """One sub-call, to be entered. Raises :class:`CallRefused` where so many in a row came to nothing."""
        if self._refused >= MAX_REFUSED and kind != "tool":
            raise CallRefused(f"the last {MAX_REFUSED:,} calls came to nothing; SUBMIT what you have")
        text = prompt if isinstance(prompt, str) else brief(prompt, PROMPT_KEPT)
        begun = time.monotonic()
        started, kept = begun - self._started, truncate(text, PROMPT_KEPT)
        call = SubCall(self.new_id(), kind, kept, len(text), started=started, batch=batch, index=index)
        self._tools += kind == "tool"
        return OpenCall(self, call, begun, kept=kind != "tool" or self._tools <= MAX_TOOLS)

    def begun(self, opened: OpenCall) -> None:
        """A call is under way."""
        self._under_way += 1
        if opened.kept:
            call = opened.done
            size = self.sizes.get(call.batch, 0)
            self.publish(SubCallStarted(self.run, self.ledger.depth, call.id, call.kind, call.batch, size))

    def ended(self, opened: OpenCall) -> None:
        """A call has ended, one way or another."""
        call = opened.done
        self._under_way -= 1
        if self._idle is not None and not self._under_way:
            self._idle.set()
        if call.kind != "tool":
            self._refused = self._refused + 1 if call.error and not call.usage.calls else 0
        if not opened.kept:
            self._unkept += 1
            return
        self._done.append(call)
        self.publish(SubCallFinished(self.run, self.ledger.depth, call))
        self.budget_changed()


async def contained(name: str, work: Awaitable[T]) -> T:
    """``work``, whose tools and models are the caller's own code. What ends a program, raised in a task, would end the event
    loop with every other run on it; a CancelledError of their own would leave the cell without an answer.
    """
    try:
        return await work
    except (Exception, GeneratorExit, BaseExceptionGroup):
        raise
    except BaseException as error:
        task = asyncio.current_task()
        asked = task is not None and task.cancelling() > 0
        ctrl_c = isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread()
        if ctrl_c or (asked and isinstance(error, asyncio.CancelledError)):
            raise
        raise CallRefused(f"{name} failed: {error!r}") from error
