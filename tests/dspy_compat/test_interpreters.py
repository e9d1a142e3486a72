"""DSPy interpreters that run the code where a factory is given."""

from __future__ import annotations

import asyncio
import inspect
import sys

import dspy
import dspy_scripted as scripted
import pytest
from dspy_scripted import asked, fields, steps

import dspy_compat
from dspy_compat import RLM

SUB_AGENTS = pytest.mark.skipif(dspy.__version__ == "3.4.0", reason="dspy 3.4.0 has no sub-agents")


class Noted:
    """A dspy interpreter around dspy's own, which takes down what is asked of it."""

    made: list[Noted]

    def __init__(self):
        self.inner = dspy.LocalInterpreter()
        self.executed, self.ended = [], 0
        type(self).made.append(self)

    @property
    def tools(self):
        return self.inner.tools

    @property
    def output_fields(self):
        return self.inner.output_fields

    @output_fields.setter
    def output_fields(self, told):
        self.inner.output_fields = told

    def start(self):
        self.inner.start()

    def execute(self, code, variables=None):
        self.executed.append((code, variables))
        return self.inner.execute(code, variables)

    def shutdown(self):
        self.ended += 1
        self.inner.shutdown()


@pytest.fixture
def noted():
    """The class, with nothing made yet."""
    return type("Noted", (Noted,), {"made": [], "execution_instructions": "A runtime of stone."})


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_each_iteration_is_one_execution_with_the_inputs_as_variables(asynchronous, noted):
    """And each call has an interpreter of its own, shut down after it."""
    lm = scripted.lm(steps("print(len(text))", "SUBMIT(answer=text, n=2)"))
    rlm = RLM("text: str -> answer: str, n: int", interpreter_factory=noted)
    with dspy.context(lm=lm):
        for text in ("a", "b"):
            pred = asyncio.run(rlm.acall(text=text)) if asynchronous else rlm(text=text)
            assert (pred.answer, pred.n, pred.trajectory[0]["output"]) == (text, 2, "1")
    assert [one.executed for one in noted.made] == [
        [("print(len(text))", {"text": text}), ("SUBMIT(answer=text, n=2)", {"text": text})] for text in ("a", "b")
    ]
    assert [one.ended for one in noted.made] == [1, 1]
    assert all("A runtime of stone." in prompt for prompt in lm.engine_.prompts)


def test_it_is_shut_down_where_the_run_fails(noted):
    """Whatever ends the run."""
    from dspy.lm15 import ServerError

    with dspy.context(lm=scripted.lm(steps("print(1)", ServerError("down")))):
        pred = RLM("text -> answer", interpreter_factory=noted)(text="x")
    assert (pred.termination.cause, [one.ended for one in noted.made]) == ("provider", [1])


def test_the_settings_choose_over_dspys_default_and_the_call_over_both(noted):
    """PythonInterpreter in the constructor counts as none given, as in dspy: its own class has it there as the default."""
    other = type("Other", (noted,), {"made": []})
    with dspy.context(lm=scripted.lm(steps("SUBMIT(answer=text)")), interpreter_factory=noted):
        rlm = RLM("text -> answer", interpreter_factory=dspy.PythonInterpreter)
        assert rlm(text="x").answer == "x"
        assert rlm(text="x", interpreter_factory=other).answer == "x"
    assert (len(noted.made), len(other.made)) == (1, 1)


@SUB_AGENTS
@pytest.mark.filterwarnings("ignore:Passing OpenAI-style message:DeprecationWarning")  # between dspy's own parts
@pytest.mark.parametrize("interpreter", [None, dspy.LocalInterpreter], ids=["ours", "local"])
def test_sub_agents_work_wherever_the_code_runs(interpreter):
    """Predict, ChainOfThought, ReActV2 and RLM: built inside, run on the host, on the same kind of environment."""

    def lookup(name: str) -> str:
        """Look a name up."""
        return name.upper()

    code = """
import dspy
told = [dspy.Predict("text -> label")(text="one").label, dspy.ChainOfThought("text -> label")(text="two").label]
told.append(dspy.ReActV2("text -> label", tools=[lookup], max_iters=2)(text="three").label)
told.append(dspy.RLM("note -> label")(note="four").label)
SUBMIT(answer=" ".join(told))"""
    values = {"tool_calls": '{"tool_calls": [{"name": "submit", "args": {"label": "L"}}]}', "label": "L"}
    script = steps(code, other=lambda prompt: fields(**{name: values.get(name, "r") for name in asked(prompt)}))

    def answer(prompt, last):
        nested = scripted.is_action(prompt) and "  note:" in last
        return scripted.step("SUBMIT(label=note)") if nested else script(prompt, last)

    with dspy_compat.installed(dspy), dspy.context(lm=scripted.lm(answer)):
        pred = dspy.RLM("text -> answer", tools=[lookup], interpreter_factory=interpreter)(text="x")
    assert pred.answer == "L L L four", pred.trajectory


REACHING = {
    "a file to write": "dspy.RLM('q -> y', trace=PATH)(q='1')",
    "a folder to write in": "dspy.RLM('q -> y', output_dir=PATH)(q='1')",
    "an environment": "dspy.RLM('q -> y', environment='inprocess')(q='1')",
    "a model": "dspy.RLM('q -> y', sub_lm='openai/x')(q='1')",
    "models": "dspy.RLM('q -> y', lms={'a': 'openai/x'})(q='1')",
    "a budget": "dspy.RLM('q -> y', budget={})(q='1')",
    "a path": "dspy.RLM('q: pathlib.Path -> y')(q=PATH)",
    "a path of pydantic's": "dspy.RLM('q: pydantic.FilePath -> y')(q=PATH)",
    "a file": "dspy.RLM('q: list[dszig_py.File] -> y')(q=[PATH])",
    "a folder": "dspy.RLM('q: dszig_py.Folder -> y')(q=PATH)",
    "an image": "dspy.RLM('q: dszig_py.Image -> y')(q=PATH)",
    "an image said by a model": "dspy.ChainOfThought('q -> y: dszig_py.Image')(q='1')",
    "an import": "dspy.Predict('q -> y: pydantic.ImportString')(q='1')",
    "a module": "dspy.Predict('q: antigravity.X -> y')(q='1')",
    "a module with instructions": "dspy.Predict(dspy.Signature('q: list[this.X] -> y', 'do it'))(q='1')",
    "the environment": "dspy.Predict('q: os.environ -> y')(q='1')",
    "what an error says of it": "dspy.Predict('q -> y: list[os.environ.x]')(q='1')",
    "settings of dspy's": "dspy.Predict(dspy.Signature('q: dspy.settings.lm.x -> y', 'do it'))(q='1')",
    "a module that typing has": "dspy.Predict('q: typing.sys.modules.x -> y')(q='1')",
    "code in brackets": "dspy.Predict('q: list[open(PATH)] -> y')(q='1')",
    "no text": "dspy.Predict({'q': ('str', None)})(q='1')",
    "callbacks": "dspy.Predict('q -> y', callbacks=['x'])(q='1')",
    "another signature in the call": "dspy.Predict('q -> y')(q='1', signature='q -> y: dszig_py.Image')",
    "an interpreter in the call": "dspy.RLM('q -> y')(q='1', interpreter_factory='x')",
}


@SUB_AGENTS
@pytest.mark.parametrize("code", REACHING.values(), ids=REACHING)
def test_sub_agents_reach_nothing_of_this_machine(code, tmp_path):
    """What code builds is run by this process: no option and no type of it names a file, a model or an import."""
    (tmp_path / "secret").write_bytes(b"\x89PNG\r\n\x1a\n")
    before = (tmp_path / "secret").stat().st_mtime_ns
    cell = f"import dspy\nPATH = {str(tmp_path / 'secret')!r}\n"
    cell += f"try:\n    {code}\nexcept Exception as error:\n    SUBMIT(answer=str(error))\nSUBMIT(answer='it ran')"
    asked_models = []

    def other(prompt):
        asked_models.append(prompt)
        return fields(y=str(tmp_path / "secret"))

    with dspy_compat.installed(dspy), dspy.context(lm=scripted.lm(steps(cell, other=other))):
        answer = dspy.RLM("text -> answer", max_iters=1)(text="x").answer
    assert "CodeInterpreterError" in answer and " not " in answer
    assert asked_models == [] and (tmp_path / "secret").stat().st_mtime_ns == before
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]
    assert not {"antigravity", "this"} & {*sys.modules}


@SUB_AGENTS
@pytest.mark.filterwarnings("ignore:Passing OpenAI-style message:DeprecationWarning")  # between dspy's own parts
@pytest.mark.parametrize(
    "declared",
    ["int | None", "list[Literal['a', 'b']]", "dict[str, typing.Any]", "datetime.date", "Optional[decimal.Decimal]"],
)
def test_sub_agents_take_every_type_that_is_data(declared):
    """What is refused is what reaches this machine: the types that DSPy's documentation shows are taken as they were."""
    code = f"import dspy\nSUBMIT(answer=str(dspy.Predict({f'q -> y: {declared}'!r})(q='1').y))"
    values = {"int | None": "3", "list[Literal['a', 'b']]": '["a"]', "dict[str, typing.Any]": '{"k": 1}'}
    said = values.get(declared, "2024-01-02" if "date" in declared else "1.5")
    with dspy.context(lm=scripted.lm(steps(code, other=lambda _: fields(y=said)))):
        answer = RLM("text -> answer", max_iters=1)(text="x").answer
    assert answer.replace("'", '"') == said


@SUB_AGENTS
@pytest.mark.filterwarnings("ignore:Passing OpenAI-style message:DeprecationWarning")  # between dspy's own parts
def test_a_nested_rlm_of_dspys_own_has_no_unchecked_sub_agents(noted):
    """Where our class is not installed, the nested RLM is dspy's: its facade would look any name up in this process."""

    def answer(prompt, last):
        nested = scripted.is_action(prompt) and "zebra" in last
        return scripted.step("SUBMIT(label=zebra)") if nested else script(prompt, last)

    script = steps("import dspy\nSUBMIT(answer=str(dspy.RLM('zebra -> label')(zebra='four').label))")
    with dspy.context(lm=scripted.lm(answer)):
        assert RLM("text -> answer", max_iters=1, interpreter_factory=noted)(text="x").answer == "four"
    outer, nested = noted.made
    assert "__dspy_construct__" in outer.tools and "llm_query" in nested.tools
    assert not {"__dspy_construct__", "__dspy_call__"} & {*nested.tools}


@SUB_AGENTS
def test_an_interpreter_sees_the_parameters_of_what_sub_agents_call(noted):
    """dspy.PythonInterpreter calls by the names that it finds in a tool's signature."""
    with dspy.context(lm=scripted.lm(steps("SUBMIT(answer=text)"))):
        RLM("text -> answer", interpreter_factory=noted)(text="x")
    tools = noted.made[0].tools
    assert list(inspect.signature(tools["__dspy_construct__"]).parameters) == [
        "kind",
        "signature",
        "attr_name",
        "kwargs",
    ]
    assert list(inspect.signature(tools["__dspy_call__"]).parameters) == ["handle", "inputs"]


def test_without_sub_calls_there_are_no_sub_agents_either(noted):
    """Strategy(sub_calls=False) means that code asks no model in any way."""
    from dszig_py import Strategy

    lm = scripted.lm(steps("import dspy\ndspy.Predict('q -> a')(q='1')", "SUBMIT(answer=text)"))
    with dspy.context(lm=lm):
        pred = RLM("text -> answer", strategy=Strategy(sub_calls=False))(text="x")
    assert "import dspy" not in lm.engine_.prompts[0]
    assert "ModuleNotFoundError" in pred.trajectory[0]["output"]
    assert len(lm.engine_.prompts) == 2
