"""dspy sees the loop as it sees any program of predictors: trace, history, usage, callbacks, models."""

from __future__ import annotations

import asyncio
import threading
import uuid

import dspy
import dspy_scripted as scripted
import pytest
from dspy.utils.callback import BaseCallback
from dspy_scripted import is_action, step, steps

from dspy_compat import RLM
from dszig_py import Skill

TWO = steps("a = llm_query('what?')\nprint(a)", "SUBMIT(answer=a)")


def run(rlm, asynchronous, **inputs):
    return asyncio.run(rlm.acall(**inputs)) if asynchronous else rlm(**inputs)


BOTH = pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])


@BOTH
def test_the_trace_holds_the_steps_that_teach(asynchronous):
    """The first and the last decision, of the predictors an optimizer knows, with one line for the contract."""
    with dspy.context(lm=scripted.lm(steps("print(1)", "print(2)", "SUBMIT(answer='x')")), trace=[]):
        rlm = RLM("text -> answer")
        run(rlm, asynchronous, text="long " * 1_000)
        trace = dspy.settings.trace
    assert [predictor for predictor, _, _ in trace] == [rlm.generate_action] * 2
    assert [sorted(inputs) for _, inputs, _ in trace] == [["iteration", "repl_history", "variables_info"]] * 2
    assert [prediction.code for _, _, prediction in trace] == [
        "```python\nprint(1)\n```",
        "```python\nSUBMIT(answer='x')\n```",
    ]
    assert all(len(inputs["variables_info"]) <= 200 for _, inputs, _ in trace)
    assert "variables text;" in trace[0][1]["variables_info"]


def test_all_steps_are_traced_on_request():
    """For fine-tuning, trace_steps="all": dspy makes rows of them that hold the very prompts the model was sent."""
    lm = scripted.lm(steps("print('long ' * 2_000)", "print(2)", "SUBMIT(answer='x')"))
    with dspy.context(lm=lm, trace=[]):
        rlm = RLM("text -> answer", trace_steps="all", skills=[Skill("looking", "Look once.")])
        rlm(text="x")
        rows = [
            dspy.ChatAdapter().format_finetune_data(rlm.generate_action.signature, [], inputs, prediction)["messages"]
            for predictor, inputs, prediction in dspy.settings.trace
            if predictor is rlm.generate_action
        ]
    assert ["\n\n".join(message["content"] for message in row[:-1]) for row in rows] == lm.engine_.prompts


@BOTH
def test_history_usage_and_callbacks_see_every_call(asynchronous):
    """Root and sub-calls: in the module's history, in the usage tracker and in callbacks, once each."""
    seen = []

    class Counts(BaseCallback):
        def on_lm_start(self, call_id, instance, inputs):
            seen.append("lm")

        def on_module_start(self, call_id, instance, inputs):
            seen.append(type(instance).__name__)

    lm = scripted.lm(TWO)
    rlm = RLM("text -> answer")
    with dspy.context(lm=lm, callbacks=[Counts()]):
        with dspy.track_usage() as tracker:
            pred = run(rlm, asynchronous, text="x")
    assert len(lm.engine_.prompts) == len(lm.history) == len(rlm.history) == 3
    assert len(rlm.generate_action.history) == 2
    assert sorted(seen) == ["RLM", "Step", "Step", "lm", "lm", "lm"]
    told = sum(len(p) // 4 for p in lm.engine_.prompts)
    assert tracker.get_total_tokens()["scripted"]["prompt_tokens"] == told
    assert (pred.run.usage.calls, pred.run.usage.input_tokens) == (3, told)
    with dspy.context(lm=lm, track_usage=True):
        assert run(rlm, asynchronous, text="x").get_lm_usage()["scripted"]["prompt_tokens"] == told


@BOTH
def test_set_lm_and_context_reach_the_root_and_the_sub_calls(asynchronous):
    """A model set on the predictors serves both, over dspy's own; sub_lm takes the sub-calls."""
    default, own, sub = (scripted.lm(TWO, model=name) for name in ("default", "own", "sub"))
    rlm = RLM("text -> answer")
    with dspy.context(lm=default):
        run(rlm, asynchronous, text="x")
        rlm.set_lm(own)
        assert rlm.get_lm() is own
        run(rlm, asynchronous, text="x")
        rlm.sub_lm = sub
        run(rlm, asynchronous, text="x")
    assert [len(lm.engine_.prompts) for lm in (default, own, sub)] == [3, 5, 1]
    alone = RLM("text -> answer")
    alone.set_lm(own)
    assert run(alone, asynchronous, text="x").answer == "sub"


@pytest.fixture
def memory_cache():
    before = dspy.cache
    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=True)
    yield
    dspy.cache = before


def test_a_new_rollout_samples_the_sub_calls_again(memory_cache):
    """Optimizers resample by rollout_id; it reaches an explicit sub_lm too. A cached call costs nothing."""
    asked = f"{uuid.uuid4()}"
    script = steps(f"a = llm_query('{asked}')", "SUBMIT(answer=a)")
    root, sub = scripted.lm(script, model="root", cache=True), scripted.lm(script, model="sub", cache=True)
    counts = []
    for lm in (root, root, root.copy(rollout_id=7, temperature=1.0), root.copy(rollout_id=8, temperature=1.0)):
        with dspy.context(lm=lm):
            pred = RLM("text -> answer", sub_lm=sub)(text=asked)
        counts.append((len(root.engine_.prompts), len(sub.engine_.prompts), pred.run.usage.calls))
    assert counts == [(2, 1, 3), (2, 1, 0), (4, 2, 3), (6, 3, 3)]


@pytest.mark.parametrize("kind", ["text", "list", "response", "dict"])
def test_sub_lm_may_be_what_dspys_own_takes(kind):
    """A callable that gives text, or a list of texts or of dicts, or a response."""

    def call(prompt):
        return {"list": ["told"], "dict": [{"text": "told"}], "text": "told"}[kind]

    sub = scripted.lm(steps("x", sub="told")) if kind == "response" else call
    with dspy.context(lm=scripted.lm(TWO)):
        assert RLM("text -> answer", sub_lm=sub)(text="x").answer == "told"


def test_a_model_set_on_what_stands_for_the_predictor_serves_sub_calls_too():
    """A module of its own predictors may decide; set_lm reaches it, and the sub-calls follow."""
    rlm = RLM("text -> answer")
    rlm.generate_action = dspy.ChainOfThought("variables_info, repl_history, iteration -> code")
    rlm.set_lm(scripted.lm(TWO))
    assert rlm(text="x").answer == "sub"


def test_a_model_without_an_async_engine_serves_sync_calls():
    """Sub-calls go through whatever face the caller's own call needs."""
    engine = scripted.Engine(TWO)
    with dspy.context(lm=dspy.LM("scripted", engine=engine, cache=False)):
        assert RLM("text -> answer")(text="x").answer == "sub"


def test_children_decide_by_the_same_predictors():
    """rlm_query: tuned instructions reach the child, its steps are traced, and it runs on sub_lm."""

    def script(prompt, last):
        if is_action(prompt):
            child = "question" in last.partition("Variables in the REPL:")[2].partition("\n\n")[0]
            return step(
                "SUBMIT(n=len(question))"
                if child
                else "r = rlm_query('question -> n: int', question='abcd')\nSUBMIT(answer=str(r))"
            )
        return "?"

    root, sub = scripted.lm(script, model="root"), scripted.lm(script, model="sub")
    with dspy.context(lm=root, trace=[]):
        rlm = RLM("text -> answer", sub_lm=sub)
        rlm.generate_action.signature = rlm.generate_action.signature.with_instructions("TUNED")
        pred = rlm(text="x")
        assert {predictor for predictor, _, _ in dspy.settings.trace} == {rlm.generate_action}
    assert pred.answer == "4"
    assert (len(root.engine_.prompts), len(sub.engine_.prompts)) == (1, 1)
    assert "TUNED" in sub.engine_.prompts[0]
    assert "SUBMIT(n: int)" in sub.engine_.prompts[0]


def test_async_calls_run_side_by_side():
    """Twenty cells each wait inside the REPL for the nineteen others, and each for an answer of the loop's own."""
    waiting = steps("meet()\nSUBMIT(answer='x')")

    async def main():
        barrier = asyncio.Barrier(20)

        async def meet() -> str:
            """Wait for all others."""
            await asyncio.wait_for(barrier.wait(), 60)
            return "all are here"

        rlm = RLM("text -> answer", tools=[meet])
        return await asyncio.gather(*(rlm.acall(text=str(n)) for n in range(20)))

    with dspy.context(lm=scripted.lm(waiting)):
        preds = asyncio.run(main())
    assert [(p.answer, len(p.trajectory)) for p in preds] == [("x", 1)] * 20


def test_a_cancelled_call_ends_at_once_and_leaves_the_loop_free():
    """The cancellation propagates, with what there was by then; the next call works."""

    async def main():
        rlm, inside = RLM("text -> answer"), asyncio.Event()

        async def wait() -> str:
            """Wait for ever."""
            inside.set()
            await asyncio.Event().wait()
            return ""

        stuck = RLM("text -> answer", tools=[wait])
        with dspy.context(lm=scripted.lm(steps("wait()"))):
            task = asyncio.create_task(stuck.acall(text="x"))
            await asyncio.wait_for(inside.wait(), 60)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 60)
        with dspy.context(lm=scripted.lm(steps("SUBMIT(answer=text)"))):
            return await rlm.acall(text="next")

    assert asyncio.run(main()).answer == "next"


@BOTH
def test_each_predictor_keeps_its_signature_object(asynchronous):
    """Refine and trace collection know predictors by it: the one in the trace's predictor is the one there was before."""
    rlm = RLM("text -> answer", max_iters=1)
    before = rlm.generate_action.signature, rlm.extract.signature
    with dspy.context(lm=scripted.lm(steps("print(1)")), trace=[]):
        run(rlm, asynchronous, text="x")
        assert [predictor.signature for predictor, _, _ in dspy.settings.trace] == list(before)
    assert (rlm.generate_action.signature, rlm.extract.signature) == before
    assert all(now is then for now, then in zip((rlm.generate_action.signature, rlm.extract.signature), before))


class Hears(BaseCallback):
    """Takes down what it hears of a run."""

    def __init__(self, fail=False):
        self.heard, self.fail = [], fail

    def note(self, name, **told):
        self.heard.append((name, told))
        if self.fail:
            raise RuntimeError("a callback of the user's")

    def on_rlm_iteration_start(self, **told):
        self.note("iteration_start", **told)

    def on_rlm_iteration_end(self, **told):
        self.note("iteration_end", **told)

    def on_rlm_sub_call_start(self, **told):
        self.note("sub_call_start", **told)

    def on_rlm_sub_call_end(self, **told):
        self.note("sub_call_end", **told)


class HearsLater(Hears):
    """The same in coroutines."""

    async def on_rlm_iteration_end(self, **told):
        await asyncio.sleep(0.05)
        self.note("iteration_end", **told)

    async def on_rlm_sub_call_end(self, **told):
        self.note("sub_call_end", **told)


ORDER = ["iteration_start", "sub_call_start", "sub_call_end", "iteration_end", "iteration_start", "iteration_end"]


@BOTH
@pytest.mark.parametrize("fail", [False, True], ids=["works", "fails"])
@pytest.mark.parametrize("where", ["settings", "module"])
def test_callbacks_hear_of_iterations_and_sub_calls(asynchronous, fail, where):
    """One that raises is logged and is no part of the run; the run waits for coroutines."""
    hears, later = Hears(fail), HearsLater(fail)
    told = {"callbacks": [hears, later]}
    rlm = RLM("text -> answer", **(told if where == "module" else {}))
    with dspy.context(lm=scripted.lm(TWO), **(told if where == "settings" else {})):
        assert run(rlm, asynchronous, text="x").answer == "sub"
    assert [name for name, _ in hears.heard] == ORDER
    assert all(told["instance"] is rlm for _, told in hears.heard)
    assert hears.heard[3][1]["iteration"].observation == "sub"
    assert hears.heard[2][1]["sub_call"].reply == "sub"
    assert sorted(name for name, _ in later.heard) == sorted(ORDER)


def test_settings_of_one_thread_are_not_those_of_another():
    """Concurrent runs under different contexts keep their models apart."""
    answers = {}
    rlm = RLM("text -> answer")

    def work(n):
        with dspy.context(lm=scripted.lm(steps("a = llm_query('q')", "SUBMIT(answer=a)", sub=str(n)))):
            answers[n] = rlm(text="x").answer

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {n: str(n) for n in range(8)}
