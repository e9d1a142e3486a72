"""What many runs may spend together: every run's limit is put aside before it begins, wherever it runs."""

from __future__ import annotations

from collections.abc import Sequence

import anyio

from dszig_py.errors import InputError
from dszig_py.usage import Budget

__all__ = ["Purse"]

_KINDS = ("max_cost", "max_tokens")


class Purse:
    """``total`` for all, ``each`` for a run: a run begins only while its whole limit is left.

    Of the limits in ``kinds`` account is kept here; seconds are a deadline. Raises :class:`InputError` where a run has no
    limit of that kind.
    """

    def __init__(self, total: Budget, each: Budget, kinds: Sequence[str] = _KINDS) -> None:
        self._total: dict[str, float] = {}
        self._each: dict[str, float] = {}
        for kind in kinds:
            limit, share = getattr(total, kind), getattr(each, kind)
            if limit is None:
                continue
            if share is None:
                raise InputError(f"total {kind} needs {kind} in the budget of one run as well: runs go on side by side")
            self._total[kind], self._each[kind] = limit, share
        self._spent = dict.fromkeys(self._total, 0.0)
        self._running = 0
        self._changed = anyio.Condition()
        self.stopped = ""

    async def take(self) -> bool:
        """Whether another run may begin; waits for runs under way where what they leave may do."""
        async with self._changed:
            while True:
                short = [kind for kind in self._total if self._left(kind) < self._each[kind]]
                if not short:
                    self._running += 1
                    return True
                if not self._running:
                    kind = short[0]
                    spent, total = self._spent[kind], self._total[kind]
                    self.stopped = f"total {kind}: {spent:,.4g} of {total:,.4g} are spent, the rest is no whole run"
                    return False
                await self._changed.wait()

    def _left(self, kind: str) -> float:
        return self._total[kind] - self._spent[kind] - self._running * self._each[kind]

    async def give(self, cost: float | None, tokens: int, calls: int = 0) -> None:
        """A run that was begun has ended and took this; a cost nobody knows counts as its whole limit."""
        async with self._changed:
            self._running -= 1
            self.count(cost, tokens, calls)
            self._changed.notify_all()

    def count(self, cost: float | None, tokens: int, calls: int = 0) -> None:
        """Add what was spent before. ``calls``: those from inside code."""
        whole = self._each.get("max_cost", 0.0)
        for kind, spent in (
            ("max_cost", whole if cost is None else cost),
            ("max_tokens", tokens),
            ("max_llm_calls", calls),
        ):
            if kind in self._total:
                self._spent[kind] += spent
