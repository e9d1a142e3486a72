"""Cache marks: a provider that caches only what is marked finds the prefix of one decision in the next."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_server import ScriptedServer

from dszig_py import RLM
from dszig_py.lm import LiteLLM
from dszig_py.lm._loaded import facts_of, litellm
from dszig_py.lm._messages import messages_of
from dszig_py.lm.base import Message, Request

CELLS = ["```python\nprint('x' * 3000)\n```"] * 3 + ["```python\nSUBMIT(answer='done')\n```"]


class Anthropic(BaseHTTPRequestHandler):
    """Just enough of POST /v1/messages."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.bodies.append(body)
        text = CELLS[min(len(self.server.bodies), len(CELLS)) - 1]
        usage = {
            "input_tokens": 10,
            "output_tokens": 5,
            "cache_read_input_tokens": 90,
            "cache_creation_input_tokens": 7,
        }
        reply = {"id": "m", "type": "message", "role": "assistant", "model": body["model"], "stop_reason": "end_turn"}
        data = json.dumps({**reply, "content": [{"type": "text", "text": text}], "usage": usage}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        """Nothing on standard error."""


@pytest.fixture
def anthropic():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Anthropic)
    server.bodies = []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def marks(body):
    """(index of the message, or "system"; index of the part) of each mark, in order."""
    found = [("system", i) for i, part in enumerate(body["system"]) if "cache_control" in part]
    return found + [
        (at, i)
        for at, m in enumerate(body["messages"])
        for i, part in enumerate(m["content"])
        if "cache_control" in part
    ]


def test_decisions_by_an_anthropic_model_are_marked_where_they_stay_as_they_are(anthropic):
    """Instructions, contract and the newest observation; what is left of the budget stands behind the last mark."""
    url = f"http://127.0.0.1:{anthropic.server_address[1]}"
    lm = LiteLLM("anthropic/claude-sonnet-4-5", api_base=url, api_key="k")
    pred = RLM("text -> answer", lm=lm)(text="t" * 2_000)
    assert pred.answer == "done"
    first, *_, last = anthropic.bodies
    assert marks(first) == [("system", 0), (0, 0)]
    assert marks(last) == [("system", 0), (0, 0), (len(last["messages"]) - 1, 0)]
    assert "iterations left" in last["messages"][-1]["content"][-1]["text"]
    before = anthropic.bodies[-2]["messages"]
    assert [m["content"][0]["text"] for m in last["messages"][: len(before)]] == [
        m["content"][0]["text"] for m in before
    ]
    assert pred.usage.input_tokens >= 4 * 97, "cached tokens are counted"
    plain = 4 * 107 * 3e-6
    assert 0 < pred.usage.cost < plain, "and cost less than others"


def test_other_providers_get_plain_texts():
    """OpenAI and servers like it cache by themselves; some refuse fields they do not know."""
    with ScriptedServer(lambda body: CELLS[-1]) as server:
        RLM("text -> answer", lm=LiteLLM("openai/claude-like", api_base=server.url, api_key="k"))(text="t")
        messages = server.requests[0].body["messages"]
    assert all(isinstance(m["content"], str) for m in messages)


@pytest.mark.parametrize(
    ("model", "marked"),
    [
        ("anthropic/claude-sonnet-4-5", True),
        ("bedrock/anthropic.claude-3-5-sonnet-20240620-v1:0", True),
        ("vertex_ai/claude-sonnet-4@20250514", True),
        ("openrouter/anthropic/claude-sonnet-4", True),
        ("openai/gpt-4o", False),
        ("gemini/gemini-2.5-pro", False),
        ("hosted_vllm/claude-at-home", False),
        ("ollama/llama3", False),
    ],
)
def test_which_models_are_marked(model, marked):
    """Anthropic's, where LiteLLM passes marks on."""
    assert facts_of(model, len(litellm().model_cost)).marks is marked


@given(
    st.lists(st.text(max_size=20), max_size=8),
    st.text(max_size=10),
    st.booleans(),
    st.lists(st.just("http://x"), max_size=2),
)
def test_marked_and_plain_messages_say_the_same(texts, remaining, marked, images):
    """Every text arrives, in order, with what remains at the end; at most three marks."""
    request = Request(tuple(Message("user", t) for t in texts) or (Message("user", ""),), remaining=remaining)
    request = Request(request.messages, remaining=remaining, images=tuple(images))
    sent = messages_of(request, marked=marked)
    parts = [m["content"] if isinstance(m["content"], list) else [{"text": m["content"]}] for m in sent]
    told = ["\n\n".join(p["text"] for p in part if "text" in p) for part in parts]
    assert told == [m.content.encode(errors="replace").decode() for m in request.sent]
    assert sum("cache_control" in p for part in parts for p in part) == (min(3, len(sent)) if marked else 0)
    assert sum("image_url" in p for part in parts for p in part) == len(images)
