"""What a run in a terminal is made of: lines and blocks, of a saved run and of one under way alike.

Whatever a model wrote is cleaned of control characters and shown as Text, so that neither escapes nor rich markup in it mean
anything to the terminal.
"""

from __future__ import annotations

from rich.console import RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.syntax import Syntax
from rich.text import Text

from dszig_py.text import clean
from dszig_py.trajectory import Iteration
from dszig_py.usage import Usage

__all__ = [
    "bounded",
    "brief_usage",
    "code",
    "count",
    "headline",
    "indented",
    "labelled",
    "line",
    "observed",
    "rule",
    "said",
    "spent_on",
]

LINE_CHARS = 600  # of one line of code or output in the live view: more only wraps over the screen


def rule(index: int, about: str) -> Rule:
    """The line above an iteration."""
    title = Text(f"iteration {index}", style="bold").append(f"  {about}" if about else "", style="not bold dim")
    return Rule(title, align="left", style="dim")


def said(reasoning: str) -> list[RenderableType]:
    """What the model gave as its reasons, if it did."""
    return [Text(reasoning, style="italic")] if reasoning else []


def code(text: str, lines: int | None) -> list[RenderableType]:
    """Code in colours: all of it, or at most so many lines."""
    shown = clean(text).strip("\n") if lines is None else bounded(text, lines, "# ...")
    # As Text: a Syntax pads every line with blanks to the full width, which then are in what one copies.
    painted = Syntax("", "python", theme="ansi_dark", background_color="default").highlight(shown)
    painted.rstrip()
    painted.no_wrap, painted.overflow = False, "fold"
    return [indented(painted, 2)] if shown.strip() else []


def observed(text: str) -> RenderableType:
    """What the model was shown of an iteration."""
    return indented(Text(text, style="dim"), 4)


def indented(inner: RenderableType, columns: int) -> Padding:
    """``inner`` so many columns to the right."""
    return Padding(inner, (0, 0, 0, columns), expand=False)


def labelled(name: str, text: str) -> Text:
    """A line of the head: a name, and what it is."""
    return Text(f"{name:<10} ", style="dim").append(clean(text), style="not dim")


def bounded(text: str, lines: int, marker: str = "...") -> str:
    """The first and the last two of ``text``'s lines, at most ``lines``, long ones shortened, with what is left out."""
    every = clean(text).strip("\n").split("\n")
    head, tail = (every[: lines - 3], every[-2:]) if len(every) > lines else (every, [])
    left_out = [f"{marker} {len(every) - lines + 1:,} more lines"] if tail else []
    shown = [*head, *left_out, *tail]
    return "\n".join(one if len(one) <= LINE_CHARS else f"{one[:LINE_CHARS]} ..." for one in shown)


def line(text: str, chars: int) -> str:
    """``text`` as one line of at most ``chars`` characters."""
    flat = " ".join(clean(text[: 10 * chars]).split())
    return flat if len(flat) <= chars else f"{flat[: chars - 4]} ..."


def headline(reasoning: str) -> str:
    """The first line of what the model said."""
    first = next((line for line in clean(reasoning).splitlines() if line.strip()), "")
    return line(first, 160)


def spent_on(iteration: Iteration) -> str:
    """What an iteration took, its sub-calls included."""
    usage = sum((c.usage for c in iteration.sub_calls if not c.cached), iteration.usage)
    failed = sum(bool(c.error) for c in iteration.sub_calls)
    parts = [count(len(iteration.sub_calls), "sub-call")] if iteration.sub_calls else []
    parts += [f"{failed} failed"] if failed else []
    return ", ".join([*parts, f"{usage.tokens:,} tokens", f"{iteration.seconds:.1f} s"])


def brief_usage(usage: Usage) -> str:
    """Calls, tokens and dollars, in a few words."""
    cost = "cost unknown" if usage.cost is None else f"${usage.cost:.4f}"
    about = "about " if usage.estimated else ""
    return f"{count(usage.calls, 'call')}, {about}{usage.tokens:,} tokens, {cost}"


def count(number: int, noun: str) -> str:
    """``1 call``, ``2 calls``."""
    return f"{number:,} {noun}{'s' * (number != 1)}"
