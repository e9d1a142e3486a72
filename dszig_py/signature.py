"""Signatures: which typed inputs become which typed outputs, read from text, pydantic classes and DSPy classes.

Text is read, never run: a type is parsed to a syntax tree and each of its names is looked up in a table or in the
``types`` the caller gave. DSPy imports modules and walks the caller's frames to find a name; both make the meaning of
a signature depend on where it is written, and the first runs code chosen by the text.
"""

from __future__ import annotations

import functools
import inspect
import keyword
import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, cast

import pydantic
from pydantic import BaseModel

from dszig_py.annotations import STRING, TypeReader, short, type_text
from dszig_py.errors import SignatureError

__all__ = ["REPL_NAMES", "Field", "InputField", "OutputField", "Signature", "type_text"]

REPL_NAMES: frozenset[str] = frozenset(
    {"SUBMIT", "FINAL", "FINAL_VAR", "SHOW_VARS", "llm_query", "llm_query_batched", "predict", "predict_batched"}
    | {"rlm_query", "rlm_query_batched", "budget", "cite", "print"}
)
"""Names the code in the REPL calls; a field of that name would hide the callable."""

_EXAMPLE = "'context: str, question: str -> answer: str'"
_KINDS = f"text such as {_EXAMPLE}, a Signature, or a class: pydantic with InputField/OutputField, or dspy.Signature"
# ast.parse and the walk over its tree recurse. These bounds are far above any type a model can be asked to fill, and
# far below what exhausts the stack, also where the caller has raised the recursion limit.
_MAX_TEXT, _MAX_BRACKETS = 65_536, 32
_TOKEN = re.compile(rf"""'''|\"\"\"|{STRING}|->|[][(){{}},:#'"]""", re.DOTALL)
_QUOTES = ("'''", '"""', "'", '"')
_CLOSES = {")": "(", "]": "[", "}": "{"}
# DSPy writes this when the caller gave no instructions; it says nothing the fields do not say.
_DSPY_DEFAULT = re.compile(r"Given the fields (`\w+`(, `\w+`)*)?, produce the fields (`\w+`(, `\w+`)*)?\.")


@dataclass(frozen=True, slots=True)
class Field:
    """One input or output: its name, its type (an annotation, not text), and what it holds in words."""

    name: str
    type: Any = str
    desc: str = ""


@dataclass(frozen=True)
class Signature:
    """The typed task: ``inputs`` become ``outputs``, ``instructions`` say how, ``name`` is the class it came from.

    Raises :class:`SignatureError` when there is no output or a name is not usable as a variable of the REPL.
    """

    inputs: tuple[Field, ...]
    outputs: tuple[Field, ...]
    instructions: str = ""
    name: str = ""

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for field in (*self.inputs, *self.outputs):
            _check_name(field.name)
            if field.name in seen:
                raise SignatureError(f"field {field.name!r} is declared twice; inputs and outputs need distinct names")
            seen.add(field.name)
        if not self.outputs:
            raise SignatureError(f"the signature has no outputs; name at least one after '->', such as {_EXAMPLE}")

    @classmethod
    def parse(cls, text: str, *, types: Mapping[str, Any] | None = None, instructions: str = "") -> Signature:
        """Read ``"context, question: str -> answer: list[int]"``; a field without a type is ``str``.

        ``types`` maps names used in the text to classes (pydantic, dataclass, Enum) or to modules whose classes the
        text writes as ``module.Class``. Raises :class:`SignatureError` for anything it cannot read.
        """
        _check_text(text)
        if types is not None and not isinstance(cast(object, types), Mapping):
            raise SignatureError('types is not a mapping; pass classes by name: types={"Name": Class}')
        sides = [tuple(_read_field(chunk, types or {}) for chunk in side) for side in _split(text)]
        return cls(sides[0], sides[1], instructions)

    @classmethod
    def of(cls, source: Any, *, types: Mapping[str, Any] | None = None, instructions: str = "") -> Signature:
        """Make a signature of text, a Signature, a marked pydantic class, or anything shaped like ``dspy.Signature``.

        ``instructions``, when given, take the place of the source's own. ``types`` names classes used in text and in
        annotations not yet resolved. Raises :class:`SignatureError` for every other kind of source.
        """
        if isinstance(source, str):
            return cls.parse(source, types=types, instructions=instructions)
        model = source if isinstance(source, type) and issubclass(source, BaseModel) else None
        if model is not None:
            _complete(model, types)
        inputs: Any = getattr(cast(Any, source), "input_fields", None)
        outputs: Any = getattr(cast(Any, source), "output_fields", None)
        if isinstance(source, Signature):
            found = source
        elif isinstance(inputs, Mapping) and isinstance(outputs, Mapping):
            found = _of_dspy(source, cast("Mapping[str, Any]", inputs), cast("Mapping[str, Any]", outputs))
        elif model is not None:
            found = _of_pydantic(model)
        else:
            hint = "; pass the class, not an instance" if isinstance(source, BaseModel) else ""
            kind = type(cast(object, source)).__name__
            raise SignatureError(f"a {kind} is not a signature{hint}; pass {_KINDS}")
        return replace(found, instructions=instructions) if instructions else found

    def __str__(self) -> str:
        return self._text

    @functools.cached_property
    def _text(self) -> str:
        sides = (", ".join(f"{f.name}: {type_text(f.type)}" for f in side) for side in (self.inputs, self.outputs))
        return " -> ".join(sides).strip()


def InputField(default: Any = ..., *, desc: str = "", **kw: Any) -> Any:  # noqa: N802 - named as DSPy names it
    """Mark a field of a pydantic class as an input; ``kw`` goes to :func:`pydantic.Field`."""
    return _marked("input", default, desc, kw)


def OutputField(default: Any = ..., *, desc: str = "", **kw: Any) -> Any:  # noqa: N802 - see InputField
    """Mark a field of a pydantic class as an output; ``kw`` (``ge=0``, ``max_length=80``) constrains it."""
    return _marked("output", default, desc, kw)


def _check_text(text: object) -> None:
    if not isinstance(text, str):
        raise SignatureError(f"a {type(text).__name__} is not a signature's text; write {_EXAMPLE}")
    if len(text) > _MAX_TEXT:
        raise SignatureError(f"the signature has {len(text)} characters, over {_MAX_TEXT}; pass long data as an input")
    if bad := re.search("[\0\ud800-\udfff]", text):
        raise SignatureError(f"the signature holds {bad[0]!a} at position {bad.start()}; take that character out")


def _marks(text: str) -> Iterator[tuple[str, int]]:
    """Each ``->``, ``,`` and ``:`` outside brackets and quotes, with its position."""
    opened: list[str] = []
    start = 0

    def fail(end: int, why: str) -> SignatureError:
        return SignatureError(f"in {short(text[start:end].strip())!r}: {why}")

    for match in _TOKEN.finditer(text):
        token, end = match[0], match.end()
        if token in _QUOTES:
            raise fail(end + 20, f"the quote {token[0]} is not closed; write strings as 'x' or \"x\" on one line")
        if token == "#":
            raise fail(end, "comments are not read; put words into the instructions or a field's desc")
        if token in _CLOSES.values():
            opened.append(token)
            if len(opened) > _MAX_BRACKETS:
                raise fail(end, f"brackets nest deeper than {_MAX_BRACKETS}; pass a class in types=")
        elif token in _CLOSES:
            if not opened or opened.pop() != _CLOSES[token]:
                raise fail(end, f"the last {token} closes nothing; check the brackets")
        elif not opened and token in (",", "->", ":"):
            yield token, match.start()
            start = start if token == ":" else end
    if opened:
        raise fail(len(text), f"a {opened[-1]} is never closed; check the brackets")


def _split(text: str) -> list[list[tuple[str, str | None]]]:
    """The two sides of the arrow, each a list of (name, type's text or None)."""
    sides: list[list[tuple[str, str | None]]] = [[]]
    begin, colon = 0, -1
    for token, at in (*_marks(text), ("", len(text))):
        if token == ":":
            colon = at if colon < 0 else colon
            continue
        cut = at if colon < 0 else colon
        sides[-1].append((text[begin:cut].strip(), None if colon < 0 else text[colon + 1 : at].strip()))
        begin, colon = at + len(token), -1
        if token == "->":
            sides.append([])
    if len(sides) != 2:
        has = "no '->'" if len(sides) == 1 else f"{len(sides) - 1} times '->'"
        raise SignatureError(f"{short(text)!r} has {has}; write inputs, one arrow, outputs, such as {_EXAMPLE}")
    for side in sides:
        if side[-1] == ("", None):  # an empty side, or a trailing comma
            side.pop()
    return sides


def _check_name(name: str) -> None:
    shown = f"field {short(name)!r}"
    if not name:
        raise SignatureError(f"a field has no name (two commas, or a ':' with nothing before it); write {_EXAMPLE}")
    if not name.isidentifier():
        guess = re.sub(r"\W+", "_", name[:80]).strip("_")
        hint = f", such as {guess!r}" if guess.isidentifier() else ""
        raise SignatureError(f"{shown} is not an identifier; use letters, digits and _{hint}")
    if keyword.iskeyword(name):
        raise SignatureError(f"{shown} is a Python keyword, so no variable can have that name; write {name + '_'!r}")
    if name.startswith("__"):
        raise SignatureError(f"{shown} begins with two underscores, which Python keeps for itself; leave them out")
    if name in REPL_NAMES:
        raise SignatureError(f"{shown} would hide the REPL's {name}(); write {name.strip('_') + '_text'!r}, say")


def _read_field(chunk: tuple[str, str | None], given: Mapping[str, Any]) -> Field:
    # Python reads identifiers in NFKC: code could never name a variable bound under another form.
    name = unicodedata.normalize("NFKC", chunk[0])
    _check_name(name)
    return Field(name) if chunk[1] is None else Field(name, TypeReader(name, chunk[1], given).read())


def _marked(role: str, default: Any, desc: str, kw: dict[str, Any]) -> Any:
    extra: Any = kw.pop("json_schema_extra", None) or {}
    if not isinstance(extra, Mapping):
        raise SignatureError("json_schema_extra of an InputField or OutputField is a dict; it carries the field's role")
    if default is not ... or "default_factory" not in kw:
        kw["default"] = default
    make: Any = pydantic.Field
    return make(**{"description": desc or None, **kw, "json_schema_extra": {**extra, "dszig": role}})


def _extra(info: Any) -> Mapping[str, Any]:
    extra = getattr(info, "json_schema_extra", None)
    return cast("Mapping[str, Any]", extra) if isinstance(extra, Mapping) else {}


def _field_of(name: str, info: Any) -> Field:
    """A Field from a pydantic FieldInfo; its constraints stay, in Annotated, for whoever validates."""
    tp: Any = getattr(info, "annotation", str)
    metadata: list[Any] = list(getattr(info, "metadata", ()))
    if discriminator := getattr(info, "discriminator", None):  # the one constraint pydantic keeps elsewhere
        metadata.append(pydantic.Field(discriminator=discriminator))
    # DSPy programs and optimizers rewrite `desc` and leave pydantic's description stale, so `desc` goes first.
    desc = _extra(info).get("desc")
    if not isinstance(desc, str) or desc == f"${{{name}}}":
        desc = getattr(info, "description", None) or ""
    return Field(name, Annotated[tp, *metadata] if metadata else tp, desc)


def _complete(source: type[BaseModel], types: Mapping[str, Any] | None) -> None:
    if source.__pydantic_complete__:
        return
    if not source.model_rebuild(raise_errors=False, _types_namespace=dict(types) if types else None):
        raise SignatureError(
            f"{source.__name__} has annotations naming classes not yet defined; define them first, or pass them: "
            'types={"Name": Class}'
        )


def _of_dspy(source: Any, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Signature:
    text = getattr(source, "instructions", "") or ""
    name = str(getattr(source, "__name__", ""))
    return Signature(
        tuple(_field_of(key, info) for key, info in inputs.items()),
        tuple(_field_of(key, info) for key, info in outputs.items()),
        "" if _DSPY_DEFAULT.fullmatch(text.strip()) else text,
        "" if name == "StringSignature" else name,  # DSPy's class name for every signature written as text
    )


def _of_pydantic(source: type[BaseModel]) -> Signature:
    roles: dict[str, Any] = {}
    for name, info in source.model_fields.items():
        extra = _extra(info)
        roles[name] = extra.get("dszig", extra.get("__dspy_field_type"))
    marks = set(roles.values()) & {"input", "output"}
    if not marks:
        raise SignatureError(
            f"{source.__name__} marks none of its fields; write `answer: str = OutputField()` for each output (from "
            "dszig_py.signature import InputField, OutputField), and the unmarked fields are the inputs"
        )
    unmarked = [name for name, role in roles.items() if role not in ("input", "output")]
    if len(marks) == 2 and unmarked:
        raise SignatureError(f"{source.__name__} leaves {unmarked[0]!r} unmarked; write InputField() or OutputField()")
    rest = "input" if marks == {"output"} else "output"
    sides: dict[Any, list[Field]] = {"input": [], "output": []}
    for name, info in source.model_fields.items():
        sides[rest if name in unmarked else roles[name]].append(_field_of(name, info))
    # A class without a docstring takes its base's, as in DSPy, but never the one pydantic's own classes have.
    bases = (c for c in source.__mro__ if issubclass(c, BaseModel) and c.__module__.partition(".")[0] != "pydantic")
    doc = next((c.__doc__ for c in bases if c.__doc__), "")
    return Signature(tuple(sides["input"]), tuple(sides["output"]), inspect.cleandoc(doc), source.__name__)
