"""The evaluation suite inside DSPy, and dspy's own RLM among the systems it compares."""

from __future__ import annotations

import json
import subprocess
import sys

import dspy
import dspy_scripted as scripted
import pytest
from dspy_scripted import asked, fields, is_action, step

from dspy_compat import RLM
from dspy_compat.evals import examples, metric, metric_of
from dszig_py import Budget
from dszig_py.errors import LMError
from dszig_py.evals import ReaderLM, evaluate, rows
from dszig_py.lm.base import Reply

HINT = "Search for the special number."


def searcher(prompt, last):
    """Finds the needle where the instructions say how, and gives up where they do not."""
    if is_action(prompt):
        code = r"import re; SUBMIT(answer=re.findall(r'special number for [\w-]+ is (\d+)', context)[0])"
        return step(code if HINT in prompt.removesuffix(last) else "SUBMIT(answer='unknown')")
    values = dict.fromkeys(asked(prompt), HINT)
    if "Outputs will be a JSON object" in prompt:
        return json.dumps(values)
    return fields(**values) if values else f"```\n{HINT}\n```"


def test_tasks_are_examples_with_their_inputs_marked(tmp_path):
    """The same as the suite's rows, another seed other ones; rows of a file of one's own as well."""
    found = examples("label_count", length=4_000, n=3)
    assert [one.toDict() for one in found] == rows("label_count", 4_000, 3)
    assert set(found[0].inputs().keys()) == {"context", "question"}
    assert found[0].answer != "" and found[0].labels().task == "label_count"
    assert examples("label_count", length=4_000, n=3, seed=1)[0].context != found[0].context
    path = tmp_path / "own.jsonl"
    path.write_text(json.dumps({"context": "It is blue.", "question": "What colour?", "answer": "blue"}) + "\n")
    (own,) = examples(f"rows:{path}")
    judged = metric_of(f"rows:{path}")(own, dspy.Prediction(answer="blue"))
    assert (judged.score, judged.feedback) == (1.0, "Answer: right.")


def test_the_metric_scores_in_part_says_why_and_passes_only_what_is_right():
    """A prediction of score and feedback for Evaluate and GEPA, yes or no where demos are bootstrapped."""
    (gold,) = examples("label_count", length=4_000, n=1)
    near = dspy.Prediction(answer=gold.answer + 1)
    told = metric(gold, near)
    assert (told.score, told.feedback) == (
        0.75,
        f"Answer: right is {gold.answer}, the answer was {gold.answer + 1}: 1 too many.",
    )
    assert metric(gold, near, []) is False
    assert metric(gold, dspy.Prediction(answer=gold.answer), []) is True
    assert metric(gold, near, [], "generate_action", []).score == 0.75
    missing = metric(gold, dspy.Prediction(answer=None))
    assert (missing.score, "no answer was given" in missing.feedback) == (0.0, True)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:gepa")
def test_evaluate_and_gepa_run_on_the_tasks():
    """The score rises by what reflection is told: the judge's words and the run's own story."""
    reflector = scripted.lm(searcher)
    train, dev = examples("needle", 4_000, 3), examples("needle", 4_000, 3, seed=1)
    evaluate_ = dspy.Evaluate(devset=dev, metric=metric, num_threads=3, display_progress=False)
    with dspy.context(lm=scripted.lm(searcher)):
        program = RLM("context: str, question: str -> answer: str")
        assert evaluate_(program).score == 0
        tuned = dspy.GEPA(
            metric=metric,
            max_metric_calls=20,
            reflection_lm=reflector,
            num_threads=3,
            component_selector=lambda *a, **k: ["generate_action"],
        ).compile(program, trainset=train, valset=dev)
        assert evaluate_(tuned).score == 100
    assert any("Answer: right is" in prompt and "It ended by SUBMIT." in prompt for prompt in reflector.engine_.prompts)


def stock(lm, task="needle", **options):
    (row,) = evaluate(task, "dspy-rlm", lm=lm, lengths=(8_000,), n=1, **options).rows
    return row


@pytest.mark.parametrize("task", ["kv", "label_count"])
def test_dspys_own_rlm_is_a_system_like_the_others(task, tmp_path):
    """Under one model, account and boundary; with sub-calls where the task needs them."""
    path = tmp_path / "r.jsonl"  # so that the models stand behind journals
    found = evaluate(task, ["rlm", "dspy-rlm"], lm="reader", lengths=(8_000,), n=2, path=path)
    assert [(row.kind, row.score, row.system) for row in found.rows] == [
        ("submitted", 1.0, "dspy-rlm"),
        ("submitted", 1.0, "rlm"),
    ] * 2
    ours, theirs = ([row for row in found.rows if row.system == name] for name in ("rlm", "dspy-rlm"))
    assert [row.calls for row in ours] == [row.calls for row in theirs]
    assert all(row.cost and row.input_tokens for row in theirs)


def test_the_command_line_compares_it(tmp_path):
    """dszig eval --systems rlm,dspy-rlm."""
    command = [sys.executable, "-m", "dszig_py", "eval", "needle", "-m", "reader", "--systems", "rlm,dspy-rlm"]
    done = subprocess.run(
        [*command, "--lengths", "8K", "--n", "2", "--json", str(tmp_path / "r"), "-q"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    cells = json.loads((tmp_path / "r.json").read_text())["cells"]
    assert sorted((cell["system"], cell["score"], cell["n"]) for cell in cells) == [
        ("dspy-rlm", 1.0, 2),
        ("rlm", 1.0, 2),
    ]


class Says:
    """A model that says the same each time, or fails."""

    model = "says"

    def __init__(self, said):
        self.said = said

    async def complete(self, request):
        if isinstance(self.said, Exception):
            raise self.said
        return Reply(self.said)


ENDS = {
    "iterations": (Says(step("print(1)")), {"max_iters": 2}, ("error", "model")),  # and its extraction cannot be read
    "tokens": (ReaderLM(), {"max_tokens": 100}, ("max_tokens", "budget")),
    "calls": (ReaderLM(), {"max_llm_calls": 0}, ("submitted", "model")),
    "unreadable": (Says("what?"), {}, ("error", "model")),
    "provider": (Says(LMError("down")), {}, ("error", "provider")),
    "too long": (Says(LMError("maximum context length is 9 tokens")), {}, ("error", "model")),
    "time": (Says(step("while True: pass")), {"max_seconds": 1.0}, ("max_seconds", "budget")),
    "a lost worker": (Says(step("import os; os._exit(3)")), {}, ("error", "environment")),
}


@pytest.mark.parametrize("lm, limits, ended", ENDS.values(), ids=ENDS)
def test_whatever_ends_dspys_own_is_told_as_of_any_system(lm, limits, ended):
    """Kind and cause as in a termination, and what was paid for by then."""
    row = stock(lm, budget=Budget(**limits))
    assert (row.kind, row.cause) == ended, row.detail


def test_it_says_so_where_its_outputs_were_extracted():
    """As a limit, with the outputs that there are."""

    class Extracts(Says):
        async def complete(self, request):
            code = "`[[ ## code ## ]]`" in request.messages[-1].content
            return Reply(step("print(1)") if code else fields(answer="42"))

    row = stock(Extracts(""), budget=Budget(max_iters=2))
    assert (row.kind, row.cause, row.outputs, row.calls) == ("max_iters", "budget", {"answer": "42"}, 3)
