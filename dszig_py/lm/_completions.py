"""OpenAI's chat completions, as data: what is sent, what comes back whole, and what comes back in pieces."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from dszig_py.lm._messages import messages_of
from dszig_py.lm.base import Request

__all__ = ["Completion", "Refused", "body_of", "completion_of", "error_text", "streamed"]

# What LiteLLM takes beside a call's parameters: of use there, unknown to a server.
_NOT_SENT = frozenset({
    *("api_base", "base_url", "api_key", "base_model", "organization", "headers", "extra_headers", "extra_body"),
    *("input_cost_per_token", "output_cost_per_token", "num_retries", "max_retries", "drop_params", "caching", "timeout"),
})  # fmt: skip


class Refused(Exception):
    """The provider says, in an answer of status 200, that the call failed. ``status``: the one it names, if any."""

    def __init__(self, message: str, status: int | None) -> None:
        super().__init__(message)
        self.status = status


@dataclass(slots=True)
class Completion:
    """A reply as the provider gave it; tokens are 0 where it does not count them. ``tier``: the service tier."""

    text: str = ""
    finish: str = ""
    tokens_in: int = 0
    tokens_out: int = 0
    cached: int = 0
    tier: str = ""
    pieces: list[str] = field(default_factory=list[str])


def body_of(
    name: str, request: Request, options: Mapping[str, Any], *, openai: bool, schema: bool, stream: bool
) -> bytes:
    """The request's body, UTF-8 JSON. ``openai``: OpenAI's own servers, whose newer models know one name only for the
    limit of tokens; everybody else's know the older one.
    """
    body: dict[str, Any] = {key: value for key, value in options.items() if key not in _NOT_SENT}
    if request.max_tokens is not None:
        body["max_tokens"] = request.max_tokens
    if openai and "max_tokens" in body:
        body["max_completion_tokens"] = body.pop("max_tokens")
    if request.temperature is not None:
        body["temperature"] = request.temperature
    if schema and request.schema is not None:
        named = {"name": "reply", "schema": dict(request.schema), "strict": False}
        body["response_format"] = {"type": "json_schema", "json_schema": named}
    body.update(request.options)
    body.update(options.get("extra_body") or {})
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    messages = messages_of(request, marked=False)
    return json.dumps({**body, "model": name, "messages": messages}, ensure_ascii=False).encode("utf-8", "replace")


def completion_of(data: bytes) -> Completion:
    """A whole answer. Raises ``ValueError`` where it is none, :class:`Refused`."""
    whole = _object(json.loads(data))
    if "choices" not in whole:
        raise ValueError("the answer is JSON, but no chat completion")
    made = Completion(**_counted(whole))
    choice = _first(whole)
    message = _mapping(choice.get("message"))
    made.text = _text(message.get("content")) or _text(message.get("refusal"))  # a refusal is what the model says
    made.finish = str(choice.get("finish_reason") or "")
    return made


async def streamed(pieces: AsyncIterator[bytes], on_text: Callable[[str], None]) -> Completion:
    """An answer in server-sent events; ``on_text`` gets each piece of text. Raises ``ValueError``, :class:`Refused`."""
    made, rest, ended = Completion(), b"", False
    async for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            ended = _event(made, line.strip(), on_text) or ended
    ended = _event(made, rest.strip(), on_text) or ended
    if not ended and not made.finish:
        raise ValueError("the stream broke off")
    made.text = "".join(made.pieces)
    return made


def _event(made: Completion, line: bytes, on_text: Callable[[str], None]) -> bool:
    """Take one line of a stream; whether it is the last."""
    if not line.startswith(b"data:"):
        return False
    data = line[5:].strip()
    if data == b"[DONE]":
        return True
    chunk = _object(json.loads(data))
    for name, value in _counted(chunk).items():
        if value:
            setattr(made, name, value)
    choice = _first(chunk)
    made.finish = str(choice.get("finish_reason") or made.finish)
    delta = _mapping(choice.get("delta"))
    if text := _text(delta.get("content")) or _text(delta.get("refusal")):
        made.pieces.append(text)
        on_text(text)
    return False


def _object(data: Any) -> Mapping[str, Any]:
    """An answer that is an object and no error. Raises ``ValueError``, :class:`Refused`."""
    if not isinstance(data, dict):
        raise ValueError("the answer is JSON, but no object")  # noqa: TRY004 - a broken answer, like bad JSON
    given = cast("dict[str, Any]", data)
    if given.get("error"):
        status = str(_mapping(given["error"]).get("code"))
        raise Refused(_said(given), int(status) if status.isdigit() else None)
    return given


def _counted(answer: Mapping[str, Any]) -> dict[str, Any]:
    usage = _mapping(answer.get("usage"))
    tokens_in = _count(usage.get("prompt_tokens"))
    cached = _count(_mapping(usage.get("prompt_tokens_details")).get("cached_tokens"))
    return {
        "tokens_in": tokens_in,
        "tokens_out": _count(usage.get("completion_tokens")),
        "cached": min(cached or _count(usage.get("prompt_cache_hit_tokens")), tokens_in),  # the latter is DeepSeek's
        "tier": str(answer.get("service_tier") or ""),
    }


def _count(value: Any) -> int:
    return value if type(value) is int and value > 0 else 0


def _mapping(value: Any) -> Mapping[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _first(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    choices: Any = answer.get("choices")
    return _mapping(cast("list[Any]", choices)[0]) if isinstance(choices, list) and choices else {}


def _text(content: Any) -> str:
    if isinstance(content, list):
        parts = cast("list[Any]", content)
        return "".join(part if isinstance(part, str) else str(_mapping(part).get("text") or "") for part in parts)
    return content if isinstance(content, str) else ""


def error_text(data: bytes) -> str:
    """What an answer of status 400 or more says, on one line."""
    try:
        said = _said(_mapping(json.loads(data)))
    except ValueError:
        said = ""
    return " ".join((said or data[:2_000].decode("utf-8", "replace")).split())


def _said(answer: Mapping[str, Any]) -> str:
    """OpenAI: error.message and error.code; vLLM: message; FastAPI: detail; Ollama: error."""
    error: Any = answer.get("error") or answer.get("message") or answer.get("detail") or ""
    told = _mapping(error)
    said = str(told.get("message") or error) if error else ""
    code = str(told.get("code") or "")
    return f"{said} ({code})" if code and code not in said and not code.isdigit() else said
