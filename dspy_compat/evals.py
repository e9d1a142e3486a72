"""The evaluation suite inside DSPy: its tasks as examples, its judges as a metric, dspy's own RLM as a system.

::

    from dspy_compat.evals import examples, metric
    train, dev = examples("label_count", length=32_000, n=20), examples("label_count", length=32_000, n=50, seed=1)
    dspy.Evaluate(devset=dev, metric=metric)(rlm)
    dspy.GEPA(metric=metric, ...).compile(rlm, trainset=train, valset=dev)
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import anyio
import anyio.to_thread
import dspy

from dspy_compat._feedback import feedback
from dspy_compat._install import original
from dspy_compat._stock import Engine, Loop, SessionInterpreter
from dszig_py import environments
from dszig_py.contract import compile_contract
from dszig_py.errors import LMError
from dszig_py.evals import Outcome, Setup, Task, judge, rows
from dszig_py.evals.tasks import Example
from dszig_py.lm.gate import Gate
from dszig_py.routing import too_long
from dszig_py.signature import Signature
from dszig_py.trajectory import Trajectory
from dszig_py.usage import Exhausted, Ledger

__all__ = ["dspy_rlm", "examples", "metric", "metric_of"]

NO_LIMIT = 1_000_000  # of dspy's own counts, where a budget has none


def examples(task: str | Task, length: int = 32_000, n: int = 50, *, seed: int = 0) -> list[dspy.Example]:
    """The first ``n`` examples of a task, with its inputs marked; ``length`` in characters, another ``seed``, others.

    Tasks are named, or read from a file ("oolong:PATH", "ruler:PATH", "rows:PATH"). Raises ``InputError``.
    """
    from dszig_py.evals.suite import resolve

    task = resolve(task)
    names = [f.name for f in Signature.of(task.signature).inputs]
    return [dspy.Example(row).with_inputs(*names) for row in rows(task, length, n, seed=seed)]


def metric_of(task: str | Task) -> Callable[..., Any]:
    """:func:`metric` for the examples of one task; needed where that is read from a file."""
    return functools.partial(metric, task=task)


def metric(
    gold: Any,
    pred: Any,
    trace: Any = None,
    pred_name: str | None = None,
    pred_trace: Any = None,  # noqa: ARG001  # GEPA's metrics have five parameters, by name or by position
    *,
    task: str | Task | None = None,
) -> Any:
    """How right ``pred`` is, for ``dspy.Evaluate`` and every optimizer: a prediction of ``score`` (0 to 1) and ``feedback``.

    The feedback says what was wrong with the answer and, for runs of our RLM, how it was come to. Where demos are
    bootstrapped (a trace and no predictor's name) it is whether the answer is wholly right: only such runs are shown.
    ``task``: where the example is of none of the named ones.
    """
    score = judge(gold, pred, task=task)
    if trace is not None and pred_name is None:
        return score.value >= 1
    told = [f"Answer: {score.feedback}."]
    if isinstance(getattr(pred, "run", None), Trajectory):
        told.append(feedback(pred))
    return dspy.Prediction(score=score.value, feedback="\n".join(told))


async def dspy_rlm(task: Task, example: Example, setup: Setup) -> Outcome:
    """The system "dspy-rlm": the RLM class that dspy came with, under the same model, budget and boundary.

    Its own limits are ``max_iters`` and ``max_llm_calls``; tokens, dollars and seconds, which it does not know, end it from
    outside, and what it had found by then is lost, as it is with it.
    """
    ledger, gate, loop = Ledger(setup.budget), Gate(setup.budget.max_concurrency), Loop()
    limiter = anyio.CapacityLimiter(setup.budget.max_concurrency + 4)
    engines = [Engine(lm, ledger, gate, loop) for lm in (setup.lm, setup.sub_lm)]
    contract = compile_contract(Signature.of(task.signature), example.inputs)
    interpreter = SessionInterpreter(environments.resolve(setup.environment), contract, loop, limiter)
    started = time.monotonic()
    prediction, error = None, None

    def run() -> Any:
        rlm = _stock(task, setup, engines, interpreter)
        with dspy.context(lm=_lm(engines[0]), disable_history=True, callbacks=[], trace=None):
            return rlm(**example.inputs)

    with anyio.move_on_after(setup.budget.max_seconds) as scope:
        try:
            prediction = await anyio.to_thread.run_sync(run, limiter=limiter, abandon_on_cancel=True)
        except Exception as failure:  # it raises whatever it meets; that is a row, not the evaluation's end
            error = failure
        finally:
            with anyio.CancelScope(shield=True):
                loop.close()
                await interpreter.aclose()
    about = {"usage": ledger.usage, "seconds": time.monotonic() - started}
    if scope.cancelled_caught:
        return Outcome({}, "max_seconds", "budget", f"{setup.budget.max_seconds:g} s are over", **about)
    if prediction is None:
        return Outcome({}, *_ended(error, engines), **about)
    return _outcome(task, prediction, about)


def _stock(task: Task, setup: Setup, engines: list[Engine], interpreter: SessionInterpreter) -> Any:
    limits = setup.budget
    return original(dspy)(
        task.signature,
        max_iters=NO_LIMIT if limits.max_iters is None else limits.max_iters,
        max_llm_calls=NO_LIMIT if limits.max_llm_calls is None else limits.max_llm_calls,
        sub_lm=_lm(engines[1]),
        interpreter_factory=lambda: interpreter,
    )


def _lm(engine: Engine) -> dspy.LM:
    return dspy.LM("evaluated", engine=engine, cache=False, num_retries=0)


def _outcome(task: Task, prediction: dspy.Prediction, about: dict[str, Any]) -> Outcome:
    outputs = {task.output: getattr(prediction, task.output, None)}
    iterations = len(prediction.trajectory)
    if prediction.final_reasoning == "Extract forced final output":  # dspy's own word for it
        return Outcome(outputs, "max_iters", "budget", "the outputs were extracted", iterations=iterations, **about)
    return Outcome(outputs, iterations=iterations, **about)


def _ended(error: Exception | None, engines: list[Engine]) -> tuple[str, str, str]:
    """Kind, cause and detail of a run that raised."""
    told = f"{type(error).__name__}: {error}"[:1_000]
    for ended in (engine.ended for engine in engines):
        if isinstance(ended, Exhausted):
            return ended.limit, "budget", str(ended)
    failures = [engine.ended for engine in engines if isinstance(engine.ended, LMError)]
    if isinstance(error, dspy.LMError):
        return "error", "model" if any(too_long(failure) for failure in failures) else "provider", told
    return "error", "environment" if isinstance(error, dspy.CodeInterpreterError) else "model", told
