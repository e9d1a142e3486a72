"""rlm.map on a Ray cluster: one driver process, one cluster, everything it found told as JSON."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from dszig_py import RLM, InputError

pytestmark = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")

DRIVER = """
    import json, os, threading
    from pydantic import BaseModel
    from scripted_server import ScriptedServer
    from dszig_py import RLM, Budget, InputError

    class Found(BaseModel):
        pid: int
        n: int

    def cell(code):
        return f"```python\\n{code}\\n```"

    def reply(body):
        if "live REPL" not in str(body["messages"][0]["content"]):
            return "ok"
        return cell("llm_query('first ' + text)\\nllm_query('second ' + text)\\nSUBMIT(answer=found(text))")

    def found(text):
        if text == "5" and not os.path.exists("mark"):
            open("mark", "w").close()
            os._exit(1)
        return {"pid": os.getpid(), "n": int(text)}

    def told(error):
        return f"{type(error).__name__}: {error}"

    def texts(count):
        return [{"text": str(n)} for n in range(count)]

    facts = {"driver": os.getpid()}
    import ray
    ray.init(include_dashboard=False, log_to_driver=False, num_cpus=2)
    with ScriptedServer(reply) as server:
        options = {"api_base": server.url, "api_key": "k"}
        def rlm(**more):
            return RLM("text: str -> answer: Found", types={"Found": Found}, lm="direct:openai/x", lm_options=options,
                       environment="inprocess", tools=[found], max_llm_calls=2, **more)
        on_ray = {"engine": "ray", "workers": 2, "max_concurrency": 4}
        one_each = {**on_ray, "max_concurrency": 2}  # what else a lost actor had asked would rightly be asked again
        results = list(rlm().map(texts(10), ordered=True, path="r.jsonl", **one_each))
        facts["order"] = [r.index for r in results]
        facts["outputs"] = [isinstance(r.outputs["answer"], Found) and r.outputs["answer"].n for r in results]
        facts["iterations"] = [len(r.prediction.trajectory.iterations) for r in results]
        facts["pids"] = [r.outputs["answer"].pid for r in results]
        facts["lost"], facts["asked"] = os.path.exists("mark"), server.count
        facts["left"] = os.path.exists("r.jsonl.runs")
        again = list(rlm().map(texts(12), path="r.jsonl", engine="ray", workers=1))
        facts["again"], facts["new"] = len(again), server.count - facts["asked"]
        facts["lines"] = len(open("r.jsonl").read().splitlines())
        before = server.count
        with rlm().map(texts(30), budget=Budget(max_llm_calls=9), **on_ray) as few:
            facts["few"] = [r.outputs["answer"].n for r in few]
        facts["stopped"], facts["spent"] = few.stopped, server.count - before
        try:
            list(rlm().map([{"other": 1}], engine="ray"))
        except InputError as error:
            facts["wrong"] = told(error)
        try:
            rlm().map(texts(1), budget=Budget(max_cost=1.0), **on_ray)
        except InputError as error:
            facts["unbounded"] = told(error)
        def endless():
            yield {"text": "1"}
            yield {"text": threading.Lock()}
            while True:
                yield {"text": "2"}
        with rlm().map(endless(), engine="ray", max_concurrency=1) as results:
            facts["first"] = next(results).index
            try:
                next(results)
            except InputError as error:
                facts["lock"] = told(error)
    json.dump(facts, open("facts.json", "w"))
"""


@pytest.fixture(scope="module")
def facts(tmp_path_factory):
    place = tmp_path_factory.mktemp("ray")
    env = {**os.environ, "RAY_AUTH_MODE": "disabled", "PYTHONPATH": str(Path(__file__).parent)}
    with (place / "log").open("w") as log:  # not a pipe: Ray's servers would hold it open
        run = [sys.executable, "-c", textwrap.dedent(DRIVER)]
        subprocess.run(run, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=env, cwd=place, timeout=150,
                       check=False)  # fmt: skip
    assert (place / "facts.json").exists(), (place / "log").read_text()[-4_000:]
    return json.loads((place / "facts.json").read_text())


def test_every_element_has_its_result_from_an_actor(facts):
    """In order where asked, typed by the caller's own class, with its trajectory, from processes that are not the driver."""
    assert facts["order"] == facts["outputs"] == list(range(10))
    assert facts["iterations"] == [1] * 10
    assert facts["driver"] not in facts["pids"]
    assert len(set(facts["pids"])) >= 2


def test_a_lost_actors_elements_are_run_again_and_nothing_is_paid_twice(facts):
    """It died within the code of one element: another actor goes on from its journal, with no call made again."""
    assert facts["lost"]
    assert facts["asked"] == 3 * 10
    assert not facts["left"], "every journal went with its result"


def test_results_in_the_file_are_not_run_again(facts):
    """The driver writes the same file as the local engine; two elements more are two runs more."""
    assert (facts["again"], facts["new"]) == (12, 3 * 2)
    assert facts["lines"] == 1 + 12


def test_one_budget_holds_across_actors(facts):
    """Nine calls are four runs of two: a fifth does not begin."""
    assert len(facts["few"]) == 4
    assert facts["spent"] == 3 * 4
    assert "total max_llm_calls: 8 of 9" in facts["stopped"]


def test_what_the_caller_has_to_mend_is_said(facts):
    """An input that does not fit, one that cannot be pickled, a limit in dollars that no single run has."""
    assert "missing: text" in facts["wrong"]
    assert "max_cost needs max_cost in the budget of one run" in facts["unbounded"]
    assert "cannot be sent to Ray's actors" in facts["lock"]
    assert facts["first"] == 0, "what came before it is told, and an endless iterable can be left"


SENDABLE = """
    import threading
    from dszig_py import RLM, InputError
    class Socket:
        model, lock = "mine", threading.Lock()
        def __init__(self): self.lock = threading.Lock()
        async def complete(self, request): ...
    for options in ({"lm": Socket()}, {"lm": "offline", "tools": {"f": threading.Lock().acquire}},
                    {"lm": "offline", "on_event": print}):
        try:
            RLM("a -> b", **options).map([], engine="ray")
        except InputError as error:
            print(error)
"""


def test_an_rlm_that_cannot_be_sent_is_refused_before_a_cluster_is_started():
    """By the name of the option: a live model object, a tool bound to a lock, a callback of this process."""
    run = [sys.executable, "-c", textwrap.dedent(SENDABLE)]
    done = subprocess.run(run, capture_output=True, text=True, check=True, timeout=60)
    lm, tools, event = done.stdout.splitlines()
    assert lm.startswith("lm cannot be sent to Ray's actors: TypeError: cannot pickle '_thread.lock' object")
    assert "give models as text" in lm
    assert tools.startswith("tools cannot be sent")
    assert "on_event would be called in other processes" in event


def test_an_unknown_engine_is_refused():
    """And says which there are."""
    with pytest.raises(InputError, match='"local" or "ray", not \'spark\''):
        RLM("a -> b", lm="offline").map([], engine="spark")
