"""A run as HTML: a whole page, or a fragment for a notebook. No scripts, no network, nothing a model wrote as markup.

Everything folds with ``<details>``, so that a page of thousands of sub-calls opens as fast as a short one and needs no
JavaScript. Texts are bounded by how many there are: the page stays readable and a few megabytes small, and what was
left out is counted where it was.
"""

from __future__ import annotations

import functools
import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from dszig_py.render import parts
from dszig_py.render.markup import Html, bounded, count, dollars, ends, join, light, line, seconds, tag, tokens
from dszig_py.render.timeline import Place, in_order, lay_out, peak, timeline, verdict
from dszig_py.trajectory import Iteration, SubCall, Trajectory

__all__ = ["fragment", "page"]

CSP = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
ITERATION_CHARS, ITERATIONS_CHARS = 4_000, 1_000_000  # of one text of an iteration; of all of them together
CALL_CHARS, CALLS_CHARS = 4_000, 1_200_000  # the same for prompts and replies of sub-calls
CHUNK = 100
MOST_CALLS = 10_000
NOTHING = Html("")


def page(trajectory: Trajectory) -> str:
    """A whole document, to be opened from disk."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=CSP),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", f"{line(trajectory.signature, 80)}: {parts.ended(trajectory.termination)[1]}"),
        _style(),
    )
    run = _View(trajectory, "dz", 1).whole(trajectory.outputs)
    body = tag("body", tag("main", run, class_="dz dz-page"), style="margin:0")
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def fragment(trajectory: Trajectory, *, outputs: Mapping[str, Any] | None = None) -> str:
    """The same for a cell of a notebook, its styles included. ``outputs``: typed values instead of the recorded data."""
    view = _View(trajectory, f"dz-{secrets.token_hex(4)}", 3)  # two fragments of one run share a notebook's page
    run = view.whole(trajectory.outputs if outputs is None else outputs)
    return tag("section", _style(), run, class_="dz dz-fragment", lang="en", aria_label="Recursive run")


@functools.cache
def _style() -> Html:
    css = resources.files("dszig_py.render").joinpath("style.css").read_text(encoding="utf-8")
    return Html(f"<style>\n{css}</style>")


class _View:
    """One rendering: where the runs of the tree stand, and how much room each text has."""

    def __init__(self, root: Trajectory, uid: str, level: int) -> None:
        self.uid, self.level = uid, level
        self.root = root
        self.places = lay_out(root)
        self.by_call = {id(place.call): place for place in self.places if place.call is not None}
        iterations = sum(len(place.run.iterations) for place in self.places)
        self.calls = sum(len(i.sub_calls) for place in self.places for i in place.run.iterations)
        self.chars = max(300, min(ITERATION_CHARS, ITERATIONS_CHARS // (3 * max(iterations, 1))))
        self.call_chars = max(100, min(CALL_CHARS, CALLS_CHARS // (2 * max(self.calls, 1))))
        self.line_chars = (90, 60) if self.calls <= 1_000 else (50, 30)
        self.calls_left = MOST_CALLS

    def heading(self, deeper: int, *inner: str, class_: str | None = None) -> Html:
        return tag(f"h{min(self.level + deeper, 6)}", *inner, class_=class_)

    def whole(self, outputs: Mapping[str, Any]) -> Html:
        root = self.places[0]
        return join(
            [
                self._header(),
                self._outputs(outputs),
                self._facts(),
                self._section("Timeline", timeline(self.places, self.uid)),
                self._section("Iterations", self._iterations(root)),
                self._section("What it cost", parts.spending(root.run.usage)),
                self._section("What the model was given", self._given(root.run)),
            ]
        )

    def _section(self, title: str, inner: Html) -> Html:
        return tag("section", self.heading(1, title), inner, class_="dz-section", aria_label=title)

    def _header(self) -> Html:
        run = self.root
        where = f"{run.environment}, isolation {run.isolation}" if run.isolation else run.environment
        model = run.model if run.sub_model in {"", run.model} else f"{run.model}, sub-calls on {run.sub_model}"
        told = [model, run.route and f"route {run.route}", where, parts.begun(run.begun), f"run {run.id}"]
        tone, word, detail = parts.ended(run.termination)
        return tag(
            "header",
            tag("p", " · ".join(line(part, 200) for part in told if part), class_="dz-dim"),
            self.heading(0, bounded(run.signature, 600), class_="dz-signature"),
            tag("p", bounded(run.instructions, 600)) if run.instructions else NOTHING,
            tag("p", tag("strong", word, class_=f"dz-badge dz-{tone}"), " ", bounded(detail, 2_000), class_="dz-ended"),
        )

    def _outputs(self, outputs: Mapping[str, Any]) -> Html:
        if not outputs:
            return tag("p", "No outputs.", class_="dz-dim")
        pairs = [
            tag("div", tag("dt", line(name, 100)), tag("dd", parts.value(value))) for name, value in outputs.items()
        ]
        return tag("dl", *pairs, class_="dz-outputs", aria_label="Outputs")

    def _facts(self) -> Html:
        run, usage = self.root, self.root.usage
        every = [c for place in self.places for i in place.run.iterations for c in i.sub_calls]
        failed = sum(bool(c.error) for c in every)
        facts = [
            ("iterations", f"{len(run.iterations):,}"),
            ("sub-calls", f"{len(every):,}" + (f", {failed:,} failed" if failed else "")),
            ("model calls", f"{usage.calls:,}"),
            ("tokens", f"{'about ' * usage.estimated}{usage.tokens:,}"),
            ("cost", dollars(usage)),
            ("wall time", seconds(run.seconds)),
            ("model time", seconds(usage.seconds)),
        ]
        return tag("dl", *(tag("div", tag("dt", n), tag("dd", v)) for n, v in facts), class_="dz-facts")

    def _iterations(self, place: Place) -> Html:
        run = place.run
        shown = [self._iteration(place, iteration) for iteration in run.iterations]
        if run.extraction is not None:
            shown.append(parts.extraction(run.extraction, self.chars))
        return join(shown) if shown else tag("p", "None: the run ended before the first decision.", class_="dz-dim")

    def _iteration(self, place: Place, iteration: Iteration) -> Html:
        tone, word = verdict(iteration)
        action, calls = iteration.action, iteration.sub_calls
        spent = sum((c.usage for c in calls if not c.cached), iteration.usage)
        about = [count(len(calls), "sub-call")] if calls else []
        summary = tag(
            "summary",
            self.heading(2 + place.level, f"Iteration {iteration.index}"),
            tag("span", line(action.reasoning or action.code, 140), class_="dz-headline"),
            tag("span", word, class_=f"dz-badge dz-{tone}") if word else NOTHING,
            tag("span", ", ".join([*about, tokens(spent), seconds(iteration.seconds)]), class_="dz-num"),
        )
        body = [
            parts.compaction(iteration.compaction, self.chars),
            parts.text("Reasoning", action.reasoning, self.chars, "dz-prose"),
            parts.text("Not understood", action.problem, self.chars, "dz-prose"),
            *(parts.code(cell, n, len(action.cells), self.chars) for n, cell in enumerate(action.cells, 1)),
            self._sub_calls(calls),
            *parts.observed(iteration, self.chars),
        ]
        # The mark is inside, not on the details: a browser unfolds what hides the target of a link, not the target.
        within = tag("div", *body, class_="dz-body", id=f"{self.uid}-r{place.number}-i{iteration.index}")
        return tag("details", summary, within, class_="dz-iteration")

    def _sub_calls(self, calls: Sequence[SubCall]) -> Html:
        """Failures first: of a batch of thousands those are what one looks for. The others in chunks."""
        if not calls:
            return NOTHING
        ordered = in_order(calls)
        failed = [(n, c) for n, c in enumerate(ordered, 1) if c.error]
        others = [(n, c) for n, c in enumerate(ordered, 1) if not c.error]
        kinds = Counter(line(c.kind, 40) for c in ordered)
        told = [f"{number:,} {kind}" for kind, number in kinds.most_common(6)]
        told += [f"at most {peak(ordered)} at once"] * (len(ordered) > 1)
        told += [f"{len(failed):,} failed"] * bool(failed)
        head = tag("p", tag("span", "Sub-calls", class_="dz-label"), " ", ", ".join(told), class_="dz-dim")
        folds = [self._chunk(failed[at : at + CHUNK], "failed") for at in range(0, len(failed), CHUNK)]
        folds += [self._chunk(others[at : at + CHUNK], "") for at in range(0, len(others), CHUNK)]
        return tag("div", head, *folds, class_="dz-calls-of")

    def _chunk(self, calls: Sequence[tuple[int, SubCall]], word: str) -> Html:
        self.calls_left -= len(calls)
        if self.calls_left < 0:
            return tag(
                "p", f"{count(len(calls), 'more sub-call')}: in the saved run, not in this page.", class_="dz-dim"
            )
        name = f"{count(len(calls), 'sub-call')} failed" if word else f"Sub-calls {calls[0][0]:,} to {calls[-1][0]:,}"
        if len(calls) == 1 and not word:
            name = f"Sub-call {calls[0][0]:,}"
        items = tag("ul", *(self._call(number, call) for number, call in calls), class_="dz-list")
        return tag("details", tag("summary", name), items, class_="dz-chunk", open=len(calls) <= 12)

    def _call(self, number: int, call: SubCall) -> Html:
        child = self.by_call.get(id(call))
        tone = "bad" if call.error else "child" if call.trajectory else "call"
        word = "failed" if call.error else "cached" if call.cached else ""
        asked, answered = self.line_chars
        prompt, reply = ends(call.prompt, asked), line(call.reply, answered)
        summary = tag(
            "summary",
            tag("b", f"{number} {line(call.kind, 40)}", class_=f"dz-{tone}"),
            join([" ", light(prompt, 3 * asked // 2), " "]),
            tag("span", "→ ", light(reply, 3 * answered // 2), " ", class_="dz-reply") if reply else NOTHING,
            tag("span", word, class_=f"dz-badge dz-{tone}") if word else NOTHING,
            tag("span", seconds(call.seconds), class_="dz-num"),
        )
        size = f" ({call.prompt_chars:,} characters)" if call.prompt_chars > len(call.prompt) else ""
        body = [  # what the line above shows whole is not shown again
            parts.text(f"Prompt{size}", call.prompt if prompt != call.prompt else "", self.call_chars),
            parts.text("Error", call.error, self.call_chars, "dz-error"),
            parts.text("Reply", call.reply if reply != call.reply else "", self.call_chars),
            self._child(child, call.trajectory) if call.trajectory is not None else parts.paid(call),
        ]
        return tag("li", tag("details", summary, *body))

    def _child(self, place: Place | None, run: Trajectory) -> Html:
        tone, word, detail = parts.ended(run.termination)
        told = f"{count(len(run.iterations), 'iteration')}, {run.usage}"
        if place is None:
            return tag("p", f"A child run: {word}, {told}. It is in the saved run, not in this page.", class_="dz-dim")
        return tag(
            "div",
            tag(
                "p",
                tag("b", f"Child {place.number}"),
                f" {line(run.signature, 200)} ",
                tag("span", word, class_=f"dz-badge dz-{tone}"),
                f" {line(detail, 300)}",
            ),
            tag("p", f"depth {run.depth}, {line(run.model, 80)}, {told}", class_="dz-dim"),
            parts.text("Task", run.instructions, self.chars, "dz-prose"),
            self._outputs(run.outputs) if run.outputs else NOTHING,
            self._iterations(place),
            tag("details", tag("summary", "What the child was given"), self._given(run), class_="dz-chunk"),
            class_="dz-within",
            id=f"{self.uid}-r{place.number}",
        )

    def _given(self, run: Trajectory) -> Html:
        inputs = [
            tag(
                "div",
                tag("dt", line(given.name, 100), tag("span", f" {given.type}, {given.size}", class_="dz-dim")),
                tag("dd", tag("pre", bounded(given.preview, self.chars), class_="dz-text")),
            )
            for given in run.inputs
        ]
        contract = tag(
            "details", tag("summary", "The contract"), parts.pre(run.contract, self.chars * 2), class_="dz-chunk"
        )
        listed = tag("dl", *inputs, class_="dz-inputs") if inputs else NOTHING
        return join([listed, contract if run.contract else NOTHING])
