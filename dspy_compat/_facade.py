"""Sub-agents from inside the REPL: ``import dspy`` there gives dspy's own stand-in, whose predictors run on the host.

dspy 3.4.1 ships the stand-in and its host side (``dspy.primitives.facade``; 3.4.0 has neither, and its RLM no sub-agents);
what is ours is the budget: each LM call of a sub-agent is reserved in the run's ledger first, as every call from inside
code is. Their trace stays their own, since an optimizer could not tell whose predictor it saw.
"""

from __future__ import annotations

import ast
import functools
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import dspy

from dspy_compat._adapters import CallRecorder
from dszig_py.preamble import Preamble
from dszig_py.tools import Tool
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


_MAX_COMPLETIONS = 128  # of one call, as providers have it: each is reserved by itself


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
        if calls > _MAX_COMPLETIONS:
            raise RuntimeError(f"a call has at most {_MAX_COMPLETIONS} completions, not {calls}")
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
# Every name that a type may be made of. dspy looks a name up in all that this process has imported, or imports it, and
# puts what it finds into its error: `q: os.environ` showed code the keys of every provider.
_BARE = frozenset(
    {"str", "int", "float", "bool", "complex", "bytes", "bytearray", "list", "tuple", "dict", "set", "frozenset"}
    | {"Any", "Optional", "Union", "Literal", "List", "Dict", "Tuple", "Set", "FrozenSet", "Sequence", "Mapping"}
    | {"Iterable", "Collection", "NoneType"}
)
_DOTTED = frozenset(
    {f"typing.{name}" for name in _BARE if name[0].isupper() and name != "NoneType"}
    | {f"datetime.{name}" for name in ("date", "datetime", "time", "timedelta")}
    | {"decimal.Decimal", "uuid.UUID", "dspy.Code", "dspy.History", "dspy.Reasoning"}
)
_SHAPES = (ast.Name, ast.Attribute, ast.Subscript, ast.BinOp, ast.BitOr, ast.Tuple, ast.Constant, ast.Load)
_MAX_SIGNATURE = 65_536  # characters, as of every signature here


def _constructs(facade: Any) -> Any:
    """The facade's ``construct``, for code that nobody vouches for: no option and no type that reaches this machine."""

    @functools.wraps(facade.construct)
    def construct(kind: str, signature: Any, attr_name: str, kwargs: dict[str, Any] | None = None) -> str:
        if kind == "RLM" and (more := sorted({*(kwargs or {})} - {*_RLM_OPTIONS})):
            raise dspy.CodeInterpreterError(
                f"a dspy.RLM built here takes {', '.join(_RLM_OPTIONS)}; not {', '.join(more)}"
            )
        if "callbacks" in (kwargs or {}):
            raise dspy.CodeInterpreterError("callbacks are this process's own; not taken here")
        _check_signature(signature)
        handle: str = facade.construct(kind, signature, attr_name, kwargs)
        if hasattr(made := facade._predictors[handle], "_setup_facade"):  # dspy's own RLM, whose facade checks nothing
            made._setup_facade = _no_facade
        return handle

    return construct


def _no_facade(*_: Any) -> str:
    return ""


def _check_signature(signature: Any) -> None:
    """Raise for what is no text of fields whose types are made of the names above."""
    text = signature.get("signature") if isinstance(signature, dict) else signature
    told = signature.get("instructions") if isinstance(signature, dict) else None
    if not isinstance(text, str) or not isinstance(told, str | None):
        raise dspy.CodeInterpreterError("a signature here is text such as 'text -> label: str', and not anything else")
    if len(text) > _MAX_SIGNATURE:
        raise dspy.CodeInterpreterError(f"a signature has at most {_MAX_SIGNATURE} characters, not {len(text)}")
    for side in text.split("->"):
        try:
            (function,) = ast.parse(f"def f({side}): pass").body
            assert isinstance(function, ast.FunctionDef)
        except (SyntaxError, ValueError, AssertionError, RecursionError, MemoryError):
            raise dspy.CodeInterpreterError("not the text of a signature; write 'text, count: int -> label'") from None
        for argument in function.args.args:
            if argument.annotation is not None:
                _check_type(argument.arg, argument.annotation)


def _check_type(field: str, annotation: ast.expr) -> None:
    todo: list[ast.AST] = [annotation]
    while todo:
        node = todo.pop()
        named = isinstance(node, (ast.Name, ast.Attribute))
        if named and (name := ast.unparse(node)) not in _BARE | _DOTTED:
            raise dspy.CodeInterpreterError(f"{field}: {name[:80]} is not taken here; declare str, and pass its text")
        if not isinstance(node, _SHAPES):
            raise dspy.CodeInterpreterError(
                f"{field}: a type is made of names, [...] and |, not of {type(node).__name__}"
            )
        todo += [] if named else ast.iter_child_nodes(node)


# What dspy takes in a call in place of what was built.
_OVERRIDES = ("signature", "new_signature", "interpreter_factory")


def _calls(facade: Any) -> Any:
    """The facade's ``call``, of what was looked at when it was built and of nothing else."""

    @functools.wraps(facade.call)
    def call(handle: str, inputs: dict[str, Any] | None = None) -> dict[str, Any]:
        if taken := sorted({*_OVERRIDES} & {*(inputs or {})}):
            raise dspy.CodeInterpreterError(f"a call here takes inputs alone; not {', '.join(taken)}")
        return facade.call(handle, inputs)

    return call


def _reserve(calls: int = 1) -> None:
    _meter.get().reserve(calls)
