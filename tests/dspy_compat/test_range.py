"""The ends of the range of dspy versions that the plug is for: each runs the same program."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import dspy
import pytest

from dspy_compat._install import SUPPORTED

ROOT = Path(__file__).parents[2]
VERSIONS = ("3.4.0", "3.4.1")  # the first and the last there are

PROGRAM = """
import asyncio, warnings
import dspy, dspy_compat, dspy_scripted as scripted
from dspy_scripted import steps

class Reads(dspy.Module):
    def __init__(self):
        super().__init__()
        self.read = dspy.RLM("text -> answer: str, n: int", max_iters=3)

    def forward(self, **inputs):
        return self.read(**inputs)

stock = dspy.RLM
saved = stock("text -> answer: str, n: int", tools=[]).dump_state()
dspy_compat.install(dspy)
assert dspy.RLM is dspy_compat.RLM and dspy_compat.original() is stock
lm = scripted.lm(steps("print(llm_query('what?'))", "SUBMIT(answer=text.upper(), n=len(text))"))
with dspy.context(lm=lm, trace=[]), dspy.track_usage() as usage:
    program = Reads()
    program.read.load_state(saved)
    pred = program(text="abc")
    assert (pred.answer, pred.n, pred.termination.kind) == ("ABC", 3, "submitted"), pred
    assert asyncio.run(program.read.acall(text="x")).answer == "X"
    assert program.read(text="y", interpreter_factory=dspy.LocalInterpreter).answer == "Y"
    assert {p for p, _, _ in dspy.settings.trace} == {program.read.generate_action}
    tuned = dspy.BootstrapFewShot(max_bootstrapped_demos=1, max_labeled_demos=0).compile(
        program, trainset=[dspy.Example(text="a", answer="A", n=1).with_inputs("text")]
    )
    assert tuned.read.generate_action.demos
    fresh = Reads()
    fresh.load_state(tuned.dump_state())
    assert fresh(text="z").answer == "Z"
assert usage.get_total_tokens()["scripted"]["prompt_tokens"] > 0
dspy_compat.uninstall(dspy)
assert dspy.RLM is stock
print(dspy.__version__)
"""


@pytest.fixture(scope="module", params=VERSIONS)
def home(request, pytestconfig):
    """Where that version is: installed here, or beside it, kept from one run of the tests to the next."""
    version = request.param
    if version == dspy.__version__:
        return version, None
    kept = pytestconfig.cache.mkdir(f"dspy-{version}")
    if not (kept / "dspy").is_dir():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--retries", "0", "--timeout", "10"]
        done = subprocess.run(
            [*command, "--target", str(kept), f"dspy=={version}"], capture_output=True, text=True, timeout=120
        )
        if done.returncode:
            pytest.skip(f"dspy {version} cannot be had here: {done.stderr.strip().splitlines()[-1]}")
    return version, kept


def test_a_program_runs_under_each_end(home):
    """Installed, called three ways, traced, tuned, saved, loaded, uninstalled; in a process that has that version."""
    version, kept = home
    paths = [*([str(kept)] if kept else []), str(ROOT / "tests"), str(ROOT)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:dspy_compat", "-c", PROGRAM],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == version


def test_the_range_is_one_and_the_same_everywhere():
    """In the package's requirement, in what install() checks, and in the versions tried here."""
    low, high = (".".join(map(str, end)) for end in SUPPORTED)
    required = re.search(r'"dspy>=([\d.]+),<([\d.]+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert required is not None
    assert required.groups() == (low, high)
    assert all(SUPPORTED[0] <= tuple(int(n) for n in v.split("."))[:2] < SUPPORTED[1] for v in VERSIONS)
