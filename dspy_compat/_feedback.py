"""A run as a reviewer would tell it to whoever rewrites the instructions: for GEPA metrics.

No timings and no costs (they would teach noise), inputs by name and size only, at most 4 KB whatever the size of what was
read, and in whatever script.
"""

from __future__ import annotations

from typing import Any

from dszig_py.text import clean, truncate
from dszig_py.trajectory import Iteration, SubCall, Trajectory

__all__ = ["feedback"]

MAX_BYTES = 4_096
_ENDS = {
    "submitted": "It ended by SUBMIT.",
    "max_iters": "It ran out of iterations without a SUBMIT: it should submit what it has before the last one.",
    "max_llm_calls": "It used up its sub-calls: pack more items into each prompt, and batch them.",
    "max_tokens": "It used up its tokens: print less, and put less into each sub-call.",
    "max_cost": "It used up its money: fewer or smaller sub-calls.",
    "max_seconds": "It ran out of time.",
    "cancelled": "It was cancelled from outside; the instructions are not to blame.",
}


def feedback(prediction: Any) -> str:
    """What was tried, what went wrong, what was wasted, which limit hit. ``prediction``: of our RLM, dspy's or our own.

    Raises ``TypeError`` for a prediction without a run.
    """
    about: dict[str, Any] = getattr(prediction, "_about", {})  # an output may be called run
    told = (about.get("run"), getattr(prediction, "run", None), getattr(prediction, "trajectory", None))
    run = next((one for one in told if isinstance(one, Trajectory)), None)
    if run is None:
        raise TypeError("feedback() takes a prediction of dspy_compat.RLM, which carries its run")
    parts = [_task(run), _end(run), *_waste(run), "What it did:", *(_iteration(i) for i in _chosen(run))]
    return _within(clean("\n".join(part for part in parts if part)), MAX_BYTES)


def _within(text: str, most: int) -> str:
    """Head and tail of ``text`` in at most ``most`` bytes of UTF-8."""
    cut, chars = text, most
    while len(cut.encode()) > most:
        cut = truncate(text, chars)
        chars = chars * 9 // 10
    return cut


def _task(run: Trajectory) -> str:
    inputs = "; ".join(f"{i.name} ({', '.join(x for x in (i.type, i.size) if x)})" for i in run.inputs)
    return f"Task {truncate(run.signature, 200)}, inputs {truncate(inputs, 300)}."


def _end(run: Trajectory) -> str:
    ended = run.termination
    if ended is None:
        return "It did not end."
    text = _ENDS.get(ended.kind, "")
    if ended.kind == "error":
        whose = {"provider": "the provider", "environment": "the machine", "caller": "the caller"}.get(
            ended.cause, "the model"
        )
        text = f"It failed ({whose}): {truncate(ended.detail, 300)}"
    missing = [name for name, value in run.outputs.items() if value is None]
    return f"{text} Outputs that are missing: {', '.join(missing)}." if missing else text


def _waste(run: Trajectory) -> list[str]:
    calls = list(run.sub_calls())
    told: list[str] = []
    failed = [i.index for i in run.iterations if i.execution.error]
    if failed:
        told.append(f"Cells of iterations {', '.join(map(str, failed[:10]))} raised an exception.")
    if empty := [i.index for i in run.iterations if not i.action.cells]:
        told.append(f"Replies of iterations {', '.join(map(str, empty[:10]))} had no code to run.")
    if lost := [i.index for i in run.iterations if i.execution.lost]:
        told.append(
            f"The REPL was lost in iterations {', '.join(map(str, lost[:10]))}: a cell ran too long or too big."
        )
    told += _sub_call_waste(calls)
    return told


def _sub_call_waste(calls: list[SubCall]) -> list[str]:
    told: list[str] = []
    if errors := [c for c in calls if c.error]:
        told.append(f"{len(errors)} of {len(calls)} sub-calls failed, the first with: {truncate(errors[0].error, 200)}")
    singles = [c for c in calls if c.kind == "llm_query" and not c.batch]
    if len(singles) > 5:
        told.append(f"{len(singles)} sub-calls were made one by one; the batched form runs them at once.")
    prompts = [c.prompt for c in calls if c.kind != "tool"]
    if len(prompts) - len(set(prompts)) > 1:
        told.append(f"{len(prompts) - len(set(prompts))} sub-calls repeated an earlier prompt.")
    small = [c for c in calls if c.batch and c.prompt_chars < 500]
    if len(small) > 20:
        told.append(
            f"{len(small)} sub-calls of a batch had under 500 characters each: pack many items into one prompt."
        )
    return told


def _chosen(run: Trajectory) -> list[Iteration]:
    """The first two iterations, those that failed, and the last two: at most eight."""
    iterations = run.iterations
    keep = {i.index for i in (*iterations[:2], *iterations[-2:])}
    keep |= {i.index for i in [i for i in iterations if i.execution.error or i.execution.lost][:4]}
    return [i for i in iterations if i.index in keep]


def _iteration(iteration: Iteration) -> str:
    lines = [f"Iteration {iteration.index}: {truncate(iteration.action.reasoning, 150)}"]
    if iteration.action.code:
        lines.append(f"  code: {truncate(iteration.action.code, 250)}")
    if iteration.sub_calls:
        lines.append(f"  sub-calls: {len(iteration.sub_calls)}")
    lines.append(f"  shown: {truncate(iteration.observation, 250)}")
    return "\n".join(lines)
