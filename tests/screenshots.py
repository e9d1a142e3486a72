"""The pictures of the README: a run with a bit of everything, made on the spot and photographed by headless Chromium.

``python tests/screenshots.py FOLDER`` writes them; the tests use the run and the browser as well.
"""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from dszig_py import RLM, Budget, LMError
from dszig_py.lm import ScriptedLM
from dszig_py.render.html import page
from dszig_py.trajectory import Prediction

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM = Path(next(filter(None, map(shutil.which, NAMES)), "/usr/bin/chromium"))
QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
)
DARK = "--blink-settings=preferredColorScheme=0"

LOOK = """print(len(tickets), "tickets")
for ticket in tickets[:3]:
    print("-", ticket)"""
FAILS = """import csv
rows = list(csv.DictReader(tickets))          # one row a ticket, or so it seems
areas = {row["area"] for row in rows}
print(sorted(areas))"""
BATCH = """areas = ("billing", "delivery", "login", "other")
prompts = [
    f"Which of {', '.join(areas)} is this ticket about? Reply with one word.\\n\\n{ticket}"
    for ticket in tickets
]
answers = [a if isinstance(a, str) else "failed" for a in llm_query_batched(prompts)]
from collections import Counter
counts = Counter(answer for answer in answers if answer in areas)
print(counts.most_common())
worst = counts.most_common(1)[0][0]"""
CHILDREN = """groups = [[t for t, a in zip(tickets, answers) if a == area] for area in areas[:3]]
causes = rlm_query_batched(
    "tickets: list[str] -> cause: str",
    [{"tickets": group} for group in groups],
)
for area, cause in zip(areas, causes):
    print(f"{area}: {cause}")"""
REFUSED = """SUBMIT(answer=f"Mostly {worst}.", counts=counts.most_common())"""
DONE = """SUBMIT(
    answer=f"Mostly {worst} ({counts[worst]} of {len(tickets)}): {causes[0]}",
    counts=dict(counts),
)"""
CHILD = """notes = [llm_query(f"In five words: why did this go wrong?\\n\\n{ticket}") for ticket in tickets[:4]]
for note in notes:
    print(note)"""
CHILD_DONE = """SUBMIT(cause=max(set(notes), key=notes.count))"""

DECISIONS = [
    ("Look at the tickets before deciding anything.", LOOK),
    ("They look like rows of a table, so the csv module should give the areas directly.", FAILS),
    ("They are free text, not rows. Reading them takes a model: one short question a ticket, all at once.", BATCH),
    ("Billing leads. Each area deserves a closer look by a run of its own, in parallel.", CHILDREN),
    ("The causes are clear. Submit the answer with the counts.", REFUSED),
    ("`counts` must be a dictionary; most_common() gives pairs.", DONE),
]
WORDS = {"billing": "invoice charged twice", "delivery": "parcel never arrived", "login": "password link expired"}
NAMES = ("Ada", "Basil", "Chen", "Dora", "Emil", "Farah", "Goran", "Hana")


class Slow(ScriptedLM):
    """A scripted model whose calls take their time, each its own."""

    def __init__(self, replies, least: float, most: float, **options) -> None:
        super().__init__(replies, **options)
        self._least, self._most, self._random = least, most, random.Random(7)

    async def complete(self, request):
        skewed = self._random.random() ** 2.5
        delay = self._least + (self._most - self._least) * skewed
        await asyncio.sleep(delay)
        reply = await super().complete(request)
        return replace(reply, usage=replace(reply.usage, seconds=delay))


def said(thought: str, code: str) -> str:
    return f"{thought}\n\n```python\n{code}\n```"


def answer(request) -> str:
    """What the small model says: a child's decisions, an area, or a cause."""
    text = request.messages[-1].content
    if "live REPL" in request.messages[0].content:
        everything = "\n".join(m.content for m in request.messages)
        looked = 'llm_query(f"In five words' in everything
        return said("Enough was read.", CHILD_DONE) if looked else said("Ask about a sample, one by one.", CHILD)
    if "ticket 17 " in text and "Which of" in text:
        raise LMError("vendor/small: no answer within 60 s")
    area = next((area for area, words in WORDS.items() if words in text), "other")
    return area if "Which of" in text else f"{WORDS.get(area, 'nothing in common')}, nobody told"


def tickets(number: int = 40) -> list[str]:
    chance = random.Random(3)
    kinds = [*WORDS.values(), WORDS["billing"], "a question about opening hours"]
    return [f"ticket {n} from {chance.choice(NAMES)}: {chance.choice(kinds)}, please help" for n in range(number)]


def realistic(pace: float = 1.0) -> Prediction:
    """A failed cell, forty sub-calls at once with one that fails, three children, a refused SUBMIT, an answer.

    ``pace``: how long the models take, times what looks natural.
    """
    rlm = RLM(
        "tickets: list[str], question: str -> answer: str, counts: dict[str, int]",
        lm=Slow([said(*d) for d in DECISIONS], 0.35 * pace, 1.1 * pace, model="vendor/large", cost=0.0123),
        sub_lm=Slow(answer, 0.08 * pace, 1.3 * pace, model="vendor/small", cost=0.0004),
        budget=Budget(max_llm_calls=200, max_concurrency=16),
    )
    return rlm(tickets=tickets(), question="What do our customers complain about most, and why?")


def chromium(*arguments: str, timeout: float = 60.0) -> str:
    """What a fresh headless Chromium prints."""
    with tempfile.TemporaryDirectory() as profile:
        command = [CHROMIUM, *QUIET, f"--user-data-dir={profile}", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=True)
    return done.stdout


def shot(document: str, picture: Path, width: int, height: int, *options: str) -> Path:
    """A picture of a document in a window of this size."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "page.html"
        file.write_text(document, encoding="utf-8")
        size = f"--window-size={width},{height}"
        chromium(*options, size, f"--screenshot={picture.absolute()}", file.as_uri())
    return picture


def opened(document: str, *marks: str) -> str:
    """The document with the details around these ids unfolded."""
    for mark in marks:
        fold = document.rindex("<details", 0, document.index(f'-{mark}">')) + len("<details")
        document = f"{document[:fold]} open{document[fold:]}"
    return document


NOTEBOOK = """<!doctype html><meta charset="utf-8"><style>
body {{ margin: 0; padding: 20px 24px; font: 14px system-ui, "DejaVu Sans", sans-serif; background: #fff; color: #222 }}
.in {{ display: grid; grid-template-columns: 52px 1fr; gap: 8px; margin-bottom: 10px }}
.in pre {{ margin: 0; padding: 8px 10px; border: 1px solid #e0e0e0; background: #f7f7f7; font-size: 13px }}
.in span {{ padding-top: 9px; color: #307fc1; font: 13px "DejaVu Sans Mono", monospace }}
.out {{ margin-left: 60px }}
</style><div class="in"><span>[2]:</span><pre>pred = rlm(tickets=tickets, question="What do our customers complain about most, and why?")
pred</pre></div><div class="out">{fragment}</div>"""


def main(folder: Path) -> None:
    if not CHROMIUM.exists():
        sys.exit(f"no browser to take pictures with; looked for {', '.join(NAMES)}")
    folder.mkdir(parents=True, exist_ok=True)
    pred = realistic()
    whole = page(pred.trajectory)
    third = opened(whole, "r0-i3")
    shot(third, folder / "run_light.png", 1180, 1560)
    shot(third, folder / "run_dark.png", 1180, 1560, DARK)
    shot(opened(whole, "r0-i2"), folder / "run_phone.png", 390, 1900)
    shot(NOTEBOOK.format(fragment=pred._repr_html_()), folder / "notebook.png", 1100, 1000)
    for picture in sorted(folder.glob("*.png")):
        sys.stdout.write(f"{picture}: {picture.stat().st_size:,} bytes\n")
    sys.stdout.write(f"page: {len(whole.encode()):,} bytes, {json.dumps(pred.outputs)}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
