"""The default environment: a CPython worker forked from a clean zygote, hardened by the kernel.

The host speaks length-prefixed JSON frames with it, checks sizes before it allocates, never unpickles and takes no
descriptors. A worker has no authority beyond the code it runs: forging a frame gains it nothing. What the kernel layers
are and what else was considered is in ``_worker/harden.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import signal
import socket
import struct
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dszig_py.environments import _zygote, inputs
from dszig_py.environments._worker import codec
from dszig_py.environments.base import CallRefused, CellLimits, Execution, Host, Isolation
from dszig_py.errors import EnvironmentFailure
from dszig_py.text import truncate

if TYPE_CHECKING:
    from dszig_py.contract import Contract

_HEADER = struct.Struct(">I")
_OFF_LOOP = 256 * 1024  # bytes; larger frames are parsed in a thread, so that a flooding worker cannot stall the loop
_MAX_CALLS_IN_FLIGHT = 4096
_INTERRUPT_GRACE = 2.0  # seconds between SIGINT and SIGKILL
_MAX_LOSSES = 3

__all__ = ["ProcessEnvironment"]


@dataclass(frozen=True, slots=True)
class ProcessEnvironment:
    """Cells run in a worker process of their own, one a session.

    ``cell_seconds``: a cell's own time, waiting for host calls not counted. ``max_frame``: bytes of one message.
    """

    cell_seconds: float = 30.0
    max_frame: int = 256 * 1024 * 1024
    name: str = field(default="process", init=False)

    async def open(self, contract: Contract, host: Host, limits: CellLimits) -> ProcessSession:
        """Pack the inputs, start a worker. Raises :class:`InputError`, :class:`EnvironmentFailure`."""
        packed = await _off_loop(inputs.pack, {v.name: v.value for v in contract.variables})
        session = ProcessSession(self, packed, host, limits)
        try:
            await session.start()
        except BaseException:
            await session.close()
            raise
        return session


class _Link(asyncio.Protocol):
    """Frames in and out of one worker. ``on_frame`` gets raw bodies in order; ``gone`` is done when the socket ends."""

    def __init__(self, max_frame: int, on_frame: Any) -> None:
        self._buffer = bytearray()
        self._max_frame = max_frame
        self._on_frame = on_frame
        self.gone: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        start = 0
        while len(buffer) - start >= 4:
            (size,) = _HEADER.unpack_from(buffer, start)
            if size > self._max_frame:
                self.break_off("it announced a message larger than allowed")
                return
            if len(buffer) - start - 4 < size:
                break
            body = bytes(memoryview(buffer)[start + 4 : start + 4 + size])
            start += 4 + size
            self._on_frame(body)
        del buffer[:start]

    def break_off(self, why: str) -> None:
        if not self.gone.done():
            self.gone.set_result(why)
        self._buffer.clear()
        if self.transport is not None:
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.gone.done():
            self.gone.set_result("it ended: it was killed, ran out of memory, or crashed")

    def send(self, frame: dict[str, Any]) -> None:
        body = codec.dumps(frame)
        if self.transport is not None and not self.transport.is_closing():
            self.transport.writelines([_HEADER.pack(len(body)), body])


class _Clock:
    """A cell's own seconds: runs while no host call is outstanding, then calls ``expired`` once."""

    def __init__(self, seconds: float, expired: Any) -> None:
        self._left = seconds
        self._expired = expired
        self._since = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def run(self) -> None:
        loop = asyncio.get_running_loop()
        if self._timer is None:
            self._since = loop.time()
            self._timer = loop.call_later(max(self._left, 0), self._expired)

    def hold(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._left -= asyncio.get_running_loop().time() - self._since


class ProcessSession:
    """One live REPL in a worker; replaced by a fresh one, inputs bound again, when it dies."""

    def __init__(self, environment: ProcessEnvironment, packed: inputs.Packed, host: Host, limits: CellLimits) -> None:
        self._environment = environment
        self._packed = packed
        self._host = host
        self._limits = limits
        self._seconds = environment.cell_seconds if limits.seconds is None else limits.seconds
        self._link: _Link | None = None
        self._token = 0
        self._zygote: _zygote.Zygote | None = None
        self._answers: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._context = contextvars.copy_context()
        self._clock: _Clock | None = None
        self._in_flight = 0
        self._number = 0
        self._names: list[str] = []
        self._submission: dict[str, Any] | None = None
        self._losses = 0
        self._closed = False
        self._layers: list[str] = []
        self._why = ""

    @property
    def isolation(self) -> Isolation:
        return Isolation("none", ("a process of its own", "an empty environment"), ("files", "network"))

    async def start(self) -> None:
        """Fork a worker, bind everything. Raises :class:`EnvironmentFailure` where it does not come up."""
        self._zygote = await _off_loop(_zygote.zygote)
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        request = {"inputs": self._packed.specs(1), "max_frame": self._environment.max_frame, "policy": self._policy()}
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
            lambda: _Link(self._environment.max_frame, self._on_frame), sock=ours
        )
        self._link.send({"t": "bind", "values": self._packed.inline, "functions": self._functions()})
        await asyncio.wait([ready, self._link.gone], return_when=asyncio.FIRST_COMPLETED)
        if not ready.done():
            raise EnvironmentFailure(f"a worker did not start: {self._link.gone.result()}")
        if "error" in ready.result():
            raise EnvironmentFailure(f"a worker could not be hardened: {ready.result()['error']}")
        self._layers = ready.result()["layers"]
        self._names = []

    def _policy(self) -> dict[str, Any] | None:
        return None

    def _functions(self) -> list[list[str]]:
        return [["SUBMIT", "Finish with the outputs."], *([name, doc] for name, doc in self._host.functions.items())]

    async def execute(self, code: str) -> Execution:
        """Run one cell; a dead worker is replaced first. Cancelling this kills the cell with its session."""
        if self._link is None or self._link.gone.done():
            await self.start()
        assert self._link is not None
        self._number += 1
        self._submission = None
        self._context = contextvars.copy_context()
        started = time.monotonic()
        done = self._answers["done"] = asyncio.get_running_loop().create_future()
        self._clock = _Clock(self._seconds, self._interrupt)
        frame = {"t": "exec", "x": self._number, "number": self._number, "code": code}
        self._link.send({**frame, "out": self._limits.output_chars, "seconds": self._seconds})
        try:
            self._clock.run()
            await asyncio.wait([done, self._link.gone], return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self._kill()  # the cell would otherwise run on, and hold up what is asked of the session next
            raise
        finally:
            self._clock.hold()
            self._clock = None
        if not done.done():
            return self._lost(time.monotonic() - started)
        self._losses = 0
        return self._execution(done.result(), time.monotonic() - started)

    def _execution(self, frame: dict[str, Any], seconds: float) -> Execution:
        self._names = [str(name) for name in frame["names"]]
        chars = int(frame["chars"])
        submitted = self._submission is not None
        return Execution(
            stdout=truncate(f"{frame['head']}{frame['tail']}", self._limits.output_chars, total=chars),
            stdout_chars=chars,
            value=None if frame["value"] is None else str(frame["value"]),
            error="" if submitted else str(frame["error"]),
            submission=self._submission,
            seconds=seconds,
        )

    def _lost(self, seconds: float) -> Execution:
        """The worker is gone in mid-cell: say what went with it; the next cell gets a new one."""
        assert self._link is not None
        why = self._why or self._link.gone.result()
        self._why = ""
        self._cancel_calls()
        self._kill()
        self._losses += 1
        if self._submission is not None:  # accepted before the end came: it stands
            return Execution(submission=self._submission, seconds=seconds)
        if self._losses >= _MAX_LOSSES:
            raise EnvironmentFailure(f"the worker was lost {self._losses} times in a row, last because {why}")
        inputs_ = {name for name, _ in self._packed.packs} | {name for name, _ in self._packed.inline}
        gone = [name for name in self._names if name not in inputs_]
        lost = f"The REPL process was lost: {why}. A new one is up with the inputs as they were first given."
        lost += f" Gone: {', '.join(gone[:50])}." if gone else " No other variables were lost."
        return Execution(lost=lost, error="", seconds=seconds)

    def _interrupt(self) -> None:
        """The cell's seconds are over: SIGINT, which keeps the variables; SIGKILL if that does not end it."""
        assert self._zygote is not None
        self._zygote.signal(self._token, signal.SIGINT)
        link = self._link

        def kill() -> None:
            if self._clock is not None and self._link is link and link is not None and not link.gone.done():
                self._why = f"the cell ran longer than {self._seconds:g} s and did not stop when asked"
                self._kill()

        asyncio.get_running_loop().call_later(_INTERRUPT_GRACE, kill)

    def _on_frame(self, body: bytes) -> None:
        if len(body) > _OFF_LOOP:
            self._spawn(self._parse_then_handle(body))
            return
        try:
            self._handle(codec.loads(body))
        except (ValueError, KeyError, TypeError, IndexError, AttributeError):
            self._broken()

    async def _parse_then_handle(self, body: bytes) -> None:
        try:
            self._handle(await _off_loop(codec.loads, body))
        except (ValueError, KeyError, TypeError, IndexError, AttributeError):
            self._broken()

    def _broken(self) -> None:
        if self._link is not None:
            self._link.break_off("it sent something that is not part of the protocol")
        self._kill()

    def _handle(self, frame: dict[str, Any]) -> None:
        """One message of the worker. Whatever it holds is untrusted; anything unexpected is a broken protocol."""
        kind = frame["t"]
        if kind == "call":
            self._spawn(self._call(frame["id"], frame["name"], frame["args"], frame["kwargs"]))
            return
        if kind == "done" and frame["x"] != self._number:
            raise ValueError("an answer to another execution")
        answer = self._answers.get({"failed": "ready"}.get(kind, kind))
        if answer is None or answer.done():
            raise ValueError("an answer nobody asked for")
        if kind == "done" and not (isinstance(frame["names"], list) and isinstance(frame["chars"], int)):
            raise ValueError("malformed")
        for key in {"done": ("head", "tail", "error", "value")}.get(kind, ()):
            frame[key]
        answer.set_result(frame)

    def _spawn(self, coroutine: Any) -> None:
        task = asyncio.get_running_loop().create_task(coroutine, context=self._context.copy())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _call(self, call_id: int, name: str, args: Any, kwargs: Any) -> None:
        """Serve one call from inside and send its reply."""
        self._calls_in_flight(+1)
        try:
            reply: dict[str, Any]
            try:
                reply = await self._serve(name, args, kwargs)
            except CallRefused as refusal:
                reply = {"error": [refusal.kind, str(refusal)]}
            if self._link is not None and not self._link.gone.done():
                self._link.send({"t": "reply", "id": call_id, **reply})
        finally:
            self._calls_in_flight(-1)

    async def _serve(self, name: str, args: Any, kwargs: Any) -> dict[str, Any]:
        try:
            values = codec.decode(args, records=codec.plain_record), codec.decode(kwargs, records=codec.plain_record)
        except (ValueError, TypeError, KeyError, IndexError, ArithmeticError, RecursionError) as error:
            raise CallRefused(f"{name}: the arguments cannot be passed: {error}", "TypeError") from None
        if name == "SUBMIT":
            outputs = await self._host.submit(*values)
            if self._submission is None:
                self._submission = outputs
            return {"submitted": True}
        return {"ok": codec.encode(await self._host.call(name, *values))}

    def _calls_in_flight(self, change: int) -> None:
        self._in_flight += change
        if self._clock is not None:
            (self._clock.hold if self._in_flight else self._clock.run)()
        transport = None if self._link is None else self._link.transport
        if transport is not None and not transport.is_closing():
            if self._in_flight > _MAX_CALLS_IN_FLIGHT:
                transport.pause_reading()
            elif not transport.is_reading():
                transport.resume_reading()

    async def variables(self) -> dict[str, str]:
        if self._link is None or self._link.gone.done():
            return {}
        answer = self._answers["vars"] = asyncio.get_running_loop().create_future()
        self._link.send({"t": "vars"})
        await asyncio.wait([answer, self._link.gone], return_when=asyncio.FIRST_COMPLETED, timeout=5)
        if not answer.done() or not isinstance(answer.result().get("vars"), dict):
            return {}
        return {str(k): str(v)[:200] for k, v in list(answer.result()["vars"].items())[:500]}

    def _kill(self) -> None:
        if self._zygote is not None and self._token:
            self._zygote.signal(self._token, signal.SIGKILL)

    def _cancel_calls(self) -> None:
        for task in list(self._tasks):
            task.cancel()

    async def close(self) -> None:
        """Kill the worker, end its calls, give the inputs back. The socket's end proves that the process is gone."""
        if self._closed:
            return
        self._closed = True
        self._cancel_calls()
        self._kill()
        if self._link is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(self._link.gone), 5)
            if self._link.transport is not None:
                self._link.transport.abort()
        if self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
        self._packed.release()


async def _off_loop(function: Any, *args: Any) -> Any:
    """Run something slow in a thread of asyncio's own pool; leaf work only, so nothing can wait on itself there."""
    return await asyncio.to_thread(function, *args)
