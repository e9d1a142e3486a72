"""What a live trace costs: CPU of a run of many sub-calls with it, over the CPU of the same run without.

Both are measured in turns in one process, because absolute times move with the machine; the best of each side counts,
because noise only adds. ``share`` is the tracer's own CPU in a run over that of the whole run, which noise hardly moves;
it counts the clock as well (about half a microsecond an event). Two models: one that answers at once, so that nothing but this library's own work is left, and a
server on loopback through LiteLLM, as runs are. ``python tests/benchmarks/trace_overhead.py [--calls 1000] [--rounds 15]``.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from dszig_py import RLM, Budget, Trajectory
from dszig_py.lm import LiteLLM, ScriptedLM
from dszig_py.trace import Tracer

SERVE = """
import sys
sys.path.insert(0, sys.argv[1])
from scripted_server import ScriptedServer
with ScriptedServer(lambda body: sys.argv[2]) as server:
    print(server.url, flush=True)
    sys.stdin.read()
"""
CODE = "```python\nanswers = llm_query_batched([f'Which year is named in passage {{i}}? ' + text for i in range({n})])\n```"
REPLY = "The passage names the year 1851, in which the book was first published in London."
TEXT = "Some years ago, never mind how long precisely. " * 6


class _Clock:
    """Adds up the CPU of every call of a tracer."""

    def __init__(self) -> None:
        self.spent = 0.0
        self._call = Tracer.__call__

    def __enter__(self) -> _Clock:
        def timed(tracer: Tracer, event: Any) -> None:
            begun = time.thread_time()
            self._call(tracer, event)
            self.spent += time.thread_time() - begun

        Tracer.__call__ = timed  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        Tracer.__call__ = self._call  # type: ignore[method-assign]


def run(calls: int, sub_lm: Any, trace: Path | None) -> float:
    """CPU seconds of this process for one run, its threads included; the worker's own are not."""
    rlm = RLM(
        "text: str -> n: int",
        lm=ScriptedLM([CODE.format(n=calls), "```python\nSUBMIT(n=len(answers))\n```"]),
        sub_lm=sub_lm,
        budget=Budget(max_llm_calls=calls),
        trace=trace,
    )
    gc.collect()
    time.sleep(0.2)  # what the run before has left to other threads is not this one's
    begun = time.process_time()
    prediction = rlm(text=TEXT)
    spent = time.process_time() - begun
    assert prediction.outputs == {"n": calls}
    if trace is not None:
        assert Trajectory.load(trace) == prediction.trajectory
    return spent


def measure(calls: int, rounds: int, sub_lm: Any) -> dict[str, float]:
    """Microseconds of CPU a sub-call on both sides, and their ratio."""
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "run.jsonl"
        run(calls, sub_lm, None), run(calls, sub_lm, trace)
        pairs: list[tuple[float, float]] = []
        for number in range(rounds):  # A B, B A, ...: neither side always follows the other
            order = (None, trace) if number % 2 else (trace, None)
            spent = {side: run(calls, sub_lm, side) for side in order}
            pairs.append((spent[None], spent[trace]))
        with _Clock() as clock:
            share = sorted(_share(clock, run(calls, sub_lm, trace)) for _ in range(rounds))[rounds // 2]
        size = trace.stat().st_size
    off, on = (min(side) / calls * 1e6 for side in zip(*pairs, strict=True))
    us = {"off_us": round(off, 1), "on_us": round(on, 1)}
    return {**us, "ratio": round(on / off, 4), "share": round(share, 4), "bytes_a_call": size // calls}


def _share(clock: _Clock, whole: float) -> float:
    spent, clock.spent = clock.spent, 0.0
    return spent / whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=15)
    given = parser.parse_args()
    print("at once", json.dumps(measure(given.calls, given.rounds, ScriptedLM(lambda _: REPLY))))
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    args = [sys.executable, "-c", SERVE, str(Path(__file__).parent.parent), REPLY]
    with subprocess.Popen(args, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        lm = LiteLLM("openai/scripted", api_base=url, api_key="-")
        print("litellm", json.dumps(measure(given.calls, max(3, given.rounds // 5), lm)))
        server.communicate("")


if __name__ == "__main__":
    main()
