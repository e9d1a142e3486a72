"""Cells in a DSPy interpreter: whatever keeps to the protocol of ``dspy.CodeInterpreter``. Nothing of dspy is imported.

An interpreter takes code and variables, calls tools as plain functions, and returns what was printed, a value, or an
object with the outputs given to SUBMIT, at which the code has ended: a submission that does not fit is told afterwards.
"""

from __future__ import annotations

import asyncio
import base64
import builtins
import contextlib
import time
from collections.abc import Callable
from concurrent import futures
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

from dszig_py import files, images
from dszig_py.environments._interpreter_tools import as_data, own_tools, tool
from dszig_py.environments._lane import Lane
from dszig_py.environments.base import CallRefused, CellLimits, Execution, Host, Isolation
from dszig_py.errors import DszigError, EnvironmentFailure, InputError
from dszig_py.text import truncate

if TYPE_CHECKING:
    from dszig_py.contract import Contract

__all__ = ["InterpreterEnvironment"]

_MAX_LOSSES = 3
_END_SECONDS = 10.0
_SIMPLE = (str, int, float, bool, list, dict)  # what an interpreter may put into the signature of its SUBMIT


@dataclass(frozen=True, slots=True)
class InterpreterEnvironment:
    """Cells run in what ``factory()`` makes, such as ``dspy.LocalInterpreter``: one a session, shut down with it.

    Each execution gets the inputs as ``variables``, as data that JSON can hold. Time limits, and what the code can
    reach, are the interpreter's own.
    """

    factory: Callable[[], Any]
    name: str = field(default="interpreter", init=False)

    async def open(self, contract: Contract, host: Host, limits: CellLimits) -> InterpreterSession:
        """Make an interpreter and start it. Raises :class:`InputError`, :class:`EnvironmentFailure`."""
        files.refused({v.name: v.value for v in contract.variables}, self.name)
        images.refused(contract.signature, self.name)
        session = InterpreterSession(self.factory, contract, host, limits.output_chars)
        try:
            await session.start()
        except BaseException:
            await session.close()
            raise
        return session


class InterpreterSession:
    """One interpreter, used by one thread of its own: some insist on that."""

    def __init__(self, factory: Callable[[], Any], contract: Contract, host: Host, output_chars: int) -> None:
        self._factory, self._contract, self._host, self._chars = factory, contract, host, output_chars
        self._loop = asyncio.get_running_loop()
        values = {v.name: v.value for v in contract.variables}
        self._own_way = {name: value for name, value in values.items() if _knows_its_way(value)}
        self._variables = {name: as_data(name, v) for name, v in values.items() if name not in self._own_way}
        self._lane = Lane("interpreter")
        self._interpreter: Any = None
        self._calls: set[futures.Future[Any]] = set()
        self._abort: DszigError | None = None
        self._losses = 0
        self._busy = self._closed = False

    @property
    def isolation(self) -> Isolation:
        name = type(self._interpreter).__name__ if self._interpreter is not None else "the interpreter"
        return Isolation(
            "interpreted",
            covered=(f"what {name} covers: the boundary is that of the interpreter that was given, not one of ours",),
            not_covered=(f"whatever {name} does not: see its documentation", "time and memory, unless it bounds them"),
        )

    async def start(self) -> None:
        """Make the interpreter, give it tools and outputs. Raises :class:`EnvironmentFailure` where that fails."""
        try:
            await self._in_lane(self._create)
        except DszigError:
            raise
        except Exception as error:  # the factory and the interpreter are the caller's
            raise EnvironmentFailure(f"the interpreter could not be started: {error}") from error

    async def execute(self, code: str) -> Execution:
        """Run one cell. A broken interpreter is replaced; three in a row raise :class:`EnvironmentFailure`."""
        if self._closed:
            raise EnvironmentFailure("the session is closed")
        if self._interpreter is None:
            await self.start()
        started = time.monotonic()
        try:
            result = await self._in_lane(self._run, code)
            self._losses = 0
            if self._abort is not None:
                raise self._abort  # the code may have caught what it was told
            execution = await self._told(result)
        except CallRefused as refusal:
            execution = Execution(error=str(refusal))
        except Exception as error:  # whatever an interpreter raises that is not the code's fault
            if self._abort is not None:
                raise self._abort from None
            if not _is_of_the_code(error):
                return await self._lost(error, time.monotonic() - started)
            self._losses = 0
            text = f"SyntaxError: {error}" if isinstance(error, SyntaxError) else str(error)
            execution = Execution(error=truncate(text, self._chars))
        return replace(execution, seconds=time.monotonic() - started)

    async def _in_lane(self, function: Callable[..., Any], *args: Any) -> Any:
        self._busy = True
        job = self._lane.run(function, *args)
        job.add_done_callback(lambda done: done.cancelled() or self._idle())
        return await job

    def _idle(self) -> None:
        self._busy = False

    def _create(self) -> None:
        interpreter = self._factory()
        if not all(callable(getattr(interpreter, name, None)) for name in ("execute", "shutdown")):
            raise InputError(
                f"the interpreter factory made a {type(interpreter).__name__}, which cannot execute and shut down"
            )
        self._interpreter = interpreter
        interpreter.tools.update(self._tools())
        if hasattr(interpreter, "output_fields"):
            interpreter.output_fields = [_output_field(f.name, f.type) for f in self._contract.signature.outputs]
        if hasattr(interpreter, "_tools_registered"):  # dspy.PythonInterpreter tells its sandbox of tools only once
            interpreter._tools_registered = False
        if hasattr(interpreter, "start"):
            interpreter.start()
        for name, value in self._own_way.items():
            _let_in(interpreter, name, value)

    def _run(self, code: str) -> Any:
        return self._interpreter.execute(code, variables=dict(self._variables))

    async def _told(self, result: Any) -> Execution:
        """What an interpreter returned. Raises :class:`CallRefused` for outputs that do not fit."""
        if _is_final(result):
            output: Any = result.output
            named = cast("dict[str, Any]", output) if isinstance(output, dict) else None
            outputs = await (self._host.submit([output], {}) if named is None else self._host.submit([], dict(named)))
            return Execution(submission=outputs)
        printed = _printed(result)
        if printed is not None:
            return Execution(stdout=truncate(printed, self._chars), stdout_chars=len(printed))
        return Execution(value=None if result is None else truncate(repr(result), self._chars))

    async def _lost(self, error: Exception, seconds: float) -> Execution:
        """The interpreter broke: the next cell gets a new one."""
        self._losses += 1
        told = f"The interpreter was lost: {truncate(str(error), 1_000)}."
        await self._shut_down()
        if self._losses >= _MAX_LOSSES:
            raise EnvironmentFailure(f"{self._losses} interpreters were lost in a row. {told}") from error
        lost = f"{told} A new one is up with the inputs as they were first given; all other variables are gone."
        return Execution(lost=lost, seconds=seconds)

    def _tools(self) -> dict[str, Callable[..., Any]]:
        texts = {name: text for name, text, _doc in self._contract.callables}
        own = own_tools(self._ask, {v.name: v.preview for v in self._contract.variables})
        tools: dict[str, Callable[..., Any]] = {}
        for name, doc in self._host.functions.items():
            # What the contract does not show, a preamble's tools, is told by its documentation alone: "name(...): ".
            tools[name] = own.get(name) or tool(self._ask, name, texts.get(name, doc.removesuffix(": ")))
            tools[name].__name__, tools[name].__doc__ = name, doc
        return tools

    def _ask(self, name: str, args: Any, kwargs: Any) -> Any:
        """One call to the host from a thread of the interpreter's, in that thread's context; waits for the answer."""
        coroutine = self._host.call(name, list(args), dict(kwargs))
        try:
            call = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        except RuntimeError:
            coroutine.close()
            raise RuntimeError(f"{name}: the session is closed") from None
        self._calls.add(call)
        try:
            return call.result()
        except CallRefused as refusal:
            kind = getattr(builtins, refusal.kind, RuntimeError)
            raise kind(str(refusal)) from None
        except DszigError as error:  # the run's end, not the code's business
            self._abort = error
            raise RuntimeError(str(error)) from None
        except futures.CancelledError:
            raise RuntimeError(f"{name} was cancelled") from None
        finally:
            self._calls.discard(call)

    async def variables(self) -> dict[str, str]:
        """Nothing: the protocol has no way to ask."""
        return {}

    async def close(self) -> None:
        """Cancel its calls and shut the interpreter down, from another thread where its own is still at work."""
        if self._closed:
            return
        self._closed = True
        for call in list(self._calls):
            call.cancel()
        await self._shut_down()
        self._lane.stop()

    async def _shut_down(self) -> None:
        interpreter, self._interpreter = self._interpreter, None
        if interpreter is None:
            return
        lane = Lane("interpreter shutdown") if self._busy else self._lane
        with contextlib.suppress(Exception):  # there is nothing more to do with it
            await asyncio.wait([lane.run(_quietly, interpreter.shutdown)], timeout=_END_SECONDS)
        if lane is not self._lane:
            lane.stop()


def _quietly(function: Callable[[], Any]) -> None:
    with contextlib.suppress(Exception):
        function()


def _printed(result: Any) -> str | None:
    """Text, or lines of it; ``None`` for what is a value."""
    if isinstance(result, (list, tuple)) and result:
        lines: list[Any] = list(cast("Any", result))
        return "\n".join(lines) if all(isinstance(line, str) for line in lines) else None
    return result if isinstance(result, str) else None


def _is_final(result: Any) -> bool:
    return any(c.__name__ == "FinalOutput" for c in type(result).__mro__) and hasattr(result, "output")


def _is_of_the_code(error: Exception) -> bool:
    """Whether the code is at fault and the interpreter goes on: dspy's CodeExecutionError, or code that is none."""
    return isinstance(error, SyntaxError) or any(c.__name__ == "CodeExecutionError" for c in type(error).__mro__)


def _knows_its_way(value: Any) -> bool:
    """Whether a value says itself how it is rebuilt inside, as dspy.SandboxSerializable does."""
    return all(hasattr(value, name) for name in ("to_sandbox", "sandbox_setup", "sandbox_assignment"))


def _let_in(interpreter: Any, name: str, value: Any) -> None:
    payload, raw, lines = value.to_sandbox(), f"_raw_{name}", list[str]()
    if not isinstance(payload, bytes):
        given = {raw: str(payload)}
    elif payload.isascii():
        given = {raw: payload.decode()}
    else:
        given = {f"{raw}_base64": base64.b64encode(payload).decode()}
        lines += ["import base64", f"{raw} = base64.b64decode({raw}_base64)"]
    lines += [line for line in (value.sandbox_setup(), value.sandbox_assignment(name, raw)) if line]
    interpreter.execute("\n".join(lines), variables=given)


def _output_field(name: str, tp: Any) -> dict[str, Any]:
    return {"name": name, "type": tp.__name__} if tp in _SIMPLE else {"name": name}
