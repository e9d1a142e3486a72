"""The HTTP clients that LiteLLM opens for each event loop, closed when that loop ends."""

from __future__ import annotations

import asyncio
import inspect
import os
import sys
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from dszig_py.lm import _loaded

__all__ = ["close_clients", "of_this_loop", "seen"]


@dataclass(slots=True)
class _Loop:
    """One event loop's clients by ``id``, and the generator whose end closes them."""

    closer: AsyncGenerator[None, None]
    clients: dict[int, Any] = field(default_factory=dict[int, Any])

    def note(self) -> None:
        """What LiteLLM has opened here: clients, and a task that writes its logs, which it drops where it stands when it is
        called on another loop. asyncio would report that on stderr, as a task destroyed while pending.
        """
        self.clients.update(seen())
        worker = getattr(sys.modules.get("litellm.litellm_core_utils.logging_worker"), "GLOBAL_LOGGING_WORKER", None)
        if (task := getattr(worker, "_worker_task", None)) is not None:
            task._log_destroy_pending = False  # as asyncio itself does for a gather's


_loops: dict[asyncio.AbstractEventLoop, _Loop] = {}


async def close_clients() -> None:
    """Close the HTTP clients LiteLLM opened on the running event loop; those of other loops stay open.

    Happens by itself when a loop ends as ``asyncio.run`` ends it. ``litellm.close_litellm_async_clients`` would close
    every loop's clients, also under another loop's requests.
    """
    if _loaded.loaded() is None:
        return
    known = _loops.get(asyncio.get_running_loop())
    clients = {**(known.clients if known else {}), **seen(forget=True)}
    for client in clients.values():
        if getattr(client, "_client", None) is _loaded.loaded().aclient_session is not None:
            continue  # built around a session the user owns
        close = getattr(client, "aclose", None) or getattr(client, "close", None)
        with suppress(Exception):
            closing: Any = close() if close is not None else None
            if inspect.isawaitable(closing):
                await closing
    if known:
        known.clients.clear()
    await asyncio.sleep(0)  # the sockets themselves close one round of the loop later


def seen(*, forget: bool = False) -> dict[int, Any]:
    """The clients of the running loop that LiteLLM holds, by ``id``; its cache drops (and leaks) each after an hour."""
    cached: dict[str, Any] = getattr(_loaded.loaded().in_memory_llm_clients_cache, "cache_dict", {})
    mine = f"-{id(asyncio.get_running_loop())}"
    keys = [key for key in list(cached) if key.endswith(mine)]
    clients = [cached.pop(key, None) if forget else cached.get(key) for key in keys]
    return {id(client): client for client in clients if client is not None}


async def of_this_loop() -> _Loop:
    """Have the running loop close its clients at its end, or each open session is reported on stderr.

    An event loop has no shutdown hook, but it does finish the async generators begun on it.
    """
    loop = asyncio.get_running_loop()
    if loop not in _loops:
        for old in [old for old in list(_loops) if old.is_closed()]:
            _loops.pop(old, None)
        _loops[loop] = _Loop(_until_loop_ends())
        await anext(_loops[loop].closer)
    return _loops[loop]


async def _until_loop_ends() -> AsyncGenerator[None, None]:
    try:
        yield
    finally:
        await close_clients()
        _loops.pop(asyncio.get_running_loop(), None)


def _reset_after_fork() -> None:
    _loops.clear()


os.register_at_fork(after_in_child=_reset_after_fork)
