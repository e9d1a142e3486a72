"""The benchmarks measure what they say: the scripted server, the sides' processes, the tables."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent / "benchmarks"
sys.path.insert(0, str(HERE))  # they are programs, not a package: `python tests/benchmarks`

import measures  # noqa: E402 - found by the line above
import scripts  # noqa: E402 - found by the line above
import server  # noqa: E402 - found by the line above
import tables  # noqa: E402 - found by the line above


def test_the_readme_shows_what_was_measured():
    """Its table is made of the results that are kept beside the benchmarks, number by number."""
    report = json.loads((HERE / "results.json").read_text())
    readme = (HERE.parent.parent / "README.md").read_text()
    assert tables.into_readme(readme, report) == readme
    assert all(name in tables.summary(report) for name in ("LiteLLM alone", "1,000 sub-calls", " ms | "))


@pytest.mark.parametrize("dialect", ["ours", "dspy", "predict", "rlm"])
def test_a_script_ends_when_it_says(dialect):
    """In every dialect turns3 is two idle cells and then the answer, as the prompt shows how far it is."""
    shown = {"ours": lambda n: [{"role": "assistant", "content": "```python\nx\n```"}] * n,
             "rlm": lambda n: [{"role": "assistant", "content": "```repl\nx\n```"}] * n}  # fmt: skip
    steps = shown.get(
        dialect, lambda n: [{"role": "user", "content": "".join(f"=== Step {i} ===\n" for i in range(n))}]
    )
    told = [scripts.reply(dialect, "turns3", [{"role": "user", "content": "?"}, *steps(n)]) for n in range(3)]
    assert told[0] == told[1] != told[2] and ("SUBMIT" in told[2] or "ready" in told[2])


def test_every_tenth_request_meets_the_fault():
    """A fault in the model's name is met by one request in ten."""
    handler = scripts.Scripts()
    answers = [handler({"model": "ours.sub.0.429", "messages": []}) for _ in range(20)]
    assert [answer.status for answer in answers].count(429) == 2


def test_a_side_answers_and_the_server_counts_its_calls():
    """A run of two turns and a fan-out of twenty through a side's process are 2 and 21 requests, twenty at once."""
    with server.Server() as scripted:
        side = measures.Side("ours, direct", scripted.url)
        try:
            side.ready()
            scripted.read()
            assert side.ask("turns", 2)["wall"] > 0 and scripted.read()["calls"] == 2
            answer = side.ask("fan", 20)
            told = scripted.read()
            assert told["calls"] == 21 and len(told["prompt_chars"]) == 21
            assert answer["wall"] >= 0.1 and answer["own"] > 0
            assert side.ask("run", "fan20", 0, 0, "sub.3000") and scripted.read()["max_in_flight"] == 20
            assert side.ask("nothing") is None and "nothing" in side.error
        finally:
            side.close()
        assert side._process.returncode == 0


def test_a_side_that_hangs_is_ended(monkeypatch):
    """A command that takes too long ends the side with its processes, and the bench goes on without it."""
    monkeypatch.setattr(measures, "SECONDS", 60.0)
    with server.Server() as scripted:
        side = measures.Side("ours, direct", scripted.url)
        side.ready()
        monkeypatch.setattr(measures, "SECONDS", 0.2)
        assert side.ask("many", 1, 2, 60_000) is None and "no answer in 0.2 s" in side.error
        assert side._process.poll() is not None and side.ask("turns", 2) is None


def test_tables_show_medians_and_ratios():
    """Median, spread and the median of the rounds' own ratios reach the Markdown; a failure is a note."""
    rows = [
        measures.Row("case", "ours", "s", [3.0, 1.0, 2.0], [1.5, 1.0, 1.25]),
        measures.Row("case", "peer", "s", [], note="it | failed"),
    ]
    report = {
        "machine": "m", "load": 0.0, "seconds": 1, "quick": True, "versions": {"a": "1"}, "left_out": ["many"],
        "peers": {"x": "not installed", "y": "measured"}, "rows": [row.data() for row in rows],
    }  # fmt: skip
    written = tables.markdown(report)
    assert (
        "| case | ours | 2 | s | 1 to 3 | 1.25 |  |" in written
        and "| case | peer |  | s |  |  | it / failed |" in written
    )
    assert "Not measured: x (not installed)." in written and "Left out for time: many." in written
