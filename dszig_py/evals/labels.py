"""Items whose kind is obvious to a reader: made from :mod:`templates`, and recognised again by whoever knows those."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from functools import lru_cache

from dszig_py.evals.haystack import filled
from dszig_py.evals.templates import KINDS, TEMPLATES

__all__ = ["KIND_NAMES", "item", "kind_of"]

KIND_NAMES: tuple[str, ...] = tuple(KINDS)


def item(kind: str, rng: random.Random) -> str:
    """A question that asks for ``kind``."""
    return filled(rng.choice(TEMPLATES[kind]), rng)


def kind_of(text: str) -> str | None:
    """The kind of a question made here. This is what stands for understanding in a fake reader; no oracle uses it."""
    for kind, pattern in _patterns().get(_first_word(text), ()):
        if pattern.fullmatch(text):
            return kind
    return None


@lru_cache(maxsize=1)
def _patterns() -> dict[str, Sequence[tuple[str, re.Pattern[str]]]]:
    """By first word, which no template has a slot in: a tenth of all patterns is left to try."""
    table: dict[str, list[tuple[str, re.Pattern[str]]]] = {}
    for kind, templates in TEMPLATES.items():
        for template in templates:
            pattern = re.compile(re.sub(r"\\\{\w+\\\}", ".+?", re.escape(template)))
            table.setdefault(_first_word(template), []).append((kind, pattern))
    return dict(table)


def _first_word(text: str) -> str:
    return text.partition(" ")[0]
