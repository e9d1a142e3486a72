"""How long the default environment takes: ``python tests/benchmarks/environment.py``. Medians, one process.

The peer is dspy's LocalInterpreter (an open subprocess, no boundary), in the same run.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import time

from dszig_py.contract import compile_contract
from dszig_py.environments.base import CellLimits
from dszig_py.environments.process import ProcessEnvironment
from dszig_py.signature import Signature

MB = 1_000_000


class Host:
    """Answers every call at once: what is left is the way there and back."""

    functions = {"echo": "echo(x)"}

    async def call(self, name, args, kwargs):
        return args[0]

    async def submit(self, args, kwargs):
        return {"answer": args[0]}


def contract(text="x"):
    return compile_contract(Signature.parse("text -> answer"), {"text": text})


async def timed(times, make):
    seconds = []
    for _ in range(times):
        started = time.perf_counter()
        await make()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


async def small():
    environment, limits, host = ProcessEnvironment(), CellLimits(), Host()
    session = await environment.open(contract(), host, limits)  # the zygote is up after this
    found = {}

    async def first():
        fresh = await environment.open(contract(), host, limits)
        await fresh.execute("1")
        opened.append(fresh)

    opened = []
    found["open_and_first_execution_ms"] = 1e3 * await timed(40, first)
    private = [private_kib(pid) for pid in workers()]
    found["private_mib_a_worker"] = statistics.median(private) / 1024 if private else None
    for one in opened:
        await one.close()
    found["execution_us"] = 1e6 * await timed(500, lambda: session.execute("1"))
    started = time.perf_counter()
    await session.execute("for _ in range(5000): echo(1)")
    found["host_call_us"] = (time.perf_counter() - started) / 5000 * 1e6
    await session.close()
    started = time.perf_counter()
    many = await asyncio.gather(*(environment.open(contract(), host, limits) for _ in range(128)))
    await asyncio.gather(*(one.execute("1") for one in many))
    await asyncio.gather(*(one.close() for one in many))
    found["128_sessions_opened_and_closed_s"] = time.perf_counter() - started
    return found


def workers():
    """Process numbers of the zygote's children."""
    from dszig_py.environments._zygote import zygote

    pid = zygote().pid
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(p) for p in file.read().split()]


def private_kib(pid):
    with open(f"/proc/{pid}/smaps_rollup") as file:
        fields = dict(line.split(":", 1) for line in file if ":" in line)
    return sum(int(fields[name].split()[0]) for name in ("Private_Clean", "Private_Dirty"))


async def big(megabytes, iterations=10):
    text = "0123456789" * (megabytes * MB // 10)
    environment = ProcessEnvironment()
    started = time.perf_counter()
    session = await environment.open(contract(text), Host(), CellLimits())
    await session.execute("1")  # its worker is up
    bound = time.perf_counter() - started
    for _ in range(iterations):
        await session.execute("text.find('never')")
    seconds = time.perf_counter() - started
    with open(f"/proc/{workers()[-1]}/status") as file:
        status = dict(line.split(":", 1) for line in file if ":" in line)
    await session.close()
    return {"bind_s": bound, "run_s": seconds, "worker_peak_mib": int(status["VmHWM"].split()[0]) / 1024}


def peer(megabytes, iterations=10):
    import dspy

    text = "0123456789" * (megabytes * MB // 10)
    started = time.perf_counter()
    interpreter = dspy.LocalInterpreter()
    try:
        for _ in range(iterations):
            interpreter.execute("text.find('never')", variables={"text": text})
    finally:
        interpreter.shutdown()
    return time.perf_counter() - started


def main():
    found = {"small": asyncio.run(small())}
    found["100MB"] = asyncio.run(big(100))
    found["100MB"]["dspy_local_interpreter_s"] = peer(100)
    found["100MB"]["times_faster"] = found["100MB"]["dspy_local_interpreter_s"] / found["100MB"]["run_s"]
    if "--gigabyte" in sys.argv:
        found["1GB"] = asyncio.run(big(1000, 1))
    found["cores"] = os.cpu_count()
    print(json.dumps(found, indent=2, default=lambda value: round(value, 3)))


if __name__ == "__main__":
    main()
