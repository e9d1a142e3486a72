"""What a fake model can read: questions of the suite, answered from whatever text it is shown and nothing else."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from itertools import combinations, pairwise
from typing import Any

from dszig_py.evals import counting, retrieval

__all__ = ["QUESTIONS", "answer", "asked", "facts_of", "items_of"]

Label = Callable[[str], str | None]


def _pattern(form: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[\\w-]+?)", re.escape(form)))


QUESTIONS: dict[str, re.Pattern[str]] = {
    "number": _pattern(retrieval.NUMBER_QUESTION),
    "tracking": _pattern(retrieval.TRACKING_QUESTION),
    "kv": _pattern(retrieval.KV_QUESTION),
    "before": _pattern(retrieval.BEFORE_QUESTION),
    "where": _pattern(retrieval.WHERE_QUESTION),
    "frequent": _pattern(counting.FREQUENT_QUESTION),
    "count": _pattern(counting.COUNT_QUESTION),
    "pairs": _pattern(counting.PAIRS_QUESTION),
}


def asked(text: str) -> tuple[str, dict[str, str]] | None:
    """Which of the suite's questions stands last in ``text``, and its words."""
    found = [
        (match.start(), name, match.groupdict()) for name, form in QUESTIONS.items() for match in form.finditer(text)
    ]
    if not found:
        return None
    _, name, words = max(found, key=lambda one: one[0])
    return name, words


def answer(name: str, words: Mapping[str, str], text: str, label: Label) -> Any:
    """What ``text`` says on the question; ``None`` where it does not say."""
    match name:
        case "number":
            fact = retrieval.NUMBER_FACT.format(key=words["key"], number="@")
            found = re.search(re.escape(fact).replace("@", r"(\d+)"), text)
            return found[1] if found else None
        case "tracking":
            return _tracked(words["value"], text)
        case "kv":
            table = dict(re.findall(r"^(\w+): (\w+)$", text, re.MULTILINE))
            return table.get(table.get(words["key"], ""))
        case "where" | "before":
            return _place(words["thing"], words.get("place"), facts_of(text))
        case "frequent":
            return [word for word, _ in Counter(re.findall(r"\b[a-z]{6}\b", text)).most_common(3)]
        case "count":
            return sum(label(item) == words["kind"] for _, item in items_of(text))
        case _:
            return _pairs(words, [(int(user), label(item)) for user, item in items_of(text)])


def items_of(text: str) -> list[tuple[str, str]]:
    """(user, question) of every whole line of a label task."""
    return re.findall(r"^User (\d+): (.+[.?])$", text, re.MULTILINE)


def _tracked(value: str, text: str) -> list[str]:
    held = set[str]()
    for name, copied, number in re.findall(r"VAR (\w+) = (?:VAR (\w+)|(\d+))\.", text):
        if number == value or copied in held:
            held.add(name)
    return sorted(held)


def facts_of(text: str) -> list[tuple[str, str, str]]:
    """(person, "move", "take" or "drop", place or thing), in order."""
    who = "|".join(retrieval.PEOPLE)
    found = re.findall(rf"\b({who}) ([a-z ]+?) the (\w+)( there)?\.", text)
    verbs = {form.split(" ", 1)[1].split(" the ")[0]: "take" for form in retrieval.TAKES}
    verbs |= {form.split(" ", 1)[1].split(" the ")[0]: "drop" for form in retrieval.DROPS}
    return [(person, verbs.get(verb, "move"), what) for person, verb, what, _ in found]


def _place(thing: str, before: str | None, facts: Iterable[tuple[str, str, str]]) -> str | None:
    at: dict[str, str] = {}
    holder, been = "", list[str]()
    for person, did, what in facts:
        if did == "move":
            at[person] = what
        elif what == thing:
            holder = person if did == "take" else ""
        place = at.get(holder, "")
        if place and (not been or been[-1] != place):
            been.append(place)
    if before is None:
        return been[-1] if been else None
    earlier = [one for one, then in pairwise(been) if then == before]
    return earlier[-1] if earlier else None


def _pairs(words: Mapping[str, str], kinds: list[tuple[int, str | None]]) -> list[list[int]]:
    one, other = ({user for user, kind in kinds if kind == words[name]} for name in ("one", "other"))
    either = combinations(sorted(one | other), 2)
    return [[a, b] for a, b in either if (a in one and b in other) or (b in one and a in other)]
