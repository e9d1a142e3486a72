"""Values in a few hundred characters: their size in words, their head and tail, a bounded repr that never raises."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from enum import Enum
from itertools import islice
from typing import Any, cast

from dszig_py import arrays
from dszig_py.environments._worker.codec import fields_of
from dszig_py.images import Image

__all__ = ["Brief", "brief", "preview", "size_text"]

_COUNT_LINES_UP_TO = 50_000_000  # characters


def size_text(value: Any) -> str:
    if isinstance(value, str):
        characters = _count(len(value), "character")
        if not 0 < len(value) < _COUNT_LINES_UP_TO:
            return characters
        return f"{characters}, {_count(value.count(chr(10)) + (value[-1] != chr(10)), 'line')}"
    if isinstance(value, (bytes, bytearray)):
        return _count(len(value), "byte")
    if isinstance(value, Image):
        return value.about
    if isinstance(value, Mapping):
        return _count(len(cast("Mapping[Any, Any]", value)), "key")
    if isinstance(value, (list, tuple, set, frozenset)):
        items = cast("Sequence[Any]", value)
        chars = sum(len(i) for i in items if isinstance(i, str))
        return _count(len(items), "item") + (f", {_count(chars, 'character')} in all" if chars else "")
    return arrays.size(value) if arrays.is_array(value) else ""


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"


def preview(value: Any, limit: int) -> tuple[str, bool]:
    """At most about ``limit`` characters of ``value``, and whether that is all of it."""
    if isinstance(value, str):
        # Line ends and quotes take two characters in a literal: text within the limit is still whole.
        if len(value) <= limit and len(literal := repr(value)) <= 2 * limit + 2:
            return literal, True
        head, tail = _literal(value, limit * 3 // 4), _literal(value, limit // 4, end=True)
        return f"starts {head}\n     ends {tail}", False
    if arrays.is_array(value):
        return arrays.preview(value, limit)
    shown = Brief(limit)
    return shown.of(value), shown.whole


def brief(value: Any, limit: int) -> str:
    """At most ``limit`` characters of ``value``'s repr; never raises, and looks at no more of a value than it shows."""
    return Brief(limit).of(value)


def _literal(value: Any, limit: int, *, end: bool = False) -> str:
    """As much of the head or the end of text or bytes as makes a literal of about ``limit`` characters."""
    take = limit
    while True:
        shown = repr(value[-take:] if end else value[:take])
        if len(shown) <= limit + 3 or take <= 1:
            return shown
        take = max(1, take * limit // len(shown))  # escapes take up to ten characters each


class Brief:
    """A bounded repr, built of pieces until there are enough. ``whole``: nothing was left out."""

    LEVELS = 5

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._items = max(limit // 20, 3)
        self._text = max(limit // 4, 40)
        self.whole = True

    def of(self, value: Any) -> str:
        pieces: list[str] = []
        size = 0
        for piece in self._pieces(value, self.LEVELS):
            pieces.append(piece)
            size += len(piece)
            if size > self._limit:
                self.whole = False
                return f"{''.join(pieces)[: max(self._limit - 4, 0)]} ..."
        return "".join(pieces)

    def _pieces(self, value: Any, level: int) -> Iterator[str]:
        name: str = type(value).__name__
        if isinstance(value, Image):
            self.whole = False
            yield repr(value)
        elif value is None or isinstance(value, (bool, float, Enum)):
            yield self._repr(value)
        elif isinstance(value, (str, bytes, bytearray)):
            yield self._ends(value)
        elif isinstance(value, int):
            yield self._integer(value)
        elif isinstance(value, Mapping):
            items = cast("Mapping[Any, Any]", value)
            yield from self._group("{", items.items(), len(items), "}", level, ": ")
        elif isinstance(value, (list, tuple)):
            items = cast("Sequence[Any]", value)
            ends = "[]" if isinstance(value, list) else ("(", ",)" if len(items) == 1 else ")")
            yield from self._group(ends[0], items, len(items), ends[1], level)
        elif isinstance(value, AbstractSet):
            members = cast("AbstractSet[Any]", value)
            ends = ("{", "}") if name == "set" else (f"{name}({{", "})")
            ends = ends if members else (f"{name}(", ")")
            yield from self._group(ends[0], self._in_order(members), len(members), ends[1], level)
        elif (fields := self._fields(value)) is not None:
            yield from self._group(f"{name}(", fields.items(), len(fields), ")", level, "=")
        else:
            yield self._cut(self._repr(value))

    def _group(
        self, opening: str, items: Iterable[Any], count: int, closing: str, level: int, between: str = ""
    ) -> Iterator[str]:
        yield opening
        if level <= 0 and count:
            self.whole = False
            yield "..."
        else:
            for number, item in enumerate(islice(items, self._items)):
                if number:
                    yield ", "
                if not between:
                    yield from self._pieces(item, level - 1)
                    continue
                key, each = item
                if between == "=":
                    yield str(key)
                else:
                    yield from self._pieces(key, level - 1)
                yield between
                yield from self._pieces(each, level - 1)
            if count > self._items:
                self.whole = False
                yield ", ..."
        yield closing

    def _in_order(self, members: AbstractSet[Any]) -> Iterable[Any]:
        """The smallest members: a set's own order differs from process to process, and prompts should not."""
        try:
            return heapq.nsmallest(self._items, members)
        except (TypeError, ArithmeticError):  # no order between them; a Decimal that is NaN raises the second
            return members

    def _ends(self, value: str | bytes | bytearray) -> str:
        if len(value) <= self._text and len(literal := repr(value)) <= 2 * self._text:
            return literal
        self.whole = False
        half = self._text // 2
        return f"{_literal(value, half)}...{_literal(value, half, end=True)}"

    def _integer(self, value: int) -> str:
        if value.bit_length() <= 8 * self._text:  # repr refuses above 4,300 digits
            return self._cut(self._repr(value))
        self.whole = False
        return f"<{type(value).__name__} of {value.bit_length():,} bits>"

    def _fields(self, value: Any) -> dict[str, Any] | None:
        try:
            return fields_of(value)
        except Exception:  # a property of the value's own
            return None

    def _repr(self, value: Any) -> str:
        try:
            return repr(value)
        except Exception:  # the value's own code, or more digits than Python writes
            self.whole = False
            return f"<{type(value).__name__}>"

    def _cut(self, text: str) -> str:
        if len(text) <= self._text:
            return text
        self.whole = False
        return f"{text[: self._text // 2]}...{text[-(self._text // 2) :]}"
