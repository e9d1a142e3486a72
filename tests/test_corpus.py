"""rlm.map: one RLM over many inputs, under one budget, restartable."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import textwrap
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted_server import Answer, ScriptedServer

from dszig_py import RLM, Budget, InputError, LMError
from dszig_py.corpus import Mapped, _InOrder
from dszig_py.corpus._results import key_of
from dszig_py.lm import ScriptedLM
from dszig_py.trajectory import Termination
from dszig_py.usage import Exhausted, Ledger, Usage

SUBMIT = "```python\nSUBMIT(answer=int(text) * 2)\n```"


def doubler(reply=SUBMIT, **options):
    lm = ScriptedLM(lambda request: reply)
    return RLM("text: str -> answer: int", lm=lm, environment="inprocess", **options), lm


def texts(count):
    return [{"text": str(n)} for n in range(count)]


def test_every_element_has_its_result():
    """As they end, each with its place, its typed outputs and its own prediction."""
    rlm, _ = doubler()
    with rlm.map(texts(20), max_concurrency=4) as results:
        found = list(results)
    assert sorted(r.index for r in found) == list(range(20))
    assert all(r.outputs == {"answer": 2 * r.index} == r.prediction.outputs for r in found)
    assert list(results) == []


def test_results_come_in_the_order_of_the_inputs_where_asked():
    """The first element ends last, and is told first."""
    gate = threading.Event()

    def reply(request):
        if "'0'" in request.messages[1].content:
            gate.wait(10)
        elif "'3'" in request.messages[1].content:
            gate.set()
        return SUBMIT

    rlm = RLM("text: str -> answer: int", lm=reply, environment="inprocess")
    assert [r.index for r in rlm.map(texts(4), max_concurrency=4, ordered=True)] == [0, 1, 2, 3]


def test_no_more_runs_are_under_way_than_asked_for():
    """And inputs are taken as they are needed: an endless iterable is fine."""
    taken = []

    def endless():
        for n in range(10**9):
            taken.append(n)
            yield {"text": str(n)}

    with ScriptedServer(lambda body: Answer(SUBMIT, latency=0.02)) as server:
        options = {"api_base": server.url, "api_key": "k"}
        rlm = RLM("text: str -> answer: int", lm="openai/x", lm_options=options, environment="inprocess")
        with rlm.map(endless(), max_concurrency=3) as results:
            for _, result in zip(range(12), results, strict=False):
                assert result.outputs["answer"] == 2 * result.index
        assert server.max_in_flight <= 3
    assert len(taken) < 100


def test_asynchronous_iteration():
    """On the caller's own loop."""
    rlm, _ = doubler()

    async def go():
        return [r.index async for r in rlm.map(texts(5), ordered=True)]

    assert asyncio.run(go()) == [0, 1, 2, 3, 4]


def test_results_in_the_file_are_not_run_again(tmp_path):
    """A rerun runs what is missing, what failed at the provider, and what was changed; the rest comes from the file."""
    path = tmp_path / "out" / "results.jsonl"

    def shaky(request):
        if "'2'" in request.messages[1].content:
            raise LMError("down")
        return SUBMIT

    rlm = RLM("text: str -> answer: int", lm=ScriptedLM(shaky), environment="inprocess")
    first = {r.index: r for r in rlm.map(texts(4), path=path)}
    assert first[2].error == "LMError: down"
    assert first[2].failed
    with path.open("ab") as file:
        file.write(b'{"index": 3, "cut')
    rlm, lm = doubler()
    changed = [*texts(3), {"text": "33"}, {"text": "4"}]
    again = {r.index: r for r in rlm.map(changed, path=path)}
    assert {i: r.outputs["answer"] for i, r in again.items()} == {0: 0, 1: 2, 2: 4, 3: 66, 4: 8}
    assert [again[i].prediction is None for i in range(5)] == [True, True, False, False, False]
    assert len(lm.requests) == 3
    assert again[0].usage.calls == 1
    assert all(json.loads(line) for line in path.read_bytes().splitlines())


def test_a_killed_map_goes_on(tmp_path):
    """SIGKILL in the middle: what had ended is in the file, nothing of it is asked again."""
    program = textwrap.dedent("""
        import sys
        from dszig_py import RLM
        options = {"api_base": sys.argv[2], "api_key": "k"}
        rlm = RLM("text: str -> answer: int", lm="openai/x", lm_options=options, environment="inprocess")
        for result in rlm.map([{"text": str(n)} for n in range(6)], max_concurrency=1, path=sys.argv[1]): pass
    """)
    reached, path = threading.Event(), tmp_path / "r.jsonl"

    def handler(body):
        if "'4'" in str(body["messages"][1]["content"]) and not reached.is_set():
            reached.set()
            return Answer(fault="hang")
        return SUBMIT

    with ScriptedServer(handler) as server:
        process = subprocess.Popen([sys.executable, "-c", program, str(path), server.url])
        assert reached.wait(60)
        process.kill()
        process.wait(30)
        options = {"api_base": server.url, "api_key": "k"}
        rlm = RLM("text: str -> answer: int", lm="openai/x", lm_options=options, environment="inprocess")
        assert sorted(r.outputs["answer"] for r in rlm.map(texts(6), path=path)) == [0, 2, 4, 6, 8, 10]
        assert server.count == 7, "six elements, one of them asked twice since it was never answered"


def test_one_budget_for_all_runs():
    """Dollars of all runs together: no more is spent, and what was kept from being run is told."""
    lm = ScriptedLM(lambda request: SUBMIT, cost=0.01)
    rlm = RLM("text: str -> answer: int", lm=lm, environment="inprocess")
    with rlm.map(texts(50), max_concurrency=1, budget=Budget(max_cost=0.1)) as results:
        found = list(results)
    assert results.stopped == "max_cost"
    assert sum(r.usage.cost for r in found) <= 0.1
    assert 5 <= len([r for r in found if r.termination.kind == "submitted"]) <= 10
    assert len(lm.requests) <= 10


def test_one_budget_limits_what_it_names():
    """Fifty calls is the default of one run; a hundred runs under a limit in tokens have their fifty each."""
    rlm = RLM(
        "text: str -> answer: str",
        lm=lambda p: "```python\nSUBMIT(answer=llm_query('x'))\n```",
        environment="inprocess",
    )
    found = list(rlm.map(texts(60), budget=Budget(max_tokens=10**9)))
    assert len(found) == 60
    assert sum(r.usage.calls for r in found) == 120


def test_results_after_one_that_was_left_out_are_told_at_the_end():
    """In their order: the budget may end between two that were begun side by side."""
    told = []
    line = _InOrder(lambda result: told.append(result.index))
    for index in (3, 0, 2):
        line(Mapped(index, {}, Termination("submitted", "model", "")))
    assert told == [0]
    line.rest()
    assert told == [0, 2, 3]


def test_a_shared_limit_in_dollars_needs_prices():
    """As that of one run does: it would never bite."""
    lm = ScriptedLM(lambda request: SUBMIT, cost=None)
    rlm = RLM("text: str -> answer: int", lm=lm, environment="inprocess")
    with pytest.raises(InputError, match="nobody knows what 'scripted' costs"):
        list(rlm.map(texts(2), budget=Budget(max_cost=1.0)))
    assert not lm.requests


def test_an_input_that_does_not_fit_is_raised_where_results_are_taken():
    """What is the caller's to mend ends the iteration."""
    rlm, _ = doubler()
    with pytest.raises(InputError, match="missing: text"):
        list(rlm.map([{"other": "1"}]))
    with pytest.raises(ZeroDivisionError):
        list(rlm.map({"text": str(1 // n)} for n in (1, 0)))


def test_leaving_early_stops_the_runs():
    """Nothing is asked after the with block."""
    rlm, lm = doubler()
    with rlm.map(texts(1_000), max_concurrency=2) as results:
        next(results)
    assert len(lm.requests) < 1_000
    assert results._task.wait(0), "the runs under way have been cleaned up"


def test_what_cannot_be_gone_on_with_is_refused(tmp_path):
    """Another signature's results, another kind of file, a file that is being written to."""
    path = tmp_path / "r.jsonl"
    rlm, _ = doubler()
    list(rlm.map(texts(1), path=path))
    with pytest.raises(InputError, match="it holds results of"):
        RLM("text -> other", lm="offline").map([], path=path)
    (tmp_path / "other").write_text("hello\n")
    with pytest.raises(InputError, match="cannot be gone on with"):
        rlm.map([], path=tmp_path / "other")
    with rlm.map([], path=path), pytest.raises(InputError, match="another process"):
        rlm.map([], path=path)
    with pytest.raises(InputError, match="at least 1"):
        rlm.map([], max_concurrency=0)
    assert os.path.exists(path)


@pytest.mark.parametrize(
    "content",
    [
        b"a note of the caller's, without a line's end",
        b"two lines\nof a note",
        b'{"schema": "dszig.map/1", "signature": "q',
    ],
    ids=["one line", "two lines", "another signature, cut off"],
)
def test_a_file_that_holds_no_results_is_left_as_it_is(tmp_path, content):
    """Refused by its name, and not a byte of it gone."""
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    rlm, _ = doubler()
    with pytest.raises(InputError, match=r"notes\.txt cannot be gone on with"):
        rlm.map(texts(1), path=path)
    assert path.read_bytes() == content


INPUTS = st.fixed_dictionaries({"a": st.text("ab1:", max_size=6), "b": st.text("ab1:", max_size=6)})


@given(INPUTS, INPUTS)
def test_inputs_that_differ_are_known_by_different_keys(first, second):
    """Also where only the place of the cut between two of them does."""
    assert (key_of(first) == key_of(second)) == (first == second)
    assert key_of({"a": "1b2", "b": "3"}) != key_of({"a": "1", "b": "2b3"})
    assert key_of({"a": "1"}) != key_of({"a": 1})


def test_a_writer_that_was_killed_within_its_first_line_is_gone_on_after(tmp_path):
    """Nothing was said yet, so there is nothing to lose."""
    path, (rlm, _) = tmp_path / "r.jsonl", doubler()
    assert len(list(rlm.map(texts(1), path=path))) == 1
    whole = path.read_bytes()
    path.write_bytes(whole[:20])
    assert len(list(rlm.map(texts(1), path=path))) == 1
    assert path.read_bytes().splitlines()[0] == whole.splitlines()[0]


def test_progress_is_shown_where_asked(capsys):
    """A bar of runs, on standard error."""
    rlm, _ = doubler()
    list(rlm.map(texts(3), progress=True))
    assert "3/3" in capsys.readouterr().err


@settings(max_examples=200)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 400), st.integers(0, 400), st.booleans()), max_size=40))
def test_accounts_within_an_account_never_spend_more_than_it_allows(calls):
    """Whatever trees reserve and take, the sum is within the limit, and refunds leave nothing held."""
    whole = Ledger(Budget(max_tokens=1_000, max_llm_calls=10))
    trees = [Ledger(Budget(max_tokens=600), within=whole) for _ in range(3)]
    spent = made = 0
    for tree, reserved, taken, fails in calls:
        try:
            held = trees[tree].reserve(inner=True, tokens=reserved)
        except Exhausted:
            continue
        if fails:
            trees[tree].refund(held)
        else:
            used = min(reserved, taken)
            trees[tree].settle(held, Usage(1, used, 0, 0.0), "m")
            spent, made = spent + used, made + 1
    assert spent <= 900
    assert made <= 10
    assert whole.usage.tokens == sum(tree.usage.tokens for tree in trees) == spent
    assert whole.remaining().tokens == 1_000 - spent
