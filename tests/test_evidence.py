"""Evidence: spans of inputs that the host reads again before it takes a submission."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, create_model
from typing_extensions import TypedDict

from dszig_py import RLM, Evidence, File
from dszig_py.citing import cite
from dszig_py.evidence import MOST_CHARS, problem
from dszig_py.lm import ScriptedLM
from dszig_py.render import html
from dszig_py.typetree import types_within, values_within

BOOK = "It was a bright cold day in April, and the clocks were striking thirteen. " * 3
DOCS = ["first page", "the second page says 42", "third"]
SIGNATURE = "context: str, docs: list[str] -> answer: str, evidence: list[Evidence]"


def cell(code):
    return f"```python\n{code}\n```"


def run(*cells, signature=SIGNATURE, environment="process", **inputs):
    lm = ScriptedLM([cell(code) for code in cells])
    given_inputs = inputs or {"context": BOOK, "docs": DOCS}
    return RLM(signature, lm=lm, environment=environment)(**given_inputs), lm


@pytest.mark.parametrize("environment", ["process", "inprocess"])
def test_spans_are_made_by_place_by_text_and_by_item(environment):
    """Of a variable itself or by its name, of an item of a list, or wherever a text stands first."""
    code = """
e = [cite(context, 9, 15), cite("context", 9, 15), cite("clocks"), cite(docs[1], 21, 23), cite("docs[1]", 21), cite("42")]
SUBMIT(answer="x", evidence=e)
"""
    pred, _ = run(code, environment=environment)
    assert pred.evidence == [
        *[Evidence("context", 9, 15, "bright")] * 2,
        Evidence("context", 43, 49, "clocks"),
        *[Evidence("docs[1]", 21, 23, "42")] * 3,
    ]
    assert all(eval(e.variable, {"context": BOOK, "docs": DOCS})[e.start : e.end] == e.text for e in pred.evidence)


@pytest.mark.parametrize(
    ("record", "told"),
    [
        ({"variable": "context", "start": 9, "end": 15, "text": "dreary"}, "holds 'bright', not 'dreary'"),
        ({"variable": "context", "start": 9, "end": 9, "text": ""}, "is no span"),
        ({"variable": "context", "start": -5, "end": -1, "text": "een."}, "is no span"),
        ({"variable": "context", "start": 0, "end": 10**9, "text": BOOK}, "is no span"),
        ({"variable": "docs[7]", "start": 0, "end": 1, "text": "t"}, "is no item of docs"),
        ({"variable": "docs", "start": 0, "end": 1, "text": "f"}, "is no text"),
        ({"variable": "notes", "start": 0, "end": 1, "text": "f"}, "there is no input"),
        ({"variable": "docs[__import__('os')]", "start": 0, "end": 1, "text": "f"}, "is no item"),
        ({"variable": "context", "start": "a", "end": 1, "text": "f"}, "start"),
    ],
)
def test_a_submission_that_cites_what_is_not_there_is_refused(record, told):
    """At the line of SUBMIT, saying what the input holds; the model may correct it."""
    pred, lm = run(f"SUBMIT(answer='x', evidence=[{record!r}])", "SUBMIT(answer='x', evidence=[cite('clocks')])")
    assert pred.evidence == [Evidence("context", 43, 49, "clocks")]
    observation = lm.requests[1].messages[-1].content
    assert "SUBMIT was refused: evidence" in observation
    assert told in observation


def test_a_text_that_no_input_holds_cannot_be_cited():
    """cite raises in the cell; so it does for a span outside the text and for what is no input."""
    code = """
for arguments in [("no such words",), (context, 5, 5), (context, 0, 10**6), ("?", 1, 2), ("",)]:
    try: print(cite(*arguments))
    except ValueError as error: print(error)
SUBMIT(answer="x", evidence=[])
"""
    pred, _ = run(code)
    printed = pred.trajectory.iterations[0].execution.stdout
    assert printed.count("no input holds this text") == 2
    assert printed.count("no span of it") == 2
    assert "the inputs are context, docs" in printed


def test_code_that_changes_an_input_cannot_make_evidence_of_it():
    """The host reads what it was given, not what the REPL holds now."""
    pred, lm = run(
        "context = 'made up'\nSUBMIT(answer='x', evidence=[cite('made up')])", "SUBMIT(answer='', evidence=[])"
    )
    assert "holds 'It was ', not 'made up'" in lm.requests[1].messages[-1].content
    assert pred.evidence == []


def test_one_span_and_an_optional_one():
    """Evidence as a field's own type, alone, optional, or in a dict."""
    signature = "context: str -> best: Evidence, other: Evidence | None, all: dict[str, Evidence]"
    code = "SUBMIT(best=cite('cold'), other=None, all={'a': cite('day')})"
    pred, _ = run(code, signature=signature, context=BOOK)
    assert (pred.best.text, pred.other, pred.all["a"].start) == ("cold", None, BOOK.index("day"))


def test_the_contract_tells_of_cite_only_where_it_is_asked_for():
    """A signature without evidence has neither the function nor the word."""
    pred, _ = run("SUBMIT(answer='x', evidence=[])")
    assert "cite(variable, start, end)" in pred.trajectory.contract
    pred, _ = run("SUBMIT(answer=str('cite' in globals()))", signature="context -> answer", context=BOOK)
    assert "cite" not in pred.trajectory.contract
    assert pred.answer == "False"


def test_the_page_shows_answers_beside_their_spans():
    """Place and text of each, escaped, of a live prediction and of a saved trajectory."""
    pred, _ = run("SUBMIT(answer='x', evidence=[cite(context, 0, 14)])", context="<script>a</b>!", docs=[])
    for shown in (html.page(pred.trajectory), pred._repr_html_()):
        assert "<figcaption>context[0:14]</figcaption>" in shown
        assert "<blockquote>&lt;script&gt;a&lt;/b&gt;!</blockquote>" in shown


@given(st.text(), st.integers(-3, 40), st.integers(-3, 40), st.text(max_size=5))
def test_what_is_accepted_is_in_the_input(text, start, end, said):
    """Whatever is claimed: accepted exactly where the input has it there."""
    claimed = Evidence("t", start, end, said)
    accepted = problem(claimed, {"t": text}) == ""
    assert accepted == (0 <= start < end <= len(text) and text[start:end] == said)


@given(st.text())
def test_any_path_is_judged_and_none_is_run(variable):
    """A variable's name is anything a model writes."""
    assert problem(Evidence(variable, 0, 1, "z"), {"t": "abc", "d": ["abc"]}) != ""


@pytest.mark.parametrize("end", [10**5_000, -(10**5_000)], ids=["above", "below"])
def test_a_place_of_thousands_of_digits_is_no_place(end):
    """Python refuses to write such a number, in a message too."""
    assert "far beyond" in problem(Evidence("text", 0, end, "h"), {"text": "hello"})


def test_a_span_of_a_whole_book_is_no_quotation():
    """Longer than 20,000 characters is refused."""
    text = "x" * (MOST_CHARS + 1)
    assert "longer than 20,000" in problem(Evidence("t", 0, len(text), text), {"t": text})


def test_cite_by_itself_knows_no_inputs():
    """Outside a REPL there is nothing to cite."""
    with pytest.raises(ValueError, match="no input holds"):
        cite("x")


class Finding(BaseModel):
    claim: str
    source: Evidence | None = None
    more: list["Finding"] = []


@dataclasses.dataclass
class Plain:
    source: Evidence


class Named(NamedTuple):
    source: Evidence


class Typed(TypedDict):
    source: list[Evidence]


RECORDS = {"Finding": Finding, "Plain": Plain, "Named": Named, "Typed": Typed}


@pytest.mark.parametrize("name", RECORDS)
def test_evidence_in_a_class_is_held_to_the_same(name):
    """In a field of whatever kind of class, as deep as it goes: cite is there, and a made-up span is refused."""
    span = "[cite('day')]" if name == "Typed" else "cite('day')"
    record = f"{{'claim': 'c', 'source': {span}}}" if name == "Finding" else f"{{'source': {span}}}"
    deep = f"{{'claim': 'd', 'more': [{record}]}}" if name == "Finding" else record
    code = f"given = {deep}\nwrong = eval(repr(given).replace('day', 'lie'))\n"
    code += "try:\n    SUBMIT(found=wrong)\nexcept ValueError as error:\n    print(error)\nSUBMIT(found=given)"
    lm = ScriptedLM([cell(code)])
    pred = RLM(f"context -> found: {name}", lm=lm, types=RECORDS)(context=BOOK)
    assert "holds 'day', not 'lie'" in pred.trajectory.iterations[0].execution.stdout
    assert [one.text for one in values_within(pred.found) if isinstance(one, Evidence)] == ["day"]


def test_a_closing_reply_makes_nothing_up_either():
    """What a limit has ended is extracted by a model: a span that the inputs do not hold is no output, and told why."""
    said = {"answer": "cold", "evidence": [{"variable": "context", "start": 0, "end": 2, "text": "We"}]}
    lm = ScriptedLM([cell("print(1)"), json.dumps(said)])
    pred = RLM(SIGNATURE, lm=lm, max_iters=1)(context=BOOK, docs=DOCS)
    assert (pred.answer, pred.evidence) == ("cold", None)
    assert "context[0:2] holds 'It', not 'We'" in pred.termination.detail
    said["evidence"][0]["text"] = "It"
    lm = ScriptedLM([cell("print(1)"), json.dumps(said)])
    pred = RLM(SIGNATURE, lm=lm, max_iters=1)(context=BOOK, docs=DOCS)
    assert pred.evidence == [Evidence("context", 0, 2, "It")]


WRAPS = [
    lambda tp: list[tp],
    lambda tp: dict[str, tp],
    lambda tp: tp | None,
    lambda tp: tuple[int, tp],
    lambda tp: dataclasses.make_dataclass("Made", [("x", tp)]),
    lambda tp: create_model("Model", x=(tp, ...)),
]
LEAVES = st.sampled_from([(int, False), (Finding, True), (Evidence, True), (File, False)])
TYPES = st.recursive(
    LEAVES, lambda inner: st.builds(lambda wrap, made: (wrap(made[0]), made[1]), st.sampled_from(WRAPS), inner)
)


@given(TYPES)
def test_a_type_is_looked_through_whatever_it_is_made_of(made):
    """What was put into a type is found in it, nothing else is, and each is met once, also where a class holds itself."""
    tp, holds = made
    found = list(types_within(tp))
    assert (Evidence in found) == holds
    assert len(found) == len({id(one) for one in found})


@given(st.recursive(st.integers(), lambda inner: st.lists(inner, max_size=3), max_leaves=20))
def test_values_are_met_in_their_order(value):
    """As a walk in depth meets them."""
    numbers = [one for one in values_within(value) if isinstance(one, int)]
    assert numbers == [int(part) for part in re.findall(r"-?\d+", repr(value))]


def test_no_depth_of_values_is_too_much():
    """A submission may be nested as deep as a frame allows."""
    value: Any = "end"
    for _ in range(100_000):
        value = [value]
    assert sum(1 for _ in values_within(value)) == 100_001
