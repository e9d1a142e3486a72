"""What evaluating costs beside the model calls it makes: a thousand needles, sixty-four runs at once.

``python tests/benchmarks/evaluation.py [EXAMPLES]`` prints JSON: wall time over that of the same calls made bare at the same
concurrency, and how peak memory grows with the number of examples (each size in a process of its own).
"""

from __future__ import annotations

import asyncio
import json
import resource
import subprocess
import sys
import time

DELAY = 0.5  # seconds, of one model call
WIDTH = 64
LENGTH = 8_000  # characters


async def bare(calls: int) -> float:
    """Seconds for as many calls of the same model, as many at once, and nothing else."""
    from dszig_py.evals import ReaderLM
    from dszig_py.lm.base import Request

    lm, left, started = ReaderLM(delay=DELAY), iter(range(calls)), time.perf_counter()

    async def work() -> None:
        for _ in left:
            await lm.complete(Request.of("x" * 2_000))

    await asyncio.gather(*(work() for _ in range(WIDTH)))
    return time.perf_counter() - started


def evaluated(examples: int) -> dict[str, float]:
    """One evaluation in this process: seconds, model calls, peak memory in MiB."""
    from dszig_py.evals import ReaderLM, evaluate

    evaluate(
        "needle", "rlm", lm=ReaderLM(), lengths=(LENGTH,), n=2
    )  # the zygote and the background loop are there for good
    started = time.perf_counter()
    found = evaluate("needle", "rlm", lm=ReaderLM(delay=DELAY), lengths=(LENGTH,), n=examples, max_concurrency=WIDTH)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    right = sum(row.score for row in found.rows) / len(found.rows)
    return {"seconds": seconds, "calls": sum(row.calls for row in found.rows), "peak_mib": peak, "right": right}


def in_a_process(examples: int) -> dict[str, float]:
    done = subprocess.run([sys.executable, __file__, "one", str(examples)], check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def main(examples: int) -> dict[str, object]:
    whole, part = in_a_process(examples), in_a_process(examples // 4)
    floor = asyncio.run(bare(int(whole["calls"])))
    return {
        "examples": examples,
        "seconds": round(whole["seconds"], 2),
        "bare_seconds": round(floor, 2),
        "wall_ratio": round(whole["seconds"] / floor, 3),
        "peak_mib": {examples // 4: round(part["peak_mib"], 1), examples: round(whole["peak_mib"], 1)},
        "right": whole["right"],
    }


if __name__ == "__main__":
    if sys.argv[1:2] == ["one"]:
        print(json.dumps(evaluated(int(sys.argv[2]))))
    else:
        print(json.dumps(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000), indent=1))
