"""Tasks over the whole context: every item counts, so nothing can be skipped.

``frequent_words`` is written from RULER's description (arXiv:2404.06654). ``label_count`` and ``label_pairs`` follow the
ideas of OOLONG and of the pairs variant in the paper on recursive models (arXiv:2512.24601): what each item is takes
reading, what is asked takes counting.
"""

from __future__ import annotations

import random
from collections import Counter
from itertools import combinations, product

from dszig_py.evals import scoring
from dszig_py.evals.haystack import lines
from dszig_py.evals.labels import KIND_NAMES, item
from dszig_py.evals.tasks import Made, Task
from dszig_py.evals.templates import KINDS

__all__ = ["FREQUENT_WORDS", "LABEL_COUNT", "LABEL_PAIRS"]

FREQUENT_QUESTION = "Which three words occur most often in the context?"
_INTRO = (
    "Each line of the context is a question that somebody asked, after the number of the user who asked it. Every one "
    f"asks for an answer of one of these kinds: {'; '.join(f'{kind} ({about})' for kind, about in KINDS.items())}. "
)
COUNT_QUESTION = _INTRO + "How many of the questions ask for the kind {kind}?"
PAIRS_QUESTION = _INTRO + (
    "List all pairs of different users where one of the two asked at least once for the kind {one} and the other at least "
    "once for the kind {other}. Give each pair once, the smaller number first."
)
LINE = "User {user}: {text}"
VOCABULARY = 2_000


def _frequent_words(length: int, rng: random.Random) -> Made:
    """Made-up words with counts that fall as the square of the rank, as in RULER; the fourth is never as frequent."""
    words = list(dict.fromkeys(_word(rng) for _ in range(2 * VOCABULARY)))[:VOCABULARY]
    weights = [1 / rank**2 for rank in range(1, len(words) + 1)]
    while True:
        drawn = rng.choices(words, weights, k=length // 5)
        size, end = -1, 0
        while end < len(drawn) and size + len(drawn[end]) + 1 <= length:
            size += len(drawn[end]) + 1
            end += 1
        del drawn[end:]
        top = Counter(drawn).most_common(4)
        if top[2][1] > top[3][1]:
            break
    answer = sorted(word for word, _ in top[:3])
    return {"context": " ".join(drawn), "question": FREQUENT_QUESTION}, answer, {"words": len(drawn)}


def _word(rng: random.Random) -> str:
    return "".join(rng.choice("bdfgklmnprstvz") + rng.choice("aeiou") for _ in range(3))


def _label_count(length: int, rng: random.Random) -> Made:
    weights = [rng.uniform(0.5, 2.0) for _ in KIND_NAMES]
    kinds: list[str] = []

    def line() -> str:
        kinds.append(rng.choices(KIND_NAMES, weights)[0])
        return LINE.format(user=rng.randrange(10_000, 100_000), text=item(kinds[-1], rng))

    told = lines(length, line)
    del kinds[len(told) :]
    asked = rng.choice(KIND_NAMES)
    inputs = {"context": "\n".join(told), "question": COUNT_QUESTION.format(kind=asked)}
    return inputs, kinds.count(asked), {"kind": asked, "kinds": _coded(kinds)}


def _label_pairs(length: int, rng: random.Random) -> Made:
    """A few users ask for the one kind, a few for the other: the answer is quadratic in them and still short."""
    one, other = rng.sample(KIND_NAMES, 2)
    users = rng.sample(range(10_000, 100_000), max(8, min(200, length // 500)))
    allowed = {user: [kind for kind in KIND_NAMES if kind not in (one, other)] for user in users}
    for kind in (one, other):
        for user in rng.sample(users, rng.randint(3, 7)):
            allowed[user] = [*allowed[user], kind, kind]
    kinds: list[tuple[int, str]] = []

    def line() -> str:
        user = rng.choice(users)
        kinds.append((user, rng.choice(allowed[user])))
        return LINE.format(user=user, text=item(kinds[-1][1], rng))

    told = lines(length, line)
    del kinds[len(told) :]
    sets = [{user for user, kind in kinds if kind == wanted} for wanted in (one, other)]
    answer = [pair for pair in combinations(sorted(set(users)), 2) if _joined(pair, *sets)]
    inputs = {"context": "\n".join(told), "question": PAIRS_QUESTION.format(one=one, other=other)}
    return inputs, [list(pair) for pair in answer], {"kinds": _coded([kind for _, kind in kinds])}


def _joined(pair: tuple[int, int], one: set[int], other: set[int]) -> bool:
    return any(a in one and b in other for a, b in product(pair, pair) if a != b)


def _coded(kinds: list[str]) -> str:
    """The kinds of all items as one letter each, in order."""
    return "".join(kind[0] for kind in kinds)


FREQUENT_WORDS = Task(
    "frequent_words",
    "context: str, question: str -> answer: list[str]",
    ("aggregation",),
    _frequent_words,
    scoring.names,
    "frequent words extraction, RULER arXiv:2404.06654",
)
LABEL_COUNT = Task(
    "label_count",
    "context: str, question: str -> answer: int",
    ("semantics", "aggregation"),
    _label_count,
    scoring.count,
    "OOLONG: semantic items, distributional question",
)
LABEL_PAIRS = Task(
    "label_pairs",
    "context: str, question: str -> answer: list[tuple[int, int]]",
    ("semantics", "aggregation", "relations"),
    _label_pairs,
    scoring.pairs,
    "OOLONG-Pairs, arXiv:2512.24601",
)
