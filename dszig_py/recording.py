"""What has been recorded of one run: kept apart from the loop, so that it can be told at any moment, however a run ends."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from dszig_py import prompts
from dszig_py.contract import Contract
from dszig_py.environments._worker import codec
from dszig_py.environments.base import Execution
from dszig_py.errors import DszigError, EnvironmentFailure, LMError
from dszig_py.events import ActionChosen, Event, IterationFinished, IterationStarted, RunFinished, RunStarted, nobody
from dszig_py.text import truncate
from dszig_py.trajectory import (
    Action,
    Compaction,
    Extraction,
    Input,
    Iteration,
    Prediction,
    SubCall,
    Termination,
    Trajectory,
)
from dszig_py.usage import Ledger, Usage

if TYPE_CHECKING:
    from dszig_py.runner import Plan

__all__ = ["Decision", "Recording", "joined"]


class Decision:
    """An iteration under way: what it began with, and what it has cost so far."""

    def __init__(self, index: int, usage: Usage, compaction: Compaction | None = None) -> None:
        self.index, self.before, self.compaction = index, usage, compaction
        self.started = self.decided = time.monotonic()
        self.action = Action()
        self.spent = Usage()


class Recording:
    """One run's record. ``publish`` takes events and never raises; ``parent`` is the sub-call that a child answers."""

    def __init__(self, plan: Plan, ledger: Ledger, publish: Callable[[Event], None], parent: str) -> None:
        self.plan, self.ledger, self.publish, self.parent = plan, ledger, publish, parent
        self.id = uuid.uuid4().hex[:12]
        self.begun, self.started = time.time(), time.monotonic()
        self.iterations: list[Iteration] = []
        self.outputs: dict[str, Any] = {}
        self.extraction: Extraction | None = None
        self.ended: Termination | None = None
        self.variables: dict[str, str] = {}
        self.isolation = self.route = ""
        self.contract: Contract | None = None
        self._told = False

    def begin(self) -> None:
        """The run is told of, once."""
        if not self._told and self.publish is not nobody:
            self._told = True
            signature, run = str(self.plan.signature), self.trajectory({})
            self.publish(RunStarted(self.id, self.ledger.depth, signature, run.model, self.parent, run))

    def deciding(self, index: int, compaction: Compaction | None = None) -> Decision:
        """An iteration begins."""
        self.publish(IterationStarted(self.id, self.ledger.depth, index))
        return Decision(index, self.ledger.usage, compaction)

    def decided(self, decision: Decision, action: Action) -> None:
        """What the iteration will do is known, and paid for."""
        decision.action, decision.decided = action, time.monotonic()
        decision.spent = self.ledger.usage.since(decision.before)
        begun, seconds = decision.started - self.started, decision.decided - decision.started
        where = (self.id, self.ledger.depth, decision.index)
        self.publish(ActionChosen(*where, action, decision.spent, begun, seconds, decision.compaction))

    def observed(self, decision: Decision, execution: Execution, calls: tuple[SubCall, ...]) -> None:
        """The iteration, whole, into the trajectory and to the subscribers."""
        done = Iteration(
            decision.index,
            decision.action,
            _plain(execution),
            prompts.observation(decision.action, execution, self.plan.max_output_chars),
            calls,
            decision.spent,
            decision.started - self.started,
            time.monotonic() - decision.started,
            decision.decided - decision.started,
            decision.compaction,
        )
        self.iterations.append(done)
        self.publish(IterationFinished(self.id, self.ledger.depth, done))

    def extracted(self, raw: Mapping[str, Any], error: str, usage: Usage, seconds: float) -> None:
        """The closing call; where it failed, the termination says so too."""
        self.extraction = Extraction(truncate(repr(raw), 4_000), error, usage, seconds)
        if error and self.ended is not None:
            self.ended = replace(self.ended, detail=f"{self.ended.detail}; extraction: {error}")

    def end(self, kind: Any, cause: Any, detail: str) -> None:
        """Why the run is over."""
        self.ended = Termination(kind, cause, detail)

    def failed(self, error: BaseException) -> None:
        """The run ends by an exception: it carries what there is."""
        if isinstance(error, LMError):
            self.end("error", "provider", str(error))
        elif isinstance(error, EnvironmentFailure):
            self.end("error", "environment", str(error))
        elif isinstance(error, Exception):
            self.end("error", "caller", f"{type(error).__name__}: {error}")
        else:
            self.end("cancelled", "caller", type(error).__name__)
        prediction = self.finished()
        if isinstance(error, DszigError) or not isinstance(error, Exception):
            error.prediction = prediction  # type: ignore[attr-defined]  # also on CancelledError, KeyboardInterrupt

    def finished(self) -> Prediction:
        """The prediction, told to the subscribers."""
        outputs = {f.name: self.outputs.get(f.name) for f in self.plan.signature.outputs}
        prediction = Prediction(outputs, self.trajectory(outputs), self.variables)
        self.publish(RunFinished(self.id, self.ledger.depth, prediction, self.parent))
        return prediction

    def trajectory(self, outputs: dict[str, Any]) -> Trajectory:
        """The run as far as it went."""
        plan, depth, contract = self.plan, self.ledger.depth, self.contract
        variables = contract.variables if contract is not None else ()
        return Trajectory(
            id=self.id,
            signature=str(plan.signature),
            instructions=plan.signature.instructions,
            model=plan.lm(depth).model,
            sub_model=plan.sub_lm(depth).model,
            environment=plan.environment.name,
            isolation=self.isolation,
            depth=depth,
            inputs=tuple(Input(v.name, v.type, v.size, v.preview) for v in variables),
            contract=contract.text if contract is not None else "",
            iterations=tuple(self.iterations),
            extraction=self.extraction,
            termination=self.ended,
            outputs=_plain_data(outputs),
            usage=self.ledger.usage,
            begun=self.begun,
            seconds=time.monotonic() - self.started,
            route=self.route,
        )


def joined(done: Sequence[Execution], limit: int) -> Execution:
    """The executions of one action as one, its printed text cut to ``limit`` characters."""
    if len(done) == 1:
        return done[0]
    if not done:
        return Execution()
    return Execution(
        stdout=truncate("\n".join(e.stdout.rstrip("\n") for e in done if e.stdout), limit),
        stdout_chars=sum(e.stdout_chars for e in done),
        value=done[-1].value,
        error=done[-1].error,
        submission=done[-1].submission,
        seconds=sum(e.seconds for e in done),
        lost=done[-1].lost,
    )


def _plain(execution: Execution) -> Execution:
    """As the trajectory keeps it: a submission as plain data, so that what is saved loads back equal."""
    submission = execution.submission
    return execution if submission is None else replace(execution, submission=_plain_data(submission))


def _plain_data(values: Mapping[str, Any]) -> dict[str, Any]:
    return codec.decode(codec.encode(dict(values)), records=codec.plain_record)
