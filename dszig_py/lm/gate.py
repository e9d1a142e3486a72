"""The one way to a model: reserve in the ledger, wait for a slot of the tree, ask, retry where it helps, settle.

One gate a recursion tree. A parent that waits for children holds no slot (slots are held around the request itself), so
nested batches cannot deadlock. A rate limit met by one caller slows the whole tree, not that caller alone.
"""

from __future__ import annotations

import functools
import random
import time
from collections.abc import Callable
from contextlib import nullcontext
from contextvars import ContextVar
from dataclasses import replace

import anyio

from dszig_py.errors import LMError
from dszig_py.lm import limiter
from dszig_py.lm.base import LM, Reply, Request, answered, recalled
from dszig_py.usage import Ledger, Usage

__all__ = ["Gate", "OnText"]

# A piece of a reply as it comes, and the attempt (from 1) it is of: a request that fails half-way is made again.
OnText = Callable[[str, int], None]

MAX_ATTEMPTS = 5
FIRST_BACKOFF = 0.5  # seconds; doubles with each attempt, jittered by half
MAX_BACKOFF = 30.0
MAX_RETRY_AFTER = 120.0  # a provider that asks for more is tried again after this, and the run's own limits hold
ASSUMED_OUTPUT = 1_000  # tokens reserved for a reply of unknown length before any was seen

# A model may be a function that runs an RLM. It has a slot of the process already: waiting for others, all of them held by
# such models, it would wait for ever.
_asking: ContextVar[bool] = ContextVar("dszig-asking", default=False)


class Gate:
    """Concurrency, retries and accounting of one tree's model calls. Lives in one event loop."""

    def __init__(self, max_concurrency: int, *, on_wait: Callable[[float], None] | None = None) -> None:
        self._slots = limiter.Limiter(max_concurrency)
        self._most_slots = max_concurrency
        self._resume_at = self._narrowed_at = 0.0
        self._most: dict[str, tuple[int, float]] = {}
        self._on_wait = on_wait

    async def ask(
        self,
        lm: LM,
        request: Request,
        ledger: Ledger,
        *,
        inner: bool,
        final: bool = False,
        on_text: OnText | None = None,
    ) -> Reply:
        """One reply, paid for. Raises :class:`~dszig_py.usage.Exhausted` before anything is spent, :class:`LMError`."""
        tokens, cost = self._worst_case(lm, request, ledger)
        if not ledger.allows(inner=inner, tokens=tokens, cost=cost, final=final):
            remembered = await recalled(lm, request)  # what costs nothing is not refused
            if remembered is not None:
                return remembered
        reservation = ledger.reserve(inner=inner, tokens=tokens, cost=cost, final=final)
        try:
            reply = await self._attempts(lm, request, on_text)
        except BaseException:
            ledger.refund(reservation)
            raise
        if reply.cached:
            ledger.refund(reservation)
        else:
            reply = self._priced(reply, lm, ledger)
            self._remember(lm, reply.usage)
            ledger.settle(reservation, reply.usage, reply.model or lm.model)
        return reply

    def _priced(self, reply: Reply, lm: LM, ledger: Ledger) -> Reply:
        """The user's own price counts before whatever the provider or a price list says."""
        price = ledger.budget.price(lm.model)
        if price is None:
            return reply
        usage = reply.usage
        cost = usage.input_tokens * price[0] + usage.output_tokens * price[1]
        return replace(reply, usage=replace(usage, cost=cost))

    def _worst_case(self, lm: LM, request: Request, ledger: Ledger) -> tuple[int, float]:
        """Tokens and dollars this call may take: what limits it, else the most a call to this model took so far."""
        seen_out, seen_cost = self._most.get(lm.model, (ASSUMED_OUTPUT, 0.0))
        limit: int | None = request.max_tokens or getattr(lm, "max_tokens", None)
        tokens_in, tokens_out = request.tokens, limit or seen_out
        price = ledger.budget.price(lm.model) or getattr(lm, "price", None)
        cost = seen_cost if price is None else tokens_in * price[0] + tokens_out * price[1]
        return tokens_in + tokens_out, cost

    def _remember(self, lm: LM, usage: Usage) -> None:
        tokens_out, cost = self._most.get(lm.model, (0, 0.0))
        self._most[lm.model] = (max(tokens_out, usage.output_tokens), max(cost, usage.cost or 0.0))

    async def _attempts(self, lm: LM, request: Request, on_text: OnText | None) -> Reply:
        for attempt in range(1, MAX_ATTEMPTS + 1):
            try:
                async with self._slots, nullcontext() if _asking.get() else limiter.process:
                    # Inside the slot: a rate limit met while this call waited for its slot holds it back as well.
                    await self._wait()
                    reply = await self._once(lm, request, on_text, attempt)
                if self._slots.total < self._most_slots:
                    self._slots.resize(self._slots.total + 1)
                return reply
            except LMError as error:
                if not error.retryable or attempt == MAX_ATTEMPTS:
                    raise
                self._back_off(attempt, error.retry_after)
        raise AssertionError("unreachable")

    async def _once(self, lm: LM, request: Request, on_text: OnText | None, attempt: int) -> Reply:
        begun, outer = time.monotonic(), _asking.get()
        _asking.set(True)
        try:
            if on_text is None:
                return await lm.complete(request)
            return await answered(lm, request, functools.partial(_told, on_text, attempt))
        except LMError as error:
            if error.retryable:
                self._narrow(begun)
            raise
        finally:
            _asking.set(outer)

    async def _wait(self) -> None:
        while (left := self._resume_at - time.monotonic()) > 0:
            if self._on_wait is not None:
                self._on_wait(left)
            await anyio.sleep(left)

    def _narrow(self, begun: float) -> None:
        """Halve the slots, once for all who were under way together; each reply that comes gives one back.

        As TCP does. After a wait alone all would ask at once again, and most would be refused again until they give up:
        a third of a batch of 200, with a provider that takes 20 a second.
        """
        if begun >= self._narrowed_at:
            self._narrowed_at = time.monotonic()
            self._slots.resize(max(1, self._slots.held // 2))

    def _back_off(self, attempt: int, retry_after: float | None) -> None:
        pause = min(MAX_BACKOFF, FIRST_BACKOFF * 2 ** (attempt - 1)) * random.uniform(0.5, 1.0)
        self._resume_at = max(
            self._resume_at, time.monotonic() + (pause if retry_after is None else min(retry_after, MAX_RETRY_AFTER))
        )


def _told(on_text: OnText, attempt: int, text: str) -> None:
    on_text(text, attempt)
