"""DSPy's own kinds of values, and sub-agents, inside the REPL."""

from __future__ import annotations

import copy
import json
import uuid
from types import SimpleNamespace

import dspy
import dspy_scripted as scripted
import pydantic
import pytest
from dspy.lm15 import ServerError
from dspy.primitives.sandbox_serializable import SandboxSerializable
from dspy_scripted import fields, steps

from dspy_compat import RLM, installed
from dszig_py import Image, Strategy
from dszig_py.environments.process import ProcessEnvironment

SUB_AGENTS = pytest.mark.skipif(dspy.__version__ == "3.4.0", reason="dspy 3.4.0 has no sub-agents")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # a fake LM in dspy's older style


class Scripted(dspy.BaseLM):
    """Answers from a function of the messages."""

    def __init__(self, answer):
        super().__init__(model="scripted")
        self.answer = answer
        self.seen = []

    def forward(self, prompt=None, messages=None, **options):
        messages = messages or [{"role": "user", "content": prompt}]
        self.seen.append(messages)
        message = SimpleNamespace(content=self.answer(messages))
        usage = {"prompt_tokens": 10, "completion_tokens": 5}
        return SimpleNamespace(
            choices=[SimpleNamespace(message=message, finish_reason="stop")], usage=usage, model="scripted"
        )


def step(code):
    return f"[[ ## reasoning ## ]]\nr\n\n[[ ## code ## ]]\n```python\n{code}\n```\n\n[[ ## completed ## ]]"


def decides(messages):
    return "[[ ## code ## ]]" in str(messages[-1]["content"])


class Table(SandboxSerializable):
    def __init__(self, rows):
        self.rows = rows

    def sandbox_setup(self):
        return "import json"

    def to_sandbox(self):
        return json.dumps(self.rows).encode()

    def sandbox_assignment(self, var_name, data_expr):
        return f"{var_name} = json.loads({data_expr})"

    def rlm_preview(self, max_chars=500):
        return f"a table of {len(self.rows)} rows"


class Look(dspy.Signature):
    """Look at a page and a table."""

    page: dspy.Image = dspy.InputField()
    table: Table = dspy.InputField()
    answer: str = dspy.OutputField()


@pytest.mark.parametrize("strategy", [Strategy(), Strategy(sub_calls=False)], ids=["usual", "without sub-calls"])
@pytest.mark.parametrize("interpreter", [None, dspy.LocalInterpreter], ids=["ours", "local"])
def test_a_sandbox_serializable_input_is_what_its_own_code_makes_of_it(interpreter, strategy):
    """Wherever the code runs; what the model is told of it is its own preview, and edits to it stay in ours."""

    def answer(messages):
        return step("table.append({'a': 1})\nSUBMIT(answer=str(table[0]['a'] + len(table)))")

    lm = Scripted(answer)
    with dspy.context(lm=lm):
        pred = RLM(Rows, strategy=strategy)(table=Table([{"a": 5}]), interpreter_factory=interpreter)
    assert pred.answer == "7", pred.trajectory
    assert "a table of 1 rows" in str(lm.seen[0])


class Rows(dspy.Signature):
    """Look at a table."""

    table: Table = dspy.InputField()
    answer: str = dspy.OutputField()


@pytest.mark.parametrize("interpreter", [None, dspy.LocalInterpreter], ids=["ours", "local"])
def test_an_image_is_a_handle_inside_and_reaches_the_model_that_is_asked_about_it(interpreter):
    """The data never enters the REPL; llm_query(images=[page]) sends it."""

    def answer(messages):
        if decides(messages):
            return step("d = llm_query('what is it?', images=[page])\nSUBMIT(answer=f'{d} {table[0][\"a\"]}')")
        return f"[[ ## reply ## ]]\nsaw {'image_url' in str(messages)}\n\n[[ ## completed ## ]]"

    lm = Scripted(answer)
    with dspy.context(lm=lm):
        rlm = RLM(Look, interpreter_factory=interpreter)
        pred = rlm(page=dspy.Image("data:image/png;base64,iVBORw0KGgo="), table=Table([{"a": 5}]))
    assert pred.answer == "saw True 5"
    told = str(lm.seen[0])
    assert "a table of 1 rows" in told
    assert "iVBORw0KGgo" not in told


class Report(pydantic.BaseModel):
    """Pages with a title."""

    title: str
    pages: list[dspy.Image] = []


PAGE = dspy.Image("data:image/png;base64,iVBORw0KGgo=")
INSIDE = {
    "optional": (dspy.Image | None, PAGE, "doc"),
    "dict": (dict[str, dspy.Image], {"a": PAGE}, "doc['a']"),
    "nested list": (list[list[dspy.Image]], [[PAGE, PAGE]], "doc[0][1]"),
    "list with none": (list[dspy.Image | None], [None, PAGE], "doc[1]"),
    "model": (Report, Report(title="Spring", pages=[PAGE]), "doc.pages[0]"),
    "rows of a file": (Report, {"title": "x", "pages": [{"url": PAGE.url}]}, "doc.pages[0]"),
    "list of models": (list[Report], [Report(title="x"), Report(title="y", pages=[PAGE])], "doc[1].pages[0]"),
}


@pytest.mark.parametrize("interpreter", [None, dspy.LocalInterpreter], ids=["ours", "local"])
@pytest.mark.parametrize("tp, value, path", INSIDE.values(), ids=INSIDE)
def test_images_inside_a_value_are_handles_too(tp, value, path, interpreter):
    """Wherever the declared type says that there are some; what is given stays as it was."""

    def answer(messages):
        if decides(messages):
            return step(f"print(doc)\nSUBMIT(answer=llm_query('what is it?', images=[{path}]))")
        return f"[[ ## reply ## ]]\nsaw {'image_url' in str(messages)}\n\n[[ ## completed ## ]]"

    if interpreter is not None:
        path = path.replace(".pages", "['pages']")  # records are dicts in dspy's interpreters
    lm, before = Scripted(answer), copy.deepcopy(value)
    signature = dspy.Signature({"doc": (tp, dspy.InputField()), "answer": (str, dspy.OutputField())})
    with dspy.context(lm=lm):
        pred = RLM(signature, max_iters=2, interpreter_factory=interpreter)(doc=value)
    assert pred.answer == "saw True", pred.trajectory
    assert "iVBORw0KGgo" not in str(lm.seen[0])
    assert value == before


def test_a_typed_sub_call_takes_an_image_by_its_handle():
    """What the REPL holds in its place is as good as the image."""

    def answer(messages):
        if decides(messages):
            return step("d = predict('page: Image -> shade: str', page=page)\nSUBMIT(answer=d)")
        return f'[[ ## reply ## ]]\n{{"shade": "saw {"image_url" in str(messages)}"}}\n\n[[ ## completed ## ]]'

    lm = Scripted(answer)
    with dspy.context(lm=lm):
        pred = RLM("page: dspy.Image -> answer")(page=dspy.Image("data:image/png;base64,iVBORw0KGgo="))
    assert pred.answer == "saw True"


def test_an_image_of_the_core_is_an_input_by_value():
    """In a signature class of dspy's, where it crosses as its bytes."""

    class Scan(dspy.Signature):
        """Look."""

        page: Image = dspy.InputField()
        answer: str = dspy.OutputField()

    def answer(messages):
        if decides(messages):
            return step("SUBMIT(answer=page.media_type + ' ' + llm_query('what?', images=[page]))")
        return f"[[ ## reply ## ]]\nsaw {'image_url' in str(messages)}\n\n[[ ## completed ## ]]"

    with dspy.context(lm=Scripted(answer)):
        assert RLM(Scan)(page=Image(b"\x89PNG\r\n\x1a\n")).answer == "image/png saw True"


def test_only_image_inputs_can_be_sent():
    """Code cannot make up an image, or an address to fetch."""

    def answer(messages):
        if len(lm.seen) == 1:
            return step("llm_query('x', images=[{'image': 'http://127.0.0.1/secret'}])")
        return step("SUBMIT(answer='end')")

    lm = Scripted(answer)
    with dspy.context(lm=lm):
        pred = RLM("text -> answer")(text="t")
    assert "no image input is called" in pred.trajectory[0]["output"]


@SUB_AGENTS
def test_sub_agents_run_on_the_host_under_the_runs_budget_with_a_trace_of_their_own():
    """import dspy works inside; each of its LM calls is one of max_llm_calls; the optimizer's trace holds ours only."""
    code = """
import dspy
label = dspy.Predict("text -> label")(text="hello").label
inner = dspy.RLM("context, question -> answer")(context="zz", question="nested").answer
print(budget()["llm_calls"])
SUBMIT(answer=label + inner)
"""

    def answer(messages):
        if not decides(messages):
            return "[[ ## label ## ]]\nL\n\n[[ ## completed ## ]]"
        return step("SUBMIT(answer='N')" if "nested" in str(messages[-1]["content"]).split("Functions in")[0] else code)

    with installed(dspy), dspy.context(lm=Scripted(answer), trace=[]):
        rlm = RLM("text -> answer", max_llm_calls=10)
        pred = rlm(text="t")
        trace = dspy.settings.trace
    assert pred.answer == "LN"
    assert pred.trajectory[0]["output"].splitlines()[0] == "8"
    assert [predictor for predictor, _, _ in trace] == [rlm.generate_action]


@pytest.fixture
def memory_cache():
    before = dspy.cache
    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=True)
    yield
    dspy.cache = before


@SUB_AGENTS
def test_a_sub_agents_cache_hits_cost_nothing_and_its_failures_neither(memory_cache):
    """What was paid for is counted once, also from eight threads of a cell; a hit uses up a sub-call, and no more."""
    text = f"{uuid.uuid4()}"
    code = f"""
import dspy
from concurrent.futures import ThreadPoolExecutor
ask = lambda n: dspy.Predict("text -> label")(text=f"{text} {{n}}").label
left = [budget()["llm_calls"]]
with ThreadPoolExecutor(8) as pool:
    answers = list(pool.map(ask, range(8)))
left.append(budget()["llm_calls"])
answers += [ask(n) for n in range(8)]
left.append(budget()["llm_calls"])
try:
    ask("DOWN")
except RuntimeError as error:
    print("failed")
left.append(budget()["llm_calls"])
print(len(set(answers)))
SUBMIT(answer=str(left))
"""

    def reply(prompt):
        return ServerError("down") if "DOWN" in prompt else fields(label=prompt.rpartition(text)[2].split()[0])

    lm = scripted.lm(steps(code, other=reply), cache=True)
    with dspy.context(lm=lm):
        pred = RLM("text -> answer", max_llm_calls=20, tools=[])(text="t")
    assert pred.answer == "[20, 12, 4, 4]", pred.trajectory
    assert len([p for p in lm.engine_.prompts if "DOWN" not in p]) == 9
    assert (pred.run.usage.calls, pred.run.usage.input_tokens) == (9, sum(len(p) // 4 for p in lm.engine_.prompts[:9]))


@SUB_AGENTS
def test_each_completion_a_sub_agent_asks_for_is_a_call():
    """Three of them are three of max_llm_calls; the tokens are counted once."""
    lm = scripted.lm(
        steps(
            "import dspy\ndspy.Predict('q -> a')(q='1', config={'n': 3})\nSUBMIT(answer=str(budget()['llm_calls']))",
            other=lambda p: fields(a="A"),
        )
    )
    with dspy.context(lm=lm):
        pred = RLM("text -> answer", max_llm_calls=10)(text="t")
    assert pred.answer == "7", pred.trajectory


def test_a_data_frame_is_one_inside_where_pandas_is_allowed():
    """It arrives as a data frame, by value."""
    pd = pytest.importorskip("pandas")
    pytest.importorskip("numpy")
    lm = scripted.lm(steps("SUBMIT(total=int(table['n'].sum()))"))
    with dspy.context(lm=lm):
        pred = RLM("table -> total: int", environment=ProcessEnvironment(packages=["pandas", "numpy"]))(
            table=pd.DataFrame({"n": [1, 2, 3]})
        )
    assert pred.total == 6, pred.trajectory
