"""Runs in a terminal: what is shown, and what a model's text cannot do to it."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable

import pytest
from rich.console import Console

from dszig_py import events
from dszig_py.environments.base import Execution
from dszig_py.events import Event
from dszig_py.render.console import printer, show
from dszig_py.render.live import LiveView
from dszig_py.trajectory import Action, Extraction, Input, Iteration, Prediction, SubCall, Termination, Trajectory
from dszig_py.usage import Remaining, Usage

HOSTILE = "\x1b[31m[bold]loud[/bold]\x1b]0;title\x07 :smile: [/]"
TOLD = "[bold]loud[/bold] :smile: [/]"
CALL = Usage(calls=1, input_tokens=10, output_tokens=2, cost=0.5)


def console(width: int = 60) -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    return Console(file=file, width=width, height=20, force_terminal=True, color_system=None), file


def iteration(index: int, *calls: SubCall, code: str = "print(1)", observation: str = HOSTILE) -> Iteration:
    return Iteration(index, Action(HOSTILE, (code,)), Execution(), observation, calls, CALL, 0.0, 1.0, 0.5)


def run(*iterations: Iteration, depth: int = 0, extraction: Extraction | None = None) -> Trajectory:
    return Trajectory(
        id=f"run{depth}",
        signature="context, question -> answer",
        model="a/model",
        sub_model="a/small",
        environment="process",
        isolation="full",
        depth=depth,
        inputs=(Input("context", "str", "1,000 characters", "..."),),
        iterations=iterations,
        extraction=extraction,
        termination=Termination("max_iters", "budget", HOSTILE),
        outputs={"answer": HOSTILE},
        usage=CALL.at("a/model", 0) + CALL.at("a/small", 1),
        begun=1.0,
    )


def shown(trajectory: Trajectory, width: int = 100) -> str:
    screen, file = console(width)
    show(trajectory, screen)
    return file.getvalue()


def test_a_saved_run_is_shown_in_full() -> None:
    child = SubCall("c", "rlm_query", "look closer", 11, trajectory=run(iteration(1, code="child_code()"), depth=1))
    calls = [SubCall(str(i), "llm_query", f"ask {i}", 5, f"reply {i}", usage=CALL) for i in range(30)]
    calls[20] = SubCall("20", "llm_query", "ask 20", 6, error="refused")
    code = "\n".join(f"line_{n} = {n}" for n in range(100))
    text = shown(run(iteration(1, *calls, child, code=code), extraction=Extraction('{"answer": 1}', "no n", CALL)))
    for part in ("a/model, sub-calls on a/small", "process, isolation full", "context: str, 1,000 characters"):
        assert part in text
    assert "line_99 = 99" in text and "child_code()" in text
    assert "failed: refused" in text and "reply 5" in text and "20 more of 30, 1 failed" in text
    assert "extraction" in text and '{"answer": 1}' in text and "no n" in text
    assert "a/small: 1 call, 12 tokens, $0.5000" in text and "depth 1: 1 call" in text


def test_what_a_model_wrote_is_neither_markup_nor_escapes() -> None:
    text = shown(run(iteration(1, SubCall("1", "llm_query", HOSTILE, 9, HOSTILE), code=f"# {HOSTILE}")))
    assert "\x1b" not in text and "\x07" not in text
    assert text.count(TOLD) == 7  # reasoning, code, observation, prompt, reply, output, termination


@pytest.mark.parametrize("width", [20, 60])
def test_nothing_is_wider_than_the_terminal(width: int) -> None:
    text = shown(run(iteration(1, code=f"x = '{'A' * 500}'", observation="B" * 500)), width)
    assert (text.count("A"), text.count("B")) == (500, 500)
    assert max(map(len, text.splitlines())) <= width


def parallel_events() -> list[Event]:
    started: list[Event] = [events.SubCallStarted("run0", 0, str(i), "llm_query") for i in range(50)]
    calls = [SubCall(str(i), "llm_query", "p", 1, "r", usage=CALL) for i in range(49)]
    calls.append(SubCall("49", "llm_query", "p", 1, error="refused"))
    finished: list[Event] = [events.SubCallFinished("run0", 0, call) for call in calls]
    child: list[Event] = [
        events.RunStarted("run1", 1, "-> a", "a/small"),
        events.IterationFinished("run1", 1, iteration(1)),
        events.RunFinished("run1", 1, Prediction({}, run(depth=1, extraction=Extraction("", "", CALL)))),
    ]
    return [*started, *child, *finished]


def test_the_live_view_follows_parallel_sub_calls() -> None:
    screen, file = console()
    with LiveView(screen) as view:
        view(events.RunStarted("run0", 0, "context -> answer", HOSTILE))
        view(events.IterationStarted("run0", 0, 1))
        view(events.ActionChosen("run0", 0, 1, Action(HOSTILE, ("\n".join(["x = 1"] * 200),))))
        told = parallel_events()
        threads = [threading.Thread(target=list, args=(map(view, told[i::5]),)) for i in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        screen.print(view)
        view(events.IterationFinished("run0", 0, iteration(1, observation="\n".join(map(str, range(500))))))
        view(events.RunFinished("run0", 0, Prediction({}, run())))
    text = file.getvalue()
    assert "running: 0 sub-calls in flight, 50 finished, 1 failed" in text
    assert "51 calls, 612 tokens" in text  # 49 answered, the child's decision and its extraction
    assert TOLD in text and "\x1b[31m" not in text and "\x1b]" not in text
    assert "# ... 189 more lines" in text and "... 493 more lines" in text and "499" in text
    assert "2 calls, 24 tokens" in text  # the end's own account is the one that counts


def shown_live() -> tuple[LiveView, Callable[[], str]]:
    """A live view, and what it shows at the moment."""
    screen, file = console()
    view = LiveView(screen)

    def now() -> str:
        file.seek(0)
        file.truncate()
        screen.print(view)
        return file.getvalue()

    return view, now


def test_the_live_view_shows_the_end_of_a_reply_that_is_being_written() -> None:
    """Cleaned and bounded; a reply that broke off makes room for the one written anew; the action takes its place."""
    view, now = shown_live()
    view(events.IterationStarted("r", 0, 1))
    view(events.TokensArrived("r", 0, 1, "first line\n" + HOSTILE))
    assert TOLD in now() and "\x07" not in now() and "the model is writing" in now()
    for number in range(1_000):
        view(events.TokensArrived("r", 0, 1, f"line {number}\n"))
    assert "line 999" in now() and "first line" not in now() and now().count("\n") < 10
    assert "about 2,2" in now()  # tokens: 8,890 characters and what went before, by four
    view(events.TokensArrived("r", 0, 1, "anew", attempt=2))
    assert "anew" in now() and "line 999" not in now() and "about 1 token" in now()
    view(events.ActionChosen("r", 0, 1, Action("because", ("print(1)",))))
    assert "anew" not in now() and "print(1)" in now()


def test_the_live_view_has_a_tree_of_children_and_what_the_budget_leaves() -> None:
    """Each child below the run that asked for it, with what it is at; calls left are the tree's, iterations the root's."""
    view, now = shown_live()
    view(events.IterationStarted("r", 0, 1))
    view(events.ActionChosen("r", 0, 1, Action("", ("rlm_query_batched(...)",))))
    view(events.SubCallStarted("r", 0, "r.1", "rlm_query"))
    view(events.RunStarted("c", 1, HOSTILE, "a/small", parent="r.1"))
    view(events.IterationStarted("c", 1, 1))
    assert "── iteration 1, the model is deciding: [bold]loud" in now() and "left" not in now()
    view(events.ActionChosen("c", 1, 1, Action("", ("x",))))
    view(events.SubCallStarted("c", 1, "c.1", "rlm_query"))
    view(events.RunStarted("g", 2, "a -> b", "a/small", parent="c.1"))
    view(
        events.BudgetChanged(
            "r", 0, CALL, Remaining(iters=19, llm_calls=9, tokens=None, cost=1.5, seconds=None, depth=1)
        )
    )
    view(
        events.BudgetChanged("g", 2, CALL, Remaining(iters=7, llm_calls=8, tokens=900, cost=1.0, seconds=61.5, depth=0))
    )
    lines = now().splitlines()
    child = next(n for n, line in enumerate(lines) if "iteration 1, the code is running, 1 sub-call in flight" in line)
    assert lines[child + 1].startswith("    └── starting: a -> b")
    assert lines[-1].rstrip() == "left  19 iterations, 8 sub-calls, 900 tokens, $1.0000, 1:01"
    assert HOSTILE[:5] not in now()
    for number in range(50):
        view(events.RunStarted(f"many{number}", 1, "a -> b", "a/small", parent="r.1"))
    assert "and 46 more child runs" in now() and now().count("\n") <= 20
    view(events.RunFinished("g", 2, Prediction({}, run(depth=2))))
    assert not now().splitlines()[child + 1].startswith("    ")
    view(events.IterationFinished("r", 0, iteration(1)))
    assert "──" not in now()


def test_the_printer_writes_plain_lines_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    write = printer()
    told: list[Event] = [
        events.RunStarted("run0", 0, "context -> answer", "a/model"),
        events.ActionChosen("run0", 0, 1, Action(HOSTILE, ("a\nb",))),
        *parallel_events(),
        events.IterationFinished("run0", 0, iteration(1)),
        events.RunFinished("run0", 0, Prediction({}, run())),
    ]
    for event in told:
        write(event)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "run run0: context -> answer on a/model"
    assert lines[1] == f"iteration 1: {TOLD} [2 lines of code]"
    assert "llm_query failed: refused" in lines and any(line.startswith("  run run1") for line in lines)
    assert "\x1b" not in "".join(lines)
