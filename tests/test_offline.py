"""The offline stand-in: real runs over real text, typed outputs of every kind, and no model anywhere."""

from __future__ import annotations

import asyncio
import copy
import datetime as dt
import json
import pickle
import pydoc_data.topics
import random
from collections.abc import Callable
from typing import Any, Literal, Optional

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field, TypeAdapter

from dszig_py import RLM, Budget, InputField, OutputField, Strategy, prompts
from dszig_py.contract import compile_contract
from dszig_py.lm import Message, OfflineLM, Request, ScriptedLM
from dszig_py.lm._offline_answers import NOTHING, NOTHING_FOUND
from dszig_py.lm._offline_code import ASK, WHO
from dszig_py.signature import Signature
from dszig_py.trajectory import Action, Execution, Iteration, Prediction
from dszig_py.usage import Remaining

REFERENCE = "\n\n".join(pydoc_data.topics.topics[name] for name in sorted(pydoc_data.topics.topics))
QUESTION = "What does the with statement do?"
FACTS = """\
The lighthouse of Vell was built in 1871 by Ada Mornay. It stands on a rock two miles off the coast.

Its lamp burned whale oil until 1904-05-12, when it was made electric. The colour of the lamp is green.

The keeper of Vell kept 14 goats. Nobody has lived there since.
"""


def run(signature: Any, *, lm: Any = "offline", inputs: dict[str, Any], **options: Any) -> Prediction:
    return RLM(signature, lm=lm, **options)(**inputs)


def codes(prediction: Prediction) -> list[tuple[str, ...]]:
    return [iteration.action.cells for iteration in prediction.trajectory.iterations]


def ask(text: str, schema: dict[str, Any] | None = None) -> str:
    return asyncio.run(OfflineLM().complete(Request((Message("user", text),), schema=schema))).text


@pytest.fixture(scope="module")
def reference() -> Prediction:
    return run("context: str, question: str -> answer: str", inputs={"context": REFERENCE, "question": QUESTION})


class TestReference:
    def test_answers_from_the_text(self, reference):
        """A question about the language reference is answered with the sentences that answer it."""
        assert "context manager" in reference.answer
        assert "__enter__" in reference.answer
        assert len(reference.answer) < 1_000

    def test_every_sentence_is_in_the_text(self, reference):
        """The answer is extracted: its words stand in the input in this order."""
        flat = " ".join(REFERENCE.split())
        assert all(part.strip() in flat for part in reference.answer.split(". "))

    def test_submits_within_four_iterations_after_sub_calls(self, reference):
        """The run is a real one: code, sub-calls, SUBMIT."""
        assert reference.termination.kind == "submitted"
        assert len(reference.trajectory.iterations) <= 4
        calls = [call for iteration in reference.trajectory.iterations for call in iteration.sub_calls]
        assert 2 <= len(calls) <= 6
        assert not any(call.error for call in calls)

    def test_says_what_it_is(self, reference):
        """Each action's reasoning says that no model is at work."""
        assert all(iteration.action.reasoning.startswith(WHO) for iteration in reference.trajectory.iterations)

    def test_code_runs_clean(self, reference):
        """No cell fails, and nothing is wrong with a reply's form."""
        assert not any(i.execution.error or i.action.problem for i in reference.trajectory.iterations)

    def test_costs_nothing(self, reference):
        """Cost is known to be zero, tokens are estimated."""
        assert reference.usage.cost == 0.0
        assert reference.usage.input_tokens > 0
        assert reference.usage.estimated

    def test_two_runs_are_the_same(self, reference):
        """The same request gives the same reply, so code and answer agree between runs."""
        again = run("context: str, question: str -> answer: str", inputs={"context": REFERENCE, "question": QUESTION})
        assert (codes(again), again.answer) == (codes(reference), reference.answer)


class Lighthouse(BaseModel):
    name: str
    year: int
    tags: list[str]
    note: str = ""


TYPES: list[tuple[str, Callable[[Any], bool]]] = [
    ("str", lambda v: "green" in v),
    ("int", lambda v: isinstance(v, int)),
    ("float", lambda v: isinstance(v, float)),
    ("bool", lambda v: v is True),
    ("Literal['red', 'green', 'blue']", lambda v: v == "green"),
    ("Literal[1, 2]", lambda v: v in (1, 2)),
    ("list[str]", lambda v: any("green" in s for s in v)),
    ("list[int]", lambda v: all(isinstance(n, int) for n in v)),
    ("list[float]", lambda v: isinstance(v, list)),
    ("list[dict[str, int]]", lambda v: v == []),
    ("dict[str, int]", lambda v: v == {}),
    ("str | None", lambda v: "green" in v),
    ("int | None", lambda v: isinstance(v, int)),
    ("date", lambda v: isinstance(v, dt.date)),
    ("datetime", lambda v: isinstance(v, dt.datetime)),
    ("time", lambda v: isinstance(v, dt.time)),
    ("bytes", lambda v: b"green" in v),
    ("set[str]", lambda v: isinstance(v, set) and len(v) > 0),
    ("tuple[str, int]", lambda v: isinstance(v[0], str) and isinstance(v[1], int)),
    ("tuple[str, ...]", lambda v: "green" in v[0]),
    ("Lighthouse", lambda v: isinstance(v, Lighthouse) and v.tags != []),
    ("list[Lighthouse]", lambda v: v == []),
    ("Optional[Lighthouse]", lambda v: v is None or isinstance(v, Lighthouse)),
]
NAMES = {"Lighthouse": Lighthouse, "date": dt.date, "datetime": dt.datetime, "time": dt.time, "Optional": Optional}


class TestTypedOutputs:
    @pytest.mark.parametrize(("type_", "holds"), TYPES, ids=[name for name, _ in TYPES])
    def test_submits(self, type_, holds):
        """An output of each type is submitted, validated, and read off the text where it can be."""
        inputs = {"context": FACTS * 10, "question": "What colour is the lamp of Vell?"}
        prediction = run(f"context: str, question: str -> out: {type_}", types=NAMES, inputs=inputs)
        assert prediction.termination.kind == "submitted"
        assert len(prediction.trajectory.iterations) <= 4
        assert holds(prediction.out)

    def test_numbers_and_dates_are_read_off_the_answer(self):
        """The number and the date come from the sentences found."""
        inputs = {"context": FACTS, "question": "When was the lamp made electric, which burned whale oil?"}
        assert run("context, question -> day: date", types=NAMES, inputs=inputs).day == dt.date(1904, 5, 12)
        inputs["question"] = "How many goats did the keeper keep?"
        assert run("context, question -> goats: int", inputs=inputs).goats == 14

    def test_many_outputs_at_once(self):
        """One SUBMIT fills all outputs."""
        signature = "context, question -> answer: str, year: int, sure: bool, quotes: list[str]"
        prediction = run(signature, inputs={"context": FACTS, "question": "Who built the lighthouse of Vell?"})
        assert prediction.termination.kind == "submitted"
        assert "Ada Mornay" in prediction.answer
        assert prediction.year == 1871
        assert prediction.sure
        assert prediction.quotes

    def test_constraints_are_kept(self):
        """Bounds of numbers and lengths, shown as JSON schema in the contract, hold for what is submitted."""

        class Rating(BaseModel):
            stars: int = Field(ge=1, le=5)
            title: str = Field(max_length=20)
            parts: list[str] = Field(min_length=2)

        prediction = run("text -> rating: Rating", types={"Rating": Rating}, inputs={"text": FACTS})
        assert prediction.termination.kind == "submitted"
        assert 1 <= prediction.rating.stars <= 5

    def test_constrained_fields_are_kept(self):
        """The same for the constraints of a signature's own fields."""

        class Rate(BaseModel):
            """Rate the text."""

            text: str = InputField()
            stars: int = OutputField(ge=1, le=5)
            title: str = OutputField(max_length=20)
            parts: list[str] = OutputField(min_length=2)

        prediction = run(Rate, inputs={"text": FACTS})
        assert prediction.termination.kind == "submitted"
        assert 1 <= prediction.stars <= 5
        assert len(prediction.title) <= 20
        assert len(prediction.parts) == 2

    def test_nothing_relevant(self):
        """Where nothing matches, the outputs say so: a sentence, False, zero, None."""
        signature = "context, question -> answer: str, found: bool, n: int, maybe: int | None"
        prediction = run(signature, inputs={"context": FACTS, "question": "Quantum chromodynamics?"})
        assert prediction.outputs == {"answer": NOTHING_FOUND, "found": False, "n": 0, "maybe": None}


class TestLimits:
    def test_without_sub_calls(self):
        """No sub-call left: the sentences are chosen in its own code, and the run is submitted."""
        for options in ({"max_llm_calls": 0}, {"strategy": Strategy(sub_calls=False)}):
            inputs = {"context": REFERENCE, "question": QUESTION}
            prediction = run("context, question -> answer", inputs=inputs, **options)
            assert prediction.termination.kind == "submitted"
            assert "context manager" in prediction.answer
            assert not any(iteration.sub_calls for iteration in prediction.trajectory.iterations)

    def test_with_few_sub_calls(self):
        """It asks no more often than the budget allows."""
        inputs = {"context": REFERENCE, "question": QUESTION}
        prediction = run("context, question -> answer", inputs=inputs, max_llm_calls=2)
        assert prediction.termination.kind == "submitted"
        assert sum(len(iteration.sub_calls) for iteration in prediction.trajectory.iterations) == 2

    @pytest.mark.parametrize("max_iters", [1, 2, 3])
    def test_last_iteration_submits(self, max_iters):
        """However few iterations there are, the last one submits."""
        inputs = {"context": REFERENCE, "question": QUESTION}
        prediction = run("context, question -> answer, n: int", inputs=inputs, max_iters=max_iters)
        assert prediction.termination.kind == "submitted"
        assert "context manager" in prediction.answer
        assert len(prediction.trajectory.iterations) <= max_iters

    def test_failed_sub_calls(self):
        """Sub-calls that fail come back as exceptions; the passages themselves then have to do."""

        def broken(prompt: str) -> str:
            raise RuntimeError("down")

        inputs = {"context": FACTS, "question": "Who built the lighthouse?"}
        prediction = run("context, question -> answer", inputs=inputs, sub_lm=broken)
        assert prediction.termination.kind == "submitted"
        assert "Ada Mornay" in prediction.answer

    def test_error_falls_back_to_literals(self):
        """After a traceback it submits what was found, in code that needs none of the variables."""
        contract = compile_contract(Signature.of("text, question -> answer, n: int"), {"text": FACTS, "question": "Q?"})
        searched = Message("assistant", "```python\ndef passages(text):\n    ...\n```")
        seen = Message("user", "- Ada built it in 1871.\nTraceback (most recent call last):\nMemoryError")
        request = prompts.decision("do", contract, (), "", 60_000)
        reply = asyncio.run(OfflineLM().complete(Request((*request.messages, searched, seen)))).text
        assert "SUBMIT(answer='Ada built it in 1871.', n=1871)" in reply

    def test_refused_submission_ends(self):
        """A check that refuses all it submits ends the run by its limit, with outputs extracted from the history."""
        refusals = iter(["no", "no"])
        prediction = run(
            "context, question -> answer: str, year: int",
            inputs={"context": FACTS * 10, "question": "Who built the lighthouse of Vell?"},
            max_iters=4,
            budget=Budget(max_iters=4, max_errors=None),
            check=lambda outputs: next(refusals, None),
        )
        assert prediction.termination.kind == "max_iters"
        assert "Ada Mornay" in prediction.answer
        assert prediction.year == 1871

    def test_costs_are_within_any_budget(self):
        """Its price is known, so a cost limit is accepted."""
        inputs = {"context": FACTS, "question": "Who built the lighthouse?"}
        assert run("context, question -> answer", inputs=inputs, budget=Budget(max_cost=0.01)).answer


class TestInputs:
    @pytest.mark.parametrize(
        ("type_", "context"),
        [
            ("str", ""),
            ("str", "\n \n"),
            ("list[str]", []),
            ("dict[str, str]", {}),
            ("bytes", b"\xff\xfe\x00"),
            ("str | None", None),
            ("int", 7),
        ],
    )
    def test_nothing_to_search(self, type_, context):
        """Inputs without text still end in a submitted, typed prediction."""
        inputs = {"context": context, "question": "Who built it?"}
        prediction = run(f"context: {type_}, question: str -> answer: str", inputs=inputs)
        assert prediction.termination.kind == "submitted"
        assert prediction.answer

    @pytest.mark.parametrize(
        ("type_", "context"),
        [
            ("list[str]", FACTS.split("\n\n") * 100),
            ("tuple[str, ...]", tuple(FACTS.split("\n\n"))),
            ("set[str]", set(FACTS.split("\n\n"))),
            ("dict[str, str]", {f"part {n}": part for n, part in enumerate(FACTS.split("\n\n") * 50)}),
            ("bytes", (FACTS * 100).encode() + b"\xff"),
            ("list[dict[str, str]]", [{"text": part} for part in FACTS.split("\n\n")]),
            ("Any", FACTS),
        ],
    )
    def test_kinds_of_text(self, type_, context):
        """Documents in a list, a set, a dict or as bytes are searched as a text is."""
        inputs = {"docs": context, "question": "Who built the lighthouse of Vell?"}
        prediction = run(f"docs: {type_}, question: str -> answer: str", inputs=inputs)
        assert prediction.termination.kind == "submitted"
        assert "Ada Mornay" in prediction.answer

    def test_unicode(self):
        """Scripts without spaces and with accents are searched too."""
        text = (
            "Die Straße führt zur Brücke.\n\n" * 60
            + "灯台は1871年にエイダが建てた。海は青い。\n\nÉlodie a construit le phare à l'été."
        )
        assert "エイダ" in run("context, question -> a", inputs={"context": text, "question": "灯台は誰が建てた？"}).a
        assert "Élodie" in run("context, question -> a", inputs={"context": text, "question": "Qui, phare ÉTÉ?"}).a

    def test_only_a_question(self):
        """With nothing but a question there is nothing to search but the question."""
        prediction = run("question -> answer", inputs={"question": "What is the capital of France?"})
        assert prediction.termination.kind == "submitted"
        assert "capital of France" in prediction.answer

    def test_no_inputs(self):
        """A task without inputs is answered, if only by saying that there is nothing."""
        prediction = run(Signature.of("-> answer", instructions="Say hello."), inputs={})
        assert prediction.termination.kind == "submitted"
        assert prediction.answer == NOTHING_FOUND

    def test_only_a_text(self):
        """Without a question the text's frequent words stand for one; the task's own words where there are some."""
        prediction = run("document -> summary", inputs={"document": REFERENCE})
        assert prediction.termination.kind == "submitted"
        assert 20 < len(prediction.summary) < 1_000

    def test_task_is_the_question(self):
        """A signature's instructions ask where no input does."""
        signature = Signature.of("document -> answer", instructions="Who built the lighthouse of Vell?")
        assert "Ada Mornay" in run(signature, inputs={"document": FACTS + REFERENCE}).answer

    def test_several_texts(self):
        """All inputs too big to be shown are searched; the small ones ask."""
        inputs = {"book": REFERENCE, "notes": FACTS * 9, "topic": "lighthouse of Vell", "year": 1871}
        prediction = run("book, notes, topic, year: int -> answer", inputs=inputs)
        assert "Vell" in prediction.answer

    @pytest.mark.parametrize(
        "names", [("texts", "query"), ("query", "texts"), ("words", "terms"), ("re", "text"), ("quotes", "found")]
    )
    def test_names_that_its_code_uses(self, names):
        """Inputs may be named like the variables of the search."""
        text, question = names
        inputs = {text: FACTS * 10, question: "Who built the lighthouse of Vell?"}
        prediction = run(f"{text}: str, {question}: str -> answer: str", inputs=inputs)
        assert prediction.termination.kind == "submitted"
        assert "Ada Mornay" in prediction.answer

    def test_names_of_builtins(self):
        """Where an input hides what its code needs, it still submits."""
        inputs = {"sorted": FACTS * 10, "question": "Who built the lighthouse of Vell?"}
        prediction = run("sorted, question -> answer: str, n: int", inputs=inputs)
        assert prediction.termination.kind == "submitted"

    def test_shown_whole(self):
        """An input shown whole in the prompt is still the one searched."""
        inputs = {"context": FACTS * 10, "question": "Who built the lighthouse of Vell?"}
        prediction = run("context, question -> answer", inputs=inputs, strategy=Strategy(show=("context", "question")))
        assert "Ada Mornay" in prediction.answer

    def test_fifty_megabytes(self):
        """A needle in 50 MB is found."""
        words = random.Random(0)
        vocabulary = ["".join(words.choices("abcdefghijklmnoprstuvw", k=words.randint(3, 9))) for _ in range(3_000)]
        block = ". ".join(" ".join(words.choices(vocabulary, k=12)).capitalize() for _ in range(12_000)) + ".\n\n"
        text = (block * (50_000_000 // len(block) + 1))[:50_000_000]
        needle = "The secret code of the blue dragon is 74193."
        text = f"{text[:31_234_567]} {needle} {text[31_234_567:]}"
        inputs = {"context": text, "question": "What is the secret code of the blue dragon?"}
        prediction = run("context, question -> answer: str, code: int", inputs=inputs)
        assert needle in prediction.answer
        assert prediction.code == 74193


class TestAsked:
    def test_knows_its_own_sub_call(self):
        """A passage is answered with at most three of its sentences, one a line, or the marker."""
        answer = ask(f"{ASK}\n\nQuestion: Who built the lighthouse?\n\nPassage:\n{FACTS}")
        assert "Ada Mornay" in answer
        assert 1 <= len(answer.splitlines()) <= 3
        assert ask(f"{ASK}\n\nQuestion: Quantum chromodynamics?\n\nPassage:\n{FACTS}") == NOTHING

    @pytest.mark.parametrize(
        "prompt",
        [
            f"{FACTS}\n\nWho built the lighthouse?",
            f"Who built the lighthouse?\n\n{FACTS}",
            f"Answer briefly.\nQuestion: Who built the lighthouse?\n\nText:\n{FACTS}",
            f"Say who built the lighthouse in this text:\n{FACTS}",
        ],
    )
    def test_any_prompt(self, prompt):
        """Another prompt is answered with the sentences that match the question in it."""
        assert "Ada Mornay" in ask(prompt)

    @pytest.mark.parametrize("prompt", ["", "\n", "?", "x", "What is it?", "。", "a" * 100_000])
    def test_odd_prompts(self, prompt):
        """Nothing is too short to be answered."""
        assert ask(prompt)

    def test_no_messages(self):
        """Not even an empty request fails."""
        assert asyncio.run(OfflineLM().complete(Request(()))).text

    def test_json_by_words(self):
        """A prompt that wants JSON with keys gets it."""
        prompt = f"{FACTS}\n\nReply with a JSON object with keys name and year. Who built the lighthouse?"
        assert "Ada Mornay" in json.loads(ask(prompt))["name"]
        assert set(json.loads(ask(f'{FACTS}\nReply in JSON: {{"who": ..., "when": ...}}'))) == {"who", "when"}

    def test_json_by_schema(self):
        """A request with a schema gets JSON of that shape."""
        data = json.loads(ask(f"{FACTS}\n\nWho built the lighthouse?", Lighthouse.model_json_schema()))
        assert Lighthouse.model_validate(data).year == 1871

    def test_typed_sub_call(self):
        """The prompt of a typed sub-call is answered with JSON that fits its signature."""
        signature = Signature.of("passage, question -> answer: str, year: int, colour: Literal['red', 'green']")
        schema = {
            "type": "object",
            "required": ["answer", "year"],
            "properties": {"answer": {"type": "string"}, "year": {"type": "integer"}},
        }
        inputs = {"passage": FACTS, "question": "Who built the lighthouse?"}
        asked = prompts.typed_request(signature, inputs, schema)
        data = json.loads(asyncio.run(OfflineLM().complete(asked)).text)
        assert data == {"answer": "The lighthouse of Vell was built in 1871 by Ada Mornay.", "year": 1871}

    def test_predict_and_children_in_a_run(self):
        """Sub-calls of every kind that other models' code makes are answered by it."""
        code = """```python
one = predict("passage, question -> answer: str, year: int", passage=context, question="Who built the lighthouse?")
two = rlm_query("text: str, question: str -> answer: str", text=context, question="What colour is the lamp?")
SUBMIT(answer=one["answer"] + two, year=one["year"])
```"""
        inputs = {"context": FACTS}
        prediction = run("context -> answer: str, year: int", lm=ScriptedLM([code]), sub_lm="offline", inputs=inputs)
        assert prediction.termination.kind == "submitted"
        assert "Ada Mornay" in prediction.answer
        assert "green" in prediction.answer
        assert prediction.year == 1871

    @settings(max_examples=60)
    @given(
        st.recursive(
            st.sampled_from([str, int, float, bool, dt.date, Literal["a", "b"], Literal[3]]),
            lambda inner: st.one_of(
                inner.map(lambda t: list[t]),
                inner.map(lambda t: dict[str, t]),
                inner.map(lambda t: t | None),
                st.tuples(inner, inner).map(lambda pair: tuple[pair]),
                inner.map(lambda t: type("M", (BaseModel,), {"__annotations__": {"a": t, "b": str}})),
            ),
            max_leaves=5,
        )
    )
    def test_schemas(self, type_):
        """What pydantic can describe, a reply of that shape satisfies."""
        adapter = TypeAdapter(type_)
        adapter.validate_json(ask(f"{FACTS}\n\nWho built the lighthouse?", adapter.json_schema()))

    def test_extraction(self):
        """The closing call is answered from what the history shows, typed as JSON."""
        contract = compile_contract(
            Signature.of("context, question -> answer: str, year: int, found: bool, kind: Literal['sea', 'land']"),
            {"context": FACTS, "question": "Who built the lighthouse?"},
        )
        shown = (
            "score 3.0: text 0, characters 0 to 200\n- Ada Mornay built it in 1871.\n1 of 1 sub-calls gave something"
        )
        done = Iteration(1, Action("searching", ("x = 1",)), Execution(stdout=shown), shown, (), None, 0.0, 0.0, 0.0)
        asked = prompts.extraction(contract, [done], 60_000)
        assert json.loads(asyncio.run(OfflineLM().complete(asked)).text) == {
            "answer": "Ada Mornay built it in 1871.",
            "year": 1871,
            "found": True,
            "kind": "sea",
        }
        nothing = json.loads(asyncio.run(OfflineLM().complete(prompts.extraction(contract, [], 60_000))).text)
        assert set(nothing.values()) == {None}

    def test_last_iteration_is_understood(self):
        """What the budget says of the last iteration makes it submit at once."""
        contract = compile_contract(Signature.of("context, question -> answer"), {"context": FACTS, "question": "Q?"})
        left = prompts.remaining(Remaining(1, 3, None, None, None, 0))
        reply = asyncio.run(OfflineLM().complete(prompts.decision("do", contract, (), left, 60_000))).text
        assert reply.count("```python") == 2
        assert "SUBMIT(" in reply

    def test_copies(self):
        """It has no state: copies and pickles are as good."""
        lm = pickle.loads(pickle.dumps(copy.deepcopy(OfflineLM())))
        assert lm.model == "offline"
        assert repr(lm) == "OfflineLM()"
