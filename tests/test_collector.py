"""What lasts is out of the garbage collector's sight while many runs are under way, and no longer than that."""

import asyncio
import gc
import os
import threading
import weakref

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dszig_py import RLM, collector
from dszig_py.collector import MANY, SECONDS, Runs
from dszig_py.lm import FunctionLM

DONE = "```python\nSUBMIT(answer='done')\n```"


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


class Cycle:
    def __init__(self):
        self.itself = self


def enter(runs, count):
    for _ in range(count):
        runs.__enter__()


def leave(runs, count):
    for _ in range(count):
        runs.__exit__(None, None, None)


def most_frozen(count):
    """The most that was frozen while so many runs were under way together."""
    seen, together = [], asyncio.Event()

    async def answer(prompt):
        seen.append(gc.get_freeze_count())
        if len(seen) == count:
            together.set()
        await together.wait()
        return DONE

    async def go():
        rlm = RLM("text -> answer", lm=FunctionLM(answer), environment="inprocess")
        await asyncio.gather(*(rlm.acall(text="t") for _ in range(count)))

    asyncio.run(go())
    return max(seen)


def test_many_runs_at_a_time_freeze_what_lasts_and_the_last_of_them_gives_it_back():
    """Sixteen runs that wait for their models together; after them the collector sees everything again."""
    assert most_frozen(MANY) > 10_000
    assert gc.get_freeze_count() == 0


def test_few_runs_at_a_time_leave_the_collector_alone():
    """One fewer."""
    assert most_frozen(MANY - 1) == 0


def test_runs_that_fail_or_are_cancelled_count_as_ended():
    """What a run ends by changes nothing of it."""

    async def hang(prompt):
        await asyncio.sleep(60)

    async def go():
        rlm = RLM("text -> answer", lm=FunctionLM(hang), environment="inprocess")
        tasks = [asyncio.create_task(rlm.acall(text="t")) for _ in range(MANY + 4)]
        while not gc.get_freeze_count():
            await asyncio.sleep(0.01)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(go())
    assert gc.get_freeze_count() == 0


@pytest.mark.parametrize("how", ["frozen", "off", "environment"])
def test_a_caller_who_has_arranged_the_collector_keeps_it_so(how, monkeypatch):
    """What somebody froze stays frozen, a collector that is off stays off, DSZIG_FREEZE=0 is minded."""
    runs = Runs()
    if how == "frozen":
        gc.freeze()
    elif how == "off":
        gc.disable()
    else:
        monkeypatch.setenv("DSZIG_FREEZE", "0")
    try:
        before = gc.get_freeze_count()
        enter(runs, MANY + 2)
        assert gc.get_freeze_count() in range(before - 1_000, before + 1)  # what was freed meanwhile is gone from it
        leave(runs, MANY + 2)
        assert gc.isenabled() == (how != "off")
        assert bool(gc.get_freeze_count()) == (how == "frozen")
    finally:
        gc.enable()


def test_what_is_dropped_during_the_runs_is_collected_within_the_minute():
    """A cycle that was alive when the runs began; and one made during them, by the next collection."""
    clock = Clock()
    runs, old = Runs(clock), Cycle()
    gone = weakref.ref(old)
    enter(runs, MANY)
    young = Cycle()
    young_gone = weakref.ref(young)
    del old, young
    gc.collect()
    assert young_gone() is None
    assert gone() is not None
    clock.now = SECONDS - 1
    enter(runs, 1)
    assert gone() is not None
    clock.now = SECONDS
    enter(runs, 1)
    assert gone() is None
    assert gc.get_freeze_count()
    leave(runs, MANY + 2)
    assert not gc.get_freeze_count()


def test_an_abandoned_run_that_the_collection_ends_ends_without_a_deadlock():
    """The collection is made with the lock held, and what it finalizes takes that lock."""
    clock = Clock()
    runs = Runs(clock)

    def abandoned():
        itself = [None]
        with runs:
            itself[0] = yield
            yield

    enter(runs, MANY)
    run = abandoned()
    next(run)
    run.send(run)
    del run
    clock.now = SECONDS
    thread = threading.Thread(target=enter, args=(runs, 1), daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive()
    leave(runs, MANY + 1)
    assert not gc.get_freeze_count()


def test_a_fork_has_no_runs_and_nothing_frozen():
    """In the child none of the parent's runs will ever end."""
    enter(collector.runs, MANY)
    assert gc.get_freeze_count()
    child = os.fork()
    if not child:
        os._exit(bool(gc.get_freeze_count()))
    leave(collector.runs, MANY)
    assert os.waitpid(child, 0)[1] == 0
    assert not gc.get_freeze_count()


@given(st.lists(st.integers(-9, 12), max_size=60))
def test_frozen_from_many_to_none_whatever_the_order(steps):
    """Runs begin (+), end (-), time passes (0): frozen since there were many, until there is none."""
    gc_calls, clock = [], Clock()
    runs, live, frozen = Runs(clock), 0, False
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gc, "freeze", lambda: gc_calls.append(True))
        patch.setattr(gc, "unfreeze", lambda: gc_calls.append(False))
        patch.setattr(gc, "collect", lambda: 0)
        for step in steps:
            if step > 0:
                enter(runs, step)
            elif step < 0:
                leave(runs, min(-step, live))
            else:
                clock.now += SECONDS / 2
            live = max(0, live + step)
            frozen = live >= MANY or (frozen and live > 0)
            assert (bool(gc_calls) and gc_calls[-1]) == frozen
