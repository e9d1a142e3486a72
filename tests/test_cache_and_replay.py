"""A cache around a model, and recordings that stand for one."""

from __future__ import annotations

import asyncio
import copy
import json
import os
import pickle
import sqlite3
import subprocess
import sys
import textwrap
import threading
import uuid
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from waiting import eventually

from dszig_py import RLM, Budget, InputError, LMError, ReplayMismatch
from dszig_py.lm import ScriptedLM
from dszig_py.lm import cached as cached_module
from dszig_py.lm.base import Message, Reply, Request, price_known
from dszig_py.lm.cached import Cached
from dszig_py.lm.gate import Gate
from dszig_py.lm.recorded import Recorded, Replayed
from dszig_py.usage import Ledger, Usage

REPO = Path(__file__).parents[1]
BOTH = pytest.mark.parametrize("kind", ["memory", "file"])


class Slow:
    """Answers when ``delay(n)`` seconds are over, ``n`` counting from 0; an exception is raised."""

    def __init__(self, answer=lambda request, n: f"{request.prompt} #{n}", delay=lambda n: 0.02, model="slow"):
        self.answer, self.delay, self.model = answer, delay, model
        self.asked = 0
        self.cancelled = 0

    async def complete(self, request):
        number, self.asked = self.asked, self.asked + 1
        try:
            await asyncio.sleep(self.delay(number))
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        answer = self.answer(request, number)
        if isinstance(answer, Exception):
            raise answer
        return Reply(answer, Usage(1, 10, 5, 0.25, 0.5), self.model, "stop")


def echo(**options):
    return ScriptedLM(lambda request: f"<{request.prompt}>", **options)


def ask(lm, prompt="hello"):
    return asyncio.run(lm.complete(prompt if isinstance(prompt, Request) else Request.of(prompt)))


def at(kind, tmp_path):
    return None if kind == "memory" else tmp_path / "deep" / "cache.sqlite"


def cell(code):
    return f"```python\n{code}\n```"


# The cache


@BOTH
def test_a_repeated_request_is_answered_without_a_call(kind, tmp_path):
    """The second reply is the first one's text, marked as cached, at no usage."""
    lm = Slow()
    cached = Cached(lm, path=at(kind, tmp_path))
    first, second = ask(cached), ask(cached)
    assert (first.text, first.cached, first.usage.cost) == ("hello #0", False, 0.25)
    assert second == replace(first, cached=True, usage=Usage())
    assert (lm.asked, cached.hits, cached.misses) == (1, 1, 1)


@pytest.mark.parametrize(
    "change",
    [
        {"temperature": 0.5},
        {"temperature": 0.0},
        {"max_tokens": 7},
        {"schema": {"type": "object"}},
        {"options": {"seed": 1}},
        {"messages": (Message("system", "hello"),)},
        {"messages": (Message("user", "hello"), Message("user", "hello"))},
    ],
)
@BOTH
def test_whatever_the_model_is_asked_is_part_of_the_key(kind, change, tmp_path):
    """A changed parameter or message is another request; what the budget still allows is not."""
    lm = Slow()
    cached = Cached(lm, path=at(kind, tmp_path))
    request = Request.of("hello")
    assert ask(cached, request).text != ask(cached, replace(request, **change)).text
    assert ask(cached, replace(request, remaining="1 call left")).cached
    assert lm.asked == 2


@BOTH
def test_models_do_not_answer_for_each_other(kind, tmp_path):
    """The name of the model is part of the key, also in a shared file."""
    path = at(kind, tmp_path)
    assert ask(Cached(echo(model="a"), path=path)).cached is False
    assert ask(Cached(echo(model="b"), path=path)).cached is False


def test_a_file_outlives_the_cache_object_and_serves_any_other(tmp_path):
    """Two objects on one file see each other's replies, also one that was made later."""
    path = tmp_path / "cache.sqlite"
    one, two = Cached(echo(), path=path), Cached(echo(), path=str(path))
    assert not ask(one).cached
    assert ask(two).cached
    del one, two
    assert ask(Cached(echo(), path=path)).cached


def test_memory_keeps_the_entries_used_last():
    """The bound drops what was not used for longest."""
    cached = Cached(Slow(), max_entries=2)
    for prompt in ("a", "b", "a", "c"):
        ask(cached, prompt)
    assert ask(cached, "a").cached
    assert not ask(cached, "b").cached


PROCESS = """
    import asyncio, random, sys
    from dszig_py.lm import Request, ScriptedLM
    from dszig_py.lm.cached import Cached
    path, seed = sys.argv[1:]
    prompts = [f"prompt {n}" for n in range(50)]
    random.Random(seed).shuffle(prompts)
    cached = Cached(ScriptedLM(lambda r: f"<{r.prompt}>" * 50), path=path)
    async def main():
        replies = await asyncio.gather(*(cached.complete(Request.of(p)) for p in prompts))
        assert [r.text for r in replies] == [f"<{p}>" * 50 for p in prompts]
        print(cached.hits, cached.misses)
    asyncio.run(main())
"""


def test_processes_share_a_file_at_once(tmp_path):
    """Four processes start on one new file together: each gets right replies, and afterwards all are there."""
    path = tmp_path / "cache.sqlite"
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(PROCESS), str(path)]
    running = [
        subprocess.Popen([*command, str(n)], cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for n in range(4)
    ]
    for process in running:
        out, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (0, "")
        assert sum(map(int, out.split())) == 50
    out = subprocess.run([*command, "last"], cwd=REPO, capture_output=True, text=True, timeout=60).stdout
    assert out.split() == ["50", "0"]
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    db.close()


@BOTH
def test_identical_requests_at_the_same_time_make_one_call(kind, tmp_path):
    """A hundred at once are one call; all but one count as hits."""
    lm = Slow()
    cached = Cached(lm, path=at(kind, tmp_path))

    async def main():
        return await asyncio.gather(*(cached.complete(Request.of("same")) for _ in range(100)))

    replies = asyncio.run(main())
    assert {reply.text for reply in replies} == {"same #0"}
    assert sum(reply.usage.calls for reply in replies) == 1
    assert (lm.asked, cached.hits, cached.misses) == (1, 99, 1)


@BOTH
def test_when_the_one_that_calls_is_cancelled_another_takes_over(kind, tmp_path):
    """The cancelled caller stops its call at once; those that waited are answered by one new call."""
    lm = Slow(delay=lambda n: 600 if n == 0 else 0.01)
    cached = Cached(lm, path=at(kind, tmp_path))

    async def main():
        leader, *followers = [asyncio.create_task(cached.complete(Request.of("x"))) for _ in range(10)]
        await eventually(lambda: lm.asked)
        leader.cancel()
        return await asyncio.wait_for(asyncio.gather(*followers, leader, return_exceptions=True), 60)

    *replies, leader = asyncio.run(main())
    assert isinstance(leader, asyncio.CancelledError)
    assert [reply.text for reply in replies] == ["x #1"] * 9
    assert (lm.asked, lm.cancelled) == (2, 1)


def test_a_cancelled_waiter_harms_nobody():
    """The call goes on for the others."""
    asked, answered = asyncio.Event(), asyncio.Event()

    class Waits(Slow):
        async def complete(self, request):
            asked.set()
            await answered.wait()
            return await super().complete(request)

    lm = Waits()
    cached = Cached(lm)

    async def main():
        tasks = [asyncio.create_task(cached.complete(Request.of("x"))) for _ in range(3)]
        await asked.wait()
        tasks[1].cancel()
        await asyncio.wait(tasks[1:2])
        answered.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    first, waiter, last = asyncio.run(main())
    assert isinstance(waiter, asyncio.CancelledError)
    assert (first.text, last.text, lm.asked) == ("x #0", "x #0", 1)


@BOTH
def test_a_failure_reaches_all_who_wait_and_is_not_remembered(kind, tmp_path):
    """Each gets an exception of its own; the next request is a new call."""
    lm = Slow(lambda request, n: LMError("busy", retryable=True, retry_after=1.5) if n == 0 else "ok")
    cached = Cached(lm, path=at(kind, tmp_path))

    async def main():
        return await asyncio.gather(*(cached.complete(Request.of("x")) for _ in range(5)), return_exceptions=True)

    errors = asyncio.run(main())
    assert [(str(e), e.retryable, e.retry_after) for e in errors] == [("busy", True, 1.5)] * 5
    assert len({id(e) for e in errors}) == 5
    assert ask(cached).text == "ok"


@BOTH
def test_event_loops_in_several_threads_share_a_cache(kind, tmp_path):
    """Loops do not wait for each other, so each makes at most one call of each prompt, and none hangs."""
    lm = Slow(lambda request, n: request.prompt)
    cached = Cached(lm, path=at(kind, tmp_path))
    texts = []

    async def main():
        requests = [Request.of(f"p{n % 10}") for n in range(100)]
        texts.extend(r.text for r in await asyncio.gather(*map(cached.complete, requests)))

    threads = [threading.Thread(target=lambda: asyncio.run(main())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert texts == [f"p{n % 10}" for n in range(100)] * 4
    assert 10 <= lm.asked <= 40
    assert cached.hits + cached.misses == 400


def test_the_event_loop_stays_free_while_another_process_holds_the_file(tmp_path, monkeypatch):
    """A locked file delays the reply, not the loop: it goes on until it lets go of the file itself."""
    monkeypatch.setattr(cached_module, "BUSY_SECONDS", 60.0)
    path = tmp_path / "cache.sqlite"
    cached = Cached(echo(), path=path)
    ask(cached, "first")
    held = sqlite3.connect(path, isolation_level=None)
    held.execute("BEGIN IMMEDIATE")

    async def main():
        task = asyncio.create_task(cached.complete(Request.of("second")))
        for _ in range(40):
            await asyncio.sleep(0.005)
        assert not task.done()
        held.execute("COMMIT")
        return await task

    reply = asyncio.run(main())
    held.close()
    assert reply.text == "<second>"


def test_a_hit_is_not_charged():
    """Through the gate, a hit takes no call, no token and no dollar of the budget."""

    async def main():
        ledger, gate, cached = Ledger(Budget(max_llm_calls=2, max_cost=1.0)), Gate(4), Cached(Slow())
        for _ in range(5):
            await gate.ask(cached, Request.of("x"), ledger, inner=True)
        return ledger

    ledger = asyncio.run(main())
    assert ledger.usage.calls == 1
    assert ledger.remaining().llm_calls == 1
    assert ledger.remaining().cost == 0.75


def test_copies_share_a_cache_and_pickles_reopen_its_file(tmp_path):
    """What DSPy does to modules: deep copies keep the entries, pickles carry neither connections nor locks."""
    memory, file = Cached(echo()), Cached(echo(), path=tmp_path / "cache.sqlite")
    for cached in (memory, file):
        ask(cached)
        twin = copy.deepcopy(cached)
        assert ask(twin).cached
        assert (cached.hits, twin.hits) == (1, 1)
    memory, file = Cached("offline"), Cached("offline", path=tmp_path / "other.sqlite")
    for cached in (memory, file):
        ask(cached)
    assert not ask(pickle.loads(pickle.dumps(memory))).cached
    assert ask(pickle.loads(pickle.dumps(file))).cached


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_opens_the_file_for_itself(tmp_path):
    """A connection and a thread are not carried over a fork."""
    code = f"""
        import asyncio, os, sys
        from dszig_py.lm import Request, ScriptedLM
        from dszig_py.lm.cached import Cached
        cached = Cached(ScriptedLM(lambda r: r.prompt), path={str(tmp_path / "cache.sqlite")!r})
        ask = lambda p: asyncio.run(cached.complete(Request.of(p)))
        ask("a")
        if (pid := os.fork()) == 0:
            os._exit(0 if ask("a").cached and not ask("b").cached else 1)
        assert os.waitpid(pid, 0)[1] == 0
        assert ask("b").cached
    """
    # From 3.12 on Python warns of every fork of a process that has threads; this one has the file's.
    unwarned = [sys.executable, "-W", "ignore:This process (pid=:DeprecationWarning"]
    ran = subprocess.run([*unwarned, "-c", textwrap.dedent(code)], cwd=REPO, capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stderr) == (0, "")


def _foreign(path):
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE customers (name TEXT)")
    db.close()


def _newer(path):
    ask(Cached(echo(), path=path))
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()


def _torn(path):
    ask(Cached(echo(), path=path))
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # else what is torn is only the empty main file
    db.close()
    path.write_bytes(path.read_bytes()[:100] + b"\xff" * 4000)


@pytest.mark.parametrize("spoil", [lambda path: path.write_text("dear diary"), _foreign, _newer, _torn])
def test_a_file_that_is_no_cache_is_refused_and_left_alone(spoil, tmp_path):
    """Text, another program's database, a newer version and a torn file: the message says what to do."""
    path = tmp_path / "file"
    spoil(path)
    before = path.read_bytes()
    lm = echo()
    with pytest.raises(InputError, match="delete the file or give another path"):
        ask(Cached(lm, path=path))
    assert path.read_bytes() == before
    assert not lm.requests


def test_a_row_that_cannot_be_read_is_asked_again(tmp_path):
    """One bad value is a miss, and is written over."""
    path = tmp_path / "cache.sqlite"
    ask(Cached(echo(), path=path))
    with sqlite3.connect(path) as db:
        db.execute("UPDATE replies SET reply = '[]'")
    db.close()
    cached = Cached(echo(), path=path)
    assert [ask(cached).cached, ask(cached).cached] == [False, True]


def test_a_place_that_cannot_be_written_is_said_once_and_done_without(tmp_path):
    """The run goes on, uncached."""
    (tmp_path / "file").write_text("")
    cached = Cached(echo(), path=tmp_path / "file" / "cache.sqlite")
    with pytest.warns(RuntimeWarning, match="going on without it") as warned:
        assert [ask(cached).text, ask(cached).text] == ["<hello>", "<hello>"]
    assert len(warned) == 1
    assert cached.misses == 2


def test_a_file_that_breaks_in_mid_run_is_done_without(tmp_path):
    """It was paid for what the run has: a broken cache is said once, and every request is asked again."""
    path = tmp_path / "c.sqlite"
    lm = ScriptedLM(lambda request: "ok")
    cache = Cached(lm, path=path)

    async def ask():
        return (await cache.complete(Request.of("q"))).text

    assert asyncio.run(ask()) == "ok"
    for file in tmp_path.iterdir():
        file.write_bytes(b"\xa5" * max(4096, file.stat().st_size))
    with pytest.warns(RuntimeWarning, match="going on without it"):
        assert [asyncio.run(ask()) for _ in range(3)] == ["ok"] * 3
    assert len(lm.requests) == 4


def test_a_cache_is_known_by_its_model():
    """Name, price and whether the price is known are the inner model's; strings and callables are resolved."""
    assert Cached("openai/gpt-5").model == "openai/gpt-5"
    assert Cached(lambda prompt: prompt.upper()).model
    assert ask(Cached(lambda prompt: prompt.upper())).text == "HELLO"
    assert asyncio.run(price_known(Cached("offline"))) is asyncio.run(price_known(Cached("offline").lm))
    assert "openai/gpt-5" in repr(Cached("openai/gpt-5"))
    for wrong in ({"lm": 7}, {"lm": ""}, {"lm": "offline", "max_entries": 0}):
        with pytest.raises(InputError):
            Cached(**wrong)


# Recordings

ROOT = [
    cell("print(len(text)); 1/0"),
    "no code at all",
    cell(
        "parts = llm_query_batched(['same', 'same', text[:4], 'fail', 'last'])\n"
        "print([p if isinstance(p, str) else 'failed' for p in parts])"
    ),
    cell("print(llm_query('one more'))\nSUBMIT(answer=1, n=parts)"),
    cell("SUBMIT(answer=' | '.join(map(str, parts)), n=len(parts))"),
]
SIGNATURE = "text: str -> answer: str, n: int"


def sub(delay=lambda n: 0.05 - n / 100):
    """Later requests are answered first, and no two replies are the same; one prompt fails."""
    fail = LMError("overloaded")
    return Slow(lambda r, n: fail if r.prompt == "fail" else f"{r.prompt} #{n}", delay, model="sub")


def recorded_run(path, *, text="a long text", **options):
    root = Recorded(ScriptedLM(list(ROOT), model="root", cost=0.5), path)
    return RLM(SIGNATURE, lm=root, sub_lm=Recorded(sub(), path), **options)(text=text)


def replayed_run(path, *, text="a long text", signature=SIGNATURE, **options):
    replayed = Replayed(path)
    return RLM(signature, lm=replayed, sub_lm=replayed, **options)(text=text), replayed


def steps(prediction):
    return [
        (
            i.action.code,
            i.observation,
            sorted((c.kind, c.index, c.prompt, c.reply, c.error, c.usage.tokens) for c in i.sub_calls),
        )
        for i in prediction.trajectory.iterations
    ]


def test_a_recorded_run_is_replayed_without_any_model(tmp_path):
    """Prediction, cells, observations, sub-calls and usage are the same, though replies came in another order."""
    path = tmp_path / "runs" / "run.jsonl"
    original = recorded_run(path)
    assert original.n == 5
    assert "#0" in original.answer
    assert "ZeroDivisionError" in steps(original)[0][1]
    replica, replayed = replayed_run(path)
    assert replica.outputs == original.outputs
    assert steps(replica) == steps(original)
    assert replica.termination == original.termination
    assert replica.usage.calls == original.usage.calls == 10
    assert (replica.usage.tokens, replica.usage.cost) == (original.usage.tokens, original.usage.cost)
    assert replayed.unused == 0


def test_limits_bite_where_they_did(tmp_path):
    """Replayed calls are charged as recorded, so a run that ended by its budget ends the same way."""
    path = tmp_path / "run.jsonl"
    budget = Budget(max_llm_calls=3, max_cost=100)
    lm = Slow(lambda r, n: cell("print(llm_query('x'), llm_query('y'))"), delay=lambda n: 0)
    lm.price_known = _known
    original = RLM("text -> answer", lm=Recorded(lm, path), budget=budget)(text="t")
    replica = RLM("text -> answer", lm=Replayed(path), budget=budget)(text="t")
    assert original.termination.kind == replica.termination.kind == "max_llm_calls"
    assert steps(replica) == steps(original)
    assert replica.usage.calls == original.usage.calls


async def _known():
    return True


def test_each_model_of_a_recording_can_be_replayed_alone(tmp_path):
    """With model=, usage is filed under the right names again."""
    path = tmp_path / "run.jsonl"
    original = recorded_run(path)
    root, inner = Replayed(path, model="root"), Replayed(path, model="sub")
    replica = RLM(SIGNATURE, lm=root, sub_lm=inner)(text="a long text")
    assert replica.outputs == original.outputs
    assert (root.model, inner.model, root.unused, inner.unused) == ("root", "sub", 0, 0)
    assert {m: u.calls for m, u in replica.usage.by_model.items()} == {"root": 5, "sub": 5}
    with pytest.raises(InputError, match="root, sub"):
        Replayed(path, model="other")


@pytest.mark.parametrize("change", [{"text": "another text"}, {"signature": f"{SIGNATURE}, more: str"}])
def test_a_changed_program_is_a_mismatch_that_says_where(change, tmp_path):
    """A changed input or signature shows in the first decision, with both texts."""
    path = tmp_path / "run.jsonl"
    recorded_run(path)
    with pytest.raises(ReplayMismatch, match=r"request 1 \(root\); message \d \(\w+\) differs at character \d+: rec"):
        replayed_run(path, **change)


@pytest.mark.parametrize(
    "call",
    ["llm_query(P)", "llm_query_batched([P, P])", "predict('q -> a', q=P)", "rlm_query(P)"],
    ids=lambda c: c[:17],
)
def test_a_mismatch_in_a_sub_call_ends_the_run(call, tmp_path):
    """It is not told to the model as an error of its cell, nor can the cell catch it."""
    path = tmp_path / "run.jsonl"
    child = cell("SUBMIT(answer='a')")
    lm = Recorded(ScriptedLM(lambda r: child if "SUBMIT" in r.prompt else '{"a": "b"}', model="m"), path)
    code = f"P = 'was'\ntry:\n    {call}\nexcept Exception:\n    pass\nSUBMIT('x')"
    root = ScriptedLM([cell(code)])
    assert RLM("text -> answer", lm=root, sub_lm=lm)(text="t").answer == "x"
    root = ScriptedLM([cell(code.replace("'was'", "'is'"))], repeat_last=True)
    with pytest.raises(ReplayMismatch, match="differs at character"):
        RLM("text -> answer", lm=root, sub_lm=Replayed(path))(text="t")


def record(path, lm, *requests):
    recorded = Recorded(lm, path)
    for request in requests:
        ask(recorded, request)
    return recorded


def mismatch(path, request):
    with pytest.raises(ReplayMismatch) as caught:
        ask(Replayed(path), request)
    return str(caught.value)


def test_a_mismatch_names_what_differs(tmp_path):
    """The nearest recorded request is found: its place, the message, the character, or the parameter."""
    path = tmp_path / "r.jsonl"
    talk = tuple(Message(role, f"{role} says {n}") for n, role in enumerate(["system", "user", "assistant", "user"]))
    record(path, echo(), Request.of("first"), Request(talk, max_tokens=5), Request.of("x" * 500 + "old" + "y" * 500))
    assert "request 3 (scripted); message 1 (user) differs at character 500" in mismatch(path, "x" * 500 + "new")
    said = mismatch(path, Request((*talk[:3], Message("user", "user says 4"))))
    assert "message 4 (user) differs at character 10: recorded 'user says 3', now 'user says 4'" in said
    assert "not: max_tokens" in mismatch(path, Request(talk))
    assert "not: temperature, options" in mismatch(path, Request(talk, "x", 5, 0.1, options={"seed": 1}))
    assert "had 4 messages, now there are 3" in mismatch(path, Request(talk[:3]))
    assert "message 1 was of the user and is of the system" in mismatch(path, Request((Message("system", "first"),)))


def test_a_request_is_answered_as_often_as_it_was_recorded(tmp_path):
    """Replies to the same request come in their order; one more is a mismatch, and copies have their own place."""
    path = tmp_path / "r.jsonl"
    record(path, Slow(), "p", "q", "p")
    replayed = Replayed(path)
    assert [ask(replayed, p).text for p in "pq"] == ["p #0", "q #1"]
    twins = [replayed, copy.deepcopy(replayed), pickle.loads(pickle.dumps(replayed))]
    assert [twin.unused for twin in twins] == [1, 1, 1]
    for twin in twins:
        assert ask(twin, "p").text == "p #2"
        with pytest.raises(ReplayMismatch, match="asked less often"):
            ask(twin, "p")


def test_failures_are_recorded_and_replayed_without_their_wait(tmp_path):
    """A retryable failure is retried again in the replay, at once; other exceptions come back as an LMError."""
    path = tmp_path / "r.jsonl"
    errors = [LMError("slow down", retryable=True, retry_after=60), LMError("no"), KeyError("bug")]
    recorded = Recorded(ScriptedLM([*errors, "at last"]), path)
    for error in errors:
        with pytest.raises(type(error)):
            ask(recorded)
    ask(recorded)
    replayed = Replayed(path)
    seen = []
    for _ in errors:
        with pytest.raises(LMError) as caught:
            ask(replayed)
        seen.append((str(caught.value), caught.value.retryable, caught.value.retry_after))
    assert seen == [("slow down", True, 0.0), ("no", False, None), ("KeyError: 'bug'", False, None)]
    assert ask(replayed).text == "at last"


def test_a_recording_is_small_and_readable(tmp_path):
    """Each text is stored once; options are kept as a digest only; people see where a prompt begins."""
    path = tmp_path / "r.jsonl"
    talk = [Message("user" if n % 2 == 0 else "assistant", f"{n} ä" * 1000) for n in range(40)]
    requests = [Request(tuple(talk[:n]), options={"api_key": "sk-secret"}) for n in range(1, 41)]
    record(path, ScriptedLM(lambda request: "ok"), *requests)
    raw = path.read_bytes()
    assert b"sk-secret" not in raw
    assert len(raw) < 2 * sum(len(m.content) for m in talk)
    lines = [json.loads(line) for line in raw.splitlines()]
    assert lines[0]["schema"] == "dszig.recording/1"
    assert lines[-1]["prompt"] == ("39 ä" * 1000)[:200]
    assert len([line for line in lines if "content" in line]) == 40


def test_a_cache_inside_a_recording_stays_a_cache(tmp_path):
    """What cost nothing when it was recorded costs nothing in the replay."""
    path = tmp_path / "r.jsonl"
    record(path, Cached(Slow()), "p", "p")
    replayed = Replayed(path)
    assert [(r.cached, r.usage.calls) for r in (ask(replayed, "p"), ask(replayed, "p"))] == [(False, 1), (True, 0)]


def test_whether_prices_are_known_is_recorded(tmp_path):
    """A recording with a reply of unknown cost does not pretend; recorders answer for their model."""
    for cost in (0.1, None):
        path = tmp_path / f"{cost}.jsonl"
        record(path, echo(cost=cost), "p")
        assert asyncio.run(price_known(Replayed(path))) is (cost is not None)
    assert asyncio.run(price_known(Recorded("offline", path))) is asyncio.run(price_known(Cached("offline")))


def test_a_recording_begins_anew_with_the_first_call(tmp_path):
    """Making the object leaves the file alone; its first call replaces it; the earlier recorder then stops, and says so."""
    path = tmp_path / "r.jsonl"
    old = record(path, Slow(), "old")
    new = Recorded(Slow(), path)
    assert Replayed(path).unused == 1
    ask(new, "new")
    with pytest.warns(RuntimeWarning, match="another recording took the file over"):
        ask(old, "lost")
    assert ask(Replayed(path), "new").text == "new #0"
    assert Replayed(path).unused == 1


def test_copies_and_pickles_go_on_with_the_recording(tmp_path):
    """Deep copies, and pickles in another process, add to the file whoever comes first."""
    path = tmp_path / "r.jsonl"
    path.write_bytes(b"")
    recorded = Recorded("offline", path)
    code = (
        "import asyncio, pickle, sys; from dszig_py.lm import Request; lm = pickle.load(sys.stdin.buffer);"
        "[asyncio.run(lm.complete(Request.of(f'{sys.argv[1]} {n}' * 3000))) for n in range(20)]"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", code, str(n)], cwd=REPO, stdin=subprocess.PIPE) for n in range(3)
    ]
    for process in running:
        process.stdin.write(pickle.dumps(recorded))
        process.stdin.close()
    for lm in (recorded, copy.deepcopy(recorded), pickle.loads(pickle.dumps(recorded))):
        ask(lm, "here")
    assert [process.wait(60) for process in running] == [0, 0, 0]
    replayed = Replayed(path)
    assert replayed.unused == 63
    for n in range(20):
        ask(replayed, f"2 {n}" * 3000)


def test_many_requests_at_once_from_several_threads(tmp_path):
    """Lines do not mix, whatever the order."""
    path = tmp_path / "r.jsonl"
    recorded = Recorded(Slow(lambda r, n: r.prompt * 3, delay=lambda n: n % 7 / 1000), path)

    async def main(lm, thread):
        prompts = [f"{thread} {n} " * 300 for n in range(50)]
        replies = await asyncio.gather(*(lm.complete(Request.of(p)) for p in prompts))
        assert [r.text for r in replies] == [p * 3 for p in prompts]

    def all_threads(lm):
        threads = [threading.Thread(target=lambda t=t: asyncio.run(main(lm, t))) for t in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)

    all_threads(recorded)
    replayed = Replayed(path)
    assert replayed.unused == 200
    all_threads(replayed)
    assert replayed.unused == 0


def test_a_last_line_that_was_cut_off_is_left_out(tmp_path):
    """A process that was killed while writing loses that call, not the recording."""
    path = tmp_path / "r.jsonl"
    record(path, Slow(), "a", "b")
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    assert Replayed(path).unused == 1
    path.write_bytes(whole.replace(b'"key"', b'"k\xff', 1))
    with pytest.raises(InputError, match="line 3"):
        Replayed(path)


@pytest.mark.parametrize(
    "content", [b"", b"hello\n", b"[]\n", b'{"schema": "dszig.trajectory/1"}\n', b"\xff\xfe", None]
)
def test_what_is_no_recording_is_refused(content, tmp_path):
    """A missing file, text, or a trajectory; and a recorder does not write over a file that it did not make."""
    path = tmp_path / "r.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError):
        Replayed(path)
    if content:
        lm = echo()
        with pytest.raises(InputError, match="exists and is no recording"):
            ask(Recorded(lm, path))
        assert path.read_bytes() == content
        assert not lm.requests


def test_a_recording_that_cannot_be_written_is_refused_before_any_call(tmp_path):
    """Nothing is paid for that would not be kept."""
    (tmp_path / "file").write_text("")
    lm = echo()
    with pytest.raises(InputError, match="give another path"):
        ask(Recorded(lm, tmp_path / "file" / "r.jsonl"))
    assert not lm.requests


odd_text = st.text(st.characters(exclude_categories=()), max_size=30)  # of category Cs, lone surrogates, as well


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from(["p", "q", "\ud800", "ä\u2028\n"]) | odd_text, odd_text), max_size=8))
def test_any_replies_are_recorded_and_replayed_exactly(tmp_path, exchange):
    """Whatever text a model gives, its replay gives the same."""
    path = tmp_path / "r.jsonl"
    replies = [text for _, text in exchange]
    assert asyncio.run(_all(Recorded(ScriptedLM(replies), path), exchange)) == replies
    if exchange:
        assert asyncio.run(_all(Replayed(path), exchange)) == replies


async def _all(lm, exchange):
    return [(await lm.complete(Request.of(prompt))).text for prompt, _ in exchange]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=odd_text | st.sampled_from(["\ud83d\ude00", "\ud83d" + "\ude00"]), finish=st.sampled_from(["", "stop"]))
def test_any_reply_comes_back_from_a_file_exactly(tmp_path, text, finish):
    """Also two halves of a pair, which JSON's escapes would join into one character."""
    path = tmp_path / f"{uuid.uuid4()}.sqlite"
    ask(Cached(ScriptedLM([text]), path=path))
    reply = ask(Cached(ScriptedLM([]), path=path))
    assert (reply.text, reply.cached) == (text, True)
