"""Components of an RLM besides its two predictors: what skills say, and what summarizes a long history."""

from __future__ import annotations

import json

import dspy
import dspy_scripted as scripted
import pytest
from dspy_scripted import asked, fields, is_action, step

import dspy_compat
from dspy_compat import RLM
from dszig_py import Skill, Strategy

MARK = "Look twice."
pytestmark = [pytest.mark.filterwarnings("ignore::DeprecationWarning:gepa")]


def taught_by(text="Look once."):
    return RLM("text -> answer", skills=[Skill("looking", text), Skill("tools-only")])


def solver(prompt, last):
    """Right where the instructions say MARK; whoever proposes instructions proposes it."""
    if is_action(prompt):
        return step(f"SUBMIT(answer='{'right' if MARK in prompt else 'wrong'}')")
    values = dict.fromkeys(asked(prompt), MARK)
    if "Outputs will be a JSON object" in prompt:
        return json.dumps(values)
    return fields(**values) if values else f"```\n{MARK}\n```"


def test_a_skills_instructions_are_a_predictor_of_their_own():
    """Under its name; a skill that says nothing has none."""
    program = taught_by()
    assert [name for name, _ in program.named_predictors()] == ["generate_action", "extract", "skill_steps['looking']"]
    assert program.skill_steps["looking"].signature.instructions == "Look once."
    assert "Look once." not in program.generate_action.signature.instructions


def test_what_a_skill_says_now_reaches_the_prompt():
    """After the strategy, under the skill's name: as it was written, and as it was changed."""
    program, lm = taught_by(), scripted.lm(solver)
    with dspy.context(lm=lm):
        assert program(text="t").answer == "wrong"
        step_ = program.skill_steps["looking"]
        step_.signature = step_.signature.with_instructions(MARK)
        assert program(text="t").answer == "right"
    assert "Skill looking:" in lm.engine_.prompts[0]
    assert "Look once." in lm.engine_.prompts[0]


def test_refines_advice_reaches_the_prompt_beside_a_skill():
    """Refine knows predictors by their signature objects, so no call has another."""
    attempts = []

    def script(prompt, last):
        if is_action(prompt):
            attempts.append(prompt)
            return step(f"SUBMIT(answer='{len(attempts)}')")
        return fields(**{n: '{"generate_action": "HINT"}' if n == "advice" else "none" for n in asked(prompt)})

    with dspy.context(lm=scripted.lm(script)):
        best = dspy.Refine(taught_by(), N=2, reward_fn=lambda args, pred: float(pred.answer == "2"), threshold=1.0)
        assert best(text="t").answer == "2"
    assert ["HINT" in prompt for prompt in attempts] == [False, True]
    assert all("Look once." in prompt for prompt in attempts)


@pytest.mark.parametrize("saved", [RLM, dspy_compat.original(dspy)], ids=["ours", "dspy's"])
def test_a_state_without_components_loads_into_a_program_with_them(saved):
    """What it has no state for stays as it is, at any depth of copies; a predictor that every RLM has is asked for."""
    state = saved("text -> answer").dump_state()
    state["generate_action"]["signature"]["instructions"] = "TUNED"
    program = RLM("text -> answer", skills=[Skill("looking", MARK)], strategy=Strategy(compact_at=0.5))
    summarizing = program.compact.signature.instructions
    program.load_state(state)
    assert program.generate_action.signature.instructions == "TUNED"
    assert program.skill_steps["looking"].signature.instructions == MARK
    assert program.compact.signature.instructions == summarizing
    with pytest.raises(KeyError, match="extract"):
        program.load_state({"generate_action": state["generate_action"]})


def metric(gold, pred, trace=None, pred_name=None, pred_trace=None):
    value = float(pred.answer == "right")
    return dspy.Prediction(score=value, feedback=dspy_compat.feedback(pred)) if trace is None else value


def test_gepa_tunes_the_skill_alone():
    """The other predictors keep their instructions; the state holds the skill and gives the same prompts again."""
    program, lm = taught_by(), scripted.lm(solver)
    rows = [dspy.Example(text=str(n), answer="right").with_inputs("text") for n in range(4)]
    with dspy.context(lm=lm):
        tuned = dspy.GEPA(
            metric=metric,
            reflection_lm=lm,
            max_metric_calls=20,
            component_selector=lambda *_args, **_options: ["skill_steps['looking']"],
        ).compile(program, trainset=rows, valset=rows)
        assert tuned(text="t").answer == "right"
        assert tuned.skill_steps["looking"].signature.instructions == MARK
        own = program.generate_action.signature.instructions
        assert tuned.generate_action.signature.instructions == own
        assert program.skill_steps["looking"].signature.instructions == "Look once."
        again = taught_by()
        again.load_state(tuned.dump_state())
        assert again(text="t").answer == "right"


def test_a_skill_keeps_no_demos():
    """Its predictor is in traces for the sake of reflection; demos of it would reach no prompt."""
    program = taught_by()
    program.skill_steps["looking"].demos = [dspy.Example(code="x")]
    assert program.dump_state()["skill_steps['looking']"]["demos"] == []


def test_a_predictor_that_is_replaced_gets_what_it_asks_for():
    """Any object called with keyword arguments: no signature is handed to it."""
    program, seen = taught_by(), []

    def decide(**inputs):
        seen.append(sorted(inputs))
        return dspy.Prediction(reasoning="", code="```python\nSUBMIT(answer='x')\n```")

    program.generate_action = decide
    with dspy.context(lm=scripted.lm(solver)):
        assert program(text="t").answer == "x"
    assert seen == [["iteration", "repl_history", "variables_info"]]


def test_the_summarizing_prompt_is_a_predictor_where_summaries_are_asked_for():
    """Its instructions are what the model is asked with; without compact_at there is none."""

    def script(prompt, last):
        if asked(prompt) == ["summary"]:
            return fields(summary=f"sum of it ({'mine' if 'In my words.' in prompt else 'as it is'})")
        return step("SUBMIT(answer='done')" if "sum of it" in prompt else "print('x' * 1500)")

    program = RLM("text -> answer", strategy=Strategy(compact_at=2_500))
    assert [name for name, _ in program.named_predictors()] == ["generate_action", "extract", "compact"]
    program.compact.signature = program.compact.signature.with_instructions("In my words.")
    with dspy.context(lm=scripted.lm(script)):
        pred = program(text="t")
    assert pred.answer == "done"
    assert [i.compaction.summary for i in pred.run.iterations if i.compaction] == ["sum of it (mine)"]
    assert not hasattr(RLM("text -> answer"), "compact")
