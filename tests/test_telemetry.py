"""OpenTelemetry spans of real runs, read back from the SDK's own exporter."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from contextlib import suppress

import pytest

from dszig_py import RLM, LMError, Strategy, semconv
from dszig_py.lm import ScriptedLM
from dszig_py.telemetry import CAPTURE

pytest.importorskip("opentelemetry.sdk", reason="the SDK, with its exporter for tests, is not installed")

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

CODE = """\
llm_query_batched(['one', 'two'])
shown = fetch(page='p')
print(rlm_query('dig'))
"""


def cell(code):
    return f"```python\n{code}\n```"


def sub(request):
    return cell("SUBMIT(llm_query('deep'))") if "live REPL" in request.messages[0].content else "found"


@pytest.fixture
def spans(monkeypatch, caplog):
    """What was exported so far, the oldest end first; the provider is the program's, as an application sets it.

    OpenTelemetry logs a span ended twice or a context left in another task than the one that entered it.
    """
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)  # set_tracer_provider works once a process
    yield exporter.get_finished_spans
    provider.shutdown()
    assert [r.getMessage() for r in caplog.get_records("call") if r.name.startswith("opentelemetry")] == []


def fetch(page: str) -> str:
    """Get a page."""
    with trace.get_tracer("the tool").start_as_current_span("inside the tool"):
        return f"the page {page}"


def make(*replies, **options):
    root = ScriptedLM(replies or [cell(CODE), cell("SUBMIT(answer='a')")], model="openai/gpt-5")
    kept = ScriptedLM(sub, model="mistral/small")
    return RLM("text: str -> answer: str", lm=root, sub_lm=kept, tools=[fetch], **options)


def tree(spans):
    """Nested (name, children) of spans, in the order of their beginnings."""
    below = {}
    for span in sorted(spans, key=lambda s: s.start_time):
        below.setdefault(None if span.parent is None else span.parent.span_id, []).append(span)

    def node(span):
        return span.name, [node(child) for child in below.get(span.context.span_id, [])]

    return [node(span) for span in below[None]]


def named(spans, name):
    return [span for span in spans if span.name == name]


def test_a_run_is_a_tree_of_spans_with_its_children_below_their_sub_calls(spans):
    """Decisions, cells, sub-calls, a tool with what it does itself, a child run: each below what caused it."""
    make()(text="t")
    child = ("invoke_agent dszig", [("chat small", []), ("execute_tool python", [("chat small", [])])])
    first = [
        ("chat small", []),
        ("chat small", []),
        ("execute_tool fetch", [("inside the tool", [])]),
        ("execute_tool rlm_query", [child]),
    ]
    run = [("chat gpt-5", []), ("execute_tool python", first), ("chat gpt-5", []), ("execute_tool python", [])]
    assert tree(spans()) == [("invoke_agent dszig", run)]


def test_spans_say_what_was_called_and_what_it_took(spans):
    """Names of the conventions, times inside those of the parent, tokens that add up to the run's own."""
    prediction = make()(text="t")
    every = spans()
    (root,) = [span for span in every if span.parent is None]
    assert root.attributes["gen_ai.operation.name"] == "invoke_agent"
    assert root.attributes["gen_ai.agent.id"] == prediction.trajectory.id
    assert root.attributes["dszig.termination.kind"] == "submitted"
    assert root.attributes["dszig.usage.calls"] == prediction.usage.calls == len([s for s in every if "chat" in s.name])
    told = [s.attributes.get("gen_ai.usage.input_tokens", 0) for s in every]
    assert sum(told) == prediction.usage.input_tokens
    assert {s.kind for s in every if s.name.startswith("chat")} == {SpanKind.CLIENT}
    small = named(every, "chat small")[0]
    assert small.attributes["gen_ai.provider.name"] == "mistral_ai"
    assert small.attributes["gen_ai.request.model"] == "small"
    by_id = {span.context.span_id: span for span in every}
    for span in every:
        assert span.status.status_code == StatusCode.UNSET
        if span.parent is not None:
            above = by_id[span.parent.span_id]
            # a run's beginning is read from the wall clock a moment before its span is made
            assert above.start_time <= span.start_time <= span.end_time <= above.end_time + 2_000_000


def test_a_direct_route_is_a_model_call_and_runs_no_code(spans):
    """Its span has the model and what it took."""
    prediction = make('{"answer": "a"}', strategy=Strategy(route="direct"))(text="t")
    assert tree(spans()) == [("invoke_agent dszig", [("chat gpt-5", [])])]
    (call,) = named(spans(), "chat gpt-5")
    assert call.kind == SpanKind.CLIENT
    assert call.attributes["gen_ai.usage.input_tokens"] == prediction.usage.input_tokens > 0
    assert call.attributes["dszig.sub_call.kind"] == "direct"


def test_an_output_without_a_repr_does_not_leave_the_runs_span_open(spans):
    """Python refuses to write ints of over 4,300 digits."""
    RLM("text -> n: int", lm=ScriptedLM([cell("SUBMIT(10**5_000)")]))(text="t")
    assert [span.name for span in spans()][-1] == "invoke_agent dszig"


def test_a_reply_without_code_has_no_span_of_a_cell(spans):
    """Two decisions, one execution."""
    make("I will think about it.", cell("SUBMIT(answer='a')"))(text="t")
    run = [("chat gpt-5", []), ("chat gpt-5", []), ("execute_tool python", [])]
    assert tree(spans()) == [("invoke_agent dszig", run)]


@pytest.mark.parametrize("face", ["sync", "async"])
def test_the_callers_span_is_the_parent_and_stays_current(spans, face):
    """Through the background loop of the sync face as well; nothing of the run is left behind in the caller's context."""
    tracer = trace.get_tracer("the application")
    with tracer.start_as_current_span("request") as request:
        make()(text="t") if face == "sync" else asyncio.run(make().acall(text="t"))
        assert trace.get_current_span() is request
    ((name, (run,)),) = tree(spans())
    assert (name, run[0]) == ("request", "invoke_agent dszig")


def test_runs_at_once_do_not_mix(spans):
    """Twenty on one loop: each has a whole tree of its own."""

    async def main():
        await asyncio.gather(*(make().acall(text="t") for _ in range(20)))

    asyncio.run(main())
    (first, *rest) = tree(spans())
    assert len(rest) == 19
    assert all(sorted(map(repr, other[1])) == sorted(map(repr, first[1])) for other in rest)


@pytest.mark.parametrize(
    ("replies", "error", "status"),
    [
        ([LMError("openai/gpt-5: the server is down")], "provider", "openai/gpt-5: the server is down"),
        ([cell("x = 1"), RuntimeError("quotes the data")], "caller", None),
    ],
)
def test_a_failed_run_has_the_status_error_and_no_open_spans(spans, replies, error, status):
    """What a provider said is told; a message of other code may quote the data and is not."""
    with suppress(LMError, RuntimeError):
        make(*replies)(text="t")
    (root,) = [span for span in spans() if span.parent is None]
    assert (root.status.status_code, root.status.description) == (StatusCode.ERROR, status)
    assert root.attributes["error.type"] == error
    decision = named(spans(), "chat gpt-5")[-1]
    assert decision.status.status_code == StatusCode.ERROR
    assert trace.get_current_span() is trace.INVALID_SPAN


def test_failures_inside_a_run_mark_their_own_spans(spans):
    """A cell by the name of its exception, a refused sub-call by its kind; the run itself ended well. A limit is no error."""

    def down(request):
        raise LMError("mistral/small: no such model")

    code = "try:\n    llm_query('x')\nexcept RuntimeError:\n    pass\nraise KeyError('a name from the data')"
    root = ScriptedLM([cell(code)], model="openai/gpt-5", repeat_last=True)
    RLM("text -> answer", lm=root, sub_lm=ScriptedLM(down, model="mistral/small"), max_iters=1)(text="t")
    (call,), (run,), (python,) = (
        named(spans(), name) for name in ("chat small", "invoke_agent dszig", "execute_tool python")
    )
    assert (call.status.status_code, call.attributes["error.type"]) == (StatusCode.ERROR, "_OTHER")
    assert "no such model" in call.status.description
    assert (python.status.status_code, python.attributes["error.type"]) == (StatusCode.ERROR, "KeyError")
    assert "a name from the data" not in repr([python.status.description, dict(python.attributes)])
    assert run.status.status_code == StatusCode.UNSET
    assert run.attributes["dszig.termination.kind"] == "max_iters"
    assert named(spans(), "chat gpt-5")[-1].attributes["gen_ai.usage.input_tokens"] > 0  # the extraction


def test_a_cancelled_run_ends_its_spans(spans):
    """Whatever was under way has an end, the run says that it was cancelled."""

    async def main():
        asked = asyncio.Event()

        class Slow:
            model = "slow"

            async def complete(self, request):
                asked.set()
                await asyncio.sleep(600)

        root = ScriptedLM([cell("rlm_query('x')")])
        task = asyncio.create_task(RLM("text -> answer", lm=root, sub_lm=Slow()).acall(text="t"))
        await asked.wait()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    asyncio.run(main())
    child = ("invoke_agent dszig", [("chat slow", [])])
    cell_span = ("execute_tool python", [("execute_tool rlm_query", [child])])
    assert tree(spans()) == [("invoke_agent dszig", [("chat scripted", []), cell_span])]
    failed = {span.attributes["error.type"] for span in spans() if span.status.status_code == StatusCode.ERROR}
    assert failed == {"cancelled", "CancelledError", "_OTHER"}


@pytest.mark.parametrize("asked", ["", "true", "span_only"])
def test_content_is_in_the_spans_only_where_it_is_asked_for(spans, monkeypatch, asked):
    """By the variable of the conventions; secrets are replaced there too."""
    monkeypatch.setenv(CAPTURE, asked)
    make(cell("llm_query('PROMPT hunter2hunter2')"), cell("SUBMIT('OUTPUT')"), secrets=["hunter2hunter2"])(text="INPUT")
    told = json.dumps([dict(span.attributes) for span in spans()])
    assert "hunter2" not in told and "INPUT" not in told
    assert all((word in told) == bool(asked) for word in ("PROMPT", "OUTPUT", "found", "[redacted]"))
    if asked:
        (call,) = named(spans(), "chat small")
        assert json.loads(call.attributes["gen_ai.output.messages"]) == [
            {"role": "assistant", "parts": [{"type": "text", "content": "found"}]}
        ]


def test_the_switch(spans):
    """False is silent even with a provider configured."""
    make(telemetry=False)(text="t")
    assert not named(spans(), "invoke_agent dszig")
    make(telemetry=True)(text="t")
    assert named(spans(), "invoke_agent dszig")


def test_every_attribute_is_one_of_the_conventions_or_ours():
    """Against the names that OpenTelemetry's own package publishes."""
    published = pytest.importorskip("opentelemetry.semconv._incubating.attributes.gen_ai_attributes")
    known = {value for name, value in vars(published).items() if name.startswith("GEN_AI_")}
    others = [name for name in semconv.ATTRIBUTES.values() if name not in known]
    assert all(name.startswith("dszig.") or name == "error.type" for name in others)
    providers = {member.value for member in published.GenAiProviderNameValues}
    assert set(semconv._PROVIDERS.values()) <= providers


ABSENT = """
import sys
sys.modules["opentelemetry"] = None  # as where it is not installed
from dszig_py import RLM, InputError
def make(**options):
    return RLM("text -> answer", lm=lambda prompt: "```python\\nSUBMIT('a')\\n```", **options)
assert make()(text="t").answer == "a"
try:
    make(telemetry=True)(text="t")
except InputError as error:
    assert "pip install" in str(error)
else:
    raise AssertionError
"""
UNASKED = """
import sys
from dszig_py import RLM
assert RLM("text -> answer", lm=lambda prompt: "```python\\nSUBMIT('a')\\n```")(text="t").answer == "a"
assert not [name for name in sys.modules if name.startswith("opentelemetry")]
"""


@pytest.mark.parametrize("program", [ABSENT, UNASKED])
def test_a_run_without_opentelemetry_needs_and_imports_none(program):
    """Neither where it is missing nor where the program does not use it."""
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, timeout=60)
