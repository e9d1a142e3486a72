"""One call of the module: its options and dspy's settings made into a plan, run, and made into a ``dspy.Prediction``."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import anyio
import dspy

from dspy_compat._adapters import DspyLM, tool_function
from dspy_compat._callbacks import subscriber
from dspy_compat._facade import OwnEnvironment, sub_agents
from dspy_compat._policy import PredictPolicy, Steps
from dspy_compat._signatures import adopted
from dspy_compat._streaming import relayed
from dspy_compat._types import Inputs, prepared
from dszig_py import environments, portal, runner
from dszig_py.errors import DszigError, InputError
from dszig_py.lm.base import LM
from dszig_py.lm.gate import Gate
from dszig_py.signature import Signature
from dszig_py.tools import Tool
from dszig_py.trajectory import Prediction
from dszig_py.usage import Ledger

if TYPE_CHECKING:
    from dspy_compat._module import RLM

__all__ = ["aforward", "check_factory", "forward", "migrated"]

FORCED = "The outputs were extracted from the history: the code did not SUBMIT."


def forward(module: RLM, factory: Callable[[], Any] | None, inputs: Mapping[str, Any]) -> dspy.Prediction:
    """The sync face: the same coroutine on the background loop, in the caller's context."""
    check_inputs(module, inputs)
    with relayed():
        return portal.call(aforward, module, factory, inputs, False)


async def aforward(
    module: RLM, factory: Callable[[], Any] | None, inputs: Mapping[str, Any], use_async: bool
) -> dspy.Prediction:
    """Run once. What ends it other than an input error or a cancellation is a prediction, unless asked to raise."""
    check_inputs(module, inputs)
    steps = Steps(module.trace_steps)
    made = prepared(inputs)
    plan = _plan(module, factory, steps, made, use_async)
    try:
        prediction = await runner.run(plan, made.values, subscriber(module))
    except InputError as error:
        raise ValueError(str(error)) from error
    except DszigError as error:
        if module.on_failure == "raise" or error.prediction is None:
            raise (error.__cause__ if isinstance(error.__cause__, dspy.DSPyError) else error) from error
        prediction = error.prediction
    finally:
        steps.flush()
    return to_dspy(prediction)


def _plan(module: RLM, factory: Callable[[], Any] | None, steps: Steps, made: Inputs, use_async: bool) -> runner.Plan:
    # Blocking calls get a limiter of their own in each run: sixty predictors in threads that each wait for a nested run
    # would wait for themselves on a shared one.
    limiter = anyio.CapacityLimiter(module.budget.max_concurrency + 4)
    root = DspyLM(lambda: getattr(module.generate_action, "lm", None) or dspy.settings.lm, limiter)
    sub = DspyLM(lambda: _sub_lm(module), limiter)

    def policy(plan: runner.Plan, lm: LM, gate: Gate) -> PredictPolicy:
        override = _sub_lm(module) if lm is sub and module.sub_lm is not None else None
        return PredictPolicy(
            module.generate_action,
            module.extract,
            lm,
            override,
            gate,
            use_async,
            limiter,
            steps,
            plan.strategy.max_history_chars,
            plan.max_output_chars,
        )

    chosen = _factory(module, factory)
    environment = environments.resolve(_environment(module, chosen))

    def agents(ledger: Ledger) -> runner.Preamble:
        own = sub_agents(module, _sub_lm(module), ledger)
        if ledger.depth:  # a child has inputs of its own
            return own
        return replace(own, code="\n".join([own.code, *made.code]), notes=(*own.notes, *made.notes))

    tools = {name: Tool.of(name, tool_function(tool)) for name, tool in module.tools.items()}
    return runner.Plan(
        signature=Signature.of(module.signature),
        lms=[root],
        sub_lms=[sub],
        named_lms={name: DspyLM(lambda lm=lm: lm, limiter) for name, lm in module.lms.items()},
        environment=environment,
        budget=module.budget,
        strategy=module.strategy,
        policy=policy,
        tools=tools,
        child_tools=frozenset(tools),
        check=module.check,
        max_output_chars=module.max_output_chars,
        images=made.images,
        preamble=None if _is_interpreter(chosen) or not module.strategy.sub_calls else agents,
    )


def _sub_lm(module: RLM) -> Any:
    """Where sub-calls go: ``sub_lm``, else the LM set on the predictors, else dspy's; resampled as the root is."""
    active = getattr(module.generate_action, "lm", None) or dspy.settings.lm
    if module.sub_lm is None:
        return active
    rollout = (getattr(active, "kwargs", None) or {}).get("rollout_id")
    if rollout is None or not hasattr(module.sub_lm, "copy"):
        return module.sub_lm
    return module.sub_lm.copy(rollout_id=rollout, temperature=active.kwargs.get("temperature", 1.0))


def _factory(module: RLM, factory: Any) -> Any:
    """What is to run the code: as asked for in the call, in the constructor, in dspy's settings."""
    check_factory(factory)
    return factory or module._interpreter_factory or dspy.settings.get("interpreter_factory")


def _is_interpreter(chosen: Any) -> bool:
    return chosen is not None and not isinstance(chosen, OwnEnvironment)


def _environment(module: RLM, chosen: Any) -> Any:
    """A DSPy interpreter where one is asked for; else ours, also for an RLM nested in a REPL of ours."""
    if not _is_interpreter(chosen):
        return module.environment if chosen is None else chosen.environment
    from dszig_py.environments.interpreter import InterpreterEnvironment

    return InterpreterEnvironment(chosen)


def check_factory(factory: Any) -> None:
    """Dspy's own rule: a zero-argument callable, not an interpreter. Raises ``TypeError``."""
    if factory is None:
        return
    if not callable(factory) or (hasattr(factory, "execute") and not inspect.isclass(factory)):
        raise TypeError("interpreter_factory must be a callable that creates an interpreter, such as its class")


def check_inputs(module: RLM, inputs: Mapping[str, Any]) -> None:
    """Raises ``ValueError`` for inputs the signature does not declare, and for those that are missing."""
    declared = set(module.signature.input_fields)
    if unexpected := sorted(set(inputs) - declared):
        raise ValueError(f"Unexpected inputs not declared in the signature: {unexpected}")
    if missing := sorted(declared - set(inputs)):
        raise ValueError(f"Missing required inputs: {missing}")


def to_dspy(prediction: Prediction) -> dspy.Prediction:
    """Our prediction as dspy's: outputs, the trajectory as dspy.RLM gives it, and the whole run beside it."""
    iterations = prediction.trajectory.iterations
    told = [{"reasoning": i.action.reasoning, "code": i.action.code, "output": i.observation} for i in iterations]
    submitted = prediction.termination.kind == "submitted"
    reasoning = iterations[-1].action.reasoning if iterations and submitted else FORCED
    about = {"termination": prediction.termination, "run": prediction.trajectory}
    # The outputs last: dspy.majority votes on the last field.
    return dspy.Prediction(trajectory=told, final_reasoning=reasoning, **about, **prediction.outputs)


def migrated(state: dict[str, Any]) -> dict[str, Any]:
    """The state of a pickled program; one of dspy's own class gets what ours has and it lacks."""
    if "budget" in state or "signature" not in state:
        return state
    from dspy_compat._module import RLM

    fresh = RLM(
        state["signature"],
        state.get("max_iters"),
        state.get("max_llm_calls"),
        state.get("max_output_chars", 10_000),
        state.get("verbose", False),
        list((state.get("_user_tools") or {}).values()),
        state.get("sub_lm"),
    )
    for name in ("generate_action", "extract"):
        stock = state.get(name)
        if isinstance(stock, dspy.Predict):
            ours = getattr(fresh, name)
            ours.demos, ours.lm, ours.config = stock.demos, stock.lm, stock.config
            told = adopted(stock.signature.instructions, ours.signature.instructions)
            ours.signature = ours.signature.with_instructions(told)
    return {**fresh.__dict__, "_compiled": state.get("_compiled", False)}


def running_loop() -> asyncio.AbstractEventLoop | None:
    """The loop this is called on, if any."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
