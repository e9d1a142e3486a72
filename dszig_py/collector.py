"""While many runs are under way, what was alive before them is kept out of the garbage collector's sight.

LiteLLM is some 400,000 objects that last, and each of its calls holds another 150 until its reply comes, which by then count
as lasting too: after every four hundred calls the collector goes through everything there is, 0.3 s on the event loop. That
is a tenth of the CPU of a process with a hundred runs under way (the case "many" of ``make bench``). ``gc.freeze`` is what
CPython has against it, made for servers that load much and then work.

The process is somebody else's, so this is bounded: it begins with :data:`MANY` runs at a time and ends with the last of them;
once in :data:`SECONDS` everything is looked at after all, so that what was dropped meanwhile is not kept for long; what is
made during the runs is collected as ever. Where the caller has turned the collector off, or frozen something, or set
DSZIG_FREEZE=0, nothing is done. Rejected: a higher ``gc.set_threshold``, which keeps the garbage of thousands of calls, their
prompts with it.
"""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Callable

__all__ = ["MANY", "SECONDS", "Runs", "runs"]

MANY = 16  # runs at a time; below that a run's wait for its model hides what the collector takes
SECONDS = 60.0


class Runs:
    """``with runs:`` is one run under way. Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._lock = (
            threading.RLock()
        )  # a collection in here may finalize an abandoned run, which ends it, in here again
        self._clock = clock
        self._live = 0
        self._frozen: float | None = None  # when, if it was by us

    def __enter__(self) -> None:
        with self._lock:
            self._live += 1
            if self._frozen is not None and self._clock() - self._frozen >= SECONDS:
                gc.unfreeze()
                gc.collect()
                self._freeze()
            elif self._live == MANY and self._frozen is None and _may():
                self._freeze()

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._live -= 1
            if not self._live and self._frozen is not None:
                self._frozen = None
                gc.unfreeze()

    def _freeze(self) -> None:
        gc.freeze()
        self._frozen = self._clock()

    def after_fork(self) -> None:
        """In a child none of the runs is under way."""
        if self._frozen is not None:
            gc.unfreeze()
        self.__init__(self._clock)


def _may() -> bool:
    """Whether the collector is as Python has it."""
    return os.environ.get("DSZIG_FREEZE") != "0" and gc.isenabled() and not gc.get_freeze_count()


runs = Runs()
"""The runs of this process, in whatever thread and event loop."""

os.register_at_fork(after_in_child=runs.after_fork)
