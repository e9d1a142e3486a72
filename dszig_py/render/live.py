"""A run while it goes on, in a terminal: finished iterations stay above, below them what goes on right now.

Now is the running iteration with its code, a tree of the child runs under way with what each is at, what was spent, and what
the budget still allows.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text
from rich.tree import Tree

from dszig_py import events
from dszig_py.events import Event
from dszig_py.lm.base import estimate_tokens
from dszig_py.render import blocks
from dszig_py.render import console as shown
from dszig_py.text import clean
from dszig_py.trajectory import Iteration, Prediction
from dszig_py.usage import Remaining, Usage

__all__ = ["LiveView"]

TAIL_CHARS, TAIL_LINES = 600, 4  # of a reply that is being written
FEWEST_CHILDREN = 3  # shown at once, however low the terminal


@dataclass
class _Child:
    """A child run under way. ``above``: the run whose code asked for it."""

    signature: str
    above: str
    doing: str = "starting"
    flying: set[str] = field(default_factory=set[str])
    done: int = 0

    def line(self) -> Text:
        """What it is at, in one line."""
        calls = f", {blocks.count(len(self.flying), 'sub-call')} in flight" if self.flying else ""
        calls += f", {self.done:,} finished" if self.done else ""
        return Text(f"{self.doing}{calls}: {self.signature}", no_wrap=True, overflow="ellipsis")


class LiveView:
    """A context manager and a subscriber.

    Events come from the run's loop while rich draws from a thread of its own, so both take the lock; printing happens
    outside it, because rich holds its own lock while it asks for what to draw.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, highlight=False)
        self._lock = threading.RLock()
        self._started = time.monotonic()
        self._now: list[RenderableType] = []
        self._code = ""  # that is running
        self._doing = "starting"
        self._calls: dict[str, bool] = {}  # id -> whether it has finished, of the running iteration, children included
        self._failed = 0
        self._children: dict[str, _Child] = {}
        self._askers: dict[str, str] = {}  # sub-call -> the run that made it
        self._attempt, self._heard, self._tail = 1, 0, ""  # of the reply being written: characters, the last of them
        self._spent = Usage()
        self._left: Remaining | None = None
        self._left_at = 0.0
        self._spinner = Spinner("dots" if "utf" in self.console.encoding.lower() else "line")
        self._live = Live(self, console=self.console, transient=True, refresh_per_second=8)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def __call__(self, event: Event) -> None:
        with self._lock:
            stays: list[RenderableType] = []
            if event.depth:
                self._child(event)
            else:
                stays = self._root(event)
            self._anywhere(event)
        if stays:
            self.console.print(Group(*stays))

    def _root(self, event: Event) -> list[RenderableType]:
        """Take over an event of the root run; what of it stays on the screen."""
        match event:
            case events.RunStarted():
                return [blocks.labelled("signature", event.signature), blocks.labelled("model", event.model)]
            case events.IterationStarted():
                self._clear([blocks.rule(event.index, "")], "the model is deciding")
                self._attempt, self._heard, self._tail = 1, 0, ""
            case events.TokensArrived():
                self._hear(event)
            case events.ActionChosen():
                reasoning = blocks.headline(event.action.reasoning)
                self._clear([blocks.rule(event.index, ""), *blocks.said(reasoning)], "the code is running")
                self._code = event.action.code
            case events.IterationFinished():
                self._clear([], "the run goes on")
                return list(_finished(event.iteration))
            case events.RunFinished():
                self._doing = "done"
            case _:
                pass
        return []

    def _clear(self, now: list[RenderableType], doing: str) -> None:
        self._now, self._code, self._doing = now, "", doing
        self._calls, self._failed, self._children, self._askers = {}, 0, {}, {}

    def _child(self, event: Event) -> None:
        """Take over an event of a child run."""
        if isinstance(event, events.RunStarted):
            asker = self._askers.get(event.parent, "")
            self._children[event.run] = _Child(blocks.line(event.signature, 60), asker)
            return
        child = self._children.get(event.run)
        if child is None:
            return
        match event:
            case events.IterationStarted():
                child.doing = f"iteration {event.index}, the model is deciding"
            case events.ActionChosen():
                child.doing = f"iteration {event.index}, the code is running"
            case events.SubCallStarted():
                child.flying.add(event.id)
            case events.SubCallFinished():
                child.flying.discard(event.sub_call.id)
                child.done += 1
            case events.RunFinished():
                del self._children[event.run]
            case _:
                pass

    def _hear(self, event: events.TokensArrived) -> None:
        """The reply as it comes: its end is shown, all of it follows when it is whole."""
        if event.attempt != self._attempt:  # it broke off and is written anew
            self._attempt, self._heard, self._tail = event.attempt, 0, ""
        self._heard += len(event.text)
        self._tail = (self._tail + event.text)[-TAIL_CHARS:]
        tail = clean(self._tail).strip("\n").split("\n")[-TAIL_LINES:]
        self._now = [blocks.rule(event.index, ""), blocks.indented(Text("\n".join(tail), style="dim"), 2)]
        self._doing = f"the model is writing: about {blocks.count(estimate_tokens(self._heard), 'token')}"

    def _anywhere(self, event: Event) -> None:
        match event:
            case events.SubCallStarted():
                self._calls.setdefault(event.id, False)
                self._askers[event.id] = event.run
            case events.SubCallFinished(sub_call=call):
                self._calls[call.id] = True
                self._failed += bool(call.error)
                if call.trajectory is None and not call.cached:  # a child's calls have been counted one by one
                    self._spent += call.usage
            case events.BudgetChanged(remaining=left):
                # Decisions are counted for each run, everything else for the tree.
                mine = left.iters if event.depth == 0 else None if self._left is None else self._left.iters
                self._left, self._left_at = replace(left, iters=mine), time.monotonic()
            case events.IterationFinished():
                self._spent += event.iteration.usage
            case events.RunFinished():
                self._closed(event.depth, event.prediction)
            case _:
                pass

    def _closed(self, depth: int, prediction: Prediction) -> None:
        extraction = prediction.trajectory.extraction
        if depth == 0:
            self._spent = prediction.usage
        elif extraction is not None:
            self._spent += extraction.usage

    def __rich__(self) -> RenderableType:
        with self._lock:
            done = sum(self._calls.values())
            status = self._doing
            if self._calls:
                status = f"running: {blocks.count(len(self._calls) - done, 'sub-call')} in flight, {done:,} finished"
                status += f", {self._failed:,} failed" if self._failed else ""
            self._spinner.update(text=Text(status))
            tree = _tree(self._spinner, self._children, max(FEWEST_CHILDREN, self.console.height // 3))
            spent = f"spent {_clock(time.monotonic() - self._started)}, {blocks.brief_usage(self._spent)}"
            below = [Text(line, style="dim") for line in (spent, self._still()) if line]
            return Group(*self._now, *blocks.code(self._code, self._room()), tree, *below)

    def _still(self) -> str:
        """What the budget allows from here on; nothing before it was first told."""
        left = self._left
        if left is None:
            return ""
        told = [] if left.iters is None else [blocks.count(left.iters, "iteration")]
        told += [] if left.llm_calls is None else [blocks.count(left.llm_calls, "sub-call")]
        told += [] if left.tokens is None else [blocks.count(left.tokens, "token")]
        told += [] if left.cost is None else [f"${left.cost:.4f}"]
        if left.seconds is not None:
            told.append(_clock(max(0.0, left.seconds - (time.monotonic() - self._left_at))))
        return f"left  {', '.join(told)}" if told else ""

    def _room(self) -> int:
        """Lines of code that leave the rest on the screen."""
        below = min(len(self._children), max(FEWEST_CHILDREN, self.console.height // 3) + 1)
        return max(4, min(shown.CODE_LINES, self.console.height - 8 - (self._left is not None) - below))


def _finished(iteration: Iteration) -> Iterable[RenderableType]:
    """One iteration as it stays in the terminal: bounded, because a run may have many."""
    yield blocks.rule(iteration.index, blocks.spent_on(iteration))
    yield from blocks.said(blocks.headline(iteration.action.reasoning))
    yield from blocks.code(iteration.action.code, shown.CODE_LINES)
    yield blocks.observed(blocks.bounded(iteration.observation, shown.OBSERVATION_LINES))


def _tree(root: RenderableType, children: Mapping[str, _Child], most: int) -> Tree:
    """Child runs below the run that asked for them, the first ``most``; the rest are counted."""
    tree = Tree(root, guide_style="dim")
    nodes: dict[str, Tree] = {}
    for run, child in list(children.items())[:most]:
        nodes[run] = nodes.get(child.above, tree).add(child.line())
    if len(children) > most:
        tree.add(Text(f"and {blocks.count(len(children) - most, 'more child run')}", style="dim"))
    return tree


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
