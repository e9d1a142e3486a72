"""Judges: an example and what was answered to a :class:`Score` with words that help whoever has to improve."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Sequence
from typing import Any, cast

from dszig_py.evals.tasks import Example, Score
from dszig_py.previews import brief

__all__ = [
    "as_text",
    "choice",
    "compared",
    "contains",
    "contains_all",
    "contains_any",
    "count",
    "day",
    "names",
    "pairs",
]

SAID_CHARS = 1_000  # of an answer that has no text of its own
FARTHEST = 1e300  # no distance beyond it: an int may be longer than any float
MENTIONED = 5  # missing and surplus items named in a feedback


def contains(example: Example, given: Any) -> Score:
    """Whether the right text stands in the answer, as RULER counts it."""
    right = str(example.answer)
    if _has(as_text(given), right):
        return Score(1.0, "right")
    return Score(0.0, f"right is {right!r}, the answer was {as_text(given)[:200]!r}")


def contains_all(example: Example, given: Any) -> Score:
    """The share of the right texts that stand in the answer."""
    wanted = [str(text) for text in example.answer]
    missing = [text for text in wanted if not _has(as_text(given), text)]
    if not missing:
        return Score(1.0, "right")
    return Score(1 - len(missing) / len(wanted), f"missing: {_listed(missing)}")


def contains_any(example: Example, given: Any) -> Score:
    """Whether one of the right texts stands in the answer, as RULER counts questions that may be answered in several ways."""
    if any(_has(as_text(given), str(text)) for text in example.answer):
        return Score(1.0, "right")
    return Score(
        0.0, f"right is one of {_listed([str(t) for t in example.answer])}, the answer was {as_text(given)[:200]!r}"
    )


def choice(example: Example, given: Any) -> Score:
    """One of the alternatives in ``meta["choices"]``: the right one, and no other beside it."""
    said = [option for option in example.meta["choices"] if _has(as_text(given), option)]
    if said == [example.answer]:
        return Score(1.0, "right")
    return Score(0.0, f"right is {example.answer!r}, the answer was {as_text(given)[:200]!r}")


def count(example: Example, given: Any) -> Score:
    """0.75 to the power of the distance, as OOLONG scores numbers."""
    number = _number(given)
    if number is None:
        return Score(0.0, f"right is {example.answer}, the answer is no number: {as_text(given)[:200]!r}")
    off = abs(number - example.answer)
    if off == 0:
        return Score(1.0, "right")
    way = "many" if number > example.answer else "few"
    # Beyond a hundred the score is 0 to ten digits, and a power of a huge number takes for ever.
    told = f"right is {example.answer}, the answer was {as_text(number)[:30]}: {as_text(off)[:30]} too {way}"
    return Score(0.75**off if off < 100 else 0.0, told)


def identity(example: Example, given: Any) -> Score:
    """A number that is a name (a user's, say): near is as wrong as far."""
    if _number(given) == example.answer:
        return Score(1.0, "right")
    return Score(0.0, f"right is {example.answer}, the answer was {as_text(given)[:200]!r}")


COMPARISONS = ("more common", "less common", "same frequency")


def compared(example: Example, given: Any) -> Score:
    """One of OOLONG's three comparisons ("more common than", ...): the right one is said, and neither of the others."""
    said = [words for words in COMPARISONS if words in as_text(given).lower()]
    if len(said) == 1 and str(example.answer).lower().startswith(said[0]):
        return Score(1.0, "right")
    return Score(0.0, f"right is {example.answer!r}, the answer was {as_text(given)[:200]!r}")


def day(example: Example, given: Any) -> Score:
    """A date ("2023-01-05") in any of the usual ways to write one; where the day comes first its month is a word."""
    right = dt.date.fromisoformat(str(example.answer))
    text = re.sub(r"(?<=\d)(?:st|nd|rd|th)\b|,", "", as_text(given))
    if any(_has(text, form) for form in _written(right)):
        return Score(1.0, "right")
    return Score(0.0, f"right is {example.answer}, the answer was {as_text(given)[:200]!r}")


def _written(d: dt.date) -> list[str]:
    months = (f"{d:%B}", f"{d:%b}", f"{d:%b}.")
    words = [f"{m} {n} {d.year}" for m in months for n in (d.day, f"{d.day:02}")]
    words += [f"{n} {m} {d.year}" for m in months for n in (d.day, f"{d.day:02}")]
    return [d.isoformat(), f"{d:%Y/%m/%d}", f"{d:%m/%d/%Y}", f"{d.month}/{d.day}/{d.year}", *words]


def names(example: Example, given: Any) -> Score:
    """F1 of a set of names, without regard to order and case."""
    return _f1(
        {str(name).lower() for name in example.answer}, {as_text(name).strip().lower() for name in _items(given)}
    )


def pairs(example: Example, given: Any) -> Score:
    """F1 of a set of unordered pairs of numbers."""
    found = [_pair(pair) for pair in _items(given)]
    return _f1({_pair(pair) for pair in example.answer}, {pair for pair in found if pair})


def _f1(right: set[Any], given: set[Any]) -> Score:
    if right == given:
        return Score(1.0, "right")
    hits = len(right & given)
    value = 2 * hits / (len(right) + len(given))
    missing, surplus = sorted(right - given), sorted(given - right)
    parts = [f"missing: {_listed(missing)}"] * bool(missing) + [f"wrong: {_listed(surplus)}"] * bool(surplus)
    return Score(value, f"{hits} of {len(right)} are right; {'; '.join(parts)}")


def _listed(items: Sequence[Any]) -> str:
    more = f" and {len(items) - MENTIONED} more" if len(items) > MENTIONED else ""
    return ", ".join(as_text(item) for item in items[:MENTIONED]) + more


def as_text(given: Any) -> str:
    """An answer as text. Models also submit what has none: an int of 5,000 digits, lists a thousand deep."""
    try:
        return str(given)
    except Exception:  # outputs may be of any class
        return brief(given, SAID_CHARS)


def _has(text: str, wanted: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(wanted)}(?!\w)", text, re.IGNORECASE) is not None


def _number(given: Any) -> float | int | None:
    if isinstance(given, (int, float)) and not isinstance(given, bool):
        if given != given or abs(given) == float("inf"):  # noqa: PLR0124  # NaN is not itself
            return None
        return max(-FARTHEST, min(FARTHEST, given))
    found: list[str] = re.findall(r"-?\d[\d,]*(?:\.\d+)?", as_text(given))
    if not found:
        return None
    text = found[-1].replace(",", "")[:300]
    return float(text) if "." in text else int(text)


def _items(given: Any) -> Iterable[Any]:
    if isinstance(given, str):
        return [part for part in re.split(r"[,\n]", given) if part.strip()]
    return cast("Iterable[Any]", given) if isinstance(given, (list, tuple, set, frozenset)) else []


def _pair(pair: Any) -> tuple[int, ...]:
    found: list[Any] = (
        list(cast("list[Any]", pair)) if isinstance(pair, (list, tuple)) else re.findall(r"\d+", as_text(pair))
    )
    try:
        return tuple(sorted(int(number) for number in found))
    except (TypeError, ValueError):
        return ()
