"""What pydantic says of a value, in words a model can act on; the same judge for inputs, outputs and typed replies."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from itertools import chain, islice
from types import UnionType
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticUndefinedAnnotation, PydanticUserError

from dszig_py.annotations import type_text
from dszig_py.environments._worker.codec import Opaque
from dszig_py.errors import SignatureError
from dszig_py.previews import brief
from dszig_py.text import truncate
from dszig_py.typetree import types_within, values_within

__all__ = ["PLAIN_TYPES", "adapter", "check_cost", "coerce", "is_plain", "judged"]

_MAX_TRIES = 1_000_000  # members of unions tried on values: each that does not fit is an error of 600 bytes
_MAX_SAME_HASH = 1_000
PLAIN_TYPES = (str, int, float, bool, bytes, type(None))


def coerce(tp: Any, value: Any, context: Mapping[str, Any] | None = None) -> Any:
    """``value`` as pydantic reads it for ``tp``, ``context`` being for validators. Raises ``ValueError`` with a message a
    model can act on.
    """
    if not is_plain(tp) and (found := _find_opaque(value)) is not None:
        where, opaque = found
        at = f" at {where}" if where else ""
        raise ValueError(
            f"a {opaque.type_name}{at} cannot be submitted ({opaque.text}); submit data (text, numbers, lists, dicts)"
        )
    check_cost(tp, value)
    return judged(adapter(tp), value, context)


def check_cost(tp: Any, value: Any) -> None:
    """Raise ``ValueError`` for what pydantic would judge for minutes, or fill this machine's memory with errors about:
    both the value, and for a child the type as well, are chosen by code that nobody vouches for.
    """
    if not isinstance(value, (Mapping, list, tuple, set, frozenset)):
        return
    parts = list(types_within(tp))
    members = sum(len(get_args(part)) for part in parts if get_origin(part) in (Union, UnionType))
    most = _MAX_TRIES // max(members, 1)
    if members > 1 and sum(1 for _ in islice(values_within(value), most + 1)) > most:
        raise ValueError(
            f"over {most:,} values are too many for unions of {members} types; declare fewer, or pass text"
        )
    keys = [key for part in parts if (key := _key_type(part)) is not str]
    if keys and any(_same_hashes(adapter(key), value) for key in keys):
        raise ValueError("too many keys with the same hash")


def _key_type(tp: Any) -> Any:
    """What a set or a mapping finds its items by; of every other type ``str``, which Python hashes with a secret."""
    if (get_origin(tp) or tp) not in (set, frozenset, dict, AbstractSet, Mapping):
        return str
    return (get_args(tp) or (Any,))[0]


def _same_hashes(judge: TypeAdapter[Any], value: Any) -> bool:
    """Whether a collection in ``value`` would take quadratic time to put in a set: as read, since text becomes numbers."""
    for found in values_within(value):
        if not isinstance(found, (Mapping, list, tuple, set, frozenset)) or len(cast("Any", found)) <= _MAX_SAME_HASH:
            continue
        distinct, hashes = set[str](), set[int]()
        for item in cast("Sequence[Any]", found):
            try:
                read = judge.validate_python(item)
                hashes.add(hash(read))
                distinct.add(repr(read))
            except Exception:  # no key, and pydantic says so
                continue
        if len(distinct) - len(hashes) > _MAX_SAME_HASH:
            return True
    return False


def judged(judge: TypeAdapter[Any], value: Any, context: Mapping[str, Any] | None = None) -> Any:
    try:
        return judge.validate_python(value, context=context)
    except ValidationError as error:
        raise ValueError(_told(error)) from None
    except Exception as error:  # a validator of the caller's own may raise anything
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _find_opaque(value: Any) -> tuple[str, Opaque] | None:
    """The first value inside that could not cross, and where it is: a type such as Any would let it through."""
    todo: list[tuple[_Path, Any]] = [(None, value)]
    seen: set[int] = set()
    while todo:
        path, item = todo.pop()
        if isinstance(item, Opaque):
            return _where(path), item
        if id(item) in seen:
            continue
        seen.add(id(item))
        children: Iterable[tuple[Any, Any]] = ()
        if isinstance(item, Mapping):
            pairs = cast("Mapping[Any, Any]", item)
            children = chain(((key, key) for key in pairs), pairs.items())
        elif isinstance(item, (list, tuple, set, frozenset)):
            children = enumerate(cast("Sequence[Any]", item))
        deeper = (Opaque, Mapping, list, tuple, set, frozenset)
        todo += [((path, k), child) for k, child in children if isinstance(child, deeper)]
    return None


_Path = tuple[Any, Any] | None  # of what is above, and the last key: in words for none but the one that is told


def _where(path: _Path) -> str:
    keys: list[str] = []
    while path is not None:
        path, key = path
        keys.append(f"[{brief(key, 40)}]")
    return truncate("".join(reversed(keys)), 200)


def _told(error: ValidationError) -> str:
    told: list[str] = []
    for detail in error.errors(include_url=False)[:5]:
        where = truncate(".".join(str(part) for part in detail["loc"]), 200)
        got = detail.get("input")
        message = truncate(detail["msg"].removeprefix("Value error, "), 1_000)
        told.append(f"{where + ': ' if where else ''}{message} (got {type(got).__name__} {brief(got, 80)})")
    if error.error_count() > 5:
        told.append(f"and {error.error_count() - 5} more")
    return ", ".join(told)


def adapter(tp: Any) -> TypeAdapter[Any]:
    """The pydantic adapter of a type. Raises :class:`SignatureError` for a type pydantic cannot judge."""
    try:
        return _adapter(repr(tp), tp)  # repr too: int | str equals str | int, and pydantic tries them in order
    except TypeError:  # unhashable metadata
        return _adapter.__wrapped__("", tp)


@functools.lru_cache(maxsize=512)
def _adapter(_text: str, tp: Any) -> TypeAdapter[Any]:
    try:
        config = ConfigDict(arbitrary_types_allowed=True)
        made: TypeAdapter[Any] = TypeAdapter(tp, config=config)
    except PydanticUserError as error:
        if error.code == "type-adapter-config-unused":  # a model brings its own configuration
            return _configured(tp)
        raise SignatureError(f"{type_text(tp)} cannot be validated: {error.message}") from error
    except PydanticUndefinedAnnotation as error:
        raise SignatureError(f"{type_text(tp)} cannot be validated: {error.message}") from error
    if not getattr(made, "pydantic_complete", True):  # since pydantic 2.10
        raise SignatureError(f"{type_text(tp)} cannot be validated: it names a class that is not defined")
    return made


def _configured(tp: Any) -> TypeAdapter[Any]:
    try:
        return TypeAdapter(tp)
    except PydanticUserError as error:  # typing's own TypedDict, before Python 3.12
        raise SignatureError(f"{type_text(tp)} cannot be validated: {error.message}") from error


def is_plain(tp: Any) -> bool:
    """Whether a type's name says all there is to it, and judging a value runs no code but pydantic's."""
    origin = get_origin(tp)
    if origin is Literal:
        return True
    if origin in (list, dict, tuple, set, frozenset, Union, UnionType):
        return all(arg is ... or is_plain(arg) for arg in get_args(tp))
    return origin is not Annotated and tp in PLAIN_TYPES
