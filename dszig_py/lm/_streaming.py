"""A reply told as it comes, with the whole asked for where that fails; LiteLLM's stream put together into its response."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any

import anyio

from dszig_py.errors import LMError
from dszig_py.lm.base import Reply

__all__ = ["streamed", "told"]

CLOSE_SECONDS = 1.0


async def told(
    ask: Callable[[Callable[[str], None] | None], Awaitable[Reply]], on_text: Callable[[str], None]
) -> Reply:
    """``ask(tell)``, a streaming call; then ``ask(None)``, a plain one, where that brought no text: what cannot be streamed, or
    a server that ignores what it was asked for or answers with something else. The plain call says what there is to say.
    """
    heard: list[str] = []

    def tell(text: str) -> None:
        heard.append(text)
        on_text(text)

    try:
        reply = await ask(tell)
        if heard:
            return reply
    except LMError as error:
        if heard or error.retryable:
            raise
    reply = await ask(None)
    on_text(reply.text)
    return reply


async def streamed(litellm: Any, arguments: Mapping[str, Any], on_text: Callable[[str], None]) -> Any:
    """LiteLLM's response to ``litellm.acompletion(**arguments)``. Raises what LiteLLM raises, and ``TimeoutError``.

    Usage is what the provider reports at the end of its stream; where it reports none, LiteLLM counts tokens itself.
    """
    chunks: list[Any] = []
    # LiteLLM's own timeout is for each read: a provider that sends a piece now and then would go on for ever.
    timeout: Any = arguments.get("timeout")
    async with asyncio.timeout(timeout if isinstance(timeout, int | float) else None):
        stream = await litellm.acompletion(**arguments, stream=True, stream_options={"include_usage": True})
        try:
            async for chunk in stream:
                chunks.append(chunk)
                if text := _text(chunk):
                    on_text(text)
        finally:
            with suppress(Exception), anyio.move_on_after(CLOSE_SECONDS, shield=True):
                await stream.aclose()
    return litellm.stream_chunk_builder(chunks, messages=arguments["messages"])


def _text(chunk: Any) -> str:
    choices: list[Any] = getattr(chunk, "choices", None) or []
    text: Any = getattr(getattr(choices[0], "delta", None), "content", None) if choices else None
    return text if isinstance(text, str) else ""
