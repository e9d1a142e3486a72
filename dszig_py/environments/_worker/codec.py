r"""Values across the boundary: JSON, plus one tag for what JSON lacks. Standard library only; both sides load this file.

The host never unpickles, so every value is data: plain JSON where it fits, else ``{"~": [kind, ...]}``. ASCII-only
JSON is what keeps lone surrogates intact (``\ud800`` survives ``json`` but not UTF-8). Kinds:

bytes, set, frozenset, tuple, float (nan, inf), int (over 4,300 digits, CPython's text limit), complex, datetime, date,
time, timedelta, decimal, uuid, enum, dict (keys that are not text, or the tag itself), record (a pydantic model, a
dataclass, or another ``Record``), error (an exception as a value), opaque (what cannot cross: its type and repr).
"""

from __future__ import annotations

import base64
import dataclasses
import datetime as dt
import decimal
import enum
import json
import uuid
from typing import Any

TAG = "~"
MAX_DEPTH = 200
_PLAIN = (str, bool, type(None))
_BIG = 1 << 10_000  # below CPython's 4,300 digit limit on int <-> str, which json would run into


class Record:
    """A pydantic model or dataclass by value: attribute and item access, equality, and the repr of its class."""

    def __init__(self, _name: str, _fields: dict[str, Any]) -> None:
        object.__setattr__(self, "_record_name", _name)
        object.__setattr__(self, "_record_fields", _fields)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_record_"):  # copy and pickle look attributes up before __init__ has run
            raise AttributeError(name)
        try:
            return self._record_fields[name]
        except KeyError:
            raise AttributeError(
                f"{self._record_name} has no field {name!r}; it has {list(self._record_fields)}"
            ) from None

    def __setattr__(self, name: str, value: Any) -> None:
        self._record_fields[name] = value

    def __getitem__(self, name: str) -> Any:
        return self._record_fields[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self._record_fields[name] = value

    def __contains__(self, name: object) -> bool:
        return name in self._record_fields

    def __iter__(self) -> Any:
        return iter(self._record_fields)

    def __len__(self) -> int:
        return len(self._record_fields)

    def __dir__(self) -> list[str]:
        return [*object.__dir__(self), *self._record_fields]

    def keys(self) -> Any:
        return self._record_fields.keys()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Record) and (self._record_name, self._record_fields) == (
            other._record_name,
            other._record_fields,
        )

    __hash__ = None  # type: ignore[assignment]  # mutable, like the dict it stands for

    def __repr__(self) -> str:
        return f"{self._record_name}({', '.join(f'{k}={v!r}' for k, v in self._record_fields.items())})"


class SubCallError(RuntimeError):
    """A failed item of a batch, as a value: it prints as what went wrong, and ``isinstance(item, Exception)`` holds."""


SubCallError.__module__ = "builtins"  # a traceback then names it without this file's module


class Opaque:
    """Stands for a value that cannot cross the boundary; no declared type accepts it."""

    def __init__(self, type_name: str, text: str) -> None:
        self.type_name = type_name
        self.text = text

    def __repr__(self) -> str:
        return f"<{self.type_name} cannot leave the REPL: {self.text}>"


def encode(value: Any, depth: int = 0) -> Any:
    """``value`` as JSON-able data; what cannot cross becomes ``opaque`` instead of failing its neighbours."""
    return _encode(value, depth, _opaque)


def encode_strictly(value: Any) -> Any:
    """``value`` as JSON-able data. Raises ``TypeError`` naming the type that cannot cross."""
    return _encode(value, 0, _refuse)


def _opaque(value: Any, why: str) -> list[Any]:
    return ["opaque", type(value).__name__, why or _short(value)]


def _refuse(value: Any, why: str) -> list[Any]:
    raise TypeError(why or f"a {type(value).__module__}.{type(value).__qualname__} cannot be passed by value")


def _encode(value: Any, depth: int, fail: Any) -> Any:
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind is int:
        return value if -_BIG < value < _BIG else {TAG: ["int", hex(value)]}
    if kind is float:
        return value if value - value == 0 else {TAG: ["float", repr(value)]}
    if depth > MAX_DEPTH:
        return {TAG: fail(value, f"nested deeper than {MAX_DEPTH} levels")}
    if kind is list:
        return [_encode(item, depth + 1, fail) for item in value]
    if kind is dict and TAG not in value and all(type(key) is str for key in value):
        return {key: _encode(item, depth + 1, fail) for key, item in value.items()}
    return {TAG: _encode_tagged(value, lambda item: _encode(item, depth + 1, fail), fail)}


def _encode_tagged(value: Any, e: Any, fail: Any) -> list[Any]:
    for types, pack in _PACKERS:
        if isinstance(value, types):
            return pack(value, e)
    fields = _fields_of(value)
    if fields is not None:
        return ["record", type(value).__name__, [[k, e(v)] for k, v in fields.items()]]
    if isinstance(value, BaseException):
        return ["error", f"{value}"]
    return fail(value, "")


def _fields_of(value: Any) -> dict[str, Any] | None:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if hasattr(value, f.name)}
    model_fields = getattr(type(value), "model_fields", None)  # pydantic, without importing it in the worker
    if isinstance(model_fields, dict) and isinstance(getattr(value, "__dict__", None), dict):
        extra = getattr(value, "__pydantic_extra__", None)
        return {**{name: getattr(value, name) for name in model_fields}, **(extra or {})}
    return None


def _record(value: Record, e: Any) -> list[Any]:
    return ["record", value._record_name, [[k, e(v)] for k, v in value._record_fields.items()]]


def _timedelta(value: dt.timedelta, _: Any) -> list[Any]:
    return ["timedelta", value.days, value.seconds, value.microseconds]


# Order matters: a subclass comes before its base (datetime before date, enum before str and int).
_PACKERS: tuple[tuple[Any, Any], ...] = (
    (Record, _record),
    (Opaque, lambda v, e: ["opaque", v.type_name, v.text]),
    (SubCallError, lambda v, e: ["error", str(v)]),
    (enum.Enum, lambda v, e: ["enum", type(v).__name__, v.name, e(v.value)]),
    (str, lambda v, e: ["str", str.__str__(v)]),
    (int, lambda v, e: ["int", hex(int(v))]),
    (float, lambda v, e: ["float", repr(float(v))]),
    (complex, lambda v, e: ["complex", repr(v.real), repr(v.imag)]),
    ((bytes, bytearray, memoryview), lambda v, e: ["bytes", base64.b64encode(bytes(v)).decode("ascii")]),
    (dict, lambda v, e: ["dict", [[e(k), e(x)] for k, x in v.items()]]),
    (frozenset, lambda v, e: ["frozenset", [e(x) for x in v]]),
    ((set, type({}.keys())), lambda v, e: ["set", [e(x) for x in v]]),
    (tuple, lambda v, e: ["tuple", [e(x) for x in v]]),
    ((list, range, type({}.values()), type({}.items())), lambda v, e: ["list", [e(x) for x in v]]),
    (dt.datetime, lambda v, e: ["datetime", v.isoformat(), v.fold]),
    (dt.date, lambda v, e: ["date", v.isoformat()]),
    (dt.time, lambda v, e: ["time", v.isoformat(), v.fold]),
    (dt.timedelta, _timedelta),
    (decimal.Decimal, lambda v, e: ["decimal", str(v)]),
    (uuid.UUID, lambda v, e: ["uuid", str(v)]),
)


def _short(value: Any) -> str:
    try:
        return object.__repr__(value)[:200]
    except Exception:
        return "?"


def decode(data: Any, *, records: Any = Record) -> Any:
    """The value behind :func:`encode`'s data. ``records`` builds a record from (name, fields): the worker makes a
    :class:`Record`, the host a plain ``dict`` for pydantic to validate. Raises ``ValueError`` for an unknown kind.
    """
    kind = type(data)
    if kind is list:
        return [decode(item, records=records) for item in data]
    if kind is not dict:
        return data
    if TAG not in data:
        return {key: decode(item, records=records) for key, item in data.items()}
    body = data[TAG]
    unpack = _UNPACKERS.get(body[0]) if isinstance(body, list) and body and isinstance(body[0], str) else None
    if unpack is None or len(data) != 1:
        raise ValueError("unknown kind of value in a frame")
    return unpack(body, records)


def _many(body: list[Any], records: Any) -> list[Any]:
    return [decode(item, records=records) for item in body[1]]


def _pairs(items: Any, records: Any) -> dict[Any, Any]:
    return {decode(k, records=records): decode(v, records=records) for k, v in items}


_UNPACKERS: dict[str, Any] = {
    "record": lambda b, r: r(str(b[1]), _pairs(b[2], r)),
    "error": lambda b, r: SubCallError(str(b[1])),
    "enum": lambda b, r: decode(b[3], records=r),
    "str": lambda b, r: str(b[1]),
    "int": lambda b, r: int(b[1], 16),
    "float": lambda b, r: float(b[1]),
    "complex": lambda b, r: complex(float(b[1]), float(b[2])),
    "bytes": lambda b, r: base64.b64decode(b[1]),
    "dict": lambda b, r: _pairs(b[1], r),
    "frozenset": lambda b, r: frozenset(_many(b, r)),
    "set": lambda b, r: set(_many(b, r)),
    "tuple": lambda b, r: tuple(_many(b, r)),
    "list": _many,
    "datetime": lambda b, r: dt.datetime.fromisoformat(b[1]).replace(fold=b[2]),
    "date": lambda b, r: dt.date.fromisoformat(b[1]),
    "time": lambda b, r: dt.time.fromisoformat(b[1]).replace(fold=b[2]),
    "timedelta": lambda b, r: dt.timedelta(b[1], b[2], b[3]),
    "decimal": lambda b, r: decimal.Decimal(b[1]),
    "uuid": lambda b, r: uuid.UUID(b[1]),
    "opaque": lambda b, r: Opaque(str(b[1]), str(b[2])),
}


def plain_record(_name: str, fields: dict[str, Any]) -> dict[str, Any]:
    """The host's reading of a record: its fields, for pydantic to judge."""
    return fields


def dumps(value: Any) -> bytes:
    """``value`` (already encoded) as one JSON text, ASCII only."""
    return json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode("ascii")


def loads(data: bytes) -> Any:
    """JSON back; ``ValueError`` for whatever is not JSON, too deep or over-long numbers included."""
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("nested too deeply") from None
