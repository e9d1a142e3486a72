"""dszig eval, and the routes of a run that it compares."""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import within

from dszig_py import RLM, Budget, LMError, Strategy, Trajectory
from dszig_py.cli import main
from dszig_py.evals import Evaluation
from dszig_py.lm import LiteLLM, ScriptedLM


@pytest.fixture(autouse=True)
def _own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DSZIG_MODEL", "DSZIG_SUB_MODEL", "DSZIG_MAIN_CMD", "DSZIG_RLM_CMD"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DSZIG_RUNS_DIR", str(tmp_path / "runs"))
    monkeypatch.chdir(tmp_path)


# -- the command ------------------------------------------------------------------------------------

SHORT = ["-m", "reader", "--lengths", "4K", "--n", "2"]


def test_a_table_a_summary_and_rows(tmp_path, capsys):
    """The table on stdout; PATH names the summary and the rows; a rerun runs nothing."""
    args = [
        "eval",
        "needle",
        "label_count",
        "-m",
        "reader",
        "--lengths",
        "4K,8_000,4000",
        "--n",
        "2",
        "--json",
        "out.json",
    ]
    assert main(args) == 0
    out, err = capsys.readouterr()
    assert out.count("\n") == 9 and "label_count" in out and "direct" in out
    assert "out.jsonl" in err
    record = json.loads((tmp_path / "out.json").read_text())
    assert {cell["length"] for cell in record["cells"]} == {4_000, 8_000}
    before = (tmp_path / "out.jsonl").read_bytes()
    assert before.count(b"\n") == 1 + 16
    assert main([*args, "-q"]) == 0
    assert capsys.readouterr() == (out, "")
    assert (tmp_path / "out.jsonl").read_bytes() == before


def test_rows_are_kept_without_a_name_for_them(tmp_path, capsys):
    """Among the saved runs."""
    assert main(["eval", "needle", *SHORT]) == 0
    (kept,) = (tmp_path / "runs" / "evals").glob("*.jsonl")
    assert str(kept) in capsys.readouterr().err


def test_where_rows_cannot_be_kept_an_option_is_named(tmp_path, monkeypatch, capsys):
    """Before anything runs, where the folder of all runs cannot be made."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("DSZIG_RUNS_DIR", str(tmp_path / "file" / "runs"))
    assert main(["eval", "needle", *SHORT]) == 2
    assert "--json PATH" in capsys.readouterr().err


def test_rows_of_a_file_are_a_task(tmp_path, capsys):
    """kind:PATH."""
    (tmp_path / "mine.csv").write_text("context,question,answer\nx,What is the special number for a-b?,5\n")
    assert main(["eval", "rows:mine.csv", *SHORT, "--systems", "direct", "-q"]) == 0
    assert "mine" in capsys.readouterr().out


def test_columns_and_a_signature_of_ones_own(tmp_path, capsys):
    """--field and --signature say how a file's columns become a task; other tasks beside it are as ever."""
    (tmp_path / "mine.csv").write_text("doc,ask,gold\nx,What is the special number for a-b?,unknown\n")
    own = ["--signature", "context, question -> said", "--field", "context=doc", "--field", "question=ask"]
    args = ["eval", "rows:mine.csv", "needle", *SHORT, "--systems", "direct", "-q", "--json", "out", *own]
    assert main([*args, "--field", "said=gold"]) == 0
    assert "mine" in capsys.readouterr().out
    tasks = {row.task: row.score for row in Evaluation.load(tmp_path / "out.jsonl").rows}
    assert tasks == {"mine": 1.0, "needle": 1.0}


def test_an_evaluation_in_which_every_run_failed_is_an_error(tmp_path, capsys):
    """Exit code 1 and the provider's words, no traceback; the rows are kept, and a rerun tries them again."""
    args = ["eval", "needle", "--lengths", "4K", "--n", "2", "--systems", "direct", "-q", "--json", "out", "-m"]
    (tmp_path / "mine.py").write_text(
        "from dszig_py.evals import Outcome\n"
        "async def broken(task, example, setup): return Outcome({}, 'error', 'provider', 'wrong key')\n"
    )
    args[args.index("direct")] = "mine:broken"
    sys.path.insert(0, str(tmp_path))
    try:
        assert main([*args, "reader"]) == 1
    finally:
        sys.path.remove(str(tmp_path))
        sys.modules.pop("mine", None)
    out, err = capsys.readouterr()
    assert "2 error (provider)" in out
    assert "2 of 2 runs failed" in err and "wrong key" in err and "Traceback" not in err


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["needle", *SHORT, "--field", "context=doc"], "for rows:PATH, and there is none"),
        (["rows:x.csv", *SHORT, "--field", "context"], "--field is NAME=COLUMN"),
        (["needl", *SHORT], "did you mean 'needle'"),
        (["needle", *SHORT, "--systems", "rml"], "did you mean 'rlm'"),
        (["needle", "-m", "reader", "--lengths", "8Q"], "write 8000, 8K or 1.5M"),
        (["needle", "-m", "reader", "--lengths", "50M"], "2,000 to 20,000,000"),
        (["needle", "-m", "reader", "--lengths", ","], "no length is given"),
        (["needle", *SHORT, "--json", "/proc/none/r"], "/proc/none/r.jsonl: "),
        (["needle"], "no model is configured"),
        (["rows:nowhere.csv", *SHORT], "nowhere.csv"),
        (["needle", *SHORT, "--total-cost", "1"], "needs max_cost"),
    ],
)
def test_wrong_usage_is_told(args, told, capsys):
    """Before anything is run, with exit code 2."""
    assert main(["eval", *args]) == 2
    assert told in capsys.readouterr().err


def test_a_total_ends_it_with_its_own_exit_code(capsys):
    """3, and the table says why."""
    args = ["eval", "needle", "-m", "reader", "--lengths", "4K", "--n", "50", "-q"]
    assert main([*args, "--max-cost", "0.01", "--total-cost", "0.03"]) == 3
    assert "stopped: total max_cost" in capsys.readouterr().out


def test_a_plot_that_is_no_picture_is_refused_before_anything_runs(tmp_path, capsys, monkeypatch):
    """Hours of an evaluation before "format txt is not supported" would be late."""
    monkeypatch.chdir(tmp_path)
    assert main(["eval", "needle", *SHORT, "--plot", "x.txt"]) == 2
    assert "'x.txt' is no picture" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_plot_that_cannot_be_drawn_costs_no_results(tmp_path, capsys):
    """It is said and passed over."""
    assert main(["eval", "needle", *SHORT, "--plot", "x.png"]) == 0
    said = capsys.readouterr().err
    drawn = importlib.util.find_spec("matplotlib") is not None
    assert (tmp_path / "x.png").exists() == drawn
    assert ("plot in x.png" if drawn else "no plot in x.png: plots need matplotlib") in said


def test_ctrl_c_keeps_what_is_done_and_says_how_to_go_on(tmp_path):
    """130, a table of what there is, and a rerun that completes it."""
    code = "import sys; from dszig_py.cli import main; sys.exit(main(sys.argv[1:]))"
    slow = "slow.py"
    (tmp_path / slow).write_text(
        "import asyncio\nfrom dszig_py.evals import Outcome\n"
        "async def slow(task, example, setup):\n    await asyncio.sleep(0.05)\n    return Outcome({'answer': example.answer})\n"
    )
    args = ["eval", "needle", "-m", "reader", "--lengths", "4K", "--systems", "slow:slow", "--max-concurrency", "2"]
    args += ["--json", "out", "-q", "--n"]
    command = [sys.executable, "-c", code, *args]
    child = subprocess.Popen([*command, "400"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    rows = tmp_path / "out.jsonl"
    within(lambda: child.poll() is not None or (rows.exists() and rows.read_bytes().count(b"\n") >= 6))
    assert child.poll() is None
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=60)
    kept = rows.read_bytes().count(b"\n") - 1
    assert child.returncode == 130 and "slow:slow" in out
    assert f"{kept} results are kept, go on with: --json out.jsonl" in err
    done = subprocess.run([*command, str(kept + 3)], cwd=tmp_path, timeout=60, check=False)
    assert done.returncode == 0 and rows.read_bytes().count(b"\n") >= 1 + kept + 3


# -- routes -----------------------------------------------------------------------------------------

ANSWER = '{"answer": 4}'
LOOP = "```python\nSUBMIT(answer=5)\n```"
SIGNATURE = "context, question -> answer: int"


def run(replies, text="two and two", **options):
    lm = ScriptedLM(replies)
    strategy = Strategy(route=options.pop("route", "auto"))
    rlm = RLM(SIGNATURE, lm=lm, strategy=strategy, environment="inprocess", **options)
    return rlm(context=text, question="sum?"), lm


def test_small_inputs_are_answered_by_one_typed_call():
    """The whole input is in its prompt, no REPL is opened, and the trajectory says which way and why."""
    prediction, lm = run([ANSWER])
    assert prediction.answer == 4 and prediction.termination.kind == "submitted"
    assert len(lm.requests) == 1 and "two and two" in lm.requests[0].prompt
    assert prediction.trajectory.route.startswith("direct: the inputs, 15 characters, are under 25%")
    assert prediction.trajectory.isolation == ""
    (only,) = prediction.trajectory.iterations
    assert only.index == 0 and only.sub_calls[0].kind == "direct" and only.sub_calls[0].reply == ANSWER
    assert prediction.usage.calls == 1


def test_big_inputs_go_to_the_loop():
    """The threshold is a quarter of the window, an assumed one where the model does not say."""
    prediction, lm = run([LOOP], text="x" * 32_001)
    assert prediction.answer == 5 and "x" * 1_000 not in lm.requests[0].prompt
    assert (
        prediction.trajectory.route
        == "loop: the inputs are over 25% of an assumed window of 32,000 tokens (32,000 characters)"
    )
    lm = ScriptedLM([LOOP])
    lm.window_tokens = 10
    assert (
        RLM(SIGNATURE, lm=lm, strategy=Strategy(route="auto"), environment="inprocess")(
            context="x" * 20, question="?"
        ).answer
        == 5
    )


def test_tools_need_the_loop():
    """One call cannot use them."""

    def fetch(page: str) -> str:
        """Gets a page."""
        return page

    prediction, _ = run([LOOP], tools=[fetch])
    assert prediction.trajectory.route == "loop: there are tools, which only code can call"


def test_an_unfitting_reply_is_asked_for_again_with_the_error():
    """Up to three times, each recorded and paid for."""
    prediction, lm = run(["no idea", '{"answer": "many"}', ANSWER], route="direct")
    assert prediction.answer == 4 and prediction.usage.calls == 3
    assert "valid integer" in lm.requests[2].prompt
    assert [bool(call.error) for call in prediction.trajectory.sub_calls()] == [True, True, False]


def test_where_the_direct_call_fails_the_loop_goes_on():
    """Unfitting replies or a prompt too long for the model; the loop's prompt knows nothing of them."""
    prediction, lm = run(["no idea"] * 3 + [LOOP])
    assert prediction.answer == 5 and prediction.usage.calls == 4
    assert prediction.trajectory.route.startswith("loop: ") and "3 replies did not fit" in prediction.trajectory.route
    assert [i.index for i in prediction.trajectory.iterations] == [0, 1]
    assert "no idea" not in lm.requests[3].prompt
    prediction, _ = run([LMError("m: ContextWindowExceededError (HTTP 400): ..."), LOOP])
    assert prediction.answer == 5
    prediction, _ = run(["no idea"] * 3, route="direct")
    assert prediction.answer is None and prediction.termination.kind == "error"
    assert "did not fit" in prediction.termination.detail


def test_other_failures_of_the_provider_end_the_run():
    """With the trajectory attached, as everywhere."""
    with pytest.raises(LMError, match="no credit") as raised:
        run([LMError("m: no credit")])
    assert raised.value.prediction.trajectory.iterations[0].sub_calls[0].error == "LMError"


def test_both_ways_share_one_budget():
    """What the direct call took is gone for the loop; a limit reached in it ends the run as a limit does."""
    prediction, _ = run(["no idea " * 400] * 3 + [LOOP], budget=Budget(max_tokens=4_000))
    assert prediction.termination.kind == "max_tokens" and prediction.answer is None
    prediction, _ = run([ANSWER], budget=Budget(max_tokens=1))
    assert prediction.termination.kind == "max_tokens" and prediction.termination.cause == "budget"


def test_a_check_has_the_last_word_on_a_direct_answer():
    """Its message goes back to the model."""
    prediction, lm = run([ANSWER, '{"answer": 6}'], check=lambda out: "too small" if out["answer"] < 5 else None)
    assert prediction.answer == 6 and "too small" in lm.requests[1].prompt


def test_the_route_is_saved_and_shown(tmp_path, capsys):
    """In the file, after loading, in a live trace, and in dszig show."""
    prediction, _ = run(["no idea"] * 3 + [LOOP], trace=tmp_path / "live.jsonl")
    path = prediction.trajectory.save(tmp_path / "run.jsonl")
    assert Trajectory.load(path).route == prediction.trajectory.route
    assert Trajectory.load(tmp_path / "live.jsonl").route == prediction.trajectory.route
    assert main(["show", str(path)]) == 0
    assert "did not fit" in capsys.readouterr().out
    plain = RLM(SIGNATURE, lm=ScriptedLM([LOOP]), environment="inprocess")(context="", question="")
    assert plain.trajectory.route == ""


def test_a_model_says_how_much_it_reads_at_once():
    """From LiteLLM's map; unknown names are unknown."""
    assert LiteLLM("openai/gpt-4o").window_tokens == 128_000
    assert LiteLLM("openai/no-such-model-of-mine").window_tokens is None
