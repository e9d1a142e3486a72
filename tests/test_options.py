"""Options of a run: reading functions in the REPL, other instructions, a cap on sub-calls' prompts, models' parameters."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_server import ScriptedServer

from dszig_py import RLM, InputError, Strategy
from dszig_py.lm import ScriptedLM
from dszig_py.prompts import INSTRUCTIONS
from dszig_py.reading import chunk, peek, search, tail


def cell(code):
    return f"```python\n{code}\n```"


@given(st.text(), st.integers(1, 40))
def test_chunks_joined_are_the_text(text, size):
    """Without overlap nothing is lost or repeated, and no piece is larger than asked."""
    pieces = chunk(text, size)
    assert "".join(pieces) == text
    assert all(0 < len(piece) <= size for piece in pieces)


@given(st.text(alphabet="ab\n", max_size=200), st.integers(2, 40), st.data())
def test_overlapping_chunks_repeat_what_they_say(text, size, data):
    """Each piece begins with the last characters of the one before, and with those taken off they are the text."""
    overlap = data.draw(st.integers(0, size - 1))
    pieces = chunk(text, size, overlap)
    for before, piece in zip(pieces, pieces[1:], strict=False):
        assert overlap == 0 or piece.startswith(before[-overlap:])
    assert "".join([*pieces[:1], *(p[overlap:] for p in pieces[1:])]) == text


@given(st.lists(st.text(alphabet="abAB ("), max_size=4), st.sampled_from(["a", "b+", "(", "ab"]), st.integers(0, 5))
def test_search_finds_what_a_regular_expression_finds(texts, pattern, limit):
    """Matches, places and order are those of re, up to the limit; a broken pattern is taken as text."""
    hits = search(texts, pattern, context=3, limit=limit)
    expression = re.escape(pattern) if pattern == "(" else pattern
    expected = [(i, m.start(), m[0]) for i, t in enumerate(texts) for m in re.finditer(expression, t, re.I)]
    assert [(h["index"], h["start"], h["match"]) for h in hits] == expected[:limit]
    assert all(texts[h["index"]][h["start"] : h["end"]] == h["match"] for h in hits)


def test_peek_and_tail_are_the_ends():
    """Also where nothing is asked for."""
    assert (peek("abcdef", 2), tail("abcdef", 2), tail("abcdef", 0)) == ("ab", "ef", "")


@pytest.mark.parametrize("arguments", [(0,), (10, 10), (10, -1)])
def test_chunk_refuses_sizes_that_go_nowhere(arguments):
    """An overlap as large as the piece would never end."""
    with pytest.raises(ValueError, match="chunk takes"):
        chunk("abc", *arguments)


def test_the_repl_has_the_functions_where_they_are_asked_for():
    """In the contract and callable; without the option neither."""
    code = cell(
        "SUBMIT(answer=f\"{peek(text, 3)} {tail(text, 2)} {len(chunk(text, 10))} {search(text, 'q.')[0]['start']}\")"
    )
    lm = ScriptedLM([code])
    pred = RLM("text -> answer", lm=lm, strategy=Strategy(helpers=True))(text="abc" * 10 + "qx")
    assert pred.answer == "abc qx 4 30"
    assert "search(text_or_texts" in pred.trajectory.contract
    plain = ScriptedLM([cell("SUBMIT(answer=str('peek' in globals()))")])
    pred = RLM("text -> answer", lm=plain)(text="t")
    assert pred.answer == "False"
    assert "peek(" not in pred.trajectory.contract


def test_the_functions_come_back_with_a_new_worker():
    """A worker that is lost is replaced, functions and all."""
    lm = ScriptedLM([cell("import os; os._exit(3)"), cell("SUBMIT(answer=peek(text, 2))")])
    pred = RLM("text -> answer", lm=lm, strategy=Strategy(helpers=True), environment="process")(text="abc")
    assert pred.answer == "ab"


def test_a_field_or_tool_of_such_a_name_is_refused():
    """It would be hidden."""
    with pytest.raises(InputError, match="chunk needs another name"):
        RLM("chunk -> answer", strategy=Strategy(helpers=True))
    RLM("chunk -> answer")


@pytest.mark.parametrize("prompt", ["default", "cost_aware", "small_context"])
def test_the_chosen_instructions_reach_the_model(prompt):
    """Each variant names SUBMIT and sub-calls in its own words, and is what the system message says."""
    lm = ScriptedLM([cell("SUBMIT(answer='x')")])
    RLM("text -> answer", lm=lm, strategy=Strategy(prompt=prompt))(text="t")
    assert lm.requests[0].messages[0].content == INSTRUCTIONS[prompt]
    assert "SUBMIT" in INSTRUCTIONS[prompt]


def test_a_sub_call_longer_than_allowed_is_refused_and_told_how():
    """The others of its batch are answered; nothing is sent for the long one."""
    code = cell("r = llm_query_batched(['ok', 'x' * 50])\nSUBMIT(answer=f'{r[0]} {r[1]}')")
    sub = ScriptedLM(["fine"])
    rlm = RLM("text -> answer", lm=ScriptedLM([code]), sub_lm=sub, strategy=Strategy(max_query_chars=20))
    assert re.fullmatch(r"fine .*50 characters, at most 20 are allowed; split it.*", rlm(text="t").answer)
    assert len(sub.requests) == 1


def test_parameters_by_role_reach_the_provider():
    """lm_options go with the root's calls, sub_lm_options with sub-calls, over HTTP."""
    with ScriptedServer(
        lambda body: cell("SUBMIT(answer=llm_query('?'))") if len(body["messages"]) > 1 else "yes"
    ) as server:
        rlm = RLM(
            "text -> answer",
            lm="openai/scripted",
            lm_options={"api_base": server.url, "api_key": "k", "temperature": 0.25},
            sub_lm_options={"api_base": server.url, "api_key": "k", "max_tokens": 77},
        )
        assert rlm(text="t").answer == "yes"
        root, sub = (received.body for received in server.requests)
    assert (root.get("temperature"), root.get("max_tokens")) == (0.25, None)
    assert (sub.get("temperature"), sub.get("max_tokens")) == (None, 77)


def test_options_for_a_model_that_takes_none_are_refused():
    """A callable has no temperature."""
    with pytest.raises(InputError, match="go with a model string"):
        RLM("text -> answer", lm=lambda prompt: "", lm_options={"temperature": 0})(text="t")
