"""A run that fails is a prediction that says why, so that whoever tunes the program can learn from it."""

from __future__ import annotations

import asyncio

import dspy
import dspy_scripted as scripted
import pytest
from dspy.lm15 import ServerError
from dspy.utils.exceptions import AdapterParseError
from dspy_scripted import steps

from dspy_compat import RLM, feedback
from dszig_py import Budget

DOWN = ServerError("the provider is down")


def answer(script, asynchronous=False, **options):
    rlm = RLM("text: str -> answer: str", **options)
    with dspy.context(lm=scripted.lm(script), trace=[]):
        pred = asyncio.run(rlm.acall(text="x")) if asynchronous else rlm(text="x")
        return pred, dspy.settings.trace


BOTH = pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])


@BOTH
def test_running_out_of_iterations_extracts_what_was_found(asynchronous):
    """By the second predictor; the trace has its entry."""
    pred, trace = answer(steps("found = 1\nprint(found)"), asynchronous, max_iters=2)
    assert (pred.answer, pred.termination.kind, pred.termination.cause) == ("extracted", "max_iters", "budget")
    assert len(pred.trajectory) == 2
    assert [sorted(p.keys()) for _, _, p in trace] == [["code", "reasoning"], ["answer"]]


def test_running_out_of_sub_calls_gives_one_more_decision():
    """Those that were paid for are kept; then it is told to SUBMIT."""
    pred, _ = answer(
        steps("got = []\nfor n in range(9):\n    got.append(llm_query(str(n)))", "SUBMIT(answer=str(len(got)))"),
        max_llm_calls=3,
    )
    assert pred.answer == "3"
    assert "LLM call limit exceeded" in pred.trajectory[0]["output"]


@BOTH
@pytest.mark.parametrize("first", [True, False], ids=["at once", "later"])
def test_a_provider_that_fails_ends_the_run_in_a_prediction(asynchronous, first):
    """With what had been done by then, outputs None, and a cause."""
    cells = [DOWN] if first else ["print('done so far')", DOWN]
    pred, trace = answer(steps(*cells), asynchronous)
    assert (pred.answer, pred.termination.kind, pred.termination.cause) == (None, "error", "provider")
    assert "the provider is down" in pred.termination.detail
    assert len(pred.trajectory) == len(trace) == len(cells) - 1


@BOTH
def test_failures_raise_on_request(asynchronous):
    """on_failure="raise": dspy's own exception, as its own class raises it."""
    with pytest.raises(dspy.LMError, match="the provider is down"):
        answer(steps(DOWN), asynchronous, on_failure="raise")


@BOTH
@pytest.mark.parametrize("cells, iterations", [(["RAW"], 9), (["print(1)"], 1)], ids=["decision", "extraction"])
def test_a_reply_that_cannot_be_read_raises_on_request(asynchronous, cells, iterations):
    """on_failure="raise": dspy's AdapterParseError, of a decision and of the closing extraction."""
    script = steps(*cells, other=lambda prompt: "RAW")
    with pytest.raises(AdapterParseError):
        answer(script, asynchronous, on_failure="raise", max_iters=iterations)


def test_a_sub_call_that_fails_is_an_exception_in_the_cell():
    """The model sees it and goes on."""
    script = steps(
        "try:\n    llm_query('q')\nexcept RuntimeError as e:\n    print('caught', e)", "SUBMIT(answer='x')", sub=DOWN
    )
    pred, _ = answer(script)
    assert pred.answer == "x"
    assert "the provider is down" in pred.trajectory[0]["output"]


@BOTH
def test_replies_that_cannot_be_read_are_told_to_the_model(asynchronous):
    """Code in them is run all the same; a reply without any is an iteration that says what was missing."""
    script = steps(
        "RAW nothing to run here", "RAW so:\n```python\nkept = 3\nprint(kept)\n```", "SUBMIT(answer=str(kept))"
    )
    pred, _ = answer(script, asynchronous)
    assert pred.answer == "3"
    assert pred.run.usage.calls == 5  # dspy asks again in JSON for each that it cannot read
    assert "could not be read" in pred.trajectory[0]["output"]
    assert pred.trajectory[1]["output"] == "3"


def test_replies_that_never_can_be_read_end_in_a_prediction():
    """After max_errors in a row, or of the iterations."""
    pred, _ = answer(lambda prompt, last: "RAW", max_iters=3)
    assert (pred.answer, pred.termination.kind) == (None, "max_iters")
    pred, _ = answer(lambda prompt, last: "RAW", budget=Budget(max_errors=2))
    assert (pred.termination.kind, len(pred.trajectory)) == ("error", 2)


@pytest.mark.parametrize("code", ["import os\nos._exit(1)", "import sys\nsys.exit(3)"], ids=["killed", "exits"])
def test_a_lost_worker_is_told_and_the_run_goes_on(code):
    """The REPL starts anew."""
    pred, _ = answer(steps(code, "SUBMIT(answer=text)"))
    assert (pred.answer, pred.termination.kind) == ("x", "submitted")


@pytest.mark.parametrize("on_failure", ["return", "raise"])
def test_no_model_at_all_is_the_callers_to_mend(on_failure):
    """So it raises in any case, as dspy does, and says what to do."""
    rlm = RLM("text -> answer", on_failure=on_failure)
    with dspy.context(lm=None), pytest.raises(ValueError, match=r"dspy\.configure\(lm="):
        rlm(text="x")


def test_an_unknown_way_to_fail_is_refused():
    """At construction."""
    with pytest.raises(ValueError, match="on_failure"):
        RLM("text -> answer", on_failure="explode")
    with pytest.raises(ValueError, match="trace_steps"):
        RLM("text -> answer", trace_steps="some")


def noisy(n):
    return "\n".join([f"print('y' * 50_000)  # {'long comment ' * 200}", f"raise ValueError('wrong number {n}')"])


FEEDBACK = {
    "submitted": (steps("SUBMIT(answer='x')"), {}, ["ended by SUBMIT"]),
    "errors": (
        steps(*(noisy(n) for n in range(8)), "SUBMIT(answer='x')"),
        {},
        ["raised an exception", "wrong number 0"],
    ),
    "limit": (steps("print(1)"), {"max_iters": 2}, ["ran out of iterations"]),
    "waste": (steps("for n in range(9): llm_query('same')", "SUBMIT(answer='x')"), {}, ["one by one", "repeated"]),
    "small batch": (
        steps("llm_query_batched([str(n) for n in range(30)])", "SUBMIT(answer='x')"),
        {},
        ["under 500 characters each"],
    ),
    "sub-calls": (steps("while True: llm_query('q')"), {"max_llm_calls": 4}, ["used up its sub-calls"]),
    "provider": (steps(DOWN), {}, ["It failed (the provider)", "answer"]),
    "unreadable": (steps("RAW", "SUBMIT(answer='x')"), {}, ["had no code to run"]),
    "lost": (steps("import os; os._exit(1)", "SUBMIT(answer='x')"), {}, ["The REPL was lost"]),
}


@pytest.mark.parametrize("script, options, told", FEEDBACK.values(), ids=FEEDBACK)
def test_feedback_tells_what_went_wrong_and_nothing_that_is_noise(script, options, told):
    """At most 4,000 characters: errors, limits and waste; no timings, no costs."""
    pred, _ = answer(script, **options)
    text = feedback(pred)
    assert len(text) <= 4_000
    for words in told:
        assert words in text
    assert "second" not in text
    assert "$" not in text
    assert feedback(pred) == text


def test_feedback_is_the_same_whatever_the_machine_does():
    """Two runs of one script read alike."""
    script = steps("print(text)\n1/0", "SUBMIT(answer='x')")
    assert feedback(answer(script)[0]) == feedback(answer(script)[0])


def test_feedback_takes_predictions_of_ours_only():
    """With a TypeError that says so."""
    with pytest.raises(TypeError, match=r"dspy_compat\.RLM"):
        feedback(dspy.Prediction(answer="x"))
