"""What the code in a REPL can call: sub-queries, tools, the budget. Every call is recorded and paid for here.

The code inside chooses prompts and names of models; never a base URL, a key, a header or a limit.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import anyio
import anyio.to_thread

from dszig_py import prompts
from dszig_py.contract import Contract, SubmissionRefused
from dszig_py.environments._worker.codec import SubCallError
from dszig_py.environments.base import CallRefused
from dszig_py.errors import LMError
from dszig_py.events import Event, SubCallFinished, SubCallStarted
from dszig_py.lm.base import LM, Request
from dszig_py.lm.gate import Gate
from dszig_py.text import truncate
from dszig_py.trajectory import SubCall
from dszig_py.usage import Exhausted, Ledger

__all__ = ["RunHost"]

PROMPT_KEPT = 2_000  # characters of a sub-call's prompt kept in the trajectory


@dataclass(eq=False)
class RunHost:
    """The host side of one run. ``lms``: models code may name. ``publish`` takes events and never raises."""

    run: str
    ledger: Ledger
    gate: Gate
    sub_lm: LM
    lms: Mapping[str, LM]
    tools: Mapping[str, Callable[..., Any]]
    publish: Callable[[Event], None]
    sub_calls_allowed: bool = True
    contract: Contract | None = None
    _calls: list[SubCall] = field(default_factory=list[SubCall])
    _count: int = 0
    _started: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        # Blocking callables get a limiter of their own: a tool that calls a sync RLM must not wait for itself.
        self._threads = anyio.CapacityLimiter(max(self.ledger.budget.max_concurrency, 1))
        own: dict[str, Callable[..., Awaitable[Any]]] = {"budget": self._budget}
        if self.sub_calls_allowed:
            own |= {"llm_query": self._llm_query, "llm_query_batched": self._llm_query_batched}
        self._own = own

    @property
    def functions(self) -> dict[str, str]:
        """Name -> documentation of what the REPL gets besides SUBMIT."""
        return {name: ": ".join((signature, doc)) for name, signature, doc in self.callables()}

    def callables(self) -> list[tuple[str, str, str]]:
        """(name, signature, documentation), for the contract."""
        own = [(n, *prompts.CALLABLES[n]) for n in prompts.CALLABLES if n in self._own or n == "SHOW_VARS"]
        return [*own, *((n, *_describe(n, tool)) for n, tool in self.tools.items())]

    def take_sub_calls(self) -> tuple[SubCall, ...]:
        """The sub-calls recorded since this was last called."""
        taken, self._calls = self._calls, []
        return tuple(taken)

    async def call(self, name: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
        """One call from inside. Raises :class:`CallRefused`, which the cell sees at the line of the call."""
        function = self._own.get(name)
        if function is None:
            if name not in self.tools:
                raise CallRefused(f"{name} is not available here", "NameError")
            return await self._tool(name, args, kwargs)
        try:
            bound = inspect.signature(function).bind(*args, **kwargs)
        except TypeError as error:
            raise CallRefused(f"{name}: {error}. Call {prompts.CALLABLES[name][0]}", "TypeError") from None
        return await function(*bound.args, **bound.kwargs)

    async def submit(self, args: list[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Judge a submission while the code waits, off the event loop where that may take long."""
        assert self.contract is not None
        try:
            if self.contract.off_loop(kwargs, args):
                return await self._in_thread(self.contract.validate, args, kwargs)
            return self.contract.validate(args, kwargs)
        except SubmissionRefused as refusal:
            raise CallRefused(str(refusal), "ValueError") from None

    async def _llm_query(self, prompt: str, lm: str | None = None) -> str:
        call = self._begin("llm_query", prompt)
        return await self._ask(call, prompt, self._named(lm))

    async def _llm_query_batched(self, prompts: list[str], lm: str | None = None) -> list[Any]:
        if isinstance(prompts, str) or not isinstance(prompts, Sequence):
            raise CallRefused("llm_query_batched takes a list of texts", "TypeError")
        model, batch = self._named(lm), self._new_id()
        answers: list[Any] = [None] * len(prompts)

        async def one(index: int, prompt: Any) -> None:
            call = replace(self._begin("llm_query", prompt), batch=batch, index=index)
            try:
                answers[index] = await self._ask(call, prompt, model)
            except CallRefused as refusal:
                answers[index] = SubCallError(str(refusal))

        async with anyio.create_task_group() as group:
            for index, prompt in enumerate(prompts):
                group.start_soon(one, index, prompt)
        return answers

    def _named(self, name: str | None) -> LM:
        if name is None:
            return self.sub_lm
        if name not in self.lms:
            known = ", ".join(repr(n) for n in self.lms) or "none are configured"
            raise CallRefused(f"there is no model named {name!r}; known: {known}", "ValueError")
        return self.lms[name]

    async def _ask(self, call: SubCall, prompt: Any, lm: LM) -> str:
        if not isinstance(prompt, str):
            error = f"{call.kind} takes text, not {type(prompt).__name__}"
            self._end(call, error=error)
            raise CallRefused(error, "TypeError")
        try:
            reply = await self.gate.ask(lm, Request.of(_encodable(prompt)), self.ledger, inner=True)
        except Exhausted as limit:
            self._end(call, error=str(limit))
            raise CallRefused(f"{limit}; SUBMIT what you have") from None
        except LMError as error:
            self._end(call, error=str(error), model=lm.model)
            raise CallRefused(f"{call.kind} failed: {error}") from error
        self._end(call, reply=reply.text, model=reply.model or lm.model, usage=reply.usage, cached=reply.cached)
        return reply.text

    async def _budget(self) -> dict[str, Any]:
        left = self.ledger.remaining()
        return {
            "iterations": left.iters,
            "llm_calls": left.llm_calls,
            "tokens": left.tokens,
            "cost": left.cost,
            "seconds": left.seconds,
            "depth": left.depth,
        }

    async def _tool(self, name: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
        tool = self.tools[name]
        call = self._begin("tool", f"{name}({', '.join([*map(repr, args), *(f'{k}={v!r}' for k, v in kwargs.items())])})")
        try:
            if inspect.iscoroutinefunction(tool):
                result = await tool(*args, **kwargs)
            else:
                result = await self._in_thread(tool, *args, **kwargs)
                if inspect.isawaitable(result):
                    result = await result
        except Exception as error:  # the tool is the caller's: its failure is told to the model, not raised past it
            text = f"{name} failed: {type(error).__name__}: {error}"
            self._end(call, error=text)
            raise CallRefused(text) from error
        self._end(call, reply=truncate(repr(result), PROMPT_KEPT))
        return result

    async def _in_thread(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return await anyio.to_thread.run_sync(
            lambda: function(*args, **kwargs), limiter=self._threads, abandon_on_cancel=True
        )

    def _new_id(self) -> str:
        self._count += 1
        return f"{self.run}.{self._count}"

    def _begin(self, kind: str, prompt: Any) -> SubCall:
        text = prompt if isinstance(prompt, str) else repr(type(prompt))
        call = SubCall(
            self._new_id(),
            kind,
            truncate(text, PROMPT_KEPT),
            len(text),
            started=time.monotonic() - self._started,
        )
        self.publish(SubCallStarted(self.run, self.ledger.depth, call.id, kind))
        return call

    def _end(self, call: SubCall, **what: Any) -> None:
        done = replace(call, seconds=time.monotonic() - self._started - call.started, **what)
        self._calls.append(done)
        self.publish(SubCallFinished(self.run, self.ledger.depth, done))


def _encodable(text: str) -> str:
    """Lone surrogates replaced: providers take UTF-8."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def _describe(name: str, tool: Callable[..., Any]) -> tuple[str, str]:
    try:
        signature = str(inspect.signature(tool))
    except (TypeError, ValueError):
        signature = "(...)"
    return f"{name}{signature}", (inspect.getdoc(tool) or "").strip()
