"""Compaction: a model's summary takes the place of older iterations, which stay in the REPL and in the trajectory."""

from __future__ import annotations

import pytest

from dszig_py import RLM, LMError, Strategy, Trajectory
from dszig_py.lm import ScriptedLM
from dszig_py.prompts import SUMMARIZE
from dszig_py.render import console, html


def cell(code):
    return f"```python\n{code}\n```"


class Worker:
    """A model that prints ``size`` characters in each of ``steps`` iterations, summarizes when asked, then submits."""

    def __init__(self, steps, size=1_500, last='SUBMIT(answer="done")', summary="the data are lines of x"):
        self.steps, self.size, self.last, self.summary = steps, size, last, summary
        self.decisions = []
        self.asked_to_summarize = []
        self.before = []  # the decision before each summary

    def __call__(self, request):
        if request.messages[-1].content.endswith(SUMMARIZE):
            self.asked_to_summarize.append(request)
            self.before.append(self.decisions[-1])
            if isinstance(self.summary, Exception):
                raise self.summary
            return self.summary
        self.decisions.append(request)
        number = len(self.decisions)
        return cell(self.last if number > self.steps else f"print('x{number}' * {self.size // 2})")


def run(worker, **strategy):
    rlm = RLM("text: str -> answer: str", lm=ScriptedLM(worker), strategy=Strategy(**strategy))
    return rlm(text="t")


def test_a_summary_replaces_older_iterations_and_they_stay_reachable():
    """Past the threshold the prompt holds the summary and the newest iteration; the REPL has the rest as a variable."""
    last = "SUBMIT(answer=f'{len(earlier_iterations)} {earlier_iterations[0][\"observation\"][:4]}')"
    worker = Worker(5, last=last)
    pred = run(worker, compact_at=4_000)
    made = [i.compaction for i in pred.trajectory.iterations if i.compaction is not None]
    assert len(made) == len(worker.asked_to_summarize) >= 1
    assert pred.answer == f"{made[-1].iterations} x1x1"
    assert made[0].summary == "the data are lines of x"
    assert made[0].chars > 4_000
    assert made[0].usage.calls == 1
    prompt = worker.decisions[-1].prompt
    assert "the data are lines of x" in prompt
    assert "x1x1" not in prompt
    assert "earlier_iterations" in prompt
    assert [i.action.code for i in pred.trajectory.iterations][0].startswith("print('x1'"), "the trajectory keeps all"


def test_a_second_summary_is_made_of_the_first_and_what_followed():
    """The summarizing prompt of a later compaction holds the summary before it."""
    worker = Worker(9)
    run(worker, compact_at=4_000)
    assert len(worker.asked_to_summarize) >= 2
    assert "the data are lines of x" in worker.asked_to_summarize[1].prompt


def test_the_summarizing_prompt_begins_as_the_decision_before_it():
    """Everything but the request itself is the conversation so far, so that a provider's prompt cache hits."""
    worker = Worker(5)
    run(worker, compact_at=4_000)
    asked, before = worker.asked_to_summarize[0], worker.before[0]
    assert asked.messages[: len(before.messages) - 1] == before.messages[:-1]


def test_without_compact_at_no_summary_is_asked_for():
    """Off by default."""
    worker = Worker(5)
    pred = run(worker)
    assert not worker.asked_to_summarize
    assert all(i.compaction is None for i in pred.trajectory.iterations)


def test_a_share_of_the_models_window_is_a_threshold_too():
    """compact_at=0.25 of a window of 4,000 tokens is some 4,000 characters."""

    class Small(ScriptedLM):
        window_tokens = 4_000

    worker = Worker(5)
    RLM("text: str -> answer: str", lm=Small(worker), strategy=Strategy(compact_at=0.25))(text="t")
    assert worker.asked_to_summarize


@pytest.mark.parametrize("summary", [LMError("down"), "  "])
def test_a_summary_that_fails_costs_the_run_nothing(summary):
    """The run goes on with its history cut as without compaction."""
    worker = Worker(5, summary=summary)
    pred = run(worker, compact_at=4_000)
    assert pred.answer == "done"
    assert all(i.compaction is None for i in pred.trajectory.iterations)


def test_compactions_are_saved_and_loaded(tmp_path):
    """What was summarized, when and for how much is in the file."""
    pred = run(Worker(5), compact_at=4_000)
    assert Trajectory.load(pred.trajectory.save(tmp_path / "run.jsonl")) == pred.trajectory
    assert any(i.compaction for i in pred.trajectory.iterations)


def test_the_variable_makes_way_for_an_input_of_its_name():
    """An input named earlier_iterations stays what it is."""
    worker = Worker(4, last="SUBMIT(answer=earlier_iterations + str(type(earlier_iterations_).__name__))")
    rlm = RLM("earlier_iterations: str -> answer: str", lm=ScriptedLM(worker), strategy=Strategy(compact_at=3_000))
    assert rlm(earlier_iterations="mine ").answer == "mine list"


@pytest.mark.parametrize("lasting", [False, True], ids=["run", "session"])
def test_a_script_has_the_earlier_iterations_as_data(lasting):
    """Its language cannot write data, so the variable is bound without code."""
    submit = 'FINAL("iteration " + earlier_iterations[0]["iteration"] + earlier_iterations[0]["observation"][0:3])'

    def answer(request):
        if request.messages[-1].content.endswith(SUMMARIZE):
            return "the data are lines of x"
        last = submit if "earlier_iterations" in str(request.messages) else f'print("{"x" * 1_500}")'
        return f"```repl\n{last}\n```"

    made = RLM("text -> answer", lm=ScriptedLM(answer), environment="script", strategy=Strategy(compact_at=2_000))
    if not lasting:
        assert made(text="t").answer == "iteration 1xxx"
        return
    with made.session() as session:
        assert session(text="t").answer == "iteration 1xxx"


def test_a_threshold_that_is_neither_share_nor_size_is_refused():
    """1 to 1,999 would be a slip."""
    with pytest.raises(ValueError, match=r"2,000"):
        Strategy(compact_at=80)


def test_summaries_are_shown_where_they_were_made(capsys):
    """On the page of the run and in the terminal, escaped."""
    pred = run(Worker(5, summary="lines of <b>x</b>"), compact_at=4_000)
    assert "iterations summarized" in html.page(pred.trajectory)
    assert "lines of &lt;b&gt;x&lt;/b&gt;" in html.page(pred.trajectory)
    console.show(pred.trajectory, console.rich_console())
    assert "summarized) lines of <b>x</b>" in capsys.readouterr().out.replace("\n", " ")
