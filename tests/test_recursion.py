"""Sub-calls, child runs and the one budget of a tree, on real workers."""

from __future__ import annotations

import asyncio
import json
import threading

import anyio
import pytest
from pydantic import BaseModel
from waiting import reached

from dszig_py import RLM, Budget, LMError
from dszig_py.lm import ScriptedLM
from dszig_py.lm.base import Reply
from dszig_py.usage import Usage


class Order(BaseModel):
    item: str
    count: int


def cell(code):
    return f"```python\n{code}\n```"


class Together(ScriptedLM):
    """Gives no reply before ``count`` requests of a kind are in flight at once."""

    def __init__(self, replies, kind=lambda request: "", **count):
        super().__init__(replies)
        self._kind, self._barriers = kind, {name: asyncio.Barrier(number) for name, number in count.items()}

    async def complete(self, request):
        async with asyncio.timeout(60):
            await self._barriers[self._kind(request)].wait()
        return await super().complete(request)


def is_decision(request):
    """Whether a request asks for a child's next action rather than for an answer."""
    return "live REPL" in request.messages[0].content


def run(*replies, sub, signature="text: str -> answer: str", **options):
    root = ScriptedLM(list(replies))
    sub_lm = ScriptedLM(sub)
    pred = RLM(signature, lm=root, sub_lm=sub_lm, **options)(text="t")
    return pred, root, sub_lm


def test_predict_gives_typed_values_and_several_outputs_as_a_dict():
    """A single output is its value; several are a dict with attribute access."""
    code = """
a = predict("text -> n: int", text="x")
b = predict("text -> n: int, tags: list[str]", text="x")
SUBMIT(f"{a + 1} {b['n']} {b.tags} {isinstance(b, dict)}")
"""
    pred, _, _ = run(cell(code), sub=lambda r: '{"n": "3", "tags": ["p", "q"]}')
    assert pred.answer == "4 3 ['p', 'q'] True"


def test_classes_made_in_a_cell_come_back_as_instances():
    """pydantic models, dataclasses and enums of the cell may be types; the instance is built where the class lives."""
    code = """
from dataclasses import dataclass
from enum import Enum
from pydantic import BaseModel
class Color(Enum):
    red = "red"
@dataclass
class Point:
    x: int
class Item(BaseModel):
    name: str
    color: Color
    at: Point
items = predict("text -> items: list[Item]", text="x")
point = predict("text -> p: Point", text="x")
SUBMIT(f"{type(items[0]) is Item} {items[0].color is Color.red} {items[0].at.x} {type(point) is Point}")
"""

    def sub(request):
        if '"items"' in request.messages[0].content:
            return json.dumps({"items": [{"name": "a", "color": "red", "at": {"x": 4}}]})
        return json.dumps({"p": {"x": 1}})

    pred, _, sub_lm = run(cell(code), sub=sub)
    assert pred.answer == "True True 4 True"
    schema = sub_lm.requests[0].schema
    assert set(schema["$defs"]) == {"Item", "Color", "Point"}


def test_a_reply_that_does_not_fit_is_asked_again_with_the_error():
    """The validation error goes back to the model, for host types and for classes of the cell alike."""

    def sub(request):
        told = request.messages[0].content
        return '{"n": 5}' if "Mind that" in told else '{"n": "five"}'

    code = """
from pydantic import BaseModel, field_validator
class Even(BaseModel):
    n: int
a = predict("text -> n: int", text="x")
SUBMIT(str(a))
"""
    pred, _, sub_lm = run(cell(code), sub=sub)
    assert pred.answer == "5"
    assert "valid integer" in sub_lm.requests[1].messages[0].content


def test_none_for_a_field_that_is_not_optional_is_an_error_not_a_value():
    """null is refused for str and int, taken for int | None."""
    code = """
print(predict("text -> n: int | None", text="x"))
predict("text -> n: int", text="x")
"""
    pred, _, _ = run(cell(code), cell("SUBMIT('end')"), sub=lambda r: '{"n": null}')
    told = pred.trajectory.iterations[0].observation
    assert told.startswith("None")
    assert "ValueError: predict failed after 3 replies" in told


def test_rlm_query_runs_a_child_with_its_own_repl_and_typed_answer():
    """A prompt gives a str; a signature gives typed outputs; the child's trajectory hangs under its sub-call."""

    def sub(request):
        assert is_decision(request)
        if "  prompt: str, 5 characters" in request.messages[1].content:
            return cell("SUBMIT(answer=prompt.upper())")
        return cell("SUBMIT(n=len(notes), longest=max(notes.split(), key=len))")

    code = """
a = rlm_query("shout")
b = rlm_query("notes: str -> n: int, longest: str", notes="one three")
c = rlm_query("notes: str -> n: int, longest: str", notes="x" * 100_000)
SUBMIT(f"{a} {b['n']} {b.longest} {c.n}")
"""
    pred, _, _ = run(cell(code), sub=sub)
    assert pred.answer == "SHOUT 9 three 100000"
    children = [c.trajectory for c in pred.trajectory.sub_calls()]
    assert [c.depth for c in children] == [1, 1, 1]
    assert pred.usage.by_depth[1].calls == 3


def test_children_of_a_batch_run_at_once_and_keep_their_order():
    """All eight are at their first iteration together, and all eight at their second."""

    def sub(request):
        return cell("x = 1") if len(request.messages) == 2 else cell("SUBMIT(answer=prompt)")

    root = ScriptedLM([cell("r = rlm_query_batched([str(i) for i in range(8)])\nSUBMIT(' '.join(r))")])
    sub_lm = Together(sub, lambda request: f"m{len(request.messages)}", m2=8, m4=8)
    pred = RLM("text -> answer", lm=root, sub_lm=sub_lm)(text="t")
    assert pred.answer == "0 1 2 3 4 5 6 7"


def test_at_the_bottom_of_the_tree_rlm_query_is_one_typed_call():
    """Beyond max_depth there is no child; the same call still answers."""

    def sub(request):
        assert not is_decision(request)
        return '{"n": 7}' if request.schema else "flat"

    code = "SUBMIT(rlm_query('p') + str(rlm_query('notes -> n: int', notes='x')))"
    pred, _, _ = run(cell(code), sub=sub, budget=Budget(max_depth=0))
    assert pred.answer == "flat7"


def test_a_child_that_ends_without_an_answer_raises_in_the_cell():
    """The reason is in the exception, the child's trajectory in the record."""

    def sub(request):
        return cell("print('looking')") if is_decision(request) else "nothing"

    pred, _, _ = run(cell("rlm_query('notes -> n: int', notes='x')"), cell("SUBMIT('end')"), sub=sub, max_iters=2)
    assert "rlm_query ended without an answer: max_iters" in pred.trajectory.iterations[0].observation
    assert len(pred.trajectory.iterations[0].sub_calls[0].trajectory.iterations) == 2


def test_batches_keep_their_good_answers_when_items_fail():
    """predict_batched and rlm_query_batched isolate failures as exception objects."""

    def sub(request):
        if "boom" in request.messages[-1].content:
            raise LMError("provider says no")
        return cell("SUBMIT(answer=prompt)") if is_decision(request) else '{"n": 1}'

    code = """
a = predict_batched("text -> n: int", [{"text": "ok"}, {"text": "boom"}, {"wrong": 1}])
b = rlm_query_batched(["fine", "boom"])
SUBMIT(f"{[isinstance(x, Exception) for x in a + b]} {a[0]} {b[0]} | {a[1]} | {a[2]}")
"""
    pred, _, _ = run(cell(code), sub=sub)
    assert pred.answer.startswith("[False, True, True, False, True] 1 fine")
    assert "provider says no" in pred.answer
    assert "missing: text" in pred.answer


def test_a_model_that_fails_by_its_own_code_fails_its_item_alone():
    """Whatever a sub-model raises: the other items of the batch keep their answers, and the item says what it was."""

    def sub(request):
        if "boom" in request.messages[-1].content:
            raise KeyError("of its own")
        return "fine"

    code = "a = llm_query_batched(['x', 'boom', 'y'])\nSUBMIT(f'{a[0]} {a[2]} {isinstance(a[1], Exception)} {a[1]}')"
    pred, _, _ = run(cell(code), sub=sub)
    assert pred.answer.startswith("fine fine True llm_query_batched failed in the host: KeyError")


def test_an_empty_prompt_is_refused_and_costs_nothing():
    """Nothing is paid for a question that asks nothing; the line that asked it says so."""
    code = """
try:
    llm_query("")
except ValueError as error:
    SUBMIT(str(error))
"""
    pred, _, sub_lm = run(cell(code), sub=lambda r: "paid")
    assert (pred.answer, len(sub_lm.requests)) == ("llm_query: the prompt is empty", 0)


def test_a_childs_answer_that_cannot_be_shown_is_an_answer():
    """An int of more digits than Python turns into text is still the child's output, paid for and passed on."""
    code = "n = rlm_query('q -> n: int', q='a')\nSUBMIT(hex(n)[:6])"
    pred, _, _ = run(cell(code), sub=lambda r: cell("SUBMIT(n=10**5000)"))
    assert (pred.answer, pred.termination.kind) == (hex(10**5000)[:6], "submitted")


def test_sub_calls_work_from_threads_and_asyncio_in_the_cell():
    """Each answer comes back to its caller; twenty threads ask at once, and five of the loop's, of which it has as many."""
    code = """
import asyncio
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(20) as pool:
    a = list(pool.map(llm_query, [f"t{i}" for i in range(20)]))
async def go():
    return await asyncio.gather(*[asyncio.to_thread(llm_query, f"a{i}") for i in range(10)])
b = await go()
SUBMIT(str(a == [f"<t{i}>" for i in range(20)] and b == [f"<a{i}>" for i in range(10)]))
"""
    root = ScriptedLM([cell(code)])
    sub_lm = Together(lambda r: f"<{r.prompt}>", lambda r: r.prompt[0], t=20, a=5)
    pred = RLM("text -> answer", lm=root, sub_lm=sub_lm)(text="t")
    assert pred.answer == "True"


def test_a_model_is_chosen_by_name_and_only_by_name():
    """lm= takes configured names; anything else, and any other option, is refused in the cell."""
    code = """
a = llm_query("x", lm="strong")
for bad in (lambda: llm_query("x", lm="gpt-9"), lambda: llm_query("x", api_base="http://localhost"), lambda: predict("t -> a", t=1, lm="gpt-9")):
    try:
        bad()
    except Exception as error:
        print(type(error).__name__, error)
SUBMIT(a)
"""
    strong = ScriptedLM(["from strong"], model="big")
    pred, root, _ = run(cell(code), sub=lambda r: "weak", lms={"strong": strong})
    assert pred.answer == "from strong"
    told = pred.trajectory.iterations[0].execution.stdout
    assert told.count("there is no model named 'gpt-9'") == 2
    assert "TypeError" in told
    assert "'strong'" in root.requests[0].messages[1].content


def test_models_by_depth():
    """sub_lm as a list: sub-calls of the root go to the first, those of its children to the second."""
    names = []

    def named(name):
        def reply(request):
            names.append(name)
            return cell("SUBMIT(answer=llm_query('deep'))") if is_decision(request) else "leaf"

        return ScriptedLM(reply, model=name)

    root = ScriptedLM([cell("SUBMIT(rlm_query('p'))")])
    pred = RLM("text -> answer", lm=root, sub_lm=[named("first"), named("second")])(text="t")
    assert pred.answer == "leaf"
    assert names == ["first", "second"]


def test_a_tree_of_depth_three_never_passes_its_call_limit():
    """Fan-out 6, depth 3, 40 calls: never more, ended by that limit, and every paid answer is in the trajectory."""

    def sub(request):
        if is_decision(request):
            return cell("r = rlm_query_batched([prompt + str(i) for i in range(6)])\nSUBMIT(answer=str(len(r)))")
        return "leaf"

    code = (
        "r = rlm_query_batched([str(i) for i in range(6)])\nprint(len([x for x in r if not isinstance(x, Exception)]))"
    )
    root = ScriptedLM([cell(code), cell("print('on')"), '{"answer": "partial"}'])
    sub_lm = ScriptedLM(sub)
    pred = RLM("text -> answer", lm=root, sub_lm=sub_lm, max_llm_calls=40, budget=Budget(max_depth=3))(text="t")
    assert len(sub_lm.requests) <= 40
    assert pred.termination.kind == "max_llm_calls"
    leaves = sum(call.reply == "leaf" for call in pred.trajectory.sub_calls())
    decisions = sum(
        len(call.trajectory.iterations) for call in pred.trajectory.sub_calls() if call.trajectory is not None
    )
    assert leaves + decisions == len(sub_lm.requests)
    assert pred.usage.calls == len(sub_lm.requests) + len(root.requests)


def test_an_over_limit_batch_runs_what_the_budget_allows_and_marks_the_rest():
    """Of ten prompts with four calls left, four are answered."""
    code = "r = llm_query_batched([str(i) for i in range(10)])\nSUBMIT(str([isinstance(x, Exception) for x in r]))"
    pred, _, sub_lm = run(cell(code), sub=lambda r: "ok", max_llm_calls=4)
    assert pred.answer == str([False] * 4 + [True] * 6)
    assert len(sub_lm.requests) == 4


def test_token_and_cost_limits_end_the_run_with_a_partial_prediction():
    """A refused sub-call is told to the model; without a SUBMIT the run ends by that limit."""
    expensive = ScriptedLM(lambda r: "x" * 4_000, cost=0.4, model="expensive")
    root = ScriptedLM(
        lambda r: cell("a = llm_query('q')") if "live REPL" in r.messages[0].content else '{"answer": "p"}'
    )
    pred = RLM("text -> answer", lm=root, sub_lm=expensive, budget=Budget(max_cost=1.0))(text="t")
    assert (pred.termination.kind, pred.termination.cause) == ("max_cost", "budget")
    assert pred.answer == "p"
    tokens = RLM("text -> answer", lm=root, sub_lm=expensive, budget=Budget(max_tokens=12_000))(text="t")
    assert tokens.termination.kind == "max_tokens"
    assert tokens.usage.tokens <= 12_000


def test_the_model_sees_its_budget():
    """budget() is exact inside the cell."""
    pred, _, _ = run(
        cell("llm_query('x')\nb = budget()\nSUBMIT(f\"{b['llm_calls']} {b['iterations']} {b['depth']}\")"),
        sub=lambda r: "y",
        max_llm_calls=9,
        max_iters=5,
    )
    assert pred.answer == "8 4 1"


def test_a_deadline_stops_the_whole_subtree(ample_extraction):
    """Children in running cells and requests in flight end with the root's seconds; it still extracts."""
    asked, stopped = [], []

    class Model(ScriptedLM):
        async def complete(self, request):
            if is_decision(request):
                return await super().complete(request)
            asked.append(request)
            try:
                await anyio.sleep_forever()
            finally:
                stopped.append(request)

    running = cell(
        "import threading\nfor n in '12': threading.Thread(target=llm_query, args=[n]).start()\nwhile True: pass"
    )
    preds = []

    def attempt(seconds):
        root = ScriptedLM([cell("rlm_query_batched(['a', 'b', 'c', 'd'])"), '{"answer": "late"}'])
        budget = Budget(max_seconds=ample_extraction(seconds))
        preds.append(RLM("text -> answer", lm=root, sub_lm=Model(lambda r: running), budget=budget)(text="t"))
        return asked

    reached(attempt, 3)
    assert [(pred.termination.kind, pred.answer) for pred in preds][-1] == ("max_seconds", "late")
    assert len(stopped) == len(asked)


def test_one_limiter_holds_for_the_whole_tree():
    """Nested batches never have more requests in flight than max_concurrency, and do not deadlock at one."""
    lock, now, most = threading.Lock(), [0], [0]

    class Counting(ScriptedLM):
        async def complete(self, request):
            with lock:
                now[0] += 1
                most[0] = max(most[0], now[0])
            try:
                return await super().complete(request)
            finally:
                with lock:
                    now[0] -= 1

    def sub(request):
        return cell("SUBMIT(answer=''.join(llm_query_batched(['x'] * 5)))") if is_decision(request) else "y"

    for limit in (1, 3):
        most[0] = 0
        root = ScriptedLM([cell("SUBMIT(''.join(rlm_query_batched(['p'] * 4)))")])
        budget = Budget(max_concurrency=limit)
        pred = RLM("text -> answer", lm=root, sub_lm=Counting(sub, delay=0.005), budget=budget)(text="t")
        assert pred.answer == "y" * 20
        assert most[0] == limit


def test_children_see_the_tools_they_are_given():
    """child_tools restricts what a child may call."""

    def secret() -> str:
        """Not for children."""
        return "s"

    def open_() -> str:
        return "o"

    def sub(request):
        assert "Not for children" not in request.messages[1].content
        return cell("SUBMIT(answer=open_() + str('secret' in globals()))")

    pred, _, _ = run(
        cell("SUBMIT(secret() + rlm_query('p'))"),
        sub=sub,
        tools={"secret": secret, "open_": open_},
        child_tools=["open_"],
    )
    assert pred.answer == "soFalse"


def test_tool_arguments_are_read_by_pydantic():
    """A dict becomes the declared model; what does not fit is a TypeError before the tool runs."""

    seen = []

    def place(order: Order, fast: bool = False) -> int:
        """Place an order."""
        seen.append(order)
        return order.count

    code = "n = place({'item': 'tea', 'count': '3'})\ntry:\n    place({'item': 'tea'})\nexcept TypeError as e:\n    print(e)\nSUBMIT(str(n))"
    pred, _, _ = run(cell(code), sub=lambda r: "", tools=[place])
    assert pred.answer == "3"
    assert seen == [Order(item="tea", count=3)]
    assert "count" in pred.trajectory.iterations[0].execution.stdout


@pytest.mark.parametrize("kind", ["function", "async function", "object", "async object"])
def test_whatever_kind_of_tool_reads_its_arguments(kind):
    """An object with __call__ and an async one are typed as a function is; what does not fit is a TypeError that says where."""

    def tool(n: int) -> int:
        return n + 1

    async def tool_async(n: int) -> int:
        return n + 1

    class Adds:
        def __call__(self, n: int) -> int:
            return n + 1

    class AddsAsync:
        async def __call__(self, n: int) -> int:
            return n + 1

    made = {"function": tool, "async function": tool_async, "object": Adds(), "async object": AddsAsync()}
    code = "try:\n    add('no')\nexcept TypeError as error:\n    print(error)\nSUBMIT(str(add('3')))"
    pred, _, _ = run(cell(code), sub=lambda r: "", tools={"add": made[kind]})
    assert pred.answer == "4"
    assert "do not fit add(n: int) -> int" in pred.trajectory.iterations[0].execution.stdout


def test_sixty_sync_tools_that_each_call_a_sync_rlm_do_not_deadlock():
    """Blocking callables never wait on a shared pool."""

    def ask(n: int) -> str:
        return RLM("text -> answer", lm=ScriptedLM([cell("SUBMIT(text)")]))(text=str(n)).answer

    code = "from concurrent.futures import ThreadPoolExecutor\nwith ThreadPoolExecutor(60) as p:\n    r = list(p.map(ask, range(60)))\nSUBMIT(str(r == [str(i) for i in range(60)]))"
    pred, _, _ = run(cell(code), sub=lambda r: "", tools=[ask])
    assert pred.answer == "True"


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError("its own")])
@pytest.mark.parametrize("kind", ["tool", "async tool", "model", "model of a batch"])
def test_what_would_end_the_program_is_a_failure_of_the_call(kind, error):
    """A tool's or a model's sys.exit() ends neither the event loop, with every other run on it, nor this run."""

    def fail(x: str) -> str:
        raise error

    async def fail_async(x: str) -> str:
        raise error

    called = {
        "tool": "fail('x')",
        "async tool": "fail_async('x')",
        "model": "llm_query('x')",
        "model of a batch": "r = llm_query_batched(['x', 'y'])\nprint(*r)\nassert not isinstance(r[0], Exception)",
    }
    pred, _, _ = run(cell(called[kind]), cell("SUBMIT('on')"), sub=fail, tools=[fail, fail_async])
    assert pred.answer == "on"
    assert type(error).__name__ in pred.trajectory.iterations[0].observation
    assert RLM("text -> answer", lm=ScriptedLM([cell("SUBMIT('next')")]))(text="t").answer == "next"


@pytest.mark.parametrize("finish", ["length", "content_filter", "tool_calls"])
def test_an_empty_reply_that_is_no_answer_is_a_failure(finish):
    """Where the provider says why there is no text, llm_query raises it, and keeps what was paid."""

    class Silent:
        model = "silent"

        async def complete(self, request):
            return Reply("", Usage(1, 10, 90, 0.0), finish=finish)

    rlm = RLM("text -> answer", lm=ScriptedLM([cell("llm_query('x')"), cell("SUBMIT('on')")]), sub_lm=Silent())
    pred = rlm(text="t")
    assert "the reply is empty" in pred.trajectory.iterations[0].execution.error
    assert pred.trajectory.iterations[0].sub_calls[0].usage.output_tokens == 90


def test_childrens_closing_calls_leave_the_root_its_own():
    """Children that all run out of tokens extract from half of what is kept; the root still can."""
    ending = "has ended without"

    def decide(request):
        if ending in request.messages[0].content:
            return '{"answer": "extracted"}'
        return cell("print(rlm_query_batched([f'do {i}' for i in range(8)]))")

    def child(request):
        if ending in request.messages[0].content:
            return '{"answer": "part"}' + " " * 3_000
        return cell("print('x' * 3_000)")

    budget = Budget(max_tokens=60_000, max_llm_calls=1_000)
    pred = RLM("text -> answer", lm=ScriptedLM(decide), sub_lm=ScriptedLM(child), budget=budget)(text="t")
    assert pred.termination.kind == "max_tokens"
    assert pred.answer == "extracted"


@pytest.mark.parametrize(
    "name", ["predict('text -> x: Nope', text=1)", "predict(3, text=1)", "predict('no arrow', text=1)"]
)
def test_a_bad_signature_in_a_cell_is_the_cells_error(name):
    """It raises at its line, costs no call, and the run goes on."""
    pred, _, sub_lm = run(cell(name), cell("SUBMIT('on')"), sub=lambda r: "")
    assert "ValueError" in pred.trajectory.iterations[0].observation
    assert pred.answer == "on"
    assert not sub_lm.requests


def test_calls_that_come_to_nothing_are_not_written_down_for_ever():
    """A cell that asks on after its limit is answered each time, and fills neither memory nor trace."""
    from dszig_py.calls import MAX_REFUSED

    code = f"r = llm_query_batched(['x'] * {MAX_REFUSED + 500})\nSUBMIT(answer=str(r[-1]))"
    pred, *_ = run(cell(code), sub=["ok"], max_llm_calls=1)
    assert "came to nothing" in pred.answer
    assert len(pred.trajectory.iterations[0].sub_calls) == MAX_REFUSED + 1


def test_calls_of_tools_are_kept_up_to_a_bound_and_then_counted(monkeypatch, tmp_path):
    """No budget bounds them: a loop over a tool would fill memory and trace. All are made; one line counts the rest, and what
    is saved as it goes loads back equal.
    """
    from dszig_py import Trajectory, calls

    monkeypatch.setattr(calls, "MAX_TOOLS", 5)
    made = []

    def look(n: int) -> int:
        made.append(n)
        return n

    code = "for n in range(12):\n    look(n)"
    trace = tmp_path / "run.jsonl"
    pred, *_ = run(cell(code), cell(f"{code}\nSUBMIT('done')"), sub=[], tools=[look], trace=trace)
    assert len(made) == 24
    first, second = (iteration.sub_calls for iteration in pred.trajectory.iterations)
    assert [call.kind for call in first] == ["tool"] * 6
    assert first[-1].prompt == "7 more calls of tools, over the 5 that are kept of a run"
    assert [call.prompt for call in second] == ["12 more calls of tools, over the 5 that are kept of a run"]
    assert Trajectory.load(trace).iterations == pred.trajectory.iterations


HEAVY = {
    "a child's set of one hash": "rlm_query('xs: set[int] -> y', xs=[n * (2**61 - 1) for n in range(3000)])",
    "a prediction's": "predict('xs: set[int] -> y', xs=[n * (2**61 - 1) for n in range(3000)])",
    "a union of hundreds": "predict('x: ' + '|'.join(f'Literal[{n}]' for n in range(300)) + ' -> y', x=1)",
}


@pytest.mark.parametrize("code", HEAVY.values(), ids=HEAVY)
def test_a_sub_call_that_would_hold_up_every_run_is_refused(code):
    """Types and values are the cell's: no model is asked, no child started."""
    pred, *_ = run(cell(f"try:\n    {code}\nexcept ValueError as e:\n    SUBMIT(answer=str(e))"), sub=[])
    assert "same hash" in pred.answer or "over 64 types" in pred.answer
    assert pred.usage.calls == 1


def test_a_sub_call_takes_so_many_classes():
    """Each is made into a class of this process's, while nothing else runs."""
    from dszig_py.errors import SignatureError
    from dszig_py.typed import Task

    assert Task.of("a -> b: C1", {f"C{n}": {} for n in range(200)}).signature.outputs[0].name == "b"
    with pytest.raises(SignatureError, match="at most 200"):
        Task.of("a -> b: C1", {f"C{n}": {} for n in range(201)})
