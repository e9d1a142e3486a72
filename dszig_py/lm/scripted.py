"""A fake model that says what it is told to, for tests and demonstrations."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from dszig_py.errors import InputError, LMError
from dszig_py.lm.base import Reply, Request, estimated_usage

__all__ = ["ScriptedLM"]

Entry = str | Exception | Callable[[Request], str]


class ScriptedLM:
    """Gives ``replies`` in order: a text, an exception to raise, or a callable that computes the text from the request.

    A single callable answers every request. ``cost``: dollars a call, ``None`` = unknown. ``delay``: seconds a call.
    ``repeat_last``: go on with the last reply instead of failing. ``requests`` holds what was asked. Copies (also deep
    ones and pickles) go on from the same place on their own.
    """

    def __init__(
        self,
        replies: Sequence[Entry] | Callable[[Request], str],
        *,
        model: str = "scripted",
        cost: float | None = 0.0,
        delay: float = 0.0,
        repeat_last: bool = False,
    ) -> None:
        if isinstance(replies, str):
            raise InputError("ScriptedLM takes a list of replies, not one string: ScriptedLM([reply])")
        self._always: Callable[[Request], str] | None = replies if callable(replies) else None
        self._replies: list[Entry] = [] if callable(replies) else list(replies)
        self._model = model
        self._cost = cost
        self._delay = delay
        self._repeat_last = repeat_last
        self._lock = threading.Lock()
        self.requests: list[Request] = []

    @property
    def model(self) -> str:
        """The name given."""
        return self._model

    def __repr__(self) -> str:
        return f"ScriptedLM({self._model}, {len(self.requests)} of {len(self._replies) or 'any'} given)"

    def __getstate__(self) -> dict[str, Any]:
        with self._lock:
            return {**self.__dict__, "_lock": None, "requests": list(self.requests)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()

    async def price_known(self) -> bool:
        """Whether a cost was given."""
        return self._cost is not None

    async def complete(self, request: Request) -> Reply:
        """The next reply. Raises :class:`LMError` when there is none left, and whatever the script says to raise."""
        started = time.perf_counter()
        entry = self._next(request)
        if self._delay > 0:
            await asyncio.sleep(self._delay)
        if isinstance(entry, Exception):
            raise entry
        text = entry if isinstance(entry, str) else entry(request)
        usage = estimated_usage(request, text, cost=self._cost, seconds=time.perf_counter() - started)
        return Reply(text, usage, self._model, "stop")

    def _next(self, request: Request) -> Entry:
        with self._lock:
            self.requests.append(request)
            at = len(self.requests) - 1
            if self._always is not None:
                return self._always
            if at < len(self._replies):
                return self._replies[at]
            if self._repeat_last and self._replies:
                return self._replies[-1]
        raise LMError(f"{self._model}: the script is over after {len(self._replies)} replies")
