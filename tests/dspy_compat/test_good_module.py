"""What programs of dspy do with a module: copy, save, map, time out, vote, stream."""

from __future__ import annotations

import asyncio

import dspy
import dspy_scripted as scripted
import pytest
from dspy.streaming import StreamListener, StreamResponse
from dspy_scripted import asked, fields, is_action, step, steps
from scripted_server import ScriptedServer

from dspy_compat import RLM
from dszig_py import Budget, Strategy

UPPER = steps("print(len(text))", "SUBMIT(answer=text.upper())")


def lookup(name: str) -> str:
    """Look a name up."""
    return name.upper()


@pytest.mark.parametrize("kind", ["json", "pkl"])
def test_a_state_goes_through_a_file_and_comes_back_the_same(kind, tmp_path):
    """Instructions, demos and LM settings."""
    rlm = RLM("text -> answer", tools=[lookup])
    with dspy.context(lm=scripted.lm(UPPER)):
        tuned = dspy.BootstrapFewShot(max_bootstrapped_demos=1, max_labeled_demos=0).compile(
            rlm, trainset=[dspy.Example(text="a", answer="A").with_inputs("text")]
        )
        tuned.save(tmp_path / f"state.{kind}")
        loaded = RLM("text -> answer")
        loaded.load(tmp_path / f"state.{kind}", **({"allow_pickle": True} if kind == "pkl" else {}))
        assert loaded.dump_state() == tuned.dump_state()
        assert loaded.dump_state()["generate_action"]["demos"]
        fresh = RLM("text -> answer")
        fresh.load_state(tuned.dump_state())
        assert fresh(text="x").answer == "X"


def test_a_whole_program_goes_through_a_file_with_all_its_options(tmp_path):
    """Tools, budget, strategy and options as they were."""
    rlm = RLM(
        "text -> answer",
        max_iters=3,
        tools=[lookup],
        budget=Budget(max_seconds=50),
        strategy=Strategy(show=["text"]),
        on_failure="raise",
        environment="process",
    )
    rlm.save(tmp_path / "program", save_program=True)
    loaded = dspy.load(tmp_path / "program", allow_pickle=True)
    assert (loaded.budget, loaded.strategy, loaded.on_failure) == (rlm.budget, rlm.strategy, "raise")
    with dspy.context(lm=scripted.lm(steps("SUBMIT(answer=lookup(text))"))):
        assert loaded(text="x").answer == "X"
        assert rlm.deepcopy()(text="x").answer == "X"


def test_batch_parallel_and_evaluate_run_one_instance_in_many_threads():
    """Sixty-four threads; each run has its own worker and its own history."""
    rlm = RLM("text -> answer")
    examples = [dspy.Example(text=f"t{n}", answer=f"T{n}").with_inputs("text") for n in range(64)]
    with dspy.context(lm=scripted.lm(UPPER)):
        assert [p.answer for p in rlm.batch(examples[:8], num_threads=4)] == [e.answer for e in examples[:8]]
        pairs = [(rlm, e) for e in examples[:8]]
        assert [p.answer for p in dspy.Parallel(num_threads=4, disable_progress_bar=True)(pairs)] == [
            e.answer for e in examples[:8]
        ]
        evaluate = dspy.Evaluate(
            devset=examples,
            metric=lambda gold, pred: gold.answer == pred.answer,
            num_threads=64,
            display_progress=False,
        )
        assert evaluate(rlm).score == 100


def test_asyncify_runs_the_sync_face_beside_a_loop():
    """And a sync call inside a running loop works as well."""

    async def main():
        rlm = RLM("text -> answer")
        with dspy.context(lm=scripted.lm(UPPER)):
            return (await dspy.asyncify(rlm)(text="a")).answer, rlm(text="b").answer

    assert asyncio.run(main()) == ("A", "B")


class Attempts:
    """A model whose first two attempts are wrong."""

    def __init__(self):
        self.count = 0

    def __call__(self, prompt, last):
        if is_action(prompt):
            self.count += 1
            return step(f"SUBMIT(answer={'text.upper()' if self.count > 2 else repr('wrong')})")
        names = asked(prompt)
        return fields(**{n: '{"generate_action": "HINT", "extract": "N/A"}' if n == "advice" else "d" for n in names})


@pytest.mark.parametrize("kind", [dspy.BestOfN, dspy.Refine])
def test_best_of_n_and_refine_try_again(kind):
    """Until the reward is reached; Refine's advice reaches the prompt of the next attempt."""
    lm = scripted.lm(Attempts())
    with dspy.context(lm=lm):
        best = kind(
            module=RLM("text -> answer"), N=3, reward_fn=lambda args, pred: float(pred.answer == "X"), threshold=1.0
        )
        assert best(text="x").answer == "X"
    actions = [p for p in lm.engine_.prompts if is_action(p)]
    assert len(actions) == 3
    assert ("HINT" in actions[-1]) == (kind is dspy.Refine)
    assert max(map(len, lm.engine_.prompts)) < 40_000


def test_inspect_history_shows_the_calls(capsys):
    """Of the module and of the model."""
    lm = scripted.lm(UPPER)
    with dspy.context(lm=lm):
        rlm = RLM("text -> answer")
        rlm(text="x")
        rlm.inspect_history(n=1)
    assert "SUBMIT(answer=text.upper())" in capsys.readouterr().out


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_a_streamed_program_gives_status_messages_and_the_prediction(asynchronous):
    """streamify: tokens, and a message for each iteration and sub-call from a provider that has words for them."""

    class Told(dspy.streaming.StatusMessageProvider):
        def rlm_iteration_start_status_message(self, instance, iteration):
            return f"iteration {iteration}"

        def rlm_sub_call_start_status_message(self, instance, kind):
            return f"asks by {kind}"

    async def main():
        rlm = RLM("text -> answer")
        streamed = dspy.streamify(rlm, status_message_provider=Told(), is_async_program=asynchronous)
        with dspy.context(lm=scripted.lm(steps("a = llm_query('q')", "SUBMIT(answer=a)"))):
            return [item async for item in streamed(text="x")]

    items = asyncio.run(main())
    assert items[-1].answer == "sub"
    messages = [item.message for item in items if isinstance(item, dspy.streaming.StatusMessage)]
    assert messages == ["iteration 1", "asks by llm_query", "iteration 2"]


def streamed(program, listeners, asynchronous, **inputs):
    """What a streamed call yields."""

    async def main():
        stream = dspy.streamify(program, stream_listeners=listeners, is_async_program=asynchronous)
        return [item async for item in stream(**inputs)]

    return asyncio.run(main())


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_listeners_to_outputs_hear_what_submit_gave(asynchronous):
    """Each in one piece, as text, and then the prediction; dspy binds them to the predictor that closes other runs."""
    rlm = RLM("text -> answer: str, counts: dict[str, int]")
    listeners = [StreamListener(signature_field_name=name, allow_reuse=True) for name in ("answer", "counts")]
    with dspy.context(lm=scripted.lm(steps("print(1)", "SUBMIT(answer=text, counts={'a': 1})"))):
        for _ in range(2):
            *pieces, pred = streamed(rlm, listeners, asynchronous, text="so it is")
            assert [(one.predict_name, one.signature_field_name, one.chunk) for one in pieces] == [
                ("extract", "answer", "so it is"),
                ("extract", "counts", '{"a":1}'),
            ]
            assert all(isinstance(one, StreamResponse) and one.is_last_chunk for one in pieces)
            assert pred.counts == {"a": 1}


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_listeners_hear_the_model_where_it_writes_the_field(asynchronous, monkeypatch):
    """Its reasoning at each step, and the outputs where the run closes by extraction: in pieces, as the provider sends them."""
    replies = [scripted.step("print(1)", "I look at it first"), fields(answer="as far as I can tell")]
    listeners = [StreamListener(signature_field_name=name, allow_reuse=True) for name in ("reasoning", "answer")]
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # or LiteLLM asks the network for prices
    with ScriptedServer() as server:
        server.script(replies)
        lm = dspy.LM("openai/scripted", api_base=server.url, api_key="-", cache=False, engine="litellm")
        with dspy.context(lm=lm):
            *pieces, pred = streamed(RLM("text -> answer", max_iters=1), listeners, asynchronous, text="x")
    said = {name: [p.chunk for p in pieces if p.signature_field_name == name] for name in ("reasoning", "answer")}
    assert {name: "".join(told).rstrip() for name, told in said.items()} == {  # dspy 3.4.0 keeps a line end
        "reasoning": "I look at it first",
        "answer": "as far as I can tell",
    }
    assert all(len(told) > 1 for told in said.values())
    assert pred.answer == "as far as I can tell"


def test_a_program_of_several_modules_is_tuned_as_one():
    """An RLM beside other predictors: names, models and traces as of any submodule."""

    class Program(dspy.Module):
        def __init__(self):
            super().__init__()
            self.read = RLM("text -> notes")
            self.write = dspy.Predict("notes -> answer")

        def forward(self, text):
            return self.write(notes=self.read(text=text).notes)

    script = steps("SUBMIT(notes=text * 2)", other=lambda prompt: fields(answer="done"))
    with dspy.context(lm=scripted.lm(script), trace=[]):
        program = Program()
        assert program(text="ab").answer == "done"
        assert [p for p, _, _ in dspy.settings.trace] == [program.read.generate_action, program.write]
    assert [n for n, _ in program.named_predictors()] == ["read.generate_action", "read.extract", "write"]


def test_adapters_are_dspys_own():
    """JSONAdapter, XMLAdapter: whatever is configured formats and reads the steps."""
    for adapter, reply in (
        (dspy.JSONAdapter(), '{"reasoning": "r", "code": "SUBMIT(answer=text)"}'),
        (dspy.XMLAdapter(), "<reasoning>r</reasoning><code>SUBMIT(answer=text)</code>"),
    ):
        with dspy.context(lm=scripted.lm(lambda prompt, last, reply=reply: reply), adapter=adapter):
            assert RLM("text -> answer")(text="x").answer == "x"


def test_a_dspy_interpreter_runs_the_code_where_one_is_asked_for():
    """By constructor, by settings and by call."""
    factory = dspy.LocalInterpreter
    with dspy.context(lm=scripted.lm(steps("SUBMIT(answer=text)"))):
        assert RLM("text -> answer", interpreter_factory=factory)(text="a").answer == "a"
        assert RLM("text -> answer")(text="b", interpreter_factory=factory).answer == "b"
        with dspy.context(interpreter_factory=factory):
            pred = RLM("text -> answer")(text="c")
    assert (pred.answer, pred.run.environment) == ("c", "interpreter")


def test_verbose_prints_the_run(capsys):
    """As it happens."""
    with dspy.context(lm=scripted.lm(UPPER)):
        RLM("text -> answer", verbose=True)(text="x")
    told = capsys.readouterr()
    assert "iteration 2" in told.out + told.err


def test_dspys_dummy_model_drives_a_run():
    """As in tests written for dspy's own class."""
    from dspy.utils.dummies import DummyLM

    script = [{"reasoning": "r", "code": "print(text)"}, {"reasoning": "r", "code": "```python\nSUBMIT('done')\n```"}]
    with dspy.context(lm=DummyLM(script)):
        pred = RLM("text -> answer")(text="x")
    assert (pred.answer, [entry["output"] for entry in pred.trajectory][0]) == ("done", "x")
