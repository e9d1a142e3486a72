"""One side of a comparison, in a process of its own: ``python sides.py NAME URL`` reads a command a line, answers a line.

A command is ``["turns", [5]]``: a method below and its arguments. The answer has the wall seconds, the CPU
seconds of the whole process tree, and of this process alone. A peer that is not installed says so at once; it may be installed for another Python (PEERS_PYTHON).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent), str(Path(__file__).parent.parent.parent)]
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
MB = 1_000_000


def text_of(megabytes):
    return "0123456789" * (megabytes * MB // 10) if megabytes else "t"


class Ours:
    """An RLM over LiteLLM, or over the direct transport."""

    dialect = "ours"

    def __init__(self, url, kind):
        from dszig_py.lm import DirectLM, LiteLLM

        made = DirectLM if kind == "direct" else LiteLLM
        self.lm = lambda name: made(f"openai/{name}", api_base=url, api_key="none")
        self.rlms, self.texts = {}, {}

    async def run(self, script, latency=0, megabytes=0, sub="sub.100", **more):
        from dszig_py import RLM, Budget

        key = script, latency, sub, *more
        if key not in self.rlms:
            budget = Budget(max_llm_calls=None, max_iters=50, max_concurrency=2000, **more)
            lm, sub_lm = self.lm(f"ours.{script}.{latency}"), self.lm(f"ours.{sub}")
            self.rlms[key] = RLM("text -> answer", lm=lm, sub_lm=sub_lm, budget=budget)
        prediction = await self.rlms[key].acall(text=text_of(megabytes))
        assert prediction.answer == "1", prediction

    async def turns(self, count):
        await self.run(f"turns{count}")

    async def grow(self, count):
        await self.run(f"grow{count}")

    async def find(self, megabytes, count):
        await self.run(f"find{count}", megabytes=megabytes)

    async def fan(self, count):
        await self.run(f"fan{count}")

    async def many(self, runs, count, latency):
        await asyncio.gather(*(self.run(f"turns{count}", latency) for _ in range(runs)))

    async def tree(self, count):
        await self.run(f"tree{count}", 100, sub="turns2.100")

    async def questions(self, megabytes, count):
        """Many runs over one text, as an evaluation has them; eight at a time."""
        from dszig_py import RLM

        rlm, at_once = RLM("text -> answer", lm=self.lm("ours.turns2.0")), asyncio.Semaphore(8)
        if megabytes not in self.texts:
            self.texts[megabytes] = text_of(megabytes)
        text = self.texts[megabytes]

        async def one():
            async with at_once:
                assert (await rlm.acall(text=text)).answer == "1"

        await asyncio.gather(*(one() for _ in range(count)))


class Unfrozen(Ours):
    """The same with the garbage collector left alone, however many runs there are: what that is worth."""

    def __init__(self, url, kind):
        os.environ["DSZIG_FREEZE"] = "0"
        super().__init__(url, kind)

    grow = find = fan = tree = questions = None


class Bare:
    """The calls of our runs without us: the floor. ``kind`` "litellm" is litellm.acompletion, "direct" the transport."""

    def __init__(self, url, kind):
        self.url, self.kind, self.said = url, kind, {}

    async def ask(self, name, messages):
        if self.kind == "litellm":
            import litellm

            await litellm.acompletion(model=f"openai/{name}", messages=messages, api_base=self.url, api_key="none")
            return
        from dszig_py.lm import DirectLM, Message, Request

        request = Request(tuple(Message(m["role"], m["content"]) for m in messages))
        await DirectLM(f"openai/{name}", api_base=self.url, api_key="none").complete(request)

    def conversation(self, script):
        """What one of our runs sends, turn by turn, so that the bare calls carry the same characters."""
        if script not in self.said:
            from scripts import reply

            from dszig_py import RLM
            from dszig_py.lm import ScriptedLM

            lm = ScriptedLM(
                lambda r: reply("ours", script, [{"role": m.role, "content": m.content} for m in r.messages])
            )
            RLM("text -> answer", lm=lm, max_iters=50)(text="t")
            self.said[script] = [[{"role": m.role, "content": m.content} for m in r.sent] for r in lm.requests]
        return self.said[script]

    async def run(self, script, latency):
        for messages in self.conversation(script):
            await self.ask(f"ours.{script}.{latency}", messages)

    async def turns(self, count):
        await self.run(f"turns{count}", 0)

    async def fan(self, count):
        await self.run("turns1", 0)
        await asyncio.gather(*(self.ask("ours.sub.100", [{"role": "user", "content": "q"}]) for _ in range(count)))

    async def many(self, runs, count, latency):
        await asyncio.gather(*(self.run(f"turns{count}", latency) for _ in range(runs)))

    async def rate(self, calls, at_once):
        async def one():
            for _ in range(calls // at_once):
                await self.ask("ours.sub.0", [{"role": "user", "content": "q"}])

        await asyncio.gather(*(one() for _ in range(at_once)))


class Threaded:
    """A peer whose runs are blocking calls: many at once are threads."""

    async def turns(self, count):
        self.run(f"turns{count}")

    async def grow(self, count):
        self.run(f"grow{count}")

    async def find(self, megabytes, count):
        self.run(f"find{count}", megabytes=megabytes)

    async def fan(self, count):
        self.run(f"fan{count}")

    async def many(self, runs, count, latency):
        with ThreadPoolExecutor(runs) as pool:
            list(pool.map(lambda _: self.run(f"turns{count}", latency), range(runs)))


class Dspy(Threaded):
    """dspy.RLM with its LocalInterpreter: an open subprocess, no boundary."""

    def __init__(self, url, kind):
        import dspy

        self.lm = lambda name: dspy.LM(f"openai/{name}", api_base=url, api_key="none", cache=False)

    def run(self, script, latency=0, megabytes=0):
        import dspy

        with dspy.context(lm=self.lm(f"dspy.{script}.{latency}")):
            rlm = dspy.RLM(
                "text -> answer", interpreter_factory=dspy.LocalInterpreter, sub_lm=self.lm("dspy.sub.100"),
                max_iters=50, max_llm_calls=100_000,
            )  # fmt: skip
            assert rlm(text=text_of(megabytes)).answer == "1"


class AlexRLM(Threaded):
    """alexzhang13/rlm with its local environment: code runs in the host process. One run at a time: it is not safe
    for several (it swaps the process's stdout).
    """

    def __init__(self, url, kind):
        import rlm.core.rlm

        self.made, self.url = rlm.core.rlm.RLM, url

    def options(self, name):
        return {"base_url": self.url, "api_key": "none", "model_name": name}

    def run(self, script, latency=0, megabytes=0):
        rlm = self.made(
            backend="openai", backend_kwargs=self.options(f"rlm.{script}.{latency}"), other_backends=["openai"],
            other_backend_kwargs=[self.options("rlm.sub.100")], max_iterations=50,
        )  # fmt: skip
        with contextlib.redirect_stdout(sys.stderr):
            assert rlm.completion(text_of(megabytes), root_prompt="?").response == "1"

    many = None


class PredictRLM(Threaded):
    """predict-rlm with its local Python backend: no boundary; a private path and an explicit end, which it needs."""

    def __init__(self, url, kind):
        import dspy
        import predict_rlm

        self.made = predict_rlm.PredictRLM
        self.lm = lambda name: dspy.LM(f"openai/{name}", api_base=url, api_key="none", cache=False)

    def run(self, script, latency=0, megabytes=0):
        from predict_rlm.backends.supervisor.runner import DirectPythonBackend

        with tempfile.TemporaryDirectory() as folder:
            backend = DirectPythonBackend(runner_path=f"{folder}/payload.py", workdir=folder)
            try:
                rlm = self.made(
                    "text -> answer", lm=self.lm(f"predict.{script}.{latency}"), sub_lm=self.lm("predict.sub.100"),
                    interpreter=backend, max_iterations=50, verbose=False,
                )  # fmt: skip
                assert rlm(text=text_of(megabytes)).answer == "1"
            finally:
                backend.shutdown()

    many = fan = None  # its fan-out deadlocks on this backend, and threads leave processes behind


SIDES = {
    "ours": (Ours, "litellm"),
    "ours, direct": (Ours, "direct"),
    "ours, DSZIG_FREEZE=0": (Unfrozen, "litellm"),
    "bare LiteLLM": (Bare, "litellm"),
    "bare direct": (Bare, "direct"),
    "dspy.RLM": (Dspy, ""),
    "alexzhang13/rlm": (AlexRLM, ""),
    "predict-rlm": (PredictRLM, ""),
}


def tree(pid=None):
    """This process and all below it."""
    pid = pid or os.getpid()
    found = [pid]
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children") as file:
                found += [p for child in file.read().split() for p in tree(int(child))]
    return found


def cpu():
    """CPU seconds of the tree, those of its ended and waited-for processes included; in steps of 10 ms."""
    ticks = 0
    for pid in tree():
        with contextlib.suppress(OSError), open(f"/proc/{pid}/stat") as file:
            ticks += sum(int(n) for n in file.read().rpartition(")")[2].split()[11:15])
    return ticks / os.sysconf("SC_CLK_TCK")


def memory():
    """MiB of the tree: proportional set sizes, so that what processes share counts once."""
    kib = 0
    for pid in tree():
        with contextlib.suppress(OSError), open(f"/proc/{pid}/smaps_rollup") as file:
            kib += next(int(line.split()[1]) for line in file if line.startswith("Pss:"))
    return kib / 1024


async def one(side, method, arguments):
    sample = None
    if method == "memory":  # of so many runs, in the middle of their third turn
        runs = arguments[0]
        working = asyncio.create_task(side.many(runs, 4, 1000 + 5 * runs))
        await asyncio.sleep(2.5 * (1 + runs / 200))
        sample = await asyncio.to_thread(memory)
        await working
        return {"mib": sample}
    before, own, started = cpu(), time.process_time(), time.perf_counter()
    await getattr(side, method)(*arguments)
    wall, own = time.perf_counter() - started, time.process_time() - own
    return {"wall": wall, "cpu": cpu() - before, "own": own}


async def main():
    made, kind = SIDES[sys.argv[1]]
    out = os.fdopen(os.dup(1), "w")  # peers print on theirs
    os.dup2(2, 1)

    def say(what):
        print(json.dumps(what), file=out, flush=True)

    try:
        side = made(sys.argv[2], kind)
    except ImportError as error:
        say({"error": f"not installed: {error}"})
        return
    say(
        {
            "has": [
                name
                for name in ("turns", "grow", "find", "fan", "many", "tree", "questions", "rate")
                if getattr(side, name, None)
            ]
        }
    )
    while line := await asyncio.to_thread(sys.stdin.readline):
        try:
            say(await one(side, *json.loads(line)))
        except Exception as error:
            say({"error": f"{type(error).__name__}: {error}"[:300]})


if __name__ == "__main__":
    asyncio.run(main())
