"""The code that the stand-in writes: a search in the inputs, questions to itself, a typed SUBMIT."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from string import Template
from typing import Any, cast

from dszig_py.lm._offline_answers import (
    COMMON,
    MOST_CHARS,
    MOST_SENTENCES,
    NOTHING,
    NOTHING_FOUND,
    WRITTEN,
    Found,
    filled_in,
    noted_lines,
)
from dszig_py.lm._offline_contract import Contract, Leaf
from dszig_py.lm.base import Message

__all__ = ["ASK", "action_text", "look_code", "plain_submit_code", "search_code", "submit_code"]

WHO = "Offline stand-in: no model is at work here, only an extractive search."

ASK = f"Copy the one to three sentences of the passage that best answer the question, one a line, or reply: {NOTHING}."

MOST_PASSAGES = 6

SEARCH = Template(r'''
texts, query = $texts, $query

import math
import re
from collections import Counter, defaultdict

COMMON = set("""
$common
""".split())

def words(text):
    """Words in lower case without common ones and plural s, and each neighbouring pair of them."""
    # Chinese and Japanese put no spaces between words: there each character counts as one.
    found = re.findall(r"[\u3040-\u9fff]|[^\W\u3040-\u9fff]+", text.lower())
    kept = [word.rstrip("s") if len(word) > 3 else word for word in found if word not in COMMON]
    return kept + [f"{one} {two}" for one, two in zip(kept, kept[1:])]

def last_break(text, low, high):
    """Where the last paragraph, line or sentence between low and high ends; high if none does."""
    for mark in ("\n\n", "\n", ". "):
        at = text.rfind(mark, low, high)
        if at >= 0:
            return at + len(mark)
    return high

def passages(text):
    """(start, end) of pieces of about 1,200 characters that overlap a little."""
    start = 0
    while len(text) - start > 1400:
        end = last_break(text, start + 800, start + 1400)
        yield start, end
        start = last_break(text, end - 300, end - 100)
    yield start, len(text)

# Where nothing asks, the frequent words of the text say what it is about.
frequent = Counter(words(" ".join(text[:20_000] for text in texts[:10]))).most_common(8)
terms = $terms

# First pass, cheap enough for hundreds of megabytes: which words does each passage hold?
singles = sorted((term for term in terms if " " not in term), key=len)[-16:]
holding, total = defaultdict(list), 0
for number, text in enumerate(texts):
    for start, end in passages(text):
        lowered = text[start:end].lower()
        holding[tuple(word for word in singles if word in lowered)].append((number, start, end))
        total += 1
holding.pop((), None)

def rarity(count):
    return math.log(1 + total / (1 + count))

held = Counter()
for group, places in holding.items():
    held.update({word: len(places) for word in group})
groups = sorted(holding, key=lambda group: -sum(rarity(held[word]) for word in group))
candidates = [place for group in groups for place in holding[group]][:2000]

# Second pass: BM25 over the candidates.
counted = [Counter(words(texts[number][start:end])) for number, start, end in candidates]
average = sum(counts.total() for counts in counted) / max(len(counted), 1)
weight = {term: rarity(sum(term in counts for counts in counted)) for term in terms}

def bm25(counts):
    damping = 1.2 * (0.25 + 0.75 * counts.total() / max(average, 1))
    return sum(weight[term] * 2.2 * counts[term] / (counts[term] + damping) for term in terms)

scores = [bm25(counts) for counts in counted]
found = []
for i in sorted(range(len(scores)), key=lambda i: -scores[i])[:$most]:
    if scores[i] > 0:
        number, start, end = candidates[i]
        found.append(texts[number][start:end])
        print(f"score {scores[i]:.1f}: text {number}, characters {start:,} to {end:,}")
print(f"{total:,} passages, {len(candidates):,} candidates, {len(found)} taken")
''')

SUB_CALLS = Template(r"""
ask = "$ask"
prompts = [f"{ask}\n\nQuestion: {query[:2000]}\n\nPassage:\n{passage}" for passage in found]
answers = llm_query_batched(prompts)
useful = [answer for answer in answers if isinstance(answer, str) and "$nothing" not in answer.lower()]
quotes = [line for answer in useful for line in answer.splitlines() if line.strip()]
for quote in quotes:
    print("-", quote)
print(f"{len(useful)} of {len(answers)} sub-calls gave something")
""")

NO_SUB_CALLS = """
quotes = []  # no sub-calls can be made: the passages themselves have to do
"""

CHOOSE = Template(r'''
def sentences(text):
    """Sentences, or lines where no sentence ends for long; rulers under headings end them too."""
    for piece in re.split(r"(?<=[.!?])\s+|(?<=[\u3002\uff01\uff1f])|\n\s*\n|\n\W{4,}\n", text):
        for part in [piece] if len(piece) < 400 else re.findall(r"[^\n]{1,350}\S{0,50}", piece):
            if part.strip():
                yield " ".join(part.split())

pool = dict.fromkeys(sentence for text in quotes or found for sentence in sentences(text))
# What has no end is a heading, or leads up to something that would be missing.
value = {s: bm25(Counter(words(s))) * (1 if s.endswith((".", "!", "?", "。")) else 0.5) for s in pool}
enough = 0.5 * max(value.values(), default=0)
best = []
for sentence in pool:  # in the order of the passages they are from
    if value[sentence] >= enough > 0 and len(best) < $sentences and len(" ".join([*best, sentence])) < $chars:
        best.append(sentence)
text = " ".join(best) or "$nothing"
''')

NUMBERS = r"""
plain = re.sub(r"(?<=\d),(?=\d{3})", "", text)
numbers = [float(n) for n in re.findall(r"(?<![\w.])-?\d{1,15}(?:\.\d{1,15})?(?!\w)", plain)]
number = Counter(numbers).most_common(1)[0][0] if numbers else 0
"""

DAYS = r"""
days = re.findall(r"\b[12]\d{3}-(?:0[1-9]|1[0-2])-(?:0[1-9]|1\d|2[0-8])\b", text)
day = days[0] if days else "1970-01-01"
"""

CLOSEST = r'''
def closest(options):
    """The option that is named most often near the answer; the first if none is."""
    near = " ".join([text, *found]).lower()
    return max(options, key=lambda option: len(re.findall(rf"\b{re.escape(str(option).lower())}\b", near)))
'''


FILE = Template(r'''
def written():
    """The path of a file that holds the answer."""
    path = f"{scratch}/$name"
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    return path
''')


def action_text(reasoning: str, *cells: str) -> str:
    return "\n\n".join([f"{WHO} {reasoning}", *(f"```python\n{cell.strip()}\n```" for cell in cells)])


def look_code(contract: Contract) -> str:
    lines: list[str] = []
    for v in contract.variables:
        what = [f'"{v.name}:"', f"type({v.name}).__name__"]
        if v.kind == "other":
            what.append(f"repr({v.name})[:300]")
        elif v.kind in ("text", "bytes"):
            what += [f"len({v.name})", f"{v.name}[:150]", *([f"{v.name}[-150:]"] if v.size > 150 else [])]
        else:
            what += [f"len({v.name})", f"repr(next(iter({v.name}), None))[:300]"]
        lines.append(f'print({", ".join(what)}, sep="\\n  ")')
    return "\n".join(lines) or "SHOW_VARS()"


_AS_TEXTS = {
    "text": "{0}",
    "bytes": '{0}.decode("utf-8", "replace")',
    "items": "*map(str, {0})",
    "keys": '*(f"{{key}}: {{value}}" for key, value in {0}.items())',
    "other": "str({0})",
}

_TERMS_ASKED = "list(dict.fromkeys(words(query[:2000]))) or [word for word, _ in frequent]"

_TERMS = "list(dict.fromkeys([*words(query), *(word for word, _ in frequent)]))"


def search_code(contract: Contract, remaining: str) -> str:
    texts: list[str] = []
    for v in contract.sources:
        unordered = v.type.startswith(("set", "frozenset"))  # their order changes from process to process
        texts.append(("*sorted(map(str, {0}))" if unordered else _AS_TEXTS[v.kind]).format(v.name))
    asked = [v.name if v.kind == "text" else f"str({v.name})" for v in contract.queries]
    query = f'" ".join([{", ".join(asked)}])' if len(asked) > 1 else "".join(asked) or repr(contract.task[:500])
    left = re.search(r"(\d+) sub-call", remaining)
    calls = min(int(left[1]) if left else MOST_PASSAGES, MOST_PASSAGES) if contract.batched else 0
    terms = _TERMS_ASKED if asked else _TERMS
    shown = {"texts": f"[{', '.join(texts)}]", "query": query, "terms": terms, "common": COMMON}
    search = SEARCH.substitute(shown, most=calls or MOST_PASSAGES)
    return search + (SUB_CALLS.substitute(ask=ASK, nothing=NOTHING) if calls else NO_SUB_CALLS)


def submit_code(contract: Contract) -> str:
    values = {name: _source(plan) for name, plan in contract.outputs.items()}
    parts = [CHOOSE.substitute(sentences=MOST_SENTENCES, chars=MOST_CHARS, nothing=NOTHING_FOUND)]
    helpers = (("number", NUMBERS), ("day", DAYS), ("closest(", CLOSEST), ("written()", FILE.substitute(name=WRITTEN)))
    parts += [helper for word, helper in helpers if any(word in value for value in values.values())]
    return "".join([*parts, "\n", _call(values)])


def _call(values: Mapping[str, str]) -> str:
    arguments = [f"{name}={value}" for name, value in values.items()]
    line = f"SUBMIT({', '.join(arguments)})"
    return line if len(line) < 100 else "\n".join(["SUBMIT(", *(f"    {argument}," for argument in arguments), ")"])


def _source(plan: Any) -> str:
    """Python that builds a plan's value from the variables of the search."""
    if isinstance(plan, dict):
        return f"{{{', '.join(f'{k!r}: {_source(v)}' for k, v in cast('dict[str, Any]', plan).items())}}}"
    if isinstance(plan, list):
        return f"[{', '.join(_source(item) for item in cast('list[Any]', plan))}]"
    if not isinstance(plan, Leaf):
        return "None"
    cut = "" if plan.high is None else f"[:{int(plan.high)}]"
    source = {
        "text": f"text{cut}",
        "texts": f"best{cut}",
        "integer": _bounded("int(number)", plan),
        "integers": f"[int(number) for number in numbers{cut}]",
        "number": _bounded("float(number)", plan),
        "numbers": f"numbers{cut}",
        "boolean": "bool(best)",
        "day": "day",
        "file": "written()",
        "choice": f"closest({list(plan.options)!r})",
    }[plan.kind]
    return f"{source} if best else None" if plan.optional else source


def _bounded(source: str, plan: Leaf) -> str:
    if plan.low is not None:
        source = f"max({source}, {plan.low!r})"
    return source if plan.high is None else f"min({source}, {plan.high!r})"


def plain_submit_code(contract: Contract, seen: Sequence[Message]) -> str:
    """SUBMIT of literals: it needs nothing that may have gone wrong or got lost."""
    found = Found(tuple(noted_lines("\n".join(m.content for m in seen))))
    return _call({name: repr(filled_in(plan, found)) for name, plan in contract.outputs.items()})
