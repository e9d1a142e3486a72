"""A ``dspy.LM`` whose engine is a function, with the prompts it was sent."""

from __future__ import annotations

import re
from typing import Any

import dspy
from dspy.lm15 import Message, Response, TextPart, Usage, response_to_events

ACTION = "[[ ## code ## ]]"


class Engine:
    """Answers by ``script(prompt)``; an exception the script returns is raised."""

    def __init__(self, script: Any) -> None:
        self.script = script
        self.prompts: list[str] = []
        self.requests: list[Any] = []

    def __deepcopy__(self, memo: dict[int, Any]) -> Engine:
        return self  # copies of an LM are the same model

    def complete(self, request: Any) -> Response:
        system = request.system if isinstance(request.system, str) else "".join(p.text for p in request.system or ())
        texts = ["".join(getattr(p, "text", "") or f"<{type(p).__name__}>" for p in m.parts) for m in request.messages]
        prompt = "\n\n".join([system, *texts])
        self.prompts.append(prompt)
        self.requests.append(request)
        reply = self.script(prompt, texts[-1])
        if isinstance(reply, BaseException):
            raise reply
        usage = Usage(
            input_tokens=len(prompt) // 4, output_tokens=len(reply) // 4, total_tokens=len(prompt + reply) // 4
        )
        message = Message.assistant([TextPart(reply)])
        return Response(id=None, model="scripted", message=message, finish_reason="stop", usage=usage)

    def stream(self, request: Any) -> Any:
        return response_to_events(self.complete(request))

    def close(self) -> None: ...


class AsyncEngine:
    """The same for ``acall``."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    async def complete(self, request: Any) -> Response:
        return self.engine.complete(request)

    async def stream(self, request: Any) -> Any:
        for event in self.engine.stream(request):
            yield event

    async def aclose(self) -> None: ...


def fields(**values: Any) -> str:
    """A reply as dspy's ChatAdapter reads it."""
    told = "\n\n".join(f"[[ ## {name} ## ]]\n{value}" for name, value in values.items())
    return f"{told}\n\n[[ ## completed ## ]]"


def step(code: str, reasoning: str = "go on") -> str:
    """A decision: one cell."""
    return fields(reasoning=reasoning, code=f"```python\n{code}\n```")


def asked(prompt: str) -> list[str]:
    """The output fields a prompt of dspy's asks for."""
    told = prompt.partition("Your output fields are:")[2].partition("All interactions")[0]  # Chat- and JSONAdapter
    return re.findall(r"^\d+\. `(\w+)`", told, re.M)


def is_action(prompt: str) -> bool:
    """Whether a decision is asked for."""
    return asked(prompt) == ["reasoning", "code"]


def done(last: str) -> int:
    """How many iterations the prompt of a decision shows."""
    return len(re.findall(r"^=== Step \d+ ===", last, re.M))


def lm(script: Any, model: str = "scripted", **options: Any) -> Any:
    """A ``dspy.LM`` that answers by ``script(whole prompt, last message)``; ``lm.engine_.prompts`` is what it was sent."""
    engine = Engine(script)
    made = dspy.LM(
        model, engine=engine, async_engine=AsyncEngine(engine), **{"cache": False, "num_retries": 0, **options}
    )
    made.engine_ = engine
    return made


def steps(*cells: str, sub: Any = "sub", other: Any = None) -> Any:
    """A script: the n-th decision of each run is the n-th cell, the last one repeated; sub-calls give ``sub``."""

    def script(prompt: str, last: str) -> Any:
        if is_action(prompt):
            reply = cells[min(done(last), len(cells) - 1)]
            return (
                reply
                if isinstance(reply, BaseException) or "[[ ##" in reply or reply.startswith("RAW")
                else step(reply)
            )
        if names := asked(prompt):
            return other(prompt) if other else fields(**dict.fromkeys(names, "extracted"))
        return sub(last) if callable(sub) else sub

    return script
