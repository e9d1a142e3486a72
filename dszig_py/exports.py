"""Trajectories in the formats of two other tools: zigrlm's trace events, and the log rows that rlm's visualizer reads.

What a trajectory does not hold is ``None`` there, never a guess: bytes of whole prompts (it keeps previews and sizes in
characters), limits of the run, values of REPL variables. Tokens are never written where bytes are meant, or bytes for tokens.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from dszig_py import environments
from dszig_py.previews import brief
from dszig_py.trajectory import Action, Extraction, Iteration, SubCall, Trajectory
from dszig_py.usage import Usage

__all__ = ["to_rlm_log", "to_zigrlm_events"]

EVENT_SCHEMA = "zigrlm.trace_event.v1"
METADATA_SCHEMA = "zigrlm.rlm_metadata.v1"
ITERATION_SCHEMA = "zigrlm.rlm_iteration.v1"
PREVIEW_BYTES = 4_000
JSON_CHARS = 20_000  # of a value that JSON cannot hold


def to_zigrlm_events(trajectory: Trajectory) -> Iterator[dict[str, Any]]:
    """The run as ``zigrlm.trace_event.v1``, one object an event, children between the start and the end of their call.

    Not told, because there is no such thing here: leaf_call_start and leaf_call_complete. ``bytes`` counts UTF-8 bytes; of
    a prompt that is kept by its preview it is the least it can be, and ``bytes_exact`` is false.
    """
    yield from _events(trajectory, _milliseconds(trajectory.begun))


def _events(run: Trajectory, began: int) -> Iterator[dict[str, Any]]:
    def event(kind: str, text: str, seconds: float, index: int | None, **more: Any) -> dict[str, Any]:
        return _event(kind, text, began + _milliseconds(seconds), run.depth, index, **more)

    yield event("start", run.contract or run.signature, 0.0, 0)
    for done in run.iterations:
        decided = done.started + done.decide_seconds
        if done.compaction is not None:
            yield event("compaction", done.compaction.summary, done.started, done.index)
        yield event("iteration", f"iteration {done.index}", done.started, done.index)
        yield event("model_response", _response(run, done.action), decided, done.index)
        for cell in done.action.cells:
            yield event("code_block", cell, decided, done.index)
        for batch in _batches(done.sub_calls):
            yield from _calls(batch, run, began)
        yield from (event(kind, text, done.started + done.seconds, done.index) for kind, text in _outcome(done))
    last = run.iterations[-1].index if run.iterations else 0
    if run.extraction is not None:
        yield event("fallback", run.extraction.reply, run.seconds, last)
    ended = run.termination
    if ended is not None and ended.cause == "budget":
        yield event("limit_exceeded", str(ended), run.seconds, last)
    if ended is not None:
        yield event("final", _final(run), run.seconds, last)


def _outcome(done: Iteration) -> Iterator[tuple[str, str]]:
    execution = done.execution
    if execution.error or execution.lost:
        yield "repl_stderr", "\n".join(part for part in (execution.error, execution.lost) if part)
    if execution.submission is not None:
        yield "repl_final", _json(execution.submission)
    yield "repl_observation", done.observation


def _calls(batch: Sequence[SubCall], run: Trajectory, began: int) -> Iterator[dict[str, Any]]:
    """The events of one call, or of one batch: its start, its calls in order of their index, its end."""

    def event(kind: str, text: str, seconds: float, **more: Any) -> dict[str, Any]:
        return _event(kind, text, began + _milliseconds(seconds), run.depth, None, **more)

    name = "rlm_query" if any(call.kind == "rlm_query" for call in batch) else "llm_query"
    if batch[0].batch:
        yield event(f"{name}_batch_start", f"{len(batch)} prompts", min(call.started for call in batch))
    for call in batch:
        ended, told = call.started + call.seconds, call.error or call.reply
        if call.kind == "tool":
            yield event("tool_call", call.prompt, call.started, chars=call.prompt_chars)
            continue
        name_of_one = "rlm_query" if call.kind == "rlm_query" else "llm_query"
        yield event(f"{name_of_one}_start", call.prompt, call.started, chars=call.prompt_chars)
        if call.trajectory is not None:
            yield from _events(call.trajectory, began + _milliseconds(call.started))
        yield event(f"{name_of_one}_complete", told, ended)
    if batch[0].batch:
        yield event(f"{name}_batch_complete", f"{len(batch)} responses", max(c.started + c.seconds for c in batch))


def _event(
    kind: str, text: str, ts_ms: int, depth: int, iteration: int | None, *, chars: int | None = None
) -> dict[str, Any]:
    """``chars``: the size of the whole text, where ``text`` may be a preview of it."""
    data = text.encode("utf-8", "replace")
    shown = data[:PREVIEW_BYTES].decode("utf-8", "ignore")
    cut = chars is not None and chars != len(text)
    size = max(len(data), chars or 0) if cut else len(data)
    body: dict[str, Any] = {"bytes": size, "preview": shown}
    if cut or len(data) > PREVIEW_BYTES:
        body["truncated"] = True
    event: dict[str, Any] = {"schema": EVENT_SCHEMA, "ts_ms": ts_ms, "event": kind, "depth": depth}
    if iteration is not None:
        event["iteration"] = iteration
    event |= {**body, "payload": {"kind": "text", **body}}
    return {**event, "bytes_exact": False} if cut else event


def to_rlm_log(trajectory: Trajectory) -> Iterator[dict[str, Any]]:
    """The run as rows of rlm's log: ``zigrlm.rlm_metadata.v1``, then a ``zigrlm.rlm_iteration.v1`` an iteration.

    The decisions' prompts are what was new in each: the contract, then what the code before it gave. An extraction is the
    last of them.
    """
    yield _metadata(trajectory)
    new = trajectory.contract or trajectory.signature
    for done in trajectory.iterations:
        yield _row(trajectory, done, new)
        new = done.observation
    if trajectory.extraction is not None:
        yield _closing(trajectory, trajectory.extraction, new)


def _closing(run: Trajectory, done: Extraction, new: str) -> dict[str, Any]:
    """The extraction as one more iteration, so that a visualizer finds the answer a run came to without a SUBMIT."""
    last = run.iterations[-1] if run.iterations else None
    began = run.begun if last is None else run.begun + last.started + last.seconds
    return {
        "type": "iteration",
        "schema": ITERATION_SCHEMA,
        "iteration": 1 if last is None else last.index + 1,
        "timestamp": _milliseconds(began),
        "prompt": [{"role": "user", "content": new}],
        "response": done.error or done.reply,
        "usage": _usage(done.usage),
        "final_answer": None if done.error else _final(run),
        "iteration_time": _finite(done.seconds),
        "code_blocks": [],
    }


def _metadata(run: Trajectory) -> dict[str, Any]:
    calls = [call for done in run.iterations for call in done.sub_calls if call.kind != "tool"]
    return {
        "type": "metadata",
        "schema": METADATA_SCHEMA,
        "root_model": run.model,
        "max_depth": None,
        "max_iterations": None,
        "backend": "dszig_py",
        "backend_kwargs": {},
        "environment_type": run.environment,
        "environment_kwargs": {},
        "other_backends": None,
        "usage": _usage(run.usage),
        "run": {"depth": run.depth, "iterations": len(run.iterations), **_span(run)},
        "subcalls": [_subcall(call, run.depth, batch) for batch in _batches(calls) for call in batch],
    }


def _span(run: Trajectory) -> dict[str, Any]:
    return {
        "prompt_bytes": None,
        "started_ms": _milliseconds(run.begun),
        "completed_ms": _milliseconds(run.begun + run.seconds),
        "subcall_count": sum(call.kind != "tool" for call in run.sub_calls()),
        "final_answer": None if run.termination is None else _final(run),
    }


def _subcall(call: SubCall, depth: int, batch: Sequence[SubCall]) -> dict[str, Any]:
    kind = "rlm" if call.kind == "rlm_query" else "llm"
    row: dict[str, Any] = {
        "kind": f"{kind}_batch" if call.batch else kind,
        "depth": depth + 1,
        "prompt": call.prompt,
        "response": call.error or call.reply,
        "usage": _usage(call.usage),
        "iterations": 0 if call.trajectory is None else len(call.trajectory.iterations),
        "batch_size": len(batch),
    }
    return row if call.trajectory is None else {**row, "metadata": _nested(call.trajectory)}


def _row(run: Trajectory, done: Iteration, new: str) -> dict[str, Any]:
    final = None if done.execution.submission is None else _answer(done.execution.submission)
    return {
        "type": "iteration",
        "schema": ITERATION_SCHEMA,
        "iteration": done.index,
        "timestamp": _milliseconds(run.begun + done.started),
        "prompt": [{"role": "user", "content": new}],
        "response": _response(run, done.action),
        "usage": _usage(done.usage),
        "final_answer": final,
        "iteration_time": _finite(done.seconds),
        "code_blocks": [_block(done, final)] if done.action.cells else [],
    }


def _block(done: Iteration, final: str | None) -> dict[str, Any]:
    """All cells of an iteration as one block: the trajectory has one execution for them."""
    execution = done.execution
    result: dict[str, Any] = {
        "stdout": execution.stdout,
        "stderr": execution.error or execution.lost,
        "locals": {},
        "execution_time": _finite(execution.seconds),
        "rlm_calls": [_rlm_call(call) for call in done.sub_calls if call.kind != "tool"],
        "var_count": None,
    }
    return {"code": done.action.code, "result": result if final is None else {**result, "final_answer": final}}


def _rlm_call(call: SubCall) -> dict[str, Any]:
    usage = call.usage
    by_model = usage.by_model or {call.model: usage}
    row: dict[str, Any] = {
        "root_model": call.model,
        "prompt": call.prompt,
        "response": call.error or call.reply,
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "usage_summary": {"model_usage_summaries": {model: _summary(part) for model, part in by_model.items()}},
        "execution_time": _finite(call.seconds),
    }
    if call.error:
        row["error"] = call.error
    return row if call.trajectory is None else {**row, "metadata": _nested(call.trajectory)}


def _summary(usage: Usage) -> dict[str, Any]:
    summary: dict[str, Any] = {
        "total_calls": usage.calls,
        "total_input_tokens": usage.input_tokens,
        "total_output_tokens": usage.output_tokens,
    }
    return summary if usage.cost is None else {**summary, "total_cost": _finite(usage.cost)}


def _nested(run: Trajectory) -> dict[str, Any]:
    """A child run inside its call."""
    about = {"depth": run.depth, "max_depth": None, "max_iterations": None, "usage": _usage(run.usage), **_span(run)}
    return {"run_metadata": about, "iterations": [_nested_row(run, done) for done in run.iterations]}


def _nested_row(run: Trajectory, done: Iteration) -> dict[str, Any]:
    row = _row(run, done, "")
    return {name: row[name] for name in ("iteration", "response", "final_answer", "code_blocks")}


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "calls": usage.calls,
        "input_bytes": None,
        "output_bytes": None,
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "cost_micros": None if usage.cost is None else round(_finite(usage.cost) * 1e6),
        "estimated": usage.estimated,
    }


def _batches(calls: Sequence[SubCall]) -> Iterator[list[SubCall]]:
    """Calls as they were made: one at a time, or the whole of a batch in its order."""
    began: dict[str, float] = {}
    for call in calls:
        key = call.batch or call.id
        began[key] = min(began.get(key, call.started), call.started)
    inside = sorted(calls, key=lambda c: (began[c.batch or c.id], c.batch or c.id, c.index))
    for _, batch in groupby(inside, key=lambda c: c.batch or c.id):
        yield list(batch)


def _response(run: Trajectory, action: Action) -> str:
    """The reply as far as it is kept: what was said, and the code in fences."""
    label = environments.language(run.environment).label
    fences = [f"```{label}\n{cell}\n```" for cell in action.cells]
    return "\n\n".join(part for part in (action.reasoning, *fences) if part)


def _final(run: Trajectory) -> str:
    return _answer(dict(run.outputs))


def _answer(outputs: dict[str, Any]) -> str:
    """A single text as it is, everything else as JSON."""
    values = list(outputs.values())
    return values[0] if len(values) == 1 and isinstance(values[0], str) else _json(outputs)


def _json(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, default=str)
    except (ValueError, RecursionError):  # an int of more digits than Python writes
        return brief(value, JSON_CHARS)


def _milliseconds(seconds: float) -> int:
    return int(_finite(seconds) * 1000)


def _finite(value: float) -> float:
    """No infinities in JSON; a record is read from a file that anyone may have written."""
    return value if abs(value) < 1e12 else 0.0
