"""While many runs are under way, what was alive before them is kept out of the garbage collector's sight.

LiteLLM is some 400,000 objects that last, and each of its calls holds another 150 until its reply comes, which by then count
as lasting too: after every four hundred calls the collector goes through everything there is, 0.3 s on the event loop. That
is a tenth of the CPU of a process with a hundred runs under way (the case "many" of ``make bench``). ``gc.freeze`` is what
CPython has against it, made for servers that load much and then work.

The process is somebody else's, so this is bounded: it begins with :data:`MANY` runs at a time and ends with the last of them;
after :data:`SECONDS` everything is back in sight, and only where there are as many runs again it is looked at and put out
of sight once more, so that what was dropped meanwhile is not kept for long; what is made during the runs is collected as
ever. Where the caller has turned the collector off, or frozen something, or set DSZIG_FREEZE=0, nothing is done; what the
caller freezes meanwhile stays frozen. Rejected: a higher ``gc.set_threshold``, which keeps the garbage of thousands of calls, their
prompts with it.
"""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress

__all__ = ["MANY", "SECONDS", "Runs", "runs"]

MANY = 16  # runs at a time; below that a run's wait for its model hides what the collector takes
SECONDS = 60.0
# Python 3.12 counts 375 objects of its own as frozen from the start; a freeze takes all there is, thousands in the barest.
_FEW = 1_000


class Runs:
    """``with runs:`` is one run under way. Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        # A collection in here may finalize an abandoned run, which ends it, in here again.
        self._lock = threading.RLock()
        self._clock = clock
        self._live = 0
        self._frozen: float | None = None  # when, if it was by us
        self._count = 0  # of what it was then
        self._again = False  # a minute was over, and there may be as many runs as before

    def __enter__(self) -> None:
        with self._lock:
            self._live += 1
            try:
                self._after_a_minute()
                if self._frozen is None and (self._live == MANY or (self._again and self._live > MANY)):
                    self._freeze()
            except BaseException:  # Ctrl-C in what a collection runs: this run does not begin
                self._live -= 1
                raise

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._live -= 1
            if not self._live:
                self._give_back()
                self._again = False
                with suppress(ValueError):
                    gc.callbacks.remove(self._collected)

    def _freeze(self) -> None:
        again, self._again = self._again, False
        if not _may():
            return
        if again:
            gc.collect()
        if self._collected not in gc.callbacks:
            gc.callbacks.append(self._collected)
        self._frozen = self._clock()  # before it is so: whatever comes in between, it is given back
        gc.freeze()
        self._count = gc.get_freeze_count()

    def _give_back(self) -> None:
        if self._frozen is not None:
            self._frozen = None
            if gc.get_freeze_count() <= self._count:  # else somebody else has frozen something since, and keeps it
                gc.unfreeze()

    def _after_a_minute(self) -> None:
        since = self._frozen
        if since is not None and self._clock() - since >= SECONDS:
            self._give_back()
            self._again = True

    def _collected(self, phase: str, _: object) -> None:
        """Before any collection: no run may begin or end any more that could look at the clock, as where an event loop was
        closed with its runs in it. Does not wait for the lock, since whoever has it may wait for what this thread holds.
        """
        if phase == "start" and self._frozen is not None and self._lock.acquire(blocking=False):
            try:
                self._after_a_minute()
            finally:
                self._lock.release()

    def after_fork(self) -> None:
        """In a child none of the runs is under way."""
        self._give_back()
        self.__init__(self._clock)


def _may() -> bool:
    """Whether the collector is as Python has it."""
    return os.environ.get("DSZIG_FREEZE") != "0" and gc.isenabled() and gc.get_freeze_count() < _FEW


runs = Runs()
"""The runs of this process, in whatever thread and event loop."""

os.register_at_fork(after_in_child=runs.after_fork)
