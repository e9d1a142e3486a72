"""Whatever a provider does, a run ends by itself: with a prediction or a typed error, and leaves nothing behind.

Over real HTTP through LiteLLM. Each fault meets the deciding model and the code's own sub-calls, once and for good.
"""

from __future__ import annotations

import asyncio
import contextlib
import os

import anyio
import pytest
import waiting
from scripted_server import Answer, ScriptedServer

from dszig_py import RLM, Budget, LMError
from dszig_py.lm import LiteLLM
from dszig_py.lm import gate as gate_module
from dszig_py.lm.litellm import close_clients

FAULTS = {
    "429 without Retry-After": Answer(status=429),
    "429 with Retry-After": Answer(status=429, headers={"Retry-After": "0.05"}),
    "500": Answer(status=500),
    "400": Answer(status=400),
    "hang": Answer(fault="hang"),
    "reset": Answer(fault="reset"),
    "reset in mid-body": Answer(fault="reset_mid_body"),
    "invalid JSON": Answer(fault="bad_json"),
    "empty body": Answer(fault="empty_body"),
    "empty choices": Answer(fault="empty_choices"),
    "content None": Answer(fault="null_content"),
    "wrong content type": Answer(fault="wrong_type"),
    "10 MB reply": Answer("x" * 10_000_000),
}
MENDED = [name for name in FAULTS if name != "400"]  # not worth a retry
SUBMIT = "```python\nSUBMIT(answer='done')\n```"


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch):
    """Backing off takes hundredths of a second here; how long it is has tests of its own."""
    monkeypatch.setattr(gate_module, "FIRST_BACKOFF", 0.01)


@pytest.fixture
def server():
    with ScriptedServer() as started:
        yield started


def model(server, name, fault, seconds=0.5):
    """``seconds``: its timeout where the fault is a hang, which is all that is to meet it."""
    return LiteLLM(f"openai/{name}", api_base=server.url, api_key="k", timeout=seconds if fault == "hang" else 60.0)


def sockets():
    """What this process has open of them, the server's ends included."""
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.add(os.readlink(f"/proc/self/fd/{fd}"))
    return {name for name in found if name.startswith("socket:")}


def workers():
    """Processes that are children of this one's zygote, or of this one."""
    found = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat") as file:
                fields = file.read().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] != "Z":
            found.add((int(pid), int(fields[1])))
    mine, grown = {os.getpid()}, True
    while grown:
        more = {pid for pid, parent in found if parent in mine} - mine
        grown, mine = bool(more), mine | more
    return mine


async def watched(rlm, **inputs):
    """One run on a loop of its own, with what it left: (prediction or error, tasks)."""
    with anyio.fail_after(waiting.SECONDS):
        try:
            outcome = await rlm.acall(**inputs)
        except LMError as error:
            outcome = error
    await close_clients()
    tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task() and not is_litellms(task)]
    if tasks:
        await asyncio.wait(tasks, timeout=waiting.SECONDS)
    return outcome, [task for task in tasks if not task.done()]


def is_litellms(task):
    """LiteLLM keeps one task a loop that writes its log lines; it is no call's and ends with the loop."""
    return "LoggingWorker" in getattr(task.get_coro(), "__qualname__", "")


def run(server, rlm):
    warm = RLM("text -> answer", lm=lambda prompt: SUBMIT)
    warm(text="t")  # the zygote and the background loop are there for good
    before, processes = sockets(), workers()
    outcome, tasks = asyncio.run(watched(rlm, text="t"))
    assert not tasks
    left = lambda: (workers() - processes) | (sockets() - before)  # noqa: E731 - what is waited for, and what is told
    waiting.within(lambda: not left(), told=left)  # the kernel and the server take theirs down in their time
    return outcome


@pytest.mark.parametrize("name", MENDED)
def test_a_fault_that_passes_is_outlived(server, name):
    """Once for the deciding model, once for a sub-call: the run goes on and submits."""
    server.script(
        {
            "root": [FAULTS[name], "```python\nSUBMIT(answer=llm_query('q')[:4])\n```", SUBMIT],
            "sub": [FAULTS[name], "fine"],
        }
    )
    root, sub = (model(server, each, name, seconds=2.0) for each in ("root", "sub"))
    outcome = run(server, RLM("text -> answer", lm=root, sub_lm=sub))
    assert outcome.termination.kind == "submitted"
    told = {"empty choices": "", "content None": "", "10 MB reply": "xxxx"}.get(name, "fine")
    assert outcome.answer == told, "an empty or a huge reply is a reply"


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_of_the_deciding_model_that_stays_ends_the_run(server, name):
    """With a typed error that carries the trajectory, or by a limit where the reply was one, though useless."""
    server.script({"root": [FAULTS[name]] * 60})
    rlm = RLM("text -> answer", lm=model(server, "root", name), max_iters=2)
    outcome = run(server, rlm)
    if name in ("empty choices", "content None", "10 MB reply"):
        assert outcome.termination.kind == "max_iters"
        assert outcome.usage.calls == 3
    else:
        assert isinstance(outcome, LMError)
        assert outcome.prediction.termination.cause == "provider"
        assert outcome.prediction.answer is None


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_of_sub_calls_that_stays_reaches_the_code(server, name):
    """One fails in the cell, one in a batch is an object; what was paid stays, and the run submits."""
    code = """
try: one = llm_query("bad")
except Exception as error: one = f"raised {type(error).__name__}"
many = llm_query_batched(["good", "bad"])
SUBMIT(answer=f"{one[:20]}|{many[0]}|{isinstance(many[1], Exception)}")
"""

    def handler(body):
        asked = str(body["messages"][-1]["content"])
        if body["model"] == "root":
            return f"```python\n{code}```"
        return FAULTS[name] if asked == "bad" else "fine"

    server.handler = handler
    outcome = run(server, RLM("text -> answer", lm=model(server, "root", name), sub_lm=model(server, "sub", name)))
    useless = {"empty choices": "", "content None": "", "10 MB reply": "x" * 20}
    if name in useless:
        assert outcome.answer == f"{useless[name]}|fine|False"
    else:
        assert outcome.answer == "raised RuntimeError|fine|True"
        calls = list(outcome.trajectory.sub_calls())
        assert [bool(call.error) for call in sorted(calls, key=lambda c: c.id)] == [True, False, True]


def test_a_hang_ends_with_the_run_s_seconds(server):
    """No timeout of the model's own: the budget's deadline stops the request that would never be answered."""
    server.handler = lambda body: "```python\nllm_query('q')\n```" if body["model"] == "root" else Answer(fault="hang")
    lms = [LiteLLM(f"openai/{name}", api_base=server.url, api_key="k", timeout=None) for name in ("root", "sub")]
    kinds = []

    def attempt(seconds):
        outcome = run(server, RLM("text -> answer", lm=lms[0], sub_lm=lms[1], budget=Budget(max_seconds=seconds)))
        kinds.append(outcome.termination.kind)
        return any(request.body["model"] == "sub" for request in server.requests)

    waiting.reached(attempt, 1.5)
    assert set(kinds) == {"max_seconds"}
    waiting.within(lambda: server.dropped >= 1)
