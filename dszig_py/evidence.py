"""Where an answer comes from: spans of the inputs, checked before a submission is taken.

A model that is asked for quotations makes some up; a span that the host itself reads again cannot be. Prior art: the
citations of hosted models' APIs, which do this for documents in the prompt.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from dszig_py.files import Opened
from dszig_py.typetree import types_within, values_within

__all__ = ["MOST_CHARS", "Evidence", "asked_for", "problem", "spans"]

MOST_CHARS = 20_000  # of one span, bytes in a file: more is no quotation
_TURNED, _MOST_TURNED = ("utf-16", "utf-32"), 4 << 20  # bytes of a file that has to be read whole, for it is made UTF-8
_PATH = re.compile(r"([^\W\d]\w*)(?:\[(.{1,500})\])?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Evidence:
    """Characters ``start`` to ``end`` of an input, which are ``text``; of a ``Text`` or a ``File`` bytes, as its positions are.

    ``variable``: the input's name, or an item of it: ``docs[3]``, ``pages['intro']``, ``folder['sub/a.txt']``. As a field's type (also ``list`` of it)
    it makes the REPL offer ``cite(...)``, and SUBMIT refuse what is not in the inputs as it says.
    """

    variable: str
    start: int
    end: int
    text: str


def asked_for(types: Sequence[Any]) -> bool:
    """Whether one of these types holds evidence, in a class's fields too: a span that nobody reads again may be made up."""
    return any(part is Evidence for tp in types for part in types_within(tp))


def spans(value: Any) -> Iterator[Evidence]:
    """Evidence in an output, as deep as its type may hold it."""
    return (found for found in values_within(value) if isinstance(found, Evidence))


def problem(evidence: Evidence, inputs: Mapping[str, Any], read: Callable[[str, Opened], Any] | None = None) -> str:
    """What is wrong with it, in words for the model; "" where the input holds what it says.

    ``read``: makes of an input that is a file or a ``Text`` the object that the REPL has of it; it is read by position, the
    span alone. Without it, such an input cannot be cited.
    """
    match = _PATH.fullmatch(evidence.variable)
    if match is None or match[1] not in inputs:
        return f"there is no input {evidence.variable[:100]!r}; the inputs are {', '.join(inputs)}"
    value, where = inputs[match[1]], evidence.variable[:200]
    if isinstance(value, Opened) and read is not None:
        if value.encoding in _TURNED and value.size > _MOST_TURNED:
            return f"{where} is {value.encoding}; of such files up to {_MOST_TURNED >> 20} MiB can be cited"
        value = read(match[1], value)
    try:
        text: Any = cast("Any", value) if match[2] is None else _item(value, ast.literal_eval(match[2]))
        if getattr(text, "_cited_as", "") == "file":
            text = text.text()
    except (OSError, ValueError, SyntaxError, TypeError, LookupError, RecursionError, MemoryError):
        return f"{where} is no item of {match[1]}"
    if isinstance(text, str):
        return _mismatch(evidence, where, text, "characters")
    if getattr(text, "_cited_as", "") == "text":
        return _mismatch(evidence, where, text, "bytes")
    return f"{where} is no text; cite text, or an item that is text (docs[3], folder['name'])"


def _item(value: Any, key: Any) -> Any:
    """``value[key]``. Of files, a folder alone has items; raises ``TypeError`` for others."""
    if getattr(value, "_cited_as", "folder") != "folder":
        raise TypeError
    return value[key]


def _mismatch(evidence: Evidence, where: str, text: Any, units: str) -> str:
    """What is wrong with a span of ``text``, a ``str`` or what stands for one."""
    start, end = evidence.start, evidence.end
    if not 0 <= start < end <= len(text):
        if max(abs(start), abs(end)) >> 63:  # Python writes no number of thousands of digits
            return f"{where} has {len(text):,} {units}; the numbers given are far beyond"
        return f"{where}[{start}:{end}] is no span of its {len(text):,} {units}"
    if end - start > MOST_CHARS:
        return f"{where}[{start}:{end}] is longer than {MOST_CHARS:,} {units}; cite the part that matters"
    try:
        if not isinstance(text, str) and (whole := text.span(start, end)) != (start, end):
            return f"{where}[{start}:{end}] cuts a character; the whole ones are [{whole[0]}:{whole[1]}]"
        found = text[start:end]
    except OSError as error:
        return f"{where} cannot be read: {error.strerror}"
    if found != evidence.text:
        held, said = (repr(text[:80]) for text in (found, evidence.text))
        return f"{where}[{start}:{end}] holds {held}, not {said}; cite(...) finds the right place"
    return ""
