"""Two saved runs: in columns where the terminal is wide enough, else one part after the other."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest

from rich import box
from rich.console import Console, Group, RenderableType
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from dszig_py.render import blocks
from dszig_py.render import console as one
from dszig_py.text import clean
from dszig_py.trajectory import Iteration, SubCall, Trajectory
from dszig_py.usage import Usage

__all__ = ["compare"]

WIDE = 100  # columns from which two runs fit side by side
Part = tuple[str, RenderableType, RenderableType]


def compare(first: Trajectory, second: Trajectory, console: Console) -> None:
    """Print both: what was asked, each iteration's code and observation, how they ended, and what differs in usage."""
    parts = [*_head(first, second), *_iterations(first, second), *_end(first, second)]
    if console.width >= WIDE:
        console.print(_columns(parts))
    else:
        for part in parts:
            for piece in _stacked(*part):
                console.print(piece)
    console.print(Rule(style="dim"))
    console.print(_usages(first, second))


def _columns(parts: list[Part]) -> Table:
    table = Table(box=box.SIMPLE, show_header=False, pad_edge=False, show_edge=False, expand=True, show_lines=True)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(ratio=1, overflow="fold")
    table.add_column(ratio=1, overflow="fold")
    for name, left, right in parts:
        table.add_row(Text(name), left, right)
    return table


def _stacked(name: str, left: RenderableType, right: RenderableType) -> Iterator[RenderableType]:
    yield Rule(Text(name), align="left", style="dim")
    if _plain(left) is not None and _plain(left) == _plain(right):
        yield left
        return
    for letter, side in (("A", left), ("B", right)):
        yield Text(letter, style="bold")
        yield side


def _plain(side: RenderableType) -> str | None:
    return side.plain if isinstance(side, Text) else None


def _head(first: Trajectory, second: Trajectory) -> Iterator[Part]:
    yield "run", _text(first.id), _text(second.id)
    yield "begun", _text(one.begun(first.begun)), _text(one.begun(second.begun))
    yield "signature", _text(first.signature), _text(second.signature)
    yield "model", _text(first.model), _text(second.model)
    given, also = ({i.name: f"{i.type}, {i.size}\n{i.preview}" for i in run.inputs} for run in (first, second))
    for name in dict.fromkeys([*given, *also]):
        yield f"input {clean(name)}", _text(given.get(name, "-")), _text(also.get(name, "-"))


def _iterations(first: Trajectory, second: Trajectory) -> Iterator[Part]:
    for number, (left, right) in enumerate(zip_longest(first.iterations, second.iterations), 1):
        yield f"iteration {number}", _iteration(left), _iteration(right)


def _iteration(done: Iteration | None) -> RenderableType:
    if done is None:
        return Text("-", style="dim")
    parts: list[RenderableType] = [
        Text(blocks.spent_on(done), style="dim"),
        *blocks.said(blocks.headline(done.action.reasoning)),
    ]
    parts += blocks.code(done.action.code, None)
    if done.sub_calls:
        parts.append(Text(_kinds(done.sub_calls), style="cyan"))
    return Group(*parts, blocks.observed(blocks.bounded(done.observation, one.OBSERVATION_LINES)))


def _kinds(calls: tuple[SubCall, ...]) -> str:
    kinds = dict.fromkeys(call.kind for call in calls)
    return ", ".join(f"{sum(call.kind == kind for call in calls):,} {clean(kind)}" for kind in kinds)


def _end(first: Trajectory, second: Trajectory) -> Iterator[Part]:
    for name in dict.fromkeys([*first.outputs, *second.outputs]):
        left, right = (_text(one.output(run.outputs.get(name))) for run in (first, second))
        yield f"output {clean(name)}", left, right
    unfinished = "unknown: the file ends before the run does"
    yield "ended", _text(str(first.termination or unfinished)), _text(str(second.termination or unfinished))


def _usages(first: Trajectory, second: Trajectory) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("usage")
    for name in ("A", "B", "B - A"):
        table.add_column(name, justify="right")
    for name, left, right, shown in _spent(first, second):
        difference = "-" if left is None or right is None else format(right - left, f"+{shown}")
        sides = ("unknown" if side is None else format(side, shown) for side in (left, right))
        table.add_row(*(Text(cell) for cell in (name, *sides, difference)))
    return table


def _spent(first: Trajectory, second: Trajectory) -> Iterator[tuple[str, float | None, float | None, str]]:
    a, b = first.usage, second.usage
    yield "iterations", len(first.iterations), len(second.iterations), ",d"
    yield "calls", a.calls, b.calls, ",d"
    yield "input tokens", a.input_tokens, b.input_tokens, ",d"
    yield "output tokens", a.output_tokens, b.output_tokens, ",d"
    yield "dollars", a.cost, b.cost, ",.4f"
    yield "seconds", first.seconds, second.seconds, ",.1f"
    for model in dict.fromkeys([*a.by_model, *b.by_model]):
        left, right = (usage.by_model.get(model, Usage()).tokens for usage in (a, b))
        yield f"tokens, {clean(model)}", left, right, ",d"


def _text(text: str) -> Text:
    return Text(clean(text))
