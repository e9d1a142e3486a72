"""The limit of the whole process: threads and event loops of any kind share it, and nobody is lost."""

from __future__ import annotations

import asyncio
import os
import random
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dszig_py import RLM, InputError
from dszig_py.lm import limiter
from dszig_py.lm.limiter import Limiter


def test_a_number_in_the_environment_that_is_none_is_told(monkeypatch, caplog):
    """Who set a limit by mistake must not believe it holds; importing is no place to fail for it."""
    for text, expected in (
        ("12", 12),
        ("", limiter.DEFAULT),
        ("x", limiter.DEFAULT),
        ("0", limiter.DEFAULT),
        ("²", limiter.DEFAULT),
    ):
        caplog.clear()
        monkeypatch.setenv("DSZIG_MAX_CONCURRENCY", text)
        assert limiter._given() == expected
        assert bool(caplog.records) == (text in ("x", "0", "²"))


async def _turn():
    await asyncio.sleep(0)


class Counter:
    """How many are inside at once, over all threads."""

    def __init__(self):
        self.lock, self.inside, self.most, self.done = threading.Lock(), 0, 0, 0

    def enter(self):
        with self.lock:
            self.inside += 1
            self.most = max(self.most, self.inside)

    def leave(self):
        with self.lock:
            self.inside -= 1
            self.done += 1


async def hold(slots, counter, turns):
    async with slots:
        counter.enter()
        try:
            for _ in range(turns):
                await asyncio.sleep(0)
        finally:
            counter.leave()


@settings(max_examples=25)
@given(st.integers(1, 5), st.integers(1, 4), st.integers(0, 10**6))
def test_never_more_than_allowed_and_nobody_lost(total, loops, seed):
    """Several event loops in threads, tasks cancelled at any moment: the rest all get in, and no slot leaks."""
    slots, counter = Limiter(total), Counter()
    expected = []

    async def crowd(chance):
        tasks = [asyncio.create_task(hold(slots, counter, chance.randrange(4))) for _ in range(40)]
        unlucky = chance.sample(tasks, 12)
        for task in unlucky:
            await asyncio.sleep(0)
            task.cancel()
        results = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 60)
        expected.append(sum(r is None for r in results))

    threads = [threading.Thread(target=lambda n=n: asyncio.run(crowd(random.Random(seed + n)))) for n in range(loops)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert len(expected) == loops, "a loop hung"
    assert counter.most <= total
    assert (counter.inside, slots.held, len(slots._waiting)) == (0, 0, 0)
    assert counter.done >= sum(expected) >= loops * 28


def test_first_come_first_served():
    """A task that comes while others wait does not overtake them."""

    async def go():
        slots, order = Limiter(1), []

        async def one(number):
            async with slots:
                order.append(number)
                await asyncio.sleep(0)

        await asyncio.gather(*(one(n) for n in range(20)))
        return order

    assert asyncio.run(go()) == list(range(20))


def test_waiters_of_a_closed_loop_are_passed_over():
    """Their loop ended while they waited: the next one in line gets the slot."""
    slots = Limiter(1)
    gone = asyncio.new_event_loop()

    async def go():
        async with slots:
            waiting = gone.create_task(hold(slots, Counter(), 0))
            await asyncio.to_thread(gone.run_until_complete, _turn())
            other = asyncio.create_task(hold(slots, Counter(), 0))
            await asyncio.sleep(0)
            gone.close()
        await asyncio.wait_for(other, 60)
        return waiting

    waiting = asyncio.run(go())
    assert slots.held == 0
    waiting._log_destroy_pending = False  # it never ran to its end, by design of this test
    waiting.get_coro().close()  # as the collector will: it gives back nothing that it never had
    assert slots.held == 0


def test_more_slots_let_waiters_in_and_fewer_hold_back():
    """Resized while in use."""

    async def go():
        slots, counter = Limiter(1), Counter()
        release = asyncio.Event()

        async def one():
            async with slots:
                counter.enter()
                await release.wait()
                counter.leave()

        tasks = [asyncio.create_task(one()) for _ in range(5)]
        for _ in range(3):
            await asyncio.sleep(0)
        before = counter.inside
        slots.resize(3)
        for _ in range(3):
            await asyncio.sleep(0)
        more = counter.inside
        slots.resize(2)
        release.set()
        await asyncio.gather(*tasks)
        return before, more, slots.held

    assert asyncio.run(go()) == (1, 3, 0)


def test_runs_of_all_threads_share_it():
    """Eight runs in eight threads with sub-calls in batches: the process never has more calls in flight than it may."""
    counter = Counter()

    async def answer(prompt):
        counter.enter()
        await asyncio.sleep(0.005)
        counter.leave()
        return "ok"

    code = "```python\nllm_query_batched(['a'] * 10)\nSUBMIT(answer='x')\n```"
    rlm = RLM("text -> answer", lm=lambda prompt: code, sub_lm=answer, environment="inprocess")
    before = limiter.process._total
    limiter.limit(3)
    try:
        threads = [threading.Thread(target=rlm, kwargs={"text": "t"}) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    finally:
        limiter.limit(before)
    assert (counter.done, counter.most <= 3, limiter.process.held) == (80, True, 0)


def test_a_model_that_runs_an_rlm_does_not_wait_for_its_own_slot():
    """However few calls the process may have in flight: its model's call is in flight already."""
    inner = RLM("text -> answer", lm=lambda prompt: "```python\nSUBMIT('in')\n```", environment="inprocess")
    code = "```python\nSUBMIT(' '.join(llm_query_batched(['a'] * 3)))\n```"
    rlm = RLM("text -> answer", lm=lambda p: code, sub_lm=lambda p: inner(text=p).answer, environment="inprocess")
    before = limiter.process.total
    limiter.limit(1)
    told = []
    thread = threading.Thread(target=lambda: told.append(rlm(text="t").answer), daemon=True)
    try:
        thread.start()
        thread.join(60)
    finally:
        limiter.limit(before)
    assert (told, limiter.process.held) == (["in in in"], 0)


def test_a_forked_child_starts_with_all_slots_free():
    """Who held them is not in the child."""

    async def go():
        async with limiter.process:
            pid = os.fork()
            if pid == 0:
                os._exit(0 if limiter.process.held == 0 else 1)
            return os.waitpid(pid, 0)[1]

    assert asyncio.run(go()) == 0


def test_a_limit_below_one_is_refused():
    """It would stop everything for ever."""
    with pytest.raises(InputError):
        limiter.limit(0)
