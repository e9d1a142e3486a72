"""Where an answer comes from: spans of the inputs, checked before a submission is taken.

A model that is asked for quotations makes some up; a span that the host itself reads again cannot be. Prior art: the
citations of hosted models' APIs, which do this for documents in the prompt.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast, get_args

__all__ = ["MOST_CHARS", "Evidence", "asked_for", "problem", "spans"]

MOST_CHARS = 20_000  # of one span: more is no quotation
_PATH = re.compile(r"([^\W\d]\w*)(?:\[(.{1,500})\])?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Evidence:
    """Characters ``start`` to ``end`` of an input, which are ``text``.

    ``variable``: the input's name, or an item of it: ``docs[3]``, ``pages['intro']``. As a field's type (also ``list`` of it)
    it makes the REPL offer ``cite(...)``, and SUBMIT refuse what is not in the inputs as it says.
    """

    variable: str
    start: int
    end: int
    text: str


def asked_for(types: Sequence[Any]) -> bool:
    """Whether one of these types holds evidence."""
    return any(tp is Evidence or asked_for(get_args(tp)) for tp in types)


def spans(value: Any) -> Iterator[Evidence]:
    """Evidence in an output, as deep as its type may hold it."""
    if isinstance(value, Evidence):
        yield value
    elif isinstance(value, Mapping):
        for item in cast("Mapping[Any, Any]", value).values():
            yield from spans(item)
    elif isinstance(value, (list, tuple)):
        for item in cast("Sequence[Any]", value):
            yield from spans(item)


def problem(evidence: Evidence, inputs: Mapping[str, Any]) -> str:
    """What is wrong with it, in words for the model; "" where the input holds what it says."""
    match = _PATH.fullmatch(evidence.variable)
    if match is None or match[1] not in inputs:
        return f"there is no input {evidence.variable[:100]!r}; the inputs are {', '.join(inputs)}"
    value, where = inputs[match[1]], evidence.variable[:200]
    if match[2] is not None:
        try:
            value = value[ast.literal_eval(match[2])]
        except (ValueError, SyntaxError, TypeError, LookupError, RecursionError, MemoryError):
            return f"{where} is no item of {match[1]}"
    if not isinstance(value, str):
        return f"{where} is no text; cite text, or an item that is text (docs[3])"
    start, end = evidence.start, evidence.end
    if not 0 <= start < end <= len(value):
        return f"{where}[{start}:{end}] is no span of its {len(value):,} characters"
    if end - start > MOST_CHARS:
        return f"{where}[{start}:{end}] is longer than {MOST_CHARS:,} characters; cite the part that matters"
    if value[start:end] != evidence.text:
        held, said = (repr(text[:80]) for text in (value[start:end], evidence.text))
        return f"{where}[{start}:{end}] holds {held}, not {said}; cite(...) finds the right place"
    return ""
