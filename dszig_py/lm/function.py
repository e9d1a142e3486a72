"""Any ``callable(str) -> str`` as a model, synchronous or not."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, cast

from dszig_py.errors import LMError
from dszig_py.lm.base import Reply, Request, estimated_usage

__all__ = ["FunctionLM"]


class FunctionLM:
    """``function`` gets the prompt as one text and returns the completion.

    It may return a list (the first entry counts, as with ``dspy.LM``), a mapping with ``text``, or an awaitable of
    these. A synchronous one runs in a thread of its own with the caller's context variables; cancelling the call leaves
    that thread to its end. Tokens are estimated, the cost is unknown.
    """

    def __init__(self, function: Callable[[str], Any], *, model: str = "") -> None:
        self._function = function
        self._model = model or str(getattr(function, "__name__", type(function).__name__))
        self._asynchronous = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
            getattr(function, "__call__", None)  # noqa: B004  # not asking whether it is callable
        )

    @property
    def model(self) -> str:
        """The function's name, unless given."""
        return self._model

    def __repr__(self) -> str:
        return f"FunctionLM({self._model})"

    async def complete(self, request: Request) -> Reply:
        """One call. Raises :class:`LMError` (not retryable) where the function fails; its own LMErrors pass through."""
        if request.images:
            raise LMError(f"{self.model} takes text only, no images")
        started = time.perf_counter()
        try:
            text = _text(await self._call(request.prompt))
        except LMError:
            raise
        except Exception as error:
            raise self._failed(error) from error
        return Reply(
            text, estimated_usage(request, text, cost=None, seconds=time.perf_counter() - started), self._model
        )

    async def _call(self, prompt: str) -> Any:
        if self._asynchronous:
            return await self._function(prompt)
        result, error = await _in_thread(self._function, prompt)
        if isinstance(error, LMError):
            raise error
        if error is not None:
            raise self._failed(error) from error
        return await result if inspect.isawaitable(result) else result

    def _failed(self, error: BaseException) -> LMError:
        return LMError(f"{self._model}: {type(error).__name__}: {error}")


async def _in_thread(function: Callable[[str], Any], prompt: str) -> tuple[Any, BaseException | None]:
    """What the function returned or raised; a StopIteration cannot be raised through a coroutine.

    Not a pool: functions that call models themselves would wait for each other's workers.

    How many run at once is limited by whoever calls the model.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[tuple[Any, BaseException | None]] = loop.create_future()
    context = contextvars.copy_context()

    def deliver(outcome: tuple[Any, BaseException | None]) -> None:
        if not future.done():  # the caller may have been cancelled
            future.set_result(outcome)

    def run() -> None:
        try:
            outcome: tuple[Any, BaseException | None] = (context.run(function, prompt), None)
        except BaseException as error:  # SystemExit too: it would end this thread and leave the caller waiting
            outcome = (None, error)
        with suppress(RuntimeError):  # the loop was closed meanwhile
            loop.call_soon_threadsafe(deliver, outcome)

    threading.Thread(target=run, name="dszig-function-lm", daemon=True).start()
    return await future


def _text(result: Any) -> str:
    """The completion in what a function returned. Raises TypeError where there is none."""
    if isinstance(result, str):
        return result
    if isinstance(result, Mapping) and "text" in result:
        return _text(cast("Mapping[str, Any]", result)["text"])
    if isinstance(result, Sequence) and not isinstance(result, bytes | bytearray) and result:
        return _text(cast("Sequence[Any]", result)[0])
    raise TypeError(f"a model returns a str, not {type(cast('object', result)).__name__}")
