"""What is compared: ways to answer an example, all given the same model and budget.

A system is an async callable ``(task, example, setup) -> Outcome``. ``SYSTEMS`` has the named ones; one that needs
another package stands there as ``"module:callable"`` and is imported when used.
"""

from __future__ import annotations

import difflib
import importlib
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from dszig_py.environments.base import Environment
from dszig_py.errors import DszigError, InputError, LMError, SignatureError
from dszig_py.evals.tasks import Example, Task
from dszig_py.lm.base import LM
from dszig_py.rlm import RLM
from dszig_py.routing import too_long
from dszig_py.strategy import Strategy
from dszig_py.trajectory import Prediction
from dszig_py.usage import Budget, Usage

__all__ = ["ONE_CALL", "SYSTEMS", "Outcome", "Setup", "System", "resolve"]


@dataclass(frozen=True)
class Setup:
    """What a system may use. The models share the evaluation's limit of calls in flight; ``budget`` is of one example."""

    lm: LM
    sub_lm: LM
    budget: Budget
    environment: str | Environment = "auto"


@dataclass(frozen=True)
class Outcome:
    """What a system came to. ``kind``, ``cause`` and ``detail`` as in a termination; ``seconds`` of wall time."""

    outputs: Mapping[str, Any]
    kind: str = "submitted"
    cause: str = "model"
    detail: str = ""
    usage: Usage = field(default_factory=Usage)
    seconds: float = 0.0
    iterations: int = 0
    route: str = ""

    @classmethod
    def of(cls, prediction: Prediction) -> Outcome:
        """The outcome of one of our own runs."""
        ended, run = prediction.termination, prediction.trajectory
        told = (ended.kind, ended.cause, ended.detail, run.usage, run.seconds)
        return cls(prediction.outputs, *told, len(run.iterations), run.route)


System = Callable[[Task, Example, Setup], Awaitable[Outcome]]


def _with(strategy: Strategy) -> System:
    async def run(task: Task, example: Example, setup: Setup) -> Outcome:
        rlm = RLM(
            task.signature,
            types={},
            lm=setup.lm,
            sub_lm=setup.sub_lm,
            budget=setup.budget,
            strategy=strategy,
            environment=setup.environment,
        )
        started = time.monotonic()
        try:
            return Outcome.of(await rlm.acall(**example.inputs))
        except (InputError, SignatureError):
            raise
        except DszigError as error:
            return _failed(error, time.monotonic() - started)

    return run


def _failed(error: DszigError, seconds: float) -> Outcome:
    """A run that ended by an exception. A prompt too long for the model is the system's own fault, not the provider's."""
    prediction: Prediction | None = getattr(error, "prediction", None)
    own = isinstance(error, LMError) and too_long(error)
    cause = "model" if own else "provider" if isinstance(error, LMError) else "environment"
    told = ("error", cause, f"{type(error).__name__}: {error}"[:1_000])
    if prediction is None:
        return Outcome({}, *told, seconds=seconds)
    run = prediction.trajectory
    return Outcome({}, *told, run.usage, seconds, len(run.iterations), run.route)


SYSTEMS: dict[str, System | str] = {
    "rlm": _with(Strategy()),
    "rlm-no-subcalls": _with(Strategy(sub_calls=False)),
    "rlm-auto": _with(Strategy(route="auto")),
    "direct": _with(Strategy(route="direct")),
    "dspy-rlm": "dspy_compat.evals:dspy_rlm",
}
ONE_CALL = frozenset({"direct"})
"""Systems that make one model call, however it ends."""


def resolve(systems: str | Iterable[str] | Mapping[str, System]) -> dict[str, System]:
    """Systems by name. A name is one of ``SYSTEMS`` or ``"module:callable"``. Raises ``InputError``."""
    if isinstance(systems, Mapping):
        return dict(cast("Mapping[str, System]", systems))
    names = [systems] if isinstance(systems, str) else list(systems)
    if not names:
        raise InputError(f"no system is given; the systems are {', '.join(SYSTEMS)}")
    return {name: _system(name) for name in names}


def _system(name: str) -> System:
    known = SYSTEMS.get(name, name if ":" in name else None)
    if known is None:
        close = difflib.get_close_matches(name, SYSTEMS, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise InputError(f"no system {name!r}; {hint}the systems are {', '.join(SYSTEMS)}, and module:callable")
    if not isinstance(known, str):
        return known
    module, _, attribute = known.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise InputError(f"the system {name!r} is {known}, which cannot be imported here: {error}") from error
