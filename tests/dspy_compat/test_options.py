"""Our own options inside DSPy, and what of them a saved state carries."""

from __future__ import annotations

import asyncio
import json
import re

import dspy
import dspy_scripted as scripted
import pytest
from dspy_scripted import fields, is_action, step, steps
from hypothesis import given
from hypothesis import strategies as st

from dspy_compat import RLM
from dspy_compat._options import Options
from dszig_py import Budget, DszigError, LimitReached, Skill, Strategy, Trajectory
from dszig_py.events import IterationFinished, RunFinished

BOTH = pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])


def run(rlm, asynchronous=False, **inputs):
    return asyncio.run(rlm.acall(**inputs)) if asynchronous else rlm(**inputs)


def lookup(name: str) -> str:
    """Look a name up."""
    return name.upper()


def whisper(name: str) -> str:
    """Say a name quietly."""
    return name.lower()


@BOTH
def test_a_trace_is_written_while_the_run_goes_and_hides_secrets(asynchronous, tmp_path):
    """trace= and secrets=, as of dszig_py.RLM; on_event hears the same run."""
    seen = []
    rlm = RLM("text -> answer", trace=tmp_path / "run.jsonl", secrets=["hunter2-hunter2"], on_event=seen.append)
    with dspy.context(lm=scripted.lm(steps("print('hunter2-hunter2')", "SUBMIT(answer=text)"))):
        pred = run(rlm, asynchronous, text="x")
    kept = Trajectory.load(tmp_path / "run.jsonl")
    assert (len(kept.iterations), kept.outputs) == (2, {"answer": "x"})
    assert "hunter2-hunter2" not in (tmp_path / "run.jsonl").read_text()
    assert [type(event) for event in seen if isinstance(event, (IterationFinished, RunFinished))] == [
        IterationFinished,
        IterationFinished,
        RunFinished,
    ]
    assert seen[-1].prediction.trajectory == pred.run


def test_check_has_the_last_word_on_outputs():
    """A message sends the model back."""
    with dspy.context(lm=scripted.lm(steps("SUBMIT(answer='no')", "SUBMIT(answer='yes')"))):
        pred = RLM("text -> answer", check=lambda out: None if out["answer"] == "yes" else "say yes")(text="x")
    assert (pred.answer, len(pred.trajectory)) == ("yes", 2)
    assert "say yes" in pred.trajectory[0]["output"]


def test_code_chooses_models_by_name():
    """lms=, and a list of sub_lm is one by depth."""
    named = {name: scripted.lm(lambda prompt, last, name=name: name, model=name) for name in ("strong", "first")}
    with dspy.context(lm=scripted.lm(steps("SUBMIT(answer=llm_query('q') + llm_query('q', lm='strong'))"))):
        rlm = RLM("text -> answer", lms={"strong": named["strong"]}, sub_lm=[named["first"]])
        assert rlm(text="x").answer == "firststrong"


def test_a_skill_is_instructions_tools_and_modules():
    """Its instructions are part of what optimizers tune, its module can be imported, its tool called."""
    skill = Skill("counting", "Count twice.", tools=[lookup], modules={"counts": "def twice(n):\n    return 2 * n"})
    lm = scripted.lm(steps("import counts\nSUBMIT(answer=lookup(text) * counts.twice(1))"))
    with dspy.context(lm=lm):
        rlm = RLM("text -> answer", skills=[skill])
        assert rlm(text="x").answer == "XX"
    assert rlm.skill_steps["counting"].signature.instructions == "Count twice."
    with pytest.raises(ValueError, match="Duplicate tool name"):
        RLM("text -> answer", tools=[lookup], skills=[skill])


@pytest.mark.parametrize("signature", ["report -> budget: float", "predict -> answer", "text -> rlm_query"])
def test_names_that_ours_alone_has_taken_are_refused_at_once(signature):
    """Where a field would hide what the code calls: at construction, with another name to take."""
    with pytest.raises(ValueError, match="hide|conflict"):
        RLM(signature)


def test_helpers_need_their_names():
    """An input or tool of that name would be hidden."""
    with pytest.raises(ValueError, match="peek"):
        RLM("peek -> answer", strategy=Strategy(helpers=True))


def by_depth(prompt, last):
    """Each level asks one below, down to the last, which says what model it is on."""
    if not is_action(prompt):
        return "a model of the last level"
    return step("SUBMIT(answer=rlm_query('text -> answer', text=text + '!') if len(text) < 3 else llm_query('who?'))")


def test_sub_models_may_be_given_by_depth():
    """Children decide on the model of their depth, the last one serving all below."""
    lms = {name: scripted.lm(by_depth, model=name) for name in ("root", "one", "two")}
    with dspy.context(lm=lms["root"]):
        rlm = RLM("text -> answer", sub_lm=[lms["one"], lms["two"]], budget=Budget(max_depth=2))
        assert rlm(text="x").answer == "a model of the last level"
    assert {name: len(lm.engine_.prompts) for name, lm in lms.items()} == {"root": 1, "one": 1, "two": 2}


def test_children_see_the_tools_they_are_given():
    """child_tools= names them; without it they see all."""
    script = steps(
        "SUBMIT(answer=rlm_query('name -> answer', name=text) if 'text' in globals() else str(sorted(SHOW_VARS())))"
    )
    for child_tools, seen in ((None, True), (["lookup"], False)):
        lm = scripted.lm(script)
        with dspy.context(lm=lm):
            RLM("text -> answer", tools=[lookup, whisper], child_tools=child_tools)(text="x")
        (child,) = [prompt for prompt in lm.engine_.prompts if "  name:" in prompt]
        assert ("whisper(" in child, "lookup(" in child) == (seen, True)


@BOTH
def test_a_limit_raises_on_request(asynchronous):
    """on_limit="raise": LimitReached with the same prediction."""
    rlm = RLM("text -> answer", max_iters=1, on_limit="raise")
    with dspy.context(lm=scripted.lm(steps("print(1)"))), pytest.raises(LimitReached, match="max_iters") as caught:
        run(rlm, asynchronous, text="x")
    assert (caught.value.limit, caught.value.prediction.answer) == ("max_iters", "extracted")


@BOTH
def test_too_many_failed_iterations_in_a_row_raise_on_request(asynchronous):
    """on_failure="raise" holds for a run that max_errors has ended, too; the exception carries what there is."""
    rlm = RLM("text -> answer", budget=Budget(max_errors=2), on_failure="raise")
    with dspy.context(lm=scripted.lm(steps("1/0"))), pytest.raises(DszigError, match="2 iterations in a row") as caught:
        run(rlm, asynchronous, text="x")
    assert len(caught.value.prediction.trajectory.iterations) == 2


def test_strategies_that_change_the_loop_work_through_predictors():
    """One typed call in place of the loop, helper functions, summaries of a long history."""
    direct = scripted.lm(lambda prompt, last: '{"answer": "at once"}')
    with dspy.context(lm=direct):
        pred = RLM("text -> answer", strategy=Strategy(route="direct"))(text="x")
    assert (pred.answer, len(direct.engine_.prompts)) == ("at once", 1)
    with dspy.context(lm=scripted.lm(steps("SUBMIT(answer=peek(text, 2))"))):
        assert RLM("text -> answer", strategy=Strategy(helpers=True))(text="abc").answer == "ab"


@BOTH
def test_a_long_history_is_summarized_on_request(asynchronous):
    """Strategy(compact_at=): the model writes a summary, which the predictor is shown in place of earlier iterations."""
    cells = [f"print('{n}' * 1_500)" for n in range(3)]
    script = steps(
        *cells, "SUBMIT(answer=str(len(earlier_iterations)))", other=lambda prompt: fields(summary="SO FAR SO GOOD")
    )
    lm = scripted.lm(lambda prompt, last: step("SUBMIT(answer='seen')") if "SO FAR" in prompt else script(prompt, last))
    with dspy.context(lm=lm):
        pred = run(RLM("text -> answer", strategy=Strategy(compact_at=2_000)), asynchronous, text="x")
    assert (pred.answer, len(pred.trajectory)) == ("seen", 3)
    summarizing = [prompt for prompt in lm.engine_.prompts if not is_action(prompt)]
    assert len(summarizing) == 1
    assert "0" * 1_500 in summarizing[0]
    assert "0" * 1_500 not in lm.engine_.prompts[-1]
    assert pred.run.usage.calls == 4


FULL = {
    "budget": Budget(max_llm_calls=7, max_cost=1.5, prices={"scripted": (1.0, 2.0)}),
    "strategy": Strategy(show=["text"], helpers=True),
    "max_output_chars": 500,
    "on_failure": "raise",
    "on_limit": "raise",
    "trace_steps": "all",
}


def options(rlm):
    return {name: getattr(rlm, name) for name in FULL}


@pytest.mark.parametrize("how", ["state", "json", "pkl", "program", "nested", "deepcopy", "reset_copy"])
def test_budget_and_options_are_kept(how, tmp_path):
    """By copies, states, files and whole programs; in a state of a program around it as well."""
    rlm, fresh = RLM("text -> answer", **FULL), RLM("text -> answer")
    if how == "state":
        fresh.load_state(rlm.dump_state())
    elif how == "program":
        rlm.save(tmp_path / "program", save_program=True)
        fresh = dspy.load(tmp_path / "program", allow_pickle=True)
    elif how == "nested":
        outer, other = dspy.Module(), dspy.Module()
        outer.read, other.read = rlm, fresh
        other.load_state(outer.dump_state())
    elif how in ("json", "pkl"):
        rlm.save(tmp_path / f"state.{how}")
        fresh.load(tmp_path / f"state.{how}", allow_pickle=how == "pkl")
    else:
        fresh = getattr(rlm, how)()
        rlm.max_iters = 99
        rlm.on_failure = "return"
    assert options(fresh) == FULL
    again = RLM("text -> answer")
    again.load_state(fresh.dump_state())
    assert options(again) == FULL


def test_what_a_program_was_given_itself_stays_when_a_state_is_loaded():
    """A state of wider limits cannot lift the narrower ones that the code sets."""
    saved = RLM("text -> answer", max_llm_calls=500, max_iters=9, max_output_chars=500, strategy=Strategy(helpers=True))
    mine = RLM("text -> answer", max_llm_calls=5, max_output_chars=50_000, strategy=Strategy(show=["text"]))
    mine.load_state(saved.dump_state())
    assert (mine.max_llm_calls, mine.max_iters, mine.max_output_chars) == (5, 9, 50_000)
    assert mine.strategy == Strategy(show=["text"], helpers=True)
    lm = scripted.lm(steps("SUBMIT(answer=text)"))
    with dspy.context(lm=lm):
        mine(text="x")
    assert re.findall(r"(\d+) sub-calls", lm.engine_.prompts[0]) == ["5"]


LIMITS = st.fixed_dictionaries(
    {},
    optional={
        "max_iters": st.none() | st.integers(1, 99),
        "max_llm_calls": st.none() | st.integers(0, 99),
        "max_cost": st.none() | st.floats(0, 1e6),
        "max_depth": st.integers(0, 9),
        "prices": st.dictionaries(st.text(min_size=1), st.tuples(st.floats(0, 1e6), st.floats(0, 1e6)), max_size=2),
    },
)


@given(saved=LIMITS, own=LIMITS, chars=st.integers(100, 10**7))
def test_any_options_go_through_json_and_give_way_to_what_is_set_here(saved, own, chars):
    """Each limit is the one set here, else the saved one, else the default; doing it again changes nothing."""
    state = json.loads(json.dumps(Options(Budget(**saved), max_output_chars=chars).dump()))
    mine = Options(Budget(**own))
    for _ in range(2):
        mine.load(state)
        assert mine.budget == Budget(**{**saved, **own})
        assert mine.max_output_chars == chars


class Uncopyable:
    """An environment that cannot be copied, as one that holds a lock cannot."""

    name = "uncopyable"

    def __deepcopy__(self, memo):
        raise TypeError("cannot be copied")


def test_a_copy_has_options_of_its_own_also_where_dspy_copies_part_by_part():
    """dspy falls back to that where the whole cannot be copied; the copy's state is then its own as well."""
    rlm = RLM("text -> answer", max_iters=3, environment=Uncopyable())
    copy = rlm.deepcopy()
    copy.max_iters = 4
    assert (rlm.max_iters, copy.max_iters) == (3, 4)
    assert rlm.dump_state()["generate_action"]["rlm"] == {"budget": {"max_iters": 3}}
    assert copy.dump_state()["generate_action"]["rlm"] == {"budget": {"max_iters": 4}}


def test_a_state_of_ours_loads_into_dspys_own_class():
    """Instructions and demos; what it does not know it leaves alone."""
    from dspy_compat import original

    ours = RLM("text -> answer", **FULL)
    ours.generate_action.signature = ours.generate_action.signature.with_instructions("Tuned words.")
    stock = original(dspy)("text -> answer", interpreter_factory=dspy.LocalInterpreter)
    stock.load_state(ours.dump_state())
    assert stock.generate_action.signature.instructions == "Tuned words."


@pytest.mark.parametrize(
    ("name", "value"),
    [("tools", len), ("budget", {}), ("strategy", "default"), ("check", 3), ("on_event", 3), ("trace", 3), ("lms", 3)],
)
def test_an_option_of_a_wrong_kind_is_named_at_construction(name, value):
    """As the core does it, and as a ValueError, before a program is built around it."""
    with pytest.raises(ValueError, match=f"{name} takes"):
        RLM("context -> answer", **{name: value})
