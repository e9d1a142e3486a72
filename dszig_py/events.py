"""What a run tells while it goes: frozen records, the last of which carries the prediction.

Publishing never blocks and never fails: a slow or raising subscriber is no part of the run. How events reach whom is in
``dszig_py.publishing``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from dszig_py.trajectory import Action, Compaction, Iteration, Prediction, SubCall, Trajectory
from dszig_py.usage import Remaining, Usage

__all__ = [
    "ActionChosen",
    "BudgetChanged",
    "Event",
    "IterationFinished",
    "IterationStarted",
    "RunFinished",
    "RunStarted",
    "SubCallFinished",
    "SubCallStarted",
    "Subscriber",
    "TokensArrived",
    "nobody",
    "worth_keeping",
]

BACKLOG = 10_000  # events waiting for a slow reader before those that a later one makes up for are left out


@dataclass(frozen=True, slots=True)
class Event:
    """Base of all events. ``run`` is the id of the run it belongs to, ``depth`` 0 for the root."""

    run: str
    depth: int


@dataclass(frozen=True, slots=True)
class RunStarted(Event):
    """The inputs are bound and the loop begins. ``parent``: the sub-call that a child run answers.

    ``trajectory``: the run as it is then, without iterations.
    """

    signature: str
    model: str
    parent: str = ""
    trajectory: Trajectory | None = None


@dataclass(frozen=True, slots=True)
class IterationStarted(Event):
    """The model is asked for its next action."""

    index: int


@dataclass(frozen=True, slots=True)
class TokensArrived(Event):
    """A piece of the reply that the root's model is still writing, where it streams. ``index``: the iteration.

    ``attempt``: 1, and one more each time a request that failed is made again; its pieces begin the reply anew.
    """

    index: int
    text: str
    attempt: int = 1


@dataclass(frozen=True, slots=True)
class ActionChosen(Event):
    """The model has decided; its code is about to run.

    ``usage`` is the decision's own, ``started`` seconds since the run began, ``seconds`` what deciding took.
    ``compaction``: the summary that was made of the history before it, if one was.
    """

    index: int
    action: Action
    usage: Usage = field(default_factory=Usage)
    started: float = 0.0
    seconds: float = 0.0
    compaction: Compaction | None = None


@dataclass(frozen=True, slots=True)
class SubCallStarted(Event):
    """Code called a model, a child run or a tool. ``batch``: the id shared by all calls of one batch, "" outside of one;
    ``size``: how many calls that batch will have.
    """

    id: str
    kind: str
    batch: str = ""
    size: int = 0


@dataclass(frozen=True, slots=True)
class SubCallFinished(Event):
    """It answered or failed."""

    sub_call: SubCall


@dataclass(frozen=True, slots=True)
class BudgetChanged(Event):
    """A model call was paid for. ``usage``: of this run and its children so far; ``remaining``: what this run still has."""

    usage: Usage
    remaining: Remaining


@dataclass(frozen=True, slots=True)
class IterationFinished(Event):
    """An iteration is complete and in the trajectory."""

    iteration: Iteration


@dataclass(frozen=True, slots=True)
class RunFinished(Event):
    """The run is over. ``parent``: the sub-call that a child run answers."""

    prediction: Prediction
    parent: str = ""


Subscriber = Callable[[Event], None]


def nobody(event: Event) -> None:
    """The subscriber where nobody listens: what would only be told need not be put together."""


def worth_keeping(event: Event, waiting: int) -> bool:
    """Whether to queue ``event`` behind ``waiting`` others, so that a slow reader's queue cannot grow without bound.

    Records of the run are always kept: the trajectory holds what they carry anyhow. Past ``BACKLOG`` the pieces of a reply
    (the action comes whole) and states of the budget (the next one tells all) are left out.
    """
    return waiting < BACKLOG or not isinstance(event, (TokensArrived, BudgetChanged))
