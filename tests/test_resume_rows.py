"""Rows of an evaluation and elements of a corpus that were under way when the process ended go on; nothing is paid twice."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import textwrap
import threading
from collections import Counter
from pathlib import Path

import pytest
from scripted_server import Answer, ScriptedServer

from dszig_py import RLM, Budget, LMError
from dszig_py.cli import main
from dszig_py.evals import Evaluation, evaluate
from dszig_py.evals.systems import Outcome
from dszig_py.evals.work import Job
from dszig_py.lm import Message, Reply, Request, ScriptedLM
from dszig_py.lm.journals import Journals
from dszig_py.usage import Usage

HOLD = "second of row 2"


def cell(code):
    return f"```python\n{code}\n```"


class Provider:
    """Rows in the order in which they begin; each has three decisions and a sub-call in each of the first two.

    The second sub-call of the second row is never answered once: the process that waits for it is killed meanwhile.
    """

    def __init__(self, row, code, hold=HOLD):
        self.row, self.code, self.hold, self.reached = row, code, hold, threading.Event()
        self.answered, self.rows = Counter(), {}

    def __call__(self, body):
        text = str(body["messages"][-1]["content"])
        if "live REPL" not in str(body["messages"][0]["content"]):
            if text == self.hold and not self.reached.is_set():
                self.reached.set()
                return Answer(fault="hang")
            return self.give(text, f"re: {text}")
        found = re.search(self.row, str(body["messages"][1]["content"]))[0]
        row = self.rows.setdefault(found, len(self.rows) + 1)
        number = 1 + sum(m["role"] == "assistant" for m in body["messages"])
        code = {
            1: f"found = [llm_query('first of row {row}')]\nprint(found)",
            2: f"found.append(llm_query('second of row {row}'))\nprint(found)",
        }
        return self.give(f"decision {number} of row {row}", cell(code.get(number, self.code)))

    def give(self, what, reply):
        self.answered[what] += 1
        return reply


def killed(provider, arguments, env=None):
    """A program that is ended by SIGKILL once it waits for the reply it never gets."""
    process = subprocess.Popen([sys.executable, *arguments], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert provider.reached.wait(60), process.communicate(timeout=1)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)


def test_a_killed_evaluation_goes_on_within_the_run_that_was_under_way(tmp_path, monkeypatch, capsys):
    """SIGKILL in the second of three runs, after three of its replies: every reply of the evaluation is asked for once."""
    provider = Provider(r"special number for [\w-]+", "SUBMIT(answer=found[-1])")
    path = tmp_path / "r.jsonl"
    with ScriptedServer(provider) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-loopback")
        arguments = ["eval", "needle", "-m", "direct:openai/x", "--systems", "rlm", "--lengths", "4K", "--n", "3",
                     "--max-concurrency", "1", "--json", str(path), "-q", "--environment", "inprocess"]  # fmt: skip
        killed(provider, ["-m", "dszig_py", *arguments], dict(os.environ))
        assert [row.index for row in Evaluation.load(path).rows] == [0]
        (kept,) = (tmp_path / "r.jsonl.runs").iterdir()
        with kept.open("ab") as file:
            file.write(b'{"key": "cut off in')
        assert main(arguments) == 0
    assert "needle" in capsys.readouterr().out
    assert set(provider.answered.values()) == {1}
    assert sum(provider.answered.values()) == 3 * 5
    rows = Evaluation.load(path).rows
    assert [row.resumed for row in rows] == [False, True, False]
    left = Journals.beside(path)  # as if the process had been killed between a row and its journal's end
    Path(Journals._path(left.folder, Job.of(rows[0]).name)).touch()
    evaluate("needle", "rlm", lm="direct:openai/x", lengths=(4_000,), n=3, path=path)
    assert [(row.calls, row.iterations, row.kind) for row in rows] == [(5, 3, "submitted")] * 3
    assert rows[1].input_tokens > 0
    assert rows[1].outputs == {"answer": f"re: {HOLD}"}
    assert not (tmp_path / "r.jsonl.runs").exists()


MAP = """
    import sys
    from dszig_py import RLM
    options = {"api_base": sys.argv[2], "api_key": "k"}
    rlm = RLM("text: str -> answer: list[str]", lm="direct:openai/x", lm_options=options, environment="inprocess")
    for result in rlm.map([{"text": f"element {n}"} for n in range(4)], max_concurrency=1, path=sys.argv[1]): pass
"""


def test_a_killed_map_goes_on_within_the_run_that_was_under_way(tmp_path):
    """SIGKILL in the second of four elements: the same results, every reply asked for once, the folder gone."""
    provider, path = Provider(r"element \d", "SUBMIT(answer=found)"), tmp_path / "r.jsonl"
    with ScriptedServer(provider) as server:
        killed(provider, ["-c", textwrap.dedent(MAP), str(path), server.url])
        assert len(list((tmp_path / "r.jsonl.runs").iterdir())) == 1
        options = {"api_base": server.url, "api_key": "k"}
        rlm = RLM("text -> answer: list[str]", lm="direct:openai/x", lm_options=options, environment="inprocess")
        found = list(rlm.map([{"text": f"element {n}"} for n in range(4)], path=path, ordered=True, max_concurrency=1))
    assert [r.outputs["answer"][1] for r in found] == [f"re: second of row {n}" for n in (1, 2, 3, 4)]
    assert set(provider.answered.values()) == {1}
    assert sum(provider.answered.values()) == 4 * 5
    assert [r.usage.calls for r in found] == [5] * 4
    assert not (tmp_path / "r.jsonl.runs").exists()


def _mapped(path, replies, text="t", **options):
    lm = ScriptedLM(replies)
    (found,) = RLM("text -> answer", lm=lm, environment="inprocess", **options).map([{"text": text}], path=path)
    return found, lm


def test_what_a_provider_failed_at_goes_on_from_there(tmp_path):
    """A failed element is no killed one, and its replies were paid for all the same."""
    path = tmp_path / "r.jsonl"
    failed, _ = _mapped(path, [cell("n = 41\nprint(n)"), LMError("down")])
    assert failed.failed
    found, lm = _mapped(path, [cell("SUBMIT(answer=str(n + 1))")])
    assert (found.outputs, found.usage.calls, len(lm.requests)) == ({"answer": "42"}, 2, 1)
    assert not (tmp_path / "r.jsonl.runs").exists()


def test_an_element_that_was_changed_or_whose_code_varies_begins_anew(tmp_path):
    """Replies to other prompts are of no use: they are left alone, or given up."""
    path = tmp_path / "r.jsonl"
    _mapped(path, [cell("import random\nprint(random.random())"), cell("x = 1"), LMError("down")])
    varies, lm = _mapped(path, [cell("SUBMIT(answer='anew')")])
    assert (varies.outputs, varies.usage.calls, len(lm.requests)) == ({"answer": "anew"}, 1, 1)
    path = tmp_path / "s.jsonl"
    _mapped(path, [cell("n = 41"), LMError("down")])
    changed, lm = _mapped(path, [cell("SUBMIT(answer=text)")], text="other")
    assert (changed.outputs, len(lm.requests)) == ({"answer": "other"}, 1)


def test_nothing_is_kept_of_runs_of_one_call_or_without_a_file(tmp_path, monkeypatch):
    """There is nothing to go on with."""
    opened = []
    real = Journals.open
    monkeypatch.setattr(Journals, "open", lambda self, row, **how: opened.append(self.folder) or real(self, row, **how))
    evaluate("needle", "direct", lm="offline", lengths=(4_000,), n=1, path=tmp_path / "r.jsonl")
    assert not opened
    _mapped(None, [cell("SUBMIT(answer='x')")])
    assert opened == [None]
    assert [p.name for p in tmp_path.iterdir()] == ["r.jsonl"]


async def twice(_task, example, setup):
    """A system of nobody's we know: two calls, the second of which may fail."""
    usage = Usage()
    try:
        for number in (1, 2):
            reply = await setup.lm.complete(Request((Message("user", f"{number}: {example.id}"),)))
            usage += reply.usage
    except LMError as error:
        return Outcome({}, "error", "provider", str(error), usage=usage)
    return Outcome({"answer": example.answer}, usage=usage)


class Dear:
    """A dollar a call; every other answer to a second call is a failure."""

    model, calls, fails = "dear", 0, True

    async def complete(self, request):
        if self.fails and request.prompt.startswith("2"):
            raise LMError("down")
        self.calls += 1
        return Reply("x", Usage(1, 10, 10, 1.0, 0.0))


def test_any_system_goes_on_and_a_total_counts_what_was_paid_once(tmp_path):
    """The models are behind the journal, whatever asks them; a row that went on tells of the failed one's cost as well."""
    lm = Dear()
    options = {"lm": lm, "lengths": (4_000,), "n": 2, "path": tmp_path / "r.jsonl", "budget": Budget(max_cost=2.0)}
    evaluate("needle", {"twice": twice}, **options)
    assert lm.calls == 2
    lm.fails = False
    # Four dollars in all. Were the failed rows' two counted beside, the second row would not be begun.
    found = evaluate("needle", {"twice": twice}, total=Budget(max_cost=6.0), **options)
    assert lm.calls == 4
    assert [(row.cost, row.resumed, row.score) for row in found.rows] == [(2.0, True, 1.0)] * 2
    more = {**options, "n": 3}
    assert evaluate("needle", {"twice": twice}, total=Budget(max_cost=5.9), **more).stopped
    assert not evaluate("needle", {"twice": twice}, total=Budget(max_cost=6.0), **more).stopped
    assert lm.calls == 6


def test_a_rate_limit_that_was_waited_out_is_no_failure_when_it_is_replayed(tmp_path):
    """The sub-call was tried again and answered; so it is the second time."""

    def busy_once(request, seen=[]):  # noqa: B006
        if request.prompt in seen:
            return "fine"
        seen.append(request.prompt)
        raise LMError("busy", retryable=True, retry_after=0.0)

    code = cell("print(llm_query('a'))")
    path = tmp_path / "r.jsonl"
    _mapped(path, [code, cell("x = 1"), LMError("down")], sub_lm=ScriptedLM(busy_once))
    sub = ScriptedLM([])
    found, lm = _mapped(path, [cell("SUBMIT(answer='done')")], sub_lm=sub)
    assert found.outputs == {"answer": "done"}
    assert "fine" in found.prediction.trajectory.iterations[0].observation
    assert (len(lm.requests), len(sub.requests)) == (1, 0)


@pytest.mark.parametrize("name", ["rlm/needle/4000/1", "x" * 300, "../../etc", "ünï/\n\0", ".", ""])
def test_names_of_rows_are_names_of_files(tmp_path, name):
    """Whatever a system is called, its journal is a file in the folder, and another one's is another."""
    place = Path(Journals._path(str(tmp_path), name))
    assert place.parent == tmp_path
    place.touch()
    assert place != Path(Journals._path(str(tmp_path), name + str(random.random())))
