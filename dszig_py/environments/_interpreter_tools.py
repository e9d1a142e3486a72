"""What crosses to a DSPy interpreter: inputs as data, and the host's callables as functions it can look at and call."""

from __future__ import annotations

import ast
import inspect
import math
from collections.abc import Callable
from typing import Any, cast

from pydantic_core import PydanticSerializationError, to_jsonable_python

from dszig_py.environments._worker import typed
from dszig_py.errors import InputError

__all__ = ["as_data", "own_tools", "tool"]

_PLAIN = (str, int, bool, type(None))


def as_data(name: str, value: Any) -> Any:
    """A value as JSON can hold it. Raises :class:`InputError` naming the input."""
    if type(value) in _PLAIN:
        return value
    try:
        return _finite(to_jsonable_python(value, bytes_mode="base64"))
    except (PydanticSerializationError, ValueError) as error:
        raise InputError(f"input {name!r}: a DSPy interpreter takes data that JSON can hold: {error}") from None


def _answer(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        value = [f"[ERROR] {item}" if isinstance(item, Exception) else item for item in cast("list[Any]", value)]
    return value if type(value) in _PLAIN else _finite(to_jsonable_python(value, fallback=str))


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: they are text."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        return [_finite(item) for item in cast("list[Any]", value)]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def tool(ask: Callable[[str, Any, Any], Any], name: str, text: str) -> Callable[..., Any]:
    """A function that asks the host, with the parameters that ``text`` shows: interpreters look at those."""

    def stub(*args: Any, **kwargs: Any) -> Any:
        return _answer(ask(name, args, kwargs))

    signature = _signature(text)
    if signature is not None:
        stub.__signature__ = signature  # type: ignore[attr-defined]  # pyright: ignore[reportFunctionMemberAccess]
    return stub


def _signature(text: str) -> inspect.Signature | None:
    """The parameters of ``"name(a: int, b=1) -> str"`` without their types; ``None`` where that is no Python."""
    try:
        (function,) = ast.parse(f"def {text}: ...").body
        assert isinstance(function, ast.FunctionDef)
        function.returns, function.decorator_list = None, []
        arguments = function.args
        for one in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
            one.annotation = None
        found: dict[str, Any] = {}
        defaults = [*arguments.defaults, *(d for d in arguments.kw_defaults if d is not None)]
        if not all(isinstance(default, ast.Constant) for default in defaults):
            return None
        exec(compile(ast.fix_missing_locations(ast.Module([function], [])), "<tool>", "exec"), {}, found)  # noqa: S102
        return inspect.signature(found[function.name])
    except (SyntaxError, ValueError, AssertionError):
        return None


def own_tools(ask: Callable[[str, Any, Any], Any], previews: dict[str, str]) -> dict[str, Callable[..., Any]]:
    """The host's own callables, with parameters that an interpreter can pass by name."""
    calls = typed.TypedCalls(ask, {})

    def option(lm: str | None) -> dict[str, Any]:
        return {} if lm is None else {"lm": lm}

    def llm_query(prompt: str, lm: str | None = None, images: list[Any] | None = None) -> Any:
        more = {} if images is None else {"images": images}
        return _answer(ask("llm_query", [prompt], {**option(lm), **more}))

    def llm_query_batched(prompts: list[str], lm: str | None = None) -> Any:
        return _answer(ask("llm_query_batched", [prompts], option(lm)))

    def predict(signature: str, inputs: dict[str, Any] | None = None, lm: str | None = None, **named: Any) -> Any:
        return _answer(calls.one("predict", signature, {**(inputs or {}), **named}, option(lm)))

    def predict_batched(signature: str, inputs: list[Any], lm: str | None = None) -> Any:
        return _answer(calls.predict_batched(signature, inputs, lm=lm))

    def rlm_query(signature: str, inputs: dict[str, Any] | None = None, **named: Any) -> Any:
        return _answer(calls.one("rlm_query", signature, {**(inputs or {}), **named}, {}))

    def rlm_query_batched(signature: Any, inputs: list[Any] | None = None) -> Any:
        return _answer(calls.rlm_query_batched(signature, inputs))

    def show_vars() -> dict[str, str]:  # of the inputs: what the interpreter holds besides cannot be asked
        return previews

    own = (llm_query, llm_query_batched, predict, predict_batched, rlm_query, rlm_query_batched)
    return {**{function.__name__: function for function in own}, "SHOW_VARS": show_vars}
