"""What a caller gets wrong: options, inputs and their names, told before any model is asked."""

from __future__ import annotations

import copy
import inspect
import pickle
import sys
from pathlib import Path
from typing import TypedDict

import pytest

from dszig_py import RLM, Budget, EnvironmentFailure, InputError, LimitReached, SignatureError, Strategy
from dszig_py.environments import _zygote
from dszig_py.lm import ScriptedLM

SIGNATURE = "context, question -> answer"


def never(*_):
    raise AssertionError("no model is asked, and nothing is called")


async def later(*_):
    raise AssertionError("never awaited")


WRONG = [
    *[("budget", value) for value in (3, {}, {"max_iters": 3}, "x", Strategy())],
    *[("strategy", value) for value in (3, {}, "default", Budget())],
    *[("lms", value) for value in (3, ["a"], "x", {1: "offline"})],
    *[("lm_options", value) for value in (3, "x", [("a", 1)])],
    ("sub_lm_options", 3),
    *[("tools", value) for value in (3, "abc", len, {1: len})],
    *[("child_tools", value) for value in (3, "abc", [3])],
    *[("skills", value) for value in (3, "x", ["x"], [3])],
    *[("max_output_chars", value) for value in ("x", None, 99, 100.5, float("nan"), True)],
    *[("check", value) for value in (3, "x", later)],
    *[("on_event", value) for value in (3, [], later)],
    *[("trace", value) for value in (3, b"x.jsonl", [3], object())],
    *[("secrets", value) for value in (3, [3], b"x")],
    *[("output_dir", value) for value in (3, b"x", object())],
]


@pytest.mark.parametrize(
    ("name", "value"), WRONG, ids=[f"{name}={value!r}".partition(" at 0x")[0][:50] for name, value in WRONG]
)
def test_an_option_of_a_wrong_kind_is_named_where_it_is_given(name, value):
    """At construction, whether the run would have failed late, in a stranger's words, or not used it at all."""
    with pytest.raises(InputError, match="tool" if name == "tools" else name):
        RLM(SIGNATURE, lm=never, **{name: value})


@pytest.mark.parametrize("name", ["main_cmd", "rlm_cmd"])
@pytest.mark.parametrize("value", [3, "", [], [3]])
def test_a_command_is_a_text_or_words(name, value):
    """An empty one would be asked nothing."""
    with pytest.raises(InputError, match=name):
        RLM(SIGNATURE, **{name: value})


def test_an_empty_list_of_models_is_refused():
    """A list has a model for each depth; of none there is no root."""
    with pytest.raises(InputError, match="at least one"):
        RLM(SIGNATURE, lm=[])


def test_none_means_that_an_option_is_not_given():
    """As it does in dspy, whose default for tools it is."""
    rlm = RLM(SIGNATURE, lm=never, tools=None, skills=None, secrets=None, lms=None, trace=None, output_dir=None)
    assert (rlm.tools, rlm.skills, rlm.secrets) == ({}, (), ())


@pytest.mark.parametrize("name", ["secrets", "lm_options"])
def test_an_error_tells_no_secret(name):
    """Errors are logged; what was given in the place of secrets or keys is not in them."""
    with pytest.raises(InputError) as caught:
        RLM(SIGNATURE, lm=never, **{name: (b"sk-hidden" if name == "secrets" else [("api_key", "sk-hidden")])})
    assert "sk-hidden" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("max_iter", "did you mean 'max_iters'"),
        ("max_iterations", "did you mean 'max_iters'"),
        ("max_depth", r"budget=Budget\(max_depth=...\)"),
        ("compact_at", r"strategy=Strategy\(compact_at=...\)"),
        ("model", "the options are lm, sub_lm"),
    ],
)
def test_a_misspelt_option_is_told_what_was_meant(name, hint):
    """Also where it goes, if that is the budget or the strategy; a TypeError, as Python's own."""
    with pytest.raises(TypeError, match=hint):
        RLM(SIGNATURE, lm=never, **{name: 3})


def test_every_option_is_still_in_the_signature():
    """What catches a misspelt one hides none from completion and help."""
    options = set(inspect.signature(RLM).parameters)
    assert {"lm", "tools", "budget", "check", "output_dir"} <= options


def test_inputs_without_names_are_told_their_names():
    """A notebook's first mistake."""
    with pytest.raises(TypeError, match=r"by name: \(context=..., question=...\)"):
        RLM(SIGNATURE, lm=never)("a book", "Who?")


def test_an_input_may_be_called_self():
    """No name of a field is taken by the call itself."""
    rlm = RLM("self -> answer", lm=ScriptedLM(["```python\nSUBMIT(answer=self)\n```"]))
    assert rlm(self="x").answer == "x"


def test_a_limit_out_of_range_is_told_in_one_line():
    """Without pydantic's count of errors and its address."""
    with pytest.raises(InputError) as caught:
        RLM(SIGNATURE, lm=never, max_iters=0)
    assert str(caught.value) == "max_iters: Input should be greater than or equal to 1, not 0"


@pytest.mark.parametrize("inputs", [{"context": "x", "question": "y"}, "ab", 3, None])
def test_map_wants_one_dict_for_each_run(inputs):
    """One dict alone is the usual mistake."""
    with pytest.raises(InputError, match="one dict of inputs for each run"):
        RLM(SIGNATURE, lm=never).map(inputs)


def test_an_element_of_a_map_that_is_no_dict_is_named():
    """By its place, when it comes: a generator's elements are not known before."""
    with pytest.raises(InputError, match="element 0 is a str"):
        list(RLM(SIGNATURE, lm=never).map(["x"]))


@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))])
def test_a_reached_limit_can_be_copied_and_sent_to_another_process(how):
    """A pool of processes breaks on an exception that cannot be read back."""
    rlm = RLM(SIGNATURE, lm=ScriptedLM(["```python\n1\n```"], repeat_last=True), max_iters=1, on_limit="raise")
    with pytest.raises(LimitReached) as caught:
        rlm(context="x", question="y")
    again = how(caught.value)
    assert (str(again), again.limit) == (str(caught.value), "max_iters")
    assert again.prediction.trajectory == caught.value.prediction.trajectory


def test_a_prediction_is_iterated_by_the_names_of_its_outputs():
    """`name in prediction` and loops; Python would ask for prediction[0] and end in a KeyError."""
    prediction = RLM("text -> a, b", lm=ScriptedLM(["```python\nSUBMIT(a='1', b='2')\n```"]))(text="x")
    assert list(prediction) == ["a", "b"]
    assert "a" in prediction
    assert "c" not in prediction


def test_a_working_directory_that_is_gone_matters_to_files_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A run without files has nothing to put anywhere."""
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    rlm = RLM("text -> answer", lm=ScriptedLM(["```python\nSUBMIT(answer=text)\n```"]))
    assert rlm(text="x").answer == "x"


def test_a_python_that_cannot_be_started_is_an_environment_failure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """As inside a program that has Python built in, or whose interpreter another user may not start."""
    monkeypatch.setattr(sys, "executable", str(tmp_path / "none"))
    with pytest.raises(EnvironmentFailure, match="cannot be started"):
        _zygote.Zygote()


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="pydantic takes typing's TypedDict from Python 3.12 on")
def test_a_type_that_pydantic_refuses_is_an_error_of_the_signature():
    """With pydantic's advice, and as one of this library's errors."""

    class Found(TypedDict):
        x: int

    with pytest.raises(SignatureError, match="typing_extensions"):
        RLM("text -> found: Found", lm=never, types={"Found": Found})(text="x")
