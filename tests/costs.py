"""What work costs, counted and not timed: the same number on every machine, however busy."""

from __future__ import annotations

import sys
import time
import tracemalloc
from collections.abc import Callable


def calls_of(work: Callable[[], object]) -> int:
    """How many functions are called for it, Python's and built-in ones."""
    count = 0

    def tell(_frame: object, event: str, _argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(tell)
    try:
        work()
    finally:
        sys.setprofile(before)
    return count


def seconds_of(work: Callable[[], object]) -> float:
    """Processor seconds of this thread for it, the best of three: for work inside one call, and only to be compared with
    those of other work.
    """
    best = float("inf")
    for _ in range(3):
        before = time.thread_time()
        work()
        best = min(best, time.thread_time() - before)
    return best


def memory_of(work: Callable[[], object]) -> int:
    """Bytes that are allocated at most at a time for it."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
