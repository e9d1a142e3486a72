"""Runs in a terminal: a plain line an event, and a saved run in full. A run under way is in ``dszig_py.render.live``.

Whatever a model wrote is cleaned of control characters and shown as Text, so that neither escapes nor rich markup in it
mean anything to the terminal.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.syntax import Syntax
from rich.text import Text

from dszig_py import events
from dszig_py.events import Event
from dszig_py.previews import brief
from dszig_py.text import clean
from dszig_py.trajectory import Extraction, Iteration, SubCall, Trajectory
from dszig_py.usage import Usage

__all__ = ["begun", "output", "printer", "show"]

LINE_CHARS = 600  # of one line of code or output in the live view: more only wraps over the screen
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
            return f"run {event.run}: {_line(event.signature, 200)} on {_line(event.model, 80)}"
        case events.ActionChosen():
            lines = event.action.code.count("\n") + 1 if event.action.cells else 0
            said = f"{_headline(event.action.reasoning)} [{_count(lines, 'line')} of code]".lstrip()
            return f"iteration {event.index}: {said}"
        case events.SubCallFinished() if event.sub_call.error:
            return f"{event.sub_call.kind} failed: {_line(event.sub_call.error, 200)}"
        case events.IterationFinished():
            observed, spent = _line(event.iteration.observation, 120), _spent_on(event.iteration)
            return f"iteration {event.iteration.index}: {observed} [{spent}]"
        case events.RunFinished():
            return f"run {event.run}: {_line(str(event.prediction.termination), 300)}; {event.prediction.usage}"
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
    yield from (_labelled(name, text) for name, text in head.items() if text)
    if run.begun:
        yield _labelled("begun", f"{begun(run.begun)}, {run.seconds:.1f} s")
    for given in run.inputs:
        yield _labelled("input", ", ".join(part for part in (f"{given.name}: {given.type}", given.size) if part))
    for iteration in run.iterations:
        yield from _iteration_in_full(iteration)
    if run.extraction is not None:
        yield from _extraction(run.extraction)
    yield Rule(style="dim")
    for name, value in run.outputs.items():
        yield _labelled("output", f"{name} = {output(value)}")
    yield _labelled("ended", str(run.termination or "unknown: the file ends before the run does"))
    yield _labelled("spent", str(run.usage))
    yield from _split_usage(run.usage)


def _iteration_in_full(iteration: Iteration) -> Iterable[RenderableType]:
    yield _rule(iteration.index, _spent_on(iteration))
    if (made := iteration.compaction) is not None:
        yield from _said(f"(the first {made.iterations} iterations, summarized) {clean(made.summary).strip()}")
    yield from _said(clean(iteration.action.reasoning).strip())
    for cell in iteration.action.cells:
        yield from _code(cell, None)
    yield _observed(clean(iteration.observation).rstrip())
    yield from _sub_calls(iteration.sub_calls)


def _sub_calls(calls: tuple[SubCall, ...]) -> Iterable[RenderableType]:
    """Bounded, failures first: of a batch of thousands those are what one looks for. Children are shown whole."""
    plain = sorted((c for c in calls if c.trajectory is None), key=lambda c: (not c.error, c.started, c.index))
    for call in plain[:SUB_CALLS_SHOWN]:
        yield _asked(call)
        answer = f"failed: {_line(call.error, 200)}" if call.error else _line(call.reply, 200)
        yield _indented(Text(f"-> {answer} [{_brief_usage(call.usage)}]", style="red" if call.error else ""), 6)
    if len(plain) > SUB_CALLS_SHOWN:
        failed = sum(bool(call.error) for call in plain)
        yield _indented(
            Text(f"... {len(plain) - SUB_CALLS_SHOWN} more of {len(plain)}, {failed} failed", style="dim"), 4
        )
    for call in calls:
        if call.trajectory is not None:
            yield _asked(call)
            yield _indented(Group(*_whole(call.trajectory)), 6)


def _asked(call: SubCall) -> RenderableType:
    return _indented(Text(f"{_line(call.kind, 40)} {_line(call.prompt, 90)}", style="cyan"), 4)


def _extraction(extraction: Extraction) -> Iterable[RenderableType]:
    yield Rule(
        Text(f"extraction, {_brief_usage(extraction.usage)}, {extraction.seconds:.1f} s"), align="left", style="dim"
    )
    yield _observed(clean(extraction.reply))
    if extraction.error:
        yield _indented(Text(clean(extraction.error), style="red"), 4)


def _split_usage(usage: Usage) -> Iterable[RenderableType]:
    if len(usage.by_model) > 1 or len(usage.by_depth) > 1:
        yield from (
            _labelled("", f"{_line(model, 60)}: {_brief_usage(part)}") for model, part in usage.by_model.items()
        )
        yield from (_labelled("", f"depth {depth}: {_brief_usage(part)}") for depth, part in usage.by_depth.items())


def _rule(index: int, about: str) -> Rule:
    title = Text(f"iteration {index}", style="bold").append(f"  {about}" if about else "", style="not bold dim")
    return Rule(title, align="left", style="dim")


def _said(reasoning: str) -> list[RenderableType]:
    return [Text(reasoning, style="italic")] if reasoning else []


def _code(code: str, lines: int | None) -> list[RenderableType]:
    shown = clean(code).strip("\n") if lines is None else _bounded(code, lines, "# ...")
    # As Text: a Syntax pads every line with blanks to the full width, which then are in what one copies.
    painted = Syntax("", "python", theme="ansi_dark", background_color="default").highlight(shown)
    painted.rstrip()
    painted.no_wrap, painted.overflow = False, "fold"
    return [_indented(painted, 2)] if shown.strip() else []


def _observed(text: str) -> RenderableType:
    return _indented(Text(text, style="dim"), 4)


def _indented(inner: RenderableType, columns: int) -> Padding:
    return Padding(inner, (0, 0, 0, columns), expand=False)


def _labelled(name: str, text: str) -> Text:
    return Text(f"{name:<10} ", style="dim").append(clean(text), style="not dim")


def _bounded(text: str, lines: int, marker: str = "...") -> str:
    """The first and the last two of ``text``'s lines, at most ``lines``, long ones shortened, with what is left out."""
    every = clean(text).strip("\n").split("\n")
    head, tail = (every[: lines - 3], every[-2:]) if len(every) > lines else (every, [])
    left_out = [f"{marker} {len(every) - lines + 1:,} more lines"] if tail else []
    shown = [*head, *left_out, *tail]
    return "\n".join(line if len(line) <= LINE_CHARS else f"{line[:LINE_CHARS]} ..." for line in shown)


def _line(text: str, chars: int) -> str:
    """``text`` as one line of at most ``chars`` characters."""
    flat = " ".join(clean(text[: 10 * chars]).split())
    return flat if len(flat) <= chars else f"{flat[: chars - 4]} ..."


def _headline(reasoning: str) -> str:
    first = next((line for line in clean(reasoning).splitlines() if line.strip()), "")
    return _line(first, 160)


def _spent_on(iteration: Iteration) -> str:
    usage = sum((c.usage for c in iteration.sub_calls if not c.cached), iteration.usage)
    failed = sum(bool(c.error) for c in iteration.sub_calls)
    parts = [_count(len(iteration.sub_calls), "sub-call")] if iteration.sub_calls else []
    parts += [f"{failed} failed"] if failed else []
    return ", ".join([*parts, f"{usage.tokens:,} tokens", f"{iteration.seconds:.1f} s"])


def _brief_usage(usage: Usage) -> str:
    cost = "cost unknown" if usage.cost is None else f"${usage.cost:.4f}"
    about = "about " if usage.estimated else ""
    return f"{_count(usage.calls, 'call')}, {about}{usage.tokens:,} tokens, {cost}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"


def rich_console(file: Any = None, *, stderr: bool = False) -> Console:
    """A console that takes nothing in a string for markup, emoji codes or something to highlight."""
    return Console(file=file, stderr=stderr, markup=False, emoji=False, highlight=False)
