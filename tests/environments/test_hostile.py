"""Some two hundred hostile cells, as root and as an ordinary user: none gets out, the host goes on unharmed."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import functools
import gc
import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from dszig_py.environments import _zygote
from dszig_py.environments.process import ProcessEnvironment
from dszig_py.testing import hostile

NOBODY = 65534
CATEGORIES = "files secrets process network exec signals limits exit protocol values namespace".split()

# Drops to the ordinary user before anything of ours is imported, runs every snippet, prints what went wrong.
AS_NOBODY = f"""
import os, sys
os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})
import asyncio, json
from dszig_py.environments.process import ProcessEnvironment
from dszig_py.testing import hostile
results = asyncio.run(hostile.run(ProcessEnvironment()))
print(json.dumps([os.getuid(), len(results), [str(result) for result in results if not result.ok]]))
"""


@pytest.fixture(scope="module")
def results():
    """Each snippet's outcome, by its name; run once, with what the host held before and after."""
    _zygote.stop()  # the next is started with a secret in this process's environment
    with contextlib.ExitStack() as stack:
        os.environ["DSZIG_TEST_API_KEY"] = "sk-test"
        stack.callback(os.environ.pop, "DSZIG_TEST_API_KEY")
        zygote = _zygote.zygote()
        gc.collect()  # what earlier tests left open
        before = len(os.listdir("/proc/self/fd"))
        found = asyncio.run(hostile.run(ProcessEnvironment()))
        gc.collect()
        after = len(os.listdir("/proc/self/fd"))
    return {result.name: result for result in found}, zygote, before, after


@pytest.mark.parametrize("snippet", hostile.SNIPPETS, ids=str)
def test_a_hostile_cell_does_no_harm(results, snippet):
    """Nothing was read, written, reached, started or ended that must not be, and a cell runs afterwards."""
    result = results[0][f"hostile {snippet}"]
    assert result.ok, result.detail


def test_the_hostile_cells_cover_every_category_and_have_distinct_names():
    """No category is thin, and no snippet hides another."""
    counts = collections.Counter(snippet.category for snippet in hostile.SNIPPETS)
    assert sorted(counts) == sorted(CATEGORIES)
    assert min(counts.values()) >= 5
    assert len({str(snippet) for snippet in hostile.SNIPPETS}) == len(hostile.SNIPPETS) >= 200


def test_the_host_holds_afterwards_what_it_held_before(results):
    """The same zygote, no descriptor more."""
    _, zygote, before, after = results
    assert zygote.alive
    assert _zygote.zygote() is zygote
    assert after == before


def test_a_harmful_cell_would_be_noticed():
    """The witness is no rubber stamp: a cell that says it got through fails."""
    snippets = [
        hostile.Snippet("files", "reads", "attempt('stdlib', read, os.__file__)"),
        hostile.Snippet("values", "dies", "os._exit(1)", hostile.SNIPPETS[0].harm),
    ]
    reads, dies = asyncio.run(hostile.run(ProcessEnvironment(), snippets))
    assert (reads.ok, dies.ok) == (False, False)
    assert "BREACH stdlib" in reads.detail
    assert "lost" in dies.detail


@functools.cache
def interpreter_of_nobody() -> tuple[str, dict[str, str]]:
    """A Python of this version that an ordinary user can run, and the environment that finds our packages; or a skip."""
    root = Path(__file__).resolve().parents[2]
    path = f"{root}:{sysconfig.get_path('purelib')}"
    probe = f"import os; os.setuid({NOBODY}); import sys, pydantic, anyio, dszig_py; print(sys.version_info[:2])"
    env = {"PYTHONPATH": path, "PATH": os.environ.get("PATH", ""), "PYTHONDONTWRITEBYTECODE": "1"}
    for python in (sys.executable, "/usr/bin/python3"):
        if os.path.exists(python):
            tried = subprocess.run([python, "-c", probe], env=env, capture_output=True, text=True, check=False, cwd="/")
            if tried.stdout.strip() == str(sys.version_info[:2]):
                return python, env
    pytest.skip("an ordinary user can read no interpreter of this version that finds pydantic")


@pytest.mark.skipif(os.geteuid() != 0, reason="the other tests here have run as an ordinary user already")
def test_no_hostile_cell_does_harm_as_an_ordinary_user():
    """The boundary holds without root: the whole set again as uid 65534."""
    python, env = interpreter_of_nobody()
    ran = subprocess.run(
        [python, "-c", AS_NOBODY], env=env, capture_output=True, text=True, check=False, cwd="/", timeout=200
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    uid, count, failed = json.loads(ran.stdout)
    assert (uid, count) == (NOBODY, len(hostile.SNIPPETS))
    assert failed == []
