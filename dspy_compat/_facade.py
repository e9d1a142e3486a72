"""Sub-agents from inside the REPL: ``import dspy`` there gives dspy's own stand-in, whose predictors run on the host.

dspy ships the stand-in and its host side (``dspy.primitives.facade``); what is ours is the budget: each LM call of a
sub-agent is reserved in the run's ledger first, as every call from inside code is. Their trace stays their own, since an
optimizer could not tell whose predictor it saw.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import dspy
from dspy.primitives.facade import FacadeInvocation

from dspy_compat._adapters import CallRecorder
from dszig_py.runner import Preamble
from dszig_py.tools import Tool
from dszig_py.usage import Exhausted, Ledger, Reservation, Usage

if TYPE_CHECKING:
    from dspy_compat._module import RLM

__all__ = ["NOTE", "OwnEnvironment", "sub_agents"]

logger = logging.getLogger(__name__)

NOTE = """\
`import dspy` works for sub-agents: dspy.Predict("text -> label")(text=...), dspy.ChainOfThought(...), dspy.ReActV2(sig, \
tools=[...]) with the tools above, dspy.RLM("context, question -> answer")(...). llm_query and predict are lighter."""


class OwnEnvironment:
    """What a nested ``dspy.RLM`` is given as interpreter factory: our environment, not an interpreter of dspy's."""

    def __init__(self, environment: Any) -> None:
        self.environment = environment

    def __call__(self) -> Any:
        raise dspy.CodeInterpreterError(
            "this predictor needs a DSPy interpreter: build the outer RLM with interpreter_factory=...; for a nested RLM, "
            "dspy_compat.install(dspy)"
        )


class _Shell:
    """What the facade installs itself into: keeps the tools and the code, for the session that comes later."""

    def __init__(self) -> None:
        self.tools: dict[str, Any] = {}
        self.code = ""

    def execute(self, code: str, variables: dict[str, Any]) -> None:
        self.code = "\n".join([*(f"{name} = {value!r}" for name, value in variables.items()), code])


class _Meter:
    """Reserves the LM calls of one sub-agent call and settles them by what dspy recorded of them."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._held: list[Reservation] = []

    def reserve(self, calls: int = 1) -> None:
        for _ in range(calls):
            try:
                self._held.append(self._ledger.reserve(inner=True))
            except Exhausted as limit:
                raise RuntimeError(f"{limit}; SUBMIT what you have") from None

    def settle(self, recorder: CallRecorder) -> None:
        held, self._held = self._held, []
        for reservation, entry in zip(held, recorder.history, strict=False):
            told = entry.get("usage") or {}
            tokens = int(told.get("prompt_tokens") or 0), int(told.get("completion_tokens") or 0)
            usage = Usage(1, *tokens, entry.get("cost"))
            self._ledger.settle(reservation, usage, str(entry.get("model") or "sub-agent"))
        for reservation in held[len(recorder.history) :]:
            self._ledger.settle(reservation, Usage(1, cost=None), "sub-agent")


def sub_agents(module: RLM, sub_lm: Any, ledger: Ledger) -> Preamble:
    """What makes ``import dspy`` work in the sessions of one run."""
    meter, shell = _Meter(ledger), _Shell()
    environment = OwnEnvironment(module.environment)
    facade = FacadeInvocation(module.tools, environment, None, lm=sub_lm, reserve=meter.reserve)
    facade.install(shell)

    def metered(function: Any) -> Any:
        def call(**kwargs: Any) -> Any:
            recorder = CallRecorder()
            try:
                with recorder.context(), dspy.context(trace=[]):
                    return function(**kwargs)
            finally:
                meter.settle(recorder)

        return call

    tools = {name: Tool(name, metered(function), name) for name, function in shell.tools.items()}
    return Preamble(shell.code, tools, (NOTE,))
