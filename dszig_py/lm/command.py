"""Any program as a model: the prompt on its standard input, the completion on its standard output."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from pathlib import PurePath
from typing import Any

import anyio

from dszig_py.errors import InputError, LMError
from dszig_py.lm.base import Reply, Request, estimated_usage

__all__ = ["CommandLM"]

MAX_OUTPUT = 64 * 1024 * 1024  # bytes of stdout; a completion is never this long, a runaway program's output is
STDERR_TAIL = 2000  # characters of stderr an error shows


class CommandLM:
    """``command`` answers one prompt a start: stdin is the prompt in UTF-8, stdout (stripped) the completion.

    A string runs under ``/bin/sh -c``, a sequence directly as program and arguments. Exit code 0 is success, whatever
    stderr says and however little of stdin was read. ``timeout``: seconds for one call, ``None`` = not limited. A
    timeout or a cancelled call kills the program and whatever it started in its session. ``empty_folder``: each call
    runs in a new empty folder, removed after it, instead of the working directory. Tokens are estimated, the cost is
    unknown. Raises :class:`InputError` for an empty command.
    """

    def __init__(
        self,
        command: str | Sequence[str],
        *,
        timeout: float | None = 600,
        model: str = "",
        empty_folder: bool = False,
    ) -> None:
        self._argv = ["/bin/sh", "-c", command] if isinstance(command, str) else [str(part) for part in command]
        if not self._argv or not self._argv[-1 if isinstance(command, str) else 0].strip():
            raise InputError("the command is empty")
        self._timeout = timeout
        self._empty_folder = empty_folder
        self._model = model or _name(command)

    @property
    def model(self) -> str:
        """The program's name, unless given."""
        return self._model

    def __repr__(self) -> str:
        return f"CommandLM({self._model})"

    async def complete(self, request: Request) -> Reply:
        """One start of the program. Raises :class:`LMError`, never retryable."""
        if request.images:
            raise LMError(f"{self.model} takes text only, no images")
        # A program may still write there while it is being killed, hence what cannot be removed is left to the system.
        empty = tempfile.TemporaryDirectory(prefix="dszig-", ignore_cleanup_errors=True) if self._empty_folder else None
        with empty or nullcontext() as folder:
            return await self._answer(request, folder)

    async def _answer(self, request: Request, folder: str | None) -> Reply:
        started = time.perf_counter()
        run = _Run(await self._start(folder))
        done = False
        try:
            with anyio.move_on_after(self._timeout):
                await run.communicate(request.prompt.encode(errors="replace"))
                done = True
        finally:
            if done and not run.overflow:
                run.close()
            else:
                await run.kill()
        if not done:
            raise LMError(f"{self._model}: no answer within {self._timeout:g} seconds; it was killed{run.said}")
        if run.overflow:
            raise LMError(f"{self._model}: it printed more than {MAX_OUTPUT // 2**20} MiB; it was killed")
        if run.process.returncode != 0:
            raise LMError(f"{self._model}: it ended with {_ending(run.process.returncode)}{run.said}")
        text = run.stdout.decode(errors="replace").strip()
        usage = estimated_usage(request, text, cost=None, seconds=time.perf_counter() - started)
        return Reply(text, usage, self._model)

    async def _start(self, folder: str | None) -> asyncio.subprocess.Process:
        pipe = asyncio.subprocess.PIPE
        starting = asyncio.ensure_future(
            asyncio.create_subprocess_exec(
                *self._argv, stdin=pipe, stdout=pipe, stderr=pipe, cwd=folder, start_new_session=True
            )
        )
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            await _kill_started(starting)
            raise
        except FileNotFoundError as error:
            missing = error.filename or self._argv[0]
            raise LMError(f"{self._model}: it could not be started: no program {missing!r} is found") from error
        except (OSError, ValueError) as error:
            raise LMError(f"{self._model}: it could not be started: {error}") from error


async def _kill_started(starting: asyncio.Future[asyncio.subprocess.Process]) -> None:
    """Have a program start, which takes a moment, and kill it. Cancelled within that moment, asyncio would kill the program
    alone, and wait until whatever that has started closes its pipes.
    """
    with anyio.CancelScope(shield=True):
        while not starting.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([starting])
        if not starting.cancelled() and starting.exception() is None:
            await _Run(starting.result()).kill()


class _Run:
    """One process and what it printed so far."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.stdout = bytearray()
        self.stderr = b""
        self.overflow = False

    @property
    def said(self) -> str:
        """The end of stderr, ready to follow a sentence."""
        tail = self.stderr.decode(errors="replace").strip()[-STDERR_TAIL:]
        return f": {tail}" if tail else ""

    async def communicate(self, data: bytes) -> None:
        """Feed and read all pipes at once, for a program may print before it has read, and wait for the end."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._feed, data)
            group.start_soon(self._read_stderr)
            await self._read_stdout()
            if self.overflow:
                group.cancel_scope.cancel()
        if not self.overflow:
            await self.process.wait()

    async def _feed(self, data: bytes) -> None:
        stdin = self.process.stdin
        assert stdin is not None
        with suppress(BrokenPipeError, ConnectionResetError):  # a program need not read its prompt
            stdin.write(data)
            await stdin.drain()
        stdin.close()

    async def _read_stdout(self) -> None:
        assert self.process.stdout is not None
        while chunk := await self.process.stdout.read(1 << 16):
            self.stdout += chunk
            if len(self.stdout) > MAX_OUTPUT:
                self.overflow = True
                return

    async def _read_stderr(self) -> None:
        assert self.process.stderr is not None
        while chunk := await self.process.stderr.read(1 << 16):
            self.stderr = (self.stderr + chunk)[-4 * STDERR_TAIL :]  # a character has at most four bytes

    async def kill(self) -> None:
        """Kill the program's whole session, close the pipes and wait for the program, whoever elsewhere holds them open."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.close()  # first: asyncio waits for what nobody reads any more
        with anyio.move_on_after(5, shield=True):
            await self.process.wait()

    def close(self) -> None:
        """Close the pipes now; left to the garbage collector they are reported as leaked."""
        transport: Any = getattr(self.process, "_transport", None)
        if transport is not None:
            transport.close()


def _name(command: str | Sequence[str]) -> str:
    first = ""
    if isinstance(command, str):
        with suppress(ValueError):  # unbalanced quotes are the shell's to report
            first = next((word for word in shlex.split(command) if "=" not in word), "")
    else:
        first = str(command[0])
    return PurePath(first).name or "command"


def _ending(code: int | None) -> str:
    if code is not None and code < 0:
        return f"signal {-code}"
    return f"exit code {code}"
