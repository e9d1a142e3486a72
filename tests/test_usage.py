"""Budgets, usage and the ledger of a recursion tree: nothing is spent beyond a limit, nothing is lost on the way up."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule
from pydantic import ValidationError

from dszig_py.usage import Budget, Exhausted, Ledger, Usage

CENTS = st.integers(0, 400).map(lambda n: n / 64)  # sums of these are exact, so that balances can be compared with ==
MODELS = st.sampled_from(["a", "b", "c"])


@st.composite
def usages(draw, cost=CENTS | st.none()):
    one = Usage(
        draw(st.integers(0, 3)),
        draw(st.integers(0, 1_000)),
        draw(st.integers(0, 1_000)),
        draw(cost),
        draw(CENTS),
        draw(st.booleans()),
    )
    return one.at(draw(MODELS), draw(st.integers(0, 2))) if draw(st.booleans()) else one


def plain(usage):
    return usage.calls, usage.input_tokens, usage.output_tokens, usage.cost, usage.seconds, usage.estimated


def total(parts):
    return plain(sum(parts, Usage()))


class Tree(RuleBasedStateMachine):
    """A tree of ledgers under calls that begin, end and fail in any order; the truth is kept in plain lists."""

    ledgers = Bundle("ledgers")
    calls = Bundle("calls")

    @initialize(
        target=ledgers,
        calls=st.none() | st.integers(0, 12),
        tokens=st.none() | st.integers(1, 3_000),
        cost=st.none() | CENTS,
    )
    def root(self, calls, tokens, cost):
        self.budget = Budget(max_llm_calls=calls, max_tokens=tokens, max_cost=cost)
        self.tree = [Ledger(self.budget)]
        self.open = []
        self.settled = []
        return self.tree[0]

    @rule(target=ledgers, parent=ledgers)
    def child(self, parent):
        ledger = parent.child()
        assert ledger.depth == parent.depth + 1
        self.tree.append(ledger)
        return ledger

    def held(self):
        """Inner calls, tokens and dollars that are held or spent."""
        calls = sum(inner for _, inner, _, _ in self.open) + sum(inner for _, inner, _, _ in self.settled)
        tokens = sum(t for _, _, t, _ in self.open) + sum(u.tokens for _, _, u, _ in self.settled)
        dollars = sum(c for _, _, _, c in self.open) + sum(u.cost for _, _, u, _ in self.settled)
        return calls, tokens, dollars

    @rule(
        target=calls, ledger=ledgers, inner=st.booleans(), tokens=st.integers(0, 900), cost=CENTS, final=st.booleans()
    )
    def reserve(self, ledger, inner, tokens, cost, final):
        budget, share = self.budget, (0.95 if ledger.depth else 1.0) if final else 0.9
        calls, used, dollars = self.held()
        fits = {
            "max_llm_calls": not inner or budget.max_llm_calls is None or calls < budget.max_llm_calls,
            "max_tokens": budget.max_tokens is None or used + tokens <= budget.max_tokens * share,
            "max_cost": budget.max_cost is None or dollars + cost <= budget.max_cost * share,
        }
        before = self.tree[0].remaining()
        try:
            reservation = ledger.reserve(inner=inner, tokens=tokens, cost=cost, final=final)
        except Exhausted as refusal:
            assert refusal.limit == next(name for name, ok in fits.items() if not ok)
            assert self.tree[0].remaining() == before
            assert not inner or ledger.refused is not None
            return None
        assert all(fits.values())
        self.open.append((reservation, inner, tokens, cost))
        return reservation, ledger, inner, tokens, cost

    @rule(call=consumes(calls), data=st.data(), model=MODELS)
    def settle(self, call, data, model):
        if call is None:
            return
        reservation, ledger, inner, tokens, cost = call
        used = data.draw(st.integers(0, tokens))
        usage = Usage(1, used // 2, used - used // 2, data.draw(CENTS.filter(lambda c: c <= cost)), 0.5)
        ledger.settle(reservation, usage, model)
        ledger.settle(reservation, usage, model)  # a second time changes nothing
        ledger.refund(reservation)
        self.open = [o for o in self.open if o[0] is not reservation]
        self.settled.append((ledger, inner, usage, model))

    @rule(call=consumes(calls))
    def refund(self, call):
        if call is None:
            return
        reservation, ledger, *_ = call
        ledger.refund(reservation)
        ledger.refund(reservation)
        self.open = [o for o in self.open if o[0] is not reservation]

    @invariant()
    def no_limit_is_passed(self):
        calls, tokens, dollars = self.held()
        budget = self.budget
        assert budget.max_llm_calls is None or calls <= budget.max_llm_calls
        assert budget.max_tokens is None or tokens <= budget.max_tokens
        assert budget.max_cost is None or dollars <= budget.max_cost

    @invariant()
    def what_is_left_is_what_was_not_taken(self):
        calls, tokens, dollars = self.held()
        budget = self.budget
        for ledger in self.tree:
            left = ledger.remaining()
            assert left.llm_calls == (None if budget.max_llm_calls is None else budget.max_llm_calls - calls)
            assert left.tokens == (None if budget.max_tokens is None else budget.max_tokens - tokens)
            assert left.cost == (None if budget.max_cost is None else budget.max_cost - dollars)

    @invariant()
    def every_ledger_holds_its_own_and_its_childrens_usage(self):
        for ledger in self.tree:
            under = [(u, m, at.depth) for at, _, u, m in self.settled if ledger in lineage(at)]
            assert plain(ledger.usage) == total(u for u, _, _ in under)
            for split, key in ((ledger.usage.by_model, 1), (ledger.usage.by_depth, 2)):
                assert total(split.values()) == plain(ledger.usage)
                assert {k: plain(v) for k, v in split.items()} == {
                    k: total(entry[0] for entry in under if entry[key] == k) for k in {entry[key] for entry in under}
                }


def lineage(ledger):
    while ledger is not None:
        yield ledger
        ledger = ledger.parent


TestTree = Tree.TestCase
TestTree.settings = settings(max_examples=150, stateful_step_count=40)


@pytest.mark.parametrize("settled", [True, False])
def test_threads_never_pass_a_limit_together(settled):
    """32 threads, 200 calls each, in ledgers of a tree: exactly as many get through as the limit says."""
    root = Ledger(Budget(max_llm_calls=1_000))
    start = threading.Barrier(32)

    def work(number):
        ledger = root.child() if number % 2 else root
        start.wait()
        through = 0
        for _ in range(200):
            try:
                reservation = ledger.reserve(inner=True)
            except Exhausted:
                continue
            through += 1
            if settled:
                ledger.settle(reservation, Usage(1, 1, 1), "m")
        return through

    with ThreadPoolExecutor(32) as pool:
        assert sum(pool.map(work, range(32))) == 1_000
    assert root.remaining().llm_calls == 0
    assert root.usage.calls == (1_000 if settled else 0)


def test_refunds_of_threads_leave_no_trace():
    """What failed is as if it had never been asked."""
    root = Ledger(Budget(max_llm_calls=8, max_tokens=1_000, max_cost=1.0))
    before = root.remaining()

    def work(_):
        for _ in range(200):
            try:
                root.refund(root.reserve(inner=True, tokens=10, cost=0.125))
            except Exhausted:
                continue

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(work, range(16)))
    assert root.remaining() == before


@pytest.mark.parametrize(
    ("limits", "asked", "limit", "told"),
    [
        ({"max_llm_calls": 0}, {}, "max_llm_calls", "LLM call limit exceeded: all 0 calls"),
        ({"max_tokens": 1_000}, {"tokens": 2_000}, "max_tokens", "token limit exceeded: 0 of 1,000 tokens"),
        ({"max_cost": 0.5}, {"cost": 1.0}, "max_cost", r"cost limit exceeded: \$0.0000 of \$0.5000"),
    ],
)
def test_a_refusal_names_its_limit_and_the_whole_tree_knows(limits, asked, limit, told):
    """The exception carries the name; the first limit that refused code anywhere is remembered at the root."""
    root = Ledger(Budget(**limits))
    child = root.child()
    with pytest.raises(Exhausted, match=told) as caught:
        child.reserve(inner=True, **asked)
    assert caught.value.limit == limit
    assert (root.refused, child.refused) == (limit, limit)


def test_a_refused_decision_is_not_remembered_as_a_refused_call():
    """Only calls from inside code make the next decision the last one."""
    root = Ledger(Budget(max_tokens=10))
    with pytest.raises(Exhausted):
        root.reserve(inner=False, tokens=100)
    assert root.refused is None


def test_the_roots_own_decisions_do_not_count_as_calls_from_code():
    """max_llm_calls is of what code asks for."""
    root = Ledger(Budget(max_llm_calls=1))
    for _ in range(5):
        root.reserve(inner=False)
    root.reserve(inner=True)
    with pytest.raises(Exhausted):
        root.reserve(inner=True)


def test_a_tenth_is_kept_for_the_closing_call():
    """Work stops at nine tenths of tokens and money; only the final call may take the rest."""
    ledger = Ledger(Budget(max_tokens=1_000))
    ledger.reserve(inner=False, tokens=900)
    with pytest.raises(Exhausted, match="900 of 1,000"):
        ledger.reserve(inner=False, tokens=1)
    ledger.reserve(inner=False, tokens=100, final=True)
    with pytest.raises(Exhausted):
        ledger.reserve(inner=False, tokens=1, final=True)
    ledger = Ledger(Budget(max_cost=1.0))
    ledger.reserve(inner=False, cost=0.875)
    with pytest.raises(Exhausted):
        ledger.reserve(inner=False, cost=0.125)
    ledger.reserve(inner=False, cost=0.125, final=True)


def test_what_a_call_really_took_replaces_what_was_held():
    """A call that took more than was foreseen is counted in full; one of unknown cost keeps what was held."""
    ledger = Ledger(Budget(max_tokens=1_000, max_cost=10.0))
    ledger.settle(ledger.reserve(inner=True, tokens=10, cost=1.0), Usage(1, 300, 200, 4.0), "m")
    assert (ledger.remaining().tokens, ledger.remaining().cost) == (500, 6.0)
    ledger.settle(ledger.reserve(inner=True, cost=2.0), Usage(1, 0, 0, None), "m")
    assert ledger.remaining().cost == 4.0
    assert ledger.usage.cost is None


def test_iterations_are_each_runs_own():
    """A child counts from 1 whatever its parent has used; the last one allowed is the last one begun."""
    root = Ledger(Budget(max_iters=2))
    assert [root.begin_iteration(), root.begin_iteration()] == [1, 2]
    child = root.child()
    assert child.remaining().iters == 2
    assert child.begin_iteration() == 1
    with pytest.raises(Exhausted, match="all 2 iterations are used") as caught:
        root.begin_iteration()
    assert caught.value.limit == "max_iters"
    assert (root.iters, root.remaining().iters, child.remaining().iters) == (2, 0, 1)


def test_without_limits_nothing_is_refused():
    """None means not limited, in every field."""
    ledger = Ledger(Budget(max_iters=None, max_llm_calls=None))
    for _ in range(1_000):
        ledger.begin_iteration()
        ledger.reserve(inner=True, tokens=10**9, cost=1e9)
    left = ledger.remaining()
    assert (left.iters, left.llm_calls, left.tokens, left.cost, left.seconds) == (None,) * 5
    assert (left.tokens_share, left.cost_share, left.seconds_share) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(("seconds", "kept"), [(100.0, 10.0), (1_000.0, 30.0), (2.0, 0.2)])
def test_deadlines_follow_the_clock_and_keep_a_share_for_extraction(seconds, kept):
    """The soft deadline leaves a tenth, at most 30 s; children share their root's beginning."""
    now = [50.0]
    root = Ledger(Budget(max_seconds=seconds), clock=lambda: now[0])
    now[0] += seconds / 4
    child = root.child()
    for ledger in (root, child):
        assert ledger.deadline == 50.0 + seconds
        assert ledger.soft_deadline == pytest.approx(50.0 + seconds - kept)
        assert ledger.seconds == seconds / 4
        assert ledger.remaining().seconds == seconds * 3 / 4
        assert ledger.remaining().seconds_share == 0.75
    now[0] += 10 * seconds
    assert (child.remaining().seconds, child.remaining().seconds_share) == (0.0, 0.0)


def test_without_seconds_there_are_no_deadlines():
    """None, not some far future."""
    ledger = Ledger(Budget())
    assert (ledger.deadline, ledger.soft_deadline, ledger.remaining().seconds) == (None, None, None)


def test_what_is_left_minds_the_limits_around_several_trees():
    """A run of a corpus whose budget is nearly spent is told so, whatever its own would still allow."""
    clock = lambda: 0.0  # noqa: E731 - the ledgers' common clock
    around = Ledger(Budget(max_llm_calls=10, max_tokens=1_000, max_cost=1.0, max_seconds=50), clock=clock)
    around.settle(around.reserve(inner=True), Usage(1, 600, 300, 0.95), "m")
    run = Ledger(Budget(max_llm_calls=50, max_iters=3, max_seconds=100), within=around, clock=clock).child()
    left = run.remaining()
    assert (left.llm_calls, left.tokens, left.seconds, left.iters) == (9, 100, 50, 3)
    assert left.cost == pytest.approx(0.05)
    assert (left.tokens_share, left.cost_share, left.seconds_share) == pytest.approx((0.1, 0.05, 1.0))


def test_depth_left_shrinks_with_each_level():
    """And never below none."""
    root = Ledger(Budget(max_depth=1))
    depths = [root.remaining().depth, root.child().remaining().depth, root.child().child().remaining().depth]
    assert depths == [1, 0, 0]


@given(usages(), usages(), usages())
def test_usage_adds_in_any_order_and_grouping(a, b, c):
    """Also its splits; an empty one changes nothing."""
    assert a + b == b + a
    assert (a + b) + c == a + (b + c)
    assert a + Usage() == a


@given(st.lists(usages(), max_size=5))
def test_one_unknown_cost_makes_the_sum_unknown(parts):
    """And nothing else does: a number that is too low is worse than none."""
    assert (sum(parts, Usage()).cost is None) == any(part.cost is None for part in parts)


@given(st.lists(usages(), max_size=6))
def test_splits_add_up_by_key(parts):
    """by_model and by_depth of a sum hold, for each key, the sum of the parts under that key."""
    whole = sum(parts, Usage())
    for split in ("by_model", "by_depth"):
        keys = {key for part in parts for key in getattr(part, split)}
        assert set(getattr(whole, split)) == keys
        for key in keys:
            under = [getattr(part, split)[key] for part in parts if key in getattr(part, split)]
            assert plain(getattr(whole, split)[key]) == total(under)


@given(usages(), usages())
def test_what_was_spent_since_is_what_was_added(earlier, added):
    """since() undoes the sum, but for costs that were unknown."""
    spent = (earlier + added).since(earlier)
    assert (spent.calls, spent.tokens, spent.seconds) == (added.calls, added.tokens, added.seconds)
    assert spent.cost == (None if earlier.cost is None else added.cost)


def test_usage_says_itself_in_one_line():
    """Estimated counts and unknown costs are told as such."""
    assert str(Usage(2, 1_234, 5, 0.125, 3.0)) == "2 calls, 1,234 + 5 tokens, $0.1250, 3.0 s of model time"
    assert (
        str(Usage(1, 1, 1, None, 0.0, estimated=True))
        == "1 call, about 1 + 1 tokens, cost unknown, 0.0 s of model time"
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_iters": 0},
        {"max_iters": -1},
        {"max_llm_calls": -1},
        {"max_tokens": 0},
        {"max_cost": -0.01},
        {"max_cost": float("nan")},
        {"max_seconds": 0},
        {"max_seconds": float("nan")},
        {"max_depth": -1},
        {"max_concurrency": 0},
        {"max_errors": 0},
        {"prices": {"m": (-1.0, 1.0)}},
        {"prices": {"m": (1.0, float("nan"))}},
        {"prices": {"m": 1.0}},
        {"max_iterations": 5},
        {"max_iters": "many"},
    ],
)
def test_a_budget_refuses_what_is_no_limit(wrong):
    """Negative and unordered numbers, unknown names: each by the name of the field."""
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        Budget(**wrong)


def test_a_budget_does_not_change():
    """It is shared by every run of an RLM."""
    budget = Budget()
    with pytest.raises(ValidationError, match="frozen"):
        budget.max_iters = 5


def test_prices_are_given_per_million_tokens():
    """And only for the model they name."""
    budget = Budget(prices={"my/model": (0.5, 2.0)})
    assert budget.price("my/model") == (0.5e-6, 2e-6)
    assert budget.price("other") is None
