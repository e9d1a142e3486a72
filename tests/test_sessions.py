"""Sessions: calls that share one REPL, and what of it a file keeps."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import textwrap

import pytest
from pydantic import BaseModel

from dszig_py import RLM, InputError
from dszig_py.lm import ScriptedLM

ENVIRONMENTS = ["process", "inprocess"]


class Order(BaseModel):
    item: str


def cell(code):
    return f"```python\n{code}\n```"


def rlm(*cells, signature="text: str, question: str -> answer: str", environment="process", **options):
    lm = ScriptedLM([cell(code) for code in cells])
    return RLM(signature, lm=lm, environment=environment, **options), lm


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_variables_functions_and_imports_stay_between_calls(environment):
    """The second call uses what the first one made, without its input given again."""
    made, lm = rlm(
        "import math\ndef double(x): return 2 * x\nnotes = [text[:3]]\nSUBMIT(answer='first')",
        "notes.append(question)\nSUBMIT(answer=f'{notes} {double(4)} {math.floor(2.5)} {len(text)}')",
        environment=environment,
    )
    with made.session() as session:
        assert session(text="abcdef" * 10_000, question="one").answer == "first"
        assert session(question="two").answer == "['abc', 'two'] 8 2 60000"
    contract = lm.requests[-1].messages[1].content
    assert "one" in contract
    assert "notes = ['abc']" in contract
    assert "earlier calls" not in lm.requests[0].messages[1].content


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_an_input_is_as_given_whatever_the_code_made_of_it(environment):
    """A cell that rebinds or changes an input does so for its own call; small and large, text and data."""
    made, _ = rlm(
        "text = 'gone'\nrows.append(9)\nSUBMIT(answer='')",
        "SUBMIT(answer=f'{len(text)} {rows}')",
        "SUBMIT(answer=f'{len(text)} {rows}')",
        signature="text: str, rows: list[int] -> answer: str",
        environment=environment,
    )
    with made.session() as session:
        session(text="x" * 100_000, rows=[1])
        assert session().answer == "100000 [1]"
        assert session(text="y" * 200_000, rows=[2]).answer == "200000 [2]"


def test_a_large_new_input_takes_a_new_worker_that_has_the_variables():
    """What does not fit a message is mapped by a fresh worker; data are carried over, a function is told as lost."""
    made, lm = rlm(
        "kept = {'a': (1, 2)}\ndef f(): pass\nSUBMIT(answer='')",
        "print(kept)",
        "SUBMIT(answer=f\"{len(text)} {kept['a']} {'f' in globals()}\")",
    )
    with made.session() as session:
        session(text="x", question="q")
        assert session(text="y" * 40_000_000).answer == "40000000 (1, 2) False"
    assert "Gone: f" in lm.requests[-1].messages[-1].content


def test_a_worker_that_died_between_calls_is_replaced_with_its_data():
    """Killed from outside after a call: the next one finds the variables of the last snapshot."""
    made, _ = rlm("import os\nkept = os.getpid()\nSUBMIT(answer=str(kept))", "print(1)", "SUBMIT(answer=str(kept))")
    with made.session() as session:
        first = session(text="t", question="q").answer
        session._kept._session._kill()
        assert session().answer == first


def test_a_file_keeps_a_session_over_the_end_of_its_process(tmp_path):
    """Written after each call; a process that is killed in its next call loses only that."""
    program = textwrap.dedent("""
        import os, sys
        from dszig_py import RLM
        from dszig_py.lm import ScriptedLM
        def die(request): os.kill(os.getpid(), 9)
        lm = ScriptedLM(["```python\\nimport math\\nfound = {'n': 3, 's': {1, 2}}\\nSUBMIT(answer='ok')\\n```", die])
        session = RLM("text: str, question: str -> answer: str", lm=lm).session(sys.argv[1])
        session(text="abc", question="one")
        session(question="two")
    """)
    path = tmp_path / "folder" / "s.json"
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, timeout=60, check=False)
    assert done.returncode == -9, done.stderr
    made, lm = rlm("SUBMIT(answer=f\"{text} {question} {found['n']} {sorted(found['s'])}\")")
    with made.session(path) as session:
        assert session.lost == {"math": "module"}
        assert len(session.calls) == 1
        assert session(question="three").answer == "abc three 3 [1, 2]"
    assert "found = " in lm.requests[0].messages[1].content
    assert "math = " not in lm.requests[0].messages[1].content
    assert list(path.parent.iterdir()) == [path], "no temporary file is left"


def test_typed_inputs_come_back_typed(tmp_path):
    """A pydantic input saved by its fields is validated into its class again."""
    path = tmp_path / "s.json"
    options = {"signature": "order: Order -> answer: str", "types": {"Order": Order}}
    made, _ = rlm("SUBMIT(answer=order.item)", **options)
    with made.session(path) as session:
        session(order=Order(item="tea"))
    made, _ = rlm("SUBMIT(answer=order.item)", **options)
    with made.session(path) as session:
        assert session().answer == "tea"


def test_what_cannot_be_kept_is_named(tmp_path):
    """Functions, classes, open files and generators, by type."""
    made, _ = rlm("def f(): pass\nclass C: pass\ng = (i for i in [1])\nx = 1\nobj = C()\nSUBMIT(answer='')")
    with made.session(tmp_path / "s.json") as session:
        session(text="t", question="q")
        assert session.lost == {"f": "function", "C": "type", "g": "generator", "obj": "C"}
    assert [name for name, _ in json.loads((tmp_path / "s.json").read_bytes())["values"]] == ["x"]


def test_child_runs_have_a_repl_of_their_own():
    """A child neither sees nor changes the session's variables."""
    sub = ScriptedLM([cell("SUBMIT(answer=str('kept' in globals()))")])
    made, _ = rlm("kept = 1\nSUBMIT(answer=rlm_query('? -> answer'[:1]))", sub_lm=sub)
    with made.session() as session:
        assert session(text="t", question="q").answer == "False"


async def _asynchronous(made):
    async with made.session() as session:
        await session.acall(text="t", question="q")
        return (await session.acall(question="r")).answer


def test_sessions_work_asynchronously():
    """On the caller's own event loop."""
    made, _ = rlm("n = 1\nSUBMIT(answer='')", "SUBMIT(answer=f'{n} {text} {question}')")
    assert asyncio.run(_asynchronous(made)) == "1 t r"


def test_a_session_outlives_its_event_loop():
    """Each asyncio.run has a loop of its own; variables that are data go along."""
    made, _ = rlm("n = [1]\nSUBMIT(answer='')", "SUBMIT(answer=str(n))")
    session = made.session()
    asyncio.run(session.acall(text="t", question="q"))
    assert asyncio.run(session.acall()).answer == "[1]"


def test_one_call_at_a_time():
    """A call from inside another is refused, not mixed with it."""
    refused = []

    def again(request):
        with pytest.raises(InputError, match="one at a time") as error:
            asyncio.get_running_loop()
            session.acall({"text": "t"}).send(None)
        refused.append(str(error.value))
        return cell("SUBMIT(answer='')")

    session = RLM("text: str -> answer: str", lm=ScriptedLM(again)).session()
    with session:
        session(text="t")
    assert refused


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b'{"format": "other"}', b"\xff", b'{"format": "dszig.session/1"}']
)
def test_a_file_that_is_no_session_is_refused(tmp_path, content):
    """At once, with its name, before any model call."""
    path = tmp_path / "s.json"
    path.write_bytes(content)
    made, _ = rlm()
    with pytest.raises(InputError, match=r"s\.json is no saved session"):
        made.session(path)
    assert path.read_bytes() == content


@pytest.mark.parametrize("name", ["", "file/s.json"], ids=["a folder", "no folder"])
def test_a_path_that_cannot_be_written_is_refused_before_any_call(tmp_path, name):
    """With its name; nothing was paid for."""
    (tmp_path / "file").write_text("", encoding="utf-8")
    made, _ = rlm()
    with pytest.raises(InputError, match="the session cannot be kept in"):
        made.session(tmp_path / name)
    assert os.listdir(tmp_path) == ["file"]


def test_a_file_that_cannot_be_written_after_a_call_costs_no_prediction(tmp_path):
    """A disk may be full by then: a warning, and the prediction."""
    made, _ = rlm("SUBMIT(answer=text)")
    with made.session(tmp_path / "sub" / "s.json") as session:
        (tmp_path / "sub").rmdir()
        (tmp_path / "sub").write_text("", encoding="utf-8")
        with pytest.warns(RuntimeWarning, match=r"the session was not saved to .*s\.json: "):
            assert session(text="t", question="q").answer == "t"


def test_a_file_serves_another_signature_too(tmp_path):
    """What the other does not declare is kept for the first, and missed by none."""
    path = tmp_path / "s.json"
    first, _ = rlm("n = len(text)\nSUBMIT(answer='a')", "SUBMIT(answer=text)")
    with first.session(path) as session:
        session(text="abc", question="q")
    other, _ = rlm("SUBMIT(size=n)", signature="question -> size: int")
    with other.session(path) as session:
        assert session().size == 3
    with first.session(path) as session:
        assert session().answer == "abc"


def test_an_input_that_was_never_given_is_missed():
    """The first call needs all of them."""
    made, _ = rlm()
    with made.session() as session, pytest.raises(InputError, match="missing: text"):
        session(question="q")


def test_closing_ends_the_worker():
    """And may be done twice."""
    made, _ = rlm("import os\nSUBMIT(answer=str(os.getpid()))")
    session = made.session()
    session(text="t", question="q")
    worker = session._kept._session._link
    session.close()
    session.close()
    assert worker.gone.done()
    assert os.getpid()
