"""``python tests/benchmarks [--quick] [CASE ...]``: us beside our peers and the floors, in one run on this machine.

Everything talks real HTTP to a scripted server on loopback. Sides run in processes of their own and take turns, so that
what else the machine does hits all of them; medians and ratios count, absolute times move with the machine. Peers that
are not installed are left out; PEERS_PYTHON names another Python that has them. Writes RESULTS.md and results.json,
plots where matplotlib is there, and the README's table where nothing was left out by ``--quick`` or ``--out``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from importlib import metadata
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent.parent)]
SOURCES = ("dszig-py", "dspy", "litellm", "aiohttp", "pydantic")
QUICK_SECONDS, FULL_SECONDS = 110, 840


def main():
    from measures import CASES, Bench
    from server import Server

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", help=f"of {', '.join(case.__name__ for case in CASES)}; all by default")
    parser.add_argument("--quick", action="store_true", help="fewer rounds and smaller sizes: under two minutes")
    parser.add_argument("--rounds", type=int, default=100, help="at most so many of each")
    parser.add_argument("--out", type=Path, default=HERE)
    given = parser.parse_args()
    started, left_out = time.monotonic(), []
    with Server() as server:
        bench = Bench(server, given.quick, given.rounds)
        try:
            for case in CASES:
                if given.cases and case.__name__ not in given.cases:
                    continue
                if time.monotonic() - started > (QUICK_SECONDS if given.quick else FULL_SECONDS):
                    left_out.append(case.__name__)
                    continue
                print(f"{time.monotonic() - started:4.0f} s  {case.__name__}", file=sys.stderr)
                bench.group = case.__name__
                case(bench)
        finally:
            bench.close()
    report = {
        "machine": f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "versions": {name: metadata.version(name) for name in SOURCES},
        "peers": {name: side.has and "measured" or side.error for name, side in bench.sides.items()},
        "seconds": round(time.monotonic() - started),
        "load": os.getloadavg()[1],
        "quick": given.quick,
        "left_out": left_out,
        "rows": [row.data() for row in bench.rows],
    }
    written(merged(report, given) if given.cases else report, given.out)


def merged(report, given):
    """What an earlier run measured stays, where this one was asked for some cases only."""
    earlier = given.out / "results.json"
    if not earlier.exists() or (known := json.loads(earlier.read_text()))["quick"] != given.quick:
        return report
    from measures import CASES

    rows = report["rows"] + [row for row in known["rows"] if row["group"] not in given.cases]
    order = [case.__name__ for case in CASES]
    rows.sort(key=lambda row: order.index(row["group"]))
    return {
        **report,
        "rows": rows,
        "seconds": report["seconds"] + known["seconds"],
        "pieces": known.get("pieces", 1) + 1,
    }


def written(report, folder):
    from tables import into_readme, markdown, plots, shown

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(report, indent=1) + "\n")
    (folder / "RESULTS.md").write_text(markdown(report, plots(report, folder)))
    if folder == HERE and not report["quick"]:  # the README's table is that of a whole run
        readme = HERE.parent.parent / "README.md"
        readme.write_text(into_readme(readme.read_text(), report))
    shown(report)


if __name__ == "__main__":
    main()
