"""Exports: runs in the formats of zigrlm's trace and of rlm's log."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_trajectory import trajectories

from dszig_py import RLM, Budget
from dszig_py.exports import to_rlm_log, to_zigrlm_events
from dszig_py.lm import ScriptedLM
from dszig_py.trajectory import Compaction, SubCall, Trajectory
from dszig_py.usage import Usage

EVENTS = {
    *("start", "iteration", "model_response", "code_block", "repl_final", "repl_stderr", "repl_observation", "final"),
    *("fallback", "compaction", "limit_exceeded", "leaf_call_start", "leaf_call_complete", "llm_query_start"),
    *("llm_query_complete", "rlm_query_start", "rlm_query_complete", "llm_query_batch_start"),
    *("llm_query_batch_complete", "rlm_query_batch_start", "rlm_query_batch_complete", "tool_call"),
}
USAGE = {"calls", "input_bytes", "output_bytes", "input_tokens", "output_tokens", "cost_micros", "estimated"}
RUN = {"depth", "iterations", "prompt_bytes", "started_ms", "completed_ms", "subcall_count", "final_answer"}
METADATA = {
    *("type", "schema", "root_model", "max_depth", "max_iterations", "backend", "backend_kwargs", "environment_type"),
    *("environment_kwargs", "other_backends", "usage", "run", "subcalls"),
}
SUBCALL = {"kind", "depth", "prompt", "response", "usage", "iterations", "batch_size"}
ITERATION = {
    *("type", "schema", "iteration", "timestamp", "prompt", "response", "usage", "final_answer", "iteration_time"),
    "code_blocks",
}
RESULT = {"stdout", "stderr", "locals", "execution_time", "rlm_calls", "var_count"}
CALL = {"root_model", "prompt", "response", "prompt_tokens", "completion_tokens", "usage_summary", "execution_time"}
CODE = """\
print(look('x'))
a = llm_query('é' * 5_000)
b = llm_query_batched(['1', '2'])
c = rlm_query_batched(['p', 'q'])
print(c)
"""


def cell(code):
    return f"```python\n{code}\n```"


def sub(request):
    if "live REPL" in request.messages[0].content:
        return cell("SUBMIT(llm_query('inner'))")
    return f"<{request.prompt[:10]}>"


def look(text: str) -> str:
    """Looks."""
    return text.upper()


def run(*replies, **options):
    rlm = RLM(
        "text: str -> answer: str",
        lm=ScriptedLM(list(replies), cost=0.001),
        sub_lm=ScriptedLM(sub, cost=None),
        **options,
    )
    return rlm(text="some text").trajectory


@pytest.fixture(scope="module")
def trajectory():
    return run(cell(CODE), cell("1/0"), "Done.\n" + cell("SUBMIT('é' * 3_000)"), tools=[look])


def test_events_have_zigrlms_fields_and_kinds(trajectory):
    """Each is one of the 22 kinds; a preview is at most 4,000 bytes of whole characters, and says when it is cut."""
    events = list(to_zigrlm_events(trajectory))
    json.dumps(events)
    for event in events:
        assert event["schema"] == "zigrlm.trace_event.v1"
        assert event["event"] in EVENTS
        assert {"ts_ms", "depth", "bytes", "preview", "payload"} <= set(event)
        assert event["payload"]["kind"] == "text"
        assert all(event["payload"].get(name) == event.get(name) for name in ("bytes", "preview", "truncated"))
        assert len(event["preview"].encode()) <= 4_000
        whole = event["bytes"] == len(event["preview"].encode())
        assert whole is not event.get("truncated", False)
        assert ("iteration" in event) is not event["event"].startswith(("llm_query", "rlm_query", "tool_call"))


def test_events_come_in_order_with_children_inside_their_calls(trajectory):
    """A child's events stand between the start and the end of the call they answer, one level deeper."""
    events = list(to_zigrlm_events(trajectory))
    kinds = [event["event"] for event in events if event["depth"] == 0]
    assert kinds[:5] == ["start", "iteration", "model_response", "code_block", "tool_call"]
    assert kinds[5:7] == ["llm_query_start", "llm_query_complete"]
    pair = ["llm_query_start", "llm_query_complete"]
    assert kinds[7:13] == ["llm_query_batch_start", *pair, *pair, "llm_query_batch_complete"]
    pair = ["rlm_query_start", "rlm_query_complete"]
    assert kinds[13:19] == ["rlm_query_batch_start", *pair, *pair, "rlm_query_batch_complete"]
    assert kinds[19] == "repl_observation"
    assert "repl_stderr" in kinds
    assert kinds[-3:] == ["repl_final", "repl_observation", "final"]
    depths = [event["depth"] for event in events]
    first = kinds_of(events).index("rlm_query_start")
    assert depths[first : first + 3] == [0, 1, 1]
    assert events[first + 1]["event"] == "start"
    assert sum(event["event"] == "final" for event in events) == 3


def kinds_of(events):
    return [event["event"] for event in events]


def test_the_size_of_a_prompt_kept_by_its_preview_is_marked_as_a_lower_bound(trajectory):
    """Characters are known, bytes are not: no number pretends to be the other."""
    event = next(e for e in to_zigrlm_events(trajectory) if e["event"] == "llm_query_start")
    assert event["bytes"] == 5_000
    assert event["bytes_exact"] is False
    final = list(to_zigrlm_events(trajectory))[-1]
    assert final["bytes"] == 6_000
    assert "bytes_exact" not in final


def test_a_limit_and_its_extraction_are_told():
    """As limit_exceeded and fallback; the final answer is what was extracted."""
    limited = run(cell("print(1)"), '{"answer": "partial"}', budget=Budget(max_iters=1))
    kinds = [(event["event"], event["preview"]) for event in to_zigrlm_events(limited)][-3:]
    assert [kind for kind, _ in kinds] == ["fallback", "limit_exceeded", "final"]
    assert kinds[1][1].startswith("max_iters")
    assert kinds[2][1] == "partial"


def test_the_log_ends_with_the_extraction_where_nothing_was_submitted():
    """A visualizer takes the answer from the rows; an extraction is one more, without code. A failed one has no answer."""
    limited = run(cell("print(1)"), '{"answer": "partial"}', budget=Budget(max_iters=1))
    _, first, last = to_rlm_log(limited)
    assert set(last) == set(first) == ITERATION
    assert (first["final_answer"], last["final_answer"], last["iteration"], last["code_blocks"]) == (
        None,
        "partial",
        2,
        [],
    )
    assert "partial" in last["response"]
    assert last["prompt"] == [{"role": "user", "content": limited.iterations[0].observation}]
    *_, failed = to_rlm_log(replace(limited, extraction=replace(limited.extraction, error="not in the reply")))
    assert (failed["final_answer"], failed["response"]) == (None, "not in the reply")


def test_a_compaction_is_told_before_the_decision_it_was_made_for(trajectory):
    """As zigrlm's event of that name, with the summary."""
    first, second, *rest = trajectory.iterations
    made = replace(second, compaction=Compaction(1, "what was found so far"))
    events = list(to_zigrlm_events(replace(trajectory, iterations=(first, made, *rest))))
    at = next(n for n, event in enumerate(events) if event["event"] == "compaction")
    assert events[at]["preview"] == "what was found so far"
    assert [event["event"] for event in events[at - 1 : at + 2]] == ["repl_observation", "compaction", "iteration"]


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(trajectories(), st.sampled_from([None, float("inf"), float("nan"), -1e300]))
def test_whatever_can_be_loaded_can_be_exported(run, odd):
    """Strict JSON without infinities, also of times that are none and of ints too long to be written."""
    if odd is not None:
        run = replace(run, begun=odd, seconds=odd, usage=Usage(1, cost=odd))
    for line in (*to_zigrlm_events(run), *to_rlm_log(run)):
        json.loads(json.dumps(line, allow_nan=False))


def test_an_unfinished_run_has_no_final():
    """Nothing is made up."""
    events = list(to_zigrlm_events(Trajectory("r", "-> a")))
    assert kinds_of(events) == ["start"]
    assert next(iter(to_rlm_log(Trajectory("r", "-> a"))))["run"]["final_answer"] is None


def test_log_rows_have_the_fields_that_visualizers_read(trajectory):
    """One metadata row, then a row an iteration, down to each call."""
    metadata, *iterations = to_rlm_log(trajectory)
    json.dumps([metadata, *iterations])
    assert set(metadata) == METADATA
    assert (metadata["type"], metadata["schema"]) == ("metadata", "zigrlm.rlm_metadata.v1")
    assert set(metadata["usage"]) == USAGE
    assert set(metadata["run"]) == RUN
    assert all(set(call) - {"metadata"} == SUBCALL for call in metadata["subcalls"])
    assert len(iterations) == 3
    for row in iterations:
        assert set(row) == ITERATION
        assert (row["type"], row["schema"]) == ("iteration", "zigrlm.rlm_iteration.v1")
        assert [set(message) for message in row["prompt"]] == [{"role", "content"}]
        for block in row["code_blocks"]:
            assert set(block) == {"code", "result"}
            assert set(block["result"]) - {"final_answer"} == RESULT
            assert all(set(call) - {"metadata", "error"} == CALL for call in block["result"]["rlm_calls"])
    assert iterations[-1]["final_answer"] == metadata["run"]["final_answer"] == "é" * 3_000
    assert iterations[0]["final_answer"] is None
    assert "ZeroDivisionError" in iterations[1]["code_blocks"][0]["result"]["stderr"]


def test_sub_calls_of_the_log_have_their_kind_batch_and_child(trajectory):
    """Tools are no model calls and are left out; a child's run is inside its call."""
    metadata, first, *_ = to_rlm_log(trajectory)
    kinds = [(call["kind"], call["batch_size"]) for call in metadata["subcalls"]]
    assert kinds == [("llm", 1), ("llm_batch", 2), ("llm_batch", 2), ("rlm_batch", 2), ("rlm_batch", 2)]
    child = metadata["subcalls"][-1]["metadata"]
    assert set(child) == {"run_metadata", "iterations"}
    assert RUN - {"iterations"} <= set(child["run_metadata"])
    assert child["run_metadata"]["depth"] == 1
    assert [set(row) for row in child["iterations"]] == [{"iteration", "response", "final_answer", "code_blocks"}]
    calls = first["code_blocks"][0]["result"]["rlm_calls"]
    assert len(calls) == 5
    assert metadata["run"]["subcall_count"] == 7


def test_tokens_and_bytes_are_kept_apart(trajectory):
    """Tokens are tokens; bytes that nobody counted are null; an unknown cost is null and no summary has it."""
    metadata, first, *_ = to_rlm_log(trajectory)
    usage = metadata["usage"]
    assert usage["input_tokens"] == trajectory.usage.input_tokens
    assert (usage["input_bytes"], usage["output_bytes"], usage["cost_micros"]) == (None, None, None)
    assert usage["estimated"] is True
    assert first["usage"]["cost_micros"] == 1_000
    call = first["code_blocks"][0]["result"]["rlm_calls"][0]
    summary = call["usage_summary"]["model_usage_summaries"]["scripted"]
    assert summary == {
        "total_calls": 1,
        "total_input_tokens": call["prompt_tokens"],
        "total_output_tokens": call["completion_tokens"],
    }


def test_batches_that_ran_at_once_are_not_mixed():
    """Calls are grouped by their batch, whatever order they ended in."""
    from dszig_py.exports import _batches

    calls = [SubCall(f"r.{i}", "llm_query", started=i / 10, batch="ab"[i % 2], index=9 - i) for i in range(6)]
    calls.append(SubCall("r.9", "llm_query", started=0.05))
    assert [[call.index for call in batch] for batch in _batches(calls)] == [[5, 7, 9], [0], [4, 6, 8]]
