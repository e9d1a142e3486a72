"""The tree of a run on one time axis: a row a run, its iterations as bars, its sub-calls packed under them.

Calls that fit are a bar each, stacked where they overlap, so that a batch is a block and a loop is a staircase. More
than that becomes one curve of how many were in flight. Times are of the root's clock.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass

from dszig_py.render.markup import Html, count, ends, line, seconds, tag, tokens
from dszig_py.trajectory import Iteration, SubCall, Trajectory

__all__ = ["Place", "lay_out", "peak", "timeline", "verdict"]

MOST_RUNS = 200  # shown in full
MOST_LEVELS = 24  # browsers stop nesting elements at 512
MOST_ROWS = 40
MOST_BARS = 800  # of the whole page: beyond it, curves
MOST_LANES = 48
BINS = 240
CURVE_HEIGHT = 44
BAR = 0.25  # per cent of the width: what is shorter is still seen


@dataclass(frozen=True, slots=True)
class Place:
    """A run and where it stands in its tree. ``begins``: seconds after the root; ``call``: what it answers."""

    number: int
    run: Trajectory
    begins: float = 0.0
    level: int = 0
    call: SubCall | None = None

    @property
    def name(self) -> str:
        return f"child {self.number}" if self.number else "root"


def lay_out(root: Trajectory) -> list[Place]:
    """The runs of a tree in reading order, the first :data:`MOST_RUNS` of them."""
    places: list[Place] = []
    todo: list[tuple[Trajectory, float, int, SubCall | None]] = [(root, 0.0, 0, None)]
    while todo and len(places) < MOST_RUNS:
        run, begins, level, call = todo.pop()
        places.append(Place(len(places), run, begins, level, call))
        if level < MOST_LEVELS:
            below = [c for iteration in run.iterations for c in in_order(iteration.sub_calls)]
            todo += [
                (c.trajectory, _child_begins(run, c, c.trajectory, begins), level + 1, c)
                for c in reversed(below)
                if c.trajectory is not None
            ]
    return places


def in_order(calls: Sequence[SubCall]) -> list[SubCall]:
    """Sub-calls as the code made them; they are recorded as they end."""
    return sorted(calls, key=lambda c: (_real(c.started), c.index))


def _child_begins(run: Trajectory, call: SubCall, child: Trajectory, begins: float) -> float:
    """A child may wait before it begins: its own clock says how long, as far as that agrees with its call."""
    latest = max(0.0, _real(call.seconds) - _real(child.seconds))
    waited = _real(child.begun) - _real(run.begun) - _real(call.started) if child.begun and run.begun else 0.0
    return begins + _real(call.started) + min(max(waited, 0.0), latest)


def _real(value: float) -> float:
    """A record is read from a file that anyone may have written: no infinities on the axis."""
    return value if math.isfinite(value) and 0 <= value < 1e12 else 0.0


def _calls(run: Trajectory) -> list[SubCall]:
    return [call for iteration in run.iterations for call in iteration.sub_calls]


def _ends(place: Place) -> float:
    run = place.run
    iterations = [_real(i.started) + _real(i.seconds) for i in run.iterations]
    ends = [*iterations, *(_real(c.started) + _real(c.seconds) for c in _calls(run))]
    extra = _real(run.extraction.seconds) if run.extraction else 0.0
    return place.begins + max([_real(run.seconds), max(iterations, default=0.0) + extra, *ends])


def _span(call: SubCall) -> tuple[float, float]:
    """When a model was at work on it. Before that the call waited for its turn, which is no parallelism."""
    begin, length = _real(call.started), _real(call.seconds)
    working = _real(call.usage.seconds)
    if call.usage.calls == 1 and call.trajectory is None and 0 < working < length:
        return begin + length - working, begin + length
    return begin, begin + length


def peak(calls: Sequence[SubCall]) -> int:
    """How many of them were in flight at once, at most. How long a failed one waited before is not known."""
    spans = [_span(call) for call in calls if call.usage.calls or not call.error] or [_span(call) for call in calls]
    # To 10 microseconds: one call's end and the next one's begin are sums that differ in their last digits.
    moments = [(round(begin, 5), 1) for begin, _ in spans]
    moments += [(round(max(end, begin + 2e-5), 5), -1) for begin, end in spans]
    most = now = 0
    for _, step in sorted(moments):
        now += step
        most = max(most, now)
    return most


def verdict(iteration: Iteration) -> tuple[str, str]:
    """What became of an iteration: a tone (good, bad, warn, plain) and the word for it."""
    execution = iteration.execution
    if execution.submission is not None:
        return "good", "submitted"
    if execution.lost:
        return "bad", "worker lost"
    if "SUBMIT was refused" in execution.error:
        return "warn", "SUBMIT refused"
    if execution.error:
        return "bad", "failed"
    if iteration.action.problem or not iteration.action.cells:
        return "warn", "no code"
    return "plain", ""


def timeline(places: Sequence[Place], uid: str) -> Html:
    """The rows, their axis and the key to the colours."""
    span = max(map(_ends, places)) or 1.0
    ticks = _ticks(span)
    bars = MOST_BARS
    rows: list[Html] = []
    for place in places[:MOST_ROWS]:
        calls = _calls(place.run)
        lanes = _lanes(calls, span) if len(calls) <= bars else None
        single = lanes is not None and max(lanes, default=0) < MOST_LANES
        bars -= len(calls) * single
        chart = _bars(place, calls, lanes or [], span) if single else _curve(place, calls, span)
        rows.append(_row(place, chart if calls else Html(""), span, uid))
    left_out = len(places) - MOST_ROWS
    more = tag("p", f"{count(left_out, 'more child run')} below, without a row here.", class_="dz-dim")
    return tag(
        "div",
        _key(),
        tag("div", _grid(ticks, span), *rows, _axis(ticks, span), class_="dz-rows"),
        more if left_out > 0 else Html(""),
    )


def _row(place: Place, chart: Html, span: float, uid: str) -> Html:
    run = place.run
    name = tag("a", place.name, href=f"#{uid}-r{place.number}") if place.number else Html("root")
    label = tag("div", tag("span", name, class_="dz-name"), tag("span", line(run.model, 40), class_="dz-dim"))
    bars = [_iteration_bar(place, i, span, uid) for i in run.iterations]
    if run.extraction is not None:
        last = max((_real(i.started) + _real(i.seconds) for i in run.iterations), default=0.0)
        at = _at(place.begins + last, _real(run.extraction.seconds), span)
        said = f"extraction, {seconds(run.extraction.seconds)}"
        bars.append(tag("span", "E", class_="dz-bar dz-extract", style=at, title=said, role="img", aria_label=said))
    track = tag("div", tag("div", *bars, class_="dz-iters"), chart, class_="dz-track")
    return tag("div", label, track, class_="dz-row", style=f"--level:{min(place.level, 6)}")


def _iteration_bar(place: Place, iteration: Iteration, span: float, uid: str) -> Html:
    tone, word = verdict(iteration)
    whole, deciding = _real(iteration.seconds), _real(iteration.decide_seconds)
    said = (
        f"iteration {iteration.index}{f', {word}' * bool(word)}: {seconds(whole)}, of which {seconds(deciding)} the "
        f"model decided, {count(len(iteration.sub_calls), 'sub-call')}"
    )
    share = f"--decided:{min(100.0, 100 * deciding / whole) if whole else 100:.1f}%"
    return tag(
        "a",
        str(iteration.index),
        class_=f"dz-bar dz-{tone}",
        href=f"#{uid}-r{place.number}-i{iteration.index}",
        style=f"{_at(place.begins + _real(iteration.started), whole, span)};{share}",
        title=said,
        aria_label=f"{place.name}, {said}",
    )


def _at(begin: float, length: float, span: float) -> str:
    return f"left:{100 * begin / span:.3f}%;width:{max(BAR, 100 * length / span):.3f}%"


def _lanes(calls: Sequence[SubCall], span: float) -> list[int]:
    """For each call the lowest row that is free while it lasts."""
    lanes = [0] * len(calls)
    busy: list[tuple[float, int]] = []
    free: list[int] = []
    spans = [_span(call) for call in calls]
    for at in sorted(range(len(calls)), key=lambda i: (spans[i][0], calls[i].index)):
        begin, end = spans[at]
        while busy and busy[0][0] <= begin:
            heapq.heappush(free, heapq.heappop(busy)[1])
        lanes[at] = heapq.heappop(free) if free else len(busy)
        heapq.heappush(busy, (max(end, begin + span * BAR / 100), lanes[at]))
    return lanes


def _bars(place: Place, calls: Sequence[SubCall], lanes: Sequence[int], span: float) -> Html:
    used = max(lanes, default=0) + 1
    pitch = 9 if used <= 6 else 6 if used <= 16 else 4
    bars = [_bar(call, place.begins, lane * pitch, pitch, span) for call, lane in zip(calls, lanes, strict=True)]
    return tag("svg", *bars, class_="dz-calls", role="img", height=f"{used * pitch}", aria_label=_told(place, calls))


def _bar(call: SubCall, begins: float, y: int, pitch: int, span: float) -> Html:
    kind = "bad" if call.error else "cached" if call.cached else "child" if call.kind.startswith("rlm") else "call"
    state = "failed, " if call.error else "from the cache, " if call.cached else ""
    begin, end = _span(call)
    waited = begin - _real(call.started)
    about = (
        f"{line(call.kind, 40)}, {state}{seconds(end - begin)}{f' after waiting {seconds(waited)}' * (waited > 0.01)}"
    )
    return tag(
        "rect",
        tag("title", f"{about}, {tokens(call.usage)}: {ends(call.prompt, 70)}"),
        class_=f"dz-{kind}",
        x=f"{100 * (begins + begin) / span:.3f}%",
        y=f"{y}",
        width=f"{max(BAR, 100 * (end - begin) / span):.3f}%",
        height=f"{pitch - 1}",
        rx="1",
    )


def _curve(place: Place, calls: Sequence[SubCall], span: float) -> Html:
    """How many calls were in flight over time; red ticks at its foot where some failed."""
    steps, failed = [0.0] * (BINS + 1), [0] * BINS
    partial = [0.0] * (BINS + 1)
    for call in calls:
        begins, ends = _span(call)
        begin = min((place.begins + begins) / span * BINS, BINS - 0.001)
        end = min(begin + max((ends - begins) / span * BINS, 0.001), float(BINS))
        first, last = int(begin), min(int(end), BINS - 1)
        failed[first] += bool(call.error)
        if first == last:
            partial[first] += end - begin
            continue
        partial[first] += first + 1 - begin
        partial[last] += end - last
        steps[first + 1] += 1
        steps[last] -= 1
    flying, now = list[float](), 0.0
    for step, part in zip(steps[:BINS], partial[:BINS], strict=True):
        now += step
        flying.append(now + part)
    top = max(flying, default=0.0) or 1.0
    heights = [CURVE_HEIGHT - 4 - value / top * (CURVE_HEIGHT - 6) for value in flying]
    area = f"M0 {CURVE_HEIGHT - 4}" + "".join(f"V{h:.1f}h1" for h in heights) + f"V{CURVE_HEIGHT - 4}z"
    marks = "".join(f"M{i} {CURVE_HEIGHT - 3}h1v3h-1z" for i, number in enumerate(failed) if number)
    return tag(
        "svg",
        tag("title", _told(place, calls)),
        tag("path", class_="dz-call", d=area),
        tag("path", class_="dz-bad", d=marks) if marks else Html(""),
        class_="dz-calls",
        role="img",
        viewBox=f"0 0 {BINS} {CURVE_HEIGHT}",
        preserveAspectRatio="none",
        height=f"{CURVE_HEIGHT}",
        aria_label=_told(place, calls),
    )


def _told(place: Place, calls: Sequence[SubCall]) -> str:
    failed = sum(bool(c.error) for c in calls)
    said = f"{place.name}: {count(len(calls), 'sub-call')}, at most {peak(calls)} at once"
    return f"{said}, {failed:,} failed" if failed else said


def _ticks(span: float) -> list[float]:
    """Three to six round moments, from zero."""
    rough = span / 5
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * m for m in (1, 2, 5, 10) if unit * m >= rough * 0.999)
    return [n * step for n in range(int(span / step * 1.0001) + 1)]


def _grid(ticks: Sequence[float], span: float) -> Html:
    lines = [tag("i", style=f"left:{100 * t / span:.2f}%") for t in ticks]
    return tag("div", *lines, class_="dz-grid", aria_hidden="true")


def _axis(ticks: Sequence[float], span: float) -> Html:
    # A label that begins in the last tenth would leave the page.
    labels = [
        tag("span", seconds(t) if t else "0", style=f"left:{100 * t / span:.2f}%") for t in ticks if t <= span * 0.92
    ]
    return tag("div", tag("div"), tag("div", *labels, class_="dz-axis"), class_="dz-row", aria_hidden="true")


def _key() -> Html:
    kinds = (
        ("decide", "model decides"),
        ("run", "code runs"),
        ("call", "sub-call"),
        ("child", "child run"),
        ("cached", "from the cache"),
        ("bad", "failed"),
    )
    return tag("ul", *(tag("li", tag("i", class_=f"dz-{k}"), word) for k, word in kinds), class_="dz-key")
