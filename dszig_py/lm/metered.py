"""Models that share one count of calls and bytes, as zigrlm limits them.

The budget counts what costs: calls from inside code, tokens, dollars, seconds. zigrlm's limits are of all model calls and
of bytes, so they are counted where each call passes. Here they hold for the whole tree and before a call is made; zigrlm
counts each frame on its own and looks after the call.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from dszig_py.lm.base import Reply, Request, answered
from dszig_py.lm.cached import Around
from dszig_py.usage import Exhausted

__all__ = ["Meter", "Metered"]


@dataclass(slots=True)
class Meter:
    """What all models on it were asked and said; ``None`` = not limited. A call that failed is not counted.

    ``max_calls``: calls. ``max_input_bytes``: UTF-8 bytes of prompts. ``max_output_bytes``: of completions; calls in
    flight when it is reached are finished, for nobody knows how much they will say.
    """

    max_calls: int | None = None
    max_input_bytes: int | None = None
    max_output_bytes: int | None = None
    calls: int = 0
    input_bytes: int = 0
    output_bytes: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def begin(self, size: int) -> None:
        """Count a call with a prompt of ``size`` bytes. Raises :class:`Exhausted`, under the budget's own names."""
        with self._lock:
            if self.max_calls is not None and self.calls >= self.max_calls:
                raise Exhausted("max_llm_calls", f"call limit exceeded: all {self.max_calls} model calls are used")
            if self.max_input_bytes is not None and self.input_bytes + size > self.max_input_bytes:
                told = f"{self.input_bytes:,} of {self.max_input_bytes:,} bytes are used, the next prompt has {size:,}"
                raise Exhausted("max_tokens", f"input byte limit exceeded: {told}")
            if self.max_output_bytes is not None and self.output_bytes >= self.max_output_bytes:
                told = f"{self.output_bytes:,} of {self.max_output_bytes:,} bytes are used"
                raise Exhausted("max_tokens", f"output byte limit exceeded: {told}")
            self.calls += 1
            self.input_bytes += size

    def end(self, size: int, said: int | None) -> None:
        """The call is over; ``said``: bytes of its completion, ``None`` where it failed or cost nothing."""
        with self._lock:
            if said is None:
                self.calls -= 1
                self.input_bytes -= size
            else:
                self.output_bytes += said


class Metered(Around):
    """``lm``, counted by ``meter``."""

    def __init__(self, lm: Any, meter: Meter) -> None:
        super().__init__(lm)
        self._meter = meter

    async def complete(self, request: Request) -> Reply:
        """One completion. Raises :class:`Exhausted` before it is asked for, and what the inner model raises."""
        return await self.stream(request)

    async def stream(self, request: Request, on_text: Callable[[str], None] | None = None) -> Reply:
        """The same, told as it comes where the inner model can."""
        size = sum(len(m.content.encode(errors="replace")) for m in request.sent)
        self._meter.begin(size)
        said: int | None = None
        try:
            reply = await answered(self.lm, request, on_text)
            said = None if reply.cached else len(reply.text.encode(errors="replace"))
        finally:
            self._meter.end(size, said)
        return reply
