"""The loop: compile, open, decide, execute, observe, record; extract when a limit ends it; close in every case."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import anyio

from dszig_py import collector, files, images, prompts, routing
from dszig_py.compaction import History
from dszig_py.contract import Contract, compile_contract
from dszig_py.environments.base import CallRefused, CellLimits, Environment, Execution, Session
from dszig_py.errors import InputError, LMError
from dszig_py.events import Event, TokensArrived
from dszig_py.host import RunHost
from dszig_py.language import language_of
from dszig_py.lm.base import LM, price_known
from dszig_py.lm.gate import Gate, OnText
from dszig_py.outputs import DEFAULT_FOLDER, Outbox
from dszig_py.policy import Policy, View
from dszig_py.preamble import Brought, Preamble, standard, written_in
from dszig_py.recording import Decision, Recording, joined
from dszig_py.signature import Signature
from dszig_py.skills import Skill
from dszig_py.strategy import Strategy
from dszig_py.tools import Tool
from dszig_py.trajectory import Action, Prediction
from dszig_py.usage import Budget, Exhausted, Ledger

__all__ = ["Plan", "Preamble", "Shared", "run"]


@dataclass(frozen=True)
class Plan:
    """Everything a run needs but its inputs: compiled once, shared by all runs of an RLM.

    ``lms`` and ``sub_lms`` are by depth, the last one serving all deeper levels. ``policy`` makes the policy of one run
    from its model and gate. ``stream_tokens``: the root's replies are told as they come. ``output_dir``: where outputs that
    are files go.
    """

    signature: Signature
    lms: Sequence[LM]
    sub_lms: Sequence[LM]
    named_lms: Mapping[str, LM]
    environment: Environment
    budget: Budget
    strategy: Strategy
    policy: Callable[[Plan, LM, Gate], Policy]
    tools: Mapping[str, Tool] = field(default_factory=dict[str, Tool])
    child_tools: frozenset[str] = frozenset()
    check: Callable[[dict[str, Any]], str | None] | None = None
    max_output_chars: int = 10_000
    preamble: Callable[[Ledger], Preamble] | None = None
    images: Mapping[str, str] = field(default_factory=dict[str, str])
    stream_tokens: bool = False
    skills: Sequence[Skill] = ()
    output_dir: str | None = None

    def lm(self, depth: int) -> LM:
        """The model that decides at ``depth``: the root on ``lm``, children on ``sub_lm``."""
        return self.lms[0] if depth == 0 else _at(self.sub_lms, depth - 1)

    def sub_lm(self, depth: int) -> LM:
        """The model that sub-calls of a run at ``depth`` go to."""
        return _at(self.sub_lms, depth)


def _at(lms: Sequence[LM], depth: int) -> LM:
    return lms[min(depth, len(lms) - 1)]


@dataclass(frozen=True)
class Shared:
    """What runs side by side have together: an account besides their own, and one gate. Of one event loop."""

    ledger: Ledger
    gate: Gate


async def run(
    plan: Plan, inputs: Mapping[str, Any], publish: Callable[[Event], None], shared: Shared | None = None
) -> Prediction:
    """One run from inputs to prediction.

    Raises InputError before any model call; LMError, EnvironmentFailure and whatever cancels it, with ``.prediction``.
    """
    if plan.budget.max_cost is not None or (shared is not None and shared.ledger.budget.max_cost is not None):
        await _check_prices(plan)
    ledger = Ledger(plan.budget, within=None if shared is None else shared.ledger)
    gate = Gate(plan.budget.max_concurrency) if shared is None else shared.gate
    with collector.runs:
        return await _Run(plan, inputs, ledger, gate, publish).go()


async def _check_prices(plan: Plan) -> None:
    """A cost limit needs prices: without them it would be a limit that never bites."""
    for lm in (*plan.lms, *plan.sub_lms, *plan.named_lms.values()):
        if plan.budget.price(lm.model) is None and not await price_known(lm):
            raise InputError(
                f"max_cost is set, but nobody knows what {lm.model!r} costs; give "
                f"Budget(prices={{{lm.model!r}: (dollars per million input tokens, per million output tokens)}})"
            )


class _Run:
    """One run under way: its host, contract and policy, and the recording of what they come to."""

    def __init__(
        self,
        plan: Plan,
        inputs: Mapping[str, Any],
        ledger: Ledger,
        gate: Gate,
        publish: Callable[[Event], None],
        parent: str = "",
    ) -> None:
        self.plan, self.inputs, self.ledger, self.gate, self.publish = plan, inputs, ledger, gate, publish
        self.record = Recording(plan, ledger, publish, parent)
        self.lm = plan.lm(ledger.depth)
        self.history = History(plan.strategy, self.lm)
        self.errors = 0
        sub_lm = plan.sub_lm(ledger.depth)
        allowed = plan.strategy.sub_calls
        own = [plan.preamble(ledger)] if plan.preamble is not None else []
        brought = [*standard(plan.strategy, plan.signature, plan.skills), *own]
        self.brought = Brought(written_in(language_of(plan.environment), brought))
        tools = {**plan.tools, **self.brought.tools}
        self.host = RunHost(
            self.record.id, ledger, gate, sub_lm, plan.named_lms, tools, publish, self._spawn, allowed, plan.images
        )
        self.host.max_query_chars = plan.strategy.max_query_chars

    async def _prepare(self) -> None:
        """Bind the inputs. A folder is looked through for that, which may take seconds, and pages are drawn: not on the
        event loop's time.
        """
        types = {f.name: f.type for f in self.plan.signature.inputs}
        slow = files.any_to_open(types, self.inputs) or any(map(images.asked_for, types.values()))
        self.contract = await asyncio.to_thread(self._compile) if slow else self._compile()
        self.record.contract = self.host.contract = self.contract
        self.host.outbox = Outbox(self.plan.output_dir or DEFAULT_FOLDER) if self.contract.writes else None
        self.policy = self.plan.policy(self.plan, self.lm, self.gate)

    def _compile(self) -> Contract:  # 1
        return compile_contract(
            self.plan.signature,
            self.inputs,
            callables=[*(c for c in self.host.callables() if c[0] not in self.brought.tools), *self.brought.callables],
            show=self.plan.strategy.show,
            notes=[*prompts.contract_notes(list(self.plan.named_lms), self.plan.signature), *self.brought.notes],
            check=self.plan.check,
            language=language_of(self.plan.environment),
        )

    async def go(self) -> Prediction:
        """The whole run; see the module's first line for its phases."""
        await self._prepare()
        session: Session | None = None
        try:
            if self.plan.strategy.route is not None and await self._routed(self.plan.strategy.route):
                return self.record.finished()
            limits = CellLimits(output_chars=self.plan.max_output_chars)
            session = await self.plan.environment.open(self.contract, self.host, limits)  # 2
            self.record.isolation = str(session.isolation)
            if self.host.outbox is not None:
                self.host.outbox.attach(session, self.contract.writes[0], self.plan.environment.name)
            await self.brought.into(session)
            self.record.begin()
            if not await _in_time(self.ledger.soft_deadline, self._loop(session)):
                self._out_of_time()
            if self.record.ended is not None and self.record.ended.cause == "budget":
                await self._extract()
            self.record.variables = await session.variables()
        except BaseException as error:
            self.record.failed(error)
            raise
        finally:
            if session is not None:
                with anyio.CancelScope(shield=True):
                    await session.close()  # 8
            if self.host.outbox is not None:
                self.host.outbox.settle(self.record.outputs)
            # Each knows the other: left so, the inputs stay in memory until a garbage collection.
            self.host.spawn, self.host.contract = _over, None
        return self.record.finished()

    async def _spawn(self, signature: Signature, inputs: Mapping[str, Any], call: str) -> Prediction:
        """A child run: its own contract, session and iterations; this tree's ledger and gate."""
        show = tuple(f.name for f in signature.inputs) if signature.inputs == prompts.CHILD_OF_PROMPT.inputs else ()
        strategy = self.plan.strategy.model_copy(update={"show": show, "route": None})
        tools = {name: tool for name, tool in self.plan.tools.items() if name in self.plan.child_tools}
        plan = replace(self.plan, signature=signature, strategy=strategy, tools=tools, check=None)
        return await _Run(plan, inputs, self.ledger.child(), self.gate, self.publish, call).go()

    async def _routed(self, asked: str) -> bool:
        """Whether the run has ended by one typed call, without the loop."""
        route = await routing.choose(asked, self.lm, self.contract, tools=bool(self.plan.tools))
        self.record.route = str(route)
        if not route.direct:
            return False
        self.record.begin()
        if not await _in_time(self.ledger.deadline, self._direct(asked, route)):
            self._out_of_time()
        return self.record.ended is not None

    async def _direct(self, asked: str, route: routing.Route) -> None:
        problem = await self._called()
        if problem and asked == "auto":
            self.record.route = f"loop: {route.reason}, but the direct call failed: {problem}"
        elif problem:
            self.record.end("error", "model", problem)

    async def _called(self) -> str:
        """The typed call, recorded as iteration 0; what was wrong with it, if anything."""
        execution = Execution()
        decision = Decision(0, self.ledger.usage)
        self.record.decided(decision, Action(f"One typed call, without the loop. {self.record.route}"))
        try:
            self.record.outputs = await routing.answer(self.host, self.lm, self.contract)
            execution = Execution(submission=self.record.outputs)
            self.record.end("submitted", "model", "")
        except routing.Unanswered as failure:
            execution = Execution(error=str(failure))
        except Exhausted as limit:
            self.record.end(limit.limit, "budget", str(limit))
        finally:
            self.record.observed(decision, execution, self.host.calls.take())
        return execution.error

    async def _loop(self, session: Session) -> None:
        last = False
        while self.record.ended is None:
            try:
                index = self.ledger.begin_iteration()
                compaction = await self.history.compacted(self.record.iterations, self._view, self.policy, session)
                decision = self.record.deciding(index, compaction)
                action = await self.policy.decide(self._view(self._heard(index)))  # 3
            except Exhausted as limit:
                self.record.end(limit.limit, "budget", str(limit))
                return
            self.record.decided(decision, action)
            self.host.calls.budget_changed()
            execution = await self._acted(session, decision)  # 4
            self.record.observed(decision, execution, self.host.calls.take())  # 5, 6
            last = self._judge(execution, last)  # 7

    def _heard(self, index: int) -> OnText | None:
        """What publishes the pieces of a decision as they come; the root's alone, where somebody asked for them."""
        if self.ledger.depth or not self.plan.stream_tokens:
            return None
        return lambda text, attempt: self.publish(TokensArrived(self.record.id, 0, index, text, attempt))

    async def _acted(self, session: Session, decision: Decision) -> Execution:
        """What the action came to; where that is stopped, the iteration is recorded as far as it was paid for."""
        try:
            return await self._execute(session, decision.action)
        except BaseException as error:
            if not isinstance(error, Exception):
                with anyio.CancelScope(shield=True):
                    await self.host.calls.settled()
            if self.host.calls:
                seconds = time.monotonic() - decision.decided
                stopped = Execution(error=f"stopped while it ran: {error!r}", seconds=seconds)
                self.record.observed(decision, stopped, self.host.calls.take())
            raise

    def _judge(self, execution: Execution, last: bool) -> bool:
        """Whether the next decision is the last one, a limit having refused a call; ends the run where this was."""
        if execution.submission is not None:
            self.record.outputs = execution.submission
            self.record.end("submitted", "model", "")
            return False
        refused = self.ledger.refused
        if last and refused is not None:
            told = f"{refused} was reached and the model did not SUBMIT in its last iteration"
            self.record.end(refused, "budget", told)
        failed = bool(execution.error or execution.lost or not self.record.iterations[-1].action.cells)
        self.errors = self.errors + 1 if failed else 0
        most = self.plan.budget.max_errors
        if self.record.ended is None and most is not None and self.errors >= most:
            self.record.end("error", "model", f"{self.errors} iterations in a row failed")
        return refused is not None

    async def _execute(self, session: Session, action: Action) -> Execution:
        """The action's cells in order, until one submits or fails."""
        done: list[Execution] = []
        for cell in action.cells:
            await self.brought.before(cell, session)
            if self.host.outbox is not None:
                self.host.outbox.reopen()
            done.append(await session.execute(cell))
            if done[-1].lost:
                await self.brought.into(session)
            if done[-1].submission is not None:
                break
            if done[-1].error or done[-1].lost:
                if len(done) < len(action.cells):
                    skipped = f"\n[block {len(done)} of {len(action.cells)} failed; the later blocks were not run]"
                    done[-1] = replace(done[-1], error=f"{done[-1].error}{skipped}".lstrip("\n"))
                break
        return joined(done, self.plan.max_output_chars)

    async def _extract(self) -> None:
        """One reserved call reads the history and fills the outputs; a field it cannot fill is None."""
        started, before = time.monotonic(), self.ledger.usage
        error = "no time was left"
        raw: dict[str, Any] = {}

        async def ask() -> None:
            nonlocal error, raw
            try:
                raw, error = await self.policy.extract(self._view()), ""
            except (Exhausted, LMError) as failure:
                error = str(failure)

        await _in_time(self.ledger.deadline, ask())
        self.record.outputs, problem = await self.host.extracted(raw)
        error = error or problem
        self.host.calls.budget_changed()
        self.record.extracted(raw, error, self.ledger.usage.since(before), time.monotonic() - started)

    def _view(self, on_text: OnText | None = None) -> View:
        left = self.ledger.remaining()
        if left.iters is not None:  # the one being decided is still the model's to use
            left = replace(left, iters=left.iters + 1)
        told = prompts.remaining(left, refused=self.ledger.refused or "")
        recent, summary = self.history.recent(self.record.iterations), self.history.summary
        return View(self.contract, recent, told, self.ledger, summary, on_text)

    def _out_of_time(self) -> None:
        seconds = self.plan.budget.max_seconds
        self.record.end(
            "max_seconds", "budget", "the time is used" if seconds is None else f"the {seconds:g} s are used"
        )


async def _in_time(deadline: float | None, work: Coroutine[Any, Any, None]) -> bool:
    """Whether ``work`` came to its end before ``deadline``; what was left of it then is cancelled."""
    if deadline is None:
        await work
        return True
    with anyio.move_on_after(max(0.0, deadline - time.monotonic())) as scope:
        await work
    return not scope.cancelled_caught


async def _over(*_: Any) -> Prediction:
    raise CallRefused("the run is over")
