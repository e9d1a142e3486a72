"""The loop, on real workers; the model is a script."""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from waiting import eventually, reached

from dszig_py import RLM, Budget, InputError, LimitReached, LMError, Strategy, Trajectory
from dszig_py.events import IterationFinished, RunFinished, RunStarted, SubCallFinished
from dszig_py.lm import ScriptedLM


def cell(code):
    return f"```python\n{code}\n```"


def answer(*replies, signature="text: str -> answer: str", sub=lambda r: f"<{r.prompt}>", text="some text", **options):
    root = ScriptedLM(list(replies))
    rlm = RLM(signature, lm=root, sub_lm=ScriptedLM(sub), **options)
    return rlm(text=text), root


def test_a_signature_runs_as_a_function_with_typed_outputs():
    """Inputs are variables, SUBMIT ends the run, outputs are attributes of their declared types."""
    pred, root = answer(
        cell("n = len(text)"), cell("SUBMIT(answer='ok', n=n)"), signature="text -> answer: str, n: int"
    )
    assert (pred.answer, pred.n) == ("ok", 9)
    assert pred.outputs == {"answer": "ok", "n": 9}
    assert pred.termination.kind == "submitted"
    assert pred.termination.cause == "model"
    assert pred.usage.calls == 2
    assert len(root.requests) == 2


def test_a_refused_submit_raises_at_its_line_and_the_run_goes_on():
    """The model sees which field is wrong and at which line, and mends it."""
    pred, _ = answer(cell("x = 1\nSUBMIT(answer=x)"), cell("SUBMIT(answer=str(x))"))
    first = pred.trajectory.iterations[0].observation
    assert "line 2" in first
    assert "answer" in first
    assert "valid string" in first
    assert pred.answer == "1"


def test_what_was_printed_before_an_error_and_all_state_survive():
    """An exception loses neither output nor variables."""
    pred, _ = answer(cell("kept = 7\nprint('before')\n1/0"), cell("SUBMIT(answer=str(kept))"))
    assert "before" in pred.trajectory.iterations[0].observation
    assert "ZeroDivisionError" in pred.trajectory.iterations[0].observation
    assert pred.answer == "7"


def test_several_fences_run_in_order_until_submit():
    """All blocks of a reply are cells of one iteration; what follows an accepted SUBMIT does not run."""
    pred, _ = answer("one\n```python\na = 1\n```\ntwo\n```python\nSUBMIT(str(a + 1))\n```\n```python\n1/0\n```")
    assert pred.answer == "2"
    assert len(pred.trajectory.iterations) == 1


def test_blocks_after_a_failed_one_are_not_run_and_that_is_said():
    """A later block would work on what the failed one did not do."""
    pred, _ = answer("```python\n1/0\n```\n```python\nSUBMIT('stale')\n```", cell("SUBMIT('fresh')"))
    assert "later blocks were not run" in pred.trajectory.iterations[0].observation
    assert pred.answer == "fresh"


@pytest.mark.parametrize(
    "reply", ["", "I think SUBMIT(answer='x') is right.", "```python\nSUBMIT(answer='cut", "<think>hm"]
)
def test_a_reply_without_code_is_told_what_to_do_and_is_never_an_answer(reply):
    """Empty, prose, cut-off and thought-only replies become an observation."""
    pred, _ = answer(reply, cell("SUBMIT('done')"))
    assert pred.answer == "done"
    assert "```python" in pred.trajectory.iterations[0].observation


def test_sub_calls_answer_inside_the_cell_and_are_recorded():
    """llm_query gives a str, llm_query_batched a list in order; each is in the trajectory with its reply."""
    pred, _ = answer(cell("a = llm_query('q')\nb = llm_query_batched(['x', 'y'])\nSUBMIT(a + ''.join(b))"))
    assert pred.answer == "<q><x><y>"
    calls = pred.trajectory.iterations[0].sub_calls
    assert [(c.kind, c.prompt, c.reply) for c in calls] == [("llm_query", p, f"<{p}>") for p in ("q", "x", "y")]
    assert pred.usage.calls == 4


def test_a_failed_item_of_a_batch_is_an_exception_object_and_the_others_keep_their_answers():
    """Order is kept, isinstance(r, Exception) tells."""

    def sub(request):
        if request.prompt == "bad":
            raise LMError("no")
        return "fine"

    code = "r = llm_query_batched(['a', 'bad', 'c'])\nSUBMIT(f'{isinstance(r[1], Exception)} {r[0]} {r[2]} {r[1]}')"
    pred, _ = answer(cell(code), sub=sub)
    assert pred.answer.startswith("True fine fine")
    assert "no" in pred.answer


def test_max_iters_ends_in_a_typed_partial_prediction():
    """Running out is an outcome: extraction fills the outputs, the termination says which limit."""
    pred, root = answer(cell("found = 41"), cell("found += 1"), '{"answer": "42"}', max_iters=2)
    assert pred.answer == "42"
    assert (pred.termination.kind, pred.termination.cause) == ("max_iters", "budget")
    assert "SUBMIT what you have" in root.requests[1].remaining
    assert len(pred.trajectory.iterations) == 2


def test_extraction_that_fails_leaves_none_with_the_reason():
    """A field that cannot be had is None, and the termination's detail says why."""
    pred, _ = answer(cell("1"), "no json here", max_iters=1, signature="text -> n: int")
    assert pred.n is None
    assert "extraction" in pred.termination.detail


def test_the_check_has_the_last_word_on_what_extraction_gives_as_well():
    """What a check refuses is no output, however the run ended; the reason says so."""
    asked = []

    def check(outputs):
        asked.append(outputs)
        return None if "book" in outputs["answer"] else "quote the book"

    pred, _ = answer(cell("1"), '{"answer": "made up"}', max_iters=1, check=check)
    assert pred.answer is None
    assert "quote the book" in pred.termination.detail
    assert asked == [{"answer": "made up"}]
    pred, _ = answer(cell("1"), '{"answer": "the book"}', max_iters=1, check=check)
    assert pred.answer == "the book"


def test_on_limit_raise_carries_the_same_prediction():
    """LimitReached has the limit's name and the partial prediction."""
    with pytest.raises(LimitReached) as caught:
        answer(cell("1"), '{"answer": "x"}', max_iters=1, on_limit="raise")
    assert caught.value.limit == "max_iters"
    assert caught.value.prediction.answer == "x"


def test_over_the_call_limit_one_more_decision_may_submit():
    """A refused sub-call raises RuntimeError in the cell; a SUBMIT in the next decision still counts as submitted."""
    pred, root = answer(cell("a = llm_query('1')\nb = llm_query('2')"), cell("SUBMIT(a)"), max_llm_calls=1)
    assert "RuntimeError: LLM call limit exceeded" in pred.trajectory.iterations[0].observation
    assert "last iteration" in root.requests[1].remaining
    assert pred.termination.kind == "submitted"
    assert pred.answer == "<1>"


def test_over_the_call_limit_without_submit_ends_as_max_llm_calls():
    """After that one decision the run ends by the limit, with an extraction."""
    pred, _ = answer(cell("llm_query('1')"), cell("print('still at it')"), '{"answer": "late"}', max_llm_calls=0)
    assert pred.termination.kind == "max_llm_calls"
    assert pred.answer == "late"


def test_a_provider_failure_at_the_root_raises_with_the_trajectory_attached():
    """Nothing that was done is lost."""
    with pytest.raises(LMError) as caught:
        answer(cell("x = 1"), LMError("the provider is down"))
    partial = caught.value.prediction
    assert len(partial.trajectory.iterations) == 1
    assert (partial.termination.kind, partial.termination.cause) == ("error", "provider")


def test_max_seconds_cuts_a_running_cell_and_still_extracts(ample_extraction):
    """A cell that would run for ever is stopped by the deadline, and the outputs are extracted in what is kept of it."""
    begun, preds = [], []

    def attempt(seconds):
        code, budget = "tell()\nwhile True: pass", Budget(max_seconds=ample_extraction(seconds))
        tools = {"tell": lambda: begun.append(seconds)}
        preds.append(answer(cell(code), '{"answer": "cut"}', budget=budget, tools=tools)[0])
        return begun

    reached(attempt, 2)
    assert (preds[-1].termination.kind, preds[-1].answer) == ("max_seconds", "cut")


def test_max_seconds_cuts_a_hanging_model_call():
    """The request in flight is cancelled."""
    rlm = RLM("text -> answer", lm=ScriptedLM(["x"], delay=600), budget=Budget(max_seconds=1))
    pred = rlm(text="t")
    assert pred.termination.kind == "max_seconds"
    assert pred.answer is None


def test_max_cost_without_a_known_price_is_refused_before_any_call():
    """A limit that could never bite is an InputError that says how to give the price."""
    lm = ScriptedLM([cell("SUBMIT('x')")], cost=None, model="mystery")
    with pytest.raises(InputError, match="prices"):
        RLM("text -> answer", lm=lm, budget=Budget(max_cost=1))(text="t")
    assert not lm.requests
    priced = Budget(max_cost=1, prices={"mystery": (1.0, 1.0)})
    assert RLM("text -> answer", lm=lm, budget=priced)(text="t").usage.cost > 0


@pytest.mark.parametrize(
    ("inputs", "said"), [({}, "missing: text"), ({"text": "a", "more": 1}, "more"), ({"context": "a"}, "missing: text")]
)
def test_wrong_inputs_are_refused_before_any_model_call(inputs, said):
    """The caller's mistakes are the caller's to hear, at once."""
    lm = ScriptedLM([cell("SUBMIT('x')")])
    with pytest.raises(InputError, match=said):
        RLM("text -> answer", lm=lm)(**inputs)
    assert not lm.requests


def test_no_model_configured_lists_the_ways_to_give_one(monkeypatch):
    """Nothing silently stands in for a model."""
    for name in ("DSZIG_MODEL", "DSZIG_MAIN_CMD"):
        monkeypatch.delenv(name, raising=False)
    rlm = RLM("text -> answer")
    with pytest.raises(InputError) as caught:
        rlm(text="t")
    for way in ("lm=", "main_cmd=", "offline", "DSZIG_MODEL"):
        assert way in str(caught.value)


def test_the_same_limit_given_twice_differently_is_an_error():
    """A budget's max_iters and the constructor's are one limit."""
    with pytest.raises(InputError, match="max_iters"):
        RLM("a -> b", max_iters=3, budget=Budget(max_iters=4))
    assert RLM("a -> b", max_iters=3, budget=Budget(max_tokens=9)).budget.max_iters == 3


def test_it_works_inside_a_running_event_loop_and_in_threads():
    """The sync face serves notebooks and thread pools alike."""

    async def notebook():
        return answer(cell("SUBMIT('in a loop')"))[0].answer

    assert asyncio.run(notebook()) == "in a loop"
    found = []
    threads = [
        threading.Thread(target=lambda i=i: found.append(answer(cell(f"SUBMIT('{i}')"))[0].answer)) for i in range(16)
    ]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert sorted(found) == sorted(str(i) for i in range(16))


def test_contextvars_of_the_caller_reach_the_models():
    """The sync face hands the caller's context over to the background loop, sub-calls included."""
    who = contextvars.ContextVar("who", default="nobody")
    who.set("caller")
    pred, _ = answer(cell("SUBMIT(llm_query('?'))"), sub=lambda r: who.get())
    assert pred.answer == "caller"


def test_acall_runs_on_the_callers_loop_and_cancelling_stops_the_worker():
    """Cancellation propagates from a cell that would run for ever, and carries what there is."""

    async def main():
        lm, told = ScriptedLM([cell("x = 1"), cell("import os\ntell(os.getpid())\nwhile True: pass")]), []
        task = asyncio.create_task(RLM("text -> answer", lm=lm, tools={"tell": told.append}).acall(text="t"))
        await eventually(lambda: told)
        task.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await asyncio.wait_for(task, 60)
        await eventually(lambda: not os.path.exists(f"/proc/{told[0]}"))
        return caught.value.prediction

    prediction = asyncio.run(main())
    assert prediction.termination.kind == "cancelled"
    assert len(prediction.trajectory.iterations) == 2


def test_ctrl_c_stops_the_run_and_carries_the_partial_prediction():
    """KeyboardInterrupt propagates from the sync face, with .prediction, and nothing is left running."""
    lm = ScriptedLM([cell("x = 1"), cell("while True: pass")])

    def interrupt(event):
        if isinstance(event, IterationFinished):
            threading.Timer(0.2, lambda: os.kill(os.getpid(), 2)).start()

    with pytest.raises(KeyboardInterrupt) as caught:
        RLM("text -> answer", lm=lm, on_event=interrupt)(text="t")
    assert len(caught.value.prediction.trajectory.iterations) == 1
    assert caught.value.prediction.termination.kind == "cancelled"


def test_stream_gives_events_and_the_last_one_carries_the_prediction():
    """Sync and async streams tell the same story."""

    def make():
        return RLM("text -> answer", lm=ScriptedLM([cell("llm_query('q')"), cell("SUBMIT('s')")]), sub_lm=lambda p: "r")

    events = list(make().stream(text="t"))

    async def gather():
        return [event async for event in make().astream(text="t")]

    for told in (events, asyncio.run(gather())):
        assert isinstance(told[0], RunStarted)
        assert isinstance(told[-1], RunFinished)
        assert told[-1].prediction.answer == "s"
        assert sum(isinstance(e, IterationFinished) for e in told) == 2
        assert sum(isinstance(e, SubCallFinished) for e in told) == 1


def test_leaving_a_stream_stops_the_run():
    """break in the middle ends model calls and worker."""
    lm = ScriptedLM(lambda r: cell("x = 1"))
    with RLM("text -> answer", lm=lm, max_iters=None).stream(text="t") as stream:
        for event in stream:
            if isinstance(event, IterationFinished):
                break
    asked = len(lm.requests)
    time.sleep(0.1)
    assert len(lm.requests) == asked


def test_a_raising_subscriber_is_no_part_of_the_run():
    """on_event may fail; the run does not."""

    def broken(event):
        raise RuntimeError("subscriber")

    assert answer(cell("SUBMIT('x')"), on_event=broken)[0].answer == "x"


def test_tools_run_on_the_host_with_positional_and_keyword_arguments():
    """A tool's failure is an exception in the cell, with the reason; async tools work."""

    def price(item: str, currency: str = "EUR") -> str:
        """The price of an item."""
        if item == "air":
            raise KeyError("not for sale")
        return f"{item}:{currency}"

    async def later(x: int) -> int:
        return x + 1

    code = "a = price('tea'); b = price(item='tea', currency='USD')\ntry:\n    price('air')\nexcept RuntimeError as e:\n    c = str(e)\nSUBMIT(f'{a} {b} {c} {later(1)}')"
    pred, root = answer(cell(code), tools=[price, later])
    assert pred.answer.startswith("tea:EUR tea:USD")
    assert "not for sale" in pred.answer
    assert pred.answer.endswith("2")
    assert (
        "price(item: str, currency: str = 'EUR') -> str: The price of an item." in root.requests[0].messages[1].content
    )


def test_check_sends_the_model_back():
    """The caller's own last word is heard at the line of SUBMIT."""
    pred, _ = answer(
        cell("SUBMIT('short')"),
        cell("SUBMIT('long enough')"),
        check=lambda o: "say more" if len(o["answer"]) < 8 else None,
    )
    assert "say more" in pred.trajectory.iterations[0].observation
    assert pred.answer == "long enough"


class Item(BaseModel):
    name: str
    price: float


def test_pydantic_models_go_in_as_records_and_come_out_as_instances():
    """Attribute and item access inside, instances of the declared class outside; a local class is found by its name."""
    lm = ScriptedLM([cell("SUBMIT(best={'name': item.name + item['name'], 'price': item.price * 2}, seen=repr(item))")])
    pred = RLM("item: Item -> best: Item, seen: str", lm=lm)(item=Item(name="a", price=1.5))
    assert pred.best == Item(name="aa", price=3.0)
    assert pred.seen == "Item(name='a', price=1.5)"


def test_values_json_cannot_hold_are_kept_where_the_type_allows_them():
    """A set and NaN come through; one bad field never destroys the others."""
    pred, _ = answer(
        cell("SUBMIT(tags={1, 2}, score=float('nan'), note=print)"),
        cell("SUBMIT(tags={1, 2}, score=float('nan'), note='ok')"),
        signature="text -> tags: set[int], score: float, note: str",
    )
    told = pred.trajectory.iterations[0].observation
    assert "note" in told
    assert "tags:" not in told.split("Call SUBMIT")[0]
    assert pred.tags == {1, 2}
    assert pred.score != pred.score


@pytest.mark.parametrize(
    "text", ["", "\x00a\x00", "lone \ud800 surrogate", "日本語" * 10, "x" * 10_000_000, "é" * 40_000]
)
def test_odd_and_large_texts_arrive_unchanged(text):
    """Empty, NUL, surrogates, a 10 MB line: the variable is what was given."""
    code = f"SUBMIT(n=len(text), same=(text == {text!r}) if {len(text) < 100} else text[:5] + text[-5:] == {(text[:5] + text[-5:])!r})"
    pred, _ = answer(cell(code), signature="text -> n: int, same: bool", text=text)
    assert pred.n == len(text)
    assert pred.same


def test_two_hundred_megabytes_work():
    """A text of 200 MB is bound, searched and sliced."""
    text = "0123456789" * 20_000_000
    pred, _ = answer(
        cell("SUBMIT(n=len(text), at=text.find('90', 1000))"), signature="text -> n: int, at: int", text=text
    )
    assert (pred.n, pred.at) == (200_000_000, 1009)


def test_an_input_that_cannot_leave_the_process_is_refused_with_a_sentence():
    """A lock has no value form."""
    with pytest.raises(InputError, match="text"):
        answer(cell("SUBMIT('x')"), text=threading.Lock())


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(alphabet="abcdefghij \n", min_size=3_000, max_size=6_000), st.integers(0, 2_900))
def test_no_prompt_holds_more_of_an_input_than_its_preview_and_what_code_printed(filler, at):
    """The invariant the whole thing stands on: the middle of a big input reaches no prompt unless code sends it."""
    secret = "ZQXJKVWZQXJKVW"
    at = max(at, 1_000)
    text = filler[:at] + secret + filler[at:] + "k" * 2_000
    pred, root = answer(cell("n = text.count('a')\nprint(n)"), cell("SUBMIT(str(n))"), text=text)
    assert pred.termination.kind == "submitted"
    assert all(secret not in message.content for request in root.requests for message in request.messages)


def test_show_puts_an_input_whole_into_the_prompt():
    """Strategy(show=...) shows a rubric that a preview would cut."""
    rubric = "rule " * 1_000
    lm = ScriptedLM([cell("SUBMIT('x')")])
    RLM("rubric, text -> answer", lm=lm, strategy=Strategy(show=("rubric",)))(rubric=rubric, text="t")
    assert rubric in lm.requests[0].messages[1].content


def test_a_lost_worker_is_replaced_and_the_model_told_what_is_gone():
    """Inputs are bound again; the names of lost variables are said."""
    pred, _ = answer(cell("mine = 1"), cell("import os; os._exit(1)"), cell("SUBMIT(text + str('mine' in globals()))"))
    told = pred.trajectory.iterations[1].observation
    assert "was lost" in told
    assert "mine" in told
    assert pred.answer == "some textFalse"


def test_pred_variables_describe_the_repl_at_the_end():
    """Name -> short repr, of inputs and of what the code made."""
    pred, _ = answer(cell("found = [1, 2]\nSUBMIT('x')"))
    assert pred.variables["found"] == "[1, 2]"
    assert pred.variables["text"] == "'some text'"


def test_a_saved_trajectory_loads_back_equal(tmp_path):
    """What a run did survives the file."""
    pred, _ = answer(cell("print('é'); llm_query('q')"), cell("SUBMIT({1})"), signature="text -> tags: set[int]")
    path = pred.trajectory.save(tmp_path / "deep" / "run.jsonl")
    assert Trajectory.load(path) == pred.trajectory


def test_the_model_sees_the_contract_first_and_the_remaining_counts_last():
    """The head of the prompt is constant during a run; what is left is the tail of the last message."""
    _, root = answer(cell("1"), cell("2"), cell("SUBMIT('x')"), max_iters=9, max_llm_calls=4)
    heads = [request.messages[:2] for request in root.requests]
    assert heads[0] == heads[1] == heads[2]
    assert [request.remaining for request in root.requests] == [
        f"[{n} iterations left, 4 sub-calls left]" for n in (9, 8, 7)
    ]
