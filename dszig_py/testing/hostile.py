"""Hostile cells: what they try is data (:data:`SNIPPETS`), what must not happen is judged from the host's side.

Each runs in a session of its own, next to a :class:`Witness`: a canary file, listeners on loopback, a process that could
be killed, a secret in the host's environment. Afterwards the witness is looked at, and the session must run a cell again.
Nothing here leaves the machine, and only processes it started are ended.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from dszig_py.contract import compile_contract
from dszig_py.environments.base import CellLimits, Environment, Execution
from dszig_py.errors import EnvironmentFailure
from dszig_py.signature import Field, Signature
from dszig_py.testing.host import RecordingHost
from dszig_py.testing.report import Result, same
from dszig_py.testing.snippets import PRELUDE, SNIPPETS
from dszig_py.testing.witness import SECRET, SECRET_NAME, Snippet, Witness, a_witness

__all__ = ["SNIPPETS", "Snippet", "Witness", "run", "run_snippet"]

_AFTER = "6 * 7"
_TRIES = 3  # a cell that goes on after a forged end takes the next one along


async def run(environment: Environment, snippets: Sequence[Snippet] = (), *, at_once: int = 6) -> list[Result]:
    """Run ``snippets`` (default: all), ``at_once`` of them at a time, and say what each came to."""
    chosen = snippets or SNIPPETS
    slots = asyncio.Semaphore(at_once)

    async def one(snippet: Snippet) -> Result:
        async with slots:
            return await run_snippet(environment, snippet)

    os.environ[SECRET_NAME] = SECRET
    try:
        return list(await asyncio.gather(*(one(snippet) for snippet in chosen)))
    finally:
        del os.environ[SECRET_NAME]


async def run_snippet(environment: Environment, snippet: Snippet) -> Result:
    """Run one in a session of its own and look at the witness afterwards."""
    started = time.monotonic()
    harm = ""
    try:
        async with asyncio.timeout(60 + 4 * snippet.seconds), a_witness() as witness:
            harm = await _harm(environment, snippet, witness)
    except Exception as error:  # whatever a cell makes the host raise is harm
        harm = f"the host raised {type(error).__name__}: {error!s:.300}"
    return Result(f"hostile {snippet}", ok=not harm, detail=harm, seconds=time.monotonic() - started)


async def _harm(environment: Environment, snippet: Snippet, witness: Witness) -> str:
    fields = tuple(Field(name, Any) for name in witness.inputs)
    contract = compile_contract(Signature(fields, (Field("answer", str),)), witness.inputs)
    witness.host = RecordingHost(contract, {"echo": same, "nap": _nap})
    session = await environment.open(contract, witness.host, CellLimits(2_000, snippet.seconds))
    try:
        if told := await _prepared(session.execute):
            return told
        try:
            execution = await session.execute(snippet.code)
        except EnvironmentFailure:
            execution = None
        harm = witness.harm(execution) or snippet.harm(execution, witness)
        harm = harm or await _lives_on(session.execute)
    finally:
        await session.close()
    if snippet.spoils:
        session = await environment.open(contract, witness.host, CellLimits())
        harm = await _lives_on(session.execute)
        await session.close()
    return harm or witness.harm(None)


async def _prepared(execute: Callable[[str], Awaitable[Execution]]) -> str:
    prepared = Execution()
    for _ in range(_TRIES):  # on a busy machine it may take longer than the little time that some cells are given
        prepared = await execute(PRELUDE)
        if not (prepared.error or prepared.lost):
            return ""
    return f"the prelude failed: {prepared.error or prepared.lost}"


async def _lives_on(execute: Callable[[str], Awaitable[Execution]]) -> str:
    last: Execution | None = None
    for _ in range(_TRIES):
        last = await execute(_AFTER)
        if last.value == "42":
            return ""
    return f"the session does not work any more: {last!r:.300}"


async def _nap(seconds: float) -> float:
    """Wait a little, at most a second."""
    await asyncio.sleep(min(float(seconds), 1.0))
    return seconds
