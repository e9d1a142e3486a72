"""A scripted OpenAI-compatible server on loopback: real HTTP for tests and benchmarks, thousands of requests a second.

Just enough HTTP/1.1 (keep-alive, ``Content-Length``) over a raw asyncio protocol: benchmarks are not to measure it.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

__all__ = ["Answer", "Fault", "Handler", "Received", "ScriptedServer", "echo"]

Body = dict[str, Any]
Fault = Literal[
    "hang", "reset", "reset_mid_body", "bad_json", "empty_body", "empty_choices", "null_content", "wrong_type", "big"
]
BIG_CHARS = 5_000_000


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server does with one request.

    ``latency``: seconds before it answers; ``until``: what it waits for before. ``body`` replaces the whole body.
    ``usage``: (prompt, completion) tokens,
    ``None`` for none at all; by default a quarter of the characters. ``message`` is merged into the reply's message.
    """

    text: str = ""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    latency: float = 0.0
    until: threading.Event | None = None
    fault: Fault | None = None
    body: bytes | None = None
    usage: tuple[int, int] | Literal["auto"] | None = "auto"
    message: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True)
class Received:
    """One request as it came in; ``at`` is ``time.perf_counter()``."""

    body: Body
    at: float
    head: str

    @property
    def prompt(self) -> str:
        """The last message's text."""
        return str(self.body["messages"][-1]["content"])


Handler = Callable[[Body], Answer | str]


def echo(body: Body) -> str:
    """The default handler: the last message comes back."""
    return str(body["messages"][-1]["content"])


class ScriptedServer:
    """``with ScriptedServer(handler) as server: ... server.url ...``; a thread and an event loop of its own.

    ``requests`` holds what came in (nothing with ``keep=False``), ``in_flight`` and ``max_in_flight`` count requests
    not answered yet, ``prompt_bytes`` the bytes of all bodies, ``dropped`` the clients that hung up while waiting.
    """

    def __init__(self, handler: Handler = echo, *, keep: bool = True) -> None:
        self.handler, self.keep = handler, keep
        self.requests: list[Received] = []
        self.count = self.in_flight = self.max_in_flight = self.prompt_bytes = self.dropped = self.connections = 0
        self.url = ""
        self._scripts: dict[str, deque[Answer | str]] = {}
        self._lock = threading.Lock()
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="scripted", daemon=True)
        self._stop: Callable[[], object] = lambda: None
        self.open: set[_Connection] = set()

    def script(self, replies: Sequence[Answer | str] | Mapping[str, Sequence[Answer | str]]) -> None:
        """Answer in this order, before the handler is asked: for every model, or by model name (``*`` is the rest)."""
        by_model = replies if isinstance(replies, Mapping) else {"*": replies}
        with self._lock:
            for model, entries in by_model.items():
                self._scripts[model] = deque(entries)

    def answer(self, body: Body) -> Answer:
        """What to do with ``body``. A script that is over answers 400, which nobody retries."""
        with self._lock:
            script = self._scripts.get(str(body.get("model", "")), self._scripts.get("*"))
            given = None if script is None else script.popleft() if script else Answer("the script is over", 400)
        if given is None:
            try:
                given = self.handler(body)
            except Exception as error:  # a handler's bug is to be seen by the test, not to hang it
                given = Answer(f"the handler failed: {error!r}", status=400)
        return Answer(given) if isinstance(given, str) else given

    def __enter__(self) -> ScriptedServer:
        self._thread.start()
        if not self._started.wait(60):
            raise RuntimeError("the server did not start")
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()
        self._thread.join(60)

    async def _serve(self) -> None:
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        self._stop = lambda: loop.call_soon_threadsafe(stop.set)
        server = await loop.create_server(lambda: _Connection(self, loop), "127.0.0.1", 0, backlog=4096)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        self._started.set()
        await stop.wait()
        server.close()
        for connection in list(self.open):
            connection.transport.abort()
        await asyncio.sleep(0)  # lets the aborted transports close, so that none is reported as unclosed


class _Connection(asyncio.Protocol):
    """One client. Requests are answered one after another; pipelining waits in the buffer."""

    transport: asyncio.Transport

    def __init__(self, server: ScriptedServer, loop: asyncio.AbstractEventLoop) -> None:
        self.server, self.loop, self.buffer = server, loop, bytearray()
        self.busy = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.server.open.add(self)
        self.server.connections += 1

    def connection_lost(self, exc: Exception | None) -> None:
        self.server.open.discard(self)
        if self.busy:
            self.server.in_flight -= 1
            self.server.dropped += 1
            self.busy = False

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if not self.busy:
            self._next()

    def _next(self) -> None:
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self.buffer[:end].decode("latin-1")
        at = head.lower().find("content-length:")
        length = int(head[at + 15 :].split("\r\n", 1)[0]) if at >= 0 else 0
        if len(self.buffer) < end + 4 + length:
            return
        raw = bytes(self.buffer[end + 4 : end + 4 + length])
        del self.buffer[: end + 4 + length]
        self._received(head, raw)

    def _received(self, head: str, raw: bytes) -> None:
        server = self.server
        self.busy = True
        server.in_flight += 1
        server.max_in_flight = max(server.max_in_flight, server.in_flight)
        if "/chat/completions" not in head.split("\r\n", 1)[0]:
            self._send(Answer("not found", status=404), {})
            return
        body: Body = json.loads(raw)
        server.count += 1
        server.prompt_bytes += len(raw)
        if server.keep:
            server.requests.append(Received(body, time.perf_counter(), head))
        answer = server.answer(body)
        if answer.fault == "hang":
            return
        self._answer(answer, body)

    def _answer(self, answer: Answer, body: Body) -> None:
        if answer.until is not None and not answer.until.is_set():
            self.loop.call_later(0.01, self._answer, answer, body)
        elif answer.latency > 0:
            self.loop.call_later(answer.latency, self._send, answer, body)
        else:
            self._send(answer, body)

    def _send(self, answer: Answer, body: Body) -> None:
        if not self.busy:
            return  # the client hung up meanwhile
        self.busy = False
        self.server.in_flight -= 1
        if answer.fault == "reset":
            self.transport.abort()
            return
        kind, payload = _payload(answer, body)
        headers = {"Content-Type": kind, "Content-Length": len(payload), **answer.headers}
        lines = [f"HTTP/1.1 {answer.status} Scripted", *(f"{name}: {value}" for name, value in headers.items())]
        head = "\r\n".join([*lines, "", ""]).encode("latin-1")
        if answer.fault == "reset_mid_body":
            self.transport.write(head + payload[: len(payload) // 2])
            self.loop.call_later(0.02, self.transport.abort)  # not at once, or the half never leaves
            return
        self.transport.write(head + payload)
        if self.buffer:
            self._next()


def _payload(answer: Answer, body: Body) -> tuple[str, bytes]:
    """Content type and bytes of the answer."""
    if answer.body is not None:
        return "application/json", answer.body
    if answer.fault == "wrong_type":
        return "text/html", b"<html><body>Sign in to the hotel's network</body></html>"
    if answer.fault in ("bad_json", "empty_body"):
        return "application/json", b'{"id": "x", "choices": [{"mess' if answer.fault == "bad_json" else b""
    if answer.status >= 400:
        error = {"message": answer.text or f"scripted {answer.status}", "type": "scripted", "code": str(answer.status)}
        return "application/json", json.dumps({"error": error}).encode()
    if body.get("stream"):
        return "text/event-stream", _stream(answer, body)
    return "application/json", json.dumps(_completion(answer, body)).encode()


def _completion(answer: Answer, body: Body) -> Body:
    text = "x" * BIG_CHARS if answer.fault == "big" else answer.text
    message = {"role": "assistant", "content": None if answer.fault == "null_content" else text, **answer.message}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    completion: Body = {
        "id": "chatcmpl-scripted",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": body.get("model", ""),
        "choices": [] if answer.fault == "empty_choices" else [choice],
    }
    if answer.usage is not None:
        spent = answer.usage
        if spent == "auto":
            chars = sum(len(str(message["content"])) for message in body["messages"])
            spent = (chars // 4 + 1, len(text) // 4 + 1)
        tokens = dict(zip(("prompt_tokens", "completion_tokens"), spent, strict=True))
        completion["usage"] = {**tokens, "total_tokens": sum(spent)}
    return completion


def _stream(answer: Answer, body: Body) -> bytes:
    base = {"id": "chatcmpl-scripted", "object": "chat.completion.chunk", "created": 1, "model": body.get("model", "")}
    pieces = [answer.text[i : i + 20] for i in range(0, len(answer.text), 20)]
    deltas: list[tuple[Body, str | None]] = [({"role": "assistant", "content": piece}, None) for piece in pieces]
    chunks = [{**base, "choices": [{"index": 0, "delta": d, "finish_reason": f}]} for d, f in [*deltas, ({}, "stop")]]
    usage = _completion(answer, body).get("usage")
    if usage is not None and (body.get("stream_options") or {}).get("include_usage"):
        chunks.append({**base, "choices": [], "usage": usage})
    return "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks).encode() + b"data: [DONE]\n\n"
