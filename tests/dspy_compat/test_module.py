"""The module beside dspy's own: what it accepts, refuses and gives."""

from __future__ import annotations

import copy
import datetime as dt
import json
import pickle
from pathlib import Path
from types import SimpleNamespace

import dspy
import dspy_scripted as scripted
import pydantic
import pytest
from dspy.adapters.types.decision import Score
from dspy.primitives.sandbox_serializable import SandboxSerializable

import dspy_compat
from dspy_compat import RLM
from dszig_py import File, Folder, Image  # noqa: F401 two are named in annotations that are text

STOCK = dspy_compat.original(dspy)


def lookup(name: str) -> str:
    """Look a name up."""
    return name.upper()


def SUBMIT(x: str) -> str:
    """A name that is taken."""
    return x


def text(name: str) -> str:
    """A tool named as an input."""
    return name


class Numbered(dspy.LocalInterpreter):
    """A factory that says something odd of its runtime."""

    execution_instructions = 3


def with_setting(factory, call):
    """What ``call`` comes to where dspy is configured with ``factory``."""
    with dspy.context(interpreter_factory=factory):
        return call()


BAD = {
    "tools as a dict": lambda cls: cls("text -> answer", tools={"lookup": lookup}),
    "a tool that cannot be called": lambda cls: cls("text -> answer", tools=["lookup"]),
    "two tools of one name": lambda cls: cls("text -> answer", tools=[lookup, dspy.Tool(lookup)]),
    "a tool with a reserved name": lambda cls: cls("text -> answer", tools=[SUBMIT]),
    "a tool named as an input": lambda cls: cls("text -> answer", tools=[text]),
    "a tool without an identifier": lambda cls: cls("text -> answer", tools=[dspy.Tool(lookup, name="a-b")]),
    "a tool named by a keyword": lambda cls: cls("text -> answer", tools=[dspy.Tool(lookup, name="class")]),
    "an input with a reserved name": lambda cls: cls("llm_query -> answer"),
    "an input named dspy": lambda cls: cls("dspy -> answer"),
    "an input named interpreter_factory": lambda cls: cls("interpreter_factory -> answer"),
    "an output with a reserved name": lambda cls: cls("text -> trajectory"),
    "an output named final_reasoning": lambda cls: cls("text -> final_reasoning"),
    "no signature": lambda cls: cls(),
    "a malformed signature": lambda cls: cls("text answer"),
    "an unknown option": lambda cls: cls("text -> answer", colour="red"),
    "a factory that is not callable": lambda cls: cls("text -> answer", interpreter_factory=3),
    "an interpreter for a factory": lambda cls: cls("text -> answer", interpreter_factory=dspy.LocalInterpreter()),
    "a factory whose instructions are no text": lambda cls: cls("text -> answer", interpreter_factory=Numbered)(
        text="x"
    ),
    "a factory that makes nothing": lambda cls: cls("text -> answer", interpreter_factory=lambda: None)(text="x"),
    "a factory that makes something else": lambda cls: cls("text -> answer")(text="x", interpreter_factory=object),
    "a bad factory in dspy's settings": lambda cls: with_setting(3, lambda: cls("text -> answer")(text="x")),
    "an interpreter in dspy's settings": lambda cls: with_setting(
        dspy.LocalInterpreter(), lambda: cls("text -> answer")(text="x")
    ),
    "a missing input": lambda cls: cls("text, more -> answer")(text="x"),
    "an unexpected input": lambda cls: cls("text -> answer")(text="x", more="y"),
    "a positional input": lambda cls: cls("text -> answer")("x"),
    "a bad factory in a call": lambda cls: cls("text -> answer")(text="x", interpreter_factory=3),
}


if dspy.__version__ == "3.4.0":  # which has no sub-agents, so that nothing owns the name
    del BAD["an input named dspy"]


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_what_dspys_own_refuses_is_refused_alike(bad):
    """The same kind of exception from both classes, and no model is asked."""
    lm = scripted.lm(scripted.steps("SUBMIT(answer='x')"))
    raised = []
    with dspy.context(lm=lm, interpreter_factory=dspy.LocalInterpreter):
        for cls in (STOCK, RLM):
            with pytest.raises(Exception) as caught:
                bad(cls)
            raised.append(next(kind for kind in (TypeError, ValueError, Exception) if isinstance(caught.value, kind)))
    assert raised[0] is raised[1]
    assert lm.engine_.prompts == []


def test_outputs_may_be_called_what_ours_are_beside_dspys():
    """A signature that dspy's class takes is taken: the output stands where our own would."""
    with dspy.context(lm=scripted.lm(scripted.steps("SUBMIT(run=text, termination='mine')"))):
        pred = RLM("text -> run, termination")(text="x")
    assert (pred.run, pred.termination, pred.final_reasoning) == ("x", "mine", "go on")


def test_tools_for_children_must_be_tools():
    """child_tools names what tools has, or it is refused."""
    with pytest.raises(ValueError, match="child_tools names"):
        RLM("text -> answer", tools=[lookup], child_tools=["look"])


def test_dspys_positional_parameters_are_ours():
    """In its order and under its names; the predictors' names as well."""
    factory = dspy.LocalInterpreter
    sub_lm = scripted.lm(scripted.steps("x"))
    rlm = RLM("text -> answer", 3, 4, 500, True, [lookup], sub_lm, factory)
    assert (rlm.max_iters, rlm.max_llm_calls, rlm.max_output_chars, rlm.verbose) == (3, 4, 500, True)
    assert (list(rlm.tools), rlm.sub_lm) == (["lookup"], sub_lm)
    assert [name for name, _ in rlm.named_predictors()] == ["generate_action", "extract"]
    rlm.max_iters = 5
    assert rlm.budget.max_iters == 5


def test_a_prediction_has_what_dspys_has_and_the_run():
    """Outputs, trajectory as dicts, final_reasoning; and termination and run."""
    with dspy.context(lm=scripted.lm(scripted.steps("print(len(text))", "SUBMIT(answer=text[::-1], n=len(text))"))):
        pred = RLM("text: str -> answer: str, n: int")(text="abc")
    assert isinstance(pred, dspy.Prediction)
    assert (pred.answer, pred.n, pred.final_reasoning) == ("cba", 3, "go on")
    assert [sorted(entry) for entry in pred.trajectory] == [["code", "output", "reasoning"]] * 2
    assert pred.trajectory[0] == {"reasoning": "go on", "code": "print(len(text))", "output": "3"}
    assert pred.termination.kind == "submitted"
    assert len(pred.run.iterations) == 2
    json.dumps(pred.trajectory)


def test_a_prediction_is_plain_data_with_the_run_beside_it(tmp_path):
    """dspy writes its fields to JSON and CSV; termination and run go along in copies and pickles, and are no fields."""
    rlm = RLM("text: str -> answer: str")
    example = dspy.Example(text="a", answer="a").with_inputs("text")
    with dspy.context(lm=scripted.lm(scripted.steps("SUBMIT(answer=text)"))):
        pred = rlm(text="a")
        for how in ("json", "csv"):
            path = tmp_path / f"rows.{how}"
            dspy.Evaluate(
                devset=[example], metric=lambda *_: 1.0, display_progress=False, **{f"save_as_{how}": str(path)}
            )(rlm)
            assert "final_reasoning" in path.read_text()
    assert json.loads(json.dumps(pred.toDict())) == pred.toDict()
    assert list(pred.keys()) == ["trajectory", "final_reasoning", "answer"]
    for other in (pred.copy(), copy.deepcopy(pred), pickle.loads(pickle.dumps(pred))):
        assert (other.run, other.termination, other.answer) == (pred.run, pred.termination, "a")
    assert not hasattr(pred, "nothing")
    assert pred._repr_html_().startswith("<section")
    assert "SUBMIT" in pred._repr_html_()


def test_tools_are_called_by_position_and_by_name_with_dspys_coercion():
    """A dspy.Tool, a function and a coroutine function."""

    async def later(n: int) -> int:
        """Wait for a number."""
        return n + 1

    tools = [dspy.Tool(lookup, name="find", desc="Finds."), later]
    lm = scripted.lm(scripted.steps("SUBMIT(answer=find('a') + find(name='b') + str(later(1)))"))
    with dspy.context(lm=lm):
        assert RLM("text -> answer", tools=tools)(text="x").answer == "AB2"
    assert "find(name: str) -> str: Finds." in lm.engine_.prompts[0]


def test_a_tool_whose_arguments_are_data_shows_and_takes_them():
    """As of MCP and LangChain: ``**kwargs`` in the function, what they are in ``args``; and objects that are called."""

    async def remote(**kwargs):
        return json.dumps(kwargs)

    class Later:
        """Answers later."""

        async def __call__(self, word: str) -> str:
            return word[::-1]

    schema = {"query": {"type": "string"}, "most": {"type": "integer", "default": 3}, "where": {"type": "array"}}
    search = dspy.Tool(remote, "search", "Searches.", schema, {"query": str, "most": int, "where": list[str]})
    cell = "a = search('whale', where=['sea'])\nb = search(query='x', most=1)\nSUBMIT(answer=a + b + turn('ab'))"
    lm = scripted.lm(scripted.steps(cell))
    with dspy.context(lm=lm):
        pred = RLM("text -> answer", tools=[search, dspy.Tool(Later(), "turn")])(text="x")
    assert pred.answer == '{"query": "whale", "where": ["sea"]}{"query": "x", "most": 1}ba'
    assert "search(query: str, most: int = 3, where: list[str]): Searches." in lm.engine_.prompts[0]


@pytest.mark.parametrize("cell", ["search(query=3)", "search('a', 'b')"])
def test_arguments_that_do_not_fit_such_a_tool_are_an_exception_in_the_cell(cell):
    """dspy judges them by their schema; there are no more than it names."""
    search = dspy.Tool(lambda **kwargs: "found", "search", "Searches.", {"query": {"type": "string"}}, {"query": str})
    with dspy.context(lm=scripted.lm(scripted.steps(f"print({cell})", "SUBMIT(answer='x')"))):
        pred = RLM("text -> answer", tools=[search])(text="x")
    assert "search failed" in pred.trajectory[0]["output"]


def test_decision_outputs_are_warned_of():
    """As dspy's class does: code that SUBMITs has no probabilities of a provider's."""
    signature = dspy.Signature({"text": (str, dspy.InputField()), "sure": (list[Score], dspy.OutputField())})
    for cls in (STOCK, RLM):
        with pytest.warns(UserWarning, match="Noul, Choice,? and Score"):
            cls(signature)


def test_any_object_can_take_the_place_of_a_predictor():
    """It is called with the fields as keyword arguments; async only where it has acall."""
    seen = []

    def decide(**fields):
        seen.append(sorted(fields))
        return SimpleNamespace(reasoning="r", code="print(1)")

    def finish(**fields):
        seen.append(sorted(fields))
        return SimpleNamespace(answer="from extract")

    rlm = RLM("text -> answer", max_iters=1)
    rlm.generate_action, rlm.extract = decide, finish
    with dspy.context(lm=scripted.lm(scripted.steps("x"))):
        pred = rlm(text="x")
    assert seen == [["iteration", "repl_history", "variables_info"], ["repl_history", "variables_info"]]
    assert (pred.answer, pred.termination.kind) == ("from extract", "max_iters")
    assert pred.final_reasoning != "r"


class Person(pydantic.BaseModel):
    """Someone."""

    name: str
    born: int


class Rows(SandboxSerializable):
    """Rows that are lists inside."""

    def sandbox_setup(self):
        return "import json"

    def to_sandbox(self):
        return b"[1, 2, 3]"

    def sandbox_assignment(self, var_name, data_expr):
        return f"{var_name} = json.loads({data_expr})"

    def rlm_preview(self, max_chars=500):
        return "three rows"


HERE, PAGE = Path(__file__), dspy.Image("data:image/png;base64,iVBORw0KGgo=")
TYPED = {
    "str": ("text: str", "some text", "len(value)", "9"),
    "list": ("items: list[str]", ["a", "b"], "len(value)", "2"),
    "dict": ("table: dict[str, int]", {"a": 1}, "value['a']", "1"),
    "bytes": ("data: bytes", b"\x00\xff", "len(value)", "2"),
    "pydantic": ("person: Person", Person(name="Ada", born=1815), "value.born", "1815"),
    "datetime": ("when: dt.datetime", dt.datetime(2024, 5, 6), "value.year", "2024"),
    "set": ("names: set[str]", {"a"}, "len(value)", "1"),
    "image": ("page: dspy.Image", PAGE, "value is not None", "True"),
    "nan": ("number: float", float("nan"), "value != value", "True"),
    "none": ("maybe: str | None", None, "value is None", "True"),
    "file": ("doc: File", HERE, "value.name", HERE.name),
    "folder": ("docs: Folder", HERE.parent, "value.name", HERE.parent.name),
    "serializable": ("rows: Rows", Rows(), "len(value)", "3"),
    "image in a list": ("pages: list[dspy.Image | None]", [None, PAGE], "len(value)", "2"),
    "image by value": ("page: Image", Image(b"\x89PNG\r\n\x1a\n"), "value.media_type", "image/png"),
}


@pytest.mark.parametrize("field, value, code, answer", TYPED.values(), ids=TYPED)
def test_tuned_instructions_and_demos_reach_the_prompt_for_every_kind_of_input(field, value, code, answer):
    """Whatever the inputs, the prompt is the predictor's own, and the value arrives as what it is."""
    name, _, kind = field.partition(": ")
    annotation = eval(kind)
    signature = dspy.Signature({name: (annotation, dspy.InputField()), "answer": (str, dspy.OutputField())}, "Do it.")
    rlm = RLM(signature)
    rlm.generate_action.signature = rlm.generate_action.signature.with_instructions("TUNED WORDS")
    rlm.generate_action.demos = [
        dspy.Example(variables_info="v", repl_history="h", iteration="1", reasoning="DEMO WORDS", code="pass")
    ]
    lm = scripted.lm(scripted.steps(f"value = {name}\nprint('type:', type(value))", f"SUBMIT(answer=str({code}))"))
    with dspy.context(lm=lm):
        pred = rlm(**{name: value})
    assert pred.answer == answer, pred.trajectory
    for prompt in lm.engine_.prompts:
        assert "TUNED WORDS" in prompt
        assert "DEMO WORDS" in prompt
        assert "SUBMIT(answer: str)" in prompt
        assert "Do it." in prompt


def test_instructions_may_be_any_text_and_the_program_still_submits():
    """The contract is data: no optimizer can delete it."""
    rlm = RLM("text: str -> answer: str, n: int", tools=[lookup], max_llm_calls=7)
    rlm.generate_action.signature = rlm.generate_action.signature.with_instructions("Answer briefly.")
    lm = scripted.lm(scripted.steps("SUBMIT(answer=text, n=1)"))
    with dspy.context(lm=lm):
        assert rlm(text="x").termination.kind == "submitted"
    (prompt,) = lm.engine_.prompts
    for told in ("Answer briefly.", "SUBMIT(answer: str, n: int)", "lookup(name: str)", "llm_query", "7 sub-calls"):
        assert told in prompt


@pytest.mark.parametrize("cls", [RLM, STOCK], ids=["ours", "stock"])
def test_a_loaded_state_advertises_what_is_really_there(cls, tmp_path):
    """Neither tools nor limits travel in a state, also not in dspy's own, which writes them into its instructions."""
    cls("text -> answer", tools=[lookup], max_llm_calls=50).save(tmp_path / "state.json")
    rlm = RLM("text -> answer", max_llm_calls=5)
    rlm.load(tmp_path / "state.json")
    lm = scripted.lm(scripted.steps("SUBMIT(answer=text)"))
    with dspy.context(lm=lm):
        rlm(text="x")
    (prompt,) = lm.engine_.prompts
    assert "lookup(" not in prompt
    assert "50 sub" not in prompt
    assert "5 sub-calls" in prompt
    assert rlm.generate_action.signature.instructions in prompt.replace("\n        ", "\n")


def test_copies_own_their_state():
    """deepcopy and reset_copy share neither signatures nor demos; the latter forgets demos and keeps instructions."""
    rlm = RLM("text -> answer", tools=[lookup])
    rlm.generate_action.demos = [dspy.Example(reasoning="r", code="c")]
    own, fresh = rlm.deepcopy(), rlm.reset_copy()
    own.generate_action.signature.instructions = "changed"
    own.generate_action.demos.append(dspy.Example())
    assert rlm.generate_action.signature.instructions != "changed"
    assert len(rlm.generate_action.demos) == 1
    assert fresh.generate_action.demos == []
    assert fresh.generate_action.signature.instructions == rlm.generate_action.signature.instructions
    with dspy.context(lm=scripted.lm(scripted.steps("SUBMIT(answer=lookup(text))"))):
        assert own(text="a").answer == fresh(text="a").answer == "A"
