"""Checks of what crosses from the code to the host: SUBMIT and the callables, from any thread."""

from __future__ import annotations

import asyncio
from typing import Any

from dszig_py.environments.base import CallRefused
from dszig_py.testing.report import Bench, Check, check, expect, same

CHECKS: list[Check] = []
_AT_ONCE = 50


@check(CHECKS)
async def outputs_are_submitted_by_keyword_and_position(bench: Bench) -> None:
    wanted = {"answer": str, "count": int}
    async with bench.repl(outputs=wanted) as repl:
        expect((await repl.good("SUBMIT(answer='a', count=1)")).submission, {"answer": "a", "count": 1}, "by keyword")
        expect((await repl.good("SUBMIT('b', 2)")).submission, {"answer": "b", "count": 2}, "by position")
        expect((await repl.good("1 + 1")).submission, None, "a cell without SUBMIT")


@check(CHECKS)
async def a_refused_submit_raises_at_its_line(bench: Bench) -> None:
    async with bench.repl(outputs={"answer": int}) as repl:
        execution = await repl.fails("x = 1\nSUBMIT(answer='many')", "line 2", "ValueError", "answer")
        expect(execution.submission, None, "submission")
        code = (
            "try:\n    SUBMIT(wrong=1)\nexcept ValueError as e:\n    print('told', 'wrong' in str(e))\nSUBMIT(answer=3)"
        )
        execution = await repl.good(code)
        expect((execution.stdout, execution.submission), ("told True\n", {"answer": 3}), "after a refusal")


@check(CHECKS)
async def an_accepted_submit_ends_the_cell(bench: Bench) -> None:
    async with bench.repl() as repl:
        code = "log = []\ntry:\n    SUBMIT(answer=1)\nexcept Exception:\n    log.append('eaten')\nlog.append('went on')"
        execution = await repl.good(code)
        expect((execution.submission, execution.error), ({"answer": 1}, ""), "execution")
        await repl.shows("log", "[]")


@check(CHECKS)
async def the_first_accepted_submit_stands(bench: Bench) -> None:
    async with bench.repl() as repl:
        code = "for i in (1, 2):\n    try:\n        SUBMIT(answer=i)\n    except BaseException:\n        pass"
        expect((await repl.good(code)).submission, {"answer": 1}, "submission")


@check(CHECKS)
async def submit_works_in_a_thread(bench: Bench) -> None:
    async with bench.repl() as repl:
        code = "import threading\nt = threading.Thread(target=lambda: SUBMIT(answer='t'))\nt.start()\nt.join()"
        execution = await repl.good(code)
        expect((execution.submission, execution.stdout), ({"answer": "t"}, ""), "from a thread")
        code = (
            "from concurrent.futures import ThreadPoolExecutor\n"
            "with ThreadPoolExecutor(2) as pool:\n    pool.submit(SUBMIT, answer='p').result()\nprint('went on')"
        )
        execution = await repl.good(code)
        expect((execution.submission, execution.stdout), ({"answer": "p"}, ""), "from a pool")


@check(CHECKS)
async def submit_works_in_a_coroutine(bench: Bench) -> None:
    async with bench.repl() as repl:
        code = "async def end():\n    SUBMIT(answer='c')\nawait end()\nprint('went on')"
        execution = await repl.good(code)
        expect((execution.submission, execution.stdout), ({"answer": "c"}, ""), "from a coroutine")


@check(CHECKS)
async def calls_arrive_in_order(bench: Bench) -> None:
    def echo(*args: Any, **kwargs: Any) -> Any:
        return [list(args), kwargs]

    async with bench.repl(functions={"echo": echo}) as repl:
        await repl.shows("[echo(i, key=i)[0][0] for i in range(20)]", str(list(range(20))))
        expect(repl.host.calls, [("echo", [i], {"key": i}) for i in range(20)], "calls")


@check(CHECKS)
async def fifty_calls_run_at_once(bench: Bench) -> None:
    together = asyncio.Event()
    waiting = 0

    async def meet(i: int) -> str:
        nonlocal waiting
        waiting += 1
        if waiting == _AT_ONCE:
            together.set()
        await asyncio.wait_for(together.wait(), 30)  # nobody leaves before all are here
        return f"answer {i}"

    async with bench.repl(functions={"meet": meet}) as repl:
        await repl.good(
            "from concurrent.futures import ThreadPoolExecutor\n"
            f"with ThreadPoolExecutor({_AT_ONCE}) as pool:\n    got = list(pool.map(meet, range({_AT_ONCE})))"
        )
        await repl.shows(f"got == [f'answer {{i}}' for i in range({_AT_ONCE})]", "True")
        expect(repl.host.peak, _AT_ONCE, "calls in flight together")


@check(CHECKS)
async def calls_run_at_once_from_coroutines(bench: Bench) -> None:
    together = asyncio.Event()

    async def meet(i: int) -> int:
        if i == 1:
            together.set()
        await asyncio.wait_for(together.wait(), 30)
        return i * i

    async with bench.repl(functions={"meet": meet}) as repl:
        code = "import asyncio\nawait asyncio.gather(*(asyncio.to_thread(meet, i) for i in range(20)))"
        await repl.shows(code, str([i * i for i in range(20)]))


@check(CHECKS)
async def many_calls_get_their_own_answers(bench: Bench) -> None:
    async def echo(x: Any) -> Any:
        await asyncio.sleep(0)
        return x

    async with bench.repl(functions={"echo": echo}) as repl:
        await repl.good(
            "import threading\nwrong = []\ndef ask(k):\n    for i in range(50):\n        if echo([k, i]) != [k, i]:\n"
            "            wrong.append((k, i))\nthreads = [threading.Thread(target=ask, args=(k,)) for k in range(8)]\n"
            "[t.start() for t in threads]\n[t.join() for t in threads]"
        )
        await repl.shows("wrong", "[]")
        expect(len(repl.host.calls), 400, "calls")


@check(CHECKS)
async def a_call_that_is_out_does_not_hold_up_the_next_cell(bench: Bench) -> None:
    release = asyncio.Event()

    async def wait() -> str:
        await asyncio.wait_for(release.wait(), 30)
        return "answered"

    async with bench.repl(functions={"wait": wait, "echo": same}) as repl:
        await repl.good(
            "import threading\ngot = []\nt = threading.Thread(target=lambda: got.append(wait()))\nt.start()"
        )
        async with asyncio.timeout(20):
            await repl.shows("echo(1), got", "(1, [])")
        release.set()
        await repl.shows("t.join()\ngot", "['answered']")


@check(CHECKS)
async def a_refusal_is_the_right_exception(bench: Bench) -> None:
    def refuse(kind: str) -> None:
        raise CallRefused(f"no {kind}", kind)

    kinds = ("RuntimeError", "ValueError", "TypeError", "KeyError", "TimeoutError")
    async with bench.repl(functions={"refuse": refuse}) as repl:
        for kind in kinds:
            await repl.shows(
                f"try:\n    refuse('{kind}')\nexcept {kind} as e:\n    got = e.args\ngot", f"('no {kind}',)"
            )
        await repl.fails("x = 1\nrefuse('TimeoutError')", "line 2", "TimeoutError: no TimeoutError")
        await repl.fails("nobody_offers_this(1)", "NameError")
