"""The seam to models: :class:`LM` takes a :class:`Request`, gives a :class:`Reply`. Everything else composes around it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from dszig_py.usage import CHARS_PER_TOKEN, Usage

__all__ = [
    "LM",
    "Message",
    "Reply",
    "Request",
    "StreamingLM",
    "answered",
    "estimate_tokens",
    "estimated_usage",
    "price_known",
    "recalled",
    "sees_images",
]

IMAGE_TOKENS = 1_500  # of one image: providers count 250 to 1,600, by its size

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Request:
    """What a model is asked.

    ``remaining`` is what the budget still allows, in words; it is appended to the last message when sent, but is no part
    of :meth:`key`, so a cache or a recording is not missed because a second less was left. ``schema``: the JSON schema
    the reply should follow, where the model supports it. ``options`` go to the provider as they are. ``images``: data or
    http URLs that belong to the last message.
    """

    messages: tuple[Message, ...]
    remaining: str = ""
    max_tokens: int | None = None
    temperature: float | None = None
    schema: Mapping[str, Any] | None = None
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    images: tuple[str, ...] = ()

    @classmethod
    def of(cls, prompt: str) -> Request:
        """One user message."""
        return cls((Message("user", prompt),))

    @property
    def sent(self) -> tuple[Message, ...]:
        """The messages with ``remaining`` in place."""
        if not self.remaining or not self.messages:
            return self.messages
        *before, last = self.messages
        return (*before, Message(last.role, f"{last.content}\n\n{self.remaining}"))

    @property
    def chars(self) -> int:
        """Characters of all messages as sent."""
        return sum(len(m.content) for m in self.messages) + len(self.remaining)

    @property
    def tokens(self) -> int:
        """Tokens of all that is sent, by rule of thumb."""
        return estimate_tokens(self.chars) + IMAGE_TOKENS * len(self.images)

    @property
    def prompt(self) -> str:
        """The messages as one text, for models that read a single prompt."""
        if len(self.messages) == 1:
            return self.sent[0].content
        return "\n\n".join(f"[{m.role}]\n{m.content}" for m in self.sent)

    def key(self, model: str) -> str:
        """SHA-256 over model, messages and parameters: what a cache or a recording knows a request by."""
        data: dict[str, Any] = {
            "model": model,
            "messages": [[m.role, m.content] for m in self.messages],
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "schema": self.schema,
            "options": dict(self.options),
        }
        if self.images:
            data["images"] = list(self.images)
        return hashlib.sha256(json.dumps(data, sort_keys=True, default=repr).encode("ascii")).hexdigest()


@dataclass(frozen=True, slots=True)
class Reply:
    """What a model answered. ``usage`` is of this call alone (``calls`` is 1); ``finish`` as the provider says it."""

    text: str
    usage: Usage = field(default_factory=lambda: Usage(calls=1))
    model: str = ""
    finish: str = ""
    cached: bool = False


@runtime_checkable
class LM(Protocol):
    """A model. Implementations are shared by threads and event loops."""

    @property
    def model(self) -> str:
        """The name usage is filed under."""
        ...

    async def complete(self, request: Request) -> Reply:
        """One completion. Raises :class:`~dszig_py.errors.LMError`."""
        ...


@runtime_checkable
class StreamingLM(LM, Protocol):
    """A model that can tell its reply while it writes it. Optional: every LM is used through ``complete`` alone as well.

    A callback beside the reply, not an iterator in its place: usage, price and failure belong to the call as a whole, and
    a wrapper (a cache, a recording) passes a callback on in one line.
    """

    async def stream(self, request: Request, on_text: Callable[[str], None]) -> Reply:
        """As ``complete``, and ``on_text`` gets the pieces as they come: joined they are the reply's text, unless it
        raises. ``on_text`` neither blocks nor raises. A reply that was not written just now may come without pieces.
        """
        ...


async def answered(lm: LM, request: Request, on_text: Callable[[str], None] | None = None) -> Reply:
    """One reply, told as it comes where somebody listens and the model can; asking costs nothing else."""
    if on_text is not None and isinstance(lm, StreamingLM):
        return await lm.stream(request, on_text)
    return await lm.complete(request)


async def price_known(lm: LM) -> bool:
    """Whether a call's cost will be known. A model says so by an async ``price_known``; one that has none does not."""
    ask: Callable[[], Awaitable[bool]] | None = getattr(lm, "price_known", None)
    return ask is not None and await ask()


async def sees_images(lm: LM) -> bool | None:
    """Whether a model takes images; ``None`` where nobody knows. A model that knows says so by an async ``sees_images``."""
    ask: Callable[[], Awaitable[bool | None]] | None = getattr(lm, "sees_images", None)
    return None if ask is None else await ask()


async def recalled(lm: LM, request: Request) -> Reply | None:
    """The reply that ``lm`` would give without a call, where it remembers one: an LM may have an async ``recall``."""
    ask: Callable[[Request], Awaitable[Reply | None]] | None = getattr(lm, "recall", None)
    return None if ask is None else await ask(request)


def estimate_tokens(chars: int) -> int:
    """Tokens of a text of ``chars`` characters, by rule of thumb; used where a model reports none."""
    return -(-chars // CHARS_PER_TOKEN)


def estimated_usage(request: Request, text: str, *, cost: float | None, seconds: float) -> Usage:
    """The usage of a call whose model reports no tokens."""
    return Usage(1, request.tokens, estimate_tokens(len(text)), cost, seconds, estimated=True)
