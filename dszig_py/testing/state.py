"""Checks of what a session keeps from cell to cell, and what an execution says."""

from __future__ import annotations

import asyncio

from dszig_py.errors import EnvironmentFailure
from dszig_py.testing.report import Bench, Check, Unmet, check, expect, same

CHECKS: list[Check] = []


@check(CHECKS)
async def state_persists(bench: Bench) -> None:
    async with bench.repl() as repl:
        await repl.good("import math\nn = 41\ndef inc(x):\n    return x + 1\nclass Box:\n    size = n")
        await repl.shows("inc(n), Box().size, math.floor(2.5)", "(42, 41, 2)")
        await repl.good("def twice(x):\n    return inc(inc(x))\nn = twice(n)")
        await repl.shows("n", "43")


@check(CHECKS)
async def state_persists_after_an_exception(bench: Bench) -> None:
    async with bench.repl() as repl:
        await repl.fails("kept = [1]\nkept.append(2)\nraise KeyError('gone')", "KeyError")
        await repl.shows("kept", "[1, 2]")
        await repl.fails("kept = (", "SyntaxError")
        await repl.shows("kept", "[1, 2]")


@check(CHECKS)
async def results_of_threads_persist(bench: Bench) -> None:
    async with bench.repl() as repl:
        await repl.good(
            "import threading\nfrom concurrent.futures import ThreadPoolExecutor\nfound = {}\n"
            "threads = [threading.Thread(target=found.__setitem__, args=(i, i * i)) for i in range(5)]\n"
            "[t.start() for t in threads]\n[t.join() for t in threads]\n"
            "pool = ThreadPoolExecutor(4)\nlater = pool.submit(sum, [1, 2, 3])"
        )
        await repl.shows(
            "sorted(found.items())[-1], later.result(), sum(pool.map(len, ['ab', 'c']))", "((4, 16), 6, 3)"
        )


@check(CHECKS)
async def an_input_stays_rebound(bench: Bench) -> None:
    async with bench.repl({"context": "abc", "list": [1]}) as repl:
        await repl.shows("context + str(list)", "'abc[1]'")
        await repl.good("context = context.upper()")
        await repl.shows("context, list", "('ABC', [1])")


@check(CHECKS)
async def the_last_expression_is_the_value(bench: Bench) -> None:
    async with bench.repl() as repl:
        for code, value in (
            ("0", "0"),
            ("False", "False"),
            ("''", "''"),
            ("[]", "[]"),
            ("x = 1\nx + 1", "2"),
            ("x = 5", None),
            ("if True:\n    6", None),
            ("print('only this')", None),
            ("", None),
            ("# nothing", None),
        ):
            await repl.shows(code, value)
        execution = await repl.good("None")
        expect(execution.value in {None, "None"}, True, "the value of None")


@check(CHECKS)
async def output_is_kept_on_an_exception(bench: Bench) -> None:
    async with bench.repl() as repl:
        execution = await repl.fails("print('before')\n1 / 0\nprint('after')", "ZeroDivisionError")
        expect(execution.stdout, "before\n", "stdout")
        expect(execution.stdout_chars, 7, "characters printed")
        expect(execution.value, None, "value")


@check(CHECKS)
async def an_error_names_the_line_of_its_cell(bench: Bench) -> None:
    async with bench.repl() as repl:
        await repl.good("def outer():\n    return inner()\n\ndef inner():\n    raise LookupError('deep')")
        await repl.fails("x = 1\n\nouter()", "line 3", "line 5", "LookupError: deep")
        await repl.fails("x = 1\ny = = 2", "line 2", "SyntaxError")
        await repl.fails(
            "a = 1\ntry:\n    1 / 0\nexcept Exception as e:\n    raise RuntimeError('x') from e", "line 3", "line 5"
        )


@check(CHECKS)
async def functions_and_builtins_are_put_back(bench: Bench) -> None:
    async with bench.repl(functions={"echo": same}) as repl:
        await repl.good("echo = None\nlist = [1, 2]\nimport builtins\nbuiltins.len = None\nSUBMIT = 3")
        await repl.shows("echo(1), list('ab'), len('abc')", "(1, ['a', 'b'], 3)")
        expect((await repl.good("SUBMIT(answer=1)")).submission, {"answer": 1}, "submission")


@check(CHECKS)
async def a_cell_is_main(bench: Bench) -> None:
    async with bench.repl() as repl:
        await repl.good(
            "ran = False\ndef main():\n    global ran\n    ran = True\nif __name__ == '__main__':\n    main()"
        )
        await repl.shows("ran", "True")


@check(CHECKS)
async def await_works_at_top_level(bench: Bench) -> None:
    async with bench.repl() as repl:
        await repl.good("import asyncio\nasync def double(x):\n    await asyncio.sleep(0)\n    return 2 * x")
        await repl.shows("y = await double(4)\ny + await double(1)", "10")
        await repl.shows("await asyncio.gather(*(double(i) for i in range(3)))", "[0, 2, 4]")
        await repl.shows("asyncio.run(double(21))", "42")


@check(CHECKS)
async def the_standard_library_is_there(bench: Bench) -> None:
    names = "json re math collections itertools functools statistics string textwrap datetime random dataclasses typing"
    async with bench.repl() as repl:
        await repl.good("\n".join(f"import {name}" for name in names.split()))
        await repl.shows("re.findall(r'\\d+', 'a1b22'), collections.Counter('aab')['a']", "(['1', '22'], 2)")


@check(CHECKS)
async def leaving_the_interpreter_is_refused(bench: Bench) -> None:
    async with bench.repl() as repl:
        await repl.good("x = 1")
        await repl.fails("import sys\nsys.exit(0)", "SystemExit")
        await repl.fails("raise KeyboardInterrupt", "KeyboardInterrupt")
        await repl.shows("x", "1")


@check(CHECKS)
async def variables_are_listed(bench: Bench) -> None:
    async with bench.repl({"context": "abc"}) as repl:
        await repl.good("total = 7\nlong = 'z' * 100_000\n_hidden = 1")
        found = await repl.session.variables()
        expect((found.get("total"), found.get("context")), ("7", "'abc'"), "variables")
        expect(len(found.get("long", "")) in range(1, 1_000), True, "a long variable is shown short")
        expect("_hidden" in found or "SUBMIT" in found, False, "hidden names are listed")


@check(CHECKS)
async def two_sessions_do_not_see_each_other(bench: Bench) -> None:
    async with bench.repl({"who": "one"}) as one, bench.repl({"who": "two"}) as two:
        await asyncio.gather(one.good("mine = who\nimport json\njson.mark = 1"), two.good("mine = who"))
        await one.shows("mine", "'one'")
        await two.shows("mine", "'two'")
        await two.fails("x = 1\nother", "NameError")


@check(CHECKS, python=False)
async def closing_twice_is_fine(bench: Bench) -> None:
    async with bench.repl() as repl:
        await repl.run("1")
        await repl.session.close()
        await repl.session.close()
        expect(await repl.session.variables(), {}, "variables of a closed session")


@check(CHECKS, python=False)
async def a_closed_session_runs_nothing(bench: Bench) -> None:
    async with bench.repl(functions={"echo": same}) as repl:
        await repl.session.close()
        try:
            await repl.run("echo(1)")
        except EnvironmentFailure:
            expect(repl.host.calls, [], "calls after the close")
            return
        raise Unmet("executing in a closed session should raise EnvironmentFailure")
