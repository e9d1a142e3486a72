"""Events of a run: who hears them, in which order, and that nobody who listens is in the run's way."""

from __future__ import annotations

import asyncio
import contextvars
import json
import logging
import os
import signal
import threading

import pytest
from scripted_server import Answer, ScriptedServer

from dszig_py import RLM, events, publishing
from dszig_py.events import (
    ActionChosen,
    BudgetChanged,
    IterationStarted,
    RunFinished,
    SubCallFinished,
    SubCallStarted,
    TokensArrived,
)
from dszig_py.lm import Cached, LiteLLM, Recorded, Replayed, ScriptedLM, gate
from dszig_py.stream import AsyncStream, Stream

# LiteLLM asks pydantic's models for their fields in the old way while it streams; nothing of ours can mend that
pytestmark = pytest.mark.filterwarnings("ignore:Accessing the 'model_:DeprecationWarning")

CODE = "```python\nllm_query_batched(['a', 'b', 'c'])\n```"
END = "Now I know enough.\n```python\nSUBMIT(answer='done')\n```"


def make(**options):
    lm = ScriptedLM([CODE, END])
    return RLM("text -> answer", **{"lm": lm, "sub_lm": ScriptedLM(lambda request: "r"), **options})


# Consumers


def test_a_consumer_that_blocks_does_not_hold_up_the_run(monkeypatch):
    """The run ends while the consumer is still at its first event; afterwards it hears all of them, in order."""
    monkeypatch.setattr(publishing, "FLUSH_SECONDS", 0.01)
    go, over, heard = threading.Event(), threading.Event(), []

    def slow(event):
        go.wait(60)
        heard.append(event)
        if isinstance(event, RunFinished):
            over.set()

    assert make(on_event=slow)(text="t").answer == "done"
    assert heard == []
    go.set()
    assert over.wait(60)
    assert [type(event) for event in heard] == [type(event) for event in make().stream(text="t")]


def test_a_consumer_has_heard_everything_when_the_run_returns():
    """In the order of the events, in one thread, with the caller's context variables."""
    name = contextvars.ContextVar("name", default="")
    name.set("the caller")
    heard, threads, names = [], set(), set()

    def listen(event):
        heard.append(event)
        threads.add(threading.get_ident())
        names.add(name.get())

    make(on_event=listen)(text="t")
    assert isinstance(heard[-1], RunFinished)
    started = [event.id for event in heard if isinstance(event, SubCallStarted)]
    finished = [event.sub_call.id for event in heard if isinstance(event, SubCallFinished)]
    assert sorted(started) == sorted(finished) and len(started) == 3
    assert (len(threads), names) == (1, {"the caller"})
    assert threads.isdisjoint({threading.get_ident()})


def test_a_consumer_may_run_another_rlm():
    """Which on the run's own loop would wait for itself."""
    inner = []

    def listen(event):
        if isinstance(event, IterationStarted) and not inner:
            inner.append(make()(text="u"))

    assert make(on_event=listen)(text="t").answer == "done"
    assert inner[0].answer == "done"


@pytest.mark.parametrize("error", [RuntimeError("a bug in the consumer"), SystemExit(3), KeyboardInterrupt()])
def test_a_failing_consumer_is_logged_once(caplog, error):
    """It goes on being told, whatever it raises: its thread would be gone, and the end of the run wait for it."""
    heard = []

    def fail(event):
        heard.append(event)
        raise error

    with caplog.at_level(logging.WARNING, "dszig_py"):
        assert make(on_event=fail)(text="t").answer == "done"
    assert isinstance(heard[-1], RunFinished)
    assert [record.message for record in caplog.records] == ["a consumer of events failed; the run goes on"]


def test_ctrl_c_in_a_stream_ends_its_run():
    """Also where the exception keeps the stream alive, as notebooks do; it carries what there is."""
    stuck = ScriptedLM(["late"], delay=600)
    code = "```python\nllm_query('never answered')\n```"
    stream = RLM("text -> answer", lm=ScriptedLM([code]), sub_lm=stuck).stream(text="t")
    interrupt = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt) as caught:
        for event in stream:
            if isinstance(event, SubCallStarted):
                interrupt.start()
    assert caught.value.prediction.termination.kind == "cancelled"
    assert len(caught.value.prediction.trajectory.iterations[0].sub_calls) == 1
    assert stream._task.wait(0) and list(stream) == []


# Slow readers


def flood(publish, count):
    """``count`` pieces of a reply and as many records."""
    finished = ActionChosen("r", 0, 1, None)  # any record: what it holds plays no part
    for _ in range(count):
        publish(TokensArrived("r", 0, 1, "x"))
        publish(finished)


def test_what_waits_for_a_slow_reader_is_bounded(monkeypatch):
    """Records of the run are all kept; pieces of a reply and states of the budget are left out past the backlog."""
    monkeypatch.setattr(events, "BACKLOG", 100)

    async def begin(publish):
        flood(publish, 1_000)

    async def gather():
        return [event async for event in AsyncStream(begin)]

    for told in (list(Stream(begin)), asyncio.run(gather())):
        assert sum(isinstance(event, ActionChosen) for event in told) == 1_000
        assert sum(isinstance(event, TokensArrived) for event in told) <= 100
    go, heard = threading.Event(), []

    async def deliver():
        def slow(event):
            go.wait(60)
            heard.append(event)

        courier = publishing.Courier(slow)
        flood(courier, 1_000)
        go.set()
        await courier.close()

    asyncio.run(deliver())
    assert sum(isinstance(event, ActionChosen) for event in heard) == 1_000
    assert sum(isinstance(event, TokensArrived) for event in heard) <= 101


def test_a_later_state_of_the_budget_tells_what_was_left_out():
    """What may be left out is what a later event makes up for, nothing else."""
    assert not events.worth_keeping(BudgetChanged("r", 0, None, None), events.BACKLOG)
    assert events.worth_keeping(BudgetChanged("r", 0, None, None), 0)
    assert events.worth_keeping(SubCallStarted("r", 0, "c", "tool"), events.BACKLOG)


# Tokens as they come, over HTTP


@pytest.fixture
def server():
    with ScriptedServer() as running:
        yield running


def http(server, **options):
    return LiteLLM("openai/gpt-4o-mini", api_base=server.url, api_key="-", **options)


def over_http(server, replies, **options):
    """A run whose models are both behind ``server``; the root streams, where it is asked to."""
    server.script({"gpt-4o-mini": replies, "gpt-4o": ["r"] * 20})
    sub = LiteLLM("openai/gpt-4o", api_base=server.url, api_key="-")
    return RLM("text -> answer", **{"lm": http(server), "sub_lm": sub, **options})


def pieces(told):
    """The texts of the last attempt of each iteration."""
    texts = {}
    for event in told:
        if isinstance(event, TokensArrived):
            attempt, text = texts.get(event.index, (1, ""))
            texts[event.index] = (event.attempt, (text if attempt == event.attempt else "") + event.text)
    return [text for _, text in texts.values()]


@pytest.mark.parametrize("face", ["sync", "async"])
def test_a_stream_has_the_roots_reply_as_it_comes(server, face):
    """In several pieces that make up the reply; sub-calls are asked whole; tokens and cost are those of a plain call."""
    rlm = over_http(server, [CODE, END])

    async def gather():
        return [event async for event in rlm.astream(text="t")]

    told = list(rlm.stream(text="t")) if face == "sync" else asyncio.run(gather())
    assert pieces(told) == [CODE, END]
    assert sum(isinstance(event, TokensArrived) for event in told) >= 4
    asked = {(r.body["model"], bool(r.body.get("stream"))) for r in server.requests}
    assert asked == {("gpt-4o-mini", True), ("gpt-4o", False)}
    streamed = told[-1].prediction.usage
    plain = over_http(server, [CODE, END])(text="t").usage
    tokens = (plain.calls, plain.input_tokens, plain.output_tokens)
    assert (streamed.calls, streamed.input_tokens, streamed.output_tokens) == tokens
    assert streamed.cost == pytest.approx(plain.cost) and plain.cost > 0


def test_nobody_streams_unless_asked(server):
    """A plain call and on_event alone cost what they did; stream_tokens says otherwise in both directions."""
    heard = []
    over_http(server, [CODE, END], on_event=heard.append)(text="t")
    list(over_http(server, [CODE, END], stream_tokens=False).stream(text="t"))
    assert not any(r.body.get("stream") for r in server.requests)
    assert pieces(heard) == []
    over_http(server, [CODE, END], on_event=heard.append, stream_tokens=True)(text="t")
    assert pieces(heard) == [CODE, END]


def test_a_reply_that_breaks_off_is_written_anew(server, monkeypatch):
    """The pieces of the second attempt say so; the first is no part of the reply."""
    monkeypatch.setattr(gate, "FIRST_BACKOFF", 0.01)
    told = list(over_http(server, [Answer(END, fault="reset_mid_body"), Answer("busy", 429), END]).stream(text="t"))
    assert told[-1].prediction.answer == "done"
    assert {event.attempt for event in told if isinstance(event, TokensArrived)} == {1, 3}
    assert pieces(told) == [END]


def test_a_server_that_does_not_stream_is_asked_for_the_whole(server):
    """Its reply comes in one piece: a body that is no stream, and a refusal of streaming."""
    message = {"role": "assistant", "content": END}
    body = json.dumps({"choices": [{"index": 0, "message": message}]}).encode()
    for first in (Answer(body=body), Answer("stream is not supported", 400)):
        told = list(over_http(server, [first, Answer(body=body)]).stream(text="t"))
        assert told[-1].prediction.answer == "done"
        assert [event.text for event in told if isinstance(event, TokensArrived)] == [END]


def test_a_provider_that_goes_silent_ends_in_a_typed_failure(server, monkeypatch):
    """After its own timeout, tried again as any other; nothing hangs."""
    monkeypatch.setattr(gate, "FIRST_BACKOFF", 0.01)
    told = list(over_http(server, [Answer(fault="hang"), END], lm=http(server, timeout=1.0)).stream(text="t"))
    assert told[-1].prediction.answer == "done"


def test_caches_and_recordings_pass_the_pieces_on(server, tmp_path):
    """What is remembered or replayed comes without pieces, and is the same reply."""
    remembered = Cached(Recorded(http(server), tmp_path / "tape.jsonl"))
    answers = []
    for turn in range(3):
        lm = remembered if turn < 2 else Replayed(tmp_path / "tape.jsonl")
        told = list(over_http(server, [END], lm=lm).stream(text="t"))
        answers.append(told[-1].prediction.answer)
        assert pieces(told) == ([END] if turn == 0 else [])
    assert answers == ["done"] * 3
    assert server.count == 1
