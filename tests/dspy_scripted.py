"""Scripts for a ``dspy.LM`` that answers by a function (``dspy_compat.testing``): replies as dspy reads them."""

from __future__ import annotations

import re
from typing import Any

from dspy_compat.testing import FunctionEngine as Engine
from dspy_compat.testing import function_lm

__all__ = ["Engine", "asked", "done", "fields", "is_action", "lm", "step", "steps"]


def fields(**values: Any) -> str:
    """A reply as dspy's ChatAdapter reads it."""
    told = "\n\n".join(f"[[ ## {name} ## ]]\n{value}" for name, value in values.items())
    return f"{told}\n\n[[ ## completed ## ]]"


def step(code: str, reasoning: str = "go on") -> str:
    """A decision: one cell."""
    return fields(reasoning=reasoning, code=f"```python\n{code}\n```")


def asked(prompt: str) -> list[str]:
    """The output fields a prompt of dspy's asks for."""
    told = prompt.partition("Your output fields are:")[2].partition("All interactions")[0]  # Chat- and JSONAdapter
    return re.findall(r"^\d+\. `(\w+)`", told, re.M)


def is_action(prompt: str) -> bool:
    """Whether a decision is asked for."""
    return asked(prompt) == ["reasoning", "code"]


def done(last: str) -> int:
    """How many iterations the prompt of a decision shows."""
    return len(re.findall(r"^=== Step \d+ ===", last, re.M))


def lm(script: Any, model: str = "scripted", **options: Any) -> Any:
    """A ``dspy.LM`` that answers by ``script(whole prompt, last message)``; ``lm.engine_.prompts`` is what it was sent."""
    made = function_lm(script, model, **options)
    made.engine_ = made.function_engine
    return made


def steps(*cells: str, sub: Any = "sub", other: Any = None) -> Any:
    """A script: the n-th decision of each run is the n-th cell, the last one repeated; sub-calls give ``sub``."""

    def script(prompt: str, last: str) -> Any:
        if is_action(prompt):
            reply = cells[min(done(last), len(cells) - 1)]
            return (
                reply
                if isinstance(reply, BaseException) or "[[ ##" in reply or reply.startswith("RAW")
                else step(reply)
            )
        if names := asked(prompt):
            return other(prompt) if other else fields(**dict.fromkeys(names, "extracted"))
        return sub(last) if callable(sub) else sub

    return script
