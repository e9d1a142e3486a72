"""What dspy's own RLM needs to run beside ours: one of our sessions as its interpreter, one of our models as its LM.

So both are measured with the same boundary, model, retries and account. dspy's class is synchronous inside: it runs in a
thread, and whatever it asks for happens on the evaluation's event loop.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import re
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import anyio
import anyio.to_thread
import dspy
from dspy.primitives.code_interpreter import CodeExecutionError, FinalOutput

from dszig_py.contract import Contract
from dszig_py.environments.base import CallRefused, CellLimits, Environment, Session
from dszig_py.errors import LMError
from dszig_py.lm.base import LM, Message, Reply, Request, estimated_usage
from dszig_py.lm.gate import Gate
from dszig_py.usage import Exhausted, Ledger

__all__ = ["Engine", "Loop", "SessionInterpreter"]


class Loop:
    """The way from threads to the event loop it is made on, until it is closed: who waits then is told so."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waited: set[Any] = set()
        self._closed = False

    def wait(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """The result of ``coroutine``, run on the loop."""
        if self._closed:
            coroutine.close()
            raise dspy.LMError("the run is over")
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        self._waited.add(future)
        try:
            return future.result()
        finally:
            self._waited.discard(future)

    def close(self) -> None:
        """Cancel what is waited for."""
        self._closed = True
        for future in list(self._waited):
            future.cancel()


class Engine:
    """One of our models as an engine of ``dspy.LM``. ``ended``: by what it would answer no more."""

    def __init__(self, lm: LM, ledger: Ledger, gate: Gate, loop: Loop) -> None:
        self._lm = _ReaderOfDspy(lm) if hasattr(lm, "label") else lm
        self._ledger, self._gate, self._loop = ledger, gate, loop
        self.ended: Exhausted | LMError | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Engine:
        return self  # copies of an LM are the same model

    def complete(self, request: dspy.lm15.Request) -> dspy.lm15.Response:
        """One reply, reserved and settled in the ledger. Raises ``dspy.LMError``."""
        try:
            text = self._loop.wait(self._ask(_request(request)))
        except (Exhausted, LMError) as error:
            self.ended = error
            raise dspy.LMError(str(error)) from error
        message = dspy.lm15.Message.assistant([dspy.lm15.TextPart(text)])
        usage = dspy.lm15.Usage(input_tokens=0, output_tokens=0, total_tokens=0)  # the ledger has them
        return dspy.lm15.Response(id=None, model=self._lm.model, message=message, finish_reason="stop", usage=usage)

    async def _ask(self, request: Request) -> str:
        # Not counted as calls from inside code: dspy's class counts those itself.
        return (await self._gate.ask(self._lm, request, self._ledger, inner=False)).text

    def stream(self, request: dspy.lm15.Request) -> Any:
        """The reply in one piece."""
        return dspy.lm15.response_to_events(self.complete(request))

    def close(self) -> None:
        """Nothing to close."""


def _request(request: Any) -> Request:
    system = request.system if isinstance(request.system, str) else "".join(p.text for p in request.system or ())
    said = [Message(m.role, "".join(getattr(p, "text", "") or "" for p in m.parts)) for m in request.messages]
    return Request((*([Message("system", system)] if system else []), *said))


class _ReaderOfDspy:
    """The suite's fake model (``ReaderLM``), which reads our prompts alone, at dspy's: told as ours are, paid as they are."""

    def __init__(self, reader: Any) -> None:
        self._reader = reader
        self.model, self.price = reader.model, reader.price

    async def complete(self, request: Request) -> Reply:
        decision = _as_decision(request)
        if decision is None:
            return await self._reader.complete(request)
        said, _, code = (await self._reader.complete(decision)).text.partition("```python")
        text = f"[[ ## reasoning ## ]]\n{said.strip()}\n\n[[ ## code ## ]]\n```python{code}\n\n[[ ## completed ## ]]"
        usage = estimated_usage(request, text, cost=None, seconds=0.0)
        cost = usage.input_tokens * self.price[0] + usage.output_tokens * self.price[1]
        return Reply(text, estimated_usage(request, text, cost=cost, seconds=0.0), self.model, "stop")


def _as_decision(request: Request) -> Request | None:
    """A prompt of dspy's for a decision, as one of ours: its question, and what was shown. ``None`` for any other prompt."""
    shown = request.messages[-1].content
    if "[[ ## repl_history ## ]]" not in shown or "`[[ ## code ## ]]`" not in shown:
        return None
    question = re.search(r"Variable: `question`.*?Preview:\n\s*```\n\s*(.*?)\n\s*```", shown, re.DOTALL)
    asked = question[1] if question else ""
    contract = f"  question: str\n     {asked!r}\n\nllm_query_batched(prompts)\n\nFinish with SUBMIT(answer)."
    history = shown.partition("[[ ## repl_history ## ]]")[2].rpartition("[[ ## iteration ## ]]")[0]
    outputs = re.findall(r"^Output[^\n]*:\n(.*?)(?=^=== Step |\Z)", history, re.DOTALL | re.MULTILINE)
    told = [m for output in outputs for m in (Message("assistant", "..."), Message("user", output))]
    return Request((Message("system", ""), Message("user", contract), *told))


class SessionInterpreter:
    """One of our sessions as a ``dspy.CodeInterpreter``. The inputs of ``contract`` are bound once, not at each execution."""

    def __init__(
        self, environment: Environment, contract: Contract, loop: Loop, limiter: anyio.CapacityLimiter
    ) -> None:
        self.tools: dict[str, Callable[..., Any]] = {}
        self.output_fields: list[dict[str, Any]] = []
        self._environment, self._contract = environment, contract
        self._loop, self._limiter = loop, limiter
        self._session: Session | None = None
        self._context = contextvars.copy_context()

    def start(self) -> None:
        """Nothing yet: the tools are known with the first execution."""

    def execute(self, code: str, variables: dict[str, Any] | None = None) -> Any:
        """Run one cell. Raises ``CodeExecutionError``, and ``CodeInterpreterError`` where the worker was lost."""
        bound = {v.name for v in self._contract.variables}
        own = [f"{name} = {value!r}" for name, value in (variables or {}).items() if name not in bound]
        self._context = contextvars.copy_context()
        execution = self._loop.wait(self._execute("\n".join([*own, code])))
        if execution.submission is not None:
            return FinalOutput(dict(execution.submission))
        if execution.lost:
            raise dspy.CodeInterpreterError(execution.lost)
        if execution.error:
            raise CodeExecutionError(execution.error)
        return "\n".join(part for part in (execution.stdout, execution.value) if part) or None

    def shutdown(self) -> None:
        """The session is closed by whoever has made this, on the loop."""

    async def _execute(self, code: str) -> Any:
        if self._session is None:
            self._session = await self._environment.open(self._contract, self, CellLimits(output_chars=1_000_000))
        return await self._session.execute(code)

    async def aclose(self) -> None:
        """End the session."""
        if self._session is not None:
            await self._session.close()

    @property
    def functions(self) -> Mapping[str, str]:
        """As the host of the session: dspy's tools."""
        return {name: tool.__doc__ or name for name, tool in self.tools.items()}

    async def call(self, name: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
        """One call of a tool, in a thread, in the context the cell was run in."""
        call = functools.partial(self._context.copy().run, self.tools[name], *args, **kwargs)
        try:
            return await anyio.to_thread.run_sync(call, limiter=self._limiter, abandon_on_cancel=True)
        except Exception as error:  # whatever a tool raises is the cell's to see
            raise CallRefused(f"{type(error).__name__}: {error}") from error

    async def submit(self, args: list[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
        """The outputs as they are: dspy's class judges them itself."""
        names = [one["name"] for one in self.output_fields]
        if len(args) > len(names):
            raise CallRefused(f"SUBMIT takes {', '.join(names)}", "TypeError")
        return {**dict(zip(names, args, strict=False)), **kwargs}
