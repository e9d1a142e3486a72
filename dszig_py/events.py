"""What a run tells while it goes: frozen records, the last of which carries the prediction.

Publishing never blocks and never fails: a slow or raising subscriber is no part of the run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dszig_py.trajectory import Action, Iteration, Prediction, SubCall

__all__ = [
    "ActionChosen",
    "Event",
    "IterationFinished",
    "IterationStarted",
    "RunFinished",
    "RunStarted",
    "SubCallFinished",
    "SubCallStarted",
    "Subscriber",
]


@dataclass(frozen=True, slots=True)
class Event:
    """Base of all events. ``run`` is the id of the run it belongs to, ``depth`` 0 for the root."""

    run: str
    depth: int


@dataclass(frozen=True, slots=True)
class RunStarted(Event):
    """The inputs are bound and the loop begins."""

    signature: str
    model: str
    parent: str = ""


@dataclass(frozen=True, slots=True)
class IterationStarted(Event):
    """The model is asked for its next action."""

    index: int


@dataclass(frozen=True, slots=True)
class ActionChosen(Event):
    """The model has decided; its code is about to run."""

    index: int
    action: Action


@dataclass(frozen=True, slots=True)
class SubCallStarted(Event):
    """Code called a model, a child run or a tool."""

    id: str
    kind: str


@dataclass(frozen=True, slots=True)
class SubCallFinished(Event):
    """It answered or failed."""

    sub_call: SubCall


@dataclass(frozen=True, slots=True)
class IterationFinished(Event):
    """An iteration is complete and in the trajectory."""

    iteration: Iteration


@dataclass(frozen=True, slots=True)
class RunFinished(Event):
    """The run is over."""

    prediction: Prediction


Subscriber = Callable[[Event], None]
