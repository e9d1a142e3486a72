"""``dspy.streamify``: tokens and status messages of a run reach the loop that reads them.

A synchronous run lives on a loop of its own, and a memory stream may only be used on the loop it belongs to.

A ``StatusMessageProvider`` may have two methods more than dspy's: ``rlm_iteration_start_status_message(instance, iteration)``
and ``rlm_sub_call_start_status_message(instance, kind)``, each giving a text or None.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import anyio.from_thread
import dspy
from dspy.streaming.messages import StatusMessage, StatusStreamingCallback, StreamResponse
from pydantic_core import to_json

from dszig_py.events import Event, IterationStarted, SubCallStarted

__all__ = ["Relay", "relayed", "status_messages", "stream_outputs"]


class Relay:
    """A stream whose ``send`` may be awaited on any loop."""

    def __init__(self, stream: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._stream = stream
        self._loop = loop

    async def send(self, item: Any) -> None:
        await asyncio.wrap_future(self.send_later(item))

    def send_later(self, item: Any) -> Any:
        """Send without waiting for the reader."""
        return asyncio.run_coroutine_threadsafe(self._stream.send(item), self._loop)


def relayed() -> Any:
    """The dspy context of a synchronous run: with a relay where there is a stream, called in a thread of its loop."""
    stream = dspy.settings.send_stream
    if stream is None or isinstance(stream, Relay):
        return dspy.context()
    try:
        loop = anyio.from_thread.run_sync(asyncio.get_running_loop)
    except RuntimeError:  # no thread of a loop's: whoever set the stream knows how to read it
        return dspy.context()
    return dspy.context(send_stream=Relay(stream, loop))


def status_messages(callbacks: list[Any], module: Any) -> list[Callable[[Event], None]]:
    """What tells the stream of dspy's settings of iterations and sub-calls, by the words of the user's providers."""
    stream = dspy.settings.send_stream
    if stream is None:
        return []
    relay = stream if isinstance(stream, Relay) else Relay(stream, asyncio.get_running_loop())
    providers = [c.status_message_provider for c in callbacks if isinstance(c, StatusStreamingCallback)]

    def teller(provider: Any) -> Callable[[Event], None]:
        def tell(event: Event) -> None:
            said = None
            if isinstance(event, IterationStarted) and hasattr(provider, "rlm_iteration_start_status_message"):
                said = provider.rlm_iteration_start_status_message(module, event.index)
            elif isinstance(event, SubCallStarted) and hasattr(provider, "rlm_sub_call_start_status_message"):
                said = provider.rlm_sub_call_start_status_message(module, event.kind)
            if said:
                relay.send_later(StatusMessage(said))

        return tell

    return [teller(provider) for provider in providers]


async def stream_outputs(extract: Any, outputs: Mapping[str, Any]) -> None:
    """Tell the listeners to outputs what SUBMIT gave, each in one piece.

    dspy binds a listener to the predictor that has its field, which is ``extract``; after a SUBMIT no model ever writes it.
    """
    stream = dspy.settings.send_stream
    for listener in (dspy.settings.get("stream_listeners") or []) if stream is not None else []:
        name = listener.signature_field_name
        if listener.predict is not extract or outputs.get(name) is None:
            continue
        if listener.stream_end and not listener.allow_reuse:
            continue
        listener.stream_start = listener.stream_end = True  # so that dspy knows the field was streamed
        value = outputs[name]
        text = value if isinstance(value, str) else to_json(value, fallback=str).decode()
        await stream.send(StreamResponse(listener.predict_name, name, text, is_last_chunk=True))
