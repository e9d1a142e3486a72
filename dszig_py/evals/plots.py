"""Score and cost over length, drawn by matplotlib (the extra ``plots``)."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dszig_py.errors import InputError

if TYPE_CHECKING:
    from dszig_py.evals.evaluation import Cell

__all__ = ["draw"]

NO_MATPLOTLIB = 'plots need matplotlib: pip install "dszig-py[plots]"'
MARKS = "osD^vPX*"


def draw(cells: Sequence[Cell], path: Path) -> Path:
    """A row of two panels for each task. Without pyplot, so that no window and no global state is touched."""
    try:
        figure_of: Any = importlib.import_module("matplotlib.figure").Figure
    except ImportError as error:
        raise InputError(NO_MATPLOTLIB) from error
    tasks, systems = list(dict.fromkeys(c.task for c in cells)), list(dict.fromkeys(c.system for c in cells))
    if not cells:
        raise InputError("there is nothing to plot: no rows")
    figure: Any = figure_of(figsize=(10, 3.2 * len(tasks)), layout="constrained")
    panels: Any = figure.subplots(len(tasks), 2, squeeze=False)
    for (left, right), task in zip(panels, tasks, strict=True):
        for number, system in enumerate(systems):
            line = sorted((c for c in cells if (c.task, c.system) == (task, system)), key=lambda c: c.length)
            _lines(left, right, line, system, {"color": f"C{number}", "marker": MARKS[number % len(MARKS)]})
        left.set(title=task, ylabel="score", ylim=(-0.04, 1.04))
        right.set(title=task, ylabel="dollars an example")
        for panel in (left, right):
            panel.set(xscale="log", xlabel="characters")
            panel.grid(visible=True, alpha=0.3)
    panels[0][0].legend(fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path


def _lines(left: Any, right: Any, line: Sequence[Cell], system: str, style: dict[str, Any]) -> None:
    lengths, scores = [c.length for c in line], [c.score for c in line]
    around = [[c.score - c.low for c in line], [c.high - c.score for c in line]]
    left.errorbar(lengths, scores, yerr=around, label=system, capsize=3, **style)
    priced = [(c.length, c.cost) for c in line if c.cost is not None]
    right.plot([length for length, _ in priced], [cost for _, cost in priced], label=system, **style)
