"""Obeys the lines of a block, one after the other, until one fails or submits.

Total by construction: no line jumps, so a block takes as many steps as it has lines, and what a step may make, keep and
handle is bounded. The only waits are for the host, which has limits of its own, and for `js`, which has a deadline.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from dszig_py.environments._script import values
from dszig_py.environments._script.grammar import Argument, Expression, ScriptError, Statement, Term, parse
from dszig_py.environments._worker.cell import Output, short_repr
from dszig_py.environments.base import CallRefused, Host
from dszig_py.errors import DszigError
from dszig_py.signature import Field
from dszig_py.text import truncate

__all__ = ["Bounds", "Js", "Machine", "Result"]

Js = Callable[[str, dict[str, Any]], Awaitable[tuple[Any, dict[str, str]]]]
_TYPED = ("predict", "rlm_query")
_FINAL = ("FINAL", "SUBMIT")
_MAX_ERROR = 4_000
_ITEM_FAILED = "(failed: {error})"


@dataclass(frozen=True, slots=True)
class Bounds:
    """Characters of one block's text, of one value that a line makes, of all variables but the inputs, and of all that the
    lines of one block handle; ``lines``: statements in one block.
    """

    block: int = 200_000
    value: int = 10_000_000
    held: int = 50_000_000
    handled: int = 100_000_000
    lines: int = 1_000


@dataclass(frozen=True, slots=True)
class Result:
    """What a block came to: the outputs it submitted, or the error of the line that stopped it."""

    submission: dict[str, Any] | None = None
    error: str = ""


@dataclass
class Machine:
    """The variables of one session and what its lines may do. ``outputs``: the fields a submission has to fill."""

    host: Host
    outputs: Sequence[Field]
    inputs: dict[str, Any]
    js: Js | None = None
    no_js: str = "js is off"
    bounds: Bounds = field(default_factory=Bounds)

    def __post_init__(self) -> None:
        self.variables = dict(self.inputs)
        self._sizes: dict[str, int] = {}
        self._handled = 0

    def rebind(self, host: Host, outputs: Sequence[Field], inputs: dict[str, Any]) -> None:
        """Serve another run, whose inputs take the place of variables of their names."""
        self.host, self.outputs, self.inputs = host, outputs, inputs
        self.variables |= inputs
        self._sizes = {name: count for name, count in self._sizes.items() if name not in inputs}

    async def run(self, code: str, output: Output) -> Result:
        """Obey a block. Raises only what ends the run (:class:`DszigError`) and what cancels it."""
        self._handled = 0
        if len(code) > self.bounds.block:
            return Result(error=f"MemoryError: a block has at most {self.bounds.block:,} characters, not {len(code):,}")
        done = 0
        for number, line in enumerate(code.split("\n"), 1):
            try:
                statement = parse(line)
                if statement is None:
                    continue
                done += 1
                if done > self.bounds.lines:
                    raise ScriptError(f"a block has at most {self.bounds.lines:,} statements", "RuntimeError")
                submission = await self._obey(statement, output)
            except (ScriptError, CallRefused) as failure:
                told = truncate(str(failure), _MAX_ERROR)
                shown = f"    {line.strip():.300}\n(the block stops here)"
                return Result(error=f"line {number}: {failure.kind}: {told}\n{shown}")
            if submission is not None:
                return Result(submission)
            await asyncio.sleep(0)  # a long block of short steps still lets others run, and can be cancelled
        return Result()

    async def _obey(self, statement: Statement, output: Output) -> dict[str, Any] | None:
        verb = statement.verb
        if verb in _FINAL:
            return await self._submit([(a.name, self._value(a.value)) for a in statement.arguments])
        if verb == "FINAL_VAR":
            return await self._submit(self._named(statement.arguments))
        if verb == "print":
            output.write(self._handle(" ".join(self._text(a.value) for a in _unnamed(statement))) + "\n")
        elif verb in ("SHOW_VARS", "budget"):
            output.write(f"{await self._told(verb)}\n")
        elif verb in ("let", "set"):
            self.keep(statement.target, self._value(_single(statement)))
        elif verb == "js":
            await self._run_js(statement.target, self._text(_single(statement)))
        elif verb in self.host.functions:
            self.keep(statement.target, await self._asked(statement, output))
        else:
            known = ", ".join(["let", "print", "FINAL", *(n for n in self.host.functions if n not in _INSIDE)])
            raise ScriptError(f"there is no statement {verb:.40}; there are {known}")
        return None

    def _value(self, expression: Expression) -> Any:
        """A single term's value as it is, or several joined as text."""
        if len(expression.terms) == 1:
            return self._term(expression.terms[0])
        parts: list[str] = []
        room = self.bounds.value
        for term in expression.terms:
            parts.append(self._as_text(self._term(term)))
            room -= len(parts[-1])
            if room < 0:
                raise ScriptError(f"a text has at most {self.bounds.value:,} characters", "MemoryError")
        return self._handle("".join(parts))

    def _text(self, expression: Expression) -> str:
        return self._as_text(self._value(expression))

    def _term(self, term: Term) -> Any:
        if not term.name:
            return term.text
        value = self._variable(term.name)
        for part in term.parts:
            value = values.taken(value, part)
            if part.is_slice:
                self._handle(value)
        return value

    def _variable(self, name: str) -> Any:
        try:
            return self.variables[name]
        except KeyError:
            names = ", ".join(list(self.variables)[:20]) or "none yet"
            raise ScriptError(f"there is no variable {name!r:.60}; there are: {names:.300}", "NameError") from None

    def _as_text(self, value: Any) -> str:
        if isinstance(value, str):
            return value
        if values.size(value, self.bounds.value) > self.bounds.value:
            raise ScriptError("this value is too long to be written as one text; take items or slices", "MemoryError")
        return self._handle(values.text(value))

    def _handle(self, value: Any) -> Any:
        """Count what a step handles, so that a block of many long texts ends in bounded time."""
        self._handled += len(value)
        if self._handled > self.bounds.handled:
            told = f"a block handles at most {self.bounds.handled:,} characters; take slices"
            raise ScriptError(told, "MemoryError")
        return value

    def keep(self, name: str, value: Any) -> None:
        """Bind a variable. Raises :class:`ScriptError` where the variables would hold too much."""
        shared = any(value is given for given in self.inputs.values())
        count = len(name) + (0 if shared else values.size(value, self.bounds.held))
        if sum(self._sizes.values()) - self._sizes.get(name, 0) + count > self.bounds.held:
            raise ScriptError(f"the variables hold at most {self.bounds.held:,} characters", "MemoryError")
        self._sizes[name] = count
        self.variables[name] = value

    def _named(self, arguments: Sequence[Argument]) -> list[tuple[str, Any]]:
        """The variables of ``FINAL_VAR(name, ...)``; where there are several outputs, each for the output of its name."""
        found: list[tuple[str, Any]] = []
        for argument in arguments:
            term = argument.value.terms[0]
            if len(argument.value.terms) > 1:
                raise ScriptError("FINAL_VAR takes names of variables; FINAL takes values joined with +")
            name = term.name or term.text
            output = argument.name or (name if len(self.outputs) > 1 else "")
            found.append((output, self._term(term) if term.name else self._variable(term.text)))
        return found

    async def _submit(self, given: Sequence[tuple[str, Any]]) -> dict[str, Any]:
        types = {f.name: f.type for f in self.outputs}
        args = [value for name, value in given if not name]
        kwargs = {name: value for name, value in given if name}
        if len(args) + len(kwargs) != len(given):
            raise ScriptError("an output is given twice", "TypeError")
        placed = [values.as_output(tp, v) for tp, v in zip(types.values(), args, strict=False)] + args[len(types) :]
        named = {name: values.as_output(types.get(name, str), value) for name, value in kwargs.items()}
        return await _asking("FINAL", self.host.submit(placed, named))

    async def _told(self, verb: str) -> str:
        if verb == "SHOW_VARS":
            return "\n".join(f"{name}: {short_repr(v, 120)}" for name, v in list(self.variables.items())[:200])
        return values.text(_data(await _asking(verb, self.host.call(verb, [], {}))))

    async def _asked(self, statement: Statement, output: Output) -> Any:
        """One call to the host: a sub-call, many at once, or a tool."""
        verb = statement.verb
        if verb in _INSIDE or verb == "predict_batched":
            raise ScriptError(f"{verb} is not written so here")
        args = [self._value(a.value) for a in statement.arguments if not a.name]
        named = {a.name: self._value(a.value) for a in statement.arguments if a.name}
        if statement.items:
            return await self._batch(verb, statement, named, output)
        if verb == "llm_query":
            args = [self._as_text(value) for value in args]
        elif verb in _TYPED:
            model = {name: named.pop(name) for name in ("lm",) if name in named and verb == "predict"}
            args, named = [*(self._as_text(value) for value in args), named], model
        answer = await _asking(verb, self.host.call(verb, args, named))
        if verb in _TYPED and isinstance(answer, dict):  # outputs with their types
            outputs = cast("dict[str, Any]", answer)["outputs"]
            answer = next(iter(outputs.values())) if len(outputs) == 1 else outputs
        return _data(answer)

    async def _batch(self, verb: str, statement: Statement, named: dict[str, Any], output: Output) -> Any:
        prompts: list[str] = []
        for item in statement.items:
            value = self._value(item)
            spread = cast("list[Any]", value) if isinstance(value, list) else [value]
            prompts.extend(self._as_text(one) for one in spread)
        answers = await _asking(verb, self.host.call(verb, [prompts], named))
        if not isinstance(answers, list):  # of a tool that is called so
            return _data(answers)
        answers = cast("list[Any]", answers)
        failed = [index for index, answer in enumerate(answers) if isinstance(answer, Exception)]
        if failed:  # the others are paid and kept
            output.write(f"[{len(failed)} of {len(answers)} failed: items {', '.join(map(str, failed[:20]))}]\n")
        return [_ITEM_FAILED.format(error=a) if isinstance(a, Exception) else _data(a) for a in answers]

    async def _run_js(self, target: str, code: str) -> None:
        if self.js is None:
            raise ScriptError(self.no_js, "PermissionError")
        value, changed = await self.js(code, self.variables)
        for name, made in changed.items():
            self.keep(name, made)
        self.keep(target, value)


_INSIDE = ("SHOW_VARS", "budget")


async def _asking(name: str, call: Awaitable[Any]) -> Any:
    """The host's answer. What it raises besides refusals and the run's end becomes a refusal."""
    try:
        return await call
    except (CallRefused, DszigError):
        raise
    except Exception as error:
        raise CallRefused(f"{name} failed in the host: {type(error).__name__}: {error}") from error


def _data(value: Any) -> Any:
    """An answer of the host as text or JSON data; of an object of another kind, its text."""
    if isinstance(value, str):
        return value
    try:
        return json.loads(json.dumps(value, default=str))
    except (ValueError, TypeError, RecursionError):
        return str(value)


def _unnamed(statement: Statement) -> Sequence[Argument]:
    if any(a.name for a in statement.arguments):
        raise ScriptError(f"{statement.verb} takes no names; join values with +")
    return statement.arguments


def _single(statement: Statement) -> Expression:
    found = _unnamed(statement)
    if len(found) != 1:
        raise ScriptError(f"{statement.verb} {statement.target} = takes one value; join texts with +")
    return found[0].value
