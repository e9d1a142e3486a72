"""Checks that hold whatever language cells are in: what a session says of itself, and what it makes of nonsense."""

from __future__ import annotations

from dszig_py.environments.base import CellLimits
from dszig_py.testing.report import Bench, Check, check, expect, same

CHECKS: list[Check] = []

# In no language that a REPL is likely to have.
_NONSENSE = ("(((", "%%% §§§", '"open', "x = = )", "\0\ud800", "][" * 5_000, "no such word here " * 2_000)


@check(CHECKS, python=False)
async def it_says_what_holds_around_the_code(bench: Bench) -> None:
    async with bench.repl() as repl:
        expect(bool(repl.session.isolation.level and bench.environment.name), True, "level and name are there")


@check(CHECKS, python=False)
async def nonsense_is_an_error_and_costs_no_variable(bench: Bench) -> None:
    limits = CellLimits(output_chars=1_000, seconds=20)
    async with bench.repl({"context": "abc"}, functions={"echo": same}, limits=limits) as repl:
        for code in _NONSENSE:
            execution = await repl.run(code)
            expect((bool(execution.error), execution.submission), (True, None), f"error of {code!r:.40}")
            expect(len(execution.error) < 20_000, True, f"the error of {code!r:.40} is short")
        expect((await repl.session.variables()).get("context"), "'abc'", "the input")
        expect(repl.host.calls, [], "calls")


@check(CHECKS, python=False)
async def inputs_are_listed_each_in_its_own_session(bench: Bench) -> None:
    async with bench.repl({"who": "one"}) as one, bench.repl({"who": "two", "more": [1]}) as two:
        expect(await one.session.variables(), {"who": "'one'"}, "variables of the first session")
        expect(await two.session.variables(), {"who": "'two'", "more": "[1]"}, "variables of the second session")


@check(CHECKS, python=False)
async def an_empty_cell_is_fine(bench: Bench) -> None:
    async with bench.repl() as repl:
        for code in ("", "\n\n", "# only a comment"):
            execution = await repl.good(code)
            expect((execution.stdout, execution.submission), ("", None), f"execution of {code!r}")
