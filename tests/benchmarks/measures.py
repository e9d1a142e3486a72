"""What is measured: each function here is one case, over the sides that can do it, in turns A B C A B C ..."""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from sides import MB, SIDES

HERE = Path(__file__).parent
FLOOR = "floor"
VARIANT = "ours, DSZIG_FREEZE=0"  # measured with many runs alone, where the collector matters
SECONDS = 60.0  # what one command of one side may take


@dataclass
class Row:
    """One line of the table. ``values``: one per round. ``over``: the same round's floor."""

    case: str
    side: str
    unit: str
    values: list[float]
    ratios: list[float] = field(default_factory=list)
    note: str = ""
    group: str = ""
    kept: list[dict[str, float]] = field(default_factory=list)

    def data(self):
        middle = statistics.median(self.values) if self.values else None
        spread = [min(self.values), max(self.values)] if self.values else None
        ratio = statistics.median(self.ratios) if self.ratios else None
        named = {"group": self.group, "case": self.case, "side": self.side, "unit": self.unit, "note": self.note}
        return {**named, "median": middle, "spread": spread, "ratio_to_floor": ratio, "rounds": len(self.values)}


class Side:
    """A side's process. One that does not answer in time is ended, with everything below it, and takes no more part."""

    def __init__(self, name, url):
        python = sys.executable
        if name in ("alexzhang13/rlm", "predict-rlm"):
            python = os.environ.get("PEERS_PYTHON", python)
        self.name, self.error = name, ""
        self._process = subprocess.Popen(
            [python, str(HERE / "sides.py"), name, url],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True,
        )  # fmt: skip
        self._lines: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.has: list[str] = []

    def ready(self):
        """Wait until it has said what it can do; then imports and first connections are made."""
        self.has = self._answer().get("has", [])
        for _ in range(2):
            if self.has:
                self.ask("turns", 2)

    def _read(self):
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def _answer(self):
        try:
            line = self._lines.get(timeout=SECONDS)
            answer = json.loads(line) if line else {"error": "its process ended"}
        except queue.Empty:
            answer = {"error": f"no answer in {SECONDS:g} s"}
        self.error = answer.get("error", "")
        if self.error.startswith("no answer"):
            self.close()
        return answer

    def ask(self, method, *arguments):
        """The answer, or nothing where the side failed: ``error`` says why."""
        if self._process.poll() is not None:
            return None
        self._process.stdin.write(json.dumps([method, arguments]) + "\n")
        self._process.stdin.flush()
        answer = self._answer()
        return None if "error" in answer else answer

    def close(self):
        """End it, with all that it started: its group is its own, and what it forked ends with it."""
        if self._process.stdin.closed:
            return
        self._process.stdin.close()
        try:
            self._process.wait(0 if self.error.startswith("no answer") else 5)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._reader.join(5)
        self._process.stdout.close()


class Bench:
    """The rows so far, the sides that run, and how much of everything is done."""

    def __init__(self, server, quick, most):
        self.server, self.quick, self.most, self.rows = server, quick, most, []
        self.group = ""
        self.sides = {name: Side(name, server.url) for name in SIDES}
        for side in self.sides.values():
            side.ready()

    def rounds(self, full, quick=3):
        return min(quick if self.quick else full, self.most)

    def compare(
        self, case, method, arguments, *, rounds, floor=None, only=(), unit="s", value=None, keep=False, warm=False
    ):
        """Sides in turns; ``value`` takes an answer to a number. A side that fails once is left out of later rounds. ``warm``:
        each is asked once more just before, so that its connections are open.
        """
        names = [
            name
            for name in only or [n for n in self.sides if n != VARIANT]
            if method in self.sides[name].has or name in SIDES and method == "memory"
        ]
        found = {name: Row(case, name, unit, [], group=self.group) for name in names}
        for name in names:
            self.sides[name].error = ""
        for _ in range(rounds):
            answers = {}
            for name in (n for n in names if not found[n].note):
                if warm:
                    self.sides[name].ask(method, *arguments)
                answers[name] = self.sides[name].ask(method, *arguments)
            for name, answer in answers.items():
                if answer is None:
                    found[name].note = self.sides[name].error
                    continue
                told = value(answer) if value else answer["wall"]
                found[name].values.append(told)
                found[name].kept += [answer] if keep else []
                if floor and answers.get(floor):
                    found[name].ratios.append(told / (value(answers[floor]) if value else answers[floor]["wall"]))
        self.rows += found.values()
        return found

    def both(self, case, method, arguments, *, rounds, only, calls):
        """Wall seconds beside bare LiteLLM's, and from the same rounds CPU milliseconds a call."""
        answers = self.compare(case, method, arguments, rounds=rounds, floor="bare LiteLLM", only=only, keep=True)
        floor = answers["bare LiteLLM"].kept
        for what, told in (("own", "CPU of the host process"), ("cpu", "CPU with workers")):
            for name, row in answers.items():
                spent = [1e3 * answer[what] / calls for answer in row.kept]
                ratios = [one[what] / other[what] for one, other in zip(row.kept, floor, strict=False) if other[what]]
                if calls >= 100 and (what == "own" or name.startswith("ours")):
                    self.add(f"{case}: {told}", name, "ms a call", spent, ratios)

    def add(self, case, side, unit, values, ratios=(), note=""):
        self.rows.append(Row(case, side, unit, list(values), list(ratios), note, self.group))

    def close(self):
        for side in self.sides.values():
            side.close()


IMPORTS = {
    "pydantic": "from pydantic import BaseModel, TypeAdapter",
    "dszig_py": "from dszig_py import RLM",
    "dspy_compat": "import dspy_compat",
    "dspy": "import dspy",
    "LiteLLM": "import litellm",
    "alexzhang13/rlm": "from rlm import RLM",
    "predict-rlm": "import predict_rlm",
}
TIMED = "import time; t = time.perf_counter(); {}; print(time.perf_counter() - t)"


def imports(bench):
    """A fresh interpreter each; byte code cached. The floor is pydantic, which dszig_py is built on."""
    seconds = {name: [] for name in IMPORTS}
    environ = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "PYTHONPATH": str(HERE.parent.parent)}
    environ.pop("PYTHONDONTWRITEBYTECODE", None)
    environ["PYTHONPYCACHEPREFIX"] = cache = tempfile.mkdtemp()  # what is measured is loading, not compiling
    try:
        _imports(bench, seconds, environ)
    finally:
        shutil.rmtree(cache)


def _imports(bench, seconds, environ):
    for turn in range(1 + bench.rounds(15, 4)):
        for name, line in IMPORTS.items():
            if turn > bench.rounds(3, 1) and name in ("LiteLLM", "predict-rlm"):
                continue  # seconds each, and far from any limit
            python = os.environ.get("PEERS_PYTHON", sys.executable) if name.endswith("rlm") else sys.executable
            done = subprocess.run([python, "-c", TIMED.format(line)], capture_output=True, text=True, env=environ)
            if done.returncode == 0 and turn:
                seconds[name].append(1e3 * float(done.stdout.split()[-1]))
    for name, values in seconds.items():
        floor = statistics.median(seconds["pydantic"])
        bench.add("import", FLOOR if name == "pydantic" else name, "ms", values, [v / floor for v in values])


def runs(bench):
    """A run of two iterations, and what each further one takes, at latency 0."""
    two = bench.compare("run of 2", "turns", [2], rounds=bench.rounds(30, 5), floor="bare LiteLLM", unit="ms", value=ms)
    most = bench.compare("run of 20", "turns", [20], rounds=bench.rounds(10), floor="bare LiteLLM", unit="ms", value=ms)
    for name, row in most.items():
        if row.values and two[name].values:
            first = statistics.median(two[name].values)
            bench.add("each further iteration", name, "ms", [(v - first) / 18 for v in row.values])


def ms(answer):
    return 1e3 * answer["wall"]


def inputs(bench):
    """Ten iterations that each search the whole input; the floor copies it once."""
    biggest = {"dspy.RLM": 100, "predict-rlm": 10, "alexzhang13/rlm": 100}
    for megabytes in (1, 10, 100) if bench.quick else (1, 10, 100, 500, 1000):
        able = [n for n in bench.sides if "find" in bench.sides[n].has and biggest.get(n, 1000) >= megabytes]
        if bench.quick and megabytes > 10:
            able = ["ours"]
        bench.add(
            f"{megabytes} MB input", FLOOR, "s", [memcpy(megabytes) for _ in range(5)], note="memcpy of the input"
        )
        bench.compare(f"{megabytes} MB input", "find", [megabytes, 10], rounds=bench.rounds(3, 2), only=able)


def memcpy(megabytes):
    data = b"0123456789" * (megabytes * MB // 10)
    started = time.perf_counter()
    bytearray(data)
    return time.perf_counter() - started


def questions(bench):
    """Fifty runs over one text of 200 MB, eight at a time; the floor is one such run."""
    megabytes, count = (20, 10) if bench.quick else (200, 50)
    bench.sides["ours, direct"].ask("questions", megabytes, 1)  # the text is made
    one = bench.compare(f"1 question on {megabytes} MB", "questions", [megabytes, 1], rounds=5, only=["ours, direct"])
    all_of = bench.compare(
        f"{count} on {megabytes} MB", "questions", [megabytes, count], rounds=5, only=["ours, direct"]
    )
    first = one["ours, direct"].values
    row = all_of["ours, direct"]
    row.ratios = [value / statistics.median(first) for value in row.values] if first else []


SLOW = (
    "dspy.RLM",
    "alexzhang13/rlm",
)  # peers that take seconds where the others take tenths: fewer rounds, smaller sizes


def fan_out(bench):
    """Sub-calls of 100 ms from one cell; wall, and CPU of the whole process tree."""
    for count in (10, 100, 1000) if bench.quick else (10, 100, 1000, 2000):
        case = f"{count} sub-calls of 100 ms"
        fast = [n for n in bench.sides if "fan" in bench.sides[n].has and n not in SLOW]
        bench.both(case, "fan", [count], rounds=bench.rounds(10 if count == 1000 else 3, 2), only=fast, calls=count)
        if count == 1000:  # a server's connections are given up after four seconds without a call
            direct = ["ours, direct", "bare direct"]
            rounds = bench.rounds(10, 2)
            bench.compare(f"{case}, connections open", "fan", [count], rounds=rounds, only=direct, warm=True)
        if count <= 100 or (count == 1000 and not bench.quick):
            bench.compare(case, "fan", [count], rounds=1, only=SLOW)


def rate(bench):
    """Calls a second of one process, 64 in flight, from a server that answers at once: what the transports allow."""
    for name, calls in (("bare LiteLLM", 640), ("bare direct", 6_400)):
        bench.compare(
            "calls a second, 64 in flight",
            "rate",
            [calls, 64],
            rounds=bench.rounds(4, 2),
            only=[name],
            unit="a second",
            value=lambda answer, calls=calls: calls / answer["wall"],
        )


def many(bench):
    """Runs at once in one process, five iterations of 200 ms each: ideally 1 s."""
    for count in (1, 32) if bench.quick else (1, 32, 128, 512):
        case = f"{count} runs of 5 x 200 ms"
        fast = [n for n in bench.sides if "many" in bench.sides[n].has and n not in SLOW]
        rounds = bench.rounds({128: 10, 512: 2}.get(count, 3), 2)
        bench.both(case, "many", [count, 5, 200], rounds=rounds, only=fast, calls=5 * count)
        if count <= 128:
            bench.compare(case, "many", [count, 5, 200], rounds=1, only=["dspy.RLM"])


def memory(bench):
    """MiB of the whole process tree for each run beyond the first, in the middle of so many runs."""
    count = 32 if bench.quick else 512
    first = bench.compare(
        "memory of 1 run", "memory", [1], rounds=1, only=["ours, direct"], unit="MiB", value=lambda a: a["mib"]
    )
    most = bench.compare(
        f"memory of {count} runs",
        "memory",
        [count],
        rounds=1,
        only=["ours, direct"],
        unit="MiB",
        value=lambda a: a["mib"],
    )
    for name, row in most.items():
        if row.values and first[name].values:
            bench.add(
                "memory of each further run", name, "MiB", [(row.values[0] - first[name].values[0]) / (count - 1)]
            )


def recursion(bench):
    """Eight children of two iterations at 100 ms below one root: ideally 0.4 s."""
    bench.compare("8 children of 2 x 100 ms", "tree", [8], rounds=bench.rounds(5, 2))


def growth(bench):
    """Characters of all prompts of a run of twenty iterations that each print 5,000 characters."""
    sizes = {}
    for name, side in bench.sides.items():
        bench.server.read()
        if "grow" in side.has and side.ask("grow", 20):
            sizes[name] = bench.server.read()["prompt_chars"]
    for case, told in (("prompts of 20 iterations, all", sum), ("prompts of 20 iterations, largest", max)):
        for name, found in sizes.items():
            bench.add(case, name, "characters", [float(told(found))])


def opening(bench):
    """The default environment by itself: see environment.py."""
    import asyncio

    import environment

    found = asyncio.run(environment.small())
    for name, value in found.items():
        told, _, unit = name.rpartition("_")
        if name == "private_mib_a_worker":
            told, unit = "private memory of a worker", "MiB"
        if value is not None:
            bench.add("environment", told.replace("_", " "), unit, [value])


def tracing(bench):
    """CPU of a run of many sub-calls with a trace over the CPU of the same without: see trace_overhead.py."""
    import trace_overhead

    from dszig_py.lm import ScriptedLM

    found = trace_overhead.measure(500, bench.rounds(9, 3), ScriptedLM(lambda _: "ok"))
    bench.add(
        "tracing", "CPU with over without", "x", [found["ratio"]], note="a model that answers at once: the worst case"
    )


CASES = (imports, opening, runs, inputs, questions, fan_out, rate, many, memory, recursion, growth, tracing)
