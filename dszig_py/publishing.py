"""How the events of one run reach those who listen.

Two kinds of listeners. *Inline* ones are called on the run's own loop as things happen: the trace (what it has written
survives a crash), telemetry (it makes a span current for the code inside it), the queue of a stream. They are this
library's own and never block. *Consumers* are anybody's code: each gets a thread of its own, so that one that is slow or
fails is never in the run's way, nor in another's. Rejected: calling consumers on the loop and asking them not to block,
since the first ``print`` to a full pipe stops every request of the tree.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
import queue
import threading
from collections.abc import AsyncGenerator, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import anyio

from dszig_py import telemetry
from dszig_py.events import Event, Subscriber, nobody, worth_keeping
from dszig_py.trace import Tracer

__all__ = ["Courier", "Listeners", "Place"]

Place = str | os.PathLike[str]

FLUSH_SECONDS = 1.0  # how long a run that is over waits for a consumer that is behind

logger = logging.getLogger("dszig_py")


class Courier:
    """A subscriber that hands events to ``consumer`` in their order, in a thread of its own that starts with the first.

    The thread has a copy of the context variables of whoever made the courier. A consumer that raises is logged once.
    """

    def __init__(self, consumer: Subscriber) -> None:
        self._consumer = consumer
        self._events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._context = contextvars.copy_context()
        self._thread: threading.Thread | None = None
        self._told = False

    def __call__(self, event: Event) -> None:
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._context.run, args=(self._work,), name="dszig-events", daemon=True
            )
            self._thread.start()
        if worth_keeping(event, self._events.qsize()):
            self._events.put(event)

    async def close(self) -> None:
        """End the thread after what is queued, and wait for that, but not long; a slower consumer goes on alone."""
        if self._thread is None:
            return
        loop, drained = asyncio.get_running_loop(), asyncio.Event()

        def tell() -> None:
            with suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(drained.set)

        self._events.put(tell)
        with anyio.move_on_after(FLUSH_SECONDS, shield=True):  # shielded: a cancelled run's end is to be heard of too
            await drained.wait()

    def _work(self) -> None:
        while isinstance(event := self._events.get(), Event):
            try:
                self._consumer(event)
            except BaseException:  # foreign code: whatever it fails by, sys.exit() too, ends nothing but that call
                if not self._told:
                    logger.warning("a consumer of events failed; the run goes on", exc_info=True)
                self._told = True
        event()


@dataclass(frozen=True)
class Listeners:
    """Who a caller wants told of a run, as in the constructor of :class:`~dszig_py.RLM`: options of the same names.

    ``inline``: subscribers of this library's own besides the trace and the spans.
    """

    trace: Place | Tracer | Sequence[Place | Tracer] | None = None
    secrets: Sequence[str] = ()
    telemetry: bool | None = None
    on_event: Subscriber | None = None
    verbose: bool = False
    inline: Sequence[Subscriber] = ()

    @asynccontextmanager
    async def told(self) -> AsyncGenerator[Subscriber]:
        """A callable that tells all of them, for as long as one run takes; in the context of whoever calls it."""
        spans = telemetry.telemetry(self.telemetry, self.secrets)
        if spans is None and not (self.trace or self.on_event or self.verbose or self.inline):
            yield nobody
            return
        consumers: list[Subscriber] = [] if self.on_event is None else [self.on_event]
        if self.verbose:
            from dszig_py.render import progress

            consumers.append(progress.verbose())
        couriers = [Courier(consumer) for consumer in consumers]
        with ExitStack() as stack:
            tracers = [stack.enter_context(tracer) for tracer in self._tracers()]
            try:
                yield _all_of([*tracers, *([] if spans is None else [spans]), *self.inline, *couriers])
            finally:  # consumers are given time to catch up
                for courier in couriers:
                    await courier.close()

    def _tracers(self) -> list[Tracer]:
        if self.trace is None:
            return []
        places = [self.trace] if isinstance(self.trace, (str, os.PathLike, Tracer)) else self.trace
        return [place if isinstance(place, Tracer) else Tracer(place, secrets=self.secrets) for place in places]


def _all_of(subscribers: Sequence[Subscriber]) -> Subscriber:
    def publish(event: Event) -> None:
        for subscriber in subscribers:
            try:
                subscriber(event)
            except Exception:  # a trace or a span that cannot be written is no part of the run either
                continue

    return publish
