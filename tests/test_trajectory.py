"""The record of a run: what is saved loads back equal, what is damaged says so, and a prediction shows itself."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
import math
import pickle
import tempfile
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dszig_py.environments._worker.codec import Opaque, SubCallError
from dszig_py.environments.base import Execution
from dszig_py.trajectory import (
    Action,
    Extraction,
    Input,
    Iteration,
    Prediction,
    SubCall,
    Termination,
    Trajectory,
)
from dszig_py.usage import Usage

TEXT = st.text(max_size=6) | st.text(st.characters() | st.sampled_from("\x00\n\ud83d\ude00\u2028\x85~"), max_size=6)
SECONDS = st.floats(0, 1e9)
PLAIN = st.builds(
    Usage, st.integers(0, 9), st.integers(0, 999), st.integers(0, 999), SECONDS | st.none(), SECONDS, st.booleans()
)
USAGE = PLAIN | st.builds(lambda u, m, d: u.at(m, d), PLAIN, st.text(max_size=4), st.integers(0, 3))
DATA = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | TEXT
    | st.binary(max_size=4)
    | st.just(5_000).map(lambda digits: 10**digits)  # mapped, as hypothesis cannot print it
    | st.sampled_from([Decimal("1.50"), frozenset({1, "a"}), (1, (2,)), math.inf, Opaque("function", "<function>")])
    | TEXT.map(SubCallError),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT | st.just("~") | st.integers(), inner, max_size=3),
    max_leaves=5,
)
OUTPUTS = st.dictionaries(st.sampled_from(["answer", "n", "~"]), DATA, max_size=2)
EXECUTIONS = st.builds(
    Execution, TEXT, st.integers(0, 10**9), TEXT | st.none(), TEXT, OUTPUTS | st.none(), SECONDS, TEXT
)
KINDS = st.sampled_from(["submitted", "max_iters", "max_llm_calls", "max_cost", "cancelled", "error"])
CAUSES = st.sampled_from(["model", "budget", "provider", "environment", "caller"])


@st.composite
def trajectories(draw, deep=True, count=None):
    """A whole run; sub-calls may have runs of their own. Ids are distinct, as they are in a real one."""
    count = count or itertools.count()
    run = f"run{next(count)}"
    iterations = []
    for index in range(1, draw(st.integers(0, 3)) + 1):
        calls = [
            SubCall(
                f"{run}.{next(count)}",
                draw(st.sampled_from(["llm_query", "predict", "rlm_query", "tool"])),
                draw(TEXT),
                draw(st.integers(0, 10**9)),
                draw(TEXT),
                draw(TEXT),
                draw(st.text(max_size=3)),
                draw(USAGE),
                draw(SECONDS),
                draw(SECONDS),
                draw(st.sampled_from(["", "b1"])),
                draw(st.integers(0, 3)),
                draw(st.booleans()),
                draw(st.none() | trajectories(deep=False, count=count)) if deep else None,
            )
            for _ in range(draw(st.integers(0, 2)))
        ]
        action = Action(draw(TEXT), tuple(draw(st.lists(TEXT, max_size=2))), draw(TEXT))
        numbers = draw(st.tuples(SECONDS, SECONDS, SECONDS))
        iterations.append(Iteration(index, action, draw(EXECUTIONS), draw(TEXT), tuple(calls), draw(USAGE), *numbers))
    return Trajectory(
        id=run,
        signature=draw(TEXT),
        instructions=draw(TEXT),
        model=draw(st.text(max_size=3)),
        environment=draw(TEXT),
        depth=0 if deep else 1,
        inputs=tuple(draw(st.lists(st.builds(Input, TEXT, TEXT, TEXT, TEXT), max_size=2))),
        contract=draw(TEXT),
        iterations=tuple(iterations),
        extraction=draw(st.none() | st.builds(Extraction, TEXT, TEXT, USAGE, SECONDS)),
        termination=draw(st.none() | st.builds(Termination, KINDS, CAUSES, TEXT)),
        outputs=draw(OUTPUTS),
        usage=draw(USAGE),
        begun=draw(SECONDS),
        seconds=draw(SECONDS),
    )


def saved(trajectory, change=lambda data: data):
    """What loading gives after saving, the file's bytes changed in between."""
    with tempfile.TemporaryDirectory() as folder:
        path = trajectory.save(Path(folder) / "new" / "run.jsonl")
        path.write_bytes(change(path.read_bytes()))
        return Trajectory.load(path)


def example(**fields):
    done = {"index": 1, "action": Action("look", ("print(1)",)), "execution": Execution("1\n", 2), "observation": "1"}
    call = SubCall("r.1", "llm_query", "p", 1, "reply", usage=Usage(1, 2, 3, 0.5))
    first, second = Iteration(**done, sub_calls=(call,)), Iteration(**{**done, "index": 2})
    values = {
        "iterations": (first, second),
        "termination": Termination("submitted", "model"),
        "outputs": {"answer": "42"},
    }
    return Trajectory("r", "text -> answer", **{**values, **fields})


@given(trajectories())
def test_what_is_saved_loads_back_equal(trajectory):
    """Children, odd text, huge numbers and values of any kind included."""
    loaded = saved(trajectory)
    for field in dataclasses.fields(Trajectory):
        assert getattr(loaded, field.name) == getattr(trajectory, field.name), field.name
    assert loaded == trajectory
    assert [call.id for call in loaded.sub_calls()] == [call.id for call in trajectory.sub_calls()]


@given(trajectories(), st.data())
def test_a_file_cut_anywhere_loads_as_far_as_it_goes(trajectory, data):
    """A run killed while it was written leaves what it had done; a file cut before its first line is whole has no run."""

    def cut(text):
        at = data.draw(st.integers(0, len(text)))
        cuts.append(at > text.index(b"\n") - 1)
        return text[:at]

    cuts = []
    try:
        loaded = saved(trajectory, cut)
    except ValueError:
        assert not cuts[0]
        return
    assert cuts[0]
    assert (loaded.id, loaded.signature, loaded.inputs) == (trajectory.id, trajectory.signature, trajectory.inputs)
    whole = [done for done in loaded.iterations if done in trajectory.iterations]
    assert tuple(whole) == trajectory.iterations[: len(whole)]
    assert len(loaded.iterations) - len(whole) <= 1  # the one that was under way


@settings(max_examples=200)
@given(st.data())
def test_damage_of_any_kind_is_a_value_error_or_does_no_harm(data):
    """One value somewhere is of another type: a trajectory of the right types, or a ValueError, nothing else."""
    scalars = st.sampled_from([None, 5, -1.5, "text", True])
    wrong = scalars | st.sampled_from([[], [1], {}, {"~": ["no"]}, {"a": 1}])

    def damage(text):
        rows = [json.loads(line) for line in text.splitlines()]
        at = data.draw(st.sampled_from(rows))
        path = []
        while True:
            key = data.draw(st.sampled_from(sorted(at) if isinstance(at, dict) else range(len(at))))
            if not isinstance(at[key], (dict, list)) or not at[key] or data.draw(st.booleans()):
                break
            path.append(key)
            at = at[key]
        at[key] = data.draw(scalars if "sub_calls" in path else wrong)  # ids that are no text have a test of their own
        return b"\n".join(json.dumps(row).encode() for row in rows)

    try:
        loaded = saved(example(), damage)
    except ValueError:
        return
    assert isinstance(loaded, Trajectory)
    assert all(isinstance(done, Iteration) and isinstance(done.index, int) for done in loaded.iterations)
    assert isinstance(loaded.signature, str)


@pytest.mark.parametrize("wrong", [b"[[]]", b"[{}]"])
def test_an_id_that_is_no_text_is_damage_too(wrong):
    """The places that tie rows together are as untrusted as any other."""
    with pytest.raises(ValueError, match="damaged"):
        saved(example(), lambda text: text.replace(b'"sub_calls":["r.1"]', b'"sub_calls":' + wrong))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda text: b"", "no run in it"),
        (lambda text: b"\n \n", "no run in it"),
        (lambda text: b"plain text\nof several lines\n", "line 1 is not JSON"),
        (lambda text: b"\xff\xfe\x00", "line 1 is not JSON"),
        (lambda text: b"{}\n", "not a saved run"),
        (lambda text: b"[1, 2]\n", "not a saved run"),
        (lambda text: b'{"event": "run", "run": "r", "schema": "other/9"}\n', "does not begin as dszig"),
        (lambda text: text.split(b"\n", 1)[1], "does not begin as dszig"),
        (lambda text: text.replace(b"\n", b"\n{{{\n", 1), "line 2 is not JSON"),
        (lambda text: text.replace(b"\n", b"garbage\n", 2), "line 1 is not JSON"),
        (lambda text: text + text, "second run"),
        (lambda text: b"[" * 100_000, "line 1 is not JSON"),
    ],
)
def test_what_is_no_saved_run_is_refused_with_its_path(change, told):
    """Empty files, other files, broken lines and missing heads: a ValueError that says which file and why."""
    with pytest.raises(ValueError, match=told) as caught:
        saved(example(), change)
    assert "run.jsonl" in str(caught.value)


def test_a_path_may_begin_at_home(tmp_path, monkeypatch):
    """As a trace's: where it is saved it is found again."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert example().save("~/runs/r.jsonl") == tmp_path / "runs" / "r.jsonl"
    assert Trajectory.load("~/runs/r.jsonl") == example()


def test_a_missing_file_is_a_missing_file(tmp_path):
    """Not a ValueError: nothing is wrong with its content."""
    with pytest.raises(FileNotFoundError):
        Trajectory.load(tmp_path / "none.jsonl")


def test_keys_and_events_of_a_later_version_are_passed_over():
    """In rows and in the records inside them."""

    def later(text):
        rows = [json.loads(line) for line in text.splitlines()]
        for row in rows:
            row["novelty"] = {"a": [1]}
            for value in row.values():
                if isinstance(value, dict):
                    value.setdefault("more", 1) if "answer" not in value else None
        rows.insert(1, {**rows[-1], "event": "mood"})
        return b"\n".join(json.dumps(row).encode() for row in rows)

    assert saved(example(), later) == example()


def test_a_trajectory_says_itself_in_one_line():
    """Signature, length, end and cost."""
    text = repr(example())
    assert "\n" not in text
    for part in ("'text -> answer'", "2 iterations", "submitted (model)", "0 calls"):
        assert part in text


def test_why_a_run_ended_is_printed_short_and_does_nothing_to_a_terminal():
    """A provider's words: escape sequences go, lines become one, most of a long text is left out."""
    told = "\x1b[31mno\x1b]0;title\x07 answer\nwithin 60 s " + "x" * 100_000
    run = example(termination=Termination("error", "provider", told))
    for text in (repr(run), repr(Prediction({"answer": None}, run))):
        assert "error (provider): no answer within 60 s" in text
        assert not {"\x1b", "\x07"} & set(text) and len(text) < 1_000
    assert "\n" not in repr(run) and "unfinished" in repr(example(termination=None))


def test_sub_calls_are_listed_with_those_of_children_in_order():
    """Each before the calls of the run it started."""
    inner = SubCall("c.1", "llm_query")
    child = Trajectory("c", "s", iterations=(Iteration(1, Action(), Execution(), "", (inner,)),))
    outer = (SubCall("r.1", "rlm_query", trajectory=child), SubCall("r.2", "llm_query"))
    root = Trajectory("r", "s", iterations=(Iteration(1, Action(), Execution(), "", outer),))
    assert [call.id for call in root.sub_calls()] == ["r.1", "c.1", "r.2"]


def test_outputs_of_a_prediction_are_attributes_and_items():
    """As the signature names them; dir() offers them to a notebook's completion."""
    prediction = Prediction({"answer": "42", "n": None}, example(), {"x": "1"})
    assert (prediction.answer, prediction["answer"], prediction.n) == ("42", "42", None)
    assert prediction.outputs == {"answer": "42", "n": None}
    assert {"answer", "n", "trajectory", "usage"} <= set(dir(prediction))
    assert prediction.termination.kind == "submitted"
    assert prediction.variables == {"x": "1"}


def test_an_output_that_is_not_there_is_an_error_that_names_those_that_are():
    """A slip of the pen is mended by the message."""
    with pytest.raises(AttributeError, match="no output 'anwser'; the outputs are answer, n"):
        _ = Prediction({"answer": 1, "n": 2}, example()).anwser
    with pytest.raises(AttributeError, match="the outputs are none"):
        _ = Prediction({}, example()).answer
    with pytest.raises(KeyError):
        Prediction({}, example())["answer"]


def test_a_prediction_can_be_copied_and_pickled():
    """Attribute access to outputs gets in the way of neither."""
    prediction = Prediction({"answer": [1]}, example())
    for other in (copy.copy(prediction), copy.deepcopy(prediction), pickle.loads(pickle.dumps(prediction))):
        assert (other.answer, other.trajectory) == ([1], example())


class Loud:
    def __repr__(self):
        raise RuntimeError


HUGE = ["x" * 10**7, list(range(10**6)), 10**5_000, {"a": {"b": ["y" * 10**6] * 1_000}}, Loud(), [Loud()]]


@pytest.mark.parametrize("value", HUGE, ids=["text", "list", "int", "dict", "loud", "loud inside"])
def test_the_repr_of_a_prediction_is_bounded_and_never_fails(value):
    """It is what a notebook and a failed assertion show."""
    text = repr(Prediction({"answer": value}, example()))
    assert len(text) < 1_000
    assert text.startswith("Prediction(\n  answer = ")
    assert "submitted (model)" in text
