"""Values of the `repl` language: texts, and data as JSON has it, which stays data until it is joined, shown or sent."""

from __future__ import annotations

import json
from itertools import islice
from types import UnionType
from typing import Any, Union, cast, get_args, get_origin

from pydantic_core import PydanticSerializationError, to_jsonable_python

from dszig_py.environments._script.grammar import Part, ScriptError
from dszig_py.errors import InputError

__all__ = ["as_data", "as_output", "size", "taken", "text"]

_OVERHEAD = 16  # characters that a value counts for besides its text


def as_data(name: str, value: Any) -> Any:
    """An input as text or JSON data. Raises :class:`InputError` naming it."""
    if isinstance(value, str):
        return value
    try:
        return to_jsonable_python(value, bytes_mode="base64", inf_nan_mode="strings")
    except (PydanticSerializationError, ValueError, RecursionError) as error:
        raise InputError(f"input {name!r}: a script takes text and data that JSON can hold: {error}") from None


def text(value: Any) -> str:
    """A value as it is joined, shown and sent. A list of texts is numbered, as zigrlm does with a batch's answers."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value:
        items = cast("list[Any]", value)
        if all(isinstance(item, str) for item in items):
            return "\n".join(f"[{index}]\n{item}\n" for index, item in enumerate(items))
    try:
        return json.dumps(value, ensure_ascii=False)
    except (ValueError, RecursionError) as error:
        raise ScriptError(f"the value cannot be written as text: {error}", "ValueError") from None


def size(value: Any, most: int) -> int:
    """About how many characters :func:`text` gives, counted no further than ``most``."""
    total, todo = 0, [value]
    while todo and total <= most:
        item = todo.pop()
        total += _OVERHEAD
        if isinstance(item, str):
            total += len(item)
        elif isinstance(item, dict):
            pairs = cast("dict[str, Any]", item)
            todo.extend(islice(pairs.keys(), most))
            todo.extend(islice(pairs.values(), most))
        elif isinstance(item, list):
            todo.extend(cast("list[Any]", item)[:most])
    return total


def taken(value: Any, part: Part) -> Any:
    """``value[part]``. Raises :class:`ScriptError` for what is not there."""
    if not isinstance(value, (str, list, dict)):
        raise ScriptError(f"a {type(value).__name__} has no items", "TypeError")
    held = cast("Any", value)
    try:
        return held[slice(part.start, part.stop) if part.is_slice and not isinstance(value, dict) else part.key]
    except KeyError:
        names = ", ".join(islice(held, 20))
        raise ScriptError(f"there is no item {part.key!r}; there are {names:.200}", "KeyError") from None
    except IndexError:
        raise ScriptError(f"there is no item {part.key}; it has {len(held)}", "IndexError") from None
    except TypeError:
        wanted = "a name in quotes" if isinstance(value, dict) else "a number"
        raise ScriptError(f"an item of this variable is named by {wanted}", "TypeError") from None


def as_output(tp: Any, value: Any) -> Any:
    """``value`` as an output of type ``tp`` takes it best: text for text, data for data, JSON text for data as well.

    Only a choice of form: whether it fits is for the contract to say. Numbers stay text, which pydantic reads.
    """
    if _takes_text(tp):
        return value if tp is Any or isinstance(value, str) else text(value)
    if not isinstance(value, str):
        return value
    try:
        read = json.loads(value)
    except (ValueError, RecursionError):
        return value
    return cast("Any", read) if read is None or isinstance(read, (dict, list)) else value


def _takes_text(tp: Any) -> bool:
    if get_origin(tp) in (Union, UnionType):
        return any(arg is str for arg in get_args(tp))
    return tp in (str, bytes, Any)
