"""The notebooks run from clean, keep their outputs, and speak of no machine; `make live` says what it finds."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import live
import pytest
from scripted_server import ScriptedServer

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
MISSING = [name for name in ("nbmake", "ipykernel") if importlib.util.find_spec(name) is None]


@pytest.mark.skipif(bool(MISSING), reason=f"{', '.join(MISSING)} is not installed")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_clean(path, tmp_path):
    """Every cell, in a new kernel and an empty folder, without a key."""
    place = shutil.copy(path, tmp_path)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DSZIG_")}
    command = [sys.executable, "-m", "pytest", "-c", os.devnull, "--rootdir", str(tmp_path), "--nbmake", place, "-q"]
    done = subprocess.run(
        [*command, "-p", "no:cacheprovider"],
        cwd=tmp_path,
        env={**environment, "JUPYTER_PLATFORM_DIRS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3_000:] + done.stderr[-1_000:]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_with_its_outputs(path):
    """They read well on a hosting site: no cell failed, most show something, none shows a path of a machine."""
    book = json.loads(path.read_text(encoding="utf-8"))
    cells = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert len([cell for cell in cells if cell["outputs"]]) >= len(cells) / 2
    assert not re.search(r"/(?:home|root|tmp|work|Users)/", json.dumps(outputs))
    assert "key" in "".join(book["cells"][0]["source"]), "the first cell says what needs a key"


def test_there_are_four():
    """Quickstart, recursion and budgets, DSPy and optimizers, evaluation."""
    assert [path.stem[:2] for path in NOTEBOOKS] == ["01", "02", "03", "04"]


def test_live_tells_what_the_runs_came_to(tmp_path, capsys):
    """Twelve runs, their numbers by task and length, and each run as a page."""
    assert live.main(["reader", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert re.search(r"label_count +64,000 +\d\.\d\d +\d+\.\d", told)
    assert "12 runs, $0." in told
    pages = sorted(tmp_path.glob("*.html"))
    assert len(pages) == 12
    assert "<!doctype html>" in pages[0].read_text()


def test_live_claims_no_dollars_it_cannot_know(tmp_path, capsys, monkeypatch):
    """A model without a price runs under calls and tokens, and both are said."""
    with ScriptedServer(lambda _: "```python\nSUBMIT(answer=1)\n```") as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-loopback")
        assert live.main(["openai/nobodys-model", str(tmp_path)]) == 0
    told = capsys.readouterr()
    assert "a dollar cannot be the limit" in told.err
    assert "12 runs, cost unknown" in told.out


def test_live_says_so_where_no_model_is_reachable(tmp_path, capsys, monkeypatch):
    """No traceback; another exit code than a wrong call's."""
    with ScriptedServer() as server:
        url = server.url
    monkeypatch.setenv("OPENAI_BASE_URL", url)  # nothing listens there any more
    monkeypatch.setenv("OPENAI_API_KEY", "sk-loopback")
    monkeypatch.setattr("dszig_py.lm.gate.FIRST_BACKOFF", 0.01)
    assert live.main(["openai/gpt-4o-mini", str(tmp_path)]) == 1
    assert "no model is reachable" in capsys.readouterr().err
    assert live.main([]) == 2
    assert "which model?" in capsys.readouterr().err
