"""A run as rows of plain data, and back: what a trace file holds, line by line. The table of it is in ``dszig_py.trace``.

The functions that make a row are the same for a run under way and for one that is over, so both files are alike.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

from dszig_py import records
from dszig_py.environments._worker import codec
from dszig_py.trajectory import Iteration, SubCall, Trajectory
from dszig_py.usage import Usage

__all__ = ["SCHEMA", "Place", "action", "end", "head", "iteration", "load", "of_run", "sub_call"]

SCHEMA = "dszig.trace/1"
UNFINISHED = "unfinished: the file ends before this call does"
# What the last row of a run adds to its first. A route and an isolation may be known only after the run began.
_END = ("extraction", "termination", "outputs", "usage", "seconds", "route", "isolation")
_DECIDED = ("action", "usage", "started", "decide_seconds", "compaction")  # known before its code runs


@dataclass(frozen=True, slots=True)
class Place:
    """Where rows belong: a run, and how many seconds after the root it began."""

    run: str
    depth: int = 0
    offset: float = 0.0

    def row(self, event: str, seconds: float) -> dict[str, Any]:
        """The keys every row has. ``seconds``: since the run began."""
        return {"event": event, "run": self.run, "depth": self.depth, "t": round(self.offset + seconds, 6)}

    @classmethod
    def of(cls, run: Trajectory, root: Trajectory) -> Place:
        """The place of a run; runs begin at Unix times, and that clock may have been set back in between."""
        return cls(run.id, run.depth, max(0.0, run.begun - root.begun))


def head(at: Place, run: Trajectory, parent: str) -> dict[str, Any]:
    """The run as it begins."""
    begun = replace(
        run, iterations=(), extraction=None, termination=None, outputs={}, usage=Usage(), seconds=0.0, route=""
    )
    packed = records.pack(begun)
    del packed["id"]
    packed.pop("depth", None)
    schema = {} if parent else {"schema": SCHEMA}
    return {**schema, **at.row("run", 0.0), **({"parent": parent} if parent else {}), **packed}


def action(at: Place, decided: Iteration) -> dict[str, Any]:
    """What was decided, before its code runs: the reply is paid for."""
    packed = records.pack(decided)
    row = at.row("action", decided.started + decided.decide_seconds)
    return {**row, "index": decided.index, **{name: packed[name] for name in _DECIDED if name in packed}}


def sub_call(at: Place, call: SubCall) -> dict[str, Any]:
    """A finished sub-call. Its child run has rows of its own.

    Written out field by field: a run has thousands of these, and going by the records' fields takes five times as long.
    """
    row = at.row("sub_call", call.started + call.seconds)
    row["id"] = call.id
    row["kind"] = call.kind
    row["prompt"] = records.text(call.prompt)
    row["prompt_chars"] = call.prompt_chars
    row["reply"] = records.text(call.reply)
    row["model"] = records.text(call.model)
    row["usage"] = _usage(call.usage)
    row["started"] = records.number(call.started)
    row["seconds"] = records.number(call.seconds)
    if call.error:
        row["error"] = records.text(call.error)
    if call.batch or call.index:
        row["batch"], row["index"] = call.batch, call.index
    if call.cached:
        row["cached"] = True
    if call.trajectory is not None:
        row["child"] = call.trajectory.id
    return row


def _usage(usage: Usage) -> dict[str, Any]:
    cost = usage.cost
    row: dict[str, Any] = {
        "calls": usage.calls,
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "cost": None if cost is None else records.number(cost),
        "seconds": records.number(usage.seconds),
    }
    if usage.estimated:
        row["estimated"] = True
    if usage.by_model:
        row["by_model"] = records.pack(usage.by_model)
    if usage.by_depth:
        row["by_depth"] = records.pack(usage.by_depth)
    return row


def iteration(at: Place, done: Iteration) -> dict[str, Any]:
    """What came of an action. Its sub-calls are named by their ids."""
    packed = records.pack(replace(done, sub_calls=()))
    rest = {name: value for name, value in packed.items() if name not in _DECIDED}
    return {**at.row("iteration", done.started + done.seconds), **rest, "sub_calls": [c.id for c in done.sub_calls]}


def end(at: Place, run: Trajectory) -> dict[str, Any]:
    """How the run ended."""
    values = {name: getattr(run, name) for name in _END if name != "outputs"}
    packed = {name: records.pack(value) for name, value in values.items()}
    outputs = codec.encode(dict(run.outputs))
    return {**at.row("end", run.seconds), "iterations": len(run.iterations), **packed, "outputs": outputs}


def of_run(run: Trajectory) -> Iterator[dict[str, Any]]:
    """All rows of a run that is over, in the order in which they came about within each run."""
    yield from _of_run(run, run, "")


def _of_run(run: Trajectory, root: Trajectory, parent: str) -> Iterator[dict[str, Any]]:
    at = Place.of(run, root)
    yield head(at, run, parent)
    for done in run.iterations:
        yield action(at, done)
        for call in done.sub_calls:
            if call.trajectory is not None:
                yield from _of_run(call.trajectory, root, call.id)
            yield sub_call(at, call)
        yield iteration(at, done)
    yield end(at, run)


@dataclass
class _Read:
    """What was read of one run."""

    head: Trajectory
    parent: str
    t: float
    decided: dict[int, dict[str, Any]] = field(default_factory=dict[int, dict[str, Any]])
    done: list[tuple[Iteration, list[str]]] = field(default_factory=list[tuple[Iteration, list[str]]])
    calls: dict[str, tuple[SubCall, str]] = field(default_factory=dict[str, tuple[SubCall, str]])
    end: dict[str, Any] | None = None
    last: float = 0.0


def load(lines: Iterable[bytes], path: str) -> Trajectory:
    """The root run in ``lines``, children in their places. A cut last line is passed over, and so is an event of a kind
    that a later version may write. Raises ``ValueError``.
    """
    runs: dict[str, _Read] = {}
    unread = ""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        if unread:
            raise ValueError(unread)
        try:
            row = codec.loads(line)
        except ValueError:
            unread = f"{path}: line {number} is not JSON"
            continue
        try:
            _take(runs, row)
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            raise ValueError(f"{path}: line {number}: {error}") from error
    if not runs:
        raise ValueError(unread or f"{path}: no run in it")
    root = next(iter(runs.values()))
    try:
        return _built(root, runs)
    except (LookupError, RecursionError, TypeError) as error:
        raise ValueError(f"{path}: damaged: {error}") from error


def _take(runs: dict[str, _Read], row: Any) -> None:
    if not isinstance(row, dict) or "event" not in row:
        raise ValueError("not a saved run")
    row = cast("dict[str, Any]", row)
    kind, run = row["event"], records.of(str, row["run"])
    if not runs and (row.get("schema") != SCHEMA or kind != "run"):
        raise ValueError(f"the file does not begin as {SCHEMA}")
    if kind == "run":
        if runs and not row.get("parent"):
            raise ValueError("a second run in one file")
        values = records.fields(Trajectory, row)
        runs[run] = _Read(Trajectory(**{**values, "id": run}), records.of(str, row.get("parent", "")), _seconds(row))
        return
    read = runs[run]
    read.last = max(read.last, _seconds(row) - read.t)
    if kind == "action":
        read.decided[row["index"]] = row
    elif kind == "sub_call":
        call = SubCall(**records.fields(SubCall, row))
        read.calls[call.id] = (call, row.get("child", ""))
    elif kind == "iteration":
        decided = read.decided.pop(row["index"])
        ids = records.of(list, row["sub_calls"])
        read.done.append((_iteration({**decided, **row}), ids))
    elif kind == "end":
        read.end = records.fields(Trajectory, {name: row[name] for name in _END if name in row})


def _seconds(row: Mapping[str, Any]) -> float:
    return records.unpack(float, row["t"])


def _iteration(row: Mapping[str, Any]) -> Iteration:
    names = {f.name for f in dataclasses.fields(Iteration)} - {"sub_calls"}
    values: dict[str, Any] = {
        "action": {},
        "execution": {},
        "observation": "",
        **{n: v for n, v in row.items() if n in names},
    }
    return Iteration(**records.fields(Iteration, values))


def _built(read: _Read, runs: Mapping[str, _Read]) -> Trajectory:
    """The run of ``read`` with its children; what had not ended is filled in from what there is."""
    calls: dict[str, SubCall] = {}
    for call, child in read.calls.values():
        inner = runs.get(child) if child else None
        calls[call.id] = call if inner is None else replace(call, trajectory=_built(inner, runs))
    done = [replace(one, sub_calls=tuple(calls.pop(call) for call in ids)) for one, ids in read.done]
    if read.end is not None:
        return replace(read.head, iterations=tuple(done), **read.end)
    for inner in runs.values():
        if inner.parent.rpartition(".")[0] == read.head.id and inner.parent not in read.calls:
            calls[inner.parent] = _unfinished(inner, read, runs)
    for row in read.decided.values():
        done.append(replace(_iteration(row), sub_calls=tuple(calls.values())))
        calls = {}
    usage = sum((_spent(one, read.head) for one in done), Usage())
    return replace(read.head, iterations=tuple(done), usage=usage, seconds=read.last)


def _unfinished(inner: _Read, parent: _Read, runs: Mapping[str, _Read]) -> SubCall:
    """The call behind a child run, where the file ends before it: its prompt is not known, its signature is."""
    run = _built(inner, runs)
    return SubCall(
        inner.parent,
        "rlm_query",
        run.signature,
        len(run.signature),
        error=UNFINISHED,
        model=run.model,
        usage=run.usage,
        started=max(0.0, inner.t - parent.t),
        seconds=run.seconds,
        trajectory=run,
    )


def _spent(done: Iteration, run: Trajectory) -> Usage:
    """What an iteration of an unfinished run had spent, filed as the ledger would have."""
    usage = done.usage.at(run.model, run.depth) if done.usage.calls else Usage()
    for call in done.sub_calls:
        if call.cached or not call.usage.calls:
            continue
        usage += call.usage if call.trajectory is not None else call.usage.at(call.model, run.depth)
    return usage
