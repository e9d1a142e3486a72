"""The README's migration tables are true: every call on our side runs, in Python, in the REPL, or as a command."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scripted_server import ScriptedServer

from dszig_py import RLM, Prediction, Strategy
from dszig_py.cli import main
from dszig_py.lm import ScriptedLM

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
SECTION = README.partition("## Coming from another RLM")[2].partition("\n## ")[0]
SETTING = SECTION.partition("```python\n")[2].partition("```")[0]
ASKED = str(RLM("context, question -> answer").signature)
PREFIXES = ("DSZIG_", "ZIGRLM_", "CODEX_", "CLAUDE_", "OPENAI_")
# Decides with a cell, answers everything else with a word.
MODEL = """\
#!{python} -SE
import sys
print("```python\\nSUBMIT('OK')\\n```" if "SUBMIT" in sys.stdin.read() else "OK")
"""


def rows() -> Iterator[Any]:
    """One parameter a row: its table, and the code on our side."""
    table = ""
    for line in SECTION.splitlines():
        if found := re.match(r"\*\*(.+?)\.?\*\*", line):
            table = found[1]
        if not line.startswith("| ") or line.startswith("| ---"):
            continue
        theirs, ours = (
            cell.replace(r"\|", "|") for cell in re.split(r" (?<!\\)\| ", line[2:].rstrip(" |"), maxsplit=1)
        )
        if code := re.findall(r"`([^`]+)`", ours):
            yield pytest.param(code, id=f"{table}: {theirs[:40]}")


ROWS = list(rows())


@pytest.fixture(scope="module")
def setting() -> dict[str, Any]:
    """What the README has before its tables."""
    names: dict[str, Any] = {}
    before = os.environ.get("DSZIG_MODEL")
    exec(SETTING, names)
    if before is None:
        del os.environ["DSZIG_MODEL"]
    else:
        os.environ["DSZIG_MODEL"] = before
    return names


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """book.txt and ./root in the working directory, stub codex and claude, a scripted provider."""
    for name in [name for name in os.environ if name.upper().startswith(PREFIXES)]:
        monkeypatch.delenv(name)
    (tmp_path / "book.txt").write_text("Ishmael went to sea.", encoding="utf-8")
    root = tmp_path / "root"
    root.write_text(MODEL.format(python=sys.executable), encoding="utf-8")
    root.chmod(0o755)
    monkeypatch.setenv("DSZIG_MODEL", "offline")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("CODEX_BIN", str(root))
    monkeypatch.setenv("CLAUDE_BIN", str(root))
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    monkeypatch.chdir(tmp_path)
    with ScriptedServer(lambda body: "OK") as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        yield


def in_repl(code: str) -> None:
    """A root model writes ``code``; the offline stand-in answers its sub-calls."""
    cell = code if "SUBMIT" in code else f"{code}\nSUBMIT('done')"
    rlm = RLM(
        "context, question, prompts: list[str] -> answer",
        lm=ScriptedLM([f"```python\n{cell}\n```"]),
        sub_lm="offline",
        lms={"strong": "offline"},
        strategy=Strategy(helpers=True),
        max_iters=1,
    )
    prompts = ["What is the sea?", "Is 3 blue?"]
    pred = rlm(context="The whale was white. " * 20, question="What was white?", prompts=prompts)
    assert pred.termination.kind == "submitted", pred.trajectory.iterations[0].execution.error


def in_python(code: str, names: dict[str, Any]) -> None:
    """Runs; where it makes an RLM alone, that one answers, or its models and environment are there at least."""
    try:
        value = eval(code, names)
    except SyntaxError:
        exec(code, names)
        return
    if isinstance(value, RLM):
        plan = value.plan()
        if plan.lms[0].model == "offline" and plan.environment.name != "docker" and str(value.signature) == ASKED:
            value = value(context=names["book"], question=names["q"])
    if isinstance(value, Prediction):
        assert value.termination.kind == "submitted", value


@pytest.mark.parametrize("code", ROWS)
def test_our_side_of_a_row_runs(code, setting, capfd):
    """Each span of it, in order, in one working directory."""
    names = dict(setting)
    for span in code:
        if span.startswith(">>> "):
            in_repl(span[4:])
        elif span.startswith("dszig "):
            assert main(shlex.split(span)[1:]) == 0, capfd.readouterr().err
        elif span.startswith("--"):
            pytest.fail(f"a flag alone shows nothing: {span}")
        else:
            in_python(span, names)


def test_the_tables_are_all_there():
    """One for each parent, and none is empty."""
    tables = {str(row.id).partition(":")[0] for row in ROWS}
    assert tables == {
        "zigrlm",
        "alexzhang13/rlm",
        "rlm-loop",
        "pyrlm-runtime",
        "replm/rlm",
        "dspy.RLM and predict-rlm",
    }
    lines = [line for line in SECTION.splitlines() if line.startswith("| ") and not line.startswith("| ---")]
    assert len(ROWS) == len(lines) - len(tables)  # all but the headings have code on our side
