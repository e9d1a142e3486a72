"""For tests and notebooks: a ``dspy.LM`` that answers by a function, with neither key nor network."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import dspy
from dspy.lm15 import Message, Request, Response, TextPart, Usage, response_to_events

__all__ = ["FunctionEngine", "function_lm"]

CHARS_PER_TOKEN = 4


class FunctionEngine:
    """An engine of ``dspy.LM`` over ``answer(prompt, last)``: the whole prompt and its last message, as text.

    An exception that it returns is raised. ``prompts`` and ``requests`` hold what came in; copies of an LM share them.
    Tokens are told as a quarter of the characters.
    """

    def __init__(self, answer: Callable[[str, str], str | BaseException]) -> None:
        self.answer = answer
        self.prompts: list[str] = []
        self.requests: list[Request] = []

    def __deepcopy__(self, memo: dict[int, Any]) -> FunctionEngine:
        return self  # copies of an LM are the same model

    def complete(self, request: Request) -> Response:
        """One reply."""
        system = request.system if isinstance(request.system, str) else "".join(p.text for p in request.system or ())
        texts = ["".join(getattr(p, "text", "") or f"<{type(p).__name__}>" for p in m.parts) for m in request.messages]
        prompt = "\n\n".join([system, *texts])
        self.prompts.append(prompt)
        self.requests.append(request)
        reply = self.answer(prompt, texts[-1])
        if isinstance(reply, BaseException):
            raise reply
        read, written = len(prompt) // CHARS_PER_TOKEN, len(reply) // CHARS_PER_TOKEN
        usage = Usage(input_tokens=read, output_tokens=written, total_tokens=read + written)
        message = Message.assistant([TextPart(reply)])
        return Response(id=None, model="function", message=message, finish_reason="stop", usage=usage)

    def stream(self, request: Request) -> Iterator[Any]:
        """The reply in one piece."""
        return iter(response_to_events(self.complete(request)))

    def close(self) -> None:
        """Nothing to close."""


class _AsyncEngine:
    """The same for ``acall``."""

    def __init__(self, engine: FunctionEngine) -> None:
        self.engine = engine

    async def complete(self, request: Request) -> Response:
        return self.engine.complete(request)

    async def stream(self, request: Request) -> AsyncIterator[Any]:
        for event in self.engine.stream(request):
            yield event

    async def aclose(self) -> None: ...


def function_lm(answer: Callable[[str, str], str | BaseException], model: str = "function", **options: Any) -> dspy.LM:
    """A ``dspy.LM`` that answers by ``answer(prompt, last)``; ``options`` as of ``dspy.LM``. It is not cached by default.

    ``.function_engine`` is its :class:`FunctionEngine`.
    """
    engine = FunctionEngine(answer)
    told = {"cache": False, "num_retries": 0, **options}
    lm = dspy.LM(model, engine=engine, async_engine=_AsyncEngine(engine), **told)
    lm.function_engine = engine
    return lm
