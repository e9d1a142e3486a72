"""The script environment inside DSPy: predictors are told of its language, and their code is read as that."""

from __future__ import annotations

import dspy
import dspy_scripted as scripted
import pytest

from dspy_compat import RLM


def block(code: str) -> str:
    return scripted.fields(reasoning="go on", code=f"```repl\n{code}\n```")


@pytest.mark.parametrize("wrapped", [block, lambda code: scripted.fields(reasoning="go on", code=code)])
def test_the_predictors_speak_the_language_of_the_environment(wrapped):
    """Instructions and contract are of repl lines; code comes fenced or bare; state and demos keep their fields."""
    lm = scripted.lm(scripted.steps(wrapped("let a = context[0:2]\nprint(a)"), wrapped("FINAL(a)")))
    rlm = RLM("context -> answer", environment="script")
    with dspy.context(lm=lm):
        pred = rlm(context="xyz")
    assert pred.answer == "xy"
    assert pred.termination.kind == "submitted"
    first = lm.engine_.prompts[0]
    assert "It is not Python" in first
    assert "Finish with FINAL(answer: str)." in first
    assert "```python" not in first
    assert list(rlm.generate_action.signature.fields) == list(RLM("context -> answer").generate_action.signature.fields)


def test_python_is_not_read_as_the_language():
    """A block of Python runs nothing; the model is told what to write."""
    python = scripted.fields(reasoning="go on", code="```python\nSUBMIT('x')\n```")
    lm = scripted.lm(scripted.steps(python, block("FINAL('right')")))
    with dspy.context(lm=lm):
        pred = RLM("context -> answer", environment="script")(context="xyz")
    assert "no ```repl block" in pred.run.iterations[0].observation
    assert pred.answer == "right"
