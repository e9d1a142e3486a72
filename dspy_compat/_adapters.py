"""What dspy calls by other names: its language models, tools and usage records as ours."""

from __future__ import annotations

import functools
import inspect
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import anyio
import anyio.to_thread
import dspy

from dszig_py.annotations import type_text
from dszig_py.errors import LMError
from dszig_py.lm.base import Reply, Request, estimated_usage
from dszig_py.tools import Tool
from dszig_py.usage import Usage

__all__ = ["CallRecorder", "DspyLM", "in_thread", "own_tool", "provider_failed"]


class CallRecorder:
    """Stands among ``settings.caller_modules`` for one call, so that dspy tells it of each LM call made in there.

    A predictor's own ``history`` would not do: concurrent runs share it. It stands in for the usage tracker as well, and
    passes on what it hears: dspy tells a tracker of paid calls only, and marks a cache hit nowhere else.
    """

    def __init__(self) -> None:
        self.history: list[Mapping[str, Any]] = []
        self.paid: list[Mapping[str, Any]] = []
        self._tracker: Any = None

    def context(self) -> Any:
        """The dspy context in which calls are recorded here besides wherever they are recorded anyway."""
        self._tracker = dspy.settings.usage_tracker
        return dspy.context(caller_modules=[*(dspy.settings.caller_modules or []), self], usage_tracker=self)

    def add_usage(self, lm: str, usage_entry: dict[str, Any]) -> None:
        self.paid.append(usage_entry)
        if self._tracker is not None:
            self._tracker.add_usage(lm, usage_entry)

    def __deepcopy__(self, memo: dict[int, Any]) -> CallRecorder:
        return self  # dspy copies trackers for its threads; their calls belong to this call all the same

    def usage(self, seconds: float, request: Request, text: str) -> Usage:
        """What the calls took, by their providers' word; estimated where none reported tokens. A cache hit is free."""
        return sum((_usage_of(entry, request, text) for entry in self.calls()), Usage(seconds=seconds))

    def calls(self) -> list[Mapping[str, Any]]:
        """The calls that were paid for: not the cache hits, which are those without usage that no tracker heard of."""
        hits = len(self.history) - len(self.paid)
        found: list[Mapping[str, Any]] = []
        for entry in self.history or [{"usage": usage} for usage in self.paid]:
            if hits > 0 and not entry.get("usage"):
                hits -= 1
            else:
                found.append(entry)
        return found


def _usage_of(entry: Mapping[str, Any], request: Request, text: str) -> Usage:
    told: Mapping[str, Any] = entry.get("usage") or {}
    tokens_in, tokens_out, cost = told.get("prompt_tokens"), told.get("completion_tokens"), entry.get("cost")
    if not tokens_in and not tokens_out:
        return estimated_usage(request, text, cost=cost, seconds=0.0)
    return Usage(1, int(tokens_in or 0), int(tokens_out or 0), cost, 0.0)


class DspyLM:
    """A ``dspy.LM``, or any callable dspy.RLM takes as ``sub_lm``, as one of our models.

    ``source`` gives the LM when it is asked for, so that ``set_lm`` and ``dspy.context`` are heeded. dspy retries and
    caches on its own; nothing is added here.
    """

    def __init__(self, source: Callable[[], Any], limiter: anyio.CapacityLimiter) -> None:
        self._source = source
        self._limiter = limiter

    @property
    def raw(self) -> Any:
        """The dspy object itself."""
        return self._source()

    @property
    def model(self) -> str:
        return str(getattr(self.raw, "model", None) or type(self.raw).__name__)

    async def price_known(self) -> bool:
        """Whether LiteLLM's price list has the model."""
        from dszig_py.lm.litellm import known_price

        return await anyio.to_thread.run_sync(known_price, self.model, limiter=self._limiter)

    async def complete(self, request: Request) -> Reply:
        """One text completion. Raises :class:`LMError`, never retryable: dspy has tried again already."""
        lm = self.raw
        if lm is None:
            raise LMError("no LM is configured: dspy.configure(lm=...), set_lm, or sub_lm=")
        recorder = CallRecorder()
        started = time.perf_counter()
        try:
            with recorder.context():
                answer = await self._answer(lm, request)
        except Exception as error:  # a sub_lm is anybody's code
            raise LMError(f"{type(error).__name__}: {error}") from error
        text = _text_of(answer)
        seconds = time.perf_counter() - started
        usage = recorder.usage(seconds, request, text)
        if not recorder.history and not recorder.paid:  # no LM of dspy's: a callable, or history is switched off
            usage = estimated_usage(request, text, cost=None, seconds=seconds)
        # Not told as cached: a hit counts as a call, so that "sub-calls left" reads the same and the next prompt hits too.
        return Reply(text, usage, self.model)

    async def _answer(self, lm: Any, request: Request) -> Any:
        if request.images:
            return await self._seen(lm, request)
        if not isinstance(lm, dspy.BaseLM):
            return await in_thread(self._limiter, lm, request.prompt)
        if _has_own_async(lm):
            return await lm.acall(request.prompt)
        return await in_thread(self._limiter, lm, request.prompt)

    async def _seen(self, lm: Any, request: Request) -> Any:
        """With images the prompt goes through a predictor, whose adapter knows how each provider takes them."""
        predictor = dspy.Predict("prompt: str, images: list[dspy.Image] -> reply: str")
        images = [dspy.Image(url) for url in request.images]
        with dspy.context(lm=lm, trace=[]):
            answered = await in_thread(self._limiter, predictor, prompt=request.prompt, images=images)
        return [answered.reply]


def provider_failed(error: BaseException) -> bool:
    """Whether an exception comes out of a model's call: dspy's own kinds, and whatever an LM of anybody's make raises.

    By its traceback, since dspy lets the latter through as it is. Rejected: calling every exception of a decision the
    provider's, which would make outcomes of bugs in adapters and in what stands for a predictor.
    """
    if isinstance(error, dspy.LMError):
        return True
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    return any(isinstance(frame.f_locals.get("self"), dspy.BaseLM) for frame in frames)


def _has_own_async(lm: Any) -> bool:
    """Whether ``acall`` really awaits: a legacy LM that only defines ``forward``, or an engine of the sync kind only, must
    run in a thread.
    """
    engine, async_engine = getattr(lm, "_engine_spec", None), getattr(lm, "_async_engine_spec", None)
    return isinstance(lm, dspy.LM) and (isinstance(engine, str) or async_engine is not None)


async def in_thread(limiter: anyio.CapacityLimiter, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Run blocking code of dspy's in a thread, in this context; anyio copies contextvars over."""
    return await anyio.to_thread.run_sync(lambda: function(*args, **kwargs), limiter=limiter, abandon_on_cancel=True)


def _text_of(answer: Any) -> str:
    if isinstance(answer, dspy.lm15.Response):
        return answer.text or ""
    first = answer[0] if isinstance(answer, list) and answer else answer
    text = first.get("text") if isinstance(first, Mapping) else first
    if not isinstance(text, str):
        raise LMError(f"the LM answered with a {type(answer).__name__}, not with text")
    return text


def own_tool(name: str, tool: Any) -> Tool:
    """A ``dspy.Tool`` as one of ours. Where its function takes ``**kwargs`` and its ``args`` say which, as of MCP and
    LangChain tools, the contract has those, and dspy alone judges them.
    """
    declared = _declared(tool)
    function = _tool_function(tool, declared)
    made = Tool.of(name, function)
    if declared is None:
        return made
    function.__signature__ = inspect.Signature(
        [
            inspect.Parameter("args", inspect.Parameter.VAR_POSITIONAL),
            inspect.Parameter("kwargs", inspect.Parameter.VAR_KEYWORD),
        ]
    )
    told = [_parameter(arg, schema, (tool.arg_types or {}).get(arg, Any)) for arg, schema in declared.items()]
    return replace(made, signature=f"{name}({', '.join(told)})")


def _declared(tool: Any) -> dict[str, Any] | None:
    """The parameters that only the tool's ``args`` tell of."""
    try:
        own = inspect.signature(tool.func).parameters
    except (TypeError, ValueError):  # of a builtin
        return None
    args: dict[str, Any] = tool.args or {}
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in own.values())
    return args if takes_any and not set(args) <= set(own) else None


def _parameter(name: str, schema: Mapping[str, Any], tp: Any) -> str:
    kind = schema.get("type", "") if tp is Any else type_text(tp)
    default = f" = {schema['default']!r}" if "default" in schema else ""
    return f"{name}{f': {kind}' if isinstance(kind, str) and kind else ''}{default}"


def _tool_function(tool: Any, declared: Mapping[str, Any] | None) -> Callable[..., Any]:
    """A plain function of the tool's signature; dspy's coercion and callbacks stay in place."""
    function = tool.func

    def named(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        if not args:
            return kwargs
        if declared is None:
            return dict(inspect.signature(function).bind_partial(*args).arguments) | kwargs
        if len(args) > len(declared):
            raise TypeError(f"{tool.name} takes {', '.join(declared)}")
        return dict(zip(declared, args, strict=False)) | kwargs

    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None)):  # noqa: B004 whether calling it awaits

        async def call_async(*args: Any, **kwargs: Any) -> Any:
            return await tool.acall(**named(args, kwargs))

        call: Callable[..., Any] = call_async
    else:

        def call_sync(*args: Any, **kwargs: Any) -> Any:
            return tool(**named(args, kwargs))

        call = call_sync
    functools.update_wrapper(call, function)  # inspect.signature and get_type_hints find the tool's own
    call.__name__ = call.__qualname__ = tool.name
    call.__doc__ = tool.desc or function.__doc__
    return call
