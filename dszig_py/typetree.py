"""The types that a type is made of: arguments of generics, and fields of classes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, cast, get_args, get_type_hints

__all__ = ["types_within", "values_within"]


def types_within(tp: Any) -> Iterator[Any]:
    """``tp`` and every type in it, each once: also those of the fields of pydantic models, dataclasses, typed dicts and
    named tuples. A class that says by itself how it is judged (``__get_pydantic_core_schema__``) has no fields here.
    """
    todo, seen = [tp], list[Any]()  # a type need not be hashable
    while todo:
        found = todo.pop()
        if any(found is one for one in seen):
            continue
        seen.append(found)
        yield found
        todo += [*get_args(found), *_fields(found)]


def _fields(tp: Any) -> list[Any]:
    if not isinstance(tp, type) or tp.__module__ == "builtins":
        return []
    made = cast("Any", tp)
    if isinstance(fields := getattr(made, "model_fields", None), Mapping):
        return [field.annotation for field in cast("Mapping[str, Any]", fields).values()]
    own = hasattr(made, "__get_pydantic_core_schema__")
    if own or not (dataclasses.is_dataclass(made) or hasattr(made, "_fields") or hasattr(made, "__total__")):
        return []
    try:
        return list(get_type_hints(made).values())
    except (NameError, TypeError, AttributeError):  # a name that is not defined where the class is
        return [hint for hint in vars(made).get("__annotations__", {}).values() if not isinstance(hint, str)]


def values_within(value: Any) -> Iterator[Any]:
    """``value`` and every value in it, in order: items of collections, fields of such classes. No depth is too much."""
    todo = [value]
    while todo:
        found = todo.pop()
        yield found
        todo.extend(reversed(_items(found)))


def _items(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return list(cast("Mapping[Any, Any]", value).values())
    if isinstance(value, (list, tuple, set, frozenset)):
        return list(cast("list[Any]", value))
    if isinstance(value, type):
        return []
    if dataclasses.is_dataclass(value):
        return [getattr(value, field.name) for field in dataclasses.fields(value)]
    if isinstance(getattr(cast("Any", type(value)), "model_fields", None), Mapping):
        return list(cast("dict[str, Any]", vars(value)).values())
    return []
