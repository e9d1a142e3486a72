"""DSPy's own kinds of values, and sub-agents, inside the REPL."""

from __future__ import annotations

import json
from types import SimpleNamespace

import dspy
import pytest
from dspy.primitives.sandbox_serializable import SandboxSerializable

from dspy_compat import RLM, installed

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


def test_an_image_is_a_handle_inside_and_reaches_the_model_that_is_asked_about_it():
    """The data never enters the REPL; llm_query(images=[page]) sends it."""

    def answer(messages):
        if decides(messages):
            return step("d = llm_query('what is it?', images=[page])\nSUBMIT(answer=f'{d} {table[0][\"a\"]} {page}')")
        return f"[[ ## reply ## ]]\nsaw {'image_url' in str(messages)}\n\n[[ ## completed ## ]]"

    lm = Scripted(answer)
    with dspy.context(lm=lm):
        pred = RLM(Look)(page=dspy.Image("data:image/png;base64,iVBORw0KGgo="), table=Table([{"a": 5}]))
    assert pred.answer == "saw True 5 ImageHandle(image='page')"
    told = str(lm.seen[0])
    assert "a table of 1 rows" in told
    assert "iVBORw0KGgo" not in told


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
