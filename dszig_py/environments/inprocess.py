"""Trusted: cells run inside this process, with everything this process may do. No boundary, and no start-up cost.

For code you would run yourself: offline models, tests, tasks whose inputs only live here. Sessions run side by side
without sharing output, builtins or variables; what is global to a process (modules, the working directory, a redirected
``sys.stdout``) they do share.
"""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import contextvars
import itertools
import linecache
import sys
import threading
import time
import traceback
import types
from concurrent import futures
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import anyio

from dszig_py.environments import _output
from dszig_py.environments._lane import Lane, Stoppable
from dszig_py.environments._link import CellClock
from dszig_py.environments._worker import cell, codec, keeping, typed
from dszig_py.environments._worker import scratch as worker_scratch
from dszig_py.environments.base import CallRefused, CellLimits, Execution, Host, Isolation, Snapshot
from dszig_py.environments.in_place import in_place
from dszig_py.errors import DszigError, EnvironmentFailure
from dszig_py.files import Opened
from dszig_py.scratch import VARIABLE, Scratch
from dszig_py.text import truncate

if TYPE_CHECKING:
    from dszig_py.contract import Contract

__all__ = ["InProcessEnvironment"]

_ISOLATION = Isolation(
    "none",
    covered=(),
    not_covered=(
        "anything: the code is trusted, and can do all that this process can",
        "a cell that blocks inside a C function, or catches everything, cannot be stopped: its thread is left behind",
        "memory: what the code takes, this process takes",
    ),
)
_GRACE = 1.0  # seconds between the exception at a cell's deadline and giving its thread up
_MAX_LEFT_BEHIND = 3
_MOST_KEPT = 1 << 30  # bytes of variables in a snapshot
_VARIABLES_SECONDS = 5.0
_CLOSE_SECONDS = 1.0
_AS_THEY_ARE = (str, bytes, int, float, bool, type(None))
_FOR_TERMINALS = ("exit", "quit", "copyright", "credits", "license", "help")  # exit() closes the process's stdin
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class InProcessEnvironment:
    """Trusted: cells run in a thread of this process, one a session. ``cell_seconds``: a cell's own time, waiting for
    host calls not counted.

    Values cross as they would to a worker, by value; an input that has no form as data (an array, a connection) is
    given to the cells as the object it is. Outputs that are files are looked at when they are submitted, and not before.
    """

    cell_seconds: float = 30.0
    name: str = field(default="inprocess", init=False)

    async def open(self, contract: Contract, host: Host, limits: CellLimits) -> InProcessSession:
        """Start the session's thread and bind everything."""
        seconds = self.cell_seconds if limits.seconds is None else limits.seconds
        scratch = Scratch() if contract.writes else None
        session = InProcessSession(host, limits.output_chars, seconds, scratch)
        try:
            await session.bind({v.name: v.value for v in contract.variables})
        except BaseException:
            await session.close()
            raise
        return session


class _Cell(Stoppable):
    """One cell while it runs."""

    def __init__(self, number: int, code: str, output: cell.Output) -> None:
        super().__init__()
        self.number, self.code, self.output = number, code, output


class InProcessSession:
    """One live REPL in a thread of its own."""

    def __init__(self, host: Host, output_chars: int, seconds: float, scratch: Scratch | None = None) -> None:
        self.scratch = scratch
        self._host, self._chars, self._seconds = host, output_chars, seconds
        self._loop = asyncio.get_running_loop()
        self._label = f" of session {next(_numbers)}"
        self._repl = cell.Repl(types.ModuleType("builtins"), self._label)
        self._writer = _output.Writer(cell.Output(0))
        self._lane = Lane(f"cells{self._label}")
        self._left_behind: list[threading.Thread] = []
        self._in_a_row = 0
        self._tasks: set[asyncio.Task[dict[str, Any]]] = set()
        self._context = contextvars.copy_context()
        self._clock = CellClock(seconds, self._stop)
        self._cell: _Cell | None = None
        self._done: asyncio.Future[dict[str, Any]] | None = None
        self._in_flight = self._number = 0
        self._submission: dict[str, Any] | None = None
        self._closed = False
        self._too_late = _timeout(f"the cell ran longer than {seconds:g} s and was stopped; variables are kept")
        self._own_builtins()

    def _own_builtins(self) -> None:
        own = vars(self._repl.builtins)
        own |= {name: value for name, value in vars(builtins).items() if name not in _FOR_TERMINALS}
        own |= {"print": self._print, "__import__": self._import, "input": _no_input}
        self._repl.remember_builtins()
        _output.enter(own, self._writer)

    @property
    def isolation(self) -> Isolation:
        return _ISOLATION

    async def bind(self, values: dict[str, Any]) -> None:
        """The inputs by value, and what the host offers."""
        functions = [("SUBMIT", "Finish with the outputs."), *self._host.functions.items()]
        stubs = cell.stubs(functions, self._call, typed.TypedCalls(self._call, self._repl.namespace))
        if self.scratch is not None:
            values = {**values, VARIABLE: self.scratch.path}
        await self._lane.run(lambda: self._repl.bind({name: _by_value(name, v) for name, v in values.items()}, stubs))

    async def snapshot(self) -> Snapshot:
        """What the cells made, taken in the session's thread."""
        if self._closed:
            return Snapshot()
        values, lost = await self._lane.run(keeping.snapshot, self._repl, codec, _MOST_KEPT)
        return Snapshot(tuple((name, value) for name, value in values), lost)

    async def renew(self, contract: Contract, host: Host, carried: Snapshot) -> None:
        """The next run's inputs and host; everything else is still here."""
        self._host = host
        await self.bind({v.name: v.value for v in contract.variables})
        if not self._number:
            kept = {name: codec.decode(value) for name, value in carried.values}
            await self._lane.run(self._repl.namespace.update, kept)

    async def execute(self, code: str) -> Execution:
        """Run one cell. Cancelling this stops it, or leaves its thread behind where it cannot be stopped."""
        if self._closed:
            raise EnvironmentFailure("the session is closed")
        if self._in_a_row >= _MAX_LEFT_BEHIND:
            raise EnvironmentFailure(f"{self._in_a_row} cells in a row could not be stopped; their threads still run")
        self._number += 1
        self._submission = None
        self._context = contextvars.copy_context()
        started = time.monotonic()
        current = self._cell = _Cell(self._number, code, cell.Output(self._chars))
        self._writer.output = current.output
        done = self._done = self._lane.run(self._run, current, self._writer)
        self._clock.begin()
        try:
            self._clock.run()
            result = await done
        except asyncio.CancelledError:
            self._cancel_calls()
            current.stop(self._too_late)
            self._leave_behind()  # ends by itself where it can; nothing here waits for it
            raise
        finally:
            self._clock.hold()
            self._cell = self._done = None
        return self._execution(current.output, result, time.monotonic() - started)

    def _run(self, current: _Cell, writer: _output.Writer) -> dict[str, Any]:
        _output.current.set(writer)
        try:
            try:
                current.begin()
                return self._repl.execute(current.code, current.number, current.output)
            finally:
                current.finish()
                cell.stop_tracing()
        except cell.CellTimeout as late:  # it landed between the cell's last line and ours
            current.finish()
            return {"value": None, "error": cell.describe(late)}

    def _execution(self, output: cell.Output, result: dict[str, Any], seconds: float) -> Execution:
        head, tail, chars = output.parts()
        if "left behind" not in result:
            self._in_a_row = 0
        return Execution(
            stdout=truncate(f"{head}{tail}", self._chars, total=chars),
            stdout_chars=chars,
            value=result["value"],
            error="" if self._submission is not None else result["error"],
            submission=self._submission,
            seconds=seconds,
        )

    def _stop(self) -> None:
        """The cell's seconds are over."""
        current = self._cell
        assert current is not None
        current.stop(self._too_late)

        def give_up() -> None:
            if self._cell is not current or self._done is None or self._done.done():
                return
            if self._in_flight:  # it stops when the call is answered
                self._loop.call_later(_GRACE, give_up)
                return
            self._in_a_row += 1
            self._done.set_result({"value": None, "error": self._stuck(current), "left behind": True})
            self._leave_behind()

        self._loop.call_later(_GRACE, give_up)

    def _leave_behind(self) -> None:
        """Go on in another thread: this one is in C code, or catches what stops others. The variables are the same."""
        self._left_behind = [thread for thread in (*self._left_behind, self._lane.thread) if thread.is_alive()]
        self._lane.stop()
        self._lane = Lane(f"cells{self._label}")
        self._writer.output = cell.Output(0)  # what it still prints belongs to no cell
        self._writer = _output.Writer(cell.Output(0))
        _output.enter(vars(self._repl.builtins), self._writer)
        self._repl.forget_loop()

    def _stuck(self, current: _Cell) -> str:
        """Where the cell hangs, told as its traceback would."""
        frames = traceback.StackSummary.extract(traceback.walk_stack(sys._current_frames().get(current.thread)))
        own = [frame for frame in reversed(frames) if frame.filename.startswith("<cell ")]
        shown = "".join(traceback.StackSummary.from_list(own).format())
        return (
            f"Traceback (most recent call last):\n{shown}TimeoutError: the cell ran longer than {self._seconds:g} s "
            "and could not be stopped; variables are kept, and it may still change them until it ends by itself"
        )

    def _call(self, name: str, args: Any, kwargs: Any) -> Any:
        """One call to the host, from any thread of the cells; waits for its answer."""
        if threading.current_thread() in self._left_behind:
            raise self._too_late
        self._repl.put_builtins_back()
        if self.scratch is not None and name == "SUBMIT":
            worker_scratch.flush(self.scratch.path)
        values, named = (codec.decode(codec.encode(v), records=codec.plain_record) for v in (list(args), dict(kwargs)))
        answer: futures.Future[dict[str, Any]] = futures.Future()
        try:
            self._loop.call_soon_threadsafe(self._begin, name, values, named, answer)
        except RuntimeError:
            raise RuntimeError(f"{name}: the session is closed") from None
        return codec.decode(codec.encode(cell.answer(answer.result())))

    def _begin(
        self, name: str, args: list[Any], kwargs: dict[str, Any], answer: futures.Future[dict[str, Any]]
    ) -> None:
        if self._closed:
            answer.set_result({"error": ["RuntimeError", f"{name}: the session is closed"]})
            return
        task = self._loop.create_task(self._serve(name, args, kwargs), context=self._context.copy())
        self._tasks.add(task)
        task.add_done_callback(lambda _: self._answer(task, name, answer))

    def _answer(self, task: asyncio.Task[Any], name: str, answer: futures.Future[dict[str, Any]]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            answer.set_result({"error": ["RuntimeError", f"{name} was cancelled"]})
            return
        error = task.exception()
        if error is None:
            answer.set_result(task.result())
            return
        if isinstance(error, DszigError) and self._done is not None and not self._done.done():
            self._done.set_exception(error)  # the run's end, not the cell's business: a replay that no longer matches
        told = f"{name} failed in the host: {type(error).__name__}: {error}"
        refused = isinstance(error, CallRefused)
        answer.set_result({"error": [error.kind, str(error)] if refused else ["RuntimeError", told]})

    async def _serve(self, name: str, args: list[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
        self._calls_in_flight(+1)
        try:
            if name != "SUBMIT":
                return {"ok": await self._host.call(name, args, kwargs)}
            outputs = await self._host.submit(args, kwargs)
            if self._submission is None:
                self._submission = outputs
            return {"submitted": True}
        finally:
            self._calls_in_flight(-1)

    def _calls_in_flight(self, change: int) -> None:
        self._in_flight += change
        if self._cell is not None:
            (self._clock.hold if self._in_flight else self._clock.run)()

    def _print(self, *values: Any, file: Any = None, **options: Any) -> None:
        """``print``, for the one case the stack cannot tell: a thread's target, with no code of a cell beneath."""
        if file is None:
            file = self._writer.output if _output.is_ours(sys.stdout) else sys.stdout
        builtins.print(*values, file=file, **options)

    def _import(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """``import builtins`` and ``import __main__`` mean those of the cells; the process has others. So do modules that
        came with a run (``skills.module_code``).
        """
        own = {"builtins": self._repl.builtins, "__main__": self._repl.module}
        own.update(self._repl.namespace.get("__modules__", {}))
        return own[name] if name in own else builtins.__import__(name, *args, **kwargs)

    async def variables(self) -> dict[str, str]:
        """Name -> short repr, made in the session's thread: a value's repr is the cells' code."""
        if self._closed:
            return {}
        showing = self._lane.run(self._repl.show_vars)
        with contextlib.suppress(TimeoutError):
            found: dict[str, str] = await asyncio.wait_for(showing, _VARIABLES_SECONDS)
            return {name[:200]: text[:200] for name, text in list(found.items())[:500]}
        self._leave_behind()
        return {}

    def _cancel_calls(self) -> None:
        for task in list(self._tasks):
            task.cancel()

    async def close(self) -> None:
        """Stop what runs, end the thread and give the streams back. Threads left behind end with their C call."""
        if self._closed:
            return
        self._closed = True
        self._cancel_calls()
        self._clock.stop()
        if self._cell is not None:
            self._cell.stop(self._too_late)
        closing = self._lane.run(self._repl.close)
        self._lane.stop()
        with anyio.CancelScope(shield=True):  # a run that was cancelled closes, too
            await asyncio.wait([closing], timeout=_CLOSE_SECONDS)
            _output.leave(vars(self._repl.builtins))
            for number in range(1, self._number + 1):
                linecache.cache.pop(f"<cell {number}{self._label}>", None)
            if self._tasks:
                await asyncio.gather(*self._tasks, return_exceptions=True)
            if self.scratch is not None:
                self.scratch.close()


def _by_value(name: str, value: Any) -> Any:
    if type(value) in _AS_THEY_ARE:
        return value
    if isinstance(value, Opened):
        return in_place(name, value)
    try:
        return codec.decode(codec.encode_strictly(value))
    except TypeError:  # no form as data: here, and only here, it can be what it is
        return value


def _timeout(message: str) -> type[BaseException]:
    """A TimeoutError that comes with its message: what is raised in another thread is a class without arguments."""

    class Late(cell.CellTimeout):
        def __str__(self) -> str:
            return message

    Late.__module__, Late.__qualname__ = "builtins", "TimeoutError"
    return Late


def _no_input(*_: Any) -> str:
    raise EOFError("there is nobody to ask: the code runs by itself")
