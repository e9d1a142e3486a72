"""What an evaluation is made of: a :class:`Task` gives :class:`Example` values and judges outputs with a :class:`Score`."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dszig_py.errors import InputError

__all__ = ["LONGEST", "SHORTEST", "Example", "Made", "Score", "Task"]

SHORTEST, LONGEST = 2_000, 20_000_000  # characters of a generated context


@dataclass(frozen=True)
class Example:
    """One question with its inputs and its right answer.

    ``length`` is the length asked for, in characters; rows of a file stand under the nearest power of two. ``meta``: what
    a judge or a reader may want to know besides; no system is shown it.
    """

    id: str
    inputs: Mapping[str, Any] = field(repr=False)
    answer: Any
    task: str
    length: int
    meta: Mapping[str, Any] = field(default_factory=dict[str, Any], repr=False)


@dataclass(frozen=True, slots=True)
class Score:
    """How right an answer is, 0 to 1, and in words what was wrong with it."""

    value: float
    feedback: str = ""

    def __float__(self) -> float:
        return self.value


Made = tuple[Mapping[str, Any], Any, Mapping[str, Any]]
"""Inputs, answer and meta of one example."""


@dataclass(frozen=True)
class Task:
    """A kind of question over contexts of any length.

    ``abilities``: what one must be able to do. ``smoke``: a search with code alone solves it, so it tests the plumbing
    and separates no systems. ``source``: where the idea is from. ``make``: (length, random) to an example, or (number, _)
    where ``sizes`` has the lengths of a fixed number of rows. ``judge``: example and the value of ``output`` to a score.
    """

    name: str
    signature: str
    abilities: tuple[str, ...]
    make: Callable[[int, random.Random], Made] = field(repr=False)
    judge: Callable[[Example, Any], Score] = field(repr=False)
    source: str = ""
    smoke: bool = False
    output: str = "answer"
    sizes: Sequence[int] | None = field(default=None, repr=False)

    def example(self, length: int, *, seed: int = 0, index: int = 0) -> Example:
        """Example number ``index``: the same arguments always give the same one, on every machine."""
        if self.sizes is not None:
            inputs, answer, meta = self.make(index, random.Random())
            return Example(f"{self.name}/{index}", inputs, answer, self.name, _bucket(self.sizes[index]), meta)
        if not SHORTEST <= length <= LONGEST:
            raise InputError(f"{self.name}: a length is {SHORTEST:,} to {LONGEST:,} characters, not {length:,}")
        name = f"{self.name}/{length}/{seed}/{index}"
        inputs, answer, meta = self.make(length, random.Random(name))
        return Example(name, inputs, answer, self.name, length, meta)

    def examples(self, length: int, n: int, *, seed: int = 0) -> Iterator[Example]:
        """The first ``n`` examples, made one at a time."""
        for _, index in self.places((length,), n):
            yield self.example(length, seed=seed, index=index)

    def places(self, lengths: Sequence[int], n: int) -> Iterator[tuple[int, int]]:
        """(length, index) of the examples an evaluation takes. Rows of a file have lengths of their own."""
        if self.sizes is not None:
            yield from ((_bucket(size), index) for index, size in enumerate(self.sizes[:n]))
            return
        for index in range(n):
            yield from ((length, index) for length in lengths)

    def score(self, example: Example, outputs: Mapping[str, Any]) -> Score:
        """Judge a prediction's outputs; a missing one is worth nothing."""
        given = outputs.get(self.output)
        if given is None:
            return Score(0.0, f"no {self.output} was given; right is {_brief(example.answer)}")
        return self.judge(example, given)


def _bucket(size: int) -> int:
    return 2 ** round(math.log2(max(size, 1)))


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 500 else f"{text[:500]} ..."
