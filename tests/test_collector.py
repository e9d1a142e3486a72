"""What lasts is out of the garbage collector's sight while many runs are under way, and no longer than that."""

import asyncio
import gc
import os
import subprocess
import sys
import threading
import weakref

import pytest
from hypothesis import given
from hypothesis import strategies as st
from waiting import eventually

from dszig_py import RLM, collector
from dszig_py.collector import MANY, SECONDS, Runs
from dszig_py.lm import FunctionLM

# What this Python itself counts as frozen from its start: none, but for 3.12.
ITS_OWN = int(subprocess.check_output([sys.executable, "-I", "-S", "-c", "import gc; print(gc.get_freeze_count())"]))
DONE = "```python\nSUBMIT(answer='done')\n```"


def frozen_now():
    """Objects that somebody has put out of sight; Python's own come and go there by collections."""
    return max(gc.get_freeze_count() - ITS_OWN, 0)


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
        seen.append(frozen_now())
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
    assert frozen_now() == 0


def test_few_runs_at_a_time_leave_the_collector_alone():
    """One fewer."""
    assert most_frozen(MANY - 1) == 0


def test_runs_that_fail_or_are_cancelled_count_as_ended():
    """What a run ends by changes nothing of it."""

    async def hang(prompt):
        await asyncio.sleep(600)

    async def go():
        rlm = RLM("text -> answer", lm=FunctionLM(hang), environment="inprocess")
        tasks = [asyncio.create_task(rlm.acall(text="t")) for _ in range(MANY + 4)]
        await eventually(frozen_now)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(go())
    assert frozen_now() == 0


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
        before = frozen_now()
        enter(runs, MANY + 2)
        assert frozen_now() in range(before - 1_000, before + 1)  # what was freed meanwhile is gone from it
        leave(runs, MANY + 2)
        assert gc.isenabled() == (how != "off")
        assert bool(frozen_now()) == (how == "frozen")
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
    assert frozen_now()
    leave(runs, MANY + 2)
    assert not frozen_now()


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
    thread.join(60)
    assert not thread.is_alive()
    leave(runs, MANY + 1)
    assert not frozen_now()


def test_a_fork_has_no_runs_and_nothing_frozen():
    """In the child none of the parent's runs will ever end."""
    enter(collector.runs, MANY)
    assert frozen_now()
    child = os.fork()
    if not child:
        os._exit(bool(frozen_now()))
    leave(collector.runs, MANY)
    assert os.waitpid(child, 0)[1] == 0
    assert not frozen_now()


def test_what_the_caller_freezes_meanwhile_stays_frozen():
    """A server that freezes before it forks may do so while runs are under way."""
    runs = Runs()
    enter(runs, MANY)
    try:
        kept = [[] for _ in range(10_000)]
        gc.freeze()
        leave(runs, MANY)
        assert frozen_now() > len(kept)
    finally:
        gc.unfreeze()


def test_a_collector_that_is_turned_off_meanwhile_is_left_alone():
    """After the minute nothing is collected or frozen for a caller who wants neither any more."""
    clock = Clock()
    runs, old = Runs(clock), Cycle()
    gone = weakref.ref(old)
    enter(runs, MANY)
    del old
    gc.disable()
    try:
        clock.now = SECONDS
        enter(runs, 1)
        assert gone() is not None
        assert not frozen_now()
    finally:
        gc.enable()
        leave(runs, MANY + 1)


def test_after_a_minute_it_is_given_back_though_no_run_begins_or_ends():
    """By the next collection: runs may hang for ever, or their event loop be closed with them in it."""
    clock = Clock()
    runs = Runs(clock)
    enter(runs, MANY)
    clock.now = SECONDS - 1
    gc.collect(0)
    assert frozen_now()
    clock.now = SECONDS
    gc.collect(0)
    assert not frozen_now()
    leave(runs, MANY)
    assert not [callback for callback in gc.callbacks if getattr(callback, "__self__", None) is runs]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_runs_of_an_event_loop_that_was_closed_are_no_runs_for_ever(monkeypatch):
    """Frozen themselves, they could not be collected, and so would never end."""
    clock = Clock()
    runs = Runs(clock)
    monkeypatch.setattr(collector, "runs", runs)

    async def hang(prompt):
        await asyncio.sleep(600)

    async def begun():
        rlm = RLM("text -> answer", lm=FunctionLM(hang), environment="inprocess")
        for _ in range(MANY):
            asyncio.get_running_loop().create_task(rlm.acall(text="t"))
        while not frozen_now():
            await asyncio.sleep(0)

    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)  # it tells of each that was pending
    loop.run_until_complete(begun())
    loop.close()
    del loop
    clock.now = SECONDS
    gc.collect()
    gc.collect()
    assert not frozen_now()
    assert not runs._live


def test_what_python_itself_keeps_out_of_sight_is_nobodys_freeze(monkeypatch):
    """Python 3.12 counts some hundred objects from its start: runs freeze what lasts all the same."""
    calls = []
    monkeypatch.setattr(gc, "get_freeze_count", lambda: 375)
    monkeypatch.setattr(gc, "freeze", lambda: calls.append("freeze"))
    monkeypatch.setattr(gc, "unfreeze", lambda: calls.append("unfreeze"))
    runs = Runs(Clock())
    enter(runs, MANY)
    leave(runs, MANY)
    assert calls == ["freeze", "unfreeze"]


def test_ctrl_c_in_what_the_collection_runs_begins_no_run(monkeypatch):
    """Else it would count for ever, and what is frozen would never be given back."""
    clock = Clock()
    runs = Runs(clock)
    enter(runs, MANY)
    clock.now = SECONDS

    def interrupted():
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(gc, "collect", interrupted)
        with pytest.raises(KeyboardInterrupt):
            runs.__enter__()
    leave(runs, MANY)
    assert not runs._live
    assert not frozen_now()


@given(st.lists(st.integers(-9, 12), max_size=60))
def test_frozen_from_many_to_none_whatever_the_order(steps):
    """Runs begin (+), end (-), time passes (0): frozen where many begin, for a minute at most after that, and not without any."""
    gc_calls, clock = [False], Clock()
    runs, live = Runs(clock), 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gc, "freeze", lambda: gc_calls.append(True))
        patch.setattr(gc, "unfreeze", lambda: gc_calls.append(False))
        patch.setattr(gc, "collect", lambda: 0)
        for step in steps:
            before = gc_calls[-1]
            if step > 0:
                enter(runs, step)
            elif step < 0:
                leave(runs, min(-step, live))
            else:
                clock.now += SECONDS / 2
            live = max(0, live + step)
            frozen = gc_calls[-1]
            assert frozen == (runs._frozen is not None)
            if step > 0:
                assert not frozen or clock.now - runs._frozen < SECONDS
                assert frozen or live < MANY
                assert not frozen or before or live >= MANY
            assert live or not frozen
        leave(runs, live)
