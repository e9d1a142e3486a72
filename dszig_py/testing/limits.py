"""Checks of what bounds a cell: its output, its seconds, its memory, and what is told when a worker goes."""

from __future__ import annotations

import asyncio

from dszig_py.environments.base import CellLimits
from dszig_py.testing.report import Bench, Check, Unmet, check, expect, same

CHECKS: list[Check] = []


@check(CHECKS)
async def output_is_bounded(bench: Bench) -> None:
    async with bench.repl(limits=CellLimits(output_chars=2_000, seconds=20)) as repl:
        code = "print('first line')\nfor _ in range(100):\n    print('x' * 100_000)\nprint('last line')"
        execution = await repl.good(code)
        expect(execution.stdout_chars, 11 + 100 * 100_001 + 10, "characters printed")
        expect(len(execution.stdout) <= 2_000, True, f"{len(execution.stdout)} characters are kept of at most 2,000")
        expect(execution.stdout.startswith("first line\n"), True, "the head is kept")
        expect(execution.stdout.endswith("last line\n"), True, "the tail is kept")
        expect((await repl.good("print('small')")).stdout, "small\n", "the next output")


@check(CHECKS)
async def a_huge_value_is_shown_short(bench: Bench) -> None:
    async with bench.repl(limits=CellLimits(output_chars=2_000, seconds=20)) as repl:
        for code in ("'x' * 10_000_000", "list(range(1_000_000))", "{i: 'y' * 1000 for i in range(1000)}"):
            execution = await repl.good(code)
            expect(0 < len(execution.value or "") < 4_000, True, f"length of the value of {code}")
        execution = await repl.run("raise ValueError('z' * 10_000_000)")
        expect(0 < len(execution.error) < 50_000, True, "length of the error")


@check(CHECKS)
async def a_cell_is_stopped_and_its_state_kept(bench: Bench) -> None:
    async with bench.repl(limits=CellLimits(seconds=0.5)) as repl:
        execution = await repl.fails("kept = 1\nwhile True:\n    pass", "TimeoutError", "line")
        expect(execution.lost, "", "what was lost")
        await repl.shows("kept", "1")
        await repl.fails("import time\nkept = 2\ntime.sleep(60)", "TimeoutError")
        await repl.shows("kept", "2")


@check(CHECKS)
async def waiting_for_the_host_is_not_counted(bench: Bench) -> None:
    async def slow() -> str:
        await asyncio.sleep(1.2)
        return "done"

    async with bench.repl(functions={"slow": slow}, limits=CellLimits(seconds=0.6)) as repl:
        await repl.shows("slow()", "'done'")


@check(CHECKS, needs="kill")
async def a_cell_that_eats_the_interrupt_is_killed(bench: Bench) -> None:
    async with bench.repl({"context": "still here"}, limits=CellLimits(seconds=0.5)) as repl:
        await repl.good("context = 'changed'\nmine = 1")
        code = "while True:\n    try:\n        while True:\n            pass\n    except BaseException:\n        pass"
        execution = await repl.run(code)
        expect("mine" in execution.lost, True, f"what was lost names the variables: {execution.lost!r}")
        await repl.shows("context", "'still here'")
        await repl.fails("mine", "NameError")


@check(CHECKS, needs="kill")
async def a_lost_worker_is_told_and_replaced(bench: Bench) -> None:
    async with bench.repl({"context": "here"}, functions={"echo": same}) as repl:
        await repl.good("found = [1]")
        execution = await repl.run("import os\nos._exit(7)")
        expect("found" in execution.lost, True, f"what was lost: {execution.lost!r}")
        await repl.shows("context, echo(3)", "('here', 3)")
        await repl.fails("found", "NameError")


@check(CHECKS, needs="kill")
async def a_worker_lost_between_cells_is_told(bench: Bench) -> None:
    async with bench.repl() as repl:
        await repl.good("found = [1]\nimport os, threading\nend = threading.Event()")
        await repl.good("threading.Thread(target=lambda: (end.wait(), os._exit(0))).start()")
        for attempt in ("end.set()", "1", "1", "1"):
            execution = await repl.run(attempt)
            if execution.lost:
                expect("found" in execution.lost, True, f"what was lost: {execution.lost!r}")
                break
        else:
            raise Unmet("the end of the worker is not told")
        await repl.shows("2", "2")


@check(CHECKS, needs="memory")
async def too_much_memory_is_an_exception(bench: Bench) -> None:
    async with bench.repl() as repl:
        await repl.good("kept = 1")
        await repl.fails("hog = bytearray(1 << 40)", "MemoryError")
        await repl.fails("hog = []\nwhile True:\n    hog.append(bytearray(50_000_000))", "MemoryError")
        await repl.good("hog = None")
        await repl.shows("kept", "1")
