"""Traces: written as a run goes, read back equal, whatever ends the run or the file."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from waiting import reached

from dszig_py import RLM, Budget, LMError, Strategy, Trajectory, rows, trace
from dszig_py.environments.base import Execution
from dszig_py.events import BudgetChanged, IterationFinished, RunFinished, RunStarted, SubCallFinished, SubCallStarted
from dszig_py.lm import ScriptedLM
from dszig_py.lm.base import Reply
from dszig_py.trajectory import Action, Extraction, Input, Iteration, SubCall, Termination
from dszig_py.usage import Usage

TREE = """\
a = llm_query('first')
r = rlm_query_batched(['p0', 'p1', 'p2'])
try:
    predict('text -> n: int', text='no number')
except ValueError as error:
    print(error)
"""
CHILD = "x = llm_query_batched(['x of ' + prompt, 'y of ' + prompt])\nSUBMIT(' '.join(x))"


def cell(code):
    return f"```python\n{code}\n```"


def sub(request):
    if "live REPL" in request.messages[0].content:
        return cell(CHILD)
    return f"<{request.prompt}>"


def tree(path, **options):
    """A run with a query, three children at once, and a failed prediction."""
    root = ScriptedLM([cell(TREE), cell("SUBMIT(answer=str(r))")])
    return RLM("text: str -> answer: str", lm=root, sub_lm=ScriptedLM(sub), trace=path, **options)(text="some text")


def lines(path):
    return [json.loads(line) for line in path.read_bytes().splitlines()]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """One run and its trace, for tests that only read."""
    path = tmp_path_factory.mktemp("trace") / "run.jsonl"
    return tree(path).trajectory, path


# What is written


def test_a_live_trace_loads_equal_and_has_the_lines_that_saving_writes(recorded, tmp_path):
    """Only the order of lines of runs that went on at once may differ."""
    run, path = recorded
    assert Trajectory.load(path) == run
    saved = run.save(tmp_path / "saved.jsonl")
    assert Trajectory.load(saved) == run
    assert sorted(saved.read_bytes().splitlines()) == sorted(path.read_bytes().splitlines())


def test_every_line_says_which_run_and_when(recorded):
    """The first names the schema; times never run ahead of the root's end."""
    _, path = recorded
    first, *rest = lines(path)
    assert (first["schema"], first["event"], first["depth"], first["t"]) == ("dszig.trace/1", "run", 0, 0.0)
    assert rest[-1]["event"] == "end"
    for line in rest:
        assert {"event", "run", "depth", "t"} <= set(line)
        assert 0 <= line["t"] <= rest[-1]["t"]


def test_children_that_run_at_once_are_told_apart(recorded):
    """Each child's run names its sub-call, which names its batch and its place in it."""
    run, path = recorded
    read = lines(path)
    calls = {line["id"]: line for line in read if line["event"] == "sub_call"}
    children = [line for line in read if line["event"] == "run" and line["depth"] == 1]
    assert len(children) == 3
    for child in children:
        call = calls[child["parent"]]
        assert call["run"] == run.id
        assert call["child"] == child["run"]
        mine = sorted(line["reply"] for line in calls.values() if line["run"] == child["run"])
        assert mine == [f"<x of p{call['index']}>", f"<y of p{call['index']}>"]
    assert len({calls[child["parent"]]["batch"] for child in children}) == 1
    inside = {call.index: call.trajectory.outputs["answer"] for call in run.sub_calls() if call.kind == "rlm_query"}
    assert inside == {i: f"<x of p{i}> <y of p{i}>" for i in range(3)}


def test_the_table_of_the_schema_has_every_key_that_is_written(recorded):
    """A key that is not documented is not part of the format."""
    _, path = recorded
    known = set(re.findall(r"``([a-z_]+)``", trace.__doc__))
    written = {key for line in lines(path) for key in line}
    nested = {
        key
        for line in lines(path)
        for name in ("usage", "execution", "action", "termination")
        for key in line.get(name) or ()
    }
    assert written | nested <= known
    assert {line["event"] for line in lines(path)} <= set(re.findall(r"^([a-z_]+) ", trace.__doc__, re.MULTILINE))


def test_a_folder_gets_a_file_a_run_and_a_file_is_replaced(tmp_path):
    """Names begin with the UTC time, so that they sort by it."""
    for _ in range(2):
        tree(tmp_path / "runs")
        run = tree(tmp_path / "last.jsonl").trajectory
    names = [path.name for path in (tmp_path / "runs").iterdir()]
    assert len(names) == 2
    assert all(re.fullmatch(r"\d{8}-\d{6}-[0-9a-f]{12}\.jsonl", name) for name in names)
    assert Trajectory.load(tmp_path / "last.jsonl") == run


def test_several_traces_of_one_run_are_alike(tmp_path):
    """A file, a folder and a tracer of the caller's own, with secrets of its own."""
    own = trace.Tracer(tmp_path / "own.jsonl", secrets=["first line of it"])
    prediction = tree([tmp_path / "one.jsonl", tmp_path / "runs", own])
    (saved,) = (tmp_path / "runs").iterdir()
    assert saved.read_bytes() == (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "own.jsonl").read_bytes()
    assert Trajectory.load(saved) == prediction.trajectory


def test_nothing_is_written_where_nothing_was_run(tmp_path):
    """A refused input makes no file."""
    with pytest.raises(ValueError):
        RLM("n: int -> a", lm=ScriptedLM([]), trace=tmp_path / "t.jsonl")(n="no number")
    assert list(tmp_path.iterdir()) == []


# What ends a run


class Slow:
    """Answers the first twenty prompts; the others wait for ever."""

    model = "slow"

    async def complete(self, request):
        if int(request.prompt) >= 20:
            await asyncio.sleep(600)
        return Reply(f"answer {request.prompt}", Usage(1, 1, 1), "slow", "stop")


KILLED = """
import sys
sys.path.insert(0, sys.argv[1])
from test_trace import Slow, cell
from dszig_py import RLM
from dszig_py.events import SubCallFinished
from dszig_py.lm import ScriptedLM

done = []
def tell(event):
    done.append(event) if isinstance(event, SubCallFinished) else None
    if len(done) == 20:
        print("twenty", flush=True)

root = ScriptedLM([cell("print('begun')"), cell("llm_query_batched([str(i) for i in range(40)])")])
RLM("text -> answer", lm=root, sub_lm=Slow(), trace=sys.argv[2], on_event=tell)(text="t")
"""


def test_a_killed_process_leaves_every_finished_sub_call(tmp_path):
    """SIGKILL in the middle of a batch: twenty paid answers are in the file, in the iteration that was running."""
    path = tmp_path / "killed.jsonl"
    args = [sys.executable, "-c", KILLED, str(Path(__file__).parent), str(path)]
    with subprocess.Popen(args, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"twenty\n"
        process.send_signal(signal.SIGKILL)
    run = Trajectory.load(path)
    assert run.termination is None
    assert len(run.iterations) == 2
    assert run.iterations[0].execution.stdout.strip() == "begun"
    assert "range(40)" in run.iterations[1].action.code
    assert sorted(c.reply for c in run.iterations[1].sub_calls) == sorted(f"answer {i}" for i in range(20))
    assert run.usage.calls == 22
    assert run.usage.by_model["slow"].calls == 20


def test_a_trace_cut_after_any_line_has_all_sub_calls_up_to_there(recorded, tmp_path):
    """Also those inside children that had not ended."""
    _, path = recorded
    every = path.read_bytes().splitlines(keepends=True)
    cut = tmp_path / "cut.jsonl"
    for count in range(1, len(every)):
        cut.write_bytes(b"".join(every[:count]))
        run = Trajectory.load(cut)
        kept = {json.loads(line)["id"] for line in every[:count] if b'"sub_call"' in line[:40]}
        assert kept == {call.id for call in run.sub_calls() if not call.error.startswith("unfinished")}
        assert run.termination is None
        assert Trajectory.load(run.save(tmp_path / "again.jsonl")) == run


def test_a_last_line_cut_at_any_byte_is_passed_over(recorded, tmp_path):
    """The rest of the file loads; a file without one whole line holds no run."""
    _, path = recorded
    data = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(data) if byte == 10]
    cut = tmp_path / "cut.jsonl"
    places = [*range(ends[0] + 3), *range(ends[1], ends[3]), *range(ends[-2], len(data))]
    for place in places:
        cut.write_bytes(data[:place])
        if place < ends[0] - 1:
            with pytest.raises(ValueError):
                Trajectory.load(cut)
        else:
            assert Trajectory.load(cut).signature == "text: str -> answer: str"


def test_a_damaged_line_in_the_middle_is_refused_with_its_number(recorded, tmp_path):
    """Only the last line may be cut."""
    _, path = recorded
    every = path.read_bytes().splitlines()
    (tmp_path / "t").write_bytes(b"\n".join([*every[:3], every[3][:-5], *every[4:]]))
    with pytest.raises(ValueError, match="line 4"):
        Trajectory.load(tmp_path / "t")


def test_other_files_are_refused_and_later_events_are_passed_over(recorded, tmp_path):
    """Another version is another format; a new kind of event is not."""
    run, path = recorded
    data = path.read_bytes()
    other = tmp_path / "t"
    for content in (b"", b"hello", b"[]", b"{}", data.replace(b"trace/1", b"trace/2"), data + data):
        other.write_bytes(content)
        with pytest.raises(ValueError):
            Trajectory.load(other)
    new = json.dumps({"event": "weather", "run": run.id, "depth": 0, "t": 1.0}).encode()
    first, rest = data.split(b"\n", 1)
    other.write_bytes(first[:-1] + b',"sky":"blue"}\n' + new + b"\n" + rest)
    assert Trajectory.load(other) == run


def test_a_deadline_records_and_publishes_the_calls_it_cancels(tmp_path, ample_extraction):
    """Finished ones keep their answers, the others say that they were cancelled; the iteration stays."""
    told = []
    code = "llm_query_batched([str(i) for i in range(18, 22)])"
    predictions = []

    def attempt(seconds):
        told.clear()
        (tmp_path / "t.jsonl").unlink(missing_ok=True)
        rlm = RLM(
            "text -> answer",
            lm=ScriptedLM([cell(code), '{"answer": "partial"}']),
            sub_lm=Slow(),
            budget=Budget(max_seconds=ample_extraction(seconds)),
            trace=tmp_path / "t.jsonl",
            on_event=told.append,
        )
        predictions.append(rlm(text="t"))
        return sum(isinstance(event, SubCallFinished) and bool(event.sub_call.reply) for event in told) == 2

    reached(attempt, 2)
    prediction = predictions[-1]
    assert prediction.termination.kind == "max_seconds"
    assert prediction.answer == "partial"
    (stopped,) = prediction.trajectory.iterations
    calls = {call.index: call for call in stopped.sub_calls}
    assert [calls[i].reply for i in range(2)] == ["answer 18", "answer 19"]
    assert [calls[i].error for i in (2, 3)] == ["CancelledError"] * 2
    assert "stopped while it ran" in stopped.execution.error
    published = [event.sub_call for event in told if isinstance(event, SubCallFinished)]
    assert sorted(call.id for call in published) == sorted(call.id for call in stopped.sub_calls)
    assert Trajectory.load(tmp_path / "t.jsonl") == prediction.trajectory


def test_a_cancelled_caller_keeps_the_calls_of_a_running_child(tmp_path):
    """The child's trajectory hangs on its sub-call, and the trace ends with what the exception carries."""

    class Child(Slow):
        async def complete(self, request):
            if "live REPL" in request.messages[0].content:
                return Reply(cell("llm_query_batched(['1', '30'])"), Usage(1, 1, 1), "slow", "stop")
            return await super().complete(request)

    async def main():
        answered, loop = asyncio.Event(), asyncio.get_running_loop()

        def tell(event):
            if isinstance(event, SubCallFinished) and event.sub_call.reply:
                loop.call_soon_threadsafe(answered.set)

        root = ScriptedLM([cell("rlm_query('dig')")])
        rlm = RLM("text -> answer", lm=root, sub_lm=Child(), trace=tmp_path / "t.jsonl", on_event=tell)
        task = asyncio.ensure_future(rlm.acall(text="t"))
        await answered.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
        return caught.value.prediction

    prediction = asyncio.run(main())
    assert prediction.termination.kind == "cancelled"
    (outer,) = prediction.trajectory.iterations[0].sub_calls
    assert (outer.kind, outer.error) == ("rlm_query", "CancelledError")
    assert outer.trajectory.termination.kind == "cancelled"
    inner = {call.index: call for call in outer.trajectory.iterations[0].sub_calls}
    assert (inner[0].reply, inner[1].error) == ("answer 1", "CancelledError")
    assert Trajectory.load(tmp_path / "t.jsonl") == prediction.trajectory


@pytest.mark.parametrize(("error", "cause"), [(LMError("down"), "provider"), (RuntimeError("a bug"), "caller")])
def test_a_run_that_ends_by_an_exception_has_its_end_in_the_trace(tmp_path, error, cause):
    """Whoever's it was."""
    root = ScriptedLM([cell("llm_query('x')"), error])
    with pytest.raises(type(error)):
        RLM("text -> answer", lm=root, sub_lm=ScriptedLM(sub), trace=tmp_path / "t.jsonl")(text="t")
    run = Trajectory.load(tmp_path / "t.jsonl")
    assert (run.termination.kind, run.termination.cause) == ("error", cause)
    assert run.iterations[0].sub_calls[0].reply == "<x>"


# What must not happen


@pytest.mark.parametrize("place", ["/dev/full", "file/below.jsonl", "pipe.jsonl"])
def test_a_trace_that_cannot_be_written_warns_once_and_the_run_goes_on(tmp_path, monkeypatch, place):
    """A full disk, a folder that cannot be made, a pipe that nobody reads."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe.jsonl")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert tree(place).answer.startswith("['<x of p0>")
    assert len([w for w in caught if "trace" in str(w.message)]) == 1


def test_secrets_are_taken_out_by_value_wherever_they_stand(tmp_path, monkeypatch):
    """In code, prompts, replies, outputs and their keys; names that look like secrets stay, and so do short keys."""
    secret, key, short = 'n0t"for\nyou é', "sk-live-0123456789", "sk-1"
    monkeypatch.setenv("OPENAI_API_KEY", key)
    monkeypatch.setenv("GROQ_API_KEY", short)
    code = f"a = llm_query({'ask ' + secret!r})\nb = {key!r}\nmonkey_token = 'kept {short}'\nprint(a, b, monkey_token)"
    root = ScriptedLM([cell(code), cell("SUBMIT(answer={a: [a, (b, {b})]})")])
    rlm = RLM(
        "text -> answer: dict[str, list]", lm=root, sub_lm=ScriptedLM(sub), trace=tmp_path / "t.jsonl", secrets=[secret]
    )
    prediction = rlm(text=f"about {key}")
    data = (tmp_path / "t.jsonl").read_bytes()
    assert key.encode() not in data
    assert not any("n0t" in call.prompt + call.reply for call in Trajectory.load(tmp_path / "t.jsonl").sub_calls())
    run = Trajectory.load(tmp_path / "t.jsonl")
    assert run.iterations[0].sub_calls[0].reply == "<ask [redacted]>"
    assert f"kept {short}" in run.iterations[0].observation
    assert "<ask [redacted]>" in run.outputs["answer"]
    assert key in str(prediction.trajectory.outputs)
    assert key.encode() not in prediction.trajectory.save(tmp_path / "s.jsonl", secrets=[secret]).read_bytes()


@given(st.text(min_size=1, max_size=12), st.text(max_size=20), st.text(max_size=20))
def test_redaction_leaves_no_occurrence_and_valid_lines(secret, before, after):
    """Whatever characters a secret has, also those that JSON writes as escapes, and however few they are."""
    row = {"event": "sub_call", "run": "r", "prompt": f"{before}{secret}{after}", "reply": "\\" + secret[1:]}
    read = json.loads(trace.Redactor(["", secret]).line(row))
    parts = read["prompt"].split("[redacted]")
    assert len(parts) > 1 and not any(secret in part for part in parts)
    assert (read["event"], read["run"]) == ("sub_call", "r")


def test_a_secret_that_is_no_list_is_one_secret(tmp_path):
    """Not its letters; and what an environment lacks is none."""
    rlm = RLM("text -> answer", lm=ScriptedLM([cell("SUBMIT(text)")]), trace=tmp_path / "t.jsonl", secrets="hunter2")
    rlm(text="hunter2 hunts")
    assert Trajectory.load(tmp_path / "t.jsonl").outputs == {"answer": "[redacted] hunts"}
    assert trace.Redactor("hunter2").text("hunter2 hunts") == "[redacted] hunts"
    assert trace.Redactor([None, "hunter2"]).text("hunter2") == "[redacted]"


def test_one_secret_is_not_looked_for_in_the_word_for_another():
    """ "redacted" may be a secret, and the longest of two that begin alike is taken whole."""
    assert trace.Redactor(["hunter2", "hunter", "act"]).text("hunter2 hunter act") == "[redacted] [redacted] [redacted]"


# Round trip


texts = st.text(st.characters(codec=None), max_size=8)
seconds = st.floats(min_value=0, max_value=1e6)
counts = st.integers(0, 10**9)
plain = st.builds(Usage, counts, counts, counts, st.none() | seconds, seconds, st.booleans())
usages = st.builds(
    lambda u, by, depths: Usage(u.calls, u.input_tokens, u.output_tokens, u.cost, u.seconds, u.estimated, by, depths),
    plain,
    st.dictionaries(texts, plain, max_size=2),
    st.dictionaries(st.integers(0, 3), plain, max_size=2),
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts | st.binary(max_size=4) | st.dates(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2) | st.tuples(inner),
    max_leaves=4,
)
outputs = st.dictionaries(texts, values, max_size=2)
executions = st.builds(Execution, texts, counts, st.none() | texts, texts, st.none() | outputs, seconds, texts)
terminations = st.builds(
    Termination, st.sampled_from(["submitted", "error"]), st.sampled_from(["model", "caller"]), texts
)


@st.composite
def trajectories(draw, name="a", depth=0):
    count = 0
    iterations = []
    for index in range(draw(st.integers(0, 2))):
        calls = []
        for _ in range(draw(st.integers(0, 2))):
            count += 1
            child = draw(trajectories(f"{name}{count}", depth + 1)) if depth < 2 and draw(st.booleans()) else None
            given = [
                draw(s) for s in (texts, texts, counts, texts, texts, texts, usages, seconds, seconds, texts, counts)
            ]
            calls.append(SubCall(f"{name}.{count}", *given, draw(st.booleans()), child))
        action = Action(draw(texts), tuple(draw(st.lists(texts, max_size=2))), draw(texts))
        three = [draw(seconds) for _ in range(3)]
        done = Iteration(index, action, draw(executions), draw(texts), tuple(calls), draw(usages), *three)
        iterations.append(done)
    return Trajectory(
        name,
        draw(texts),
        *[draw(texts) for _ in range(5)],
        depth,
        tuple(draw(st.lists(st.builds(Input, texts, texts, texts, texts), max_size=2))),
        draw(texts),
        tuple(iterations),
        draw(st.none() | st.builds(Extraction, texts, texts, usages, seconds)),
        draw(st.none() | terminations),
        draw(outputs),
        draw(usages),
        draw(seconds),
        draw(seconds),
    )


@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(trajectories())
def test_whatever_is_saved_loads_back_equal(tmp_path, run):
    """Any text, number, output and nesting."""
    assert Trajectory.load(run.save(tmp_path / "run.jsonl")) == run


def test_every_field_of_a_sub_call_is_written():
    """Its row is written out field by field: one that was added to the record must not be lost."""
    child = Trajectory("r.1", "-> a")
    call = SubCall("r.1", "tool", "p", 2, "r", "e", "m", Usage(1, 2, 3, 4.0, 5.0, True), 6.0, 7.0, "b", 8, True, child)
    row = rows.sub_call(rows.Place("r"), call)
    assert {f.name for f in dataclasses.fields(SubCall)} - {"trajectory"} <= set(row)
    splits = {"by_model": {"m": Usage(1)}, "by_depth": {0: Usage(1)}}
    used = rows.sub_call(rows.Place("r"), dataclasses.replace(call, usage=dataclasses.replace(call.usage, **splits)))
    assert {f.name for f in dataclasses.fields(Usage)} <= set(used["usage"])


def test_a_direct_call_has_a_trace_too(tmp_path):
    """What is known only after the run began comes with its end."""
    for replies in (['{"answer": "x"}'], ["no json"] * 3 + [cell("SUBMIT('y')")]):
        path = tmp_path / "t.jsonl"
        rlm = RLM(
            "text -> answer: Literal['x', 'y']", lm=ScriptedLM(replies), strategy=Strategy(route="auto"), trace=path
        )
        prediction = rlm(text="t")
        assert prediction.trajectory.route
        assert Trajectory.load(path) == prediction.trajectory


# Events


def test_a_stream_has_beginnings_ends_and_what_was_spent():
    """Every start has its end; the budget's last word is the prediction's usage."""
    root = ScriptedLM([cell(TREE), cell("SUBMIT(answer=str(r))")])
    told = list(RLM("text: str -> answer: str", lm=root, sub_lm=ScriptedLM(sub)).stream(text="t"))
    assert isinstance(told[0], RunStarted)
    assert told[0].trajectory is not None and told[0].trajectory.iterations == ()
    assert isinstance(told[-1], RunFinished)
    started = {event.id for event in told if isinstance(event, SubCallStarted)}
    assert started == {event.sub_call.id for event in told if isinstance(event, SubCallFinished)}
    assert len(started) == 11
    spent = [event for event in told if isinstance(event, BudgetChanged) and event.depth == 0]
    assert [event.usage.calls for event in spent] == sorted(event.usage.calls for event in spent)
    assert spent[-1].usage == told[-1].prediction.usage
    assert spent[-1].remaining.llm_calls == 50 - (spent[-1].usage.calls - 2)
    finished = [event for event in told if isinstance(event, IterationFinished) and event.depth == 0]
    assert [event.iteration for event in finished] == list(told[-1].prediction.trajectory.iterations)
