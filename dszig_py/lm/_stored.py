"""A reply as one line of JSON and back: what a cache and a recording keep of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from dszig_py.lm.base import Reply
from dszig_py.usage import Usage

__all__ = ["packed", "reply_data", "reply_of", "unpacked"]


def packed(data: Any) -> bytes:
    """JSON in one line. Text comes back exactly, lone surrogates too, which escapes in pairs would not give."""
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")


def unpacked(raw: bytes) -> Any:
    """What :func:`packed` made. Raises ValueError."""
    return json.loads(raw.decode("utf-8", "surrogatepass"))


def reply_data(reply: Reply) -> dict[str, Any]:
    """A reply as JSON data; ``cached`` is left out."""
    usage = reply.usage
    names = ("calls", "input_tokens", "output_tokens", "cost", "seconds", "estimated")
    spent = {name: getattr(usage, name) for name in names}
    return {"text": reply.text, "model": reply.model, "finish": reply.finish, "usage": spent}


def reply_of(data: Mapping[str, Any]) -> Reply:
    """The reply of :func:`reply_data`. Raises KeyError, TypeError, ValueError, AttributeError where it is none."""
    if not isinstance(data["text"], str):
        raise TypeError("a reply's text is text")
    return Reply(data["text"], Usage(**data["usage"]), data["model"], data["finish"], bool(data.get("cached")))
