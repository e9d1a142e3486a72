"""Actions in other forms than fences: JSON objects, DSPy's field sections. Fences inside them are for a ``scan``."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable
from itertools import islice
from typing import Any, cast

from dszig_py.replies._python import Trials
from dszig_py.replies._told import CUT, MAX_MARKS, Extracted
from dszig_py.text import clean

__all__ = ["CODE_KEY", "JSON_START", "json_action", "marked"]

Scanner = Callable[[str, Trials], Extracted]
_LINE_FENCE = re.compile(r"^[ \t]*(?:`{3,}|~{3,})", re.M)
_JSON = json.JSONDecoder(strict=False)
JSON_START = re.compile(r'^[ \t]*(\{\s*["\'])', re.M)
CODE_KEY = re.compile(r'["\']code["\']\s*:')
_REASONING_KEYS = ("reasoning", "thought", "thoughts", "next_thought", "rationale", "explanation", "plan")
_CALL_KEYS = ("arguments", "parameters", "args", "input", "action", "function")
_MARKER = re.compile(r"^[ \t]*\[\[ ## (\w+) ## \]\]", re.M)
_BLOCK = re.compile(r"`{3}|~{3}|<(?:code|python|execute)\b", re.I)
_FENCE_FIRST = re.compile(r"\s*(?:`{3,}|~{3,})")


def json_action(text: str, trials: Trials, scan: Scanner) -> Extracted | None:
    """The action in the JSON object that `text` begins with; None when it is no object or holds no code."""
    if not trials.take(len(text) // 10):  # ten times as fast as a parse
        return None
    try:
        value, end = _JSON.raw_decode(text)
    except (ValueError, RecursionError):
        # Some write the object as a Python literal: single quotes, triple quotes, trailing commas.
        if not CODE_KEY.search(text) or (tree := trials.tree(text)) is None:
            return None
        try:
            value, end = ast.literal_eval(ast.Expression(cast(ast.Expr, tree.body[0]).value)), len(text)
        except (ValueError, TypeError, AttributeError, RecursionError, MemoryError):
            return None
    for _ in range(4):
        if not isinstance(value, dict):
            return None
        fields = cast(dict[str, Any], value)
        if (codes := _strings(fields.get("code"))) is not None:
            said = [fields[key] for key in _REASONING_KEYS if isinstance(fields.get(key), str)]
            cells = [cell for code in codes for cell in _unwrap(clean(code), trials, scan)]
            return Extracted(tuple(cells), clean("\n\n".join([*said, text[end:]])))
        value = next((fields[key] for key in _CALL_KEYS if key in fields), None)
        if isinstance(value, str):
            try:
                value = _JSON.decode(value)
            except (ValueError, RecursionError):
                return None
    return None


def _strings(value: object) -> list[str] | None:
    items = cast(list[object], value) if isinstance(value, list) else [value]
    return [item for item in items if isinstance(item, str)] if all(isinstance(item, str) for item in items) else None


def _unwrap(code: str, trials: Trials, scan: Scanner) -> tuple[str, ...]:
    """Code that was fenced again, or escaped twice, inside the field that holds it."""
    if _FENCE_FIRST.match(code):
        return scan(code, trials).cells or (code,)
    if "\\n" in code and "\n" not in code and trials.tree(code) is None:
        plain = code.replace("\\n", "\n").replace('\\"', '"').replace("\\t", "\t")
        if trials.tree(plain) is not None:
            return (plain,)
    return (code,)


def marked(text: str, trials: Trials, scan: Scanner) -> Extracted | None:
    """The action of a reply in DSPy's `[[ ## field ## ]]` sections."""
    markers = list(islice(_MARKER.finditer(text), MAX_MARKS))
    at = next((i for i, marker in enumerate(markers) if marker[1].lower() == "code"), None)
    fence = _BLOCK.search(text)
    if at is None or (fence and fence.start() < markers[0].start()):
        return None
    end = markers[at + 1].start() if at + 1 < len(markers) else len(text)
    body = text[markers[at].end() : end].strip("\n")
    around = f"{text[: markers[at].start()]}\n{text[end:]}"
    if _LINE_FENCE.search(body) and trials.fit(body) is None:
        inner = scan(body, trials)
        return Extracted(inner.cells, f"{around}\n{inner.reasoning}", inner.problem)
    fit = trials.fit(body)
    if fit is None and end == len(text):
        return Extracted((), text, CUT)
    return Extracted((fit[0] if fit else body,), around)
