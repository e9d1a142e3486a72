"""Checks of values across the boundary, both ways and whole."""

from __future__ import annotations

import datetime as dt
import decimal
import math
import uuid
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from dszig_py.testing.report import Bench, Check, check, expect, same

CHECKS: list[Check] = []
_ODD = "a\0b\ud800 \udfff ü 漢字 \U0001f600 \x1b[31m \r\n\u2028"
_BIG, _LARGE = 10_000_000, 5_000_000
_UTC = dt.UTC

# One of each kind, and the repr it must have inside.
VALUES: dict[str, Any] = {
    "none": None,
    "flag": True,
    "whole": -(2**80),
    "wide": 3**2000,
    "real": 0.1,
    "infinite": -math.inf,
    "text": "it's",
    "raw": b"\x00\xff",
    "tuple_": (1, ("a", [2])),
    "set_": {1, 2},
    "frozen": frozenset({"x"}),
    "nested": {1: {"a": {(2, 3): [None]}}, "~": "tag", "": {}},
    "moment": dt.datetime(2024, 2, 29, 12, 30, 1, 5, tzinfo=_UTC),
    "day": dt.date(1999, 12, 31),
    "clock": dt.time(23, 59, 59),
    "span": dt.timedelta(days=-1, microseconds=3),
    "exact": decimal.Decimal("1.10"),
    "id_": uuid.UUID(int=7),
    "empty": [[], {}, "", b"", set[int](), ()],
}


@dataclass
class Author:
    name: str
    born: int = 1900


class Book(BaseModel):
    title: str
    author: str
    tags: list[str] = []


@dataclass
class Shelf:
    books: list[Book] = field(default_factory=list[Book])
    owner: Author | None = None


@check(CHECKS)
async def every_kind_of_value_goes_in_whole(bench: Bench) -> None:
    async with bench.repl(VALUES) as repl:
        for name, value in VALUES.items():
            shown = await repl.good(f"{name}, type({name}).__name__")
            if len(repr(value)) < 900:
                expect(shown.value, repr((value, type(value).__name__)), f"input {name}")
        await repl.shows("wide == 3 ** 2000", "True")


@check(CHECKS)
async def every_kind_of_value_comes_out_whole(bench: Bench) -> None:
    async with bench.repl(VALUES, functions={"echo": same}) as repl:
        for name, value in VALUES.items():
            await repl.shows(f"echo({name}) == {name} and type(echo({name})) is type({name})", "True")
            execution = await repl.good(f"SUBMIT(answer={name})")
            outputs = execution.submission or {}
            expect((outputs.get("answer"), type(outputs.get("answer"))), (value, type(value)), f"SUBMIT of {name}")


@check(CHECKS)
async def not_a_number_crosses(bench: Bench) -> None:
    async with bench.repl({"x": math.nan}, functions={"echo": same}) as repl:
        await repl.shows("import math\nmath.isnan(x), math.isnan(echo([x])[0])", "(True, True)")
        submitted = (await repl.good("SUBMIT(answer=x)")).submission or {}
        expect(math.isnan(submitted["answer"]), True, "SUBMIT(nan)")


@check(CHECKS)
async def odd_text_crosses(bench: Bench) -> None:
    async with bench.repl({"odd": _ODD, "long": _ODD * 5_000}, functions={"echo": same}) as repl:
        await repl.shows("[hex(ord(c)) for c in odd]", str([hex(ord(c)) for c in _ODD]))
        await repl.shows(
            "long == odd * 5_000, echo(odd) == odd, echo({odd: [odd]}) == {odd: [odd]}", "(True, True, True)"
        )
        expect((await repl.good("SUBMIT(answer=odd)")).submission, {"answer": _ODD}, "SUBMIT")
        expect((await repl.good("print('ü漢\U0001f600', end='')")).stdout, "ü漢\U0001f600", "printed")
        expect((await repl.good("print('\\ud800\\x00', end='')")).stdout_chars, 2, "printed")
        await repl.fails("raise ValueError('\\udfff ü')", "ValueError")


@check(CHECKS)
async def big_values_cross(bench: Bench) -> None:
    text = "0123456789" * (_BIG // 10)
    async with bench.repl({"context": text}, functions={"echo": same, "size": len}) as repl:
        await repl.shows("len(context), context[-3:], context.count('9')", f"({_BIG}, '789', {_BIG // 10})")
        await repl.shows(f"size(context[:{_LARGE}]), len(echo(context[:{_LARGE}]))", f"({_LARGE}, {_LARGE})")
        submitted = (await repl.good(f"SUBMIT(answer=context[:{_LARGE}])")).submission or {}
        expect(submitted.get("answer"), text[:_LARGE], "SUBMIT")


@check(CHECKS)
async def records_keep_their_fields(bench: Bench) -> None:
    book = Book(title="Dune", author="Herbert", tags=["sf"])
    shelf = Shelf([book], Author("Ann"))
    async with bench.repl({"book": book, "shelf": shelf}, functions={"get": lambda: shelf}) as repl:
        await repl.shows("book.title, book['author'], book.tags", "('Dune', 'Herbert', ['sf'])")
        await repl.shows("shelf.books[0].title, shelf['owner']['name'], shelf.owner.born", "('Dune', 'Ann', 1900)")
        await repl.shows("repr(book)", repr(repr(book)))
        await repl.shows("'Dune' in str(shelf), get().owner.name", "(True, 'Ann')")
        submitted = (await repl.good("SUBMIT(answer=book)")).submission or {}
        expect(Book.model_validate(submitted["answer"]), book, "SUBMIT of a record")


@check(CHECKS)
async def what_cannot_cross_is_told(bench: Bench) -> None:
    async with bench.repl(outputs={"answer": str}, functions={"echo": same}) as repl:
        await repl.fails("SUBMIT(answer=lambda: 0)", "ValueError", "answer")
        await repl.good("r = echo([1, object(), 2])")
        await repl.shows("r[0], r[2]", "(1, 2)")
        expect((await repl.good("SUBMIT(answer='on')")).submission, {"answer": "on"}, "afterwards")
