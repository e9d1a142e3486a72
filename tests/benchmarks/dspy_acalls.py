"""Concurrent ``acall``s inside DSPy, ours beside dspy's own class: code that sleeps half a second, side by side or not.

``python tests/benchmarks/dspy_acalls.py [CALLS]``. The model is a function, so that what is measured is the waiting.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import dspy

sys.path.insert(0, str(Path(__file__).parents[1]))

from dspy_scripted import step

from dspy_compat import RLM, original
from dspy_compat.testing import function_lm

CELL = "import time\ntime.sleep(0.5)\nSUBMIT(answer='x')"
ROUNDS = 5


async def gathered(rlm: Any, calls: int) -> tuple[float, float]:
    """Seconds for all calls, and the longest the event loop stood still meanwhile."""
    longest, stop = 0.0, asyncio.Event()

    async def tick() -> None:
        nonlocal longest
        while not stop.is_set():
            before = time.perf_counter()
            await asyncio.sleep(0.01)
            longest = max(longest, time.perf_counter() - before - 0.01)

    ticking = asyncio.create_task(tick())
    await asyncio.sleep(0)
    started = time.perf_counter()
    answers = await asyncio.gather(*(rlm.acall(text=str(number)) for number in range(calls)))
    seconds = time.perf_counter() - started
    stop.set()
    await ticking
    assert [one.answer for one in answers] == ["x"] * calls
    return seconds, longest


def measured(make: Callable[[], Any], calls: int, rounds: int) -> str:
    """Medians of some rounds, as text."""
    with dspy.context(lm=function_lm(lambda prompt, last: step(CELL))):
        found = [asyncio.run(gathered(make(), calls)) for _ in range(rounds + 1)][1:]
    seconds, longest = (median(one) for one in zip(*found, strict=True))
    return f"{calls} calls in {seconds:.2f} s, the event loop stood still for {longest:.2f} s at most"


def main(calls: int) -> None:
    """Prints a line for each class; fewer calls and one round for dspy's own, which makes them one by one."""
    print("ours:   ", measured(lambda: RLM("text -> answer"), calls, ROUNDS))
    stock = original(dspy)
    print("dspy's: ", measured(lambda: stock("text -> answer", interpreter_factory=dspy.LocalInterpreter), calls, 1))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
