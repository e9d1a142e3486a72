"""rlm.map: one RLM over many inputs, under one budget, restartable."""

from __future__ import annotations

import asyncio
import contextvars
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
from waiting import eventually, within

from dszig_py import RLM, Budget, File, Folder, InputError, LMError, Text
from dszig_py.corpus import Mapped, _work
from dszig_py.corpus._results import key_of
from dszig_py.corpus._work import _InOrder
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
            gate.wait(60)
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
        process.wait(60)
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


@pytest.mark.parametrize("limit", ["max_cost", "max_tokens", "max_llm_calls"])
def test_what_the_budget_of_all_cut_short_is_gone_on_with_when_there_is_more(limit, tmp_path):
    """Its result is told, but is no last word: with more, every element has its answer."""
    reply = "```python\nllm_query('first')\nllm_query('second')\nSUBMIT(answer=int(text) * 2)\n```"
    lm = ScriptedLM(lambda request: reply, cost=0.01)
    rlm = RLM("text: str -> answer: int", lm=lm, environment="inprocess")
    some = {"max_cost": 0.05, "max_tokens": 3_000, "max_llm_calls": 3}[limit]
    path = tmp_path / "r.jsonl"
    found = list(rlm.map(texts(4), path=path, max_concurrency=2, budget=Budget(**{limit: some})))
    assert limit in {r.termination.kind for r in found}
    again = list(rlm.map(texts(4), path=path, ordered=True))
    assert [r.outputs["answer"] for r in again] == [0, 2, 4, 6]
    assert [r.prediction for r in rlm.map(texts(4), path=path)] == [None] * 4
    assert not os.path.exists(f"{path}.runs")


def test_what_the_limit_of_the_run_itself_ended_is_its_result(tmp_path):
    """Also where all runs together have one of that kind, of which enough is left."""
    reply = "```python\nllm_query('first')\nllm_query('second')\nSUBMIT(answer=int(text) * 2)\n```"
    rlm, _ = doubler(reply, max_llm_calls=1)
    path = tmp_path / "r.jsonl"
    first = list(rlm.map(texts(3), path=path, budget=Budget(max_llm_calls=100)))
    assert {r.termination.kind for r in first} == {"max_llm_calls"}
    assert [r.prediction for r in rlm.map(texts(3), path=path)] == [None] * 3


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


def waiting(begun, goes_on):
    """A model that answers the first element, and of every other one only once ``goes_on`` is set."""

    async def reply(prompt):
        if "'0'" not in prompt:
            begun.append(prompt)
            while not goes_on.is_set():
                await asyncio.sleep(0.001)
        return SUBMIT

    return RLM("text: str -> answer: int", lm=reply, environment="inprocess")


@pytest.mark.parametrize("how", ["for", "async for"])
def test_a_loop_that_is_broken_out_of_stops_the_runs(how):
    """Without a ``with``: nobody has the results any more, so nobody pays for the rest of them."""
    begun, goes_on = [], threading.Event()
    rlm = waiting(begun, goes_on)
    seen = []

    def work_of(results):
        seen.append(results._work)
        return results

    async def broken_out_of():
        async for _ in work_of(rlm.map(texts(1_000), max_concurrency=2)):
            break
        await eventually(lambda: seen[0].over)

    if how == "for":
        for _ in work_of(rlm.map(texts(1_000), max_concurrency=2)):
            break
        within(lambda: seen[0].over)
    else:
        asyncio.run(broken_out_of())
    goes_on.set()
    assert len(begun) <= 3


def test_ctrl_c_while_a_result_is_waited_for_stops_the_runs():
    """As any call's: a notebook keeps the traceback, and with it the results."""
    rlm, lm = doubler()
    results = rlm.map(texts(1_000), max_concurrency=2)

    class Interrupted:
        def get(self, timeout):
            raise KeyboardInterrupt

        def put(self, item):
            pass

    results._results = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        next(results)
    assert results._task.wait(0)
    assert len(lm.requests) < 1_000


def test_nothing_is_run_after_close(tmp_path):
    """Nor asked, nor written; also where nothing had been begun, and on an event loop."""
    rlm, lm = doubler()
    with rlm.map(texts(3), path=tmp_path / "r.jsonl") as results:
        pass
    assert list(results) == []

    async def go():
        async with rlm.map(texts(1_000), max_concurrency=2) as results:
            async for _ in results:
                break
        asked = len(lm.requests)
        rest = [r async for r in results]
        assert len(lm.requests) == asked
        return rest

    assert len(asyncio.run(go())) < 900
    assert rlm.map(texts(1), path=tmp_path / "r.jsonl") is not None, "let go of with its last owner"
    assert len(list(rlm.map(texts(1), path=tmp_path / "r.jsonl"))) == 1


def test_several_threads_take_each_result_once():
    """Eight that begin together: one set of runs, no result twice, none lost."""
    for _ in range(5):
        rlm, _ = doubler()
        results, together, found = rlm.map(texts(60)), threading.Barrier(8), []

        def take(results=results, together=together, found=found):
            together.wait(60)
            found.extend(r.index for r in results)

        threads = [threading.Thread(target=take) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert sorted(found) == list(range(60))


def test_a_loop_that_is_entered_again_goes_on():
    """``async for`` as ``for`` does: results of a later loop are those that an earlier one has not taken."""
    rlm, _ = doubler()

    async def go():
        results = rlm.map(texts(30), max_concurrency=2)
        async for first in results:
            break
        with pytest.raises(RuntimeError, match="on an event loop"):
            next(results)
        return [first.index, *[r.index async for r in results]]

    assert sorted(asyncio.run(go())) == list(range(30))


def test_an_event_loop_that_ends_ends_the_runs_in_it():
    """Whoever goes on in another one has what had come by then, and is told that this is not all."""
    rlm, _ = doubler()
    results = rlm.map(texts(200), max_concurrency=2)

    async def some(count):
        found = []
        async for result in results:
            found.append(result.index)
            if len(found) == count:
                break
        return found

    first, rest = asyncio.run(some(3)), asyncio.run(some(1_000))
    assert len(first) == 3
    assert len({*first, *rest}) == 3 + len(rest) < 200
    assert results.stopped == "cancelled"


@pytest.mark.parametrize("element", [None, "a", [], {1: "a"}], ids=repr)
def test_an_element_that_is_no_inputs_by_name_is_told_with_its_place(element):
    """``None`` too, which is not the end."""
    rlm, _ = doubler()
    with pytest.raises(InputError, match="element 1 "):
        list(rlm.map([{"text": "1"}, element, {"text": "2"}], max_concurrency=1))
    with pytest.raises(InputError, match="element 1: .*missing: text"):
        list(rlm.map([{"text": "1"}, {}], max_concurrency=1))


@pytest.mark.parametrize(
    "kind", [KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError, StopAsyncIteration]
)
def test_whatever_the_iterator_raises_reaches_whoever_takes_results(kind):
    """As it is; and the event loop of all runs goes on."""

    class Inputs:
        def __init__(self):
            self.left = iter(texts(2))

        def __iter__(self):
            return self

        def __next__(self):
            for element in self.left:
                return element
            raise kind("from the iterator")

    rlm, _ = doubler()
    with pytest.raises(kind, match="from the iterator"):
        list(rlm.map(Inputs()))
    assert rlm(text="4").answer == 8


def test_a_generator_is_asked_in_one_thread_only():
    """What belongs to a thread, as an SQLite connection does, may be made in it; and the caller's context is there."""
    threads, seen = set(), contextvars.ContextVar("seen", default=0)
    seen.set(7)

    def rows():
        for n in range(200):
            threads.add((threading.get_ident(), seen.get()))
            yield {"text": str(n)}

    rlm, _ = doubler()
    assert len(list(rlm.map(rows(), max_concurrency=16))) == 200
    assert [value for _, value in threads] == [7]


def test_a_generator_may_fill_the_same_dict_again():
    """Each run has what its element was when it was yielded."""

    def rows():
        row = {}
        for n in range(50):
            row["text"] = str(n)
            yield row

    rlm, _ = doubler()
    assert all(r.outputs["answer"] == 2 * r.index for r in rlm.map(rows()))


def test_a_generator_that_never_goes_on_does_not_hold_up_leaving(tmp_path):
    """Nor does it keep the results' file."""
    goes_on, went_on = threading.Event(), []

    def stuck():
        yield {"text": "1"}
        went_on.append(goes_on.wait(600))

    rlm, _ = doubler()
    path = tmp_path / "r.jsonl"
    try:
        with rlm.map(stuck(), path=path) as results:
            next(results)
        assert results._task.wait(0) and not went_on
        assert [r.prediction for r in rlm.map(texts(2)[1:], path=path)] == [None]
    finally:
        goes_on.set()


def test_results_that_nobody_takes_hold_up_further_runs(monkeypatch):
    """So that inputs without an end need no memory without one; with each that is taken another run is begun."""
    monkeypatch.setattr(_work, "AHEAD", 10)
    begun, enough = [], threading.Event()

    def endless():
        while True:
            begun.append(0)
            if len(begun) >= 12:
                enough.set()
            yield {"text": "1"}

    rlm, _ = doubler()
    with rlm.map(endless(), max_concurrency=2) as results:
        next(results)
        assert enough.wait(60)
        for taken in range(1, 40):
            next(results)
            assert len(begun) <= taken + 1 + 10 + 2
        assert len(begun) >= 40


def test_an_input_of_a_set_has_the_same_key_in_every_process():
    """The order of its members is another one in each; a list that looks like what is made of one keeps its order."""
    program = "from dszig_py.corpus._results import key_of; print(key_of({'a': [{'x', 'y', 'z', 'w'}], 'b': frozenset('abcd')}))"
    keys = {
        subprocess.run(
            [sys.executable, "-c", program], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in "1234"
    }
    assert len(keys) == 1
    assert key_of({"a": ["set", ["x", "y"]], "b": {1}}) != key_of({"a": ["set", ["y", "x"]], "b": {1}})


@pytest.mark.parametrize("kind", ["path", "File", "Folder", "Text"])
def test_a_file_that_was_changed_is_an_element_that_was_changed(kind, tmp_path):
    """Known by its path alone, an answer about what it held before would be given again."""
    place = tmp_path / "in" / "a.txt"
    place.parent.mkdir()
    place.write_text("one")
    value = {"path": str(place), "File": File(place), "Folder": Folder(place.parent), "Text": Text(File(place))}[kind]
    type_of = {"path": "File"}.get(kind, kind)
    rlm = RLM(f"it: {type_of} -> answer: int", lm=lambda p: "```python\nSUBMIT(answer=1)\n```", environment="inprocess")

    def from_the_file():
        return [r.prediction is None for r in rlm.map([{"it": value}], path=tmp_path / "r.jsonl")]

    assert from_the_file() == [False]
    assert from_the_file() == [True]
    place.write_text("another")
    assert from_the_file() == [False]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("max_concurrency", "8"),
        ("max_concurrency", 2.5),
        ("workers", 0),
        ("path", 5),
        ("path", "/"),
        ("path", "/dev/null"),
    ],
)
def test_an_option_of_map_that_is_wrong_is_told_at_once(option, value):
    """As :class:`InputError`, by its name, before anything runs."""
    rlm, lm = doubler()
    with pytest.raises(InputError, match=option if option != "path" else "path takes|cannot be kept in /"):
        rlm.map(texts(1), **{option: value})
    assert not lm.requests


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


@pytest.mark.parametrize(
    "damage",
    [{"outputs": 5}, {"outputs": {"answer": "no number"}}, {"outputs": {"gone": 1}}, {"termination": []}, {"usage": 1}],
)
def test_a_row_that_cannot_be_read_is_run_again(tmp_path, damage):
    """Somebody has edited it; the other results are as they were."""
    path, (rlm, _) = tmp_path / "r.jsonl", doubler()
    list(rlm.map(texts(2), path=path, ordered=True, max_concurrency=1))
    head, first, second = path.read_text().splitlines()
    path.write_text("\n".join([head, json.dumps({**json.loads(first), **damage}), second, ""]))
    again = list(rlm.map(texts(2), path=path, ordered=True))
    assert [(r.outputs["answer"], r.prediction is None) for r in again] == [(0, False), (2, True)]


@pytest.mark.parametrize("how", ["for", "async for"])
def test_after_an_error_the_same_file_can_be_gone_on_with_at_once(tmp_path, how):
    """Whoever has mended the input does not meet the runs that it stopped."""
    rlm, _ = doubler()

    def rows(rlm, wrong):
        return rlm.map([{"text": "1"}, {}] if wrong else texts(2), path=tmp_path / "r.jsonl")

    async def taken(wrong):
        return [r async for r in rows(rlm, wrong)]

    async def both():
        with pytest.raises(InputError):
            await taken(True)
        return await taken(False)

    for _ in range(20):
        if how == "for":
            with pytest.raises(InputError):
                list(rows(rlm, True))
            assert len(list(rows(rlm, False))) == 2
        else:
            assert len(asyncio.run(both())) == 2


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
