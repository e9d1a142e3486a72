"""A signature and its inputs, compiled: REPL variables, callables, and the SUBMIT contract that judges the outputs.

The contract is data. It is rendered the same way for the whole run and travels apart from the instructions, so nothing
that rewrites instructions (an optimizer, a loaded state) can drop or contradict it.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast, get_origin

from dszig_py import evidence, files
from dszig_py.documents import Document
from dszig_py.errors import InputError, SignatureError
from dszig_py.language import PYTHON, Language
from dszig_py.previews import preview, size_text
from dszig_py.signature import Field, Signature, type_text
from dszig_py.text import clean
from dszig_py.validation import adapter, coerce, is_plain, judged

__all__ = ["Contract", "Prepared", "SubmissionRefused", "Variable", "compile_contract"]

PREVIEW_CHARS = 800
SHOW_CHARS = 20_000  # what Strategy(show=[...]) shows of a field
_SCHEMA_CHARS = 2_000
_LARGE = 100_000  # characters of submission above which validation leaves the event loop


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
    ``check``: the caller's own last word on validated outputs; a message sends the model back. ``language``: what the code
    is written in.
    """

    signature: Signature
    variables: tuple[Variable, ...]
    callables: tuple[tuple[str, str, str], ...] = ()
    notes: tuple[str, ...] = ()
    check: Callable[[dict[str, Any]], str | None] | None = field(default=None, repr=False)
    language: Language = field(default=PYTHON, repr=False)

    @functools.cached_property
    def text(self) -> str:
        """The contract as the model reads it; constant during a run."""
        parts = [_variables_text(self.variables), _callables_text(self.callables, self.language), self.submit_text]
        if self.notes:
            parts.append("\n".join(self.notes))
        return clean("\n\n".join(part for part in parts if part))

    @functools.cached_property
    def submit_text(self) -> str:
        """How to call SUBMIT, with types and constraints."""
        outputs = self.signature.outputs
        lines = [f"Finish with {self.usage}."]
        for f in outputs:
            schema = _schema_text(f.type)
            if f.desc or schema:
                lines.append(f"  {f.name}: {f.desc}{' ' if f.desc and schema else ''}{schema}")
        return "\n".join(lines)

    @functools.cached_property
    def usage(self) -> str:
        """The call itself, for error messages."""
        outputs = ", ".join(f"{f.name}: {type_text(f.type)}" for f in self.signature.outputs)
        return f"{self.language.finish}({outputs})"

    def off_loop(self, kwargs: Mapping[str, Any], args: Sequence[Any] = ()) -> bool:
        """Whether judging these values may take long: large, or of classes with validators of their own."""
        if self.check is not None or not all(is_plain(f.type) for f in self.signature.outputs):
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
        problems += self._unfounded(outputs)
        if problems:
            raise SubmissionRefused(f"{self.language.finish} was refused: {'; '.join(problems)}. Call {self.usage}.")
        if self.check is not None:
            message = _ask(self.check, outputs)
            if message:
                raise SubmissionRefused(f"{self.language.finish} was refused: {message}")
        return outputs

    def _unfounded(self, outputs: Mapping[str, Any]) -> list[str]:
        """What the outputs cite that the inputs do not hold."""
        if not evidence.asked_for([f.type for f in self.signature.outputs]):
            return []
        inputs = {variable.name: variable.value for variable in self.variables}
        cited = ((name, one) for name, value in outputs.items() for one in evidence.spans(value))
        return [f"{name}: {told}" for name, one in cited if (told := evidence.problem(one, inputs))][:5]

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
    language: Language = PYTHON,
) -> Contract:
    """Bind ``inputs`` to ``signature``. Raises :class:`InputError` for missing, surplus and mistyped inputs, and
    :class:`SignatureError` for an output of a type that cannot be judged.
    """
    for f in signature.outputs:
        adapter(f.type)
        if files.asked_for(f.type, files.File, files.Folder):
            raise SignatureError(f"output {f.name!r}: files are inputs only; declare str and submit the text")
    for f in signature.inputs:
        if files.asked_for(f.type, files.File, files.Folder) and files.wanted(f.type) is None:
            raise SignatureError(
                f"input {f.name!r}: {type_text(f.type)} holds files inside; declare a field for each, or a Folder"
            )
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
    return Contract(signature, variables, tuple(language.told(callables)), tuple(notes), check, language)


def _variable(f: Field, value: Any, limit: int) -> Variable:
    if isinstance(value, Prepared):
        return Variable(f.name, value.type, value.value, value.size, value.preview, whole=False, desc=f.desc)
    if (given := files.opened(f.name, f.type, value, limit)) is not None:
        return Variable(f.name, given.type, given, given.told, given.preview, whole=False, desc=f.desc)
    value = _input(f, value)
    shown, whole = preview(value, limit)
    return Variable(f.name, _type_of(value, f), value, size_text(value), shown, whole, f.desc)


def _input(f: Field, value: Any) -> Any:
    """The value as declared. ``str`` is also the type of a field that declared none, so it takes whatever comes."""
    if isinstance(value, Document):
        value = value.texts if get_origin(f.type) is list else value.text
    if f.type is str or f.type is Any:
        return value
    judge = adapter(f.type)
    try:
        return judged(judge, value)
    except ValueError as error:
        raise InputError(f"input {f.name!r} is declared {type_text(f.type)}: {error}") from error.__cause__


def _type_of(value: Any, f: Field) -> str:
    declared = type_text(f.type)
    actual = type(value).__name__
    return declared if f.type is not str or actual == "str" else actual


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


def _callables_text(callables: Sequence[tuple[str, str, str]], language: Language) -> str:
    if not callables:
        return ""
    return "\n".join([language.heading, *(f"  {sig}: {doc}" if doc else f"  {sig}" for _, sig, doc in callables)])


def _schema_text(tp: Any) -> str:
    """What the type's name does not say: fields of models, constraints. Empty for plain types."""
    if is_plain(tp) or type_text(tp).startswith("Literal["):
        return ""
    try:
        schema = adapter(tp).json_schema()
    except Exception:  # a type without a JSON schema is still validated
        return ""
    if not ({"properties", "$defs", "enum"} & set(schema) or "Annotated" in repr(tp)):
        return ""
    text = json.dumps(schema, ensure_ascii=False, default=str)
    return f"JSON schema {text if len(text) <= _SCHEMA_CHARS else text[:_SCHEMA_CHARS] + ' ...'}"
