"""Our share beside the model's: ``python tests/benchmarks/fan_out.py [pairs]``. Against bare LiteLLM, in turns A B A B.

A scripted OpenAI-compatible server on loopback, in a process of its own, answers after a set latency. Bare is
``litellm.acompletion`` and ``asyncio.gather``. Medians of the pairs' ratios are what counts; absolute times move with
the machine. Then how late a run ends that has seconds, in five rounds; asked is half a second at most.
"""

from __future__ import annotations

import asyncio
import gc
import json
import multiprocessing
import resource
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

CELL = "```python\n{}\n```"


def serve(pipe):
    from scripted_server import Answer, ScriptedServer

    def answer(body):
        name = body["model"]
        latency = float(name.rpartition("-")[2]) / 1000
        return Answer(reply(name, body["messages"]), latency=latency)

    with ScriptedServer(answer, keep=False) as server:
        pipe.send(server.url)
        pipe.recv()


def reply(name, messages):
    turns = sum(m["role"] == "assistant" for m in messages)
    if name.startswith("fan"):
        return CELL.format("r = llm_query_batched(['q'] * int(text))\nSUBMIT(answer=str(len(r)))")
    if name.startswith("five"):
        return CELL.format("x = 1" if turns < 4 else "SUBMIT(answer='done')")
    if name.startswith("parent"):
        return CELL.format("SUBMIT(answer=''.join(rlm_query_batched(['p'] * 8)))")
    if name.startswith("child"):
        return CELL.format("x = 1" if turns < 1 else "SUBMIT(answer='c')")
    return "ok"


def model(url, name):
    from dszig_py.lm import LiteLLM

    return LiteLLM(f"openai/{name}", api_base=url, api_key="none")


def cost(work, times=1):
    """(wall seconds, CPU seconds of this process) of a coroutine, the mean of ``times`` in a row."""
    gc.collect()  # or what one side left behind is swept in the other's time
    before, started = cpu(), time.perf_counter()
    for _ in range(times):
        asyncio.run(work())
    return (time.perf_counter() - started) / times, (cpu() - before) / times


def cpu():
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


async def bare(url, calls, name, conversation=()):
    """The same requests without us: each caller sends ``conversation``'s prompts in turn."""
    import litellm

    async def one():
        for messages in conversation or [[{"role": "user", "content": "q"}]]:
            await litellm.acompletion(model=f"openai/{name}", messages=messages, api_base=url, api_key="none")

    await asyncio.gather(*(one() for _ in range(calls)))


def conversation_of(name):
    """What one of our runs sends, turn by turn, so that bare LiteLLM carries the same bytes."""
    from dszig_py import RLM
    from dszig_py.lm import ScriptedLM

    def answer(request):
        return reply(name, [{"role": m.role} for m in request.messages])

    lm = ScriptedLM(answer)
    RLM("text -> answer", lm=lm)(text="t")
    return [[{"role": m.role, "content": m.content} for m in request.sent] for request in lm.requests]


def pairs(count, ours, theirs, calls, times=1):
    """``times``: of each side in a row. A full collection passes over all of LiteLLM's objects and takes as long as a
    hundred calls; in a row long enough each side has its own share of them, instead of one or none.
    """
    ratios, extra = [], []
    cost(ours), cost(theirs)
    for _ in range(count):
        (wall_a, cpu_a), (wall_b, cpu_b) = cost(ours, times), cost(theirs, times)
        ratios.append(wall_a / wall_b)
        extra.append((cpu_a - cpu_b) / calls * 1e3)
    return {
        "wall_ratio": statistics.median(ratios),
        "wall_ratio_range": [min(ratios), max(ratios)],
        "extra_cpu_ms_a_call": statistics.median(extra),
        "extra_cpu_range": [min(extra), max(extra)],
    }


def measure(url, count):
    from dszig_py import RLM, Budget
    from dszig_py.lm.litellm import preload

    preload()
    wide = Budget(max_llm_calls=None, max_concurrency=1000)
    fan = RLM("text -> answer", lm=model(url, "fan-0"), sub_lm=model(url, "sub-100"), budget=wide)
    five = RLM("text -> answer", lm=model(url, "five-200"), budget=wide)
    tree = RLM("text -> answer", lm=model(url, "parent-100"), sub_lm=model(url, "child-100"), budget=wide)

    async def fan_out():
        assert (await fan.acall(text="1000")).answer == "1000"

    async def many():
        found = await asyncio.gather(*(five.acall(text="t") for _ in range(128)))
        assert all(p.answer == "done" for p in found)

    async def children():
        assert (await tree.acall(text="t")).answer == "c" * 8

    cost(children)
    said = conversation_of("five-200")
    return {
        "1000 sub-calls at 100 ms": pairs(count, fan_out, lambda: bare(url, 1000, "sub-100"), 1000),
        "128 runs of 5 at 200 ms": pairs(count, many, lambda: bare(url, 128, "five-200", said), 640, 4),
        "8 children of 2 at 100 ms, wall s": statistics.median(cost(children)[0] for _ in range(5)),
    }


def lateness(seconds, replies, sub=None):
    """How many seconds after its own a run ends that would go on for ever: median and worst, and how often it extracted.
    Below nought: before them, since a tenth is kept for extraction, which takes no time here.
    """
    from dszig_py import RLM, Budget
    from dszig_py.lm import ScriptedLM

    late, extracted = [], 0
    for _ in range(5):
        rlm = RLM("text -> answer", lm=ScriptedLM(replies), sub_lm=sub, budget=Budget(max_seconds=seconds))
        started = time.perf_counter()
        prediction = rlm(text="t")
        late.append(time.perf_counter() - started - seconds)
        assert prediction.termination.kind == "max_seconds", prediction
        extracted += prediction.answer == "late"
    return {"median": statistics.median(late), "worst": max(late), "asked": 0.5, "extracted of 5": extracted}


def deadlines():
    """A cell that spins; and a root with four children, whose cells spin while eight of their sub-calls hang."""
    asked = "import threading\nfor n in '12': threading.Thread(target=llm_query, args=[n]).start()\nwhile True: pass"

    async def child(prompt):
        if "live REPL" not in prompt:
            await asyncio.sleep(600)
        return CELL.format(asked)

    extracted, four = '{"answer": "late"}', "rlm_query_batched(['a', 'b', 'c', 'd'])"
    return {
        "a cell that spins, 2 s, late by s": lateness(2, [CELL.format("while True: pass"), extracted]),
        "a tree of four that hang, 3 s, late by s": lateness(3, [CELL.format(four), extracted], child),
    }


def main():
    here, there = multiprocessing.get_context("spawn").Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(there,))
    server.start()
    try:
        found = measure(here.recv(), int(sys.argv[1]) if len(sys.argv) > 1 else 10)
    finally:
        here.send("stop")
        server.join(10)
    found |= deadlines()
    print(json.dumps(found, indent=2, default=lambda value: round(value, 3)))


if __name__ == "__main__":
    main()
