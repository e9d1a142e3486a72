"""One call of the module: its options and dspy's settings made into a plan, run, and made into a ``dspy.Prediction``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import anyio
import dspy

from dspy_compat import _interpreters
from dspy_compat._adapters import DspyLM, own_tool
from dspy_compat._callbacks import Callbacks
from dspy_compat._facade import OwnEnvironment, sub_agents
from dspy_compat._interpreters import NotAnInterpreter, check_factory
from dspy_compat._policy import PredictPolicy, Steps
from dspy_compat._prediction import to_dspy
from dspy_compat._signatures import Step, adopted
from dspy_compat._streaming import relayed, stream_outputs
from dspy_compat._types import Inputs, prepared
from dszig_py import portal, runner
from dszig_py.errors import DszigError, InputError, LimitReached, LMError
from dszig_py.lm.base import LM
from dszig_py.lm.gate import Gate
from dszig_py.publishing import Listeners
from dszig_py.signature import Signature
from dszig_py.trajectory import Prediction
from dszig_py.usage import Ledger

if TYPE_CHECKING:
    from dspy_compat._module import RLM

__all__ = ["aforward", "check_factory", "forward", "migrated", "relinked"]


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
    chosen = _interpreters.chosen_factory(module, factory)
    steps = Steps(module.trace_steps, module.skill_steps, module.generate_action)
    types = {name: field.annotation for name, field in module.signature.input_fields.items()}
    made = prepared(inputs, types, interpreted=_interpreters.is_interpreter(chosen))
    plan = _plan(module, chosen, steps, made, use_async)
    try:
        ended = await _run(module, plan, made.values)
    except NotAnInterpreter as error:
        raise TypeError(str(error)) from None
    except InputError as error:
        raise ValueError(str(error)) from error
    except DszigError as error:
        if module.on_failure == "raise" or error.prediction is None:
            raise _as_dspy(error) from error
        ended = error.prediction
    finally:
        steps.flush()
    prediction = to_dspy(ended)
    _raise_if_asked(module, ended, prediction)
    if ended.termination.kind == "submitted":
        await stream_outputs(module.extract, ended.outputs)
    return prediction


async def _run(module: RLM, plan: runner.Plan, inputs: Mapping[str, Any]) -> Prediction:
    """The run, with everybody told of it who is to be."""
    callbacks = Callbacks(module)
    listeners = Listeners(module.trace, module.secrets, module.telemetry, module.on_event, module.verbose, [callbacks])
    try:
        async with listeners.told() as tell:
            return await runner.run(plan, inputs, tell)
    finally:
        await callbacks.finished()


def _raise_if_asked(module: RLM, ended: Prediction, prediction: dspy.Prediction) -> None:
    """Limits and failures that the loop makes outcomes of, for callers who want exceptions; these carry the prediction."""
    why = ended.termination
    if module.on_limit == "raise" and why.cause == "budget":
        raise LimitReached(f"{why.kind}: {why.detail}", limit=why.kind, prediction=prediction)
    if module.on_failure == "raise" and why.kind == "error":
        error = DszigError(why.detail)
        error.prediction = ended
        raise error


def _as_dspy(error: DszigError) -> BaseException:
    """What dspy's class would have raised: what the provider or the interpreter did."""
    cause = error.__cause__
    theirs = isinstance(cause, dspy.DSPyError) or isinstance(error, LMError)
    return cause if cause is not None and theirs else error


def _plan(module: RLM, chosen: Any, steps: Steps, made: Inputs, use_async: bool) -> runner.Plan:
    # Blocking calls get a limiter of their own in each run: sixty predictors in threads that each wait for a nested run
    # would wait for themselves on a shared one.
    limiter = anyio.CapacityLimiter(module.budget.max_concurrency + 4)
    root = DspyLM(lambda: _lm(module), limiter)
    subs = [DspyLM(lambda given=given: _sub_lm(module, given), limiter) for given in _by_depth(module.sub_lm)]

    def policy(plan: runner.Plan, lm: LM, gate: Gate) -> PredictPolicy:
        # A child decides on the sub-calls' model: the predictor is told so where that is another than its own.
        override = lm.raw if lm is not root and module.sub_lm is not None else None
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
            raise_unreadable=module.on_failure == "raise",
            skills=module.skill_steps,
            compact=getattr(module, "compact", None),
        )

    tools = {name: own_tool(name, tool) for name, tool in module.tools.items()}
    named = {name: dspy.LM(lm) if isinstance(lm, str) else lm for name, lm in module.lms.items()}
    return runner.Plan(
        signature=Signature.of(module.signature),
        lms=[root],
        sub_lms=subs,
        named_lms={name: DspyLM(lambda lm=lm: lm, limiter) for name, lm in named.items()},
        environment=_interpreters.environment(module, chosen),
        budget=module.budget,
        strategy=module.strategy,
        policy=policy,
        tools=tools,
        child_tools=frozenset(tools if module.child_tools is None else module.child_tools),
        check=module.check,
        max_output_chars=module.max_output_chars,
        images=made.images,
        preamble=_preamble(module, chosen, made),
        skills=module.skills,
        output_dir=getattr(module, "output_dir", None),  # pickled before there was one
    )


def _preamble(module: RLM, chosen: Any, made: Inputs) -> Callable[[Ledger], runner.Preamble]:
    """What a run brings into its REPL: sub-agents where code may call models, and the inputs that are made by code."""
    factory = chosen if _interpreters.is_interpreter(chosen) else OwnEnvironment(module.environment)
    notes = _interpreters.runtime_notes(chosen)

    def preamble(ledger: Ledger) -> runner.Preamble:
        own = runner.Preamble()
        if module.strategy.sub_calls:
            own = sub_agents(module, _sub_lm(module, _by_depth(module.sub_lm)[0]), ledger, factory)
        own = replace(own, notes=(*notes, *own.notes))
        if ledger.depth:  # a child has inputs of its own
            return own
        return replace(own, code="\n".join(made.code), notes=(*own.notes, *made.notes))

    return preamble


def _by_depth(sub_lm: Any) -> list[Any]:
    return [*sub_lm] if isinstance(sub_lm, (list, tuple)) and sub_lm else [sub_lm]


def _lm(module: RLM) -> Any:
    """The LM set on what decides: a predictor, a module of several, or anything else; else dspy's."""
    step = module.generate_action
    predictors = step.predictors() if isinstance(step, dspy.Module) else [step]
    return next((lm for one in predictors if (lm := getattr(one, "lm", None)) is not None), dspy.settings.lm)


def _sub_lm(module: RLM, given: Any) -> Any:
    """Where sub-calls go: the one given, else the LM set on the predictors, else dspy's; resampled as the root is."""
    active = _lm(module)
    if given is None:
        return active
    rollout = (getattr(active, "kwargs", None) or {}).get("rollout_id")
    if rollout is None or not hasattr(given, "copy"):
        return given
    return given.copy(rollout_id=rollout, temperature=active.kwargs.get("temperature", 1.0))


def check_inputs(module: RLM, inputs: Mapping[str, Any]) -> None:
    """Raises ``ValueError`` for inputs the signature does not declare, and for those that are missing."""
    declared = set(module.signature.input_fields)
    if unexpected := sorted(set(inputs) - declared):
        raise ValueError(f"Unexpected inputs not declared in the signature: {unexpected}")
    if missing := sorted(declared - set(inputs)):
        raise ValueError(f"Missing required inputs: {missing}")


def migrated(state: dict[str, Any]) -> dict[str, Any]:
    """The state of a pickled program; one of dspy's own class gets what ours has and it lacks."""
    if "options" in state or "signature" not in state:
        return state
    from dspy_compat._module import RLM

    factory = state.get("_interpreter_factory")
    fresh = RLM(
        state["signature"],
        state.get("max_iters"),
        state.get("max_llm_calls"),
        state.get("max_output_chars", 10_000),
        state.get("verbose", False),
        list((state.get("_user_tools") or {}).values()),
        state.get("sub_lm"),
        None if factory is dspy.PythonInterpreter else factory,  # dspy's default gives way to ours
    )
    for name in ("generate_action", "extract"):
        stock = state.get(name)
        if isinstance(stock, dspy.Predict):
            ours = getattr(fresh, name)
            ours.demos, ours.lm, ours.config = stock.demos, stock.lm, stock.config
            told = adopted(stock.signature.instructions, ours.signature.instructions)
            ours.signature = ours.signature.with_instructions(told)
    return {**fresh.__dict__, "_compiled": state.get("_compiled", False)}


def relinked(module: RLM) -> RLM:
    """A copy, whose predictor and options may have been copied one by one: dspy does that where it cannot copy the whole."""
    if isinstance(module.generate_action, Step):
        module.generate_action.options = module.options
    return module
