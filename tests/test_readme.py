"""The README is true: its Python blocks run, its commands exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(
    r"```python\n(.*?)```", README.replace("'```python'", "'~~~python'").replace("'```'", "'~~~'"), re.DOTALL
)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_each_python_block_of_the_readme_runs(number, tmp_path):
    """A reader who pastes a block sees it work."""
    block = BLOCKS[number].replace("'~~~python'", "'```python'").replace("'~~~'", "'```'")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", block], capture_output=True, text=True, cwd=tmp_path, timeout=120
    )
    assert done.returncode == 0, done.stderr


def test_every_verb_the_readme_shows_is_there():
    """dszig VERB --help answers for each verb named."""
    for verb in sorted(set(re.findall(r"^dszig (\w+)", README, re.MULTILINE))):
        done = subprocess.run(
            [sys.executable, "-m", "dszig_py", verb, "--help"], capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, (verb, done.stderr)
