"""What the stand-in answers from a prompt: the sentences that match its question best, as the outputs that are asked for."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Any, cast

from dszig_py.lm._offline_contract import ASKING, TEXT, Leaf, read_contract

__all__ = [
    "COMMON",
    "MOST_CHARS",
    "MOST_SENTENCES",
    "NOTHING",
    "NOTHING_FOUND",
    "Found",
    "extraction_reply",
    "filled_in",
    "found_in",
    "matching_sentences",
    "noted_lines",
    "wanted_schema",
]

NOTHING = "nothing relevant"

NOTHING_FOUND = "Nothing in the inputs matches the question."

MOST_CHARS = 1_000  # a text output stays under this

MOST_SENTENCES = 6

COMMON = """\
a about all an and any are as at be been but by can could did do does for from get give had has have how i if in into
is it its let me my no not of on or our please say says should so some tell than that the their them then there these
they this to us was we were what when where which who whom whose why will would you your"""


def extraction_reply(asked: str) -> str:
    """One JSON object from what the history shows; ``null`` where it shows nothing."""
    head, _, done = asked.partition("\n\nWhat was done:\n")
    found = Found(tuple(noted_lines(done)))
    outputs = read_contract(head).outputs
    filled = {name: filled_in(plan, found) if found.sentences else None for name, plan in outputs.items()}
    return json.dumps(filled, ensure_ascii=False)


def noted_lines(observations: str) -> Iterator[str]:
    """The sentences that sub-calls gave, as the search prints them."""
    for line in observations.splitlines():
        if line.startswith("- "):
            yield from _sentences(line.removeprefix("- "))


@dataclass(frozen=True, slots=True)
class Found:
    """The sentences found, best first, and what can be read off them."""

    sentences: tuple[str, ...]

    @property
    def best(self) -> list[str]:
        best: list[str] = []
        for sentence in dict.fromkeys(self.sentences[:MOST_SENTENCES]):
            if len(" ".join([*best, sentence])) < MOST_CHARS:
                best.append(sentence)
        return best

    @property
    def text(self) -> str:
        return " ".join(self.best) or NOTHING_FOUND

    @property
    def numbers(self) -> list[float]:
        plain = re.sub(r"(?<=\d),(?=\d{3})", "", self.text)
        return [float(n) for n in re.findall(r"(?<![\w.])-?\d{1,15}(?:\.\d{1,15})?(?!\w)", plain)]


WRITTEN = "answer.txt"  # the file that stands for every output that is one


def filled_in(plan: Any, found: Found) -> Any:
    """A plan's value as JSON data."""
    if isinstance(plan, dict):
        return {name: filled_in(item, found) for name, item in cast("dict[str, Any]", plan).items()}
    if isinstance(plan, list):
        return [filled_in(item, found) for item in cast("list[Any]", plan)]
    if not isinstance(plan, Leaf) or (plan.optional and not found.sentences):
        return None
    most = None if plan.high is None else int(plan.high)
    match plan.kind:
        case "text":
            return found.text[:most]
        case "texts":
            return found.best[:most]
        case "integers":
            return [int(number) for number in found.numbers[:most]]
        case "numbers":
            return found.numbers[:most]
        case "boolean":
            return bool(found.sentences)
        case "file":
            return WRITTEN
        case "day":
            days = re.findall(r"\b[12]\d{3}-(?:0[1-9]|1[0-2])-(?:0[1-9]|1\d|2[0-8])\b", found.text)
            return days[0] if days else "1970-01-01"
        case "choice":
            return max(plan.options, key=lambda option: found.text.lower().count(str(option).lower()))
        case _:
            return _number(plan, found)


def _number(plan: Leaf, found: Found) -> float:
    number = found.numbers[0] if found.numbers else 0.0
    if plan.low is not None:
        number = max(number, plan.low)
    if plan.high is not None:
        number = min(number, plan.high)
    return int(number) if plan.kind == "integer" else number


_COMMON = frozenset(COMMON.split())


def _words(text: str) -> list[str]:
    """As the search counts them: without common ones and plural s, and with neighbouring pairs."""
    words = re.findall(r"[\u3040-\u9fff]|[^\W\u3040-\u9fff]+", text.lower())
    kept = [word.rstrip("s") if len(word) > 3 else word for word in words if word not in _COMMON]
    return [*kept, *(f"{one} {two}" for one, two in pairwise(kept))]


def _sentences(text: str) -> Iterator[str]:
    for piece in re.split(r"(?<=[.!?])\s+|(?<=[\u3002\uff01\uff1f])|\n\s*\n|\n\W{4,}\n", text):
        for part in [piece] if len(piece) < 400 else re.findall(r"[^\n]{1,350}\S{0,50}", piece):
            if part.strip():
                yield " ".join(part.split())


def matching_sentences(text: str, question: str) -> list[str]:
    """Sentences of ``text`` that hold words of ``question``, best first; none that is far from the best."""
    terms = list(dict.fromkeys(_words(question[:2_000])))
    pool = {sentence: Counter(_words(sentence)) for sentence in dict.fromkeys(_sentences(text))}
    held = Counter(term for counts in pool.values() for term in terms if term in counts)
    rarity = {term: math.log(1 + len(pool) / (1 + held[term])) for term in terms}
    average = sum(counts.total() for counts in pool.values()) / max(len(pool), 1)

    def bm25(counts: Counter[str]) -> float:
        damping = 1.2 * (0.5 + 0.5 * counts.total() / max(average, 1))
        return sum(rarity[term] * 2.2 * counts[term] / (counts[term] + damping) for term in terms)

    value = {s: bm25(counts) * (1 if s.endswith((".", "!", "?", "。")) else 0.5) for s, counts in pool.items()}
    ranked = sorted(pool, key=lambda sentence: -value[sentence])
    return [sentence for sentence in ranked if value[sentence] > 0.4 * value[ranked[0]]]


def found_in(prompt: str, task: str) -> Found:
    """What a prompt holds on the question in it, or on the task; where nothing matches, how its text begins."""
    question, rest = _question(prompt, task)
    rest = re.sub(r"^\w+:[ \t]*\n", "\n\n", rest, flags=re.M)  # labels of what follows
    return Found(tuple(matching_sentences(rest, question) or islice(_sentences(rest if rest.strip() else prompt), 3)))


_LABELLED = re.compile(rf"^[ \t]*(?:{ASKING})[ \t]*:\s*(\S.*)$", re.I | re.M)


def _question(prompt: str, task: str) -> tuple[str, str]:
    """What asks, and everything else: a labelled line, the task, a line that ends like one that asks, the last line."""
    if labelled := _LABELLED.search(prompt):
        return labelled[1], prompt[: labelled.start()] + prompt[labelled.end() :]
    if task:
        return task, prompt
    lines = [line for line in prompt.splitlines() if line.strip()]
    if not lines:
        return "", ""
    first, last = lines[0].rstrip(), lines[-1].rstrip()
    if not last.endswith("?") and first.endswith(("?", ":")):
        return first, "\n".join(prompt.splitlines()[1:])
    return last, prompt[: prompt.rindex(last)]


def wanted_schema(schema: Mapping[str, Any] | None, prompt: str) -> Mapping[str, Any] | None:
    """The JSON schema a reply is to follow: given with the request, or of texts under the keys the prompt names."""
    if schema is not None:
        for wrapper in ("json_schema", "schema"):  # as providers take it
            schema = cast("Mapping[str, Any]", schema[wrapper]) if wrapper in schema else schema
        return schema
    if not re.search(r"\bJSON\b", prompt):
        return None
    named = re.search(r"\bkeys?\b[ :]+([^.;\n]{1,300})", prompt)
    names = re.findall(r"\b[A-Za-z_]\w*\b", named[1]) if named else re.findall(r'"(\w+)"\s*:', prompt)
    names = [name for name in dict.fromkeys(names) if name not in ("and", "or", "are")]
    return {"required": names, "properties": dict.fromkeys(names, TEXT)} if names else None
