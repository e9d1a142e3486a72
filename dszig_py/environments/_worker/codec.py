r"""Values across the boundary: JSON, plus one tag for what JSON lacks. Standard library only; both sides load this file.

The host never unpickles, so every value is data: plain JSON where it fits, else ``{"~": [kind, ...]}``. ASCII-only
JSON is what keeps lone surrogates intact (``\ud800`` survives ``json`` but not UTF-8). Kinds:

str (two surrogates that JSON would join to one character), bytes, set, frozenset, tuple, float (nan, inf), int (over
4,300 digits, CPython's text limit), complex, datetime, date, time, timedelta, decimal, uuid, enum, dict (keys that are
not text, or the tag itself), record (a pydantic model, a dataclass, or another ``Record``), error (an exception as a
value), opaque (what cannot cross: its type and why).

Subclasses of builtins cross as the builtin. Records are mutable and cannot be hashed: a set of them arrives as a list, a
dict with them as keys as a list of pairs.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime as dt
import decimal
import enum
import json
import pathlib
import re
import uuid
from typing import Any

TAG = "~"
MAX_DEPTH = 100  # one level takes up to four of JSON's and five of the stack's, and both are bounded at about 1,000
_BIG = 1 << 10_000  # below CPython's 4,300 digit limit on int <-> str, which json would run into
# Beyond these, turning one kind of number into another (int to Decimal, Decimal to int) takes from seconds to hours and
# never lets go of the GIL: one short text would stop the host.
_WIDEST = 1 << 200_000
_MAX_DIGITS = 10_000
MAX_VALUES = 500_000  # json reads and writes that many in a fifth of a second, and lets nobody else run meanwhile
_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[\[{,]', re.DOTALL)
_MAX_SAME_HASH = 1_000
_BETWEEN_HALVES = re.compile("(?<=[\ud800-\udbff])(?=[\udc00-\udfff])")
_ADDRESS = re.compile(" at 0x[0-9a-fA-F]+")


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
        return f"{self._record_name}({', '.join(f'{k}={_shown(v)}' for k, v in self._record_fields.items())})"


def _shown(value: Any) -> str:
    """A field's value; of bytes, such as an image's, the first few and how many there are."""
    if isinstance(value, (bytes, bytearray)) and len(value) > 100:
        return f"{bytes(value[:20])!r}... ({len(value):,} bytes)"
    return repr(value)


class SubCallError(RuntimeError):
    """A failed item of a batch, as a value: it prints as what went wrong, and ``isinstance(item, Exception)`` holds."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SubCallError) and self.args == other.args

    def __hash__(self) -> int:
        return hash(self.args)


SubCallError.__module__ = "builtins"  # a traceback then names it without this file's module


class Opaque:
    """Stands for a value that cannot cross the boundary; no declared type accepts it."""

    def __init__(self, type_name: str, text: str) -> None:
        self.type_name = type_name
        self.text = text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Opaque) and (self.type_name, self.text) == (other.type_name, other.text)

    def __hash__(self) -> int:
        return hash((self.type_name, self.text))

    def __repr__(self) -> str:
        return f"<{self.type_name} cannot leave the REPL: {self.text}>"


class _CannotCross(TypeError):
    """What :func:`encode_strictly` raises; a type of its own, so that a value's own TypeError is told from it."""


def encode(value: Any) -> Any:
    """``value`` as JSON-able data; what cannot cross becomes ``opaque`` instead of failing its neighbours."""
    return _Encoder(_opaque).one(value)


def encode_strictly(value: Any) -> Any:
    """``value`` as JSON-able data. Raises ``TypeError`` naming the type that cannot cross."""
    return _Encoder(_refuse).one(value)


def _opaque(value: Any, why: str) -> list[Any]:
    if not why and issubclass(type(value), pathlib.PurePath):  # what code gives is its text; an input may mean the file
        return ["str", *_BETWEEN_HALVES.split(pathlib.PurePath.__str__(value))]
    return ["opaque", type(value).__name__, why or _way_out(value) or _short(value)]


def _way_out(value: Any) -> str:
    """How the code makes data of an array or a table."""
    if isinstance(told := getattr(type(value), "_way_out", None), str):  # a File, a Folder, a Text
        return told
    ways = [name for name in ("tolist", "to_dict") if hasattr(type(value), name)]
    return f"its .{ways[0]}() can" if ways else ""


def _refuse(value: Any, why: str) -> list[Any]:
    what = f"a {type(value).__module__}.{type(value).__qualname__} cannot be passed by value"
    raise _CannotCross(f"{what}: {why}" if why else what)


class _Encoder:
    """One encoding. ``path`` holds the ids of the containers around the value at hand: its depth, and what would be a cycle."""

    __slots__ = ("fail", "path")

    def __init__(self, fail: Any) -> None:
        self.fail = fail
        self.path: set[int] = set()

    def one(self, value: Any) -> Any:
        kind = type(value)
        if kind is str:
            return value if value.isascii() else _text(value)
        if kind is bool or value is None:
            return value
        if kind is int:
            if -_BIG < value < _BIG:
                return value
            return {TAG: ["int", hex(value)] if -_WIDEST < value < _WIDEST else self.fail(value, "over 60,000 digits")}
        if kind is float:
            return value if value - value == 0 else {TAG: ["float", repr(value)]}
        if id(value) in self.path:
            return {TAG: self.fail(value, "it contains itself")}
        if len(self.path) >= MAX_DEPTH:
            return {TAG: self.fail(value, f"nested deeper than {MAX_DEPTH} levels")}
        self.path.add(id(value))
        try:
            return self.many(value)
        except (_CannotCross, MemoryError):
            raise
        except Exception as error:  # the value's own code ran: a property, an iterator, a __str__
            return {TAG: self.fail(value, f"reading it raised {type(error).__name__}")}
        finally:
            self.path.discard(id(value))

    def many(self, value: Any) -> Any:
        """A value that is no plain scalar."""
        if isinstance(value, dict):
            if TAG not in value and all(type(key) is str and (key.isascii() or not _has_pair(key)) for key in value):
                return {key: self.one(item) for key, item in value.items()}
            return {TAG: ["dict", [[self.one(key), self.one(item)] for key, item in value.items()]]}
        if isinstance(value, _LISTS):
            return [self.one(item) for item in value]
        if isinstance(value, enum.Enum):
            return {TAG: ["enum", type(value).__name__, value.name, self.one(value.value)]}
        for types, name in _COLLECTIONS:
            if isinstance(value, types):
                return {TAG: [name, [self.one(item) for item in value]]}
        for types, scalar in _SUBCLASSED:
            if isinstance(value, types):
                return self.one(scalar(value))
        for types, pack in _PACKERS:
            if isinstance(value, types):
                return {TAG: pack(value)}
        if getattr(type(value), "__pydantic_root_model__", False):
            return self.one(value.root)
        fields = fields_of(value)
        if fields is None:
            plain = _scalar(value)
            return {TAG: self.fail(value, "")} if plain is value else self.one(plain)
        name = value._record_name if isinstance(value, Record) else type(value).__name__
        return {TAG: ["record", name, [[key, self.one(item)] for key, item in fields.items()]]}


def _scalar(value: Any) -> Any:
    """The number, flag or date in one of NumPy's scalars; anything else as it is."""
    if getattr(value, "shape", None) != () or not hasattr(value, "item"):
        return value
    plain = value.item()
    return value if type(plain) is type(value) else plain


def _has_pair(text: str) -> bool:
    try:
        text.encode()  # far faster than the pattern, and succeeds for all but odd text
    except UnicodeEncodeError:
        return _BETWEEN_HALVES.search(text) is not None
    return False


def _text(value: str) -> Any:
    return {TAG: ["str", *_BETWEEN_HALVES.split(value)]} if _has_pair(value) else value


def fields_of(value: Any) -> dict[str, Any] | None:
    """Name -> value of a record's fields (``Record``, dataclass, pydantic model); ``None`` for anything else."""
    if isinstance(value, Record):
        return value._record_fields
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if hasattr(value, f.name)}
    model_fields = getattr(type(value), "model_fields", None)  # pydantic, without importing it in the worker
    if isinstance(model_fields, dict) and isinstance(getattr(value, "__dict__", None), dict):
        extra = getattr(value, "__pydantic_extra__", None)
        return {**{name: getattr(value, name) for name in model_fields if hasattr(value, name)}, **(extra or {})}
    return None


_LISTS = (list, range, type({}.values()), type({}.items()))
_COLLECTIONS: tuple[tuple[Any, str], ...] = (
    (tuple, "tuple"),
    (frozenset, "frozenset"),
    ((set, type({}.keys())), "set"),
)
# A subclass's own methods are passed over: what crosses is what the builtin inside it holds.
_SUBCLASSED: tuple[tuple[Any, Any], ...] = ((str, str.__str__), (int, int.__int__), (float, float.__float__))
# Order matters: datetime before date, its base.
_PACKERS: tuple[tuple[Any, Any], ...] = (
    (Opaque, lambda v: ["opaque", v.type_name, v.text]),
    (BaseException, lambda v: ["error", f"{v}"]),
    (complex, lambda v: ["complex", repr(v.real), repr(v.imag)]),
    ((bytes, bytearray, memoryview), lambda v: ["bytes", base64.b64encode(bytes(v)).decode("ascii")]),
    (dt.datetime, lambda v: ["datetime", *_moment(dt.datetime, v)]),
    (dt.date, lambda v: ["date", dt.date.isoformat(v)]),
    (dt.time, lambda v: ["time", *_moment(dt.time, v)]),
    (dt.timedelta, lambda v: ["timedelta", v.days, v.seconds, v.microseconds]),
    (decimal.Decimal, lambda v: ["decimal", str(_decimal(str(v)))]),
    (uuid.UUID, lambda v: ["uuid", str(v)]),
)


def _moment(kind: Any, value: Any) -> list[Any]:
    """Text and fold; an offset under a second, which ``fromisoformat`` reads as none, in microseconds beside it."""
    offset = value.utcoffset()
    if offset and abs(offset) < dt.timedelta(seconds=1):
        return [kind.isoformat(value.replace(tzinfo=None)), value.fold, offset // dt.timedelta(microseconds=1)]
    return [kind.isoformat(value), value.fold]


def _of_moment(kind: Any, text: str, fold: int, offset: int | None = None) -> Any:
    found = kind.fromisoformat(text).replace(fold=fold)
    return found if offset is None else found.replace(tzinfo=dt.timezone(dt.timedelta(microseconds=offset)))


def _short(value: Any) -> str:
    try:
        return _ADDRESS.sub("", object.__repr__(value))[:200]  # an address would differ from run to run
    except Exception:
        return "?"


def decode(data: Any, *, records: Any = Record) -> Any:
    """The value behind :func:`encode`'s data. ``records`` builds a record from (name, fields): the worker makes a
    :class:`Record`, the host a plain ``dict`` for pydantic to validate. Raises ``ValueError``, and nothing else, for
    whatever :func:`encode` does not make.
    """
    try:
        return _decode(data, records)
    except (TypeError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
        raise ValueError(f"malformed value in a frame: {error}") from None


def _decode(data: Any, records: Any) -> Any:
    kind = type(data)
    if kind is list:
        return [_decode(item, records) for item in data]
    if kind is not dict:
        return data
    if TAG not in data:
        return {key: _decode(item, records) for key, item in data.items()}
    body = data[TAG]
    unpack = _UNPACKERS.get(body[0]) if isinstance(body, list) and body and isinstance(body[0], str) else None
    if unpack is None or len(data) != 1:
        raise ValueError("unknown kind of value in a frame")
    return unpack(body, records)


def _many(body: list[Any], records: Any) -> list[Any]:
    return [_decode(item, records) for item in body[1]]


def _hashed(make: Any, items: list[Any]) -> Any:
    """``make(items)``, or the items where one of them is a record and so cannot be hashed."""
    try:
        if len(items) > _MAX_SAME_HASH:  # thousands of keys with one hash take quadratic time to put in a set
            hashes = {hash(item[0] if make is dict else item) for item in items}
            if len(items) - len(hashes) > _MAX_SAME_HASH:
                raise ValueError("too many keys with the same hash")
        return make(items)
    except TypeError:
        return items


def _dict(body: list[Any], records: Any) -> Any:
    return _hashed(dict, [(_decode(key, records), _decode(item, records)) for key, item in body[1]])


def _int(text: str) -> int:
    if len(text) > 4 + _WIDEST.bit_length() // 4:
        raise ValueError("an int of over 60,000 digits")
    return int(text, 16)


def _decimal(text: str) -> decimal.Decimal:
    value = decimal.Decimal(text)
    if len(text) > 2 * _MAX_DIGITS or (value.is_finite() and abs(value.adjusted()) > _MAX_DIGITS):
        raise ValueError(f"a Decimal of over {_MAX_DIGITS:,} digits")
    return value


_UNPACKERS: dict[str, Any] = {
    "record": lambda b, r: r(str(b[1]), {str(key): _decode(item, r) for key, item in b[2]}),
    "error": lambda b, r: SubCallError(str(b[1])),
    "enum": lambda b, r: _decode(b[3], r),
    "str": lambda b, r: "".join(b[1:]),
    "int": lambda b, r: _int(b[1]),
    "float": lambda b, r: float(b[1]),
    "complex": lambda b, r: complex(float(b[1]), float(b[2])),
    "bytes": lambda b, r: base64.b64decode(b[1], validate=True),
    "dict": _dict,
    "frozenset": lambda b, r: _hashed(frozenset, _many(b, r)),
    "set": lambda b, r: _hashed(set, _many(b, r)),
    "tuple": lambda b, r: tuple(_many(b, r)),
    "datetime": lambda b, r: _of_moment(dt.datetime, *b[1:]),
    "date": lambda b, r: dt.date.fromisoformat(b[1]),
    "time": lambda b, r: _of_moment(dt.time, *b[1:]),
    "timedelta": lambda b, r: dt.timedelta(b[1], b[2], b[3]),
    "decimal": lambda b, r: _decimal(b[1]),
    "uuid": lambda b, r: uuid.UUID(b[1]),
    "opaque": lambda b, r: Opaque(str(b[1]), str(b[2])),
}


def plain_record(_name: str, fields: dict[str, Any]) -> dict[str, Any]:
    """The host's reading of a record: its fields, for pydantic to judge."""
    return fields


def dumps(value: Any) -> bytes:
    """``value`` (already encoded) as one JSON text, ASCII only."""
    return _to_json(value).encode("ascii")


def too_many_values(body: bytes) -> bool:
    """Whether a frame holds more values than either side should build of it: three bytes of JSON become a hundred."""
    if len(body) <= MAX_VALUES or body.count(b",") + body.count(b"[") + body.count(b"{") <= MAX_VALUES:
        return False
    # The same again, with text passed over. A text counts as one token, so that the count ends early in any case.
    return any(count > 2 * MAX_VALUES for count, _ in enumerate(_TOKEN.finditer(body)))


def loads(data: bytes | bytearray) -> Any:
    """JSON back; ``ValueError`` for whatever is not JSON, too deep or over-long numbers included."""
    try:
        return _of_json(str(data, "utf-8"))
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


# Bound now: a cell may put something else in json's place.
_to_json = json.JSONEncoder(ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode
_of_json = json.JSONDecoder(parse_constant=_no_constant).decode
