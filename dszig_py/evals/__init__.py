"""Tasks over long contexts with exact answers, and the evaluation of systems on them.

``evaluate(["needle", "label_count"], ["rlm", "direct"], lm="openai/gpt-5", lengths=(8_000, 128_000), path="r.jsonl")``.
The tasks are generated from a seed, at any length from thousands to millions of characters. Nothing here imports DSPy:
``rows`` and ``metric`` are plain data and functions, for programs in whatever frame they run.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dszig_py.evals.engine import aevaluate, evaluate
    from dszig_py.evals.evaluation import Cell, Evaluation
    from dszig_py.evals.reader import ReaderLM
    from dszig_py.evals.readers import from_file, oolong, ruler
    from dszig_py.evals.store import Row
    from dszig_py.evals.suite import TASKS, judge, metric, rows
    from dszig_py.evals.systems import SYSTEMS, Outcome, Setup, System
    from dszig_py.evals.tasks import Example, Score, Task

__all__ = [
    "SYSTEMS",
    "TASKS",
    "Cell",
    "Evaluation",
    "Example",
    "Outcome",
    "ReaderLM",
    "Row",
    "Score",
    "Setup",
    "System",
    "Task",
    "aevaluate",
    "evaluate",
    "from_file",
    "judge",
    "metric",
    "oolong",
    "rows",
    "ruler",
]

_HOMES = {
    **dict.fromkeys(("aevaluate", "evaluate"), "engine"),
    **dict.fromkeys(("Cell", "Evaluation"), "evaluation"),
    "ReaderLM": "reader",
    **dict.fromkeys(("from_file", "oolong", "ruler"), "readers"),
    "Row": "store",
    **dict.fromkeys(("TASKS", "judge", "metric", "rows"), "suite"),
    **dict.fromkeys(("SYSTEMS", "Outcome", "Setup", "System"), "systems"),
    **dict.fromkeys(("Example", "Score", "Task"), "tasks"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'dszig_py.evals' has no attribute {name!r}")
    return getattr(importlib.import_module(f"dszig_py.evals.{_HOMES[name]}"), name)
