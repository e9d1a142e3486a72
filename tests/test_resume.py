"""A run whose process died goes on: its code again, its replies from the file, and from there on the models."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections import Counter

import pytest
from scripted_server import Answer, ScriptedServer

from dszig_py import RLM, InputError, LMError, ReplayMismatch, Strategy, Trajectory, resume
from dszig_py.cli import main
from dszig_py.lm import ScriptedLM

SIGNATURE = "text: str -> answer: list[str]"
PROGRAM = textwrap.dedent("""
    import sys
    from dszig_py import RLM, Budget
    options = {"api_base": sys.argv[2], "api_key": "not-written-down"}
    rlm = RLM("text: str -> answer: list[str]", lm="openai/scripted", lm_options=options, trace=sys.argv[1],
              resumable=True, budget=Budget(max_llm_calls=60), max_iters=15)
    print(rlm(text="some text").answer)
""")


def cell(code):
    return f"```python\n{code}\n```"


class Provider:
    """Ten iterations with two sub-calls each and a child run; the sub-call named ``hold`` is never answered once."""

    def __init__(self, hold=None):
        self.hold, self.reached = hold, threading.Event()
        self.answered = Counter()

    def __call__(self, body):
        text = str(body["messages"][-1]["content"])
        if "live REPL" not in str(body["messages"][0]["content"]):
            if text == self.hold and not self.reached.is_set():
                self.reached.set()
                return Answer(fault="hang")  # the process that waits for this is killed meanwhile
            return self.give(text, f"re: {text}")
        if "Variables in the REPL:\n  prompt" in str(body["messages"][1]["content"]):
            return self.give("child", cell("SUBMIT(answer='child ' + llm_query('inner'))"))
        number = sum(m["role"] == "assistant" for m in body["messages"]) + 1
        start = "found = []\n" if number == 1 else ""
        batched = f"llm_query_batched(['{number}a', '{number}b'])"
        in_turn = f"[llm_query('{number}a'), llm_query('{number}b')]"  # so that b is asked when a is in the file
        code = f"{start}found += {in_turn if number == 5 else batched}\nprint(len(found))"
        if number == 3:
            code += "\nfound.append(rlm_query('do it'))"
        return self.give(f"decision {number}", cell("SUBMIT(answer=found)" if number == 10 else code))

    def give(self, what, reply):
        self.answered[what] += 1
        return reply


@pytest.mark.parametrize("hold", ["5b", "inner"])
def test_a_killed_run_resumes_without_asking_for_a_reply_twice(tmp_path, hold):
    """SIGKILL in the middle of ten iterations, while a sub-call of the root or of a child is under way."""
    whole = Provider()
    with ScriptedServer(whole) as server:
        options = {"api_base": server.url, "api_key": "k"}
        expected = RLM(SIGNATURE, lm="openai/scripted", lm_options=options, max_iters=15)(text="some text")
    provider, trace = Provider(hold), tmp_path / "run.jsonl"
    with ScriptedServer(provider) as server:
        arguments = [sys.executable, "-c", PROGRAM, str(trace), server.url]
        process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert provider.reached.wait(60)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
        assert Trajectory.load(trace).termination is None
        trace.write_bytes(trace.read_bytes()[:-7])  # the last line was cut
        journal = trace.with_name("run.jsonl.resume")
        with journal.open("ab") as file:
            file.write(b'{"key": "cut off in')
        assert b"not-written-down" not in journal.read_bytes()
        pred = RLM.resume(trace, lm_options={"api_base": server.url, "api_key": "k"})
    assert pred.answer == expected.answer
    assert pred.termination.kind == "submitted"
    assert provider.answered == whole.answered
    assert set(provider.answered.values()) == {1}
    assert (pred.usage.calls, pred.usage.tokens) == (expected.usage.calls, expected.usage.tokens)
    assert Trajectory.load(trace) == pred.trajectory


def run(tmp_path, replies, **options):
    lm = ScriptedLM(replies)
    rlm = RLM("text: str -> answer: str", lm=lm, trace=tmp_path / "run.jsonl", resumable=True, **options)
    return rlm, lm


def test_a_run_that_failed_at_its_provider_goes_on_where_it_failed(tmp_path):
    """The failure that ended it is not repeated from the file; everything before it is."""
    rlm, _ = run(tmp_path, [cell("n = 41\nprint(n)"), LMError("down")])
    with pytest.raises(LMError, match="down"):
        rlm(text="t")
    lm = ScriptedLM([cell("SUBMIT(answer=str(n + 1))")])
    assert RLM.resume(tmp_path / "run.jsonl", lm=lm).answer == "42"
    assert len(lm.requests) == 1


def test_a_sub_call_that_failed_fails_again(tmp_path):
    """The code that followed was decided with the failure in view."""
    code = "try: llm_query('a')\nexcept Exception as e: print('failed:', e)"
    rlm, _ = run(tmp_path, [cell(code), cell("x = 1"), LMError("down")], sub_lm=ScriptedLM([LMError("busy")]))
    with pytest.raises(LMError, match="down"):
        rlm(text="t")
    lm, sub = ScriptedLM([cell("SUBMIT(answer='done')")]), ScriptedLM([])
    pred = RLM.resume(tmp_path / "run.jsonl", lm=lm, sub_lm=sub)
    assert "failed: llm_query failed: busy" in pred.trajectory.iterations[0].observation
    assert not sub.requests


def test_code_that_does_something_else_the_second_time_is_told(tmp_path):
    """Random output reaches the next prompt, which no longer is the recorded one."""
    rlm, _ = run(tmp_path, [cell("import random\nprint(random.random())"), cell("x = 1"), LMError("down")])
    with pytest.raises(LMError, match="down"):
        rlm(text="t")
    lm = ScriptedLM([])
    with pytest.raises(ReplayMismatch, match="does not repeat itself"):
        RLM.resume(tmp_path / "run.jsonl", lm=lm)
    assert not lm.requests


def test_a_run_that_was_over_ends_as_it_did(tmp_path):
    """No model is asked; compaction and its summary included."""
    replies = [*[cell("print('x' * 1500)")] * 3, "the summary", cell("SUBMIT(answer='done')")]
    rlm, _ = run(tmp_path, replies, strategy=Strategy(compact_at=4_000))
    first = rlm(text="t")
    lm = ScriptedLM([])
    again = RLM.resume(tmp_path / "run.jsonl", lm=lm)
    assert again.answer == first.answer == "done"
    assert any(i.compaction for i in again.trajectory.iterations)
    assert not lm.requests


def test_what_a_file_cannot_hold_is_asked_for(tmp_path):
    """Models given as objects, tools, a check, an environment object."""
    rlm, _ = run(tmp_path, [cell("SUBMIT(answer=f())")], tools={"f": lambda: "x"}, check=lambda outputs: None)
    rlm(text="t")
    with pytest.raises(InputError, match="had tools, check, lm that no file can hold"):
        RLM.resume(tmp_path / "run.jsonl")
    again = {"lm": ScriptedLM([]), "tools": {"f": lambda: "x"}, "check": lambda outputs: None}
    assert RLM.resume(tmp_path / "run.jsonl", **again).answer == "x"


def test_other_inputs_are_other_requests(tmp_path):
    """Inputs may be given again; different ones do not fit the replies."""
    rlm, _ = run(tmp_path, [cell("SUBMIT(answer=text)")])
    rlm(text="t")
    assert RLM.resume(tmp_path / "run.jsonl", lm=ScriptedLM([]), inputs={"text": "t"}).answer == "t"
    with pytest.raises(ReplayMismatch):
        RLM.resume(tmp_path / "run.jsonl", lm=ScriptedLM([]), inputs={"text": "other"})


def test_what_cannot_be_resumed_is_refused(tmp_path):
    """No trace file to keep it beside; no journal; a journal cut before it says anything; inputs without a form."""
    for trace in (None, tmp_path, str(tmp_path / "folder")):
        with pytest.raises(InputError, match="one file"):
            RLM("a -> b", trace=trace, resumable=True)
    with pytest.raises(InputError, match="resumable=True"):
        RLM.resume(tmp_path / "run.jsonl")
    rlm, _ = run(tmp_path, [])
    with pytest.raises(InputError, match="written down"):
        rlm(text=object())
    rlm, _ = run(tmp_path, [cell("SUBMIT(answer=text)")])
    rlm(text="t")
    journal = tmp_path / "run.jsonl.resume"
    lines = journal.read_bytes().split(b"\n")
    journal.write_bytes(lines[0] + b"\n" + lines[1][:5])
    with pytest.raises(InputError, match="cut off too early"):
        RLM.resume(tmp_path / "run.jsonl", lm=ScriptedLM([]))
    assert json.loads(lines[1])["resume"]["inputs"] == {"text": "t"}
    assert os.path.exists(journal)


def test_the_command_line_resumes_a_run(tmp_path, capsys, monkeypatch):
    """Begun with --resumable; gone on with by its trace, models by their names; wrong use says what to give."""
    monkeypatch.setenv("DSZIG_RUNS_DIR", str(tmp_path / "runs"))
    trace = str(tmp_path / "run.jsonl")
    with ScriptedServer() as server:
        server.script([cell("n = len(text)\nprint(n)"), Answer("no more", status=400), cell("SUBMIT(answer=str(n))")])
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-loopback")
        started = ["run", "text -> answer", "--text", "hello", "-m", "openai/x", "--trace", trace, "--resumable", "-q"]
        assert main(started) == 1
        assert "no more" in capsys.readouterr().err
        assert main(["resume", trace, "-q"]) == 0
        assert capsys.readouterr().out == "5\n"
        assert server.count == 3
    assert main(["resume", str(tmp_path / "other.jsonl")]) == 2
    assert "cannot be resumed" in capsys.readouterr().err
    assert main([*started[:6], "--resumable"]) == 2
    assert "give --trace" in capsys.readouterr().err


def test_no_key_is_written_down_and_nobody_else_reads_the_rest(tmp_path):
    """Whatever a provider calls it, and however deep it lies; limits in tokens stay. The file is its owner's."""
    options = {
        **{"aws_secret_access_key": "s", "azure_ad_token": "s", "vertex_credentials": "s", "client_secret": "s"},
        **{"extra_headers": {"x": "s"}, "extra_body": {"auth_token": "s", "top_k": 1}},
        **{"max_tokens": 5, "max_completion_tokens": 6, "temperature": 0},
    }
    kept = resume.options(RLM(SIGNATURE, lm="openai/scripted", lm_options=options, sub_lm_options={"api_key": "s"}))
    assert kept["lm_options"] == {
        "extra_body": {"top_k": 1},
        "max_tokens": 5,
        "max_completion_tokens": 6,
        "temperature": 0,
    }
    assert "sub_lm_options" not in kept and kept["missing"] == []
    RLM(SIGNATURE, lm=ScriptedLM([cell("SUBMIT(answer=[])")]), trace=tmp_path / "t.jsonl", resumable=True)(text="whole")
    assert (tmp_path / "t.jsonl.resume").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"main_cmd": "touch PATH"}, "give it again"),
        ({"rlm_cmd": ["touch", "PATH"]}, "give it again"),
        ({"environment": "inprocess"}, "give it again"),
        ({"secrets": ["x"]}, "no run writes down"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_journal_starts_nothing_on_this_machine_by_itself(tmp_path, change, why):
    """Its replies are code and its options programs: what has no boundary is said again by whoever resumes."""
    rlm, _ = run(tmp_path, [cell("print(1)"), LMError("down")])
    with pytest.raises(LMError):
        rlm(text="t")
    journal, made = tmp_path / "run.jsonl.resume", tmp_path / "made"
    head, facts, rest = journal.read_bytes().split(b"\n", 2)
    told = json.loads(facts)
    told["resume"]["options"] |= json.loads(json.dumps(change).replace("PATH", str(made)))
    journal.write_bytes(b"\n".join([head, json.dumps(told).encode(), rest]))
    lm = ScriptedLM([cell("SUBMIT(answer=text)")])
    with pytest.raises(InputError, match=why):
        RLM.resume(tmp_path / "run.jsonl", lm=lm)
    assert not made.exists() and lm.requests == []


def test_a_journal_that_others_can_write_is_not_resumed(tmp_path):
    """Whoever can write it could have its code run."""
    rlm, _ = run(tmp_path, [cell("print(1)"), LMError("down")])
    with pytest.raises(LMError):
        rlm(text="t")
    journal = tmp_path / "run.jsonl.resume"
    journal.chmod(0o666)
    with pytest.raises(InputError, match="by others"):
        RLM.resume(tmp_path / "run.jsonl", lm=ScriptedLM([]))
    journal.chmod(0o600)
    assert RLM.resume(tmp_path / "run.jsonl", lm=ScriptedLM([cell("SUBMIT(answer=text)")])).answer == "t"
