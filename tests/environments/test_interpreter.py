"""DSPy interpreters: a real one, and a small one of our own that writes down what it is asked."""

from __future__ import annotations

import asyncio
import contextvars
import datetime as dt
import inspect
import threading

import pytest
from waiting import reached, within

from dszig_py import RLM, Budget
from dszig_py.contract import compile_contract
from dszig_py.environments.base import CallRefused, CellLimits
from dszig_py.environments.interpreter import InterpreterEnvironment
from dszig_py.errors import EnvironmentFailure, InputError, ReplayMismatch
from dszig_py.signature import Field, Signature
from dszig_py.testing import RecordingHost, ScriptedLM


class FinalOutput:
    def __init__(self, output):
        self.output = output


class CodeInterpreterError(RuntimeError):
    pass


class CodeExecutionError(CodeInterpreterError):
    pass


class Submitted(BaseException):
    pass


class Small:
    """Runs code in this process, by the protocol; ``made`` holds every one, with what was done with it."""

    made: list[Small] = []

    def __init__(self):
        self.tools = {}
        self.output_fields = None
        self.done: list[object] = []
        self.threads = {threading.get_ident()}
        self.space: dict[str, object] = {}
        Small.made.append(self)

    def start(self):
        self.done.append("start")

    def shutdown(self):
        self.done.append("shutdown")

    def execute(self, code, variables=None):
        self.threads.add(threading.get_ident())
        self.done.append((code, variables))
        printed = []

        def submit(**outputs):
            raise Submitted(outputs)

        self.space |= {**self.tools, **(variables or {}), "SUBMIT": submit, "print": lambda *a: printed.append(*a)}
        try:
            exec(compile(code, "<small>", "exec"), self.space)
        except Submitted as end:
            return FinalOutput(end.args[0])
        except SyntaxError:
            raise
        except CodeInterpreterError:
            raise
        except Exception as error:
            raise CodeExecutionError(f"{type(error).__name__}: {error}") from error
        return "\n".join(map(str, printed)) if printed else self.space.get("result")


@pytest.fixture(autouse=True)
def _fresh():
    Small.made = []


def run(*cells, factory=Small, inputs=None, functions=None, outputs=None, chars=10_000):
    """Executions of the cells in one session."""

    async def go():
        fields = tuple(Field(name, object) for name in inputs or {})
        wanted = tuple(Field(name, tp) for name, tp in (outputs or {"answer": object}).items())
        texts = [(name, f"{name}{inspect.signature(f)}", "") for name, f in (functions or {}).items()]
        contract = compile_contract(Signature(fields, wanted), inputs or {}, callables=texts)
        host = RecordingHost(contract, functions)
        session = await InterpreterEnvironment(factory).open(contract, host, CellLimits(output_chars=chars))
        try:
            return [await session.execute(code) for code in cells]
        finally:
            await session.close()

    return asyncio.run(go())


def test_one_execute_a_cell_with_the_inputs_as_variables_and_one_shutdown():
    """All in one thread, which is not the loop's; the namespace is the interpreter's to keep."""
    cells = ("x = context + '!'", "print(x)", "result = 3")
    executions = run(*cells, inputs={"context": "abc"})
    (made,) = Small.made
    assert made.done == ["start", *((code, {"context": "abc"}) for code in cells), "shutdown"]
    assert [(e.stdout, e.value) for e in executions] == [("", None), ("abc!", None), ("", "3")]
    assert len(made.threads) == 1
    assert threading.get_ident() not in made.threads


def test_inputs_are_data_that_json_can_hold():
    """What ends a session of dspy's own interpreters, after a paid call, is data here, or an error before one."""
    day, odd = dt.date(2024, 2, 29), float("nan")
    given = {
        "day": day,
        "names": {"a"},
        "pair": (1, [2.5]),
        "odd": odd,
        "raw": b"\xff",
        "big": 10**30,
        "keys": {1: "a"},
    }
    run("pass", inputs=given)
    wanted = {"day": "2024-02-29", "names": ["a"], "pair": [1, [2.5]], "odd": "nan", "raw": "_w=="}
    assert Small.made[0].done[1][1] == {**wanted, "big": 10**30, "keys": {"1": "a"}}
    with pytest.raises(InputError, match="input 'thing': a DSPy interpreter takes data"):
        run("pass", inputs={"thing": object()})
    assert len(Small.made) == 1


def test_a_value_that_knows_its_way_in_goes_that_way():
    """As dspy.SandboxSerializable does: once, before the first cell."""

    class Table:
        def to_sandbox(self):
            return b"1,2"

        def sandbox_setup(self):
            return "import csv"

        def sandbox_assignment(self, name, raw):
            return f"{name} = {raw}.split(',')"

    executions = run("result = {1: table}", "result = {1: table + [n]}", inputs={"table": Table(), "n": 3})
    assert [e.value for e in executions] == ["{1: ['1', '2']}", "{1: ['1', '2', 3]}"]
    assert Small.made[0].done[1] == ("import csv\ntable = _raw_table.split(',')", {"_raw_table": "1,2"})
    assert Small.made[0].done[2][1] == {"n": 3}


def test_outputs_are_judged_by_the_host_and_a_refusal_is_the_error():
    """The code has ended by then; the model sees what is wrong and can submit again."""
    bad, good = run("SUBMIT(answer='many')", "SUBMIT(answer='7')", outputs={"answer": int})
    assert bad.submission is None
    assert "SUBMIT was refused: answer" in bad.error
    assert (good.submission, good.error) == ({"answer": 7}, "")
    assert Small.made[0].output_fields == [{"name": "answer", "type": "int"}]

    class One(Small):
        def execute(self, code, variables=None):
            return FinalOutput(41)

    assert run("x", factory=One)[0].submission == {"answer": 41}


def test_errors_of_the_code_go_on_and_those_of_the_interpreter_replace_it():
    """What was lost is told; three in a row end the run."""
    executions = run("y = = 1", "1 / 0", "print('on')")
    assert executions[0].error.startswith("SyntaxError: ")
    assert executions[1].error == "ZeroDivisionError: division by zero"
    assert executions[2].stdout == "on"
    assert len(Small.made) == 1

    class Breaks(Small):
        def execute(self, code, variables=None):
            if code == "break":
                raise CodeInterpreterError("the worker exited")
            return super().execute(code, variables)

    Small.made = []
    lost, after = run("break", "print(context)", factory=Breaks, inputs={"context": "here"})
    assert "The interpreter was lost: the worker exited. A new one is up" in lost.lost
    assert (after.stdout, after.lost) == ("here", "")
    assert [made.done[-1] for made in Small.made] == ["shutdown"] * 2
    with pytest.raises(EnvironmentFailure, match="3 interpreters were lost in a row"):
        run("break", "break", "break", factory=Breaks)


def test_tools_hop_to_the_loop_with_the_context_of_the_caller():
    """By keyword and position, from any thread; a refusal is the exception it says."""
    who = contextvars.ContextVar("who", default="nobody")
    loops = set()

    async def ask(a, b=1):
        loops.add(threading.get_ident())
        return [a, b, who.get()]

    def refuse():
        raise CallRefused("not now", "KeyError")

    who.set("ann")
    here = threading.get_ident()
    code = (
        "import threading\nfound = [ask(1), ask(a=2, b=3)]\nt = threading.Thread(target=lambda: found.append(ask(4)))\n"
        "t.start(); t.join()\ntry:\n    refuse()\nexcept KeyError as e:\n    found.append(str(e))\nresult = found"
    )
    (execution,) = run(code, functions={"ask": ask, "refuse": refuse})
    assert execution.error == ""
    assert execution.value == str([[1, 1, "ann"], [2, 3, "ann"], [4, 1, "nobody"], "'not now'"])
    assert loops == {here}


def test_tools_show_their_parameters_as_interpreters_look_at_them():
    """dspy.PythonInterpreter calls by the names it finds there."""

    def fetch(url: str, *, times: int = 2, mode="x") -> str:
        return url

    def odd(*args, **kwargs):
        return args

    run("pass", functions={"fetch": fetch, "odd": odd, "llm_query": odd, "predict": odd})
    tools = Small.made[0].tools
    assert str(inspect.signature(tools["fetch"])) == "(url, *, times=2, mode='x')"
    assert list(inspect.signature(tools["llm_query"]).parameters) == ["prompt", "lm", "images"]
    assert list(inspect.signature(tools["predict"]).parameters) == ["signature", "inputs", "lm", "named"]


def test_an_error_that_ends_the_run_is_not_given_to_the_code():
    """A replay that no longer matches is not something to catch."""

    def replay():
        raise ReplayMismatch("another prompt")

    with pytest.raises(ReplayMismatch):
        run("try:\n    replay()\nexcept Exception:\n    pass", functions={"replay": replay})


def test_a_factory_that_makes_no_interpreter_is_refused_and_one_that_fails_is_told():
    """Before a model is called."""
    with pytest.raises(InputError, match="made a int"):
        run("1", factory=lambda: 3)

    def broken():
        raise OSError("no deno")

    lm = ScriptedLM([])
    with pytest.raises(EnvironmentFailure, match="could not be started: no deno"):
        RLM("t -> answer", lm=lm, environment=InterpreterEnvironment(broken))(t="")


def test_cancelling_shuts_down_from_another_thread():
    """An interpreter at work is ended by its shutdown, and nobody waits for it."""
    end, begun, woken = threading.Event(), [], []

    class Stuck(Small):
        def execute(self, code, variables=None):
            begun.append(code)
            woken.append(end.wait(60))
            raise CodeInterpreterError("it was shut down")

        def shutdown(self):
            super().shutdown()
            end.set()

    kinds = []

    def attempt(seconds):
        end.clear()
        lm, budget = ScriptedLM(["```python\nx\n```"]), Budget(max_seconds=seconds)
        prediction = RLM("t -> answer", lm=lm, environment=InterpreterEnvironment(Stuck), budget=budget)(t="")
        kinds.append(prediction.termination.kind)
        return begun

    reached(attempt, 0.5)
    assert set(kinds) == {"max_seconds"}
    within(lambda: woken)
    assert woken == [True]
    assert Small.made[-1].done.count("shutdown") == 1


def test_isolation_is_that_of_the_interpreter():
    """Named, and claimed for nothing."""

    async def go():
        contract = compile_contract(Signature.parse("t -> answer"), {"t": ""})
        session = await InterpreterEnvironment(Small).open(contract, RecordingHost(contract), CellLimits())
        try:
            return session.isolation
        finally:
            await session.close()

    isolation = asyncio.run(go())
    assert isolation.level == "interpreted"
    assert "Small" in isolation.covered[0] and "not one of ours" in isolation.covered[0]


@pytest.fixture
def local():
    """The factory of dspy.LocalInterpreter."""
    return pytest.importorskip("dspy", reason="dspy is not installed").LocalInterpreter


def test_dspy_local_interpreter_keeps_state_and_tells_errors(local):
    """A whole session in a process of its own."""
    cells = ("x = len(context)\nx", "print('out')\nx += 1", "x", "1 / 0", "y = = 2", "def f(:", "SUBMIT(answer=x)")
    executions = run(*cells, factory=local, inputs={"context": "abc"}, outputs={"answer": int})
    assert [e.value for e in executions[:3]] == ["3", None, "4"]
    assert executions[1].stdout == "out"
    assert "ZeroDivisionError" in executions[3].error
    assert executions[4].error.startswith("SyntaxError")
    assert executions[6].submission == {"answer": 4}
    assert not any(e.lost for e in executions)


def test_dspy_local_interpreter_is_replaced_when_it_dies(local):
    """Its own failures are terminal for it, and not for the run."""
    lost, after = run("import os; os._exit(3)", "context", factory=local, inputs={"context": "here"})
    assert "exited unexpectedly" in lost.lost
    assert after.stdout == "here"


def test_a_whole_run_on_dspy_local_interpreter(local):
    """Sub-queries from threads, a typed call, a tool by position, a refused and an accepted SUBMIT."""

    def fetch(page: int) -> str:
        return f"page {page}"

    cell = (
        "from concurrent.futures import ThreadPoolExecutor\n"
        "with ThreadPoolExecutor(4) as pool:\n    print(list(pool.map(llm_query, ['a', 'b'])))\n"
        "print(llm_query_batched(['c', 'd']), fetch(2), predict('text -> n: int', text='x'))\n"
        "print(rlm_query('and you?'), sorted(SHOW_VARS()), budget()['llm_calls'] is not None)"
    )
    asked = []

    def sub(prompt):
        asked.append(prompt)
        return '{"n": 5}' if "n: int" in str(prompt) or '"n"' in str(prompt) else "yes"

    lm = ScriptedLM(
        [f"```python\n{cell}\n```", "```python\nSUBMIT(answer='x')\n```", "```python\nSUBMIT(answer='9')\n```"]
    )
    environment = InterpreterEnvironment(local)
    budget = Budget(max_depth=0)
    rlm = RLM("context -> answer: int", lm=lm, sub_lm=sub, tools=[fetch], environment=environment, budget=budget)
    prediction = rlm(context="c" * 50_000)
    first, second, _ = prediction.trajectory.iterations
    assert first.execution.error == ""
    assert first.execution.stdout == "['yes', 'yes']\n['yes', 'yes'] page 2 5\nyes ['context'] True"
    assert "SUBMIT was refused" in second.observation
    assert prediction.answer == 9
    assert prediction.trajectory.isolation == "interpreted"
    assert len(asked) == 6


def test_sixty_interpreters_at_once_with_runs_inside_tools(local):
    """Each has a thread of its own: none waits for another's."""

    def inner():
        lm = ScriptedLM(["```python\nSUBMIT(answer='deep')\n```"])
        return RLM("t -> answer", lm=lm, environment=InterpreterEnvironment(Small))(t="").answer

    async def go():
        async def one():
            lm = ScriptedLM(["```python\nSUBMIT(answer=inner())\n```"])
            rlm = RLM("t -> answer", lm=lm, tools=[inner], environment=InterpreterEnvironment(Small))
            return (await rlm.acall(t="")).answer

        return await asyncio.gather(*(one() for _ in range(60)))

    assert asyncio.run(go()) == ["deep"] * 60
