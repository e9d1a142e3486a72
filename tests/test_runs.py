"""Saved runs on the command line: listed, shown by number, set side by side, exported."""

from __future__ import annotations

import io
import json
import os
import sys
import time
import types
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console
from test_trajectory import trajectories

from dszig_py import RLM, Trajectory
from dszig_py.cli import main
from dszig_py.lm import ScriptedLM
from dszig_py.render.compare import compare
from dszig_py.render.console import rich_console, show
from dszig_py.trajectory import Termination
from dszig_py.usage import Usage


def cell(code):
    return f"```python\n{code}\n```"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder of runs that belongs to the test."""
    monkeypatch.setenv("DSZIG_RUNS_DIR", str(tmp_path / "runs"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs"


def saved(folder, id, begun=1_700_000_000.0, ended="submitted", **fields):
    """A run as `dszig run` saves it."""
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(begun))
    usage = Usage(3, 100, 20, 0.0125)
    run = Trajectory(id, "text -> answer", begun=begun, usage=usage, termination=Termination(ended, "model"), **fields)
    return run.save(folder / f"{stamp}-{id}.jsonl")


def asked(answer, code="print('looked')", **options):
    root = ScriptedLM([cell(code), cell(f"SUBMIT({answer!r})")])
    return RLM("text: str -> answer: str", lm=root, **options)(text="some text").trajectory


def test_runs_are_listed_newest_first_with_what_they_came_to(folder, capsys):
    """Number, time, signature, end, iterations, calls, dollars."""
    saved(folder, "old", 1_700_000_000.0, ended="max_iters")
    saved(folder, "new", 1_700_000_100.0)
    assert main(["runs"]) == 0
    told = capsys.readouterr().out
    newest, older = [line for line in told.splitlines() if "text -> answer" in line]
    assert newest.split()[0] == "1" and "submitted" in newest and "$0.0125" in newest and newest.split()[-2] == "3"
    assert older.split()[0] == "2" and "max_iters" in older
    assert main(["runs", "--json", "-n", "1"]) == 0
    (row,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (row["number"], row["ended"], row["calls"], row["tokens"], row["cost"]) == (1, "submitted", 3, 120, 0.0125)
    assert row["path"].endswith("-new.jsonl")


def test_runs_that_did_not_end_are_listed_as_such_and_other_files_are_not(folder, capsys):
    """A cut file has a head; what is no run has none."""
    path = saved(folder, "cut")
    path.write_bytes(path.read_bytes()[:-20])
    (folder / "notes.jsonl").write_text("hello\n")
    (folder / "empty.jsonl").touch()
    assert main(["runs"]) == 0
    told = capsys.readouterr().out
    assert "unfinished" in told
    assert told.count("text -> answer") == 1


@pytest.mark.parametrize(
    ("row", "values"),
    [
        (0, {"begun": "yesterday"}),
        (0, {"begun": 1e300}),
        (0, {"begun": None, "signature": ["\x1b[31m"], "model": 7}),
        (-1, {"iterations": "many", "seconds": {}, "termination": {"kind": 5}}),
        (-1, {"usage": {"calls": None, "input_tokens": "x", "cost": {"~": ["float", "nan"]}}}),
        (-1, {"usage": {"calls": 10**400, "output_tokens": float("inf")}}),
    ],
)
def test_a_damaged_run_does_not_hide_the_others(folder, capsys, row, values):
    """It is listed with what can be read of it, after the newer and before the older; JSON stays JSON."""
    for number, id in enumerate(("old", "bad", "new")):
        path = saved(folder, id, 1_700_000_000.0 + number)
        if id == "bad":
            lines = [json.loads(line) for line in path.read_bytes().splitlines()]
            lines[row] |= values
            path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert main(["runs"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in told if line[:1].isdigit()] == ["1", "2", "3"]
    assert "\x1b" not in "".join(told)
    assert main(["runs", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["number"] for row in rows] == [1, 2, 3] and rows[0]["tokens"] == rows[2]["tokens"] == 120


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(trajectories(), trajectories(), st.sampled_from([None, float("inf"), float("nan"), -1e300]))
def test_whatever_can_be_loaded_can_be_shown(first, second, odd):
    """In the terminal, alone and beside another, also times that are none and ints too long to be written."""
    if odd is not None:
        first = replace(first, begun=odd, seconds=odd, usage=Usage(1, cost=odd, seconds=odd))
    for width in (40, 140):
        screen = Console(file=io.StringIO(), width=width, markup=False)
        show(first, screen)
        compare(first, second, screen)


def test_no_runs_at_all(tmp_path, capsys):
    """Says where it looked."""
    assert main(["runs", "--dir", str(tmp_path / "none")]) == 0
    assert "no runs in" in capsys.readouterr().err


def test_a_folder_that_cannot_be_read_is_not_an_empty_one(tmp_path, monkeypatch, capsys):
    """Says why, with exit code 1; a file in its place is as unreadable as another user's folder."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("DSZIG_RUNS_DIR", str(tmp_path / "file"))
    assert main(["runs"]) == 1
    assert "Not a directory" in capsys.readouterr().err


def test_of_a_thousand_runs_only_the_first_and_the_last_lines_are_read(folder, capsys):
    """However long the runs were: one has a hole of 20 GB in its middle, which reading would fill memory with."""
    first = saved(folder, "0")
    head, end = first.read_bytes().splitlines(keepends=True)
    middle = json.dumps({"event": "sub_call", "run": "0", "depth": 0, "t": 1, "reply": "x" * 20_000}).encode() + b"\n"
    for number in range(1, 1_000):
        (folder / f"20231114-22{number // 60:02d}{number % 60:02d}-{number}.jsonl").write_bytes(head + middle * 5 + end)
    with (folder / "20231114-220010-10.jsonl").open("r+b") as long:
        long.truncate(len(head))
        long.seek(20_000_000_000)
        long.write(b"\n" + end)
    assert main(["runs", "-n", "0", "--json"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1_000
    assert main(["runs"]) == 0
    assert "980 older ones" in capsys.readouterr().err


def test_ends_longer_than_one_read_are_found(folder, capsys):
    """Outputs may be large."""
    saved(folder, "big", outputs={"answer": "x" * 200_000})
    assert main(["runs", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ended"] == "submitted"


def test_show_takes_numbers_and_paths(folder, capsys):
    """1 is the newest; a number that there is not says how many there are."""
    asked("fine", trace=folder)
    assert main(["show", "1"]) == 0
    assert "print('looked')" in capsys.readouterr().out
    assert main(["show", "2"]) == 2
    assert "no run 2" in capsys.readouterr().err
    assert main(["show", "1", "--dir", "elsewhere"]) == 2
    asked("other").save("7")
    assert main(["show", "7"]) == 0
    assert "other" in capsys.readouterr().out


@pytest.mark.parametrize("width", [60, 160])
def test_two_runs_side_by_side_or_one_after_the_other(width, capsys):
    """Inputs, code, ends and the difference in usage of both."""
    first, second = asked("fine"), asked("better", code="[bold]\x1b[31m = 1")
    with open("out.txt", "w") as file:
        console = rich_console(file)
        console.width = width
        compare(first, second, console)
    told = Path("out.txt").read_text()
    assert "print('looked')" in told and "[bold]" in told and "\x1b" not in told
    assert "fine" in told and "better" in told
    assert "input text" in told and "B - A" in told
    both = [line for line in told.splitlines() if "fine" in line and "better" in line]
    assert bool(both) is (width == 160)
    assert max(map(len, told.splitlines())) <= width


def test_show_sets_two_runs_side_by_side(folder, capsys):
    """By numbers and paths alike; three are too many."""
    asked("one", trace=folder / "20200101-000000-a.jsonl")
    asked("two", trace=folder / "20210101-000000-b.jsonl")
    assert main(["show", "2", str(folder / "20210101-000000-b.jsonl")]) == 0
    told = capsys.readouterr().out
    assert "one" in told and "two" in told and "B - A" in told
    assert main(["show", "1", "2", "1"]) == 2
    assert main(["show", "1", "2", "--export", "rlm"]) == 2


@pytest.mark.parametrize("kind", ["zigrlm", "rlm"])
def test_export_goes_to_a_file_or_to_stdout(folder, capsys, kind):
    """The same lines either way, each one JSON object."""
    asked("fine é", trace=folder)
    assert main(["show", "1", "--export", kind]) == 0
    told = capsys.readouterr().out
    assert all(json.loads(line)["schema"].startswith("zigrlm.") for line in told.splitlines())
    assert main(["show", "1", "--export", kind, "--out", "made/out.jsonl"]) == 0
    with open("made/out.jsonl", encoding="utf-8") as file:
        assert file.read() == told
    assert main(["show", "1", "--out", "x"]) == 2


def test_html_is_written_where_the_renderer_is_installed(folder, monkeypatch, capsys):
    """By dszig_py.render.html.page."""
    asked("fine", trace=folder)
    made = types.ModuleType("dszig_py.render.html")
    made.page = lambda run: f"<p>{run.outputs['answer']}</p>"
    made.__spec__ = types.SimpleNamespace()
    monkeypatch.setitem(sys.modules, "dszig_py.render.html", made)
    assert main(["show", "1", "--html", "out/run.html"]) == 0
    assert Path("out/run.html").read_text() == "<p>fine</p>"


def test_run_writes_its_trace_as_it_goes_to_the_folder_and_to_trace(folder, tmp_path, capsys):
    """Both files are the same run, and there while the model is still asked."""
    seen = f"ls {folder} | wc -l > seen; printf '%s\\n' '```python' 'SUBMIT(1)' '```'"
    assert main(["-> n: int", "-q", "--trace", "t.jsonl", "--main-cmd", seen]) == 0
    assert int((tmp_path / "seen").read_text()) == 1
    (path,) = folder.iterdir()
    assert Trajectory.load(path) == Trajectory.load("t.jsonl")
    assert os.stat(folder).st_mode & 0o777 == 0o700
