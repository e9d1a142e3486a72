"""One line of the `repl` language, read: ``let n = e``, ``llm_query n = e``, ``print(e)``, ``FINAL(e)`` and their like.

The statements are zigrlm's. Added here: subscripts (``context[0:2000]``, ``docs[3]``, ``row["id"]``), without which a long
input could only be sent whole, numbers, and named arguments. What is not in the grammar is an error that says how to
write it; there are no loops, no conditions and no definitions, so a program is never longer than its text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["Argument", "Expression", "Part", "ScriptError", "Statement", "Term", "parse"]

_TOKEN = re.compile(
    r"""
      (?P<skip>\s+|\#.*)
    | (?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
    | (?P<number>-?\d+(?:\.\d+)?)
    | (?P<name>[^\W\d]\w*)
    | (?P<mark>[=+|,()\[\]:])
    """,
    re.VERBOSE | re.DOTALL,
)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\", '"': '"', "'": "'"}
_CALLED = ("print", "FINAL", "FINAL_VAR", "SUBMIT", "SHOW_VARS", "budget")  # written NAME(...), without a target


class ScriptError(Exception):
    """A line that cannot be obeyed. ``kind``: the name of the builtin exception that Python would raise for the like."""

    def __init__(self, message: str, kind: str = "SyntaxError") -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class Part:
    """A subscript: ``key`` of an item, or the bounds of a slice where ``is_slice``."""

    key: str | int = 0
    start: int | None = None
    stop: int | None = None
    is_slice: bool = False


@dataclass(frozen=True, slots=True)
class Term:
    """A variable's ``name`` and what is taken of it, or, with no name, ``text`` as it is."""

    text: str = ""
    name: str = ""
    parts: tuple[Part, ...] = ()


@dataclass(frozen=True, slots=True)
class Expression:
    """Terms joined with ``+``; one term alone keeps what it is, several are texts joined."""

    terms: tuple[Term, ...]


@dataclass(frozen=True, slots=True)
class Argument:
    """An expression, with a name where it was given as ``name=expression``."""

    value: Expression
    name: str = ""


@dataclass(frozen=True, slots=True)
class Statement:
    """``verb target = arguments``, or ``verb(arguments)`` with no target. ``items``: those that ``|`` separates."""

    verb: str
    target: str = ""
    arguments: tuple[Argument, ...] = ()
    items: tuple[Expression, ...] = ()


def parse(line: str) -> Statement | None:
    """The statement of one line, ``None`` for a blank one or a comment. Linear. Raises :class:`ScriptError`."""
    tokens = _tokens(line)
    return _Reader(tokens).statement() if tokens else None


def _tokens(line: str) -> list[tuple[str, str]]:
    tokens: list[tuple[str, str]] = []
    at = 0
    while at < len(line):
        match = _TOKEN.match(line, at)
        if match is None:
            if line[at] in "\"'":
                raise ScriptError(
                    "a text is not closed; it ends on its own line, and \\n in it stands for a line break"
                )
            raise ScriptError(f"{line[at]!r} has no meaning here")
        at = match.end()
        if match.lastgroup != "skip":
            tokens.append((match.lastgroup or "", match[0]))
    return tokens


def _unquoted(token: str) -> str:
    """A text without its quotes. An escape that is none stays as it is written, as in Python: patterns are full of them."""
    return _ESCAPE.sub(lambda m: _ESCAPES.get(m[1], m[0]), token[1:-1])


class _Reader:
    """The tokens of one line and how far they are read. Nothing here recurses or goes back."""

    def __init__(self, tokens: list[tuple[str, str]]) -> None:
        self._tokens = tokens
        self._at = 0

    def _peek(self) -> tuple[str, str]:
        return self._tokens[self._at] if self._at < len(self._tokens) else ("end", "the end of the line")

    def _next(self) -> tuple[str, str]:
        token = self._peek()
        self._at += 1
        return token

    def _accept(self, mark: str) -> bool:
        if self._peek() != ("mark", mark):
            return False
        self._at += 1
        return True

    def _expect(self, mark: str) -> None:
        if not self._accept(mark):
            raise ScriptError(f"expected {mark!r}, found {self._peek()[1]:.40}")

    def _end(self) -> None:
        if self._peek() == ("mark", "|"):
            raise ScriptError("| separates items of the forms that end in _batched; values are joined with +")
        if self._peek()[0] != "end":
            raise ScriptError(f"the line should end before {self._peek()[1]:.40}; values are joined with +")

    def statement(self) -> Statement:
        kind, verb = self._next()
        if kind != "name":
            raise ScriptError(f"a line begins with a statement such as let, print or FINAL, not with {verb:.40}")
        if self._accept("("):
            arguments = self._arguments(")")
            self._expect(")")
            self._end()
            if verb not in _CALLED:
                raise ScriptError(f"write it with the variable that takes the answer: {verb} NAME = ...")
            return Statement(verb, arguments=arguments)
        if self._accept("="):
            raise ScriptError(f"write: let {verb} = ..., or, for an answer: llm_query {verb} = ...")
        kind, target = self._next()
        if kind != "name" or verb in _CALLED:
            form = f"{verb}(...)" if verb in _CALLED else "let NAME = ..."
            raise ScriptError(f"{verb:.40} {target:.40} is no statement; write {form}")
        self._expect("=")
        return self._assigned(verb, target)

    def _assigned(self, verb: str, target: str) -> Statement:
        items: tuple[Expression, ...] = ()
        if verb.endswith("_batched"):
            items = self._items()
            arguments = self._arguments("") if self._accept(",") else ()
        else:
            arguments = self._arguments("")
        self._end()
        if not items and not arguments:
            raise ScriptError(f"{verb} {target} = needs a value")
        return Statement(verb, target, arguments, items)

    def _items(self) -> tuple[Expression, ...]:
        items = [self._expression()]
        while self._accept("|"):
            if self._peek()[0] == "end":  # zigrlm allows a last one
                break
            items.append(self._expression())
        return tuple(items)

    def _arguments(self, closing: str) -> tuple[Argument, ...]:
        found: list[Argument] = []
        while self._peek()[0] != "end" and self._peek() != ("mark", closing):
            found.append(self._argument())
            if not self._accept(","):
                break
        return tuple(found)

    def _argument(self) -> Argument:
        following = self._tokens[self._at + 1 : self._at + 2]
        name = ""
        if self._peek()[0] == "name" and following == [("mark", "=")]:
            name = self._next()[1]
            self._at += 1
        return Argument(self._expression(), name)

    def _expression(self) -> Expression:
        terms = [self._term()]
        while self._accept("+"):
            terms.append(self._term())
        return Expression(tuple(terms))

    def _term(self) -> Term:
        kind, token = self._next()
        if kind == "text":
            return Term(_unquoted(token))
        if kind == "number":
            return Term(token)
        if kind != "name":
            raise ScriptError(f"expected a text in quotes or a variable, found {token:.40}")
        parts: list[Part] = []
        while self._accept("["):
            parts.append(self._part())
            self._expect("]")
        return Term(name=token, parts=tuple(parts))

    def _part(self) -> Part:
        if self._peek()[0] == "text":
            return Part(_unquoted(self._next()[1]))
        start = self._whole()
        if self._accept(":"):
            return Part(start=start, stop=self._whole(), is_slice=True)
        if start is None:
            raise ScriptError(f"in [ ] stands a number, a text, or start:stop, not {self._peek()[1]:.40}")
        return Part(start)

    def _whole(self) -> int | None:
        kind, token = self._peek()
        if kind != "number":
            return None
        if "." in token or len(token) > 15:
            raise ScriptError(f"in [ ] stands a whole number of at most 15 digits, not {token:.40}")
        self._at += 1
        return int(token)
