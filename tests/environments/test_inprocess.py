"""Cells in this process: side by side without leaking, stopped where Python can stop them, and trusted."""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import contextvars
import gc
import io
import subprocess
import sys
import threading
import time

import pytest
from waiting import eventually

from dszig_py import RLM
from dszig_py.contract import compile_contract
from dszig_py.environments import _output, inprocess
from dszig_py.environments.base import CellLimits
from dszig_py.environments.inprocess import InProcessEnvironment
from dszig_py.errors import EnvironmentFailure
from dszig_py.signature import Field, Signature
from dszig_py.testing import RecordingHost, ScriptedLM

SUBMIT = "```python\nSUBMIT(answer=x)\n```"


@contextlib.asynccontextmanager
async def a_session(inputs=None, functions=None, seconds=60.0):
    fields = tuple(Field(name, object) for name in inputs or {})
    contract = compile_contract(Signature(fields, (Field("answer", object),)), inputs or {})
    host = RecordingHost(contract, functions)
    session = await InProcessEnvironment().open(contract, host, CellLimits(seconds=seconds))
    try:
        yield session
    finally:
        await session.close()


def run(*cells, **options):
    """The executions of ``cells`` in one session."""

    async def go():
        async with a_session(**options) as session:
            return [await session.execute(code) for code in cells]

    return asyncio.run(go())


def good(*cells, **options):
    done = run(*cells, **options)
    assert [e.error for e in done] == [""] * len(done)
    return done[-1]


def cells_threads():
    return [t for t in threading.enumerate() if t.name.startswith("cells of session")]


def test_it_says_that_it_is_trusted():
    """The level is "none", in the class's first word and in what is not covered."""

    async def go():
        async with a_session() as session:
            return session.isolation

    isolation = asyncio.run(go())
    assert (isolation.level, isolation.covered) == ("none", ())
    assert "trusted" in isolation.not_covered[0]
    assert "cannot be stopped" in isolation.not_covered[1]
    assert inprocess.__doc__.startswith("Trusted") and InProcessEnvironment.__doc__.startswith("Trusted")


def test_output_of_sessions_at_once_is_kept_apart_from_each_other_and_from_the_process(capsys):
    """Prints of the cell, its threads, pools and coroutines are its own; those of anybody else go where they went."""
    code = (
        "import sys, threading, asyncio, logging\nfrom concurrent.futures import ThreadPoolExecutor\n"
        "def say(i):\n    print(who, i)\n    sys.stdout.write(f'{who} w\\n')\n    sys.stderr.write(f'{who} e\\n')\n"
        "for i in range(50):\n    say(i)\n"
        "t = threading.Thread(target=say, args=(i,)); t.start(); t.join()\n"
        "t = threading.Thread(target=print, args=(who, 'bare')); t.start(); t.join()\n"
        "with ThreadPoolExecutor(4) as pool:\n    list(pool.map(say, range(20)))\n"
        "    list(pool.map(print, [who] * 20))\n"
        "async def main():\n    await asyncio.gather(*(asyncio.to_thread(say, i) for i in range(5)))\n"
        "await main()\nasyncio.run(main())"
    )
    done = threading.Event()

    def outside():
        while not done.is_set():
            print("outside")
            time.sleep(0.001)

    async def go():
        async with contextlib.AsyncExitStack() as stack:
            names = [f"s{i}" for i in range(8)]
            sessions = [await stack.enter_async_context(a_session({"who": name})) for name in names]
            print("host")
            return names, await asyncio.gather(*(s.execute(code) for s in sessions))

    thread = threading.Thread(target=outside)
    thread.start()
    try:
        names, executions = asyncio.run(go())
    finally:
        done.set()
        thread.join()
    for name, execution in zip(names, executions, strict=True):
        assert execution.error == ""
        lines = execution.stdout.splitlines()
        assert len(lines) == 3 * (50 + 1 + 20 + 5 + 5) + 1 + 20
        assert {line.split()[0] for line in lines} == {name}
    captured = capsys.readouterr()
    assert set(captured.out.splitlines()) == {"host", "outside"}
    assert captured.err == ""


def test_the_streams_are_what_they_were_when_the_last_session_closes():
    """Also the hook for failed threads; and one that was put there meanwhile stays."""
    before = sys.stdout, sys.stderr, threading.excepthook
    own = builtins.__dict__.copy()

    async def go():
        async with a_session() as one:
            async with a_session() as two:
                assert _output.is_ours(sys.stdout)
                await asyncio.gather(
                    one.execute("x = 1"), two.execute("import builtins\nbuiltins.len = None\nlist = 3")
                )
            assert _output.is_ours(sys.stdout)
            assert (await one.execute("len([1])")).value == "1"
        assert (sys.stdout, sys.stderr, threading.excepthook) == before
        held = io.StringIO()
        with contextlib.redirect_stdout(held):
            async with a_session() as session:
                assert (await session.execute("print('mine')")).stdout == "mine\n"
                print("host")
        assert (held.getvalue(), sys.stdout) == ("host\n", before[0])

    asyncio.run(go())
    assert builtins.__dict__ == own


def test_printing_while_sessions_come_and_go_in_other_threads_is_safe():
    """print() holds no reference to the stream it writes to (CPython to 3.13), so the last stream of ours stays alive."""
    program = """
import threading
from dszig_py.environments import _output

def churn():
    while True:
        own = {}
        _output.enter(own, None)
        _output.leave(own)

for _ in range(2):
    threading.Thread(target=churn, daemon=True).start()
for n in range(50_000):
    print(n)
print("end", flush=True)
import os
os._exit(0)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout.endswith("end\n"), (done.returncode, done.stderr[-500:])


def test_output_redirected_inside_a_cell_is_where_the_cell_wants_it():
    """Capturing what a function prints is plain Python."""
    code = (
        "import io, contextlib\nb = io.StringIO()\nwith contextlib.redirect_stdout(b):\n    print('in')\nb.getvalue()"
    )
    execution = good(code, "import io, contextlib\nb = io.StringIO()\nprint('x', file=b)\nb.getvalue()")
    assert (execution.value, execution.stdout) == ("'x\\n'", "")
    assert good(code).value == "'in\\n'"


def test_the_process_keeps_its_own_main_and_builtins():
    """Cells are ``__main__`` to themselves alone."""
    main = sys.modules["__main__"]
    code = "import __main__, builtins, sys\n__main__.x = 5\n__name__, x, sys.modules['__main__'] is __main__"
    execution = good(code)
    assert execution.value == "('__main__', 5, False)"
    assert sys.modules["__main__"] is main
    assert not hasattr(main, "x")


def test_classes_of_cells_work_with_pydantic_dataclasses_and_typed_calls():
    """Annotations that are text too; a typed call gives instances of the cell's own class."""

    def predict(signature, inputs, classes=None, **_):
        assert set(classes) == {"Item"}
        return {"outputs": {"items": [{"name": "a", "price": "2"}]}, "types": {"items": "list[Item]"}}

    execution = good(
        "from __future__ import annotations\nfrom pydantic import BaseModel\nfrom dataclasses import dataclass\n"
        "class Item(BaseModel):\n    name: str\n    price: float\n"
        "class Cart(BaseModel):\n    items: list[Item]\n    above: Cart | None = None\n"
        "@dataclass\nclass Point:\n    x: int = 1\n",
        "found = predict('text -> items: list[Item]', text='...')\n"
        "Cart(items=found).items[0].price, type(found[0]) is Item, Point(), Item.__module__",
        functions={"predict": predict},
    )
    assert execution.value == "(2.0, True, Point(x=1), '__main__')"


def test_an_input_without_a_form_as_data_is_the_object_itself():
    """Trusted code may have it; everything else crosses by value, as to a worker."""
    lock, given = threading.Lock(), [1, 2]
    execution = good("given.append(3)\nlock.acquire(), given", inputs={"lock": lock, "given": given})
    assert execution.value == "(True, [1, 2, 3])"
    assert lock.locked()
    assert given == [1, 2]


def test_context_variables_of_the_caller_are_seen_in_cells_and_in_calls():
    """Each cell sees those of the caller that runs it, top-level await and calls included."""
    who = contextvars.ContextVar("who", default="nobody")

    async def go():
        async with a_session({"who": who}, {"host_sees": lambda: who.get()}) as session:
            seen = []
            for name in ("ann", "bob"):
                who.set(name)
                code = "async def f():\n    return who.get()\nwho.get(), await f(), host_sees()"
                seen.append((await session.execute(code)).value)
            return seen

    assert asyncio.run(go()) == [str((name,) * 3) for name in ("ann", "bob")]


def test_calls_from_asyncio_run_in_a_cell():
    """An event loop of the cell's own is not the run's: calls from it and from its threads are answered."""
    code = (
        "import asyncio\nasync def main():\n    return [echo(1), *await asyncio.gather(*(asyncio.to_thread(echo, i) "
        "for i in (2, 3)))]\nasyncio.run(main())"
    )
    assert good(code, functions={"echo": lambda x: x}).value == "[1, 2, 3]"


def nested(depth: int) -> RLM:
    """A run whose cell makes a synchronous run, and so on ``depth`` levels down."""

    def deeper() -> str:
        return "bottom" if depth == 0 else nested(depth - 1)(t="").answer

    cell = "```python\nx = deeper()\n```"
    return RLM("t -> answer", lm=ScriptedLM([cell, SUBMIT]), tools=[deeper], environment=InProcessEnvironment())


@pytest.mark.parametrize("cell", ["x = 1", "try:\n    while True: pass\nexcept BaseException: pass\nx = 1"])
def test_a_program_can_be_profiled_and_debugged_after_its_cells(cell):
    """Also where one was stopped: what takes back a stop leaves no mark on the process, which on 3.11 ended in a hang."""
    program = f"""
import asyncio, cProfile, sys
from dszig_py.contract import compile_contract
from dszig_py.environments.base import CellLimits
from dszig_py.environments.inprocess import InProcessEnvironment
from dszig_py.signature import Signature
from dszig_py.testing import RecordingHost

async def go():
    contract = compile_contract(Signature.parse("-> answer"), {{}})
    session = await InProcessEnvironment().open(contract, RecordingHost(contract), CellLimits(seconds=1))
    await session.execute({cell!r})
    print((await session.execute("6 * 7")).value)
    await session.close()

asyncio.run(go())
profile = cProfile.Profile()
profile.runcall(lambda: [sum(range(n)) for n in range(10)])
sys.settrace(lambda *_: None)
(lambda: None)()
sys.settrace(None)
print("seen")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["42", "seen"], done.stderr


def test_synchronous_runs_inside_cells_do_not_wait_for_themselves():
    """Twelve at once, six levels deep: no pool of threads is shared that they could use up."""
    found = []
    threads = [threading.Thread(target=lambda: found.append(nested(6)(t="").answer)) for _ in range(12)]
    [t.start() for t in threads]
    [t.join(60) for t in threads]
    assert found == ["bottom"] * 12


def test_a_run_called_in_the_cell_itself():
    """Not through a tool: the cell has the RLM object."""
    inner = RLM("t -> answer", lm=ScriptedLM(["```python\nSUBMIT(answer='deep')\n```"]), environment="inprocess")
    execution = good("print('before')\ninner(t='').answer", inputs={"inner": inner})
    assert (execution.value, execution.stdout) == ("'deep'", "before\n")


def test_a_cell_is_stopped_at_its_deadline_wherever_it_is(monkeypatch):
    """In a loop, in a coroutine, in its own handler; what it printed and made before is kept."""
    monkeypatch.setattr(inprocess, "_GRACE", 60.0)
    loops = ("while True: pass", "async def f():\n    while True:\n        await asyncio.sleep(0)\nawait f()")
    for loop in loops:
        first, second = run(
            f"import asyncio\nkept = 1\nprint('out')\n{loop}", "await asyncio.sleep(0, kept)", seconds=1
        )
        assert "TimeoutError: the cell ran longer than 1 s and was stopped; variables are kept" in first.error
        assert (first.stdout, second.value) == ("out\n", "1")


def test_a_cell_blocked_in_c_code_is_left_behind_and_its_variables_kept():
    """The next cell runs in another thread; the old one is told nothing more and reaches no host."""
    wake = threading.Event()

    async def go():
        functions = {"echo": lambda x: x}
        async with a_session({"wake": wake}, functions, seconds=1) as session:
            code = (
                "kept = 1\nwake.wait(600)\ntry:\n    echo('late')\nexcept BaseException as e:\n    kept = str(type(e))"
            )
            stuck = await session.execute(code)
            after = await session.execute("print('on')\nkept + echo(1)")
            wake.set()
            await eventually(lambda: len(cells_threads()) == 1)
            return stuck, after, (await session.execute("kept")).value, len(cells_threads()), session._host.calls

    stuck, after, kept, threads, calls = asyncio.run(go())
    assert stuck.error.startswith("Traceback (most recent call last):\n")
    assert "line 2, in <cell>\n    wake.wait(600)" in stuck.error
    assert "TimeoutError: the cell ran longer than 1 s and could not be stopped" in stuck.error
    assert (after.value, after.stdout, stuck.lost) == ("2", "on\n", "")
    assert calls == [("echo", [1], {})]
    assert kept == "1" or "TimeoutError" in kept
    assert threads == 1


def test_three_cells_in_a_row_that_cannot_be_stopped_end_the_run():
    """Each leaves a thread behind: that is not done for ever."""
    wake = threading.Event()

    async def go():
        async with a_session({"wake": wake}, seconds=0.5) as session:
            for _ in range(3):
                assert "could not be stopped" in (await session.execute("wake.wait(600)")).error
            with pytest.raises(EnvironmentFailure, match="3 cells in a row"):
                await session.execute("1")

    try:
        asyncio.run(go())
    finally:
        wake.set()


def test_cancelling_an_execution_stops_the_cell_and_its_calls():
    """Nothing of it goes on, and the session can be closed at once."""
    cancelled = []

    async def wait_for_ever():
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    async def go(code):
        async with a_session(functions={"wait": wait_for_ever, "tell": lambda: None}) as session:
            task = asyncio.ensure_future(session.execute(code))
            await eventually(lambda: session._host.calls)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await eventually(lambda: not cells_threads(), told=lambda: f"still there: {cells_threads()}")

    asyncio.run(go("tell()\nwhile True: pass"))
    asyncio.run(go("wait()"))
    assert cancelled == [True]


def test_a_call_after_the_close_is_refused_and_nothing_is_held():
    """Threads that a cell left running get an error; a closed session and its variables can be collected."""
    told = []

    async def go():
        async with a_session({"told": told, "closed": (closed := threading.Event())}, {"echo": lambda x: x}) as session:
            code = (
                "import threading\nclass Big: pass\nbig = Big()\ndef late():\n    closed.wait(60)\n    try:\n"
                "        echo(1)\n    except RuntimeError as e:\n        done.append(str(e))\n"
                "done = []\nt = threading.Thread(target=late)\nt.start()"
            )
            assert (await session.execute(code)).error == ""
            names = session._repl.namespace
        closed.set()
        await asyncio.to_thread(names["t"].join)
        return names["done"]

    assert asyncio.run(go()) == ["echo: the session is closed"]
    gc.collect()
    assert not [o for o in gc.get_objects() if type(o).__name__ == "Big"]
    assert not cells_threads()


def test_a_failing_thread_is_shown_and_a_submitting_one_is_not():
    """The traceback stands in the output of its own cell."""
    code = "import threading\nt = threading.Thread(target=lambda: 1 / 0)\nt.start()\nt.join()"
    execution = good(code)
    assert "ZeroDivisionError" in execution.stdout and "Exception in thread" in execution.stdout
    code = "import threading\nt = threading.Thread(target=lambda: SUBMIT(answer=1))\nt.start()\nt.join()\nprint('on')"
    execution = good(code)
    assert (execution.submission, execution.stdout) == ({"answer": 1}, "on\n")


def test_nobody_is_asked_for_input_and_the_process_is_not_left():
    """``input`` would wait at the user's terminal, ``exit`` would close it."""
    assert "EOFError" in run("input('?')")[0].error
    assert "NameError" in run("exit()")[0].error
    assert "SystemExit" in run("raise SystemExit")[0].error


def test_errors_show_the_lines_of_their_own_session():
    """Two sessions have a first cell each: a traceback names and shows its own, and none of our frames."""

    async def go():
        async with a_session() as one, a_session(functions={"fail": lambda: 1 / 0}) as two:
            await one.execute("def f():\n    return 1 / 0  # of one")
            await two.execute("x = 1")
            return (await one.execute("f()")).error, (await two.execute("fail()")).error

    first, second = asyncio.run(go())
    assert "return 1 / 0  # of one" in first
    assert "RuntimeError: fail failed in the host: ZeroDivisionError" in second
    assert "environments" not in first + second


def test_runs_by_name_and_side_by_side():
    """``environment="inprocess"``, from threads, the whole way through."""
    lms = [ScriptedLM([f"```python\nprint(t)\nx = '{i}' + t\n```", SUBMIT]) for i in range(10)]
    found = {}

    def go(i):
        prediction = RLM("t -> answer", lm=lms[i], environment="inprocess")(t=f"-{i}")
        found[i] = prediction.answer, prediction.trajectory.iterations[0].execution.stdout

    threads = [threading.Thread(target=go, args=(i,)) for i in range(10)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert found == {i: (f"{i}-{i}", f"-{i}\n") for i in range(10)}
