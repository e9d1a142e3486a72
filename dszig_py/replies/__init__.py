"""The code that a model's reply means: fences, tags, JSON, or the reply as a whole; else what to tell the model."""

from __future__ import annotations

import json
import re
from itertools import islice
from typing import Any, cast

from dszig_py.replies._fences import Scan, scan
from dszig_py.replies._forms import CODE_KEY, JSON_START, json_action, marked
from dszig_py.replies._python import Trials, acts
from dszig_py.replies._thoughts import end_of_thoughts, prose
from dszig_py.replies._told import BAD_JSON, BLANK, EMPTY, MAX_CELLS, ONLY_THOUGHTS, TOO_MANY, Extracted
from dszig_py.text import clean

__all__ = ["Extracted", "extract_code", "read_json"]


def extract_code(reply: str | None) -> Extracted:
    """The code cells in `reply`, or what to tell the model instead. Never raises; time is about linear."""
    text = clean(reply or "").strip()
    if not text:
        return Extracted((), "", EMPTY)
    if plain := _plain(text):
        return plain
    start = end_of_thoughts(text)
    thoughts, rest = text[:start], text[start:].strip()
    if not rest:
        return Extracted((), prose(thoughts), ONLY_THOUGHTS)
    got = _extract(rest, Trials())
    cells: list[str] = []
    for cell in got.cells:
        # A model that repeats its block means it once.
        if cell.strip() and cell.rstrip() not in cells[-1:]:
            cells.append(cell.rstrip())
    problem = TOO_MANY if len(cells) > MAX_CELLS else got.problem
    if not cells and not problem:
        problem = BLANK
    return Extracted(tuple(cells[:MAX_CELLS]), prose(f"{thoughts}\n\n{got.reasoning}"), problem)


# Prose, one labelled fence, nothing else that could mean anything: what most replies are, read without trial parses.
_PLAIN = re.compile(r"((?:[^`~<\[{]*\n)?)```(?:python|py)\n([^`~\s][^`~]*)\n```\s*\Z")


def _plain(text: str) -> Extracted | None:
    match = _PLAIN.match(text)
    if match is None or not match[2].strip() or ">>>" in match[2]:
        return None
    return Extracted((match[2].rstrip(),), prose(match[1]))


def _extract(text: str, trials: Trials) -> Extracted:
    if text.startswith("{") and (action := json_action(text, trials, scan)):
        return action
    # Before any fence is looked for: outside a string literal a fence is a syntax error, so a reply that parses as a
    # whole has its fences in literals.
    if (fit := trials.fit(text)) and acts(*fit):
        return Extracted((fit[0],), "")
    if sections := marked(text, trials, scan):
        return sections
    fences = Scan(text, trials)
    found = fences.run()
    if found.cells or fences.cut:
        return found
    for match in islice(JSON_START.finditer(text), 5):
        start = match.end() - len(match[1])
        if action := json_action(text[start:], trials, scan):
            return Extracted(action.cells, f"{text[:start]}\n{action.reasoning}")
    if text.startswith("{") and CODE_KEY.search(text):
        return Extracted((), text, BAD_JSON)
    return found


def read_json(text: str) -> dict[str, Any] | None:
    """The last JSON object in a reply, fenced or bare, or ``None``. Linear in the text's length but for nesting."""
    decoder = json.JSONDecoder(strict=False)
    found: dict[str, Any] | None = None
    start, tries = text.find("{"), 0
    while start != -1 and tries < 200:
        tries += 1
        try:
            value, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            start = text.find("{", start + 1)
            continue
        if isinstance(value, dict):
            found = cast("dict[str, Any]", value)
        start = text.find("{", end)
    return found
