"""A signature and its inputs, compiled: REPL variables, callables, and the SUBMIT contract that judges the outputs.

The contract is data. It is rendered the same way for the whole run and travels apart from the instructions, so nothing
that rewrites instructions (an optimizer, a loaded state) can drop or contradict it.
"""

from __future__ import annotations

import functools
import heapq
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from enum import Enum
from itertools import chain, islice
from types import UnionType
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticUndefinedAnnotation, PydanticUserError

from dszig_py import arrays
from dszig_py.environments._worker.codec import Opaque, fields_of
from dszig_py.errors import InputError, SignatureError
from dszig_py.signature import Field, Signature, type_text
from dszig_py.text import clean, truncate

__all__ = ["Contract", "Prepared", "SubmissionRefused", "Variable", "brief", "coerce", "compile_contract"]

PREVIEW_CHARS = 800
SHOW_CHARS = 20_000  # what Strategy(show=[...]) shows of a field
_SCHEMA_CHARS = 2_000
_LARGE = 100_000  # characters of submission above which validation leaves the event loop
_COUNT_LINES_UP_TO = 50_000_000

PLAIN_TYPES = (str, int, float, bool, bytes, type(None))


@dataclass(frozen=True, slots=True)
class Variable:
    """An input bound in the REPL, as the model is told of it. ``whole``: the preview is all of it."""

    name: str
    type: str
    value: Any = field(repr=False)
    size: str
    preview: str
    whole: bool
    desc: str = ""


@dataclass(frozen=True, slots=True)
class Prepared:
    """An input in a form of its caller's making: ``value`` is what is bound, the rest what the model is told of it."""

    value: Any
    type: str
    size: str = ""
    preview: str = ""


class SubmissionRefused(ValueError):
    """SUBMIT was called with something the signature does not allow; the message is for the model."""


@dataclass(frozen=True)
class Contract:
    """What one run's model may use and must deliver.

    ``callables``: (name, signature, one line of documentation) of everything the code may call besides SUBMIT.
    ``check``: the caller's own last word on validated outputs; a message sends the model back.
    """

    signature: Signature
    variables: tuple[Variable, ...]
    callables: tuple[tuple[str, str, str], ...] = ()
    notes: tuple[str, ...] = ()
    check: Callable[[dict[str, Any]], str | None] | None = field(default=None, repr=False)

    @functools.cached_property
    def text(self) -> str:
        """The contract as the model reads it; constant during a run."""
        parts = [_variables_text(self.variables), _callables_text(self.callables), self.submit_text]
        if self.notes:
            parts.append("\n".join(self.notes))
        return clean("\n\n".join(part for part in parts if part))

    @functools.cached_property
    def submit_text(self) -> str:
        """How to call SUBMIT, with types and constraints."""
        outputs = self.signature.outputs
        lines = [f"Finish with SUBMIT({', '.join(f'{f.name}: {type_text(f.type)}' for f in outputs)})."]
        for f in outputs:
            schema = _schema_text(f.type)
            if f.desc or schema:
                lines.append(f"  {f.name}: {f.desc}{' ' if f.desc and schema else ''}{schema}")
        return "\n".join(lines)

    @functools.cached_property
    def usage(self) -> str:
        """The call itself, for error messages."""
        return f"SUBMIT({', '.join(f'{f.name}: {type_text(f.type)}' for f in self.signature.outputs)})"

    def off_loop(self, kwargs: Mapping[str, Any], args: Sequence[Any] = ()) -> bool:
        """Whether judging these values may take long: large, or of classes with validators of their own."""
        if self.check is not None or not all(_is_plain(f.type) for f in self.signature.outputs):
            return True
        return _weight([*kwargs.values(), *args], _LARGE) > _LARGE

    def validate(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The outputs, typed: accepts exactly what pydantic accepts for each field.

        Raises :class:`SubmissionRefused` naming every missing, surplus and mistyped field at once.
        """
        given, problems = self._by_name(args, kwargs)
        outputs: dict[str, Any] = {}
        for f in self.signature.outputs:
            if f.name not in given:
                if not any(p.startswith(f"{f.name}:") for p in problems):
                    problems.append(f"{f.name}: missing")
                continue
            try:
                outputs[f.name] = coerce(f.type, given[f.name])
            except ValueError as error:
                problems.append(f"{f.name}: {error}")
        if problems:
            raise SubmissionRefused(f"SUBMIT was refused: {'; '.join(problems)}. Call {self.usage}.")
        if self.check is not None:
            message = _ask(self.check, outputs)
            if message:
                raise SubmissionRefused(f"SUBMIT was refused: {message}")
        return outputs

    def _by_name(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
        names = [f.name for f in self.signature.outputs]
        given, problems = dict(kwargs), list[str]()
        if len(args) > len(names):
            problems.append(f"{len(args)} values for {len(names)} outputs")
        for name, value in zip(names, args, strict=False):
            if name in given:
                problems.append(f"{name}: given twice, by position and by name")
            given.setdefault(name, value)
        problems += [f"{name}: there is no such output" for name in given if name not in names]
        return given, problems


def _ask(check: Callable[[dict[str, Any]], str | None], outputs: dict[str, Any]) -> str | None:
    try:
        said = cast("object", check(dict(outputs)))
    except Exception as error:  # an assert in a check is a natural way to write one
        return f"{type(error).__name__}: {error}"
    if said is False:  # a check written as a predicate; True, as None, lets the outputs through
        return "the caller's check does not accept these outputs"
    return said if isinstance(said, str) else None


def coerce(tp: Any, value: Any) -> Any:
    """``value`` as pydantic reads it for ``tp``. Raises ``ValueError`` with a message a model can act on."""
    if not _is_plain(tp) and (found := _find_opaque(value)) is not None:
        where, opaque = found
        at = f" at {where}" if where else ""
        raise ValueError(
            f"a {opaque.type_name}{at} cannot be submitted ({opaque.text}); submit data (text, numbers, lists, dicts)"
        )
    return _judged(adapter(tp), value)


def _judged(judge: TypeAdapter[Any], value: Any) -> Any:
    try:
        return judge.validate_python(value)
    except ValidationError as error:
        raise ValueError(_told(error)) from None
    except Exception as error:  # a validator of the caller's own may raise anything
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _find_opaque(value: Any) -> tuple[str, Opaque] | None:
    """The first value inside that could not cross, and where it is: a type such as Any would let it through."""
    todo: list[tuple[str, Any]] = [("", value)]
    seen: set[int] = set()
    while todo:
        where, item = todo.pop()
        if isinstance(item, Opaque):
            return where, item
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
        todo += [(f"{where}[{brief(k, 40)}]", child) for k, child in children if isinstance(child, deeper)]
    return None


def _told(error: ValidationError) -> str:
    told: list[str] = []
    for detail in error.errors(include_url=False)[:5]:
        where = truncate(".".join(str(part) for part in detail["loc"]), 200)
        got = detail.get("input")
        message = truncate(detail["msg"], 1_000)
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
            return TypeAdapter(tp)
        raise SignatureError(f"{type_text(tp)} cannot be validated: {error.message}") from error
    except PydanticUndefinedAnnotation as error:
        raise SignatureError(f"{type_text(tp)} cannot be validated: {error.message}") from error
    if not getattr(made, "pydantic_complete", True):  # since pydantic 2.10
        raise SignatureError(f"{type_text(tp)} cannot be validated: it names a class that is not defined")
    return made


def _is_plain(tp: Any) -> bool:
    """Whether a type's name says all there is to it, and judging a value runs no code but pydantic's."""
    origin = get_origin(tp)
    if origin is Literal:
        return True
    if origin in (list, dict, tuple, set, frozenset, Union, UnionType):
        return all(arg is ... or _is_plain(arg) for arg in get_args(tp))
    return origin is not Annotated and tp in PLAIN_TYPES


def _weight(values: Sequence[Any], stop: int) -> int:
    """Characters and items in ``values``, counted until ``stop`` is passed."""
    total, todo = 0, list(values)
    while todo and total <= stop:
        value = todo.pop()
        if isinstance(value, (str, bytes)):
            total += len(value)
        elif isinstance(value, Mapping):
            total += len(cast("Mapping[Any, Any]", value))
            todo.extend(list(cast("Mapping[Any, Any]", value).values())[:stop])
        elif isinstance(value, (list, tuple, set, frozenset)):
            items = cast("Sequence[Any]", value)
            total += len(items)
            todo.extend(list(items)[:stop])
    return total


def compile_contract(
    signature: Signature,
    inputs: Mapping[str, Any],
    *,
    callables: Sequence[tuple[str, str, str]] = (),
    show: Sequence[str] = (),
    notes: Sequence[str] = (),
    check: Callable[[dict[str, Any]], str | None] | None = None,
) -> Contract:
    """Bind ``inputs`` to ``signature``. Raises :class:`InputError` for missing, surplus and mistyped inputs, and
    :class:`SignatureError` for an output of a type that cannot be judged.
    """
    for f in signature.outputs:
        adapter(f.type)
    names = [f.name for f in signature.inputs]
    missing = [n for n in names if n not in inputs]
    surplus = [n for n in inputs if n not in names]
    if missing or surplus:
        told = [f"missing: {', '.join(missing)}"] * bool(missing) + [
            f"not in the signature: {', '.join(surplus)}"
        ] * bool(surplus)
        raise InputError(f"inputs do not fit the signature {signature}: {'; '.join(told)}")
    unknown = [n for n in show if n not in names]
    if unknown:
        raise InputError(f"Strategy(show=...) names {', '.join(unknown)}; the inputs are {', '.join(names)}")
    variables = tuple(
        _variable(f, inputs[f.name], SHOW_CHARS if f.name in show else PREVIEW_CHARS) for f in signature.inputs
    )
    return Contract(signature, variables, tuple(callables), tuple(notes), check)


def _variable(f: Field, value: Any, limit: int) -> Variable:
    if isinstance(value, Prepared):
        return Variable(f.name, value.type, value.value, value.size, value.preview, whole=False, desc=f.desc)
    value = _input(f, value)
    preview, whole = _preview(value, limit)
    return Variable(f.name, _type_of(value, f), value, _size(value), preview, whole, f.desc)


def _input(f: Field, value: Any) -> Any:
    """The value as declared. ``str`` is also the type of a field that declared none, so it takes whatever comes."""
    if f.type is str or f.type is Any:
        return value
    judge = adapter(f.type)
    try:
        return _judged(judge, value)
    except ValueError as error:
        raise InputError(f"input {f.name!r} is declared {type_text(f.type)}: {error}") from error.__cause__


def _type_of(value: Any, f: Field) -> str:
    declared = type_text(f.type)
    actual = type(value).__name__
    return declared if f.type is not str or actual == "str" else actual


def _size(value: Any) -> str:
    if isinstance(value, str):
        characters = _count(len(value), "character")
        if not 0 < len(value) < _COUNT_LINES_UP_TO:
            return characters
        return f"{characters}, {_count(value.count(chr(10)) + (value[-1] != chr(10)), 'line')}"
    if isinstance(value, (bytes, bytearray)):
        return _count(len(value), "byte")
    if isinstance(value, Mapping):
        return _count(len(cast("Mapping[Any, Any]", value)), "key")
    if isinstance(value, (list, tuple, set, frozenset)):
        items = cast("Sequence[Any]", value)
        chars = sum(len(i) for i in items if isinstance(i, str))
        return _count(len(items), "item") + (f", {_count(chars, 'character')} in all" if chars else "")
    return arrays.size(value) if arrays.is_array(value) else ""


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"


def _preview(value: Any, limit: int) -> tuple[str, bool]:
    """At most about ``limit`` characters of ``value``, and whether that is all of it."""
    if isinstance(value, str):
        # Line ends and quotes take two characters in a literal: text within the limit is still whole.
        if len(value) <= limit and len(literal := repr(value)) <= 2 * limit + 2:
            return literal, True
        head, tail = _literal(value, limit * 3 // 4), _literal(value, limit // 4, end=True)
        return f"starts {head}\n     ends {tail}", False
    if arrays.is_array(value):
        return arrays.preview(value, limit)
    shown = _Brief(limit)
    return shown.of(value), shown.whole


def brief(value: Any, limit: int) -> str:
    """At most ``limit`` characters of ``value``'s repr; never raises, and looks at no more of a value than it shows."""
    return _Brief(limit).of(value)


def _literal(value: Any, limit: int, *, end: bool = False) -> str:
    """As much of the head or the end of text or bytes as makes a literal of about ``limit`` characters."""
    take = limit
    while True:
        shown = repr(value[-take:] if end else value[:take])
        if len(shown) <= limit + 3 or take <= 1:
            return shown
        take = max(1, take * limit // len(shown))  # escapes take up to ten characters each


class _Brief:
    """A bounded repr, built of pieces until there are enough. ``whole``: nothing was left out."""

    LEVELS = 5

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._items = max(limit // 20, 3)
        self._text = max(limit // 4, 40)
        self.whole = True

    def of(self, value: Any) -> str:
        pieces: list[str] = []
        size = 0
        for piece in self._pieces(value, self.LEVELS):
            pieces.append(piece)
            size += len(piece)
            if size > self._limit:
                self.whole = False
                return f"{''.join(pieces)[: max(self._limit - 4, 0)]} ..."
        return "".join(pieces)

    def _pieces(self, value: Any, level: int) -> Iterator[str]:
        name: str = type(value).__name__
        if value is None or isinstance(value, (bool, float, Enum)):
            yield self._repr(value)
        elif isinstance(value, (str, bytes, bytearray)):
            yield self._ends(value)
        elif isinstance(value, int):
            yield self._integer(value)
        elif isinstance(value, Mapping):
            items = cast("Mapping[Any, Any]", value)
            yield from self._group("{", items.items(), len(items), "}", level, ": ")
        elif isinstance(value, (list, tuple)):
            items = cast("Sequence[Any]", value)
            ends = "[]" if isinstance(value, list) else ("(", ",)" if len(items) == 1 else ")")
            yield from self._group(ends[0], items, len(items), ends[1], level)
        elif isinstance(value, AbstractSet):
            members = cast("AbstractSet[Any]", value)
            ends = ("{", "}") if name == "set" else (f"{name}({{", "})")
            ends = ends if members else (f"{name}(", ")")
            yield from self._group(ends[0], self._in_order(members), len(members), ends[1], level)
        elif (fields := self._fields(value)) is not None:
            yield from self._group(f"{name}(", fields.items(), len(fields), ")", level, "=")
        else:
            yield self._cut(self._repr(value))

    def _group(
        self, opening: str, items: Iterable[Any], count: int, closing: str, level: int, between: str = ""
    ) -> Iterator[str]:
        yield opening
        if level <= 0 and count:
            self.whole = False
            yield "..."
        else:
            for number, item in enumerate(islice(items, self._items)):
                if number:
                    yield ", "
                if not between:
                    yield from self._pieces(item, level - 1)
                    continue
                key, each = item
                if between == "=":
                    yield str(key)
                else:
                    yield from self._pieces(key, level - 1)
                yield between
                yield from self._pieces(each, level - 1)
            if count > self._items:
                self.whole = False
                yield ", ..."
        yield closing

    def _in_order(self, members: AbstractSet[Any]) -> Iterable[Any]:
        """The smallest members: a set's own order differs from process to process, and prompts should not."""
        try:
            return heapq.nsmallest(self._items, members)
        except TypeError:
            return members

    def _ends(self, value: str | bytes | bytearray) -> str:
        if len(value) <= self._text and len(literal := repr(value)) <= 2 * self._text:
            return literal
        self.whole = False
        half = self._text // 2
        return f"{_literal(value, half)}...{_literal(value, half, end=True)}"

    def _integer(self, value: int) -> str:
        if value.bit_length() <= 8 * self._text:  # repr refuses above 4,300 digits
            return self._cut(self._repr(value))
        self.whole = False
        return f"<{type(value).__name__} of {value.bit_length():,} bits>"

    def _fields(self, value: Any) -> dict[str, Any] | None:
        try:
            return fields_of(value)
        except Exception:  # a property of the value's own
            return None

    def _repr(self, value: Any) -> str:
        try:
            return repr(value)
        except Exception:  # the value's own code, or more digits than Python writes
            self.whole = False
            return f"<{type(value).__name__}>"

    def _cut(self, text: str) -> str:
        if len(text) <= self._text:
            return text
        self.whole = False
        return f"{text[: self._text // 2]}...{text[-(self._text // 2) :]}"


def _variables_text(variables: Sequence[Variable]) -> str:
    if not variables:
        return "The REPL holds no input variables."
    lines = ["Variables in the REPL:"]
    for v in variables:
        about = ", ".join(
            part for part in (v.type, v.size, "shown whole" if v.whole else "only a preview is shown") if part
        )
        lines.append(f"  {v.name}: {about}{'. ' + v.desc if v.desc else ''}")
        lines.append(f"     {v.preview}")
    return "\n".join(lines)


def _callables_text(callables: Sequence[tuple[str, str, str]]) -> str:
    if not callables:
        return ""
    return "\n".join(
        ["Functions in the REPL:", *(f"  {sig}: {doc}" if doc else f"  {sig}" for _, sig, doc in callables)]
    )


def _schema_text(tp: Any) -> str:
    """What the type's name does not say: fields of models, constraints. Empty for plain types."""
    if _is_plain(tp) or type_text(tp).startswith("Literal["):
        return ""
    try:
        schema = adapter(tp).json_schema()
    except Exception:  # a type without a JSON schema is still validated
        return ""
    if not ({"properties", "$defs", "enum"} & set(schema) or "Annotated" in repr(tp)):
        return ""
    text = json.dumps(schema, ensure_ascii=False, default=str)
    return f"JSON schema {text if len(text) <= _SCHEMA_CHARS else text[:_SCHEMA_CHARS] + ' ...'}"
