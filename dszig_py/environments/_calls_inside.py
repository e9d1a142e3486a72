"""Calls that code makes from inside its worker: answered by the host, while the clock of its cell stands.

What arrives is untrusted; what it may ask for is for the :class:`~dszig_py.environments.base.Host` to say.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from typing import Any

from dszig_py.environments._link import CellClock, Link, call_values
from dszig_py.environments._opening import off_loop
from dszig_py.environments._worker import codec
from dszig_py.environments.base import CallRefused, Host
from dszig_py.errors import DszigError

__all__ = ["CallsInside"]

_MAX_IN_FLIGHT, _MAX_BYTES_IN_FLIGHT = 4096, 128 * 1024 * 1024  # of one worker; beyond, it is not read from


class CallsInside:
    """The calls of one session that are being served, and what they submit. ``abort`` ends the cell with an exception."""

    def __init__(self, host: Host, abort: Callable[[Exception], None]) -> None:
        self.host = host
        self.tasks: set[asyncio.Task[None]] = set()
        self.clock: CellClock | None = None  # of the cell that runs
        self.submission: dict[str, Any] | None = None
        self._abort = abort
        self._context = contextvars.copy_context()
        self._in_flight = self._bytes = self._being_answered = 0

    def cell_begins(self, clock: CellClock) -> None:
        """From now on calls see the caller's context variables as they are now."""
        self.clock, self.submission = clock, None
        self._context = contextvars.copy_context()

    def spawn(self, coroutine: Any) -> None:
        """Serve something beside the others, until :meth:`cancel`."""
        task = asyncio.get_running_loop().create_task(coroutine, context=self._context.copy())
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def cancel(self) -> None:
        """Serve none of them any further."""
        for task in list(self.tasks):
            task.cancel()

    async def ended(self) -> None:
        """Wait until what was cancelled has come to its end."""
        if self.tasks:
            await asyncio.gather(*self.tasks, return_exceptions=True)

    async def serve(self, link: Link, frame: dict[str, Any], size: int, heavy: bool) -> None:
        """Serve one call and send its reply to the worker that asked, no later one."""
        call_id, name = frame["id"], frame["name"]
        self._change(link, +1, size)
        try:
            reply: dict[str, Any]
            try:
                reply = await self._answer(name, frame["args"], frame["kwargs"], heavy)
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
            self._change(link, -1, -size)

    async def _answer(self, name: str, args: Any, kwargs: Any, heavy: bool) -> dict[str, Any]:
        try:
            if heavy:
                args, kwargs = await off_loop(call_values, args, kwargs)
            else:
                args, kwargs = call_values(args, kwargs)
        except (ValueError, TypeError) as error:
            raise CallRefused(f"{name}: the arguments cannot be passed: {error}", "TypeError") from None
        self._awaited(+1)
        try:
            if name == "SUBMIT":
                outputs = await self.host.submit(args, kwargs)
                if self.submission is None:
                    self.submission = outputs
                return {"submitted": True}
            answer = await self.host.call(name, args, kwargs)
        finally:
            self._awaited(-1)
        return {"ok": await off_loop(codec.encode, answer) if heavy else codec.encode(answer)}

    def _awaited(self, change: int) -> None:
        """The cell's clock stands while the host answers; taking its values in and out is the cell's own time."""
        self._being_answered += change
        if self.clock is not None:
            (self.clock.hold if self._being_answered else self.clock.run)()

    def _change(self, link: Link, count: int, size: int) -> None:
        self._in_flight += count
        self._bytes += size
        link.hold("calls", self._in_flight > _MAX_IN_FLIGHT or self._bytes > _MAX_BYTES_IN_FLIGHT)
