"""The parts of a run's HTML that stand for themselves: texts, cells, observations, outputs, tables, why it ended."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Mapping
from typing import Any, cast

from dszig_py.evidence import Evidence
from dszig_py.previews import brief
from dszig_py.render.markup import Html, bounded, count, dollars, escape, highlight, line, seconds, tag, tokens
from dszig_py.text import truncate
from dszig_py.trajectory import Compaction, Extraction, Iteration, SubCall, Termination
from dszig_py.usage import Usage

__all__ = ["begun", "code", "compaction", "ended", "extraction", "observed", "paid", "pre", "spending", "text", "value"]

OUTPUT_CHARS = 20_000
ONE_LINE = 90
MOST_ROWS = 50  # of a table: models and depths are few, unless a file says otherwise
MOST_QUOTED = 200
NOTHING = Html("")


def ended(termination: Termination | None) -> tuple[str, str, str]:
    """Why a run ended: a tone, the word, the detail."""
    if termination is None:
        return "warn", "unfinished", "The record ends before the run does."
    if termination.kind == "submitted":
        return "good", "submitted", termination.detail
    if termination.kind == "error":
        return "bad", line(f"error ({termination.cause})", 60), termination.detail
    if termination.kind == "cancelled":
        return "warn", "cancelled", termination.detail
    return "warn", line(f"limit reached: {termination.kind}", 60), termination.detail


def begun(moment: float) -> str:
    """Unix time as a date, nothing where there is none."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(moment)) if moment else ""
    except (OverflowError, OSError, ValueError):  # a record is read from a file that anyone may have written
        return ""


def pre(content: str, chars: int, class_: str = "dz-text") -> Html:
    """A text in its own lines."""
    return tag("pre", bounded(content, chars), class_=class_)


def text(label: str, content: str, chars: int, class_: str = "dz-text") -> Html:
    """A labelled text; nothing where it is empty."""
    if not content.strip():
        return NOTHING
    return tag("div", tag("p", label, class_="dz-label"), pre(content.strip("\n"), chars, class_))


def code(cell: str, number: int, of: int, chars: int) -> Html:
    """A cell in colours."""
    size = f", {len(cell):,} characters" if len(cell) > chars else ""
    label = f"Code, cell {number} of {of}{size}" if of > 1 else f"Code{size}"
    shown = highlight(truncate(cell.strip("\n"), chars))
    if len(shown.encode()) > 4 * chars + 400:  # all quotes and short words: the colours weigh more than the text
        shown = bounded(cell, chars)
    return tag(
        "div", tag("p", label, class_="dz-label"), tag("pre", tag("code", shown), class_="dz-code", tabindex="0")
    )


def observed(iteration: Iteration, chars: int) -> Iterator[Html]:
    """What the model was shown of its code's doing, and what it was not."""
    run = iteration.execution
    lost = text("Lost with the worker", run.lost, chars, "dz-error")
    if lost:
        yield lost
    printed = f", of {run.stdout_chars:,} characters printed" if run.stdout_chars > len(run.stdout) else ""
    shown = iteration.observation or "\n".join(part for part in (run.stdout, run.value or "", run.error) if part)
    # Colour is not the only sign: the traceback says so, and the iteration's badge.
    yield text(f"Observation{printed}", shown or "(nothing)", chars, "dz-error" if run.error else "dz-text")
    if run.error.strip() and run.error.strip()[-200:] not in shown:
        yield text("Error", run.error, chars, "dz-error")


def compaction(made: Compaction | None, chars: int) -> Html:
    """The summary that took the place of earlier iterations before this one was decided."""
    if made is None:
        return NOTHING
    label = f"Before it, {count(made.iterations, 'iteration')} summarized ({made.chars:,} characters)"
    return text(label, made.summary, chars, "dz-prose")


def extraction(done: Extraction, chars: int) -> Html:
    """The closing call."""
    summary = tag(
        "summary",
        tag("b", "Extraction"),
        tag("span", "the outputs were read from the history", class_="dz-headline"),
        tag("span", "incomplete", class_="dz-badge dz-warn") if done.error else NOTHING,
        tag("span", f"{tokens(done.usage)}, {seconds(done.seconds)}", class_="dz-num"),
    )
    body = tag("div", text("Reply", done.reply, chars), text("Error", done.error, chars, "dz-error"), class_="dz-body")
    return tag("details", summary, body, class_="dz-iteration")


def paid(call: SubCall) -> Html:
    """When a sub-call began, on which model, and what it cost."""
    usage = call.usage
    told = [f"at {seconds(call.started)}", line(call.model, 80)]
    if usage.calls:
        told += [count(usage.calls, "call")] * (usage.calls > 1)
        told += [f"{'about ' * usage.estimated}{usage.input_tokens:,} + {usage.output_tokens:,} tokens", dollars(usage)]
    return tag("p", ", ".join(part for part in told if part), class_="dz-dim")


def value(output: Any) -> Html:
    """An output: text as it is, data in lines, anything else by its bounded repr."""
    if isinstance(output, str):
        return tag("div", bounded(output, OUTPUT_CHARS), class_="dz-answer")
    if output is None:
        return tag("div", "None", class_="dz-answer dz-dim")
    if cited := _cited(output):
        return tag("div", *cited)
    shown = brief(output, OUTPUT_CHARS // 4)
    if isinstance(output, (dict, list)) and len(shown) < OUTPUT_CHARS // 4:  # small as a repr, so small as JSON
        with contextlib.suppress(TypeError, ValueError, RecursionError):
            shown = json.dumps(output, indent=2, ensure_ascii=False, default=lambda item: brief(item, 1_000))
            flat = json.dumps(json.loads(shown), ensure_ascii=False)
            shown = flat if len(flat) <= ONE_LINE else shown
    return tag("pre", highlight(truncate(shown, OUTPUT_CHARS // 2)), class_="dz-code")


def _cited(output: Any) -> list[Html]:
    """Evidence as quotations with their places; nothing for other outputs."""
    items = cast("list[Any]", output) if isinstance(output, list) else [output]
    spans = [_span(item) for item in items[:MOST_QUOTED]]
    if not items or not all(spans):
        return []
    more = len(items) - len(spans)
    quoted = [
        tag("figure", tag("blockquote", bounded(text, 2_000)), tag("figcaption", line(place, 200)), class_="dz-quote")
        for place, text in filter(None, spans)
    ]
    return [*quoted, *([tag("p", f"and {count(more, 'more span')}", class_="dz-dim")] if more else [])]


def _span(value: Any) -> tuple[str, str] | None:
    """Place and text, where a value is evidence: the record itself, or its fields as a file holds them."""
    if isinstance(value, Evidence):
        return f"{value.variable}[{value.start}:{value.end}]", value.text
    if not isinstance(value, dict) or set(cast("dict[Any, Any]", value)) != {"variable", "start", "end", "text"}:
        return None
    fields = cast("dict[str, Any]", value)
    variable, start, end, text = (fields[name] for name in ("variable", "start", "end", "text"))
    if not (isinstance(variable, str) and isinstance(text, str) and all(_position(at) for at in (start, end))):
        return None
    return f"{variable}[{start}:{end}]", text


def _position(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def spending(usage: Usage) -> Html:
    """Calls, tokens, cost and time, by model and by depth."""
    by_depth = {f"depth {depth}": part for depth, part in sorted(usage.by_depth.items())}
    return tag(
        "div",
        _table("By model", "model", usage.by_model, usage),
        _table("By depth", "depth", by_depth, usage),
        tag("p", "“about”: some token counts are estimated from characters.", class_="dz-dim")
        if usage.estimated
        else NOTHING,
        class_="dz-tables",
    )


def _table(title: str, first: str, rows: Mapping[str, Usage], whole: Usage) -> Html:
    names = (first, "calls", "input tokens", "output tokens", "cost", "seconds")
    head = tag("thead", tag("tr", *(tag("th", name, scope="col") for name in names)))
    shown = [_row(name, part) for name, part in list(rows.items())[:MOST_ROWS]]
    if len(rows) > MOST_ROWS:
        shown.append(tag("tr", tag("th", f"and {count(len(rows) - MOST_ROWS, 'more row')}", scope="row", colspan="6")))
    foot = tag("tfoot", _row("in all", whole))
    table = tag("table", tag("caption", title), head, tag("tbody", *shown), foot)
    # What scrolls must be reached by keyboard, and a region needs a name.
    return tag("div", table, class_="dz-table", tabindex="0", role="region", aria_label=title)


def _row(name: str, part: Usage) -> Html:
    about = "about " * part.estimated
    cells = (
        f"{part.calls:,}",
        f"{about}{part.input_tokens:,}",
        f"{about}{part.output_tokens:,}",
        dollars(part),
        f"{part.seconds:,.1f}",
    )
    return tag("tr", tag("th", escape(line(name or "unknown", 60)), scope="row"), *(tag("td", cell) for cell in cells))
