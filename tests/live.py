"""The prompts' own proof, on a real model: two tasks, two lengths, twelve runs, a dollar at most.

``make live MODEL=openai/gpt-5-mini`` or ``python tests/live.py MODEL [FOLDER]``. Writes every run as HTML into FOLDER
(default ``runs/live``) and prints what a prompt's author asks: how often it was right, how many iterations and sub-calls that
took, and how many iterations were wasted (an error, nothing printed, no code in the reply). No part of ``make test``.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from dszig_py import RLM, Budget, InputError
from dszig_py.corpus import Mapped
from dszig_py.evals import TASKS, ReaderLM
from dszig_py.evals.tasks import Example, Task
from dszig_py.prompts import NOTHING_SHOWN
from dszig_py.render import html
from dszig_py.trajectory import Trajectory

PLACES = [(task, length) for task in ("kv", "label_count") for length in (8_000, 64_000)]
EACH = 3
LIMITS = {"max_llm_calls": 400, "max_tokens": 1_000_000}  # of one task and length; dollars are of all of them
ONE_RUN = Budget(max_iters=12, max_llm_calls=60, max_seconds=600)


@dataclass(frozen=True)
class Found:
    """What one run came to."""

    task: str
    length: int
    score: float
    ended: str
    run: Trajectory

    @property
    def sub_calls(self) -> int:
        return sum(1 for _ in self.run.sub_calls())

    @property
    def wasted(self) -> int:
        """Iterations that failed, showed nothing or had no code."""
        return sum(
            bool(i.execution.error or i.execution.lost or not i.action.cells or i.observation == NOTHING_SHOWN)
            for i in self.run.iterations
        )


def run(model: object, folder: Path) -> int:
    found: list[Found] = []
    spent: float | None = 0.0  # None: the model's price is not known
    for name, length in PLACES:
        task = TASKS[name]
        examples = list(task.examples(length, EACH))
        rlm = RLM(task.signature, lm=model, budget=ONE_RUN)
        try:
            results = _mapped(rlm, examples, None if spent is None else 1.0 - spent)
        except InputError as error:
            print(f"nothing was run: {error}", file=sys.stderr)
            return 2
        for result in results:
            if result.prediction is None:
                print(f"no model is reachable as {rlm!r}: {result.error}", file=sys.stderr)
                if found:
                    _report(found, folder, spent)
                return 1
            spent = None if spent is None or result.usage.cost is None else spent + result.usage.cost
            found.append(_found(task, examples[result.index], result))
            _write(found[-1], folder / f"{name}-{length}-{result.index}.html")
    _report(found, folder, spent)
    return 0


def _mapped(rlm: RLM, examples: list[Example], dollars: float | None) -> list[Mapped]:
    """In dollars where the model's price is known; else, and not without saying so, in calls and tokens."""
    inputs = [example.inputs for example in examples]
    if dollars is not None:
        try:
            budget = Budget(max_iters=None, max_cost=max(dollars, 0.0), **LIMITS)
            return list(rlm.map(inputs, max_concurrency=3, budget=budget))
        except InputError as error:
            if "costs" not in str(error):
                raise
            instead = f"{LIMITS['max_llm_calls']:,} sub-calls and {LIMITS['max_tokens']:,} tokens a task and length"
            print(f"a dollar cannot be the limit: {error}. Instead: {instead}.", file=sys.stderr)
    return list(rlm.map(inputs, max_concurrency=3, budget=Budget(max_iters=None, **LIMITS)))


def _found(task: Task, example: Example, result: Mapped) -> Found:
    assert result.prediction is not None
    score = task.score(example, result.outputs).value
    return Found(task.name, example.length, score, result.termination.kind, result.prediction.trajectory)


def _write(found: Found, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(html.page(found.run), encoding="utf-8")


def _report(found: list[Found], folder: Path, spent: float | None) -> None:
    print(f"{'task':12} {'length':>7} {'right':>6} {'iterations':>10} {'sub-calls':>9} {'wasted':>6}  ended")
    for name, length in PLACES:
        rows = [one for one in found if (one.task, one.length) == (name, length)]
        if not rows:
            continue
        means = [sum(values) / len(rows) for values in zip(*(_numbers(one) for one in rows), strict=True)]
        ended = ", ".join(sorted({one.ended for one in rows}))
        print(f"{name:12} {length:7,} {means[0]:6.2f} {means[1]:10.1f} {means[2]:9.1f} {means[3]:6.1f}  {ended}")
    cost = "cost unknown" if spent is None else f"${spent:.3f}"
    print(f"{len(found)} runs, {cost}; each run's HTML is in {folder}")


def _numbers(one: Found) -> tuple[float, ...]:
    return one.score, len(one.run.iterations), one.sub_calls, one.wasted


def main(arguments: list[str]) -> int:
    if not arguments or not arguments[0]:
        print("which model? make live MODEL=openai/gpt-5-mini (any LiteLLM model string, its key set)", file=sys.stderr)
        return 2
    model: object = ReaderLM() if arguments[0] == "reader" else arguments[0]
    return run(model, Path(arguments[1] if len(arguments) > 1 else "runs/live"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
