"""Background text of an exact length, with sentences scattered in it."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from dszig_py.evals.words import BACKGROUND, SLOTS

__all__ = ["filled", "lines", "scattered"]

PARAGRAPH = 7  # sentences


def filled(template: str, rng: random.Random) -> str:
    """``template`` with its slots filled."""
    return template.format_map(_Slots(rng))


class _Slots(dict[str, str]):
    """Looks up a slot by choosing a word for it, so that only the slots a template has are drawn."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self._rng = rng

    def __missing__(self, slot: str) -> str:
        return self._rng.choice(SLOTS[slot])


def scattered(rng: random.Random, length: int, sentences: Sequence[str]) -> str:
    """``sentences`` in their order at random places of a background text, ``length`` characters in all."""
    room = length - sum(len(sentence) + 1 for sentence in sentences)
    text = lines(room, lambda: filled(rng.choice(BACKGROUND), rng))
    places = sorted(rng.randrange(len(text) + 1) for _ in sentences)
    for place, sentence in zip(reversed(places), reversed(sentences), strict=True):
        text.insert(place, sentence)
    return "\n".join(" ".join(text[at : at + PARAGRAPH]) for at in range(0, len(text), PARAGRAPH))


def lines(room: int, make: Callable[[], str]) -> list[str]:
    """As many texts as fit into ``room`` characters, one character between them; the last one may be left out."""
    made: list[str] = []
    while True:
        text = make()
        room -= len(text) + 1
        if room < 0:
            return made
        made.append(text)
