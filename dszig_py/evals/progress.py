"""A live bar: how much is done, how right each system is so far, what was spent."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import Any, Self

from dszig_py.evals.store import Row

__all__ = ["Progress"]


class Progress:
    """A context manager around an evaluation; nothing at all where it is not enabled. In notebooks tqdm shows a widget."""

    def __init__(self, left: int, rows: Iterable[Row], *, enabled: bool) -> None:
        self._scores: dict[str, tuple[int, float]] = {}
        self._cost = 0.0
        self._bar: Any = None
        for row in rows:
            self._count(row)
        done = sum(count for count, _ in self._scores.values())
        if enabled:
            bar: Any = importlib.import_module("tqdm.auto").tqdm
            self._bar = bar(total=done + left, initial=done, unit="run", dynamic_ncols=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def add(self, row: Row) -> None:
        """One more result."""
        self._count(row)
        if self._bar is not None:
            means = ", ".join(f"{name} {total / count:.2f}" for name, (count, total) in self._scores.items())
            self._bar.set_postfix_str(f"{means}, ${self._cost:.3f}", refresh=False)
            self._bar.update()

    def _count(self, row: Row) -> None:
        count, total = self._scores.get(row.system, (0, 0.0))
        self._scores[row.system] = (count + 1, total + row.score)
        self._cost += row.cost or 0.0
