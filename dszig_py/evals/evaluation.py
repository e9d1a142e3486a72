"""What an evaluation found: rows, means with bootstrap intervals by task, length and system, and ways to look at them."""

from __future__ import annotations

import html
import json
import os
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from dszig_py.evals import store
from dszig_py.evals.store import Row

__all__ = ["Cell", "Evaluation", "interval", "short"]

RESAMPLES = 2_000
COLUMNS = ("task", "length", "system", "n", "score", "95 % interval", "cost", "tokens", "calls", "seconds", "ended")


@dataclass(frozen=True, slots=True)
class Cell:
    """One system on all examples of one task and length. ``low`` and ``high`` bound the mean score at 95 %.

    ``cost``, ``tokens``, ``calls`` and ``seconds`` are means of an example; ``ended`` counts the kinds of termination.
    """

    task: str
    length: int
    system: str
    n: int
    score: float
    low: float
    high: float
    cost: float | None
    tokens: float
    calls: float
    seconds: float
    ended: Mapping[str, int] = field(default_factory=dict[str, int])

    @property
    def texts(self) -> tuple[str, ...]:
        """As a table shows it."""
        ended = ", ".join(f"{count} {kind}" for kind, count in self.ended.items())
        return (
            *(self.task, short(self.length), self.system, str(self.n)),
            *(f"{self.score:.3f}", f"{self.low:.3f} to {self.high:.3f}"),
            "unknown" if self.cost is None else f"${self.cost:.4f}",
            *(f"{self.tokens:,.0f}", f"{self.calls:.1f}", f"{self.seconds:.2f}", ended),
        )


class Evaluation:
    """Results by row and by cell. Shows itself as a table; ``stopped`` says why not all was run, if so."""

    def __init__(
        self, rows: Sequence[Row], head: Mapping[str, Any] | None = None, *, stopped: str = "", path: Path | None = None
    ) -> None:
        self.rows = sorted(rows, key=lambda row: row.key)
        self.head = dict(head or {})
        self.stopped = stopped
        self.path = path

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Evaluation:
        """What is in a results file, also of an evaluation that is under way or was cut off."""
        head, rows = store.read(path)
        return cls(rows, head, path=Path(path))

    @cached_property
    def cells(self) -> list[Cell]:
        """Means by task, length and system, in the order of the systems' first rows."""
        groups: dict[tuple[str, int, str], list[Row]] = {}
        for row in self.rows:
            groups.setdefault((row.task, row.length, row.system), []).append(row)
        return [_cell(*key, rows) for key, rows in groups.items()]

    def table(self) -> str:
        """The cells as aligned text."""
        lines = [COLUMNS, *(cell.texts for cell in self.cells)]
        widths = [max(len(line[at]) for line in lines) for at in range(len(COLUMNS))]
        left = (0, 2, 10)  # all else is numbers
        told = [
            "  ".join(
                text.ljust(width) if at in left else text.rjust(width)
                for at, (text, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        ]
        notes = [f"stopped: {self.stopped}"] if self.stopped else []
        return "\n".join([*told, *notes])

    __str__ = table

    def __repr__(self) -> str:
        return f"Evaluation of {len(self.rows)} rows\n{self.table()}"

    def _repr_html_(self) -> str:
        def row(tag: str, texts: Sequence[str]) -> str:
            return f"<tr>{''.join(f'<{tag}>{html.escape(text)}</{tag}>' for text in texts)}</tr>"

        body = "".join(row("td", cell.texts) for cell in self.cells)
        note = f"<p>stopped: {html.escape(self.stopped)}</p>" if self.stopped else ""
        return f"<table><thead>{row('th', COLUMNS)}</thead><tbody>{body}</tbody></table>{note}"

    def record(self) -> dict[str, Any]:
        """Head, cells and rows as plain data."""
        rows = [asdict(row) for row in self.rows]
        return {"head": self.head, "stopped": self.stopped, "cells": [asdict(c) for c in self.cells], "rows": rows}

    def save(self, path: str | os.PathLike[str]) -> Path:
        """:meth:`record` as one JSON file."""
        place = Path(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(json.dumps(self.record(), indent=1) + "\n", encoding="utf-8")
        return place

    def plot(self, path: str | os.PathLike[str]) -> Path:
        """Score and cost over length, a row of two panels for each task; PNG, SVG or PDF by the path's suffix.

        Raises ``InputError`` where matplotlib is not installed (the extra ``plots``).
        """
        from dszig_py.evals.plots import draw

        return draw(self.cells, Path(path))


def _cell(task: str, length: int, system: str, rows: Sequence[Row]) -> Cell:
    scores = [row.score for row in rows]
    costs = [row.cost for row in rows]
    known = [cost for cost in costs if cost is not None]
    return Cell(
        *(task, length, system, len(rows), fmean(scores), *interval(scores)),
        cost=fmean(known) if len(known) == len(costs) else None,
        tokens=fmean(row.input_tokens + row.output_tokens for row in rows),
        calls=fmean(row.calls for row in rows),
        seconds=fmean(row.seconds for row in rows),
        ended=dict(Counter(row.kind if row.kind != "error" else f"error ({row.cause})" for row in rows).most_common()),
    )


def interval(scores: Sequence[float]) -> tuple[float, float]:
    """The 95 % percentile bootstrap interval of the mean, the same for the same scores."""
    if len(set(scores)) == 1:
        return scores[0], scores[0]
    rng = random.Random(len(scores))
    means = sorted(fmean(rng.choices(scores, k=len(scores))) for _ in range(RESAMPLES))
    return means[int(RESAMPLES * 0.025)], means[int(RESAMPLES * 0.975) - 1]


def short(length: int) -> str:
    """A length as people write it: 8K, 1.5M."""
    for size, unit in ((1_000_000, "M"), (1_000, "K")):
        if length >= size:
            return f"{length / size:.3g}{unit}"
    return str(length)
