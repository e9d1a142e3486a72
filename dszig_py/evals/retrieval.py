"""Tasks of finding and following: what is asked for stands in a few places of the context.

Written from the descriptions in RULER (arXiv:2404.06654), the two-hop variant of key-value retrieval known from "Lost in
the Middle" (arXiv:2307.03172), and bAbI (arXiv:1502.05698) within long text.
"""

from __future__ import annotations

import random
import string

from dszig_py.evals import scoring
from dszig_py.evals.haystack import lines, scattered
from dszig_py.evals.tasks import Made, Task
from dszig_py.evals.words import ADJECTIVES, NOUNS, OBJECTS, PEOPLE, PLACES

__all__ = ["FACTS", "KV", "MULTIKEY", "NEEDLE", "VARIABLE_TRACKING"]

NUMBER_QUESTION = "What is the special number for {key}?"
NUMBER_FACT = "The special number for {key} is {number}."
TRACKING_QUESTION = (
    "Which variables hold the value {value} in the end, by themselves or through others? Give all names."
)
KV_QUESTION = "Look up the key {key}. Its value is a key as well: what is the value of that one?"
WHERE_QUESTION = "Where is the {thing} in the end?"
BEFORE_QUESTION = "Where was the {thing} before it was in the {place}, when it came there last?"

HOPS = 4
MOVES = ("{who} went to the {place}.", "{who} walked over to the {place}.", "{who} hurried to the {place}.")
TAKES = ("{who} took the {thing}.", "{who} picked up the {thing}.", "{who} grabbed the {thing}.")
DROPS = ("{who} put down the {thing}.", "{who} dropped the {thing}.", "{who} left the {thing} there.")


def _numbered(rng: random.Random, key: str) -> tuple[str, str]:
    number = str(rng.randrange(1_000_000, 10_000_000))
    return NUMBER_FACT.format(key=key, number=number), number


def _key(rng: random.Random) -> str:
    return f"{rng.choice(ADJECTIVES)}-{rng.choice(NOUNS)}"


def _needle(length: int, rng: random.Random) -> Made:
    key = _key(rng)
    fact, number = _numbered(rng, key)
    context = scattered(rng, length, [fact])
    return {"context": context, "question": NUMBER_QUESTION.format(key=key)}, number, {}


def _multikey(length: int, rng: random.Random) -> Made:
    """A sentence of the same form every 1,500 characters; many keys differ in their last sign only."""
    wanted = max(4, length // 1_500)
    keys: dict[str, None] = {}
    while len(keys) < wanted:
        keys[f"{_key(rng)}-{rng.randrange(10, 100)}"] = None
        keys[f"{next(reversed(keys))[:-1]}{rng.randrange(10)}"] = None
    told = [(key, *_numbered(rng, key)) for key in keys]
    key, _, number = rng.choice(told)
    context = scattered(rng, length, [fact for _, fact, _ in told])
    return {"context": context, "question": NUMBER_QUESTION.format(key=key)}, number, {"keys": len(told)}


def _variable_tracking(length: int, rng: random.Random) -> Made:
    """Chains of assignments: one sets a number, each of the next four copies from the one before."""
    chains = max(3, min(40, length // 8_000))
    letters = set[str]()
    while len(letters) < chains * (HOPS + 1):
        letters.add("".join(rng.choices(string.ascii_uppercase, k=5)))
    free = sorted(letters)
    rng.shuffle(free)
    values = rng.sample(range(10_000, 100_000), chains)
    names = [free[at * (HOPS + 1) : (at + 1) * (HOPS + 1)] for at in range(chains)]
    waiting = [_chain(value, chain) for value, chain in zip(values, names, strict=True)]
    told: list[str] = []
    while waiting:
        chain = rng.choice(waiting)
        told.append(chain.pop(0))
        if not chain:
            waiting.remove(chain)
    inputs = {"context": scattered(rng, length, told), "question": TRACKING_QUESTION.format(value=values[0])}
    return inputs, sorted(names[0]), {"chains": chains, "hops": HOPS}


def _chain(value: int, names: list[str]) -> list[str]:
    copies = [f"VAR {name} = VAR {names[at]}." for at, name in enumerate(names[1:])]
    return [f"VAR {names[0]} = {value}.", *copies]


def _kv(length: int, rng: random.Random) -> Made:
    """Lines of random keys and values; a third of the values are keys elsewhere, so that one hop looks like an answer."""
    table: list[tuple[str, str]] = []

    def line() -> str:
        key = _hex(rng)
        table.append((key, table[rng.randrange(len(table))][0] if table and rng.random() < 0.34 else _hex(rng)))
        return f"{table[-1][0]}: {table[-1][1]}"

    told = lines(length, line)
    del table[len(told) :]  # the last one did not fit
    values = dict(table)
    key = rng.choice([key for key, value in table if value in values])
    rng.shuffle(told)
    return (
        {"context": "\n".join(told), "question": KV_QUESTION.format(key=key)},
        values[values[key]],
        {"keys": len(told)},
    )


def _hex(rng: random.Random) -> str:
    return f"{rng.getrandbits(96):024x}"


class _House:
    """Who is where with what, and where each thing has been."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.at: dict[str, str] = {}
        self.held: dict[str, str] = {}  # thing -> person
        self.been: dict[str, list[str]] = {thing: [] for thing in OBJECTS}
        self.told: list[str] = []

    def step(self) -> None:
        who = self.rng.choice(PEOPLE)
        mine = [thing for thing, holder in self.held.items() if holder == who]
        # A thing nobody has touched may be found anywhere; afterwards only where it was left.
        near = [t for t in OBJECTS if t not in self.held and (not self.been[t] or self.been[t][-1] == self.at.get(who))]
        chance = self.rng.random()
        if who in self.at and near and chance < 0.3:
            self._take(who, self.rng.choice(near))
        elif mine and chance < 0.5:
            thing = self.rng.choice(mine)
            del self.held[thing]
            self._tell(DROPS, who=who, thing=thing)
        else:
            self._move(who, mine)

    def _take(self, who: str, thing: str) -> None:
        self.held[thing] = who
        if not self.been[thing]:
            self.been[thing].append(self.at[who])
        self._tell(TAKES, who=who, thing=thing)

    def _move(self, who: str, mine: list[str]) -> None:
        place = self.rng.choice([place for place in PLACES if place != self.at.get(who)])
        self.at[who] = place
        for thing in mine:
            self.been[thing].append(place)
        self._tell(MOVES, who=who, place=place)

    def _tell(self, forms: tuple[str, ...], **words: str) -> None:
        self.told.append(self.rng.choice(forms).format(**words))


def _facts(length: int, rng: random.Random) -> Made:
    """What people did in a house, told in order within a text about something else."""
    house = _House(rng)
    most = min(80, length // 120)
    while len(house.told) < most // 2 or (len(house.told) < most and max(map(len, house.been.values())) < 3):
        house.step()
    thing, been = max(house.been.items(), key=lambda entry: (len(entry[1]), entry[0]))
    if len(been) > 1 and rng.random() < 0.5:
        question, answer = BEFORE_QUESTION.format(thing=thing, place=been[-1]), been[-2]
    else:
        question, answer = WHERE_QUESTION.format(thing=thing), been[-1]
    meta = {"choices": PLACES, "facts": len(house.told)}
    return {"context": scattered(rng, length, house.told), "question": question}, answer, meta


_ANSWER = "context: str, question: str -> answer: str"

NEEDLE = Task(
    "needle", _ANSWER, ("retrieval",), _needle, scoring.contains, "single needle, RULER arXiv:2404.06654", smoke=True
)
MULTIKEY = Task(
    "multikey",
    _ANSWER,
    ("retrieval",),
    _multikey,
    scoring.contains,
    "multi-key needle, RULER arXiv:2404.06654",
    smoke=True,
)
VARIABLE_TRACKING = Task(
    "variable_tracking",
    "context: str, question: str -> answer: list[str]",
    ("retrieval", "multi-hop"),
    _variable_tracking,
    scoring.names,
    "variable tracking, RULER arXiv:2404.06654",
)
KV = Task(
    "kv", _ANSWER, ("retrieval", "multi-hop"), _kv, scoring.contains, "key-value retrieval arXiv:2307.03172, two hops"
)
FACTS = Task(
    "facts",
    _ANSWER,
    ("retrieval", "multi-hop", "order"),
    _facts,
    scoring.choice,
    "bAbI arXiv:1502.05698, tasks 2 and 3, within long text",
)
