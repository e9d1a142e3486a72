"""The caller's own functions, callable from inside the REPL: shown with types and docstring, arguments checked by pydantic."""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

from pydantic import ConfigDict, ValidationError, validate_call
from pydantic.errors import PydanticUserError

from dszig_py.annotations import type_text

__all__ = ["Tool"]


@dataclass(frozen=True)
class Tool:
    """One tool: its name in the REPL, the callable, and what the contract says of it."""

    name: str
    function: Callable[..., Any] = field(repr=False)
    signature: str = ""
    doc: str = ""

    @classmethod
    def of(cls, name: str, function: Callable[..., Any]) -> Tool:
        """A tool as its signature and docstring describe it."""
        return cls(name, function, f"{name}{_signature_text(function)}", (inspect.getdoc(function) or "").strip())

    @property
    def is_async(self) -> bool:
        return inspect.iscoroutinefunction(_with_types(_called(self.function)))

    def checked(self) -> Callable[..., Any]:
        """The callable with its arguments read by pydantic: a dict becomes the declared model, "3" an int.

        Arguments that do not fit raise ``TypeError`` before the tool runs.
        """
        try:
            check: Callable[..., Any] = validate_call(config=ConfigDict(arbitrary_types_allowed=True))(
                _with_types(_called(self.function))
            )
        except (
            PydanticUserError,
            NameError,
            TypeError,
            KeyError,
        ):  # annotations that pydantic cannot read: as Python calls it
            return self.function

        def call(*args: Any, **kwargs: Any) -> Any:
            try:
                return check(*args, **kwargs)
            except ValidationError as error:
                raise self._misfit(check, error) from None

        async def call_async(*args: Any, **kwargs: Any) -> Any:
            try:
                return await check(*args, **kwargs)  # where pydantic looks at the arguments of an async function
            except ValidationError as error:
                raise self._misfit(check, error) from None

        return call_async if self.is_async else call

    def _misfit(self, check: Callable[..., Any], error: ValidationError) -> Exception:
        """What to raise: the tool may have met a validation error of its own, which stays as it is."""
        return error if error.title != _title(check) else TypeError(_told(self.signature, error))


def _called(function: Any) -> Callable[..., Any]:
    """Of an object that can be called, its method: the object itself tells pydantic no types, and not whether it is async."""
    plain = inspect.isroutine(function) or inspect.isclass(function) or isinstance(function, functools.partial)
    return cast("Callable[..., Any]", function if plain else function.__call__)


def _with_types(function: Callable[..., Any]) -> Callable[..., Any]:
    """A copy whose annotations are types, not text: pydantic looks names up in ``sys.modules``, where they may not be."""
    if not inspect.isfunction(function):
        return function
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except Exception:  # a name that is not there at run time: as Python itself, which would not mind
        return function
    copy = types.FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, function.__closure__
    )
    copy.__dict__.update(function.__dict__)  # a decorated function's signature is found by __wrapped__
    copy.__kwdefaults__, copy.__annotations__ = function.__kwdefaults__, hints
    copy.__module__, copy.__qualname__ = function.__module__, function.__qualname__
    return copy


def _title(function: Callable[..., Any]) -> str:
    return cast("str", getattr(function, "__qualname__", ""))


def _told(signature: str, error: ValidationError) -> str:
    problems = [f"{'.'.join(map(str, d['loc']))}: {d['msg']}" for d in error.errors(include_url=False)[:5]]
    return f"the arguments do not fit {signature}: {'; '.join(problems)}"


def _signature_text(function: Callable[..., Any]) -> str:
    """The call as the model should write it, types as signatures write them."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return "(...)"
    try:
        hints = typing.get_type_hints(function)
    except Exception:  # annotations that name what is not there at run time: shown as written
        hints = {name: p.annotation for name, p in signature.parameters.items()}
    parts = [_parameter_text(p, hints) for p in signature.parameters.values()]
    returns = hints.get("return", signature.return_annotation)
    arrow = "" if returns is inspect.Signature.empty else f" -> {_annotation_text(returns)}"
    return f"({', '.join(parts)}){arrow}"


def _parameter_text(parameter: inspect.Parameter, hints: dict[str, Any]) -> str:
    stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
    text = stars + parameter.name
    hint = hints.get(parameter.name, inspect.Parameter.empty)
    if hint is not inspect.Parameter.empty:
        text += f": {_annotation_text(hint)}"
    if parameter.default is not inspect.Parameter.empty:
        text += f" = {parameter.default!r}"
    return text


def _annotation_text(hint: Any) -> str:
    return hint if isinstance(hint, str) else type_text(hint)
