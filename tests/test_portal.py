"""The synchronous face: interrupted at any moment, no run goes on that nobody waits for."""

from __future__ import annotations

import _thread
import asyncio
import subprocess
import sys
import threading

import pytest
from waiting import within

from dszig_py import RLM, portal

LATE = 120.0  # seconds; what goes on for so long was not stopped


class Slow:
    """A model that never answers in time. ``ended``: how each of its calls was left."""

    model = "slow"

    def __init__(self, on_call=lambda: None):
        self._on_call = on_call
        self.ended = []

    async def complete(self, request):
        try:
            self._on_call()
            await asyncio.sleep(LATE)
        except BaseException as error:
            self.ended.append(type(error))
            raise
        self.ended.append(None)
        raise AssertionError("nobody stopped it")


def by_call(rlm):
    return rlm(text="t")


def by_stream(rlm):
    return list(rlm.stream(text="t"))


def by_map(rlm):
    return list(rlm.map([{"text": "t"}]))


@pytest.mark.parametrize("ask", [by_call, by_stream, by_map])
def test_an_interrupt_that_wakes_no_waiting_thread_is_told_all_the_same(ask):
    """A signal may come just before the main thread blocks: only Python's flag is set, as interrupt_main() sets it."""
    lm = Slow(_thread.interrupt_main)
    with pytest.raises(KeyboardInterrupt):
        ask(RLM("text -> answer", lm=lm))
    assert lm.ended == [asyncio.CancelledError]


@pytest.mark.parametrize("told", [True, False], ids=["after the loop was told", "before"])
@pytest.mark.parametrize("ask", [by_call, by_stream, by_map])
def test_interrupted_while_it_is_begun_a_run_does_not_go_on(ask, told, monkeypatch):
    """The interrupt comes between the start of a run and the moment its starter knows of it."""
    soon, interrupted = portal._Loop.soon, []

    def interrupting(self, function):
        if interrupted:
            return soon(self, function)
        interrupted.append(function)
        if told:
            soon(self, function)
        raise KeyboardInterrupt

    monkeypatch.setattr(portal._Loop, "soon", interrupting)
    lm = Slow()
    with pytest.raises(KeyboardInterrupt):
        ask(RLM("text -> answer", lm=lm))
    within(lambda: not portal.call(under_way))  # the loop is alive, and has begun what was asked of it before
    assert None not in lm.ended


async def under_way():
    """What the background loop has to do besides telling so."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    return [task for task in others if task.get_coro().__qualname__.startswith("Task.")]


def test_waiting_with_a_limit_says_whether_it_has_ended():
    """In the main thread, which waits in stretches, as in another."""
    task = portal.Task(asyncio.sleep, (LATE,))
    task.begin()
    assert not task.wait(0) and not task.wait(0.3)
    other = threading.Thread(target=task.wait)
    other.start()
    task.cancel()
    assert task.wait()
    other.join()
    assert isinstance(task.error, asyncio.CancelledError)


def test_cancelled_before_it_is_begun_it_has_ended():
    """Nobody waits for what never starts."""
    task = portal.Task(asyncio.sleep, (LATE,))
    task.cancel()
    assert task.wait(0)


def test_a_program_that_ends_with_a_run_under_way_stops_it():
    """What is left on the background loop is cancelled, with its clean-up, and not waited for."""
    code = """
import asyncio
from dszig_py import portal

async def long():
    print("begun", flush=True)
    try:
        await asyncio.sleep(600)
    finally:
        await asyncio.sleep(0.01)
        print("cleaned up", flush=True)

task = portal.Task(long)
task.begin()
portal.call(asyncio.sleep, 0.01)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr, done.returncode) == ("begun\ncleaned up\n", "", 0)
