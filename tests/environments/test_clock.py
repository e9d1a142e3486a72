"""The clock of a cell, on a loop whose time stands still until it is told to pass."""

from __future__ import annotations

import asyncio
import heapq
import itertools

from hypothesis import given
from hypothesis import strategies as st

from dszig_py.environments._link import CellClock

SECONDS = 10


class _Timer:
    def __init__(self, function):
        self.function = function

    def cancel(self):
        self.function = None


class _Loop:
    """What the clock asks of an event loop. Its time is whole seconds, so that sums are exact."""

    def __init__(self):
        self.now, self.timers, self.numbers = 0.0, [], itertools.count()

    def time(self):
        return self.now

    def call_later(self, delay, function):
        timer = _Timer(function)
        heapq.heappush(self.timers, (self.now + delay, next(self.numbers), timer))
        return timer

    def alive(self):
        return sum(timer.function is not None for _, _, timer in self.timers)

    def pass_(self, seconds):
        until = self.now + seconds
        while self.timers and self.timers[0][0] <= until:
            self.now, _, timer = heapq.heappop(self.timers)
            if timer.function is not None:
                timer.function()
        self.now = until


steps = st.lists(st.one_of(st.sampled_from(["run", "hold", "begin"]), st.integers(1, 7)), max_size=40)


@given(steps)
def test_a_cell_is_over_when_it_has_run_for_its_seconds_and_only_once(steps):
    """Whatever is held, run again or begun anew: expired at the very second, once a cell, with one timer at most."""
    loop, expired = _Loop(), []
    before, asyncio.get_running_loop = asyncio.get_running_loop, lambda: loop
    try:
        clock = CellClock(SECONDS, lambda: expired.append(loop.now))
        left, running, expected = SECONDS, False, []
        clock.begin()
        for step in steps:
            if step == "run":
                clock.run()
                running = left > 0
            elif step == "hold":
                clock.hold()
                running = False
            elif step == "begin":
                clock.begin()
                left, running = SECONDS, False
            else:
                if running and left <= step:
                    expected.append(loop.now + left)
                    left, running = 0, False
                elif running:
                    left -= step
                loop.pass_(step)
            assert loop.alive() <= 1
        assert expired == expected
        clock.stop()
        loop.pass_(100)
        assert (expired, loop.alive()) == (expected, 0)
    finally:
        asyncio.get_running_loop = before
