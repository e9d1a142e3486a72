"""One suite for every environment: what a REPL must keep, show, carry across and survive, whatever it is made of."""

from __future__ import annotations

import asyncio
import time
import traceback

from dszig_py import portal
from dszig_py.environments.base import Environment
from dszig_py.language import language_of
from dszig_py.testing import any_language, calls, limits, state, values
from dszig_py.testing.report import Bench, Check, Report, Result, Unmet

__all__ = ["CHECKS", "acheck_environment", "check_environment"]

CHECKS: tuple[Check, ...] = (*any_language.CHECKS, *state.CHECKS, *calls.CHECKS, *values.CHECKS, *limits.CHECKS)
_CHECK_SECONDS = 120.0
# What a kind of environment cannot do by its nature, by the level it declares (``session.isolation.level``).
_TRUSTED = "the code is trusted: it runs inside this process, which cannot be taken from it"
_CANNOT: dict[str, dict[str, str]] = {
    "none": {"kill": _TRUSTED, "memory": _TRUSTED, "boundary": _TRUSTED},
    "container": {"memory": "a container's memory is the kernel's to end, not an exception"},
    "interpreted": {"kill": "there is no process to lose", "memory": "its memory is not counted"},
}


def check_environment(environment: Environment, *, hostile: bool | None = None) -> Report:
    """Run the suite against ``environment``, any thread. ``hostile``: with the hostile snippets; ``None`` = wherever the
    environment claims a boundary. Nothing is raised for what fails: read the report.
    """
    return portal.call(_acheck, environment, hostile)


async def acheck_environment(environment: Environment, *, hostile: bool | None = None) -> Report:
    """:func:`check_environment` on the running event loop."""
    return await _acheck(environment, hostile)


async def _acheck(environment: Environment, hostile: bool | None) -> Report:
    bench = Bench(environment)
    async with bench.repl() as repl:
        level = repl.session.isolation.level
    cannot = _CANNOT.get(level, {})
    label = language_of(environment).label
    other = "" if label == "python" else f"its cells are Python, and the language here is {label}"
    why_not = {check.name: cannot.get(check.needs, "") or (other if check.python else "") for check in CHECKS}
    results = [await _judge(check, bench, why_not[check.name]) for check in CHECKS]
    if hostile is not False:
        results += await _hostile(environment, cannot.get("boundary", "") or other)
    return Report(environment.name, level, tuple(results))


async def _judge(check: Check, bench: Bench, why_not: str) -> Result:
    if why_not:
        return Result(check.name, ok=False, detail=why_not, skipped=True)
    started = time.monotonic()
    try:
        async with asyncio.timeout(_CHECK_SECONDS):
            await check.run(bench)
    except Unmet as unmet:
        detail = str(unmet)
    except Exception as error:  # the environment's own failure is a finding like any other
        detail = "".join(traceback.format_exception(error, limit=-3)).strip()
    else:
        return Result(check.name, ok=True, seconds=time.monotonic() - started)
    return Result(check.name, ok=False, detail=detail, seconds=time.monotonic() - started)


async def _hostile(environment: Environment, why_not: str) -> list[Result]:
    if why_not:
        return [Result("hostile", ok=False, detail=why_not, skipped=True)]
    from dszig_py.testing.hostile import run

    return await run(environment)
