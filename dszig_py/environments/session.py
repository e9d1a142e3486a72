"""The protocol of a worker, seen from the host: whatever starts it, cells, calls, deadlines and losses work the same.

What arrives is untrusted. A worker has no authority beyond the code it runs: forging a frame gains it nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from abc import abstractmethod
from collections.abc import Callable, Generator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from dszig_py.environments import _keeping, inputs
from dszig_py.environments._calls_inside import CallsInside
from dszig_py.environments._link import CellClock, Link, done_values, is_heavy, parse
from dszig_py.environments._opening import off_loop, packed_inputs
from dszig_py.environments.base import CellLimits, Execution, Host, Isolation, Snapshot
from dszig_py.errors import EnvironmentFailure
from dszig_py.scratch import VARIABLE, Scratch
from dszig_py.text import truncate

if TYPE_CHECKING:
    from dszig_py.contract import Contract

__all__ = ["WorkerSession"]

_VARIABLES_SECONDS = 5.0
_VARIABLE = 200  # characters
_START_SECONDS, _START_BYTES = 60.0, 10_000_000  # and a second more for so many bytes of inputs
_INTERRUPT_GRACE = 2.0  # seconds between SIGINT and SIGKILL
_MAX_LOSSES = 3


class WorkerSession:
    """One live REPL in a worker; replaced by a fresh one, inputs bound again, when it dies.

    A kind of worker says how one is started (:meth:`_connect`) and signalled (:meth:`_signal`). ``seconds``: of a cell.
    ``scratch``: where code may write, if anywhere.
    """

    scratch: Scratch | None = None

    def __init__(
        self,
        packed: inputs.Packed,
        host: Host,
        limits: CellLimits,
        *,
        isolation: Isolation,
        seconds: float,
        max_frame: int,
    ) -> None:
        self._packed = packed
        self._isolation = isolation
        self._host = host
        self._limits = limits
        self._seconds = seconds if limits.seconds is None else limits.seconds
        self._max_frame = max_frame
        self._link: Link | None = None
        self._answers: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self._calls = CallsInside(host, self._abort)
        self._clock = CellClock(self._seconds, self._interrupt)
        self._number = 0
        self._names: list[str] = []
        self._losses = 0
        self._closed = False
        self._starting: asyncio.Future[dict[str, Any]] | None = None  # what a worker says that is on its way
        self._carried = Snapshot()  # from runs before this one
        self._told = True  # the model knows of the last worker's end, if it has ended
        self._renewed = False  # that end was ours

    @property
    def isolation(self) -> Isolation:
        return self._isolation

    @abstractmethod
    async def _connect(self, protocol: Callable[[], Link]) -> Link:
        """Start a worker that has the packed inputs; its link. Raises :class:`EnvironmentFailure`."""

    @abstractmethod
    def _signal(self, number: signal.Signals) -> None:
        """Signal the worker that was started last, if it still runs. Never raises, and does not wait."""

    async def _last_words(self) -> str:
        """What a worker that did not come up left behind, for the message."""
        assert self._link is not None
        return self._link.gone.result()

    def _sure(self) -> bool:
        """Whether a worker of this kind has come up before, so that nobody needs to wait for this one."""
        return False

    def _is_up(self) -> None:
        """A worker has come up."""

    def _sees_its_end(self) -> bool:
        """Whether a close waits for the socket's end, which proves that the process is gone."""
        return True

    async def start(self) -> None:
        """Start a worker, bind everything. Raises :class:`EnvironmentFailure` where it does not come up.

        One that is :meth:`_sure` to start does so while the model thinks about its first step, and the first cell waits.
        """
        ready = self._answers["ready"] = asyncio.get_running_loop().create_future()
        self._link = await self._connect(lambda: Link(self._max_frame, self._on_frame))
        self._link.gone.add_done_callback(self._worker_gone)
        self._starting = ready
        ready.add_done_callback(self._bind)
        if not self._sure():
            await self._started()

    async def _started(self) -> None:
        """Wait for the worker, if it is on its way. Raises :class:`EnvironmentFailure` where it does not come up."""
        ready = self._starting
        if ready is None:
            return
        assert self._link is not None
        seconds = _START_SECONDS + self._packed.size / _START_BYTES
        await asyncio.wait([ready, self._link.gone], return_when=asyncio.FIRST_COMPLETED, timeout=seconds)
        self._starting = None
        if not (ready.done() or self._link.gone.done()):
            self._link.break_off(f"it was not ready after {seconds:.0f} s")
            self._kill()
        if not ready.done():
            raise EnvironmentFailure(f"a worker did not start: {await self._last_words()}")
        if "error" in ready.result():
            self._link.break_off("it did not start")
            raise EnvironmentFailure(f"a worker could not be started: {ready.result()['error']}")

    def _bind(self, ready: asyncio.Future[dict[str, Any]]) -> None:
        """Send the worker what it is to know, now that it is up: to one that failed, writing would lose what it said."""
        if ready.cancelled() or "error" in ready.result() or ready is not self._starting:
            return
        assert self._link is not None
        carried = [list(pair) for pair in self._carried.values]
        frame = {"t": "bind", "values": self._packed.inline, "functions": self._functions(), "carried": carried}
        self._link.send({**frame, "keep": self._limits.lasting})
        self._names = []
        self._told = False
        self._is_up()

    def _functions(self) -> list[list[str]]:
        return [["SUBMIT", "Finish with the outputs."], *([name, doc] for name, doc in self._host.functions.items())]

    async def execute(self, code: str) -> Execution:
        """Run one cell; a dead worker is replaced first. Cancelling this kills the cell with its session."""
        if self._closed:
            raise EnvironmentFailure("the session is closed")
        lost = ""
        if self._starting is None and (self._link is None or self._link.gone.done()):
            lost = "" if self._told else self._loss()  # it ended between two cells
            self._calls.cancel()
            await self.start()
        await self._started()
        execution = await self._execute(code)
        return replace(execution, lost=f"{lost} {execution.lost}".strip()) if lost else execution

    async def _execute(self, code: str) -> Execution:
        assert self._link is not None
        self._number += 1
        started = time.monotonic()
        done = self._answers["done"] = asyncio.get_running_loop().create_future()
        self._clock.begin()
        self._calls.cell_begins(self._clock)
        frame = {"t": "exec", "x": self._number, "number": self._number, "code": code}
        self._link.send({**frame, "out": self._limits.output_chars, "seconds": self._seconds})
        if self._link.gone.done():
            self._worker_gone(self._link.gone)
        try:
            self._clock.run()
            found = await done  # one future for both ends of it: asyncio.wait made another fourteen objects a cell
        except asyncio.CancelledError:
            # The cell would otherwise run on and hold up what is asked of the session next; so would its calls.
            self._calls.cancel()
            self._kill()
            raise
        finally:
            self._clock.hold()
            self._calls.clock = None
        if not found:
            return self._lost(time.monotonic() - started)
        self._losses = 0
        return self._execution(found, time.monotonic() - started)

    def _worker_gone(self, gone: asyncio.Future[str]) -> None:
        """A cell that its worker leaves behind ends without an answer."""
        done = self._answers.get("done")
        if done is not None and not done.done() and self._link is not None and self._link.gone is gone:
            done.set_result({})

    def _execution(self, done: dict[str, Any], seconds: float) -> Execution:
        self._names = done["names"]
        limit, value = self._limits.output_chars, done["value"]
        return Execution(
            stdout=truncate(done["text"], limit, total=done["chars"]),
            stdout_chars=done["chars"],
            value=None if value is None else truncate(value, limit + 200),  # the worker has cut it, if it is honest
            error="" if self._calls.submission is not None else done["error"],
            submission=self._calls.submission,
            seconds=seconds,
        )

    def _lost(self, seconds: float) -> Execution:
        """The worker is gone in mid-cell: say what went with it; the next cell gets a new one."""
        assert self._link is not None
        self._calls.cancel()
        self._kill()
        self._losses += 1
        lost = self._loss()
        if self._calls.submission is not None:  # accepted before the end came: it stands
            return Execution(submission=self._calls.submission, seconds=seconds, lost=lost)
        if self._losses >= _MAX_LOSSES:
            raise EnvironmentFailure(f"no worker can be kept alive: {self._losses} were lost in a row. {lost}")
        return Execution(lost=lost, seconds=seconds)

    def _loss(self) -> str:
        """What the worker's end took along, in words for the model; nothing where we ended it, and all is there again."""
        assert self._link is not None
        self._told, renewed, self._renewed = True, self._renewed, False
        inputs_ = {name for name, _ in (*self._packed.packs, *self._packed.inline, *self._carried.values)}
        inputs_ |= {passed.name for passed in self._packed.opened}
        gone = [n for n in self._names if n not in inputs_ and (self.scratch is None or n != VARIABLE)]
        if renewed:
            why = "A new REPL process was started: this call gives other files, or more than the one that ran could be sent."
            return f"{why} Gone: {', '.join(gone[:50])}." if gone else ""
        why = self._link.gone.result()
        lost = f"The REPL process was lost: {why}. A new one is up with the inputs as they were first given."
        return lost + (f" Gone: {', '.join(gone[:50])}." if gone else " No other variables were lost.")

    def _interrupt(self) -> None:
        """The cell's seconds are over: SIGINT, which keeps the variables; SIGKILL if that does not end it."""
        self._signal(signal.SIGINT)
        number, waiting = self._number, set(self._calls.tasks)

        def kill() -> None:
            if self._calls.clock is None or self._number != number or self._link is None:
                return
            if not all(task.done() for task in waiting):  # it stops when the call it was in is answered
                asyncio.get_running_loop().call_later(_INTERRUPT_GRACE, kill)
                return
            self._link.break_off(f"the cell ran longer than {self._seconds:g} s and did not stop when asked")
            self._kill()

        asyncio.get_running_loop().call_later(_INTERRUPT_GRACE, kill)

    def _on_frame(self, link: Link, body: bytes) -> None:
        if is_heavy(body):
            link.hold("parsing", True)  # one at a time, and in order
            self._calls.spawn(self._parse_then_handle(link, body))
            return
        with self._protocol(link):
            self._handle(link, parse(body), len(body))

    async def _parse_then_handle(self, link: Link, body: bytes) -> None:
        with self._protocol(link):
            frame = await off_loop(parse, body)
            if link is self._link:  # its worker has not been replaced meanwhile
                self._handle(link, frame, len(body), heavy=True)
        link.hold("parsing", False)

    @contextlib.contextmanager
    def _protocol(self, link: Link) -> Generator[None, None, None]:
        """A worker that sends what is no part of the protocol is cut off and killed."""
        try:
            yield
        except (ValueError, KeyError, TypeError, MemoryError):
            link.break_off("it sent something that is not part of the protocol")
            if link is self._link:
                self._kill()

    def _handle(self, link: Link, frame: dict[str, Any], size: int, *, heavy: bool = False) -> None:
        """One message of the worker. Whatever it holds is untrusted; anything unexpected is a broken protocol."""
        kind = frame["t"]
        if kind == "call":
            if (
                type(frame["id"]) is not int
                or not (isinstance(frame["name"], str) and len(frame["name"]) <= _VARIABLE)
                or not {"args", "kwargs"} <= set(frame)
            ):
                raise ValueError("malformed")
            self._calls.spawn(self._calls.serve(link, frame, size, heavy))
            return
        if kind == "done" and frame["x"] != self._number:
            raise ValueError("an answer to another execution")
        told, kind = done_values(frame) if kind == "done" else frame, {"failed": "ready"}.get(kind, kind)
        answer = self._answers.get(kind)
        if answer is None or (answer.done() and not answer.cancelled()):
            raise ValueError("an answer nobody asked for")
        del self._answers[kind]
        if not answer.cancelled():  # whoever asked was cancelled, and the worker did not know that yet
            answer.set_result(told)

    async def variables(self) -> dict[str, str]:
        found = (await self._asked({"t": "vars"}, "vars")).get("vars")
        items = list(cast("dict[str, Any]", found).items())[:500] if isinstance(found, dict) else []
        # A prompt shows them, a line in all: what a worker forges makes no lines of its own there.
        named = [(name, text) for name, text in items if isinstance(text, str) and name.isidentifier()]
        return {name[:_VARIABLE]: " ".join(text[:_VARIABLE].split()) for name, text in named}

    async def _asked(self, frame: dict[str, Any], answer: str) -> dict[str, Any]:
        """The worker's answer between two cells; nothing where it is gone, or what it holds keeps it from answering."""
        with contextlib.suppress(EnvironmentFailure):
            await self._started()
        if self._link is None or self._link.gone.done():
            return {}
        answered = self._answers[answer] = asyncio.get_running_loop().create_future()
        self._link.send(frame)
        await asyncio.wait([answered, self._link.gone], return_when=asyncio.FIRST_COMPLETED, timeout=_VARIABLES_SECONDS)
        if answered.done():
            return answered.result()
        self._link.break_off("showing one of its variables does not come to an end")
        self._kill()
        return {}

    async def snapshot(self) -> Snapshot:
        kept = await self._asked({"t": "keep", "most": self._max_frame // 2}, "kept")
        return _keeping.snapshot(kept)

    async def renew(self, contract: Contract, host: Host, carried: Snapshot) -> None:
        packed = await packed_inputs(contract, self._modules())
        with contextlib.suppress(EnvironmentFailure):
            await self._started()
        self._calls.cancel()
        before, self._packed, self._carried = self._packed, packed, carried
        self._host = self._calls.host = host
        frame = _keeping.again(before, packed, self._max_frame // 2)
        before.release()
        if frame is None:  # other files, or more than fits a frame: they come with a new worker
            self._renewed = self._link is not None and not self._link.gone.done()
            self._kill()
            if self._link is not None:  # else the first cell might still be sent to it, and be lost with it
                await asyncio.wait([self._link.gone], timeout=_INTERRUPT_GRACE)
        elif self._link is not None and not self._link.gone.done():
            kept = [list(pair) for pair in carried.values] if not self._number else []  # later it has them
            self._link.send({"t": "bind", **frame, "functions": self._functions(), "carried": kept, "keep": True})

    def _modules(self) -> frozenset[str]:
        """Top-level modules whose values may be inputs as they are."""
        return frozenset()

    def _abort(self, error: Exception) -> None:
        """End the execution that runs with ``error``."""
        done = self._answers.get("done")
        if done is not None and not done.done():
            done.set_exception(error)

    def _kill(self) -> None:
        self._signal(signal.SIGKILL)

    async def close(self) -> None:
        """Kill the worker, end its calls, give the inputs back."""
        if self._closed:
            return
        self._closed = True
        self._clock.stop()
        self._packed.release()  # the worker has its own
        self._calls.cancel()
        self._kill()
        if self._link is not None:
            if self._sees_its_end():
                self._link.drop()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(asyncio.shield(self._link.gone), 5)
            self._link.break_off("the session was closed")
        await self._calls.ended()
