"""What holds of the whole code base: layers, public names, cheap imports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import dszig_py

ROOT = Path(__file__).parent.parent


def test_imports_go_down_only():
    """import-linter's contracts in pyproject.toml are kept."""
    lint = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([lint, "--no-cache"], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stdout


def test_all_public_names_are_there_and_sorted():
    """__all__ names what `from dszig_py import *` gives."""
    for name in dszig_py.__all__:
        assert getattr(dszig_py, name) is not None
    capitals = [n for n in dszig_py.__all__ if n.isupper()]
    others = [n for n in dszig_py.__all__ if not n.isupper()]
    assert dszig_py.__all__ == [*sorted(capitals), *sorted(others)]


def test_importing_the_package_loads_nothing_heavy():
    """LiteLLM, dspy, click, rich, anyio and asyncio load when used."""
    code = "import sys; from dszig_py import RLM; RLM('a -> b'); print([m for m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    loaded = set(eval(done.stdout))
    assert not loaded & {"litellm", "dspy", "click", "rich", "anyio", "asyncio", "openai", "httpx"}
