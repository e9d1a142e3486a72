"""Sub-agents from inside the REPL: ``import dspy`` there gives dspy's own stand-in, whose predictors run on the host.

dspy 3.4.1 ships the stand-in and its host side (``dspy.primitives.facade``; 3.4.0 has neither, and its RLM no sub-agents);
what is ours is the budget: each LM call of a sub-agent is reserved in the run's ledger first, as every call from inside
code is. Their trace stays their own, since an optimizer could not tell whose predictor it saw.
"""

from __future__ import annotations

import ast
import builtins
import functools
import importlib.util
import sys
import typing
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import dspy

from dspy_compat._adapters import CallRecorder
from dszig_py.preamble import Preamble
from dszig_py.tools import Tool
from dszig_py.typetree import types_within
from dszig_py.usage import Exhausted, Ledger, Reservation, Usage

try:
    from dspy.primitives.facade import CALL_TOOL, CONSTRUCT_TOOL, FacadeInvocation
except ImportError:  # dspy 3.4.0
    CALL_TOOL, CONSTRUCT_TOOL, FacadeInvocation = "", "", None

SUB_AGENTS = FacadeInvocation is not None

if TYPE_CHECKING:
    from dspy_compat._module import RLM

__all__ = ["SUB_AGENTS", "OwnEnvironment", "sub_agents"]

NOTE = """\
`import dspy` works for sub-agents: dspy.Predict("text -> label")(text=...), dspy.ChainOfThought(...), dspy.ReActV2(sig, \
tools=[...]) with the tools above, dspy.RLM("context, question -> answer")(...). llm_query and predict are lighter."""


class OwnEnvironment:
    """What a nested ``dspy.RLM`` is given as interpreter factory: our environment, not an interpreter of dspy's."""

    def __init__(self, environment: Any) -> None:
        self.environment = environment

    def __call__(self) -> Any:
        raise dspy.CodeInterpreterError(
            "this predictor needs a DSPy interpreter: build the outer RLM with interpreter_factory=...; for a nested RLM, "
            "dspy_compat.install(dspy)"
        )


class _Shell:
    """What the facade installs itself into: keeps the tools and the code, for the session that comes later."""

    def __init__(self) -> None:
        self.tools: dict[str, Any] = {}
        self.code = ""

    def execute(self, code: str, variables: dict[str, Any]) -> None:
        self.code = "\n".join([*(f"{name} = {value!r}" for name, value in variables.items()), code])


class _Meter:
    """Reserves the LM calls of one sub-agent call, and settles them by what dspy recorded of them."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._held: list[list[Reservation]] = []  # by LM call: several completions of one call count as calls each

    def reserve(self, calls: int = 1) -> None:
        held: list[Reservation] = []
        self._held.append(held)
        for _ in range(calls):
            try:
                held.append(self._ledger.reserve(inner=True))
            except Exhausted as limit:
                raise RuntimeError(f"{limit}; SUBMIT what you have") from None

    def settle(self, recorder: CallRecorder, *, failed: bool) -> None:
        """Calls that were paid for are filed, cache hits at nothing; what was held for calls that failed is given back.

        A hit is still one of ``max_llm_calls``, as it is for ``llm_query`` here: the next prompt says how many are left,
        and dspy's cache would miss it if the second run of a program read otherwise than the first.
        """
        paid = recorder.calls()
        hits = len(recorder.history) - len(paid)
        if not recorder.history and not paid and not failed:  # a callable, of whose calls dspy records nothing
            paid = [{} for _ in self._held]
        for held, entry in zip(self._held, paid, strict=False):
            usage = entry.get("usage") or {}
            tokens = int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
            for number, reservation in enumerate(held):  # the tokens are those of the whole call
                spent = Usage(1, *tokens, entry.get("cost")) if number == 0 else Usage(1)
                self._ledger.settle(reservation, spent, str(entry.get("model") or "sub-agent"))
        for held in self._held[len(paid) : len(paid) + hits]:
            for reservation in held:
                self._ledger.settle(reservation, Usage(), "cached")
        for reservation in [one for held in self._held for one in held]:
            self._ledger.refund(reservation)  # does nothing where it is settled


_meter: ContextVar[_Meter] = ContextVar(
    "_meter"
)  # of the sub-agent call under way: several may be, in threads of a cell


def sub_agents(module: RLM, sub_lm: Any, ledger: Ledger, factory: Any) -> Preamble:
    """What makes ``import dspy`` work in the sessions of one run. ``factory``: of the interpreters nested RLMs get."""
    if not SUB_AGENTS:
        return Preamble()
    shell = _Shell()
    facade = FacadeInvocation(module.tools, factory, None, lm=sub_lm, reserve=_reserve)
    facade.install(shell)
    shell.tools.update({CONSTRUCT_TOOL: _constructs(facade), CALL_TOOL: _calls(facade)})

    def metered(function: Any) -> Any:
        @functools.wraps(function)
        def call(**kwargs: Any) -> Any:
            recorder, meter, failed = CallRecorder(), _Meter(ledger), True
            token = _meter.set(meter)
            try:
                with recorder.context(), dspy.context(trace=[]):
                    answer = function(**kwargs)
                failed = False
                return answer
            finally:
                _meter.reset(token)
                meter.settle(recorder, failed=failed)

        return call

    tools = {name: Tool.of(name, metered(function)) for name, function in shell.tools.items()}
    return Preamble(tools=tools, notes=(NOTE,), on_demand={"dspy": shell.code})


# What code may choose of an RLM: the data that dspy's own class takes. Ours takes paths to write to, environments, models.
_RLM_OPTIONS = ("max_iters", "max_llm_calls", "max_output_chars", "tools", "verbose")
_CLOSED = ("dszig_py", "pathlib", "pydantic")  # whose types make files, or imports, of this process's of a text


def _constructs(facade: Any) -> Any:
    """The facade's ``construct``, for code that nobody vouches for: no option and no type that reaches this machine."""

    @functools.wraps(facade.construct)
    def construct(kind: str, signature: Any, attr_name: str, kwargs: dict[str, Any] | None = None) -> str:
        if kind == "RLM" and (more := sorted({*(kwargs or {})} - {*_RLM_OPTIONS})):
            raise dspy.CodeInterpreterError(
                f"a dspy.RLM built here takes {', '.join(_RLM_OPTIONS)}; not {', '.join(more)}"
            )
        _check_names(signature)
        handle: str = facade.construct(kind, signature, attr_name, kwargs)
        try:
            _check_types(facade._predictors[handle])
        except BaseException:
            facade._predictors.pop(handle, None)
            raise
        return handle

    return construct


def _check_names(signature: Any) -> None:
    """Raise for a type's name that dspy would import, since a module does what it likes; what is here already is known."""
    text = signature.get("signature") if isinstance(signature, dict) else signature
    for side in str(text).split("->"):
        try:
            (function,) = ast.parse(f"def f({side}): pass").body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue  # dspy refuses it, by the same parse
        for name in {node.id for node in ast.walk(function) if isinstance(node, ast.Name)}:
            known = name in vars(typing) or name in vars(builtins) or name in sys.modules
            if not known and importlib.util.find_spec(name) is not None:
                raise dspy.CodeInterpreterError(f"{name} is a module, which is not imported here")


_OVERRIDES = (
    "signature",
    "new_signature",
    "interpreter_factory",
)  # what dspy takes in a call in place of what was built


def _calls(facade: Any) -> Any:
    """The facade's ``call``, of what was looked at when it was built and of nothing else."""

    @functools.wraps(facade.call)
    def call(handle: str, inputs: dict[str, Any] | None = None) -> dict[str, Any]:
        if taken := sorted({*_OVERRIDES} & {*(inputs or {})}):
            raise dspy.CodeInterpreterError(f"a call here takes inputs alone; not {', '.join(taken)}")
        return facade.call(handle, inputs)

    return call


def _check_types(module: Any) -> None:
    signatures = [getattr(module, "signature", None), *(step.signature for _, step in module.named_predictors())]
    for signature in filter(None, signatures):
        for name, field in {**signature.input_fields, **signature.output_fields}.items():
            for part in types_within(field.annotation):
                if isinstance(part, type) and part.__module__.partition(".")[0] in _CLOSED:
                    raise dspy.CodeInterpreterError(
                        f"{name}: {part.__name__} is not taken here; declare str, and pass its text"
                    )


def _reserve(calls: int = 1) -> None:
    _meter.get().reserve(calls)
