"""The policy of an RLM inside DSPy: a ``dspy.Predict`` decides, another extracts. Neither knows it drives a recursion."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import anyio
import dspy
from dspy.primitives.repl_types import REPLEntry, REPLHistory
from dspy.utils.exceptions import AdapterParseError

from dspy_compat._adapters import CallRecorder, in_thread, provider_failed
from dszig_py import prompts
from dszig_py.errors import LMError
from dszig_py.language import Language
from dszig_py.lm.base import LM, Message, Reply, Request
from dszig_py.lm.gate import Gate
from dszig_py.policy import View
from dszig_py.skills import instructed
from dszig_py.text import truncate
from dszig_py.trajectory import Action, Iteration

__all__ = ["PredictPolicy", "Steps", "repl_history"]

STUB_CHARS = 200  # characters of the contract that a demo keeps
DEMO_HISTORY_CHARS = 3_000  # characters of history that a demo keeps


class Steps:
    """The trace entries of one run, held back until it has ended, then handed to dspy's trace.

    Bootstrapping optimizers make a demo of one entry a run, chosen at random; so what they are shown is what taught
    something: the first exploration and the closing step (``which="taught"``). ``which="all"`` shows every step as it
    was asked for, so that fine-tuning trains on the prompts there will be. A skill's predictor shares the entries of ``decides``, in whose prompts it has its say. What an entry
    keeps of the contract is else one line, and of the history a few thousand characters: demos are resent with every prompt.
    """

    def __init__(self, which: str, skills: Mapping[str, Any] | None = None, decides: Any = None) -> None:
        self._which, self._skills, self._decides = which, dict(skills or {}), decides
        self._entries: list[tuple[Any, dict[str, Any], Any]] = []

    def context(self) -> Any:
        """The dspy context in which predictors trace into this run's own list."""
        trace: list[Any] | None = self._entries if dspy.settings.trace is not None else None
        return dspy.context(trace=trace)

    def flush(self) -> None:
        """Hand the entries over to the trace of the current dspy context."""
        trace = dspy.settings.trace
        if trace is None or not self._entries:
            return
        taught = self._entries if self._which == "all" else [self._entries[0], *self._entries[1:][-1:]]
        for predictor, inputs, prediction in taught:
            sharing = [*self._skills.values()] if predictor is self._decides else []
            shown = inputs if self._which == "all" else _small(inputs)
            trace.extend((one, dict(shown), prediction) for one in (predictor, *sharing))
        del trace[: max(0, len(trace) - dspy.settings.max_trace_size)]


def _small(inputs: dict[str, Any]) -> dict[str, Any]:
    kept = dict(inputs)
    if "variables_info" in kept:
        kept["variables_info"] = stub(str(kept["variables_info"]))
    history = kept.get("repl_history")
    if isinstance(history, REPLHistory):
        room = max(300, DEMO_HISTORY_CHARS // max(len(history), 1))
        entries = [
            REPLEntry(
                reasoning=truncate(e.reasoning, room // 3),
                code=truncate(e.code, room),
                output=truncate(e.output, room // 2),
            )
            for e in history
        ][-8:]
        kept["repl_history"] = REPLHistory(entries=entries, max_output_chars=room)
    return kept


def stub(contract: str) -> str:
    """One line for a whole contract: names of variables, and that the rest is not shown."""
    variables = contract.partition("Variables in the REPL:\n")[2].partition("\n\n")[0]
    names = re.findall(r"^  (\w+): ", variables, re.MULTILINE)
    return truncate(f"(another task's contract, variables {', '.join(names[:4])}; not shown here)", STUB_CHARS)


def repl_history(
    iterations: Sequence[Iteration], max_chars: int, max_output_chars: int, summary: str = ""
) -> REPLHistory:
    """Earlier iterations as dspy's own history type, bounded as our prompts bound it; ``summary`` stands for those before."""
    messages = prompts.history(iterations, max_chars)
    said, told = messages[::2], messages[1::2]
    entries: list[REPLEntry] = []
    if told and told[0].content == prompts.LEFT_OUT:
        entries.append(REPLEntry(reasoning=said[0].content, code="", output=told[0].content))
    shown = told[len(entries) :]
    for iteration, observation in zip(iterations[len(iterations) - len(shown) :], shown, strict=True):
        whole = observation.content == iteration.observation
        code = iteration.action.code if whole else truncate(iteration.action.code, 1_200)
        reasoning = truncate(iteration.action.reasoning, 2_000 if whole else 300)
        entries.append(REPLEntry(reasoning=reasoning, code=code, output=observation.content))
    if summary:
        entries.insert(0, REPLEntry(reasoning=prompts.COMPACTED, code="", output=summary))
    return REPLHistory(entries=entries, max_output_chars=max(max_output_chars, len(summary), 1))


@dataclass(eq=False)
class _PredictorLM:
    """A predictor as one of our models, so that the gate reserves, limits and settles its calls like any other."""

    predictor: Any
    inputs: dict[str, Any]
    name: str
    use_async: bool
    limiter: anyio.CapacityLimiter
    steps: Steps
    price: tuple[float, float] | None = None
    prediction: Any = None
    unreadable: AdapterParseError | None = None

    @property
    def model(self) -> str:
        return self.name

    async def complete(self, request: Request) -> Reply:
        recorder = CallRecorder()
        started = time.perf_counter()
        try:
            with recorder.context(), self.steps.context():
                self.prediction = await self._predict()
        except AdapterParseError as error:  # it was paid for all the same
            self.unreadable = error
        except Exception as error:
            if not provider_failed(error):
                raise
            raise LMError(f"{type(error).__name__}: {error}") from error
        text = _text(self.prediction) if self.unreadable is None else str(getattr(self.unreadable, "lm_response", ""))
        usage = recorder.usage(time.perf_counter() - started, request, text)
        return Reply(text, usage, self.name)

    async def _predict(self) -> Any:
        if self.use_async and hasattr(self.predictor, "acall"):
            return await self.predictor.acall(**self.inputs)
        return await in_thread(self.limiter, self.predictor, **self.inputs)


def _text(prediction: Any) -> str:
    """What was said, for an estimate of tokens. dspy's own ``str`` fails for a reply without a single choice."""
    return str(prediction.toDict() if isinstance(prediction, dspy.Example) else prediction)


@dataclass(frozen=True)
class PredictPolicy:
    """Asks ``generate_action`` and ``extract``: dspy predictors, or any objects called with keyword arguments.

    ``override``: the LM that decides in place of the predictor's own, where a child run has one of its own.
    ``skills``: predictors that hold the instructions of skills, by name; ``compact``: the one that summarizes.
    ``raise_unreadable``: whether a reply of the root's that dspy cannot parse ends the run, as it does with dspy's class.
    """

    generate_action: Any
    extract_predictor: Any
    lm: LM
    override: Any
    gate: Gate
    use_async: bool
    limiter: anyio.CapacityLimiter
    steps: Steps
    max_history_chars: int
    max_output_chars: int
    raise_unreadable: bool = False
    skills: Mapping[str, Any] = field(default_factory=dict)
    compact: Any = None

    async def decide(self, view: View) -> Action:
        inputs = self._inputs(view, iteration=view.remaining or "(not limited)")
        # Not into a signature for this call, as dspy's class has it for its runtime's rules: Refine would lose its hint.
        taught = [(name, step.signature.instructions) for name, step in self.skills.items()]
        inputs["variables_info"] = instructed("", taught).lstrip() + "\n\n" * bool(taught) + inputs["variables_info"]
        try:
            prediction = await self._ask(self.generate_action, inputs, view, final=False)
        except AdapterParseError as error:
            if self._raises(view):
                raise
            return _recovered(error, view.contract.language)
        code = getattr(prediction, "code", None)
        return _action(getattr(prediction, "reasoning", None), code, view.contract.language)

    async def extract(self, view: View) -> dict[str, Any]:
        try:
            prediction = await self._ask(self.extract_predictor, self._inputs(view), view, final=True)
        except AdapterParseError:
            if self._raises(view):
                raise
            return {}
        names = [f.name for f in view.contract.signature.outputs]
        return {name: getattr(prediction, name) for name in names if getattr(prediction, name, None) is not None}

    async def summarize(self, view: View) -> str:
        if self.compact is None:  # the strategy was changed after the module was made
            return ""
        try:
            prediction = await self._ask(self.compact, self._inputs(view), view, final=False)
        except AdapterParseError as error:
            return str(getattr(error, "lm_response", "") or "")  # words without their field are a summary all the same
        return str(getattr(prediction, "summary", None) or "")

    def _inputs(self, view: View, **more: str) -> dict[str, Any]:
        history = repl_history(view.iterations, self.max_history_chars, self.max_output_chars, view.summary)
        task = view.contract.signature.instructions
        contract = f"Task: {task}\n\n{view.contract.text}" if task else view.contract.text
        return {"variables_info": contract, "repl_history": history, **more}

    async def _ask(self, predictor: Any, inputs: dict[str, Any], view: View, *, final: bool) -> Any:
        shown = f"{inputs['variables_info']}\n{inputs['repl_history'].format()}"
        if self.override is not None and isinstance(predictor, dspy.Predict):
            inputs = {**inputs, "lm": self.override}
        lm = _PredictorLM(predictor, inputs, self.lm.model, self.use_async, self.limiter, self.steps)
        await self.gate.ask(
            lm, Request((Message("user", shown),)), view.ledger, inner=view.ledger.depth > 0, final=final
        )
        if lm.unreadable is not None:
            raise lm.unreadable
        return lm.prediction

    def _raises(self, view: View) -> bool:
        return self.raise_unreadable and view.ledger.depth == 0


def _action(reasoning: Any, code: Any, language: Language) -> Action:
    """Dspy gives the code in a field of its own: fenced or bare, or None from a model that left it out."""
    said = reasoning if isinstance(reasoning, str) else ""
    found = language.read(code if isinstance(code, str) else None)
    if found.cells:
        return Action(said or found.reasoning, found.cells, found.problem)
    if isinstance(code, str) and code.strip() and "```" not in code:
        return Action(said, (code.strip(),))  # it does not parse: the REPL says where
    return Action(said, (), found.problem)


def _recovered(error: AdapterParseError, language: Language) -> Action:
    """A reply that dspy could not parse may still hold the code; if not, the model is told what was missing."""
    found = language.read(getattr(error, "lm_response", None))
    if found.cells:
        return Action(found.reasoning, found.cells)
    block = f"the code as one ```{language.label} block"
    told = f"Your reply could not be read: give the fields `reasoning` and `code`, {block}."
    return Action(truncate(found.reasoning, 2_000), (), told)
