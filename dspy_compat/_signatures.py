"""The two predictors' signatures, and what names and tools dspy.RLM takes and refuses."""

from __future__ import annotations

import copy
import keyword
import re
import warnings
from collections.abc import Sequence
from typing import Any

import dspy
from dspy.adapters.types.decision import Choice, Noul, Score
from dspy.primitives.repl_types import REPLHistory

from dspy_compat._facade import SUB_AGENTS
from dspy_compat._options import Options
from dszig_py import arguments
from dszig_py.language import Language
from dszig_py.prompts import INSTRUCTIONS, SUMMARIZE
from dszig_py.signature import REPL_NAMES, Signature
from dszig_py.skills import Skill
from dszig_py.strategy import Strategy

__all__ = [
    "SkillStep",
    "Step",
    "action_signature",
    "adopted",
    "check_names",
    "compact_signature",
    "extract_signature",
    "normalized_tools",
    "skill_steps",
]

# dspy.RLM's own two. An output may be called termination or run, as it may there: it then stands in that place.
RESULT_NAMES = frozenset({"trajectory", "final_reasoning"})

EXTRACT = """\
The work on a task has ended without a SUBMIT. From the contract and what was done in the REPL, give the outputs as far as what \
was found supports them."""

# What dspy.RLM writes into its instructions: a contract, which would contradict the one a run really has.
_STOCK_CONTRACT = re.compile(
    r"You are tasked with producing the following outputs given the inputs .*?When done, call SUBMIT\(\) with your output\."
    r"(?:\n+Additional tools available[^\n]*(?:\n- `[^\n]*)*)?",
    re.DOTALL,
)


def adopted(instructions: str, own: str) -> str:
    """Saved instructions as ours: dspy.RLM's own text gives way to ``own``; what was tuned or appended stays."""
    return _STOCK_CONTRACT.sub(lambda _: own, instructions, count=1)


class Step(dspy.Predict):
    """A predictor whose copies own their signature, and whose state holds what can be used.

    dspy shares signature classes between copies, so an optimizer that edits one in place (InferRules) would edit the
    original too. Demos without both an input and an output of the signature (LabeledFewShot's rows, which carry whole
    contexts) reach no prompt, by dspy's own rule, and are not saved. ``options``: the module's own, which go into states
    beside what was learned.
    """

    def __init__(self, signature: Any, options: Options | None = None) -> None:
        super().__init__(signature)
        self.options = options

    def __deepcopy__(self, memo: dict[int, Any]) -> Step:
        new = type(self).__new__(type(self))
        memo[id(self)] = new
        for name, value in self.__dict__.items():
            setattr(new, name, copy.deepcopy(value, memo))
        new.signature = self.signature.with_instructions(self.signature.instructions)
        return new

    def dump_state(self, json_mode: bool = True) -> dict[str, Any]:
        kept = self.demos
        shown = (self.signature.input_fields, self.signature.output_fields)
        self.demos = [demo for demo in kept if all(any(name in demo for name in names) for names in shown)]
        try:
            state = super().dump_state(json_mode=json_mode)
        finally:
            self.demos = kept
        told = self.options.dump() if self.options is not None else {}
        return {**state, "rlm": told} if told else state

    def load_state(self, state: dict[str, Any] | None, **options: Any) -> Step:
        """Instructions, demos and LM are taken; saved field rows are not: they match by position, whatever they name.

        ``None``, of a program saved without this predictor, changes nothing.
        """
        if state is None:
            return self
        before = self.signature
        super().load_state({name: value for name, value in state.items() if name != "rlm"}, **options)
        if self.options is not None:
            self.options.load(state.get("rlm") or {})
        self.signature = before.with_instructions(adopted(self.signature.instructions, before.instructions))
        return self


class SkillStep(Step):
    """A skill's instructions as a predictor, so that optimizers can tune the skill alone. It is never called: what it says
    stands before the contract in ``generate_action``'s prompts, whose steps it shares in traces. Demos would reach no prompt,
    so none are kept.
    """

    def dump_state(self, json_mode: bool = True) -> dict[str, Any]:
        self.demos = []
        return super().dump_state(json_mode=json_mode)


def skill_steps(skills: Sequence[Skill], action: Any) -> dict[str, SkillStep]:
    """A predictor for each skill that says something, by its name."""
    return {
        s.name: SkillStep(action.with_instructions(s.instructions.strip())) for s in skills if s.instructions.strip()
    }


def compact_signature() -> Any:
    """contract, history -> summary."""
    return (
        dspy.Signature({}, SUMMARIZE)
        .append("variables_info", dspy.InputField(desc="The contract of the task"), type_=str)
        .append("repl_history", dspy.InputField(desc="What was run so far, and what it showed"), type_=REPLHistory)
        .append("summary", dspy.OutputField(desc="What stands for that history from now on"), type_=str)
    )


def action_signature(strategy: Strategy, language: Language) -> Any:
    """contract, history, what is left -> reasoning, code; under dspy.RLM's own field names."""
    told = language.instructions or INSTRUCTIONS[strategy.prompt]
    code = f"{language.name} to run next, as one ```{language.label} block"
    return (
        dspy.Signature({}, told)
        .append("variables_info", dspy.InputField(desc="The contract: variables, functions, how to SUBMIT"), type_=str)
        .append("repl_history", dspy.InputField(desc="What was run so far, and what it showed"), type_=REPLHistory)
        .append("iteration", dspy.InputField(desc="What is left of the budget"), type_=str)
        .append("reasoning", dspy.OutputField(desc="What is known, what is next"), type_=str)
        .append("code", dspy.OutputField(desc=code), type_=str)
    )


def extract_signature(signature: Any) -> Any:
    """contract, history -> the outputs of the task."""
    made = dspy.Signature({**signature.output_fields}, EXTRACT)
    made = made.prepend("repl_history", dspy.InputField(desc="What was run, and what it showed"), type_=REPLHistory)
    return made.prepend("variables_info", dspy.InputField(desc="The contract of the task"), type_=str)


def normalized_tools(tools: Sequence[Any] | None, skills: Sequence[Skill] = ()) -> dict[str, Any]:
    """Tools by name, those of skills too, as ``dspy.Tool``. Raises ``TypeError`` and ``ValueError`` where dspy.RLM does."""
    if isinstance(tools, dict):
        raise TypeError(
            "tools must be a list, not a dict: give [function, ...] or [dspy.Tool(function, name=...), ...]"
        )
    named: dict[str, Any] = {}
    taught = [dspy.Tool(function, name=name) for skill in skills for name, function in skill.named_tools.items()]
    for tool in (*(tools or ()), *taught):
        if not callable(tool):
            raise TypeError(f"Tool {tool!r} must be callable, got {type(tool).__name__}")
        made = tool if isinstance(tool, dspy.Tool) else dspy.Tool(tool)
        name = str(made.name)
        if name in named:
            raise ValueError(f"Duplicate tool name '{name}'")
        named[name] = made
    return named


def _warn_of_decisions(signature: Any) -> None:
    """dspy.RLM's own warning: these outputs are read out of a provider's probabilities, which code that SUBMITs has not."""
    annotations = [field.annotation for field in signature.output_fields.values()]
    if any(kind.extract_custom_type_from_annotation(one) for one in annotations for kind in (Noul, Choice, Score)):
        told = "an RLM's code gives Noul, Choice and Score outputs as plain values, without a provider's probabilities"
        warnings.warn(f"{told}; use dspy.Predict where those are wanted", UserWarning, stacklevel=5)


def _of_sub_agents(name: str) -> bool:
    """Whether dspy's stand-in inside the REPL owns the name."""
    return SUB_AGENTS and (name == "dspy" or name.startswith(("_dspy", "__dspy")))


def check_names(signature: Any, tools: dict[str, Any], child_tools: Sequence[str] | None, *, helpers: bool) -> None:
    """Names that something else owns, or that nothing has. Raises ``ValueError`` saying which."""
    reserved = {name for name in (*tools, *signature.input_fields) if name in REPL_NAMES or _of_sub_agents(name)}
    arguments.check_names(signature.input_fields, tools, child_tools, helpers=helpers)
    for name in tools:
        if not name.isidentifier() or keyword.iskeyword(name):
            raise ValueError(f"Invalid tool name '{name}': must be a valid Python identifier and not a keyword")
        if name in reserved:
            raise ValueError(f"Tool name '{name}' conflicts with built-in sandbox function")
    if "interpreter_factory" in signature.input_fields:
        raise ValueError("'interpreter_factory' is reserved for runtime configuration, not a signature input")
    if taken := sorted(reserved & set(signature.input_fields)):
        raise ValueError(f"Input fields conflict with built-in sandbox functions: {taken}")
    if taken := sorted(set(signature.input_fields) & set(tools)):
        raise ValueError(f"Input fields conflict with user tools: {taken}")
    if taken := sorted(set(signature.output_fields) & RESULT_NAMES):
        raise ValueError(f"Output fields conflict with RLM result metadata: {taken}")
    _warn_of_decisions(signature)
    Signature.of(signature)  # whatever else of it cannot be run is told now, not at the first call
