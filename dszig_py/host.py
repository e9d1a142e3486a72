"""What the code in a REPL can call: sub-queries, typed predictions, child runs, tools, the budget.

Every call is recorded and paid for here. The code inside chooses prompts, signatures and names of models; never a base
URL, a key, a header or a limit. Child runs come from a ``spawn`` the runner hands in, so nothing imports upward.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

import anyio
import anyio.to_thread

from dszig_py import pictures, prompts, typed
from dszig_py.annotations import type_text
from dszig_py.calls import PROMPT_KEPT, Calls, OpenCall, contained
from dszig_py.contract import Contract, SubmissionRefused
from dszig_py.environments._worker.codec import SubCallError
from dszig_py.environments.base import CallRefused
from dszig_py.errors import DszigError, LMError, ReplayMismatch, SignatureError
from dszig_py.events import Event
from dszig_py.lm.base import LM, Message, Reply, Request, sees_images
from dszig_py.lm.gate import Gate
from dszig_py.outputs import Outbox, TooLate
from dszig_py.previews import brief
from dszig_py.signature import Signature
from dszig_py.trajectory import Prediction
from dszig_py.usage import Exhausted, Ledger
from dszig_py.validation import check_cost

if TYPE_CHECKING:
    from dszig_py.tools import Tool

__all__ = ["RunHost", "Spawn"]

TYPED_ATTEMPTS = 3  # model calls one predict() may take where replies do not fit

# What an empty reply comes of, by its finish: code that gets "" takes it for an answer.
_NO_ANSWER = {
    "length": "all its tokens went into reasoning (or max_tokens is too small)",
    "content_filter": "the provider filtered it",
    "tool_calls": "the model called a tool instead",
}

Spawn = Callable[[Signature, Mapping[str, Any], str], Awaitable[Prediction]]


@dataclass(eq=False)
class RunHost:
    """The host side of one run. ``lms``: models code may name. ``publish`` takes events and never raises."""

    run: str
    ledger: Ledger
    gate: Gate
    sub_lm: LM
    lms: Mapping[str, LM]
    tools: Mapping[str, Tool]
    publish: Callable[[Event], None]
    spawn: Spawn
    sub_calls_allowed: bool = True
    images: Mapping[str, str] = field(default_factory=dict[str, str])
    contract: Contract | None = None
    max_query_chars: int | None = None
    outbox: Outbox | None = None

    def __post_init__(self) -> None:
        self.calls = Calls(self.run, self.ledger, self.publish)

    @functools.cached_property
    def _threads(self) -> anyio.CapacityLimiter:
        """Blocking callables get a limiter of their own at each level: sixty sync tools that each call a sync RLM would
        wait for themselves on a shared one.
        """
        return anyio.CapacityLimiter(self.ledger.budget.max_concurrency)

    def _is_here(self, name: str) -> bool:
        return name in _OWN and (self.sub_calls_allowed or name == "budget")

    @property
    def functions(self) -> dict[str, str]:
        """Name -> documentation of what the REPL gets besides SUBMIT."""
        return {name: f"{signature}: {doc}" for name, signature, doc in self.callables()}

    def callables(self) -> list[tuple[str, str, str]]:
        """(name, signature, documentation), for the contract."""
        own = [told for told in _TOLD if self._is_here(told[0]) or told[0] == "SHOW_VARS"]
        return [*own, *((t.name, t.signature, t.doc) for t in self.tools.values())]

    async def call(self, name: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
        """One call from inside. Raises :class:`CallRefused`, which the cell sees at the line of the call."""
        if name in self.tools:
            return await contained(name, self._tool(self.tools[name], args, kwargs))
        if not self._is_here(name):
            raise CallRefused(f"{name} is not available here", "NameError")
        function, signature = _OWN[name]
        try:
            bound = signature.bind(self, *args, **kwargs)
        except TypeError as error:
            raise CallRefused(f"{name}: {error}. Call {prompts.CALLABLES[name][0]}", "TypeError") from None
        return await contained(name, function(*bound.args, **bound.kwargs))

    async def submit(self, args: list[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Judge a submission while the code waits, off the event loop where that may take long."""
        assert self.contract is not None
        judge = self.contract.validate
        try:
            if self.outbox is not None:
                return await self.outbox.first(lambda files: self._in_thread(judge, args, kwargs, files))
            if self.contract.off_loop(kwargs, args):
                return await self._in_thread(judge, args, kwargs)
            return judge(args, kwargs)
        except (SubmissionRefused, TooLate) as refusal:
            raise CallRefused(str(refusal), "ValueError") from None

    async def extracted(self, raw: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
        """What the closing reply gives, and what is wrong with it; files are copied, and checks asked, off the event loop."""
        assert self.contract is not None
        if self.outbox is not None:
            self.outbox.reopen()
        elif self.contract.check is None:
            return self.contract.extracted(raw)
        return await self._in_thread(self.contract.extracted, raw, self.outbox)

    async def _llm_query(self, prompt: Any, lm: str | None = None, images: Any = None) -> str:
        return await self._query(prompt, self._named(lm), "", 0, self._pictures(images))

    async def _llm_query_batched(self, prompts: Any, lm: str | None = None) -> list[Any]:
        model = self._named(lm)
        return await self._batch("llm_query_batched", prompts, lambda p, batch, i: self._query(p, model, batch, i))

    def _pictures(self, given: Any) -> tuple[str, ...]:
        return pictures.urls(given, self._known)

    @functools.cached_property
    def _known(self) -> dict[str, str]:
        assert self.contract is not None
        inputs = {v.name: v.value for v in self.contract.variables}
        return pictures.known(self.contract.signature, inputs, self.images)

    async def _query(self, prompt: Any, lm: LM, batch: str, index: int, images: tuple[str, ...] = ()) -> str:
        with self._recorded("llm_query", pictures.told(prompt, images), batch, index) as call:
            if not isinstance(prompt, str):
                raise CallRefused(f"llm_query takes text, not {type(prompt).__name__}", "TypeError")
            if not prompt:
                raise CallRefused("llm_query: the prompt is empty", "ValueError")
            if self.max_query_chars is not None and len(prompt) > self.max_query_chars:
                told = f"the prompt has {len(prompt):,} characters, at most {self.max_query_chars:,} are allowed"
                raise CallRefused(f"llm_query: {told}; split it and use llm_query_batched", "ValueError")
            request = Request((Message("user", _encodable(prompt)),), images=images)
            reply = await self._ask(call, request, lm)
            if reply.finish in _NO_ANSWER and not reply.text.strip():
                raise CallRefused(f"llm_query: the reply is empty, {_NO_ANSWER[reply.finish]}")
            return reply.text

    async def _predict(
        self, signature: Any, inputs: dict[str, Any], classes: Any = None, lm: str | None = None, error: str = ""
    ) -> Any:
        task = self._task(signature, classes)
        return await self._typed(task, inputs, self._named(lm), "", 0, error)

    async def _predict_batched(
        self, signature: Any, inputs: Any, classes: Any = None, lm: str | None = None
    ) -> list[Any]:
        task, model = self._task(signature, classes), self._named(lm)
        return await self._batch(
            "predict_batched", inputs, lambda one, batch, i: self._typed(task, one, model, batch, i, "")
        )

    async def _typed(self, task: typed.Task, inputs: Any, lm: LM, batch: str, index: int, error: str) -> dict[str, Any]:
        """One typed prediction, asked again with the error while the reply does not fit."""
        signature = task.signature
        given, images = pictures.apart(signature, self._inputs_of(signature, inputs))
        shown = pictures.told(f"{signature}\n{brief(given, PROMPT_KEPT)}", images)
        with self._recorded("predict", shown, batch, index) as call:
            request = prompts.typed_request(signature, _texts(given), task.schema, images)
            for _ in range(TYPED_ATTEMPTS):
                asked = prompts.typed_again(request, error) if error else request
                reply = await self._ask(call, asked, lm)
                try:
                    return _typed_answer(signature, typed.read(signature, reply.text))
                except typed.BadReply as bad:
                    error = str(bad)
            raise CallRefused(f"predict failed after {TYPED_ATTEMPTS} replies: {error}", "ValueError")

    async def _rlm_query(self, signature: Any, inputs: dict[str, Any], classes: Any = None, error: str = "") -> Any:
        return await self._child(signature, inputs, classes, "", 0, error)

    async def _rlm_query_batched(self, signature: Any, inputs: Any = None, classes: Any = None) -> list[Any]:
        if inputs is None:
            return await self._batch(
                "rlm_query_batched", signature, lambda p, batch, i: self._child(p, {}, classes, batch, i, "")
            )
        return await self._batch(
            "rlm_query_batched", inputs, lambda one, batch, i: self._child(signature, one, classes, batch, i, "")
        )

    async def _child(
        self, signature: Any, inputs: Any, classes: Any, batch: str, index: int, error: str
    ) -> dict[str, Any] | str:
        """A child run; at the bottom of the tree one typed prediction (or one query) in its place."""
        is_prompt = isinstance(inputs, dict) and not inputs
        if self.ledger.remaining().depth == 0:
            if is_prompt:
                return await self._query(signature, self.sub_lm, batch, index)
            return await self._typed(self._task(signature, classes), inputs, self.sub_lm, batch, index, error)
        if is_prompt:
            if not isinstance(signature, str):
                raise CallRefused(
                    f"rlm_query takes a prompt or a signature, not {type(signature).__name__}", "TypeError"
                )
            parsed, given = prompts.CHILD_OF_PROMPT, {"prompt": signature}
        else:
            parsed = self._task(signature, classes).signature
            given = self._inputs_of(parsed, inputs)
        with self._recorded("rlm_query", f"{signature}\n{brief(given, PROMPT_KEPT)}", batch, index) as call:
            outputs = await self._spawned(call, parsed, given, error)
        return outputs["answer"] if is_prompt else _typed_answer(parsed, outputs)

    async def _spawned(
        self, call: OpenCall, signature: Signature, inputs: Mapping[str, Any], error: str
    ) -> dict[str, Any]:
        if error:
            signature = replace(signature, instructions=prompts.again(error))
        try:
            prediction = await self.spawn(signature, inputs, call.done.id)
        except ReplayMismatch:
            raise
        except BaseException as failure:
            ended: Prediction | None = getattr(failure, "prediction", None)  # a cancelled child has one too
            if ended is not None:
                call.note(trajectory=ended.trajectory, usage=ended.usage, model=ended.trajectory.model)
            if isinstance(failure, DszigError):
                raise CallRefused(f"rlm_query failed: {failure}") from failure
            raise
        trajectory = prediction.trajectory
        call.note(
            trajectory=trajectory,
            usage=prediction.usage,
            model=trajectory.model,
            reply=brief(prediction.outputs, PROMPT_KEPT),
        )
        why = prediction.termination
        if why.kind != "submitted" and any(value is None for value in prediction.outputs.values()):
            raise CallRefused(f"rlm_query ended without an answer: {why.kind}: {why.detail}")
        return prediction.outputs

    def _task(self, signature: Any, classes: Any) -> typed.Task:
        try:
            return typed.Task.of(signature, cast("dict[str, Any]", classes) if isinstance(classes, dict) else {})
        except SignatureError as error:
            raise CallRefused(str(error), "ValueError") from None

    def _named(self, name: str | None) -> LM:
        if name is None:
            return self.sub_lm
        if name not in self.lms:
            known = ", ".join(repr(n) for n in self.lms) or "none are configured"
            raise CallRefused(f"there is no model named {name!r}; known: {known}", "ValueError")
        return self.lms[name]

    async def _batch(self, name: str, items: Any, one: Callable[[Any, str, int], Awaitable[Any]]) -> list[Any]:
        """As many items at once as the tree allows, answers in order; a failed one is an error object, the others stay."""
        if not isinstance(items, (list, tuple)):
            raise CallRefused(f"{name} takes a list, not {type(items).__name__}", "TypeError")
        asked = cast("Sequence[Any]", items)
        batch = self.calls.new_id()
        self.calls.sizes[batch] = len(asked)
        answers: list[Any] = [None] * len(asked)
        waiting = iter(enumerate(asked))

        async def work() -> None:
            for index, item in waiting:
                try:
                    answers[index] = await contained(name, one(item, batch, index))
                except CallRefused as refusal:
                    answers[index] = SubCallError(str(refusal))
                except DszigError:
                    raise
                except Exception as error:  # a model's or a tool's own code: its item fails, not the others
                    answers[index] = SubCallError(f"{name} failed in the host: {type(error).__name__}: {error}")

        try:
            async with asyncio.TaskGroup() as group:  # anyio's keeps another thirteen objects a task
                # More tasks than the tree has slots would only wait there: a thousand at once cost a third more CPU a
                # call (the collector walks them all), and a thousand children a thousand workers.
                for _ in range(min(len(asked), self.ledger.budget.max_concurrency)):
                    group.create_task(work())
        except* DszigError as failures:  # a replay that no longer matches ends the run, as itself
            raise failures.exceptions[0] from None
        finally:
            del self.calls.sizes[batch]
        return answers

    async def _ask(self, call: OpenCall, request: Request, lm: LM) -> Reply:
        if request.images and await sees_images(lm) is False:
            call.note(model=lm.model)
            raise CallRefused(f"{lm.model} does not see images; ask one that does, or about text", "ValueError")
        try:
            reply = await self.gate.ask(lm, request, self.ledger, inner=True)
        except Exhausted as limit:
            raise CallRefused(f"{limit}; SUBMIT what you have") from None
        except LMError as error:
            call.note(model=lm.model)
            raise CallRefused(f"{call.done.kind} failed: {error}") from error
        usage = call.done.usage + reply.usage
        call.note(reply=reply.text, model=reply.model or lm.model, usage=usage, cached=reply.cached)
        return reply

    def _inputs_of(self, signature: Signature, inputs: Any) -> dict[str, Any]:
        return pictures.of_code(signature, _inputs_of(signature, inputs), self._known)

    async def _budget(self) -> dict[str, Any]:
        return prompts.budget(self.ledger.remaining())

    async def _tool(self, tool: Tool, args: list[Any], kwargs: dict[str, Any]) -> Any:
        shown = ", ".join([*(brief(a, 200) for a in args), *(f"{k}={brief(v, 200)}" for k, v in kwargs.items())])
        with self._recorded("tool", f"{tool.name}({shown})", "", 0) as call:
            function = tool.checked()
            try:
                result = (
                    await function(*args, **kwargs) if tool.is_async else await self._blocking(function, args, kwargs)
                )
            except Exception as error:  # the tool is the caller's: its failure is told to the model, not raised past it
                kind = "TypeError" if isinstance(error, TypeError) else "RuntimeError"
                raise CallRefused(f"{tool.name} failed: {type(error).__name__}: {error}", kind) from error
            call.note(reply=brief(result, PROMPT_KEPT))
            return result

    async def _blocking(self, function: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]) -> Any:
        result = await self._in_thread(function, *args, **kwargs)
        return await result if inspect.isawaitable(result) else result

    async def _in_thread(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return await anyio.to_thread.run_sync(
            lambda: function(*args, **kwargs), limiter=self._threads, abandon_on_cancel=True
        )

    def _recorded(self, kind: str, prompt: Any, batch: str, index: int) -> OpenCall:
        return self.calls.recorded(kind, prompt, batch, index)


_TOLD = [(name, *told) for name, told in prompts.CALLABLES.items()]
# Of the class and not bound: seven methods a run that know it would keep it until a garbage collection.
_OWN: dict[str, tuple[Callable[..., Awaitable[Any]], inspect.Signature]] = {
    name: (function, inspect.signature(function))
    for name in (
        "budget",
        "llm_query",
        "llm_query_batched",
        "predict",
        "predict_batched",
        "rlm_query",
        "rlm_query_batched",
    )
    for function in (getattr(RunHost, f"_{name}"),)
}


def _inputs_of(signature: Signature, inputs: Any) -> dict[str, Any]:
    names = [f.name for f in signature.inputs]
    if not isinstance(inputs, dict):
        raise CallRefused(f"the inputs are a dict with {', '.join(names)}, not {type(inputs).__name__}", "TypeError")
    given = cast("dict[str, Any]", inputs)
    wrong = [f"missing: {n}" for n in names if n not in given] + [f"not in it: {n}" for n in given if n not in names]
    if wrong:
        raise CallRefused(f"the inputs do not fit {str(signature)!r}: {'; '.join(wrong)}", "TypeError")
    for f in signature.inputs:
        try:
            check_cost(f.type, given[f.name])
        except ValueError as error:
            raise CallRefused(f"{f.name}: {error}", "ValueError") from None
    return given


def _typed_answer(signature: Signature, outputs: dict[str, Any]) -> dict[str, Any]:
    """Outputs with their types as text: where a type is a class of the cell, the worker builds the instance."""
    return {"outputs": outputs, "types": {f.name: type_text(f.type) for f in signature.outputs}}


def _texts(inputs: Mapping[str, Any]) -> dict[str, str]:
    return {name: _encodable(typed.value_text(value)) for name, value in inputs.items()}


def _encodable(text: str) -> str:
    """Lone surrogates replaced: providers take UTF-8."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")
