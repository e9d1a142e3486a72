"""The script environment: its language is small, total and bounded, and a run in it is a run like any other."""

from __future__ import annotations

import asyncio
import json
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_prompts import check_snapshot

from dszig_py import RLM, Budget, EnvironmentFailure, InputError, Strategy, prompts
from dszig_py.contract import compile_contract
from dszig_py.environments._script import guide, values
from dszig_py.environments._script.grammar import ScriptError, parse
from dszig_py.environments._script.machine import Bounds
from dszig_py.environments.base import CallRefused, CellLimits
from dszig_py.environments.script import ScriptEnvironment
from dszig_py.exports import to_rlm_log, to_zigrlm_events
from dszig_py.lm import ScriptedLM
from dszig_py.signature import Signature
from dszig_py.testing import RecordingHost
from dszig_py.text import clean

NODE = shutil.which("node") or shutil.which("nodejs")
needs_node = pytest.mark.skipif(not NODE, reason="js lines run in Node, which is not installed")


def upper(prompt):
    return prompt.upper()


FUNCTIONS = {
    "llm_query": upper,
    "llm_query_batched": lambda prompts: [upper(p) for p in prompts],
    "budget": lambda: {"iterations": 3},
    "SHOW_VARS": dict,
    "join": lambda *parts, end="": "/".join(parts) + end,
}


def play(*blocks, signature="context -> answer", inputs=None, functions=FUNCTIONS, environment=None, chars=2_000):
    """The executions of blocks in one session, with the host that served them."""
    inputs = {"context": "abcdef"} if inputs is None else inputs
    contract = compile_contract(Signature.of(signature), inputs)
    host = RecordingHost(contract, functions)

    async def go():
        session = await (environment or ScriptEnvironment()).open(contract, host, CellLimits(chars))
        done = [await session.execute(block) for block in blocks]
        variables = await session.variables()
        await session.close()
        return done, variables

    done, variables = asyncio.run(go())
    return done, host, variables


def one(block, **options):
    """The execution of a single block."""
    return play(block, **options)[0][0]


SAYS = {
    "a text": ('print("a\\tb\\n\\"c\\" \\\\ \\d")', 'a\tb\n"c" \\ \\d\n'),
    "single quotes": ("print('it is \"so\"')", 'it is "so"\n'),
    "joined": ("print('a' + context + 5)", "aabcdef5\n"),
    "several": ("print(context, 'x')", "abcdef x\n"),
    "let": ("let a = context\nset a = a + '!'\nprint(a)", "abcdef!\n"),
    "slices": ("print(context[1:3] + context[:2] + context[-2:] + context[:])", "bcabefabcdef\n"),
    "an index": ("print(context[0] + context[-1])", "af\n"),
    "comments": ("# nothing\n  print('# not one')   # one", "# not one\n"),
    "a sub-call": ("llm_query a = 'say ' + context\nprint(a)", "SAY ABCDEF\n"),
    "a batch": ("llm_query_batched a = 'x' | context | \nprint(a)\nprint(a[1])", "[0]\nX\n\n[1]\nABCDEF\n\nABCDEF\n"),
    "a tool": ("join a = 'x', context, end='!'\nprint(a)", "x/abcdef!\n"),
    "the budget": ("budget()", '{"iterations": 3}\n'),
    "the variables": ("let a = 'x'\nSHOW_VARS()", "context: 'abcdef'\na: 'x'\n"),
}


@pytest.mark.parametrize(("block", "printed"), SAYS.values(), ids=SAYS)
def test_each_kind_of_line_does_what_it_says(block, printed):
    """What is printed is exactly that."""
    done = one(block)
    assert (done.error, done.stdout, done.submission) == ("", printed, None)


FAILS = {
    "an unknown variable": ("print(nope)", "NameError", "context"),
    "an unknown statement": ("for x = context", "SyntaxError", "no statement for"),
    "python's assignment": ("x = 'a'", "SyntaxError", "let x"),
    "python's call": ("llm_query('a')", "SyntaxError", "llm_query NAME"),
    "an open text": ("print('a)", "SyntaxError", "not closed"),
    "a text over two lines": ("print('a\nb')", "SyntaxError", "not closed"),
    "no value": ("let a =", "SyntaxError", "needs a value"),
    "two values": ("let a = 'x', 'y'", "SyntaxError", "one value"),
    "a bar outside a batch": ("llm_query a = 'x' | 'y'", "SyntaxError", "_batched"),
    "an empty batch": ("llm_query_batched a = |", "SyntaxError", "expected a text"),
    "more after the end": ("print('a') print('b')", "SyntaxError", "should end"),
    "what has no meaning": ("let a = 'x' ; 5", "SyntaxError", "';'"),
    "an item that is not there": ("print(context[9])", "IndexError", "6"),
    "a name into a text": ("print(context['a'])", "TypeError", "a number"),
    "a fraction as index": ("print(context[1.5])", "SyntaxError", "whole number"),
    "js that is off": ("js a = '1'", "PermissionError", "script+js"),
    "what the host has not": ("rlm_query a = 'x'", "SyntaxError", "no statement rlm_query"),
    "a missing FINAL_VAR": ("FINAL_VAR(nope)", "NameError", "nope"),
    "a missing FINAL_VAR in quotes": ("FINAL_VAR('nope')", "NameError", "nope"),
    "names where none belong": ("print(a='x')", "SyntaxError", "no names"),
}


@pytest.mark.parametrize(("line", "kind", "part"), FAILS.values(), ids=FAILS)
def test_a_failed_line_stops_its_block_and_is_told_with_its_number(line, kind, part):
    """Lines before it have been done, those after it have not, and the next block goes on."""
    done, host, variables = play(f"let before = 'kept'\n\n{line}\nlet after = 'x'\nFINAL('y')", "print(before)")
    assert f"line 3: {kind}: " in done[0].error
    assert part in done[0].error
    assert done[0].submission is None
    assert (done[1].stdout, host.submissions, "after" in variables) == ("kept\n", [], False)


def test_a_refusal_of_the_host_is_told_at_its_line_and_keeps_what_was_bound():
    """A limit or a provider's failure is a failed line like any other."""

    def refuse(prompt):
        raise CallRefused("LLM call limit exceeded", "RuntimeError")

    done, _, variables = play("llm_query a = 'x'\nFINAL('y')", functions={"llm_query": refuse})
    assert "line 1: RuntimeError: LLM call limit exceeded" in done[0].error
    assert "a" not in variables


def test_a_failed_item_of_a_batch_leaves_the_others():
    """The paid answers are kept, in order; which one failed is printed."""
    answers = ["one", RuntimeError("no"), "three"]
    done = one(
        "llm_query_batched a = 'x' | 'y' | 'z'\nprint(a[1])\nFINAL(a[2])",
        functions={"llm_query_batched": lambda _: answers},
    )
    assert done.stdout == "[1 of 3 failed: items 1]\n(failed: no)\n"
    assert done.submission == {"answer": "three"}


def test_a_list_in_a_batch_is_as_many_items():
    """An input that is a list of texts is asked about in one line."""
    done = one(
        "llm_query_batched a = docs | 'c'\nFINAL(a)",
        signature="docs: list[str] -> answer: list[str]",
        inputs={"docs": ["a", "b"]},
    )
    assert done.submission == {"answer": ["A", "B", "C"]}


DATA = {"name": "x", "tags": ["t", {"deep": 5}], "none": None}


def test_inputs_that_are_data_are_taken_apart_by_names_and_numbers():
    """Dicts and lists keep their shape until they are shown."""
    done = one(
        'print(data["tags"][1]["deep"] + data["name"])\nprint(data["none"])\nprint(data["tags"][0:1])\nprint(data["no"])',
        signature="data: dict -> answer",
        inputs={"data": DATA},
    )
    assert done.stdout == "5x\nnull\n[0]\nt\n\n"
    assert "line 4: KeyError: there is no item 'no'; there are name, tags, none" in done.error


FITS = {
    "text": ("answer", "FINAL('5')", {"answer": "5"}),
    "a number": ("answer: int", "FINAL('5')", {"answer": 5}),
    "a truth": ("answer: bool", "FINAL('true')", {"answer": True}),
    "one of several": ("answer: Literal['a', 'b']", "FINAL('a')", {"answer": "a"}),
    "JSON for a list": ("answer: list[int]", "FINAL('[1, 2]')", {"answer": [1, 2]}),
    "JSON stays text for a text": ("answer: str", "FINAL('[1, 2]')", {"answer": "[1, 2]"}),
    "nothing": ("answer: int | None", "FINAL('null')", {"answer": None}),
    "data for a dict": ("answer: dict[str, Any]", "FINAL_VAR(data)", {"answer": DATA}),
    "data for a text": ("answer: str", "FINAL(data['tags'][1])", {"answer": '{"deep": 5}'}),
    "by name": ("a: str, n: int", "FINAL(n=5, a='x' + 'y')", {"a": "xy", "n": 5}),
    "by position": ("a: str, n: int", "FINAL('x', 5)", {"a": "x", "n": 5}),
    "variables of the outputs' names": (
        "a: str, n: int",
        "let a = 'x'\nlet n = 5\nFINAL_VAR(n, a)",
        {"a": "x", "n": 5},
    ),
    "a variable for an output": ("a: str, n: int", "let m = 5\nFINAL_VAR(n=m, a=m)", {"a": "5", "n": 5}),
    "the name in quotes": ("answer", "let x = 'v'\nFINAL_VAR('x')", {"answer": "v"}),
    "its other name": ("answer", "SUBMIT(answer='v')", {"answer": "v"}),
}


@pytest.mark.parametrize(("outputs", "block", "wanted"), FITS.values(), ids=FITS)
def test_final_fills_outputs_of_any_type(outputs, block, wanted):
    """Texts become what the signature declares; the contract judges."""
    done = one(block, signature=f"data -> {outputs}", inputs={"data": DATA})
    assert (done.error, done.submission) == ("", wanted)


@pytest.mark.parametrize(
    ("block", "part"),
    [("FINAL('x')", "n: missing"), ("FINAL(n=1, n=2, a='x')", "twice"), ("FINAL('x', 1, 2)", "3 values")]
    + [("FINAL(a='x', n='many')", "n: "), ("FINAL(a='x', n=1, z=1)", "z: there is no such output")],
)
def test_a_final_that_does_not_fit_is_a_failed_line(block, part):
    """It says what is missing or wrong, and the run goes on."""
    done, host, _ = play(block, "FINAL('x', 1)", signature="context -> a: str, n: int")
    assert "line 1: " in done[0].error
    assert part in done[0].error
    assert done[1].submission == {"a": "x", "n": 1}
    assert len(host.submissions) == 1


def test_an_accepted_final_ends_the_block():
    """What stands after it is not done."""
    done, host, _ = play("FINAL('x')\nllm_query a = 'paid'\nFINAL('y')")
    assert (done[0].submission, done[0].error, host.calls) == ({"answer": "x"}, "", [])


# What bounds it.

NAMES = st.sampled_from(["a", "b", "context", "nope", "été"])
TEXTS = st.text(max_size=20).map(json.dumps) | st.sampled_from(["''", "'\\q'", '"#"', "5", "-1.5"])
PARTS = st.sampled_from(["", "[0]", "[1:3]", "[-1:]", '["k"]', "[:]", "[0][0]"])
TERMS = TEXTS | st.builds("{}{}".format, NAMES, PARTS)
EXPRESSIONS = st.lists(TERMS, min_size=1, max_size=4).map(" + ".join)
VERBS = st.sampled_from(["let", "set", "llm_query", "join", "js", "rlm_query", "predict", "no"])
LINES = st.one_of(
    st.builds("{} {} = {}".format, VERBS, NAMES, EXPRESSIONS),
    st.builds("llm_query_batched {} = {} | {}".format, NAMES, EXPRESSIONS, EXPRESSIONS),
    st.builds("{}({})".format, st.sampled_from(["print", "FINAL", "FINAL_VAR", "SHOW_VARS", "budget"]), EXPRESSIONS),
    st.builds("FINAL({}={})".format, NAMES, EXPRESSIONS),
    st.text(max_size=30),
)
PROGRAMS = st.lists(LINES, max_size=12).map("\n".join)


@given(st.text() | PROGRAMS)
def test_no_text_makes_the_interpreter_raise_or_say_more_than_it_may(text):
    """Nonsense and programs alike end in an execution: printed text within its limit, an error of bounded length."""
    done, host, _ = play(text, chars=300)
    assert len(done[0].stdout) <= 300
    assert len(done[0].error) < 6_000
    assert (done[0].submission is None) == (not host.submissions)
    assert len(host.calls) <= text.count("\n") + 1  # a line asks at most once: nothing repeats


@given(st.text(alphabet="\"'\\#+|=()[],: \tab5.-é\r\x0b\u2028") | LINES)
def test_a_line_is_read_or_refused(line):
    """Reading it gives a statement, nothing, or an error that names a kind of Python's."""
    try:
        parse(line)
    except ScriptError as error:
        assert error.kind == "SyntaxError"


@given(st.text())
def test_a_text_in_quotes_means_itself(text):
    """Written with its escapes, any text without line breaks of other kinds comes back as it was."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    assert one(f'let a = "{escaped}"\nFINAL_VAR(a)').submission == {"answer": text}


BOUNDS = Bounds(block=2_000, value=1_000, held=3_000, handled=10_000, lines=20)
GREEDY = {
    "a text that doubles": (
        "\n".join(["let a = 'xxxxxxxxxx'", *["let a = a + a"] * 15]),
        "line 8: MemoryError: a text has",
    ),
    "many texts": (
        "\n".join(["let a = context + context", *[f"let a{i} = a + ''" for i in range(18)]]),
        "line 14: MemoryError: the variables hold at most 3,000",
    ),
    "much printed": (
        "\n".join(["let a = context + context", *["print(a + a + a)"] * 15]),
        "line 10: MemoryError: a block handles at most 10,000",
    ),
    "many lines": ("\n".join(["let a = '1'"] * 25), "line 21: RuntimeError: a block has at most 20 statements"),
    "a long block": ("# " + "x" * 3_000, "a block has at most 2,000 characters"),
    "data as text": ("let a = data\nprint(a)", "line 2: MemoryError: this value is too long"),
}


@pytest.mark.parametrize(("block", "told"), GREEDY.values(), ids=GREEDY)
def test_what_a_block_may_take_is_bounded(block, told):
    """Growth by doubling, by number and by repetition all end in an error that names the bound."""
    inputs = {"context": "x" * 100, "data": [{"k": "v" * 10}] * 100}
    environment = ScriptEnvironment(bounds=BOUNDS)
    done, host, _ = play(block, signature="context, data -> answer", inputs=inputs, environment=environment)
    assert told in done[0].error
    assert host.calls == []


def test_an_input_of_any_size_is_sent_in_pieces():
    """Bounds are of what lines make: an input far above them is sliced, and passed on whole where it stands alone."""
    big = "x" * 5_000
    done, host, _ = play(
        "let a = context\nllm_query b = a\nllm_query c = 'look: ' + context[100:200]",
        inputs={"context": big},
        environment=ScriptEnvironment(bounds=Bounds(value=1_000, held=8_000, handled=20_000)),
    )
    assert done[0].error == ""
    assert [len(args[0]) for _, args, _ in host.calls] == [5_000, 106]


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=20))
def test_any_data_is_text(value):
    """Every value that an input can have can be shown, and is counted before it is."""
    data = values.as_data("x", value)
    assert len(values.text(data)) <= 12 * values.size(data, 10**9)


def test_inputs_without_a_form_as_data_are_refused_before_any_call():
    """The error names the input."""
    lm = ScriptedLM([])
    with pytest.raises(InputError, match="'thing'"):
        RLM("thing -> answer", lm=lm, environment="script")(thing=object())
    assert lm.requests == []


def test_a_long_block_can_be_cancelled():
    """Between two lines there is a place to stop."""

    async def go():
        contract = compile_contract(Signature.of("context -> answer"), {"context": "x"})
        session = await ScriptEnvironment().open(contract, RecordingHost(contract), CellLimits())
        task = asyncio.create_task(session.execute("\n".join(["let a = 'x'"] * 900)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(go())


# Replies.

READS = {
    "one block": ("so\n```repl\nlet a = 'x'\nprint(a)\n```\ndone", ["let a = 'x'\nprint(a)"]),
    "several": ("```repl\na\n```\nand\n```repl\nb\n```", ["a", "b"]),
    "another tag that begins alike": ("```replay\nFINAL('x')\n```", []),
    "python": ("```python\nSUBMIT('x')\n```", []),
    "no tag": ("```\nFINAL('x')\n```", []),
    "beside python": ("```python\nx\n```\n```repl\nb\n```", ["b"]),
    "FINAL in prose": ("I will not call\nFINAL('wrong')\nyet.", []),
    "bare": ("FINAL('x')", []),
    "not closed": ("```repl\nlet a = 'x'", []),
    "quoted inside a longer fence": ("````markdown\n```repl\nFINAL('x')\n```\n````", []),
    "in thoughts": ("<think>\n```repl\nFINAL('x')\n```\n</think>\n```repl\nFINAL('y')\n```", ["FINAL('y')"]),
    "in thoughts that lost their opening": ("```repl\nFINAL('x')\n```\n</think>\n```repl\nb\n```", ["b"]),
    "only thoughts": ("<think>```repl\nFINAL('x')\n```", []),
    "tildes": ("~~~repl\nprint('```')\n~~~", ["print('```')"]),
    "the next one opens before the last is closed": ("```repl\na\n```repl\nb\n```", ["a", "b"]),
    "empty": ("```repl\n\n```", []),
    "nothing": (None, []),
}


@pytest.mark.parametrize(("reply", "cells"), READS.values(), ids=READS)
def test_only_blocks_tagged_exactly_repl_are_run(reply, cells):
    """Where there is none, the model is told how to write one."""
    found = guide.read_reply(reply)
    assert list(found.cells) == cells
    assert bool(found.problem) == (not cells)
    if not cells:
        assert "```repl block" in found.problem


@given(
    st.lists(st.sampled_from(["```", "```repl", "````", "~~~repl", "a", "</think>", "<think>", "```py"]) | st.text())
)
def test_reading_a_reply_never_raises_and_invents_nothing(lines):
    """Each cell stands in the reply, and a reply without one has a problem."""
    reply = "\n".join(lines)
    found = guide.read_reply(reply)
    assert found.cells or found.problem
    assert all(cell in clean(reply) for cell in found.cells)


# Runs.


def run(*blocks, environment="script", signature="context -> answer", label="repl", sub=None, inputs=None, **options):
    """A real run whose model replies with these blocks; its sub-calls echo what they see."""
    lm = ScriptedLM([f"so\n```{label}\n{block}\n```" for block in blocks])
    sub = sub or ScriptedLM(lambda request: f"<{request.prompt}>")
    rlm = RLM(signature, lm=lm, sub_lm=sub, environment=environment, **options)
    return rlm(**({"context": "abcdefghij"} if inputs is None else inputs)), lm


LISTED = "'\\n'.join(f'[{i}]\\n{a}\\n' for i, a in enumerate(b))"
PAIRS = {
    "a text": ("FINAL('x')", "SUBMIT('x')"),
    "an input": ("FINAL_VAR(context)", "SUBMIT(context)"),
    "joined": ("let a = 'x' + context\nFINAL(a + '!')", "a = 'x' + context\nSUBMIT(a + '!')"),
    "escapes": (r"FINAL('a\nb\t\'\"\\ \d')", r"SUBMIT('a\nb\t\'\"\\ ' + '\\d')"),
    "rebound": ("let a = '1'\nset a = a + '2'\nFINAL(a)", "a = '1'\na = a + '2'\nSUBMIT(a)"),
    "an input rebound": ("let context = context + '2'\nFINAL(context)", "context = context + '2'\nSUBMIT(context)"),
    "a slice": ("FINAL(context[2:5])", "SUBMIT(context[2:5])"),
    "open slices": ("FINAL(context[:2] + context[-2:])", "SUBMIT(context[:2] + context[-2:])"),
    "past the end": ("FINAL('<' + context[50:90] + '>')", "SUBMIT('<' + context[50:90] + '>')"),
    "an index": ("FINAL(context[-1])", "SUBMIT(context[-1])"),
    "a sub-call": ("llm_query a = context\nFINAL(a)", "a = llm_query(context)\nSUBMIT(a)"),
    "a sub-call on a sub-call": (
        "llm_query a = 'q: ' + context\nllm_query b = a + a[0:3]\nFINAL(b)",
        "a = llm_query('q: ' + context)\nb = llm_query(a + a[0:3])\nSUBMIT(b)",
    ),
    "a batch": (
        "llm_query_batched b = 'x' | context | 'z' + 'z'\nFINAL(b)",
        f"b = llm_query_batched(['x', context, 'z' + 'z'])\nSUBMIT({LISTED})",
    ),
    "a batch of one": ("llm_query_batched b = 'x' |\nFINAL(b)", f"b = llm_query_batched(['x'])\nSUBMIT({LISTED})"),
    "an item of a batch": (
        "llm_query_batched b = 'x' | 'y'\nFINAL(b[1] + b[0])",
        "b = llm_query_batched(['x', 'y'])\nSUBMIT(b[1] + b[0])",
    ),
    "a batch of answers": (
        "llm_query_batched b = 'x' | 'y'\nllm_query_batched b = b\nFINAL(b[1])",
        "b = llm_query_batched(['x', 'y'])\nb = llm_query_batched(b)\nSUBMIT(b[1])",
    ),
    "a child at the bottom": ("rlm_query a = context\nFINAL(a)", "a = rlm_query(context)\nSUBMIT(a)"),
    "children at the bottom": (
        "rlm_query_batched b = 'x' | context\nFINAL(b)",
        f"b = rlm_query_batched(['x', context])\nSUBMIT({LISTED})",
    ),
    "printed before": ("print(context)\nprint('x')\nFINAL('y')", "print(context)\nprint('x')\nSUBMIT('y')"),
    "a comment": ("# look\nFINAL('#')  # done", "# look\nSUBMIT('#')  # done"),
    "after a failed line": ("let a = '1'\nprint(nope)|||FINAL(a)", "a = '1'\nprint(nope)|||SUBMIT(a)"),
    "after a refused answer": ("FINAL(x='1')|||FINAL('2')", "SUBMIT(x='1')|||SUBMIT('2')"),
    "over two blocks": ("let a = context[0:2]|||FINAL(a)", "a = context[0:2]|||SUBMIT(a)"),
    "by name": ("FINAL(answer='x')", "SUBMIT(answer='x')"),
    "the paper's own names": ("let a = 'v'\nFINAL_VAR('a')", "a = 'v'\nFINAL_VAR('a')"),
}


@pytest.mark.parametrize(("script", "python"), PAIRS.values(), ids=PAIRS)
def test_a_script_and_its_python_twin_give_the_same_answer(script, python):
    """Through two whole runs: the same outputs, sub-calls in the same order with the same prompts, and ledger."""
    budget = Budget(max_depth=0)
    mine, _ = run(*script.split("|||"), budget=budget)
    twin, _ = run(*python.split("|||"), environment="auto", label="python", budget=budget)
    assert mine.termination.kind == twin.termination.kind == "submitted"
    assert mine.outputs == twin.outputs
    calls = [[(s.kind, s.prompt, s.reply) for i in p.trajectory.iterations for s in i.sub_calls] for p in (mine, twin)]
    assert calls[0] == calls[1]
    assert mine.usage.calls == twin.usage.calls


LETTERS = st.text("ab é漢\"'\\\n\t#|+,=()[]:", max_size=8)
BOUND = st.integers(-12, 12) | st.none()


@st.composite
def twins(draw):
    """A program in both languages, of the same steps."""
    names, script, python = ["context"], [], []

    def term():
        if draw(st.booleans()):
            text = draw(LETTERS)
            return json.dumps(text, ensure_ascii=False), repr(text)
        start, stop = ("" if bound is None else str(bound) for bound in (draw(BOUND), draw(BOUND)))
        taken = f"{draw(st.sampled_from(names))}[{start}:{stop}]"
        return taken, taken

    def value():
        terms = [term() for _ in range(draw(st.integers(1, 3)))]
        return " + ".join(t[0] for t in terms), " + ".join(t[1] for t in terms)

    for name in draw(st.lists(st.sampled_from("abc"), max_size=4)):
        ours, theirs = value()
        kind = draw(st.sampled_from(["let", "llm_query", "batch"]))
        if kind == "let":
            script.append(f"let {name} = {ours}")
            python.append(f"{name} = {theirs}")
        elif kind == "llm_query":
            script.append(f"llm_query {name} = 'q' + {ours}")  # an empty prompt is refused
            python.append(f"{name} = llm_query('q' + {theirs})")
        else:
            script += [f"llm_query_batched {name} = 'q' + {ours} | 'x'", f"let {name} = {name}[0] + {name}[1]"]
            python.append(f"{name} = ''.join(llm_query_batched(['q' + {theirs}, 'x']))")
        names.append(name)
    ours, theirs = value()
    return "\n".join([*script, f"FINAL({ours})"]), "\n".join([*python, f"SUBMIT({theirs})"])


@settings(max_examples=40)
@given(twins())
def test_generated_twins_give_the_same_answer(pair):
    """The same steps drawn at random in both languages end in the same text."""
    mine, _ = run(pair[0])
    twin, _ = run(pair[1], environment="inprocess", label="python")
    assert mine.outputs == twin.outputs
    assert mine.termination.kind == "submitted"


def test_the_model_is_told_of_this_language_and_not_of_python():
    """Instructions, contract, history and the word on an unusable reply all speak of repl blocks."""
    pred, lm = run("print(context)", "FINAL('x')", tools=[fetch])
    system, contract, said, told = [m.content for m in lm.requests[-1].messages]
    assert "llm_query_batched NAME = VALUE | VALUE" in contract
    assert "fetch NAME = VALUE" in contract
    assert "Finish with FINAL(answer: str)." in contract
    assert "js NAME" not in contract
    assert said == "so\n\n```repl\nprint(context)\n```"
    assert told == "abcdefghij"
    assert not any(word in text for text in (system, contract) for word in ("```python", "Finish with SUBMIT", "def "))
    assert (pred.trajectory.environment, pred.trajectory.isolation) == ("script", "script")


def test_every_word_of_the_language_stands_in_a_file():
    """Held in a snapshot, for a person to read what changes."""
    language = guide.language(js=True)
    callables = [(name, *told) for name, told in prompts.CALLABLES.items()]
    inputs = {"context": "x", "docs": ["a"]}
    contract = compile_contract(
        Signature.of("context, docs: list[str] -> answer, n: int"), inputs, callables=callables, language=language
    )
    check_snapshot("script_prompt", f"{language.instructions}\n\n{contract.text}")


def fetch(url: str) -> str:
    """The page at a URL."""
    return f"page of {url}"


def test_tools_budget_and_limits_work_as_in_any_run():
    """A tool is recorded, a refused sub-call is a failed line, and the run ends by its limit."""
    pred, lm = run(
        "fetch a = 'u' + context[0]\nprint(a)\nllm_query b = a",
        "llm_query c = 'over'\nFINAL('not reached')",
        "FINAL(a + b)",
        tools=[fetch],
        max_llm_calls=1,
    )
    first, second, _ = pred.trajectory.iterations
    assert [call.kind for call in first.sub_calls] == ["tool", "llm_query"]
    assert first.observation == "page of ua"
    assert "line 1: RuntimeError: LLM call limit exceeded" in second.observation
    assert pred.outputs == {"answer": "page of ua<page of ua>"}


def repeat(text: str, times: int = 2) -> list[str]:
    """The text, some times."""
    return [text] * times


def test_a_tool_is_given_what_its_types_say():
    """Numbers reach it as numbers, by position and by name, and a list that it gives is a list."""
    pred, _ = run("repeat a = context[0], 3\nrepeat b = 'z', times=1\nFINAL(a[2] + b[0])", tools=[repeat])
    assert pred.outputs == {"answer": "az"}
    pred, _ = run("repeat a = 'x', 'many'", "FINAL('y')", tools=[repeat])
    assert "line 1: TypeError: repeat failed: " in pred.trajectory.iterations[0].observation


def test_an_exported_run_shows_its_blocks_as_they_were_tagged():
    """In the formats of zigrlm and of rlm's visualizer."""
    pred, _ = run("FINAL('x')")
    for rows in (to_zigrlm_events(pred.trajectory), to_rlm_log(pred.trajectory)):
        assert "```repl\nFINAL('x')\n```" in json.dumps(list(rows)).replace("\\n", "\n")


def test_a_child_run_speaks_the_same_language():
    """rlm_query with named inputs opens a session of its own in this environment."""
    child = ScriptedLM(["```repl\nFINAL(words + '!')\n```"])
    pred, _ = run('rlm_query a = "words -> shout", words=context[0:3]\nFINAL(a)', sub=child)
    assert pred.outputs == {"answer": "abc!"}
    call = pred.trajectory.iterations[0].sub_calls[0]
    assert call.trajectory.environment == "script"


def test_a_typed_call_gives_its_outputs():
    """One output is its value, several are taken by name."""
    sub = ScriptedLM(['{"label": "good"}', '{"a": 1, "b": ["x"]}'])
    pred, _ = run(
        'predict l = "text -> label", text=context\npredict m = "text -> a: int, b: list[str]", text=context\n'
        'FINAL(l + m["a"] + m["b"][0])',
        sub=sub,
    )
    assert pred.outputs == {"answer": "good1x"}


def test_a_reply_without_a_block_is_no_answer():
    """FINAL in prose is answered with how to write it, and the run goes on."""
    lm = ScriptedLM(["FINAL('wrong')", "```repl\nFINAL('right')\n```"])
    pred = RLM("context -> answer", lm=lm, environment="script")(context="x")
    assert "no ```repl block" in pred.trajectory.iterations[0].observation
    assert pred.outputs == {"answer": "right"}


def test_a_session_keeps_its_variables():
    """What one call binds the next one has, also from a file in another session."""
    lm = ScriptedLM([f"```repl\n{b}\n```" for b in ("let a = context + '1'\nFINAL(a)", "FINAL(a + context)")])
    with RLM("context -> answer", lm=lm, environment="script").session() as session:
        assert session(context="x").answer == "x1"
        assert session(context="y").answer == "x1y"


def test_a_session_goes_on_from_its_file(tmp_path):
    """All that a script holds is data, so nothing is lost."""
    lm = ScriptedLM(
        [f"```repl\n{b}\n```" for b in ("llm_query_batched a = 'p' | 'q'\nFINAL(a)", "FINAL(a[1] + context)")]
    )
    rlm = RLM("context -> answer", lm=lm, sub_lm=ScriptedLM(upper_of), environment="script")
    with rlm.session(tmp_path / "s.json") as session:
        session(context="x")
        assert dict(session.lost) == {}
    with rlm.session(tmp_path / "s.json") as session:
        assert session(context="y").answer == "Qy"


def upper_of(request):
    return request.prompt.upper()


@pytest.mark.parametrize(
    ("signature", "options"),
    [
        ("context -> answer", {"strategy": Strategy(helpers=True)}),
        ("context -> answer: list[Evidence]", {"types": None}),
    ],
    ids=["helpers", "evidence"],
)
def test_options_that_bring_python_are_refused_before_any_call(signature, options):
    """The error says which, and what to do."""
    from dszig_py import Evidence

    lm = ScriptedLM([])
    options = {**options, **({"types": {"Evidence": Evidence}} if "types" in options else {})}
    with pytest.raises(InputError, match="no Python runs"):
        RLM(signature, lm=lm, environment="script", **options)(context="x")
    assert lm.requests == []


def test_the_command_line_runs_it(tmp_path, capsys):
    """dszig run --environment script."""
    from dszig_py.cli import main

    model = tmp_path / "model"
    model.write_text("printf '```repl\\nllm_query a = context\\nFINAL(a)\\n```'", encoding="utf-8")
    arguments = ["run", "context -> answer", "--context", "hello", "--environment", "script"]
    code = main([*arguments, "--main-cmd", f"sh {model}", "--rlm-cmd", "tr a-z A-Z", "--json"])
    assert code == 0
    assert json.loads(capsys.readouterr().out)["outputs"] == {"answer": "HELLO"}


# js.


@needs_node
def test_js_sees_variables_and_gives_back_its_value_and_globals():
    """FINAL over printed text over the last expression; objects stay data, primitive globals come back as texts."""
    done, _, variables = play(
        "js a = 'context.length * 2'\njs b = 'print(1, \"x\"); 5'\njs c = 'FINAL(context[0]); print(9); 7'\n"
        "js d = 'k = 3; ({list: [k, context.split(\"\").reverse().join(\"\")]})'\njs e = 'var unused'\n"
        "print(a + '|' + b + '|' + c + '|' + d['list'][1] + '|' + k + '|' + e + '|')",
        environment=ScriptEnvironment(js=True),
    )
    assert (done[0].error, done[0].stdout) == ("", "12|1 x|a|fedcba|3||\n")
    assert variables["k"] == "'3'"


@needs_node
@pytest.mark.parametrize(
    ("code", "kind", "part"),
    [("nope.x", "RuntimeError", "nope is not defined"), ("while (true) {}", "TimeoutError", "timed out")]
    + [
        ("throw 5", "RuntimeError", "5"),
        ("(", "RuntimeError", "SyntaxError"),
        ("FINAL_VAR(1)", "RuntimeError", "no variable"),
    ]
    + [("'x'.repeat(5000000)", "RuntimeError", "more than")],
)
def test_js_that_fails_is_a_failed_line(code, kind, part):
    """Errors, endless loops and huge values are told; the session goes on."""
    environment = ScriptEnvironment(js=True)

    async def go():
        contract = compile_contract(Signature.of("context -> answer"), {"context": "x"})
        session = await environment.open(
            contract, RecordingHost(contract), CellLimits(seconds=0.5 if kind == "TimeoutError" else 60)
        )
        return await session.execute(f"js a = {json.dumps(code)}"), await session.execute("FINAL(context)")

    failed, after = asyncio.run(go())
    assert f"line 1: {kind}: js: " in failed.error
    assert part in failed.error
    assert after.submission == {"answer": "x"}


@needs_node
def test_js_is_given_no_environment_variable(monkeypatch):
    """Keys of providers stay here, although js is trusted; that it is trusted, the session says."""
    monkeypatch.setenv("SECRET_KEY", "hidden")
    pred, _ = run(
        """js a = "this.constructor.constructor('return process')().env.SECRET_KEY"\nFINAL(a)""",
        environment="script+js",
    )
    assert pred.outputs == {"answer": ""}
    assert pred.trajectory.isolation == "none"


def test_js_without_node_is_refused(monkeypatch):
    """The error says what is missing, before any model call."""
    monkeypatch.setattr(shutil, "which", lambda name: None)
    lm = ScriptedLM([])
    with pytest.raises(EnvironmentFailure, match="needs Node"):
        RLM("context -> answer", lm=lm, environment="script+js")(context="x")
    assert lm.requests == []


# FINAL in the Python REPL.


def python(*cells, environment="process", signature="q -> answer", **options):
    return run(*cells, environment=environment, label="python", signature=signature, inputs={"q": "Paris"}, **options)[
        0
    ]


@pytest.mark.parametrize("environment", ["process", "inprocess"])
@pytest.mark.parametrize(
    ("cell", "wanted"),
    [("FINAL('x')", "x"), ("x = 'q'\nFINAL_VAR(x)", "q"), ("x = 'v'\nFINAL_VAR('x')", "v"), ("FINAL_VAR(q)", "Paris")]
    + [("def f():\n    inner = q[:3]\n    FINAL_VAR(inner)\nf()", "Par"), ("d = {'k': 'v'}\nFINAL_VAR(d['k'])", "v")],
)
def test_final_is_submit_in_the_python_repl(environment, cell, wanted):
    """Models that learnt from the paper's prompts are understood; a variable given by itself is never read as a name."""
    pred = python(cell, environment=environment)
    assert (pred.outputs, pred.termination.kind) == ({"answer": wanted}, "submitted")


@pytest.mark.parametrize("environment", ["process", "inprocess"])
def test_final_var_of_a_missing_name_is_an_error_at_its_line(environment):
    """No answer is made of it, and the run goes on."""
    pred = python(
        "x = 1\nFINAL_VAR('nope')", "FINAL_VAR(nope)", "FINAL(x)", environment=environment, signature="q -> n: int"
    )
    told = [iteration.observation for iteration in pred.trajectory.iterations]
    assert "line 2" in told[0]
    assert "NameError: FINAL_VAR: there is no variable 'nope'" in told[0]
    assert "NameError" in told[1]
    assert pred.outputs == {"n": 1}


def test_final_with_several_outputs_says_to_use_submit():
    """It stands for one value; what is missing is named with the call to make."""
    pred = python("FINAL('x')", "FINAL('x', 1)", "FINAL(a='x')", "SUBMIT(a='x', n=1)", signature="q -> a, n: int")
    told = [iteration.observation for iteration in pred.trajectory.iterations]
    assert "Call SUBMIT(a: str, n: int)" in told[0]
    assert all("TypeError: FINAL takes one value; for several outputs call SUBMIT" in t for t in told[1:3])
    assert pred.outputs == {"a": "x", "n": 1}


def test_final_is_not_in_the_contract_nor_among_the_variables_and_cannot_be_lost():
    """SUBMIT is the contract; a cell that binds the name has lost it by the next cell."""
    lm = ScriptedLM([f"```python\n{c}\n```" for c in ("FINAL = FINAL_VAR = 1\nprint(SHOW_VARS())", "FINAL('x')")])
    pred = RLM("q -> answer", lm=lm)(q="Paris")
    assert "FINAL" not in lm.requests[0].prompt
    assert pred.trajectory.iterations[0].observation == "{'q': \"'Paris'\"}"
    assert pred.outputs == {"answer": "x"}


@pytest.mark.parametrize("name", ["FINAL", "FINAL_VAR"])
def test_inputs_and_tools_of_that_name_are_refused(name):
    """The name is taken, whatever the environment."""
    with pytest.raises(ValueError, match=name):
        RLM(f"{name} -> answer", lm=ScriptedLM([]))
    with pytest.raises(InputError, match=name):
        RLM("q -> answer", lm=ScriptedLM([]), tools={name: fetch})
