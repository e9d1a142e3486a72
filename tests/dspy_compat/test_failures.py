"""A run that fails is a prediction that says why, so that whoever tunes the program can learn from it."""

from __future__ import annotations

import asyncio

import dspy
import dspy_scripted as scripted
import pytest
from dspy.lm15 import ServerError
from dspy.utils.exceptions import AdapterParseError
from dspy_scripted import steps
from scripted_server import Answer, ScriptedServer

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


class Broken(dspy.LM):
    """An LM of somebody's own, whose exceptions are not dspy's."""

    def __call__(self, *args, **kwargs):
        raise RuntimeError("no route to the provider")

    async def acall(self, *args, **kwargs):
        return self()


@BOTH
def test_a_model_of_anybodys_make_fails_as_a_provider_does(asynchronous):
    """Its exception ends the run in a prediction, or is raised as it is; one of what stands for a predictor is a bug."""
    broken = Broken("broken")
    rlm = RLM("text -> answer")
    with dspy.context(lm=broken):
        pred = asyncio.run(rlm.acall(text="x")) if asynchronous else rlm(text="x")
        assert (pred.answer, pred.termination.cause) == (None, "provider")
        assert "no route to the provider" in pred.termination.detail
        rlm.on_failure = "raise"
        with pytest.raises(RuntimeError, match="no route"):
            _ = asyncio.run(rlm.acall(text="x")) if asynchronous else rlm(text="x")
    with dspy.context(lm=scripted.lm(steps("pass"))):
        own = RLM("text -> answer")
        own.generate_action = lambda **fields: {}["a bug"]
        with pytest.raises(KeyError):
            own(text="x")


def test_a_reply_without_a_choice_is_one_that_cannot_be_read():
    """LiteLLM hands it on with nothing in it; the run goes on."""
    replies = [Answer(fault="empty_choices"), scripted.step("SUBMIT(answer='x')")]
    with pytest.MonkeyPatch.context() as patch, ScriptedServer() as server:
        patch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
        server.script(replies)
        lm = dspy.LM("openai/scripted", api_base=server.url, api_key="-", cache=False, engine="litellm")
        with dspy.context(lm=lm):
            pred = RLM("text -> answer")(text="x")
    assert (pred.answer, len(pred.trajectory)) == ("x", 2)


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


def test_a_sub_model_of_anybodys_make_fails_for_its_own_prompt_alone():
    """The other answers of the batch are kept, and what it raised is told."""

    def partial(prompt):
        if prompt == "b":
            raise ValueError("cannot read b")
        return prompt.upper()

    cells = ["got = llm_query_batched(['a', 'b', 'c'])\nprint(got)", "SUBMIT(answer=got[0] + got[2])"]
    pred, _ = answer(steps(*cells), sub_lm=partial)
    assert pred.answer == "AC"
    assert "cannot read b" in pred.trajectory[0]["output"]


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
    with pytest.raises(ValueError, match="max_output_chars"):
        RLM("text -> answer", max_output_chars="many")


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
    """At most 4 KB: errors, limits and waste; no timings, no costs."""
    pred, _ = answer(script, **options)
    text = feedback(pred)
    assert len(text.encode()) <= 4_096
    for words in told:
        assert words in text
    assert "second" not in text
    assert "$" not in text
    assert feedback(pred) == text


def test_feedback_is_the_same_whatever_the_machine_does():
    """Two runs of one script read alike."""
    script = steps("print(text)\n1/0", "SUBMIT(answer='x')")
    assert feedback(answer(script)[0]) == feedback(answer(script)[0])


def test_feedback_is_bounded_in_bytes_whatever_the_script():
    """Characters that take three bytes each: still at most 4 KB, with its beginning and its end."""
    cell = f"print({'漢字' * 2_000!r})\nraise ValueError({'仮名' * 500!r})"
    pred, _ = answer(steps(*[cell] * 7, "SUBMIT(answer='終')"))
    text = feedback(pred)
    assert 3_000 < len(text.encode()) <= 4_096
    assert text.startswith("Task text: str -> answer: str")
    assert text.endswith("(submitted)")


def test_feedback_finds_the_run_beside_an_output_of_its_name():
    """The run is no field, so an output may be called run, and a program may hand the run on in a prediction of its own."""
    with dspy.context(lm=scripted.lm(steps("SUBMIT(run=text)"))):
        pred = RLM("text -> run")(text="x")
    assert "ended by SUBMIT" in feedback(pred)
    assert feedback(dspy.Prediction(answer="x", run=pred._about["run"])) == feedback(pred)


def test_feedback_takes_predictions_of_ours_only():
    """With a TypeError that says so."""
    with pytest.raises(TypeError, match=r"dspy_compat\.RLM"):
        feedback(dspy.Prediction(answer="x"))
