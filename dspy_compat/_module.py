"""``RLM(dspy.Module)``: dspy.RLM's constructor and more, over the loop of ``dszig_py``.

Instructions hold strategy only and are what optimizers tune; the contract travels in the input field ``variables_info``.
The field names are those of dspy's own class, so that states and demos saved from it load.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import dspy
from dspy.signatures.signature import ensure_signature

from dspy_compat import _run
from dspy_compat._options import Option, Options
from dspy_compat._signatures import (
    Step,
    action_signature,
    check_names,
    compact_signature,
    extract_signature,
    normalized_tools,
    skill_steps,
)
from dszig_py import Budget, Skill, Strategy, environments
from dszig_py.arguments import check_options, merged_budget

if TYPE_CHECKING:
    from dszig_py.events import Event

__all__ = ["RLM"]

_STOCK_STEPS = ("generate_action", "extract")  # of every saved RLM, dspy's too


class RLM(dspy.Module):
    """A Recursive Language Model as a DSPy module: inputs are variables of a REPL, SUBMIT gives typed outputs.

    The first eight parameters are dspy.RLM's own (``sub_lm`` may also be a list, one by depth); ``lms``, ``child_tools``,
    ``skills``, ``environment``, ``budget``, ``strategy``, ``check``, ``on_limit``, ``on_event``, ``trace``, ``secrets``, ``telemetry`` and
    ``output_dir`` are those of ``dszig_py.RLM``. ``on_failure``: "return" ends a failed run in a prediction whose ``termination`` says
    why, "raise" raises as dspy does. ``trace_steps``: "taught" or "all", the steps that optimizers see. The prediction has
    the outputs, ``trajectory`` (list of dicts), ``final_reasoning``, ``termination`` and ``run``.
    """

    budget, strategy, max_output_chars = Option(), Option(), Option()
    on_failure, on_limit, trace_steps = Option(), Option(), Option()

    def __init__(
        self,
        signature: Any,
        max_iters: int | None = None,
        max_llm_calls: int | None = None,
        max_output_chars: int = 10_000,
        verbose: bool = False,
        tools: Sequence[Any] | None = None,
        sub_lm: Any = None,
        interpreter_factory: Callable[[], Any] | None = None,
        *,
        lms: Mapping[str, Any] | None = None,
        child_tools: Sequence[str] | None = None,
        skills: Sequence[Skill] | None = None,
        environment: Any = "auto",
        budget: Budget | None = None,
        strategy: Strategy | None = None,
        check: Callable[[dict[str, Any]], str | None] | None = None,
        on_failure: Literal["return", "raise"] = "return",
        on_limit: Literal["partial", "raise"] = "partial",
        on_event: Callable[[Event], None] | None = None,
        trace: Any = None,
        secrets: Sequence[str] = (),
        telemetry: bool | None = None,
        trace_steps: Literal["taught", "all"] = "taught",
        output_dir: str | os.PathLike[str] | None = None,
        callbacks: list[Any] | None = None,
    ) -> None:
        super().__init__(callbacks=callbacks)
        # dspy lets an output be cut shorter than a run of ours does
        check_options({name: value for name, value in locals().items() if name != "max_output_chars"})
        _run.check_factory(interpreter_factory)
        limits = merged_budget(budget or Budget(), max_iters=max_iters, max_llm_calls=max_llm_calls)
        self.options = Options(limits, strategy or Strategy(), max_output_chars, on_failure, on_limit, trace_steps)
        self.signature = ensure_signature(signature)
        self.child_tools, self.skills = child_tools, tuple(skills or ())
        self._user_tools = normalized_tools(tools, self.skills)
        check_names(self.signature, self._user_tools, child_tools, helpers=self.strategy.helpers)
        self.verbose = verbose
        self.sub_lm = sub_lm
        self.lms = dict(lms or {})
        self.environment = environment
        self.check = check
        self.on_event = on_event
        self.trace, self.telemetry = trace, telemetry
        self.secrets = (secrets,) if isinstance(secrets, str) else tuple(secrets)
        self.output_dir = None if output_dir is None else os.fspath(output_dir)
        self._interpreter_factory = interpreter_factory
        action = action_signature(self.strategy, environments.language(environment))
        self.generate_action = Step(action, self.options)
        self.extract = Step(extract_signature(self.signature))
        self.skill_steps = skill_steps(self.skills, action)
        if self.strategy.compact_at is not None:
            self.compact = Step(compact_signature())

    @property
    def max_iters(self) -> int | None:
        """Decisions of one run."""
        return self.budget.max_iters

    @max_iters.setter
    def max_iters(self, value: int | None) -> None:
        self.budget = self.budget.model_copy(update={"max_iters": value})

    @property
    def max_llm_calls(self) -> int | None:
        """Model calls from inside code, in the whole recursion tree."""
        return self.budget.max_llm_calls

    @max_llm_calls.setter
    def max_llm_calls(self, value: int | None) -> None:
        self.budget = self.budget.model_copy(update={"max_llm_calls": value})

    @property
    def tools(self) -> dict[str, Any]:
        """The user's tools by name."""
        return dict(self._user_tools)

    def forward(self, *, interpreter_factory: Callable[[], Any] | None = None, **inputs: Any) -> dspy.Prediction:
        """Run on ``inputs``. Raises ``ValueError`` for missing or unexpected ones, before any model call."""
        return _run.forward(self, interpreter_factory, inputs)

    async def aforward(self, *, interpreter_factory: Callable[[], Any] | None = None, **inputs: Any) -> dspy.Prediction:
        """The same on the caller's event loop, which it never blocks."""
        return await _run.aforward(self, interpreter_factory, inputs, use_async=True)

    def deepcopy(self) -> RLM:
        """A copy with demos, signatures and options of its own."""
        return _run.relinked(super().deepcopy())

    def load_state(self, state: dict[str, Any], **options: Any) -> None:
        """As dspy's. Skills and ``compact``, which a program saved without them has no state for, stay as they are."""
        own = {
            name: None for name, step in self.named_parameters() if name not in _STOCK_STEPS and isinstance(step, Step)
        }
        super().load_state({**own, **state}, **options)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(_run.migrated(state))
