"""The one way to a model: slots, retries and accounting of a whole tree."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from types import SimpleNamespace

import anyio
import pytest
from costs import calls_of
from waiting import eventually

from dszig_py.errors import LMError
from dszig_py.lm import Cached, ScriptedLM
from dszig_py.lm import gate as gate_module
from dszig_py.lm.base import LM, Reply, Request
from dszig_py.lm.gate import MAX_ATTEMPTS, Gate
from dszig_py.usage import Budget, Exhausted, Ledger, Usage

BUSY = LMError("too many requests", retryable=True)
ASK = Request.of("x" * 40)  # ten tokens, by the rule of thumb


class FakeLM:
    """Answers with ``respond(number of the call)``; notes how many were in flight at once."""

    def __init__(self, respond=lambda number: "ok", *, usage=None, cached=False, seconds=0.0, price=None):
        self.model = "fake"
        self.respond, self.usage, self.cached, self.seconds = respond, usage or Usage(1, 10, 5, 0.25), cached, seconds
        self.calls = self.running = self.most = 0
        self.begun = []
        if price is not None:
            self.price = price

    async def complete(self, request):
        self.calls += 1
        number = self.calls
        self.begun.append(clock())
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await asyncio.sleep(self.seconds)
            found = self.respond(number)
            if isinstance(found, Exception):
                raise found
            return Reply(found, self.usage, cached=self.cached)
        finally:
            self.running -= 1


now = [0.0]


def clock():
    return now[0]


@pytest.fixture(autouse=True)
def _fake_time(monkeypatch):
    """Waiting takes no time, but moves the gate's clock; other tasks run meanwhile."""
    now[0] = 1_000.0

    async def sleep(seconds):
        until = now[0] + seconds
        await asyncio.sleep(0)
        now[0] = max(now[0], until)

    # In the gate's own names only: the event loop lives by the real clock.
    monkeypatch.setattr(gate_module, "time", SimpleNamespace(monotonic=clock))
    monkeypatch.setattr(gate_module, "anyio", SimpleNamespace(sleep=sleep, CapacityLimiter=anyio.CapacityLimiter))


def run(main, *args):
    return asyncio.run(main(*args))


def untouched(ledger):
    fresh = Ledger(ledger.budget).remaining()
    return replace(ledger.remaining(), seconds=None) == replace(fresh, seconds=None) and ledger.usage == Usage()


def test_a_reply_is_paid_for_once():
    """Reserved, settled, filed under model and depth; the reservation itself is gone."""
    ledger = Ledger(Budget(max_llm_calls=5, max_tokens=10_000))
    reply = run(lambda: Gate(1).ask(FakeLM(), ASK, ledger.child(), inner=True))
    assert reply.text == "ok"
    assert ledger.usage == Usage(1, 10, 5, 0.25).at("fake", 1)
    assert (ledger.remaining().llm_calls, ledger.remaining().tokens) == (4, 9_985)
    assert isinstance(FakeLM(), LM)


@pytest.mark.parametrize("width", [1, 3])
def test_nested_calls_share_the_slots_and_cannot_lock_each_other_out(width):
    """A parent that waits for children holds no slot: a tree far wider than the limit ends, within the limit."""
    lm, gate, ledger = FakeLM(seconds=0.0005), Gate(width), Ledger(Budget(max_llm_calls=None))

    async def node(depth):
        await gate.ask(lm, ASK, ledger, inner=True)
        if depth:
            await asyncio.gather(*(node(depth - 1) for _ in range(4)))
            await gate.ask(lm, ASK, ledger, inner=True)

    run(lambda: asyncio.wait_for(node(3), 60))
    assert lm.most == width
    assert ledger.usage.calls == lm.calls == (1 + 4 + 16 + 64) + (1 + 4 + 16)


def test_a_passing_failure_is_retried_and_paid_for_once():
    """Failed attempts cost neither calls nor tokens."""
    lm = FakeLM(lambda number: "ok" if number == MAX_ATTEMPTS else BUSY)
    ledger = Ledger(Budget(max_llm_calls=1, max_tokens=2_000))
    assert run(lambda: Gate(1).ask(lm, ASK, ledger, inner=True)).text == "ok"
    assert lm.calls == MAX_ATTEMPTS
    assert ledger.usage.calls == 1
    assert ledger.remaining().tokens == 2_000 - 15


def test_retries_end_with_the_last_failure_and_a_refund():
    """After the last attempt the error reaches the caller, and nothing has been spent."""
    lm, ledger = FakeLM(lambda number: BUSY), Ledger(Budget(max_llm_calls=1, max_tokens=2_000, max_cost=1.0))
    with pytest.raises(LMError) as caught:
        run(lambda: Gate(1).ask(lm, ASK, ledger, inner=True))
    assert caught.value is BUSY
    assert lm.calls == MAX_ATTEMPTS
    assert untouched(ledger)


@pytest.mark.parametrize("failure", [LMError("no such model"), ValueError("a bug in the LM")])
def test_what_a_retry_cannot_mend_fails_at_once_and_is_refunded(failure):
    """One attempt, the very exception, nothing spent."""
    lm, ledger = FakeLM(lambda number: failure), Ledger(Budget(max_llm_calls=1, max_cost=1.0))
    with pytest.raises(type(failure)) as caught:
        run(lambda: Gate(1).ask(lm, ASK, ledger, inner=True))
    assert caught.value is failure
    assert lm.calls == 1
    assert untouched(ledger)


def test_waits_between_attempts_double_and_are_jittered():
    """Each wait is between half and all of its step, and no step passes the longest."""
    waits = []
    lm = FakeLM(lambda number: BUSY)
    with pytest.raises(LMError):
        run(lambda: Gate(1, on_wait=waits.append).ask(lm, ASK, Ledger(Budget()), inner=True))
    steps = [gate_module.FIRST_BACKOFF * 2**i for i in range(MAX_ATTEMPTS - 1)]
    assert len(waits) == len(steps)
    assert all(step / 2 <= wait <= step <= gate_module.MAX_BACKOFF for wait, step in zip(waits, steps, strict=True))


def test_the_providers_own_wait_is_honoured():
    """Retry-After counts instead of our own step, longer or shorter."""
    for seconds in (0.01, 120.0):
        lm = FakeLM(lambda number, s=seconds: "ok" if number > 1 else LMError("", retryable=True, retry_after=s))
        run(lambda lm=lm: Gate(1).ask(lm, ASK, Ledger(Budget()), inner=True))
        assert lm.begun[1] - lm.begun[0] == pytest.approx(seconds)


@pytest.mark.parametrize("width", [1, 2, 50])
def test_one_callers_rate_limit_slows_the_whole_tree(width):
    """Nobody sends before the wait is over: neither who comes later nor who was already queued for a slot."""
    lm = FakeLM(lambda number: "ok" if number > 1 else LMError("", retryable=True, retry_after=30.0), seconds=0.001)
    gate, ledger = Gate(width), Ledger(Budget(max_llm_calls=None))

    async def main():
        await asyncio.gather(*(gate.ask(lm, ASK, ledger, inner=True) for _ in range(50)))

    run(main)
    limited = lm.begun[0]
    early = [at for at in lm.begun if at < limited + 30.0]
    assert len(early) <= width  # those that were already under way
    assert ledger.usage.calls == 50


def test_a_batch_far_wider_than_the_provider_allows_is_answered_whole():
    """The tree asks for less at once after a refusal, and for more again as replies come; waiting alone does not do."""
    takes = 4
    lm = FakeLM(lambda number: BUSY if lm.running > takes else "ok", seconds=0.001)
    gate, ledger = Gate(64), Ledger(Budget(max_llm_calls=None))

    async def main():
        return await asyncio.gather(
            *(gate.ask(lm, ASK, ledger, inner=True) for _ in range(200)), return_exceptions=True
        )

    assert [reply for reply in run(main) if isinstance(reply, Exception)] == []
    lm.respond, lm.most = (lambda number: "ok"), 0
    run(main)
    assert lm.most == 64


def test_a_cancelled_call_is_refunded_and_gives_its_slot_back():
    """In flight, waiting for a slot, or waiting to try again."""
    ledger = Ledger(Budget(max_llm_calls=3, max_tokens=10_000))

    async def main():
        gate, lm = Gate(1), FakeLM(seconds=600)
        tasks = [asyncio.create_task(gate.ask(lm, ASK, ledger, inner=True)) for _ in range(3)]
        await eventually(lambda: (lm.running, ledger.remaining().llm_calls) == (1, 0))
        for task in tasks:
            task.cancel()
        assert all(isinstance(e, asyncio.CancelledError) for e in await asyncio.gather(*tasks, return_exceptions=True))
        assert (lm.calls, lm.running) == (1, 0)
        assert untouched(ledger)
        return await gate.ask(FakeLM(), ASK, ledger, inner=True)

    assert run(main).text == "ok"


def test_a_deadline_cancels_what_is_under_way():
    """The scope of anyio that the runner uses: the call ends, the money is back."""
    ledger = Ledger(Budget(max_llm_calls=1))

    async def main():
        with anyio.move_on_after(0.01) as scope:
            await Gate(1).ask(FakeLM(seconds=600), ASK, ledger, inner=True)
        return scope.cancelled_caught

    assert run(main)
    assert untouched(ledger)


def test_a_cached_reply_costs_nothing():
    """Neither a call nor a token nor a dollar, whatever usage it remembers."""
    ledger = Ledger(Budget(max_llm_calls=1, max_tokens=2_000, max_cost=1.0))
    for _ in range(5):
        assert run(lambda: Gate(1).ask(FakeLM(cached=True), ASK, ledger, inner=True)).cached
    assert untouched(ledger)


def test_the_users_price_counts_before_the_providers():
    """Per million tokens, on the tokens the provider reports; the reply says the same."""
    ledger = Ledger(Budget(prices={"fake": (1_000_000.0, 2_000_000.0)}))
    reply = run(lambda: Gate(1).ask(FakeLM(usage=Usage(1, 3, 4, 0.5)), ASK, ledger, inner=True))
    assert reply.usage.cost == ledger.usage.cost == 3 * 1.0 + 4 * 2.0
    free = Ledger(Budget(prices={"other": (1.0, 1.0)}))
    assert run(lambda: Gate(1).ask(FakeLM(), ASK, free, inner=True)).usage.cost == 0.25


@pytest.mark.parametrize(
    ("limits", "limit"),
    [({"max_llm_calls": 0}, "max_llm_calls"), ({"max_tokens": 100}, "max_tokens"), ({"max_cost": 0.5}, "max_cost")],
)
def test_a_spent_budget_refuses_before_anything_is_sent(limits, limit):
    """By the worst case of what is asked: its text, and as much output as it may take."""
    lm = FakeLM(price=(0.001, 0.01))
    ledger = Ledger(Budget(**limits))
    with pytest.raises(Exhausted) as caught:
        run(lambda: Gate(1).ask(lm, replace(ASK, max_tokens=100), ledger, inner=True))
    assert caught.value.limit == limit
    assert lm.calls == 0
    assert untouched(ledger)


def test_a_batch_cannot_overspend_by_its_width():
    """100 calls at once under a limit that pays for a few: the rest are refused unsent."""
    lm = FakeLM(seconds=0.001, usage=Usage(1, 10, 100, None))
    ledger = Ledger(Budget(max_llm_calls=None, max_tokens=1_000))

    async def main():
        gate, request = Gate(100), replace(ASK, max_tokens=100)
        asked = (gate.ask(lm, request, ledger, inner=True) for _ in range(100))
        return await asyncio.gather(*asked, return_exceptions=True)

    answers = run(main)
    assert sum(isinstance(a, Reply) for a in answers) == lm.calls == math.floor(900 / 110)
    assert sum(isinstance(a, Exhausted) for a in answers) == 100 - lm.calls
    assert ledger.usage.tokens <= 900


def test_the_final_call_may_take_what_was_kept():
    """Extraction still gets through where work no longer does."""
    ledger = Ledger(Budget(max_tokens=1_000))
    ledger.reserve(inner=False, tokens=900)
    request = replace(ASK, max_tokens=50)
    with pytest.raises(Exhausted):
        run(lambda: Gate(1).ask(FakeLM(), request, ledger, inner=False))
    assert run(lambda: Gate(1).ask(FakeLM(), request, ledger, inner=False, final=True)).text == "ok"


def test_scripted_replies_are_filed_under_the_name_that_answered():
    """A reply's own model name counts before the name that was asked."""
    ledger = Ledger(Budget())
    run(lambda: Gate(1).ask(ScriptedLM(["a"], model="script", cost=0.5), ASK, ledger, inner=False))
    assert list(ledger.usage.by_model) == ["script"]
    assert ledger.usage.cost == 0.5


def test_the_gate_adds_next_to_nothing():
    """Some two hundred function calls for each of a thousand that wait for eight slots, as for each of a hundred."""

    def work(count):
        lm, gate, ledger = FakeLM(), Gate(8), Ledger(Budget(max_llm_calls=None))

        async def main():
            await asyncio.gather(*(gate.ask(lm, ASK, ledger, inner=True) for _ in range(count)))

        run(main)
        assert ledger.usage.calls == count

    hundred, thousand = calls_of(lambda: work(100)), calls_of(lambda: work(1_000))
    assert thousand < min(11 * hundred, 250 * 1_000)


def test_a_reply_that_is_remembered_is_given_where_no_call_is_left():
    """A hit costs nothing, so a limit that is reached does not refuse it, nor mark the run as limited."""

    async def go():
        lm = Cached(ScriptedLM(["first"]))
        ledger, gate = Ledger(Budget(max_llm_calls=1)), Gate(4)
        first = await gate.ask(lm, ASK, ledger, inner=True)
        again = await gate.ask(lm, ASK, ledger, inner=True)
        assert (first.text, again.text, again.cached, ledger.refused) == ("first", "first", True, None)
        with pytest.raises(Exhausted, match="limit exceeded"):
            await gate.ask(lm, Request.of("another"), ledger, inner=True)
        return ledger.usage.calls

    assert asyncio.run(go()) == 1
