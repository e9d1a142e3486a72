"""A request's messages as LiteLLM takes them, with cache marks where a provider caches only what is marked."""

from __future__ import annotations

from typing import Any

from dszig_py.lm.base import Request

__all__ = ["messages_of", "sendable"]

_MARK = {"cache_control": {"type": "ephemeral"}}


def messages_of(request: Request, *, marked: bool) -> list[dict[str, Any]]:
    """``marked``: a prefix is cached up to each mark. Marks stand behind what stays as it is: the instructions, the contract,
    and the history so far, whose last message is continued by what the budget still allows.

    Anthropic's documentation of prompt caching: at most four marks, and a mark finds what was cached up to twenty blocks
    before it; so the newest mark of one request is found by the next.
    """
    found: list[dict[str, Any]]
    if marked:
        found = [{"role": m.role, "content": [_part(m.content)]} for m in request.messages]
        for at in {0, 1, len(found) - 1} & set(range(len(found))):
            found[at]["content"][0] |= _MARK
        if request.remaining and found:
            found[-1]["content"].append(_part(request.remaining))
    else:
        found = [{"role": m.role, "content": sendable(m.content)} for m in request.sent]
    if request.images:
        last: Any = found[-1]["content"]
        pictures = [{"type": "image_url", "image_url": {"url": url}} for url in request.images]
        found[-1]["content"] = [*([_part(last)] if isinstance(last, str) else last), *pictures]
    return found


def _part(text: str) -> dict[str, Any]:
    return {"type": "text", "text": sendable(text)}


def sendable(text: str) -> str:
    """Lone surrogates are legal in a ``str`` and in no request body."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode(errors="replace").decode()
    return text
