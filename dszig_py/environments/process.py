"""The default environment: a CPython worker forked from a clean zygote, hardened by the kernel.

The host speaks length-prefixed JSON frames with it, checks sizes before it allocates, never unpickles and takes no
descriptors. A worker has no authority beyond the code it runs: forging a frame gains it nothing. What the kernel layers
are and what else was considered is in ``_worker/harden.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import re
import signal
import socket
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

from dszig_py.environments import _zygote, inputs
from dszig_py.environments._link import CellClock, Link, call_values, done_values, is_heavy, parse
from dszig_py.environments._worker import codec
from dszig_py.environments.base import CallRefused, CellLimits, Execution, Host, Isolation
from dszig_py.environments.isolation import Boundary, boundary
from dszig_py.environments.packages import Packages, find_packages
from dszig_py.errors import DszigError, EnvironmentFailure, InputError
from dszig_py.text import truncate

if TYPE_CHECKING:
    from dszig_py.contract import Contract

__all__ = ["ProcessEnvironment"]

_MAX_CALLS_IN_FLIGHT, _MAX_BYTES_IN_FLIGHT = 4096, 128 * 1024 * 1024  # of one worker; beyond, it is not read from
_VARIABLES_SECONDS = 5.0
_VARIABLE = 200  # characters
_INTERRUPT_GRACE = 2.0  # seconds between SIGINT and SIGKILL
_MAX_LOSSES = 3
_OWN_MEMORY = 256 * 1024 * 1024  # bytes of address space that interpreter, preloaded modules and thread stacks take
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


@dataclass(frozen=True, slots=True)
class ProcessEnvironment:
    """Cells run in a worker process of their own, one a session, hardened by the kernel.

    ``packages``: installed packages the code may import, besides the standard library and pydantic. ``read``: files and
    folders it may read. ``memory``: of one worker, bytes or text like "4GiB"; the default is 1 GiB + 2 x the inputs.
    ``cpu_seconds``: of one worker in all, ``None`` = not limited. ``cell_seconds``: a cell's own time, waiting for host
    calls not counted. ``max_frame``: bytes of one message either way.
    """

    packages: Sequence[str] = ()
    read: Sequence[str] = ()
    memory: int | str | None = None
    cpu_seconds: int | None = None
    cell_seconds: float = 30.0
    max_frame: int = 64 * 1024 * 1024
    name: str = field(default="process", init=False)

    async def open(self, contract: Contract, host: Host, limits: CellLimits) -> ProcessSession:
        """Pack the inputs, start a worker. Raises :class:`InputError`, :class:`EnvironmentFailure`."""
        zygote = await _off_loop(_zygote.zygote)
        await _off_loop(self.importable)  # reads the metadata of installed packages, once
        packing = asyncio.ensure_future(_off_loop(inputs.pack, {v.name: v.value for v in contract.variables}))
        try:
            packed = await asyncio.shield(packing)
        except asyncio.CancelledError:
            packing.add_done_callback(_release)  # the thread goes on to its end
            raise
        try:
            session = ProcessSession(self, zygote, packed, host, limits)
        except BaseException:
            packed.release()
            raise
        try:
            await session.start()
        except BaseException:
            await session.close()
            raise
        return session

    def importable(self) -> Packages:
        """What the worker may import from site-packages."""
        return find_packages(("pydantic", *self.packages))

    def boundary(self, facts: dict[str, Any], input_bytes: int) -> Boundary:
        """What will hold around a worker with inputs of that size. Raises :class:`EnvironmentFailure`."""
        memory = _bytes(self.memory) if self.memory is not None else (1 << 30) + 2 * input_bytes
        read = (*self.importable().read, *(str(path) for path in self.read))
        return boundary(
            facts,
            read=read,
            memory=memory + _OWN_MEMORY,
            cpu_seconds=self.cpu_seconds,
            packages=("pydantic", *self.packages),
        )


def _bytes(size: int | str) -> int:
    """Bytes of "512MB", "4GiB" or a number; units are powers of 1024."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?\s*", str(size), re.IGNORECASE)
    if match is None:
        raise InputError(f"memory={size!r} is no size; write a number of bytes, or text like '4GiB'")
    return int(float(match[1]) * _UNITS[match[2].upper()])


class ProcessSession:
    """One live REPL in a worker; replaced by a fresh one, inputs bound again, when it dies."""

    def __init__(
        self,
        environment: ProcessEnvironment,
        zygote: _zygote.Zygote,
        packed: inputs.Packed,
        host: Host,
        limits: CellLimits,
    ) -> None:
        self._environment = environment
        self._zygote = zygote
        self._packed = packed
        self._boundary = environment.boundary(zygote.facts, packed.size)
        self._host = host
        self._limits = limits
        self._seconds = environment.cell_seconds if limits.seconds is None else limits.seconds
        self._link: Link | None = None
        self._token = 0
        self._answers: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._context = contextvars.copy_context()
        self._clock: CellClock | None = None
        self._in_flight = self._in_flight_bytes = 0
        self._number = 0
        self._names: list[str] = []
        self._submission: dict[str, Any] | None = None
        self._losses = 0
        self._closed = False
        self._told = True  # the model knows of the last worker's end, if it has ended

    @property
    def isolation(self) -> Isolation:
        return self._boundary.isolation

    async def start(self) -> None:
        """Fork a worker, bind everything. Raises :class:`EnvironmentFailure` where it does not come up."""
        if not self._zygote.alive:
            self._zygote = await _off_loop(_zygote.zygote)
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        request = {
            "inputs": self._packed.specs(1),
            "max_frame": self._environment.max_frame,
            "policy": self._boundary.policy,
            "import": self._environment.importable().modules,
        }
        try:
            self._token = self._zygote.fork(request, [theirs.fileno(), *self._packed.fds])
        except OSError as error:
            ours.close()
            raise EnvironmentFailure(f"no worker could be started: {error}") from error
        finally:
            theirs.close()
        loop = asyncio.get_running_loop()
        ready = self._answers["ready"] = loop.create_future()
        _, self._link = await loop.create_unix_connection(
            lambda: Link(self._environment.max_frame, self._on_frame), sock=ours
        )
        self._link.send({"t": "bind", "values": self._packed.inline, "functions": self._functions()})
        await asyncio.wait([ready, self._link.gone], return_when=asyncio.FIRST_COMPLETED)
        if not ready.done():
            raise EnvironmentFailure(f"a worker did not start: {self._link.gone.result()}")
        if "error" in ready.result():
            self._link.break_off("it did not start")
            raise EnvironmentFailure(f"a worker could not be started: {ready.result()['error']}")
        self._names = []
        self._told = False

    def _functions(self) -> list[list[str]]:
        return [["SUBMIT", "Finish with the outputs."], *([name, doc] for name, doc in self._host.functions.items())]

    async def execute(self, code: str) -> Execution:
        """Run one cell; a dead worker is replaced first. Cancelling this kills the cell with its session."""
        if self._closed:
            raise EnvironmentFailure("the session is closed")
        lost = ""
        if self._link is None or self._link.gone.done():
            lost = "" if self._told else self._loss()  # it ended between two cells
            self._cancel_calls()
            await self.start()
        execution = await self._execute(code)
        return replace(execution, lost=f"{lost} {execution.lost}".strip()) if lost else execution

    async def _execute(self, code: str) -> Execution:
        assert self._link is not None
        self._number += 1
        self._submission = None
        self._context = contextvars.copy_context()
        started = time.monotonic()
        done = self._answers["done"] = asyncio.get_running_loop().create_future()
        self._clock = CellClock(self._seconds, self._interrupt)
        frame = {"t": "exec", "x": self._number, "number": self._number, "code": code}
        self._link.send({**frame, "out": self._limits.output_chars, "seconds": self._seconds})
        try:
            self._clock.run()
            await asyncio.wait([done, self._link.gone], return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            # The cell would otherwise run on and hold up what is asked of the session next; so would its calls.
            self._cancel_calls()
            self._kill()
            raise
        finally:
            self._clock.hold()
            self._clock = None
        if not done.done():
            return self._lost(time.monotonic() - started)
        self._losses = 0
        return self._execution(done.result(), time.monotonic() - started)

    def _execution(self, done: dict[str, Any], seconds: float) -> Execution:
        self._names = done["names"]
        limit, value = self._limits.output_chars, done["value"]
        return Execution(
            stdout=truncate(done["text"], limit, total=done["chars"]),
            stdout_chars=done["chars"],
            value=None if value is None else truncate(value, limit + 200),  # the worker has cut it, if it is honest
            error="" if self._submission is not None else done["error"],
            submission=self._submission,
            seconds=seconds,
        )

    def _lost(self, seconds: float) -> Execution:
        """The worker is gone in mid-cell: say what went with it; the next cell gets a new one."""
        assert self._link is not None
        self._cancel_calls()
        self._kill()
        self._losses += 1
        lost = self._loss()
        if self._submission is not None:  # accepted before the end came: it stands
            return Execution(submission=self._submission, seconds=seconds, lost=lost)
        if self._losses >= _MAX_LOSSES:
            raise EnvironmentFailure(f"no worker can be kept alive: {self._losses} were lost in a row. {lost}")
        return Execution(lost=lost, seconds=seconds)

    def _loss(self) -> str:
        """What the worker's end took along, in words for the model."""
        assert self._link is not None
        self._told = True
        inputs_ = {name for name, _ in self._packed.packs} | {name for name, _ in self._packed.inline}
        gone = [name for name in self._names if name not in inputs_]
        why = self._link.gone.result()
        lost = f"The REPL process was lost: {why}. A new one is up with the inputs as they were first given."
        return lost + (f" Gone: {', '.join(gone[:50])}." if gone else " No other variables were lost.")

    def _interrupt(self) -> None:
        """The cell's seconds are over: SIGINT, which keeps the variables; SIGKILL if that does not end it."""
        self._zygote.signal(self._token, signal.SIGINT)
        number = self._number

        def kill() -> None:
            if self._clock is None or self._number != number or self._link is None:
                return
            if self._in_flight:  # it stops when the call is answered
                asyncio.get_running_loop().call_later(_INTERRUPT_GRACE, kill)
                return
            self._link.break_off(f"the cell ran longer than {self._seconds:g} s and did not stop when asked")
            self._kill()

        asyncio.get_running_loop().call_later(_INTERRUPT_GRACE, kill)

    def _on_frame(self, link: Link, body: bytes) -> None:
        if is_heavy(body):
            link.hold("parsing", True)  # one at a time, and in order
            self._spawn(self._parse_then_handle(link, body))
            return
        with self._protocol(link):
            self._handle(parse(body), len(body))

    async def _parse_then_handle(self, link: Link, body: bytes) -> None:
        with self._protocol(link):
            frame = await _off_loop(parse, body)
            if link is self._link:  # its worker has not been replaced meanwhile
                self._handle(frame, len(body), heavy=True)
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

    def _handle(self, frame: dict[str, Any], size: int, *, heavy: bool = False) -> None:
        """One message of the worker. Whatever it holds is untrusted; anything unexpected is a broken protocol."""
        kind = frame["t"]
        if kind == "call":
            if type(frame["id"]) is not int or not isinstance(frame["name"], str):
                raise ValueError("malformed")
            self._spawn(self._call(frame["id"], frame["name"], frame["args"], frame["kwargs"], size, heavy))
            return
        if kind == "done" and frame["x"] != self._number:
            raise ValueError("an answer to another execution")
        answer = self._answers.get({"failed": "ready"}.get(kind, kind))
        if answer is None or answer.done():
            raise ValueError("an answer nobody asked for")
        answer.set_result(done_values(frame) if kind == "done" else frame)

    def _spawn(self, coroutine: Any) -> None:
        task = asyncio.get_running_loop().create_task(coroutine, context=self._context.copy())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _call(self, call_id: int, name: str, args: Any, kwargs: Any, size: int, heavy: bool) -> None:
        """Serve one call from inside and send its reply, to the worker that asked and no later one."""
        link = self._link
        assert link is not None
        self._calls_in_flight(+1, size)
        try:
            reply: dict[str, Any]
            try:
                reply = await self._serve(name, args, kwargs, heavy)
            except CallRefused as refusal:
                reply = {"error": [refusal.kind, str(refusal)]}
            except DszigError as error:  # the run's end, not the cell's business: a replay that no longer matches
                self._abort(error)
                return
            except Exception as error:  # a fault of ours must not leave the cell waiting for ever
                reply = {"error": ["RuntimeError", f"{name} failed in the host: {type(error).__name__}: {error}"]}
            try:
                link.send({"t": "reply", "id": call_id, **reply})
            except ValueError as error:
                link.send({"t": "reply", "id": call_id, "error": ["ValueError", f"the answer of {name} takes {error}"]})
        finally:
            self._calls_in_flight(-1, -size)

    def _abort(self, error: Exception) -> None:
        """End the execution that runs with ``error``."""
        done = self._answers.get("done")
        if done is not None and not done.done():
            done.set_exception(error)

    async def _serve(self, name: str, args: Any, kwargs: Any, heavy: bool) -> dict[str, Any]:
        try:
            if heavy:
                args, kwargs = await _off_loop(call_values, args, kwargs)
            else:
                args, kwargs = call_values(args, kwargs)
        except (ValueError, TypeError) as error:
            raise CallRefused(f"{name}: the arguments cannot be passed: {error}", "TypeError") from None
        if name == "SUBMIT":
            outputs = await self._host.submit(args, kwargs)
            if self._submission is None:
                self._submission = outputs
            return {"submitted": True}
        return {"ok": codec.encode(await self._host.call(name, args, kwargs))}

    def _calls_in_flight(self, change: int, size: int) -> None:
        self._in_flight += change
        self._in_flight_bytes += size
        if self._clock is not None:
            (self._clock.hold if self._in_flight else self._clock.run)()
        if self._link is not None:
            many = self._in_flight > _MAX_CALLS_IN_FLIGHT or self._in_flight_bytes > _MAX_BYTES_IN_FLIGHT
            self._link.hold("calls", many)

    async def variables(self) -> dict[str, str]:
        if self._link is None or self._link.gone.done():
            return {}
        answer = self._answers["vars"] = asyncio.get_running_loop().create_future()
        self._link.send({"t": "vars"})
        await asyncio.wait([answer, self._link.gone], return_when=asyncio.FIRST_COMPLETED, timeout=_VARIABLES_SECONDS)
        if not answer.done():
            self._link.break_off("showing one of its variables does not come to an end")
            self._kill()
            return {}
        found = answer.result().get("vars")
        items = list(cast("dict[str, Any]", found).items())[:500] if isinstance(found, dict) else []
        return {name[:_VARIABLE]: text[:_VARIABLE] for name, text in items if isinstance(text, str)}

    def _kill(self) -> None:
        if self._token:
            self._zygote.signal(self._token, signal.SIGKILL)

    def _cancel_calls(self) -> None:
        for task in list(self._tasks):
            task.cancel()

    async def close(self) -> None:
        """Kill the worker, end its calls, give the inputs back. The socket's end proves that the process is gone."""
        if self._closed:
            return
        self._closed = True
        self._packed.release()  # the worker has its own
        self._cancel_calls()
        self._kill()
        if self._link is not None:
            self._link.drop()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(self._link.gone), 5)
            if self._link.transport is not None:
                self._link.transport.abort()
        if self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)


def _release(packing: asyncio.Future[inputs.Packed]) -> None:
    if not packing.cancelled() and packing.exception() is None:
        packing.result().release()


async def _off_loop(function: Any, *args: Any) -> Any:
    """Run something slow in a thread of asyncio's own pool; leaf work only, so nothing can wait on itself there."""
    return await asyncio.to_thread(function, *args)
