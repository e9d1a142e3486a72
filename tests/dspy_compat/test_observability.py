"""The tools people watch DSPy programs with see an RLM as any other module: MLflow's autolog, OpenInference.

In processes of their own, because both patch dspy or its settings for good, and warn of things that are not ours.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import asyncio, json, sys
sys.path.insert(0, sys.argv[1])
import dspy
import dspy_scripted as scripted

def run(how):
    program = dspy.RLM("text -> answer", sub_lm=scripted.lm(lambda prompt, last: "sub", "sub"))
    code = "print(llm_query_batched(['p', 'q']))"
    with dspy.context(lm=scripted.lm(scripted.steps(code, "SUBMIT('done')"), "root")):
        if how == "async":
            assert asyncio.run(program.acall(text="t")).answer == "done"
        else:
            examples = [dspy.Example(text=str(n), answer="done").with_inputs("text") for n in range(4)]
            metric = lambda example, prediction, trace=None: prediction.answer == example.answer
            score = dspy.Evaluate(devset=examples, metric=metric, num_threads=4, display_progress=False)(program)
            assert score.score == 100
"""

MLFLOW = """
import dspy_compat, mlflow
mlflow.set_tracking_uri(sys.argv[3])
mlflow.dspy.autolog()
dspy_compat.install(dspy)
run(sys.argv[2])
mlflow.flush_trace_async_logging()
spans = [
    [(span.span_id, span.parent_id, span.name, str(span.span_type), str(span.status.status_code)) for span in found.data.spans]
    for found in mlflow.search_traces(return_type="list")
]
print(json.dumps(spans))
"""

OPENINFERENCE = """
from openinference.instrumentation.dspy import DSPyInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
# Before dspy_compat is imported: it looks up every subclass of dspy.Predict that there is by its name in dspy itself.
exporter, provider = InMemorySpanExporter(), TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
DSPyInstrumentor().instrument(tracer_provider=provider)
import dspy_compat
dspy_compat.install(dspy)
run(sys.argv[2])
traces = {}
for span in exporter.get_finished_spans():
    parent = span.parent.span_id if span.parent else None
    kind = (span.attributes or {}).get("openinference.span.kind", "")
    row = (span.context.span_id, parent, span.name, kind, span.status.status_code.name)
    traces.setdefault(span.context.trace_id, []).append(row)
print(json.dumps(list(traces.values())))
"""

HOWS = ["async", "evaluate"]  # on the caller's loop; in four threads, each through the background loop


def traces(program, how, folder, *more):
    """The traces a program printed, each a list of (id, parent's id, name, kind, status)."""
    env = {**os.environ, "DO_NOT_TRACK": "true", "MLFLOW_DISABLE_TELEMETRY": "true", "GIT_PYTHON_REFRESH": "quiet"}
    args = [sys.executable, "-c", PROGRAM + program, str(Path(__file__).parent.parent), how, *more]
    done = subprocess.run(args, check=False, capture_output=True, text=True, timeout=120, env=env, cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def ancestry(spans):
    """Name of each span after the names of all above it."""
    by_id = {row[0]: row for row in spans}

    def path(row):
        return [*(path(by_id[row[1]]) if row[1] in by_id else []), row[2]]

    return [path(row) for row in spans]


def installed(name):
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def check(found, how):
    """A module's span with its decisions and their model calls below it, in each trace; all of them ended well."""
    paths = [path for spans in found for path in ancestry(spans)]
    runs = 4 if how == "evaluate" else 1
    modules = [path for path in paths if path[-1].startswith("RLM.")]
    assert len(modules) == runs
    decisions = [path for path in paths if path[-1].startswith("Step.")]
    assert len(decisions) == 2 * runs
    assert all(any(name.startswith("RLM.") for name in path) for path in decisions)
    calls = [path for path in paths if "LM." in path[-1] and not path[-1].startswith("RLM.")]
    below = [path for path in calls if any(name.startswith("Step.") for name in path)]
    assert len(below) == 2 * runs
    beside = [path for path in calls if path not in below]
    assert len(beside) == 2 * runs  # the sub-calls
    assert all(any(name.startswith("RLM.") for name in path) for path in calls)
    assert {row[4] for spans in found for row in spans} <= {"OK", "UNSET", "SpanStatusCode.OK", "SpanStatusCode.UNSET"}


@pytest.mark.skipif(
    not all(map(installed, ("mlflow", "sqlalchemy", "alembic"))),
    reason="MLflow or what it keeps traces by is not installed",
)
@pytest.mark.parametrize("how", HOWS)
def test_mlflow_autolog_sees_the_module_its_decisions_and_all_model_calls(tmp_path, how):
    """One trace a call, whichever thread or loop things ran in; sub-calls are in it too."""
    check(traces(MLFLOW, how, tmp_path, f"sqlite:///{tmp_path}/runs.db"), how)


@pytest.mark.skipif(not installed("openinference.instrumentation.dspy"), reason="OpenInference is not installed")
@pytest.mark.parametrize("how", HOWS)
def test_openinference_sees_the_same(tmp_path, how):
    """Over OpenTelemetry, as Phoenix and others read it."""
    check(traces(OPENINFERENCE, how, tmp_path), how)
