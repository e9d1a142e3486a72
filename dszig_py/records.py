"""Frozen records as plain JSON-able data, and back by their annotations. Defaults are left out.

Which fields a record has and what their defaults are is worked out once a class: a run of thousands of sub-calls packs
each of them while it goes.
"""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Mapping
from functools import cache
from typing import Any, Literal, cast

from dszig_py.environments._worker import codec

__all__ = ["fields", "number", "of", "pack", "text", "unpack"]

BY_CODEC = ("submission", "outputs")  # fields whose values are the user's own types


def pack(value: Any) -> Any:
    """A record as JSON-able data, defaults left out; outputs and submissions through the codec."""
    kind = value.__class__
    if kind is str:
        return text(value)
    if kind is float:
        return number(value)
    if value is None or kind is bool:
        return value
    if kind is tuple:
        return [pack(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): pack(item) for key, item in cast("Mapping[Any, Any]", value).items()}
    if dataclasses.is_dataclass(value):
        packed: dict[str, Any] = {}
        for name, default in _plan(kind):
            item = getattr(value, name)
            if item is not default and item != default:
                packed[name] = codec.encode(item) if name in BY_CODEC else pack(item)
        return packed
    return codec.encode(value)


def text(value: str) -> Any:
    """A text as JSON can hold it."""
    return value if value.isascii() else codec.encode(value)


def number(value: float) -> Any:
    """A number as JSON can hold it."""
    return value if math.isfinite(value) else codec.encode(value)


@cache
def _plan(tp: type) -> tuple[tuple[str, Any], ...]:
    """Name and default of each field."""
    return tuple(
        (f.name, f.default if f.default_factory is dataclasses.MISSING else f.default_factory())
        for f in dataclasses.fields(tp)
    )


def unpack(tp: Any, data: Any) -> Any:
    """The value behind :func:`pack`'s data, by its annotation. Raises ``ValueError`` where the data is of another type."""
    origin, args = typing.get_origin(tp), typing.get_args(tp)
    if type(None) in args:
        return None if data is None else unpack(args[0], data)
    if dataclasses.is_dataclass(tp):
        return cast("Any", tp)(**fields(cast("type", tp), data))
    if origin is tuple:
        return tuple(unpack(args[0], item) for item in of(list, data))
    if origin is Mapping:
        return {args[0](key): unpack(args[1], item) for key, item in of(dict, data).items()}
    value = codec.decode(data)
    if origin is Literal:
        if value not in args:
            raise ValueError(f"{value!r} is none of {', '.join(args)}")
        return value
    if tp in (int, float) and type(value) in (int, float):
        return float(value) if tp is float else value
    return of(tp, value)


def fields(tp: type, data: Any) -> dict[str, Any]:
    """The fields of a record. Unknown keys are passed over: a later version may have written them."""
    hints = _hints(tp)
    return {
        name: of(dict, codec.decode(item, records=codec.plain_record))
        if name in BY_CODEC and item is not None
        else unpack(hints[name], item)
        for name, item in of(dict, data).items()
        if name in hints
    }


def of(tp: Any, value: Any) -> Any:
    """``value``, which must be exactly of type ``tp``. Raises ``ValueError``."""
    if type(value) is not tp:
        raise ValueError(f"a {tp.__name__} was expected, not a {type(value).__name__}")
    return value


@cache
def _hints(tp: type) -> dict[str, Any]:
    return typing.get_type_hints(tp)
