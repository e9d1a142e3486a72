"""Which iterations the next prompt shows, and what stands for the earlier ones: a summary that a model wrote of them.

Off unless ``Strategy(compact_at=...)`` asks for it: history is bounded without it (``prompts.history``), by cutting, which
costs nothing. A summary keeps what was learnt where that matters more than the words; nothing is lost by it, for the
iterations it replaces stay in the REPL as a variable and in the trajectory.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence

import anyio.to_thread

from dszig_py import prompts, routing
from dszig_py.environments.base import Binding, Session
from dszig_py.errors import LMError
from dszig_py.lm.base import LM
from dszig_py.policy import Policy, View
from dszig_py.strategy import Strategy
from dszig_py.trajectory import Compaction, Iteration
from dszig_py.usage import CHARS_PER_TOKEN, Exhausted

__all__ = ["History"]

KEPT = 1  # newest iterations that stay as they are: the next decision answers them
ASSUMED_WINDOW = 128_000  # tokens, of a model that nobody knows


class History:
    """The history of one run as its prompts show it."""

    def __init__(self, strategy: Strategy, lm: LM) -> None:
        self.summary = ""
        self._first = 0  # number of iterations the summary stands for
        self._compact_at, self._lm = strategy.compact_at, lm
        self._limit: int | None = None

    def recent(self, iterations: Sequence[Iteration]) -> tuple[Iteration, ...]:
        """Those shown one by one. A direct call is none of the model's decisions."""
        return tuple(i for i in iterations[self._first :] if i.index)

    async def compacted(
        self, iterations: Sequence[Iteration], view: Callable[[], View], policy: Policy, session: Session
    ) -> Compaction | None:
        """Summarize all but the newest iterations where they have grown past the limit.

        A model that fails here costs the run nothing more: the history is then cut as it is without compaction.
        Raises nothing but what cancels the run.
        """
        if self._compact_at is None or len(iterations) - self._first <= KEPT:
            return None
        chars = sum(len(i.action.code) + len(i.action.reasoning) + len(i.observation) for i in self.recent(iterations))
        if chars <= await self._limit_chars():
            return None
        now = view()
        started, before = time.monotonic(), now.ledger.usage
        try:
            summary = await policy.summarize(now)
        except (Exhausted, LMError):
            return None
        if not summary.strip():
            return None
        folded = iterations[: len(iterations) - KEPT]
        variable = await _bound(session, folded, {v.name for v in now.contract.variables})
        self.summary = prompts.compacted(summary, len(folded), variable)
        self._first = len(folded)
        usage = now.ledger.usage.since(before)
        return Compaction(len(folded), summary, variable, chars, usage, time.monotonic() - started)

    async def _limit_chars(self) -> float:
        if self._limit is None:
            at = self._compact_at
            assert at is not None
            if at < 1:
                # In a thread: a model's window may be known only after its library is loaded, which takes seconds.
                window = await anyio.to_thread.run_sync(routing.window_tokens, self._lm)
                at = at * (window or ASSUMED_WINDOW) * CHARS_PER_TOKEN
            self._limit = int(at)
        return self._limit


async def _bound(session: Session, folded: Sequence[Iteration], taken: set[str]) -> str:
    """The name of the REPL's variable that holds what the summary replaces; "" where it could not be bound."""
    name = prompts.EARLIER_VARIABLE
    while name in taken:
        name += "_"
    rows = [
        {"iteration": i.index, "reasoning": i.action.reasoning, "code": i.action.code, "observation": i.observation}
        for i in folded
    ]
    if isinstance(session, Binding):
        return name if session.bind(name, rows) else ""
    done = await session.execute(f"{name} = __import__('json').loads({json.dumps(rows)!r})")
    return "" if done.error or done.lost else name
