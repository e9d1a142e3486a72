"""Runs in a terminal: a plain line an event, and a saved run in full. A run under way is in ``dszig_py.render.live``."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.rule import Rule
from rich.text import Text

from dszig_py import events
from dszig_py.events import Event
from dszig_py.previews import brief
from dszig_py.render import blocks
from dszig_py.text import clean
from dszig_py.trajectory import Extraction, Iteration, SubCall, Trajectory
from dszig_py.usage import Usage

__all__ = ["begun", "output", "printer", "show"]

CODE_LINES, OBSERVATION_LINES = 16, 8
OUTPUT_CHARS = 20_000  # of an output that cannot be shown in full
SUB_CALLS_SHOWN = 10  # of one iteration, in a saved run


def printer(write: Callable[[str], None] | None = None) -> Callable[[Event], None]:
    """A subscriber that writes a plain line for every event worth one, to stderr unless ``write`` takes it."""
    out = to_stderr if write is None else write

    def tell(event: Event) -> None:
        line = told(event)
        if line:
            out(f"{'  ' * event.depth}{line}\n")

    return tell


def to_stderr(text: str) -> None:
    """Write ``text``, where the process has a stderr at all."""
    if sys.stderr is not None:
        sys.stderr.write(text)
        sys.stderr.flush()


def told(event: Event) -> str:
    """One line about ``event``; empty for events that the ones after them tell as well."""
    match event:
        case events.RunStarted():
            return f"run {event.run}: {blocks.line(event.signature, 200)} on {blocks.line(event.model, 80)}"
        case events.ActionChosen():
            lines = event.action.code.count("\n") + 1 if event.action.cells else 0
            said = f"{blocks.headline(event.action.reasoning)} [{blocks.count(lines, 'line')} of code]".lstrip()
            return f"iteration {event.index}: {said}"
        case events.SubCallFinished() if event.sub_call.error:
            return f"{event.sub_call.kind} failed: {blocks.line(event.sub_call.error, 200)}"
        case events.IterationFinished():
            observed, spent = blocks.line(event.iteration.observation, 120), blocks.spent_on(event.iteration)
            return f"iteration {event.iteration.index}: {observed} [{spent}]"
        case events.RunFinished():
            return f"run {event.run}: {blocks.line(str(event.prediction.termination), 300)}; {event.prediction.usage}"
        case _:
            return ""


def show(trajectory: Trajectory, console: Console) -> None:
    """Print a saved run in full: what it was, every iteration, child runs inside theirs, why it ended, what it cost."""
    for part in _whole(trajectory):
        console.print(part)


def begun(moment: float, form: str = "%Y-%m-%d %H:%M:%S") -> str:
    """Unix time as the local one, "?" where it is none: a record is read from a file that anyone may have written."""
    try:
        return time.strftime(form, time.localtime(moment))
    except (OverflowError, OSError, ValueError):
        return "?"


def output(value: Any) -> str:
    """An output in full, text as it is; of what has no ``repr`` (an int of 5,000 digits) what can be said."""
    if isinstance(value, str):
        return value
    try:
        return repr(value)
    except Exception:  # foreign code, or Python's own limit of digits
        return brief(value, OUTPUT_CHARS)


def _whole(run: Trajectory) -> Iterable[RenderableType]:
    where = f"{run.environment}, isolation {run.isolation}" if run.isolation else run.environment
    model = run.model if run.sub_model in ("", run.model) else f"{run.model}, sub-calls on {run.sub_model}"
    head = {"run": run.id, "signature": run.signature, "task": run.instructions, "model": model, "environment": where}
    head["route"] = run.route
    yield from (blocks.labelled(name, text) for name, text in head.items() if text)
    if run.begun:
        yield blocks.labelled("begun", f"{begun(run.begun)}, {run.seconds:.1f} s")
    for given in run.inputs:
        yield blocks.labelled("input", ", ".join(part for part in (f"{given.name}: {given.type}", given.size) if part))
    for iteration in run.iterations:
        yield from _iteration_in_full(iteration)
    if run.extraction is not None:
        yield from _extraction(run.extraction)
    yield Rule(style="dim")
    for name, value in run.outputs.items():
        yield blocks.labelled("output", f"{name} = {output(value)}")
    yield blocks.labelled("ended", str(run.termination or "unknown: the file ends before the run does"))
    yield blocks.labelled("spent", str(run.usage))
    yield from _split_usage(run.usage)


def _iteration_in_full(iteration: Iteration) -> Iterable[RenderableType]:
    yield blocks.rule(iteration.index, blocks.spent_on(iteration))
    if (made := iteration.compaction) is not None:
        yield from blocks.said(f"(the first {made.iterations} iterations, summarized) {clean(made.summary).strip()}")
    yield from blocks.said(clean(iteration.action.reasoning).strip())
    for cell in iteration.action.cells:
        yield from blocks.code(cell, None)
    yield blocks.observed(clean(iteration.observation).rstrip())
    yield from _sub_calls(iteration.sub_calls)


def _sub_calls(calls: tuple[SubCall, ...]) -> Iterable[RenderableType]:
    """Bounded, failures first: of a batch of thousands those are what one looks for. Children are shown whole."""
    plain = sorted((c for c in calls if c.trajectory is None), key=lambda c: (not c.error, c.started, c.index))
    for call in plain[:SUB_CALLS_SHOWN]:
        yield _asked(call)
        answer = f"failed: {blocks.line(call.error, 200)}" if call.error else blocks.line(call.reply, 200)
        yield blocks.indented(
            Text(f"-> {answer} [{blocks.brief_usage(call.usage)}]", style="red" if call.error else ""), 6
        )
    if len(plain) > SUB_CALLS_SHOWN:
        failed = sum(bool(call.error) for call in plain)
        yield blocks.indented(
            Text(f"... {len(plain) - SUB_CALLS_SHOWN} more of {len(plain)}, {failed} failed", style="dim"), 4
        )
    for call in calls:
        if call.trajectory is not None:
            yield _asked(call)
            yield blocks.indented(Group(*_whole(call.trajectory)), 6)


def _asked(call: SubCall) -> RenderableType:
    return blocks.indented(Text(f"{blocks.line(call.kind, 40)} {blocks.line(call.prompt, 90)}", style="cyan"), 4)


def _extraction(extraction: Extraction) -> Iterable[RenderableType]:
    yield Rule(
        Text(f"extraction, {blocks.brief_usage(extraction.usage)}, {extraction.seconds:.1f} s"),
        align="left",
        style="dim",
    )
    yield blocks.observed(clean(extraction.reply))
    if extraction.error:
        yield blocks.indented(Text(clean(extraction.error), style="red"), 4)


def _split_usage(usage: Usage) -> Iterable[RenderableType]:
    if len(usage.by_model) > 1 or len(usage.by_depth) > 1:
        yield from (
            blocks.labelled("", f"{blocks.line(model, 60)}: {blocks.brief_usage(part)}")
            for model, part in usage.by_model.items()
        )
        yield from (
            blocks.labelled("", f"depth {depth}: {blocks.brief_usage(part)}") for depth, part in usage.by_depth.items()
        )


def rich_console(file: Any = None, *, stderr: bool = False) -> Console:
    """A console that takes nothing in a string for markup, emoji codes or something to highlight."""
    return Console(file=file, stderr=stderr, markup=False, emoji=False, highlight=False)
