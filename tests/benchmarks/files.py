"""A log of 10 GB as a File: searched, counted and sliced by a run, next to the same scan by mmap in plain Python.

``python tests/benchmarks/files.py [GB]``. The log is sparse: islands of real text of 16 MB in every 256 MB, holes between
them; each scan reads all of it. Both sides take turns, five times, and the medians are compared. Memory: the worker's VmHWM (its own high-water mark) as the code itself cannot read it, so
it is sampled from /proc by the host, ten times a second; the host's growth is its own VmHWM less what it held before.
"""

from __future__ import annotations

import json
import mmap
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

MB = 1_000_000
ROUNDS = 5
ISLAND, EVERY = 16 * MB, 256 * MB
CODE = """```python
import time
t, said = log.text(), {}
for name, scan in {
    "find": lambda: t.find("needle in the last island"),
    "count": lambda: t.count("ERROR"),
    "search": lambda: t.search(r"needle (in|of) the last").start(),
    "slices": lambda: sum(len(t[i : i + 200]) for i in range(0, len(t), len(t) // 1000)),
}.items():
    started = time.perf_counter()
    found = scan()
    said[name] = [found, time.perf_counter() - started]
SUBMIT(found=said)
```"""


def write(path: Path, size: int) -> None:
    """The sparse log; its last island ends with the needle."""
    island = "".join(
        f"2026-01-01 {n:08} {'ERROR' if n % 1000 == 0 else 'info'} request served\n" for n in range(400_000)
    )
    island = island.encode()[:ISLAND]
    with open(path, "wb") as file:
        file.truncate(size)
        for at in range(0, size - 2 * ISLAND, EVERY):
            os.pwrite(file.fileno(), island, at)
        os.pwrite(file.fileno(), b"\nneedle in the last island\n", size - 1000)


def plain(path: Path) -> dict[str, list[float]]:
    """The same by mmap: find, count block by block (a mapping has none), search, slices."""
    said: dict[str, list[float]] = {}
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        size, block = len(data), 4 << 20
        scans = {
            "find": lambda: data.find(b"needle in the last island"),
            "count": lambda: sum(data[at : at + block].count(b"ERROR") for at in range(0, size, block)),
            "search": lambda: re.search(rb"needle (in|of) the last", data).start(),
            "slices": lambda: sum(len(data[i : i + 200].decode()) for i in range(0, size, size // 1000)),
        }
        for name, scan in scans.items():
            started = time.perf_counter()
            found = scan()
            said[name] = [found, time.perf_counter() - started]
    return said


def memory(pid: int | str, what: str) -> float:
    """Megabytes of ``VmHWM`` or ``VmRSS``; 0 where the process is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    found = re.search(rf"{what}:\s+(\d+) kB", status)
    return int(found[1]) / 1024 if found else 0.0


class Watch(threading.Thread):
    """The largest memory of any worker while the run lasts."""

    def __init__(self, zygote: int) -> None:
        super().__init__(daemon=True)
        self.zygote, self.most, self.over = zygote, 0.0, threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.1):
            children = Path(f"/proc/{self.zygote}/task/{self.zygote}/children").read_text().split()
            self.most = max([self.most, *(memory(pid, "VmHWM") for pid in children)])


def ours(path: Path, rlm: Any) -> tuple[dict[str, list[float]], float, float]:
    """What the run found, with the most memory of the worker and the growth of the host, in megabytes."""
    from dszig_py.environments import _zygote

    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew
    watch, before = Watch(_zygote.zygote().pid), memory("self", "VmRSS")
    watch.start()
    found = rlm(log=path).found
    watch.over.set()
    watch.join()
    return found, watch.most, memory("self", "VmHWM") - before


def an_rlm(path: Path) -> Any:
    """What runs the code on the log, warmed up: what is loaded once is no growth."""
    from dszig_py import RLM
    from dszig_py.environments.process import ProcessEnvironment
    from dszig_py.testing import ScriptedLM

    environment = ProcessEnvironment(cell_seconds=600, memory="1GiB")
    small = path.with_suffix(".small")
    small.write_text("needle in the last island\n" * 100)
    lm = ScriptedLM([CODE], repeat_last=True)
    rlm = RLM("log: File -> found: dict[str, list[float]]", lm=lm, environment=environment)
    rlm(log=small)
    return rlm


def in_its_own_process(path: Path) -> dict[str, list[float]]:
    """The plain scan: its mapping would count as this process's memory."""
    done = subprocess.run([sys.executable, __file__, "plain", str(path)], capture_output=True, check=True)  # noqa: S603
    return json.loads(done.stdout)


def show(found: list[dict[str, list[float]]], expected: list[dict[str, list[float]]]) -> None:
    """Medians of each scan and of all, once both sides have found the same."""
    for name in expected[0]:
        assert {one[name][0] for one in found} == {one[name][0] for one in expected}, name
    for names in (*([name] for name in expected[0]), list(expected[0])):
        taken, plainly = (
            statistics.median(sum(one[name][1] for name in names) for one in side) for side in (found, expected)
        )
        told = f"{taken:.3f} s, plain mmap {plainly:.3f} s, {taken / plainly:.2f} x"
        print(f"{names[0] if len(names) == 1 else 'all'}: {told}")


def main() -> None:
    if sys.argv[1:2] == ["plain"]:
        print(json.dumps(plain(Path(sys.argv[2]))))
        return
    size = int(float(sys.argv[1] if len(sys.argv) > 1 else 10) * 1000 * MB)
    folder = Path(tempfile.mkdtemp())
    try:
        if shutil.disk_usage(folder).free < size // 8:
            print("skipped: no room for the log")
            return
        path = folder / "app.log"
        write(path, size)
        in_its_own_process(path)  # from here on, both find the pages in memory, or both do not
        rlm = an_rlm(path)
        rounds = [(ours(path, rlm), in_its_own_process(path)) for _ in range(ROUNDS)]
        show([found for (found, _, _), _ in rounds], [expected for _, expected in rounds])
        workers, hosts = zip(*((worker, host) for (_, worker, host), _ in rounds), strict=True)
        print(f"worker {max(workers):.0f} MiB, host +{max(hosts):.0f} MiB")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
