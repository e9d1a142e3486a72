"""A signature and its inputs, compiled: REPL variables, callables, and the SUBMIT contract that judges the outputs.

The contract is data. It is rendered the same way for the whole run and travels apart from the instructions, so nothing
that rewrites instructions (an optimizer, a loaded state) can drop or contradict it.
"""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast, get_origin

from dszig_py import evidence, files, images, outputs, scratch
from dszig_py.documents import Document
from dszig_py.environments.in_place import in_place
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
_FILE_TYPES = "declare File, File | None, list[File], tuple[File, ...] or dict[str, File]"
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
        lines = [f"Finish with {self.usage}."]
        for f in self.signature.outputs:
            schema = _file_text(f.type) if outputs.are_files(f.type) else _schema_text(f.type)
            if f.desc or schema:
                lines.append(f"  {f.name}: {f.desc}{' ' if f.desc and schema else ''}{schema}")
        return "\n".join(lines)

    @functools.cached_property
    def usage(self) -> str:
        """The call itself, for error messages."""
        told = ", ".join(f"{f.name}: {type_text(f.type)}" for f in self.signature.outputs)
        return f"{self.language.finish}({told})"

    @functools.cached_property
    def writes(self) -> tuple[str, ...]:
        """The outputs that are files: for these the REPL has a scratch folder."""
        return tuple(f.name for f in self.signature.outputs if outputs.are_files(f.type))

    def off_loop(self, kwargs: Mapping[str, Any], args: Sequence[Any] = ()) -> bool:
        """Whether judging these values may take long: large, or of classes with validators of their own."""
        if self.check is not None or not all(is_plain(f.type) for f in self.signature.outputs):
            return True
        return _weight([*kwargs.values(), *args], _LARGE) > _LARGE

    def validate(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], collection: outputs.Collection | None = None
    ) -> dict[str, Any]:
        """The outputs, typed: accepts exactly what pydantic accepts for each field. Files are delivered by ``collection``.

        Raises :class:`SubmissionRefused` naming every missing, surplus and mistyped field at once.
        """
        with collection or outputs.Collection(None) as collected:
            found = self._judged(*self._by_name(args, kwargs), collected.context)
            try:
                collected.deliver()
            except ValueError as error:
                raise SubmissionRefused(f"{self.language.finish} was refused: {error}") from None
            if self.check is not None and (message := _ask(self.check, found)):
                raise SubmissionRefused(f"{self.language.finish} was refused: {message}")
        return found

    def _judged(self, given: Mapping[str, Any], problems: list[str], context: Mapping[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for f in self.signature.outputs:
            if f.name not in given:
                if not any(p.startswith(f"{f.name}:") for p in problems):
                    problems.append(f"{f.name}: missing")
                continue
            try:
                found[f.name] = coerce(f.type, given[f.name], context)
            except ValueError as error:
                problems.append(f"{f.name}: {error}")
        problems += self._unfounded(found)
        if problems:
            raise SubmissionRefused(f"{self.language.finish} was refused: {'; '.join(problems)}. Call {self.usage}.")
        return found

    def extracted(self, raw: Mapping[str, Any], outbox: outputs.Outbox | None = None) -> tuple[dict[str, Any], str]:
        """The outputs that a closing reply has, and what is wrong with the first that it has not. A file is one that the
        code wrote, by its path. Whole outputs that the caller's check does not accept are none.
        """
        found: dict[str, Any] = {}
        problem = ""
        for f in self.signature.outputs:
            try:
                with outputs.Collection(outbox) as collection:
                    found[f.name] = coerce(f.type, raw[f.name], collection.context)
                    if wrong := self._unfounded({f.name: found[f.name]}):
                        raise ValueError(wrong[0].removeprefix(f"{f.name}: "))
                    collection.deliver()
            except KeyError:
                problem = problem or f"{f.name}: not in the reply"
            except (ValueError, OSError) as error:
                found.pop(f.name, None)
                problem = problem or f"{f.name}: {error}"
        if not problem and self.check is not None and (message := _ask(self.check, found)):
            return {}, f"the check does not accept it: {message}"
        return found, problem

    def _unfounded(self, found: Mapping[str, Any]) -> list[str]:
        """What the outputs cite that the inputs do not hold."""
        if not evidence.asked_for([f.type for f in self.signature.outputs]):
            return []
        inputs = {variable.name: variable.value for variable in self.variables}
        read = functools.cache(_citable)
        cited = ((name, one) for name, value in found.items() for one in evidence.spans(value))
        wrong = (f"{name}: {told}" for name, one in cited if (told := evidence.problem(one, inputs, read)))
        return list(itertools.islice(wrong, 5))

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


def _citable(name: str, value: files.Opened) -> Any:
    """What the REPL has of it; of a file its text, which may have to be decoded whole, once for all that cite it."""
    there = in_place(name, value)
    return there.text() if value.kind == "file" else there


def _ask(check: Callable[[dict[str, Any]], str | None], found: dict[str, Any]) -> str | None:
    try:
        said = cast("object", check(dict(found)))
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
    taken = [*(f.name for f in signature.inputs), *(name for name, *_ in callables)]
    for f in signature.outputs:
        adapter(f.type)
        if files.asked_for(f.type, files.Folder):
            raise SignatureError(
                f"output {f.name!r}: a folder is an input only; declare list[File], or dict[str, File]"
            )
        if outputs.are_files(f.type) and not outputs.can_be_files(f.type):
            raise SignatureError(f"output {f.name!r}: {type_text(f.type)} mixes files with other values; {_FILE_TYPES}")
        if outputs.are_files(f.type) and scratch.VARIABLE in taken:
            raise SignatureError(
                f"{scratch.VARIABLE!r} is the folder that code writes output {f.name!r} in; choose another name"
            )
        if images.asked_for(f.type):
            raise SignatureError(
                f"output {f.name!r}: an image is an input only; declare File, and let the code write one"
            )
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


def _of_document(f: Field, value: Document) -> Any:
    if images.asked_for(f.type):
        return list(value.images())
    return value.texts if get_origin(f.type) is list else value.text


def _input(f: Field, value: Any) -> Any:
    """The value as declared. ``str`` is also the type of a field that declared none, so it takes whatever comes."""
    if isinstance(value, Document):
        value = _of_document(f, value)
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


def _file_text(tp: Any) -> str:
    many = get_origin(tp) in (list, tuple, dict)
    return f"the path{'s of files' if many else ' of a file'} that you wrote and closed"


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
