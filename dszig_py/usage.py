"""What a run may spend (:class:`Budget`), what it spent (:class:`Usage`), and the account between (:class:`Ledger`).

Prior art: pydantic-ai's UsageLimits (limits are data, checking is separate from counting), inspect_ai's tree of limits,
dspy.RLM's reserve-before-call. Rejected: checking after the call (alexzhang13/rlm), which lets a batch overspend by its
whole width, and one counter a run, which forgets the children.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["Budget", "Exhausted", "Ledger", "Remaining", "Reservation", "Usage"]

Price = Annotated[float, Field(ge=0, allow_inf_nan=False)]

CHARS_PER_TOKEN = 4  # the usual rule of thumb for English text, used only where a provider reports no tokens


class Budget(BaseModel):
    """Limits of one whole recursion tree; ``None`` = not limited.

    ``max_iters``: decisions of one run (a child has its own count). ``max_llm_calls``: model calls made from inside
    code, children's decisions included. ``max_tokens``: input + output tokens of every model call. ``max_cost``:
    dollars. ``max_seconds``: wall time; 10 % (at most 30 s) is kept back for extraction. ``max_depth``: levels of child
    runs below the root. ``max_concurrency``: model calls in flight in the tree. ``max_errors``: iterations in a row
    that failed. ``prices``: model -> (dollars per million input tokens, per million output tokens), counted first.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    max_iters: int | None = Field(default=20, ge=1)
    max_llm_calls: int | None = Field(default=50, ge=0)
    max_tokens: int | None = Field(default=None, ge=1)
    max_cost: float | None = Field(default=None, ge=0)
    max_seconds: float | None = Field(default=None, gt=0)
    max_depth: int = Field(default=1, ge=0)
    max_concurrency: int = Field(default=64, ge=1)
    max_errors: int | None = Field(default=None, ge=1)
    prices: Mapping[str, tuple[Price, Price]] = Field(default_factory=dict[str, tuple[float, float]])

    def price(self, model: str) -> tuple[float, float] | None:
        """Dollars per input and output token, where the user gave a price for ``model``."""
        given = self.prices.get(model)
        return None if given is None else (given[0] / 1e6, given[1] / 1e6)


@dataclass(frozen=True, slots=True)
class Usage:
    """What was spent; adds with ``+``.

    ``calls`` counts every model call. ``cost`` is dollars, ``None`` as soon as one call's cost is unknown. ``seconds``
    is the sum of the calls' wall times. ``estimated``: some token counts were estimated from characters, because the
    model does not report them. ``by_model`` and ``by_depth`` split the same total.
    """

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float | None = 0.0
    seconds: float = 0.0
    estimated: bool = False
    by_model: Mapping[str, Usage] = field(default_factory=dict[str, "Usage"])
    by_depth: Mapping[int, Usage] = field(default_factory=dict[int, "Usage"])

    @property
    def tokens(self) -> int:
        """Input and output tokens together."""
        return self.input_tokens + self.output_tokens

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            calls=self.calls + other.calls,
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            cost=None if self.cost is None or other.cost is None else self.cost + other.cost,
            seconds=self.seconds + other.seconds,
            estimated=self.estimated or other.estimated,
            by_model=_merged(self.by_model, other.by_model),
            by_depth=_merged(self.by_depth, other.by_depth),
        )

    def since(self, earlier: Usage) -> Usage:
        """What was spent after ``earlier``, in all; the splits are left out."""
        unknown = self.cost is None or earlier.cost is None
        return Usage(
            self.calls - earlier.calls,
            self.input_tokens - earlier.input_tokens,
            self.output_tokens - earlier.output_tokens,
            None if unknown else (self.cost or 0.0) - (earlier.cost or 0.0),
            self.seconds - earlier.seconds,
            self.estimated,
        )

    def at(self, model: str, depth: int) -> Usage:
        """This usage of one call, filed under its model and depth."""
        # Not dataclasses.replace, which takes 1.7 times as long: this is on the way of every call.
        told = self.calls, self.input_tokens, self.output_tokens, self.cost, self.seconds, self.estimated
        plain = Usage(*told)
        return Usage(*told, by_model={model: plain}, by_depth={depth: plain})

    def __str__(self) -> str:
        about = "about " if self.estimated else ""
        cost = "cost unknown" if self.cost is None else f"${self.cost:.4f}"
        return (
            f"{self.calls} call{'s' * (self.calls != 1)}, {about}{self.input_tokens:,} + {self.output_tokens:,} tokens, {cost}, "
            f"{self.seconds:.1f} s of model time"
        )


K = TypeVar("K", str, int)


def _merged(one: Mapping[K, Usage], two: Mapping[K, Usage]) -> dict[K, Usage]:
    merged = dict(one)
    for key, usage in two.items():
        merged[key] = merged[key] + usage if key in merged else usage
    return merged


@dataclass(frozen=True, slots=True)
class Remaining:
    """What a budget still allows one run; ``None`` = not limited. ``*_share`` is the part left, 0..1."""

    iters: int | None
    llm_calls: int | None
    tokens: int | None
    cost: float | None
    seconds: float | None
    depth: int
    tokens_share: float = 1.0
    cost_share: float = 1.0
    seconds_share: float = 1.0


class Exhausted(Exception):
    """A limit refuses what was asked. ``limit`` is its name. The runner turns it into a termination."""

    def __init__(self, limit: str, message: str) -> None:
        super().__init__(message)
        self.limit = limit


@dataclass(slots=True, eq=False)
class Reservation:
    """Calls, tokens and dollars held for one model call until it is settled or refunded, once."""

    calls: int = 0
    tokens: int = 0
    cost: float = 0.0
    open: bool = True
    within: Reservation | None = None


class _Account:
    """The tree's shared totals. One lock for all of it: every operation is a handful of additions."""

    def __init__(self, budget: Budget, clock: Callable[[], float], within: Ledger | None = None) -> None:
        self.within = within
        self.lock = threading.Lock()
        self.clock = clock
        self.started = clock()
        self.calls = 0  # inner calls, reserved or made
        self.tokens = 0  # reserved or spent
        self.cost = 0.0
        self.budget = budget
        self.refused: str | None = None


class Ledger:
    """The account of one run in a recursion tree: reserve before spending, settle after, refund what failed.

    Limits are the tree's and are checked at the root; usage is summed in every ledger up to the root, so a parent's
    usage includes its children's. Thread-safe and free of any event loop. Tokens and dollars are reserved at their worst
    case as far as the caller knows it; a tenth of either is kept for the closing extraction (``final=True``), of which
    children's may take half. ``within``: the account of several trees together, whose limits hold as well.
    """

    KEEP = 0.1
    KEEP_SECONDS = 30.0

    def __init__(
        self,
        budget: Budget,
        *,
        parent: Ledger | None = None,
        within: Ledger | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.budget = budget
        self.parent = parent
        self.depth = 0 if parent is None else parent.depth + 1
        self._account = _Account(budget, clock, within) if parent is None else parent._account
        self._usage = Usage()
        self._iters = 0

    def child(self) -> Ledger:
        """The ledger of a child run: its own iterations, everything else charged here as well."""
        return Ledger(self.budget, parent=self)

    @property
    def usage(self) -> Usage:
        """Spent by this run and its children."""
        return self._usage

    @property
    def iters(self) -> int:
        """Decisions of this run so far."""
        return self._iters

    @property
    def refused(self) -> str | None:
        """The limit that refused a call from inside code anywhere in the tree, or ``None``."""
        return self._account.refused

    @property
    def deadline(self) -> float | None:
        """When the tree's seconds are over, on the ledger's clock (``time.monotonic``)."""
        own = None if self.budget.max_seconds is None else self._account.started + self.budget.max_seconds
        return _least(own, self._account.within and self._account.within.deadline)

    @property
    def soft_deadline(self) -> float | None:
        """When work stops so that extraction still has its share of the seconds."""
        seconds = self.budget.max_seconds
        own = None if seconds is None else self._account.started + seconds - min(self.KEEP * seconds, self.KEEP_SECONDS)
        return _least(own, self._account.within and self._account.within.soft_deadline)

    @property
    def over(self) -> str | None:
        """The limit that leaves nothing for another run, or ``None``."""
        left = self.remaining()
        spent = {"max_tokens": left.tokens_share, "max_cost": left.cost_share}
        found = [name for name, share in spent.items() if getattr(self.budget, name) is not None and share <= self.KEEP]
        found += ["max_llm_calls"] * (left.llm_calls == 0 and self.budget.max_llm_calls != 0)
        soon = self.soft_deadline
        return next(iter([*found, *["max_seconds"] * (soon is not None and self._account.clock() >= soon)]), None)

    @property
    def seconds(self) -> float:
        """Wall seconds since the root began."""
        return self._account.clock() - self._account.started

    def begin_iteration(self) -> int:
        """Count one decision of this run; its number from 1. Raises :class:`Exhausted`."""
        limit = self.budget.max_iters
        if limit is not None and self._iters >= limit:
            raise Exhausted("max_iters", f"all {limit} iterations are used")
        self._iters += 1
        return self._iters

    def reserve(self, *, inner: bool, tokens: int = 0, cost: float = 0.0, final: bool = False) -> Reservation:
        """Hold one call, ``tokens`` and ``cost`` (dollars). ``inner``: the call comes from inside code.

        Raises :class:`Exhausted` where a limit would be passed; then nothing is held.
        """
        account = self._account
        held = None
        if account.within is not None:
            held = self._held_within(account.within, inner=inner, tokens=tokens, cost=cost, final=final)
        with account.lock:
            refusal = self._refusal(inner, tokens, cost, final)
            if refusal is not None:
                if inner and account.refused is None:
                    account.refused = refusal.limit
                if held is not None and account.within is not None:
                    account.within.refund(held)
                raise refusal
            account.calls += inner
            account.tokens += tokens
            account.cost += cost
        return Reservation(calls=int(inner), tokens=tokens, cost=cost, within=held)

    def allows(self, *, inner: bool, tokens: int = 0, cost: float = 0.0, final: bool = False) -> bool:
        """Whether :meth:`reserve` would hold that now."""
        within = self._account.within
        if within is not None and not within.allows(inner=inner, tokens=tokens, cost=cost, final=final):
            return False
        with self._account.lock:
            return self._refusal(inner, tokens, cost, final) is None

    def _refusal(self, inner: bool, tokens: int, cost: float, final: bool) -> Exhausted | None:
        """The limit that this would pass, if any. The lock is held."""
        account, budget = self._account, self.budget
        # A child's closing call takes of what is kept for all of them: half, or the root's own would find nothing left.
        share = 1.0 if final and not self.depth else 1.0 - self.KEEP / (2 if final else 1)
        if inner and budget.max_llm_calls is not None and account.calls + 1 > budget.max_llm_calls:
            told = f"LLM call limit exceeded: all {budget.max_llm_calls} calls of this run are used"
            return Exhausted("max_llm_calls", told)
        if budget.max_tokens is not None and account.tokens + tokens > budget.max_tokens * share:
            told = f"token limit exceeded: {account.tokens:,} of {budget.max_tokens:,} tokens are used"
            return Exhausted("max_tokens", told)
        if budget.max_cost is not None and account.cost + cost > budget.max_cost * share:
            told = f"cost limit exceeded: ${account.cost:.4f} of ${budget.max_cost:.4f} are spent"
            return Exhausted("max_cost", told)
        return None

    def _held_within(self, within: Ledger, **what: Any) -> Reservation:
        """The same held in the account around this one; a refusal there is one of this tree as well."""
        try:
            return within.reserve(**what)
        except Exhausted as limit:
            if what["inner"]:
                with self._account.lock:
                    self._account.refused = self._account.refused or limit.limit
            raise

    def settle(self, reservation: Reservation, usage: Usage, model: str) -> None:
        """Replace what was held by what the call really took; file it here and in every parent."""
        account = self._account
        filed = usage.at(model, self.depth)
        if reservation.within is not None and account.within is not None:
            account.within.settle(reservation.within, usage, model)
        with account.lock:
            if not reservation.open:
                return
            reservation.open = False
            account.tokens += usage.tokens - reservation.tokens
            account.cost += (reservation.cost if usage.cost is None else usage.cost) - reservation.cost
            ledger: Ledger | None = self
            while ledger is not None:
                ledger._usage = ledger._usage + filed
                ledger = ledger.parent

    def refund(self, reservation: Reservation) -> None:
        """Give back what was held: the call failed or was never made."""
        account = self._account
        if reservation.within is not None and account.within is not None:
            account.within.refund(reservation.within)
        with account.lock:
            if not reservation.open:
                return
            reservation.open = False
            account.calls -= reservation.calls
            account.tokens -= reservation.tokens
            account.cost -= reservation.cost

    def remaining(self) -> Remaining:
        """What is left for this run, now: of its tree's limits, and of those around several trees."""
        own, within = self._remaining(), self._account.within
        if within is None:
            return own
        around = within.remaining()
        return replace(
            own,
            llm_calls=_least(own.llm_calls, around.llm_calls),
            tokens=_least(own.tokens, around.tokens),
            cost=_least(own.cost, around.cost),
            seconds=_least(own.seconds, around.seconds),
            tokens_share=min(own.tokens_share, around.tokens_share),
            cost_share=min(own.cost_share, around.cost_share),
            seconds_share=min(own.seconds_share, around.seconds_share),
        )

    def _remaining(self) -> Remaining:
        account, budget = self._account, self.budget
        with account.lock:
            calls, tokens, cost = account.calls, account.tokens, account.cost
        seconds = None if budget.max_seconds is None else max(0.0, budget.max_seconds - self.seconds)
        return Remaining(
            iters=None if budget.max_iters is None else budget.max_iters - self._iters,
            llm_calls=None if budget.max_llm_calls is None else max(0, budget.max_llm_calls - calls),
            tokens=None if budget.max_tokens is None else max(0, budget.max_tokens - tokens),
            cost=None if budget.max_cost is None else max(0.0, budget.max_cost - cost),
            seconds=seconds,
            depth=max(0, budget.max_depth - self.depth),
            tokens_share=1.0 if budget.max_tokens is None else max(0.0, 1 - tokens / budget.max_tokens),
            cost_share=1.0 if not budget.max_cost else max(0.0, 1 - cost / budget.max_cost),
            seconds_share=1.0 if budget.max_seconds is None or seconds is None else seconds / budget.max_seconds,
        )


N = TypeVar("N", int, float)


def _least(one: N | None, two: N | None) -> N | None:
    """The lower of two limits, the earlier of two moments; ``None`` = not limited, never."""
    return min((limit for limit in (one, two) if limit is not None), default=None)
