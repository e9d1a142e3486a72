"""The public callable: options in, prediction out, with a sync and an async face over one coroutine.

Importing this module costs what pydantic costs: the loop, asyncio and LiteLLM load with the first call.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Never, cast

from dszig_py import environments
from dszig_py import lm as lms_
from dszig_py.errors import InputError, LimitReached
from dszig_py.language import language_of
from dszig_py.signature import Signature
from dszig_py.skills import Skill, instructed, with_packages

if TYPE_CHECKING:
    from dszig_py.corpus import Corpus
    from dszig_py.environments.base import Environment
    from dszig_py.events import Event
    from dszig_py.lm.base import LM
    from dszig_py.lm.gate import Gate
    from dszig_py.policy import Policy
    from dszig_py.publishing import Place
    from dszig_py.runner import Plan, Shared
    from dszig_py.sessions import Session
    from dszig_py.strategy import Strategy
    from dszig_py.stream import AsyncStream, Stream
    from dszig_py.trace import Tracer
    from dszig_py.trajectory import Prediction
    from dszig_py.usage import Budget

__all__ = ["RLM"]

ModelSpec = Any  # a LiteLLM model string, "offline", an LM, a callable from str to str, or a list of these by depth


class RLM:
    """A signature as a callable over inputs far too big for a context window.

    ``signature``: ``"context: str, question: str -> answer: str"``, a pydantic class, or a DSPy signature class.
    ``lm``: the model that decides; ``sub_lm``: the one that sub-calls and child runs use (default: ``lm``); either may be a
    list, one by depth. ``lm_options``, ``sub_lm_options``: for LiteLLM, where the model is given as text
    (``{"temperature": 0, "max_tokens": 2000}``). ``main_cmd``, ``rlm_cmd``: the same as commands, prompt on stdin, completion on stdout.
    ``lms``: models code may choose by name. ``tools``: callables the code may call;
    ``child_tools``: the names of those that child runs see too (default: all). ``skills``: instructions with the tools,
    packages and modules they need. ``types``: classes that a signature
    string may name. ``check``: called with the validated outputs; a message sends the model back.
    ``on_limit``: "partial" gives the prediction there is, "raise" raises :class:`LimitReached` with it.
    ``on_event``: called with every event, in order, in a thread of its own: it may be slow and may fail.
    ``stream_tokens``: the root's reply as it comes, where the provider streams (default: for ``stream`` and ``astream``
    alone). ``trace``: a JSONL file, replaced by each run, or a folder, which gets one a run, written as the run goes (or
    a :class:`~dszig_py.trace.Tracer`, or a list of these); ``resumable``: beside that file everything is kept that
    :meth:`resume` needs, whole inputs and replies (or beside the path given here); ``secrets``: values that are never
    written to a trace, besides those of providers' keys in the environment; what resuming needs has them. ``telemetry``:
    OpenTelemetry spans (default: where the program has configured a tracer provider; see ``dszig_py.telemetry``).
    ``output_dir``: where outputs of type ``File`` are put, nothing there being written over (default: ``dszig-outputs``
    in the working directory).

    Raises SignatureError and InputError here, before any model call.
    """

    def __init__(
        self,
        signature: Any,
        *,
        lm: ModelSpec = None,
        sub_lm: ModelSpec = None,
        lms: Mapping[str, ModelSpec] | None = None,
        lm_options: Mapping[str, Any] | None = None,
        sub_lm_options: Mapping[str, Any] | None = None,
        main_cmd: str | Sequence[str] | None = None,
        rlm_cmd: str | Sequence[str] | None = None,
        tools: Sequence[Callable[..., Any]] | Mapping[str, Callable[..., Any]] | None = None,
        child_tools: Sequence[str] | None = None,
        skills: Sequence[Skill] | None = None,
        types: Mapping[str, Any] | None = None,
        environment: str | Environment = "auto",
        max_iters: int | None = None,
        max_llm_calls: int | None = None,
        max_output_chars: int = 10_000,
        verbose: bool = False,
        budget: Budget | None = None,
        strategy: Strategy | None = None,
        check: Callable[[dict[str, Any]], str | None] | None = None,
        on_limit: str = "partial",
        on_event: Callable[[Event], None] | None = None,
        stream_tokens: bool | None = None,
        trace: Place | Tracer | Sequence[Place | Tracer] | None = None,
        resumable: bool | Place = False,
        secrets: Sequence[str] | None = None,
        telemetry: bool | None = None,
        output_dir: str | os.PathLike[str] | None = None,
        **unknown: Never,  # a type checker refuses whatever it is, and at run time there is a word on what was meant
    ) -> None:
        # Here, not above: a pydantic model costs ten milliseconds to define, and importing an RLM is not making one.
        from dszig_py import arguments
        from dszig_py.strategy import Strategy
        from dszig_py.usage import Budget

        arguments.check_options(locals())
        if unknown:
            raise arguments.no_such_option(next(iter(unknown)), RLM.__init__.__annotations__)
        self.signature = Signature.of(signature, types=types if types is not None else _classes_of_caller())
        self.budget = arguments.merged_budget(budget or Budget(), max_iters=max_iters, max_llm_calls=max_llm_calls)
        self.strategy = strategy or Strategy()
        self.skills = tuple(skills or ())
        self.tools = arguments.named_tools(tools or (), self.skills, self.signature)
        self.child_tools = None if child_tools is None else tuple(child_tools)
        inputs = (field.name for field in self.signature.inputs)
        arguments.check_names(inputs, self.tools, self.child_tools, helpers=self.strategy.helpers)
        self.environment = environment
        self.max_output_chars = max_output_chars
        self.verbose = verbose
        self.check = check
        self.on_limit = on_limit
        self.on_event = on_event
        self.stream_tokens = stream_tokens
        self.trace = trace
        self.resumable = arguments.kept_beside(trace, resumable)
        self.secrets = (secrets,) if isinstance(secrets, str) else tuple(secrets or ())
        self.telemetry = telemetry
        self.output_dir = _folder(output_dir)
        self._lm, self._sub_lm, self._lms = lm, sub_lm, dict(lms or {})
        self._main_cmd, self._rlm_cmd = main_cmd, rlm_cmd
        self._lm_options, self._sub_lm_options = dict(lm_options or {}), dict(sub_lm_options or {})

    def __call__(self, /, *unnamed: Never, **inputs: Any) -> Prediction:
        """Run on ``inputs`` and wait: in scripts, in threads, in a notebook whose loop already runs.

        Raises InputError before any model call; LMError and EnvironmentFailure with ``.prediction``.
        """
        from dszig_py import arguments, portal

        if unnamed:
            arguments.by_name(self.signature)
        return portal.call(self._run, inputs)

    async def acall(self, /, **inputs: Any) -> Prediction:
        """The same on the caller's own event loop; cancelling it stops the model calls and the worker."""
        return await self._run(inputs)

    def stream(self, /, **inputs: Any) -> Stream:
        """The run's events as they happen; the last one carries the prediction. Leaving the iterator stops the run."""
        from dszig_py.stream import Stream

        return Stream(lambda publish: self._run(inputs, publish))

    def astream(self, /, **inputs: Any) -> AsyncStream:
        """The same, asynchronously."""
        from dszig_py.stream import AsyncStream

        return AsyncStream(lambda publish: self._run(inputs, publish))

    def session(self, path: str | os.PathLike[str] | None = None) -> Session:
        """Calls that share one REPL, kept in the file ``path`` where one is given; see :class:`~dszig_py.Session`."""
        from dszig_py.sessions import Session

        return Session(self, path)

    def map(
        self,
        inputs: Iterable[Mapping[str, Any]],
        *,
        max_concurrency: int = 8,
        ordered: bool = False,
        budget: Budget | None = None,
        path: str | os.PathLike[str] | None = None,
        progress: bool = False,
        engine: str = "local",
        workers: int | None = None,
    ) -> Corpus:
        """A run for each element of ``inputs``, ``max_concurrency`` at a time, here or on the ``workers`` of a Ray cluster
        (``engine="ray"``); see :class:`~dszig_py.corpus.Corpus`.
        """
        from dszig_py import arguments
        from dszig_py.corpus import Corpus

        arguments.check_map(inputs, budget)
        options: dict[str, Any] = {"ordered": ordered, "budget": budget, "path": path, "progress": progress}
        return Corpus(self, inputs, max_concurrency=max_concurrency, engine=engine, workers=workers, **options)

    @classmethod
    def resume(
        cls, trace: str | os.PathLike[str], /, *, inputs: Mapping[str, Any] | None = None, **options: Any
    ) -> Prediction:
        """Go on with the run of a ``trace`` whose process died: RLM(..., trace=..., resumable=True).

        Its code is executed again with the replies it was given, so no reply is paid twice, and from where they end it goes
        on with the models. ``options`` of the constructor go before those of the run; what no file can hold (tools, a
        check, models given as objects) must be given again. Tools are called again. A run that was over ends as it did.

        Raises InputError, and ReplayMismatch where the code does not do what it did the first time.
        """
        from dszig_py import portal, resume

        journal = resume.reopen(trace)
        rlm = resume.constructed(cls, journal, trace, options)
        return portal.call(resume.resumed, rlm, journal, inputs or {})

    async def _run(
        self,
        inputs: Mapping[str, Any],
        publish: Callable[[Event], None] | None = None,
        adapt: Callable[[Plan], Plan] | None = None,
        shared: Shared | None = None,
    ) -> Prediction:
        from dszig_py import runner
        from dszig_py.publishing import Listeners

        plan = self.plan()
        if adapt is not None:
            plan = adapt(plan)
        elif self.resumable is not None:
            from dszig_py import resume

            plan = await resume.journaled(self, plan, inputs)
        if self.stream_tokens or (self.stream_tokens is None and publish is not None):
            plan = replace(plan, stream_tokens=True)
        own = () if publish is None else (publish,)
        listeners = Listeners(self.trace, self.secrets, self.telemetry, self.on_event, self.verbose, own)
        async with listeners.told() as tell:
            prediction = await runner.run(plan, inputs, tell, shared)
        if self.on_limit == "raise" and prediction.termination.cause == "budget":
            why = prediction.termination
            raise LimitReached(f"{why.kind}: {why.detail}", limit=why.kind, prediction=prediction)
        return prediction

    def plan(self) -> Plan:
        """All options resolved. Raises :class:`InputError` where no model is configured."""
        from dszig_py.runner import Plan
        from dszig_py.tools import Tool

        prices = self.budget.prices
        main = self._lm if self._main_cmd is None else _command(self._main_cmd)
        leaf = self._sub_lm if self._rlm_cmd is None else _command(self._rlm_cmd)
        root = _by_depth(main, _default_lm, prices, self._lm_options)
        sub = _by_depth(leaf, _default_sub_lm, prices, self._sub_lm_options)
        if not sub and self._sub_lm_options:  # the same model as the root's, asked otherwise
            sub = _by_depth(main, _default_lm, prices, self._sub_lm_options)
        return Plan(
            signature=self.signature,
            lms=root,
            sub_lms=sub or root,
            named_lms={name: lms_.resolve(spec, prices) for name, spec in self._lms.items()},
            environment=with_packages(environments.resolve(self.environment), self.skills),
            budget=self.budget,
            strategy=self.strategy,
            policy=_chat_policy,
            tools={name: Tool.of(name, function) for name, function in self.tools.items()},
            child_tools=frozenset(self.tools if self.child_tools is None else self.child_tools),
            check=self.check,
            max_output_chars=self.max_output_chars,
            skills=self.skills,
            output_dir=self.output_dir,
        )

    def __repr__(self) -> str:
        return f"RLM({str(self.signature)!r}, lm={self._lm!r})"


def _chat_policy(plan: Plan, lm: LM, gate: Gate) -> Policy:
    from dszig_py.policy import ChatPolicy
    from dszig_py.prompts import INSTRUCTIONS

    own = language_of(plan.environment).instructions or INSTRUCTIONS[plan.strategy.prompt]
    instructions = instructed(own, [(s.name, s.instructions) for s in plan.skills])
    return ChatPolicy(lm, gate, instructions, plan.strategy.max_history_chars)


def _command(command: str | Sequence[str]) -> LM:
    from dszig_py.lm.command import CommandLM

    return CommandLM(command)


def _default_lm() -> ModelSpec:
    if command := os.environ.get("DSZIG_MAIN_CMD"):
        return _command(command)
    if model := os.environ.get("DSZIG_MODEL"):
        return model
    raise InputError(lms_.NO_MODEL)


def _default_sub_lm() -> ModelSpec:
    if command := os.environ.get("DSZIG_RLM_CMD"):
        return _command(command)
    return os.environ.get("DSZIG_SUB_MODEL") or []


def _by_depth(
    spec: ModelSpec,
    default: Callable[[], ModelSpec],
    prices: Mapping[str, tuple[float, float]],
    options: Mapping[str, Any],
) -> list[LM]:
    if spec is None:
        spec = default()
    specs: list[Any] = [*cast("list[Any]", spec)] if isinstance(spec, (list, tuple)) else [spec]
    return [lms_.resolve(one, prices, options) for one in specs]


def _folder(given: str | os.PathLike[str] | None) -> str:
    """Where files go, whatever the working directory is by then."""
    from dszig_py.outputs import DEFAULT_FOLDER

    path = os.path.expanduser(DEFAULT_FOLDER if given is None else given)
    try:
        return os.path.abspath(path)
    except FileNotFoundError:  # the working directory is gone, which matters to outputs that are files alone
        return path


def _classes_of_caller() -> dict[str, Any]:
    """Classes visible where RLM(...) was written, so that "text -> items: list[Item]" finds Item. By name, no eval."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "dszig_py":
        frame = frame.f_back
    visible = {**frame.f_globals, **frame.f_locals}
    return {name: value for name, value in visible.items() if isinstance(value, type)}
