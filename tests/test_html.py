"""Runs as HTML: nothing in a record can act, thousands of sub-calls open at once, and it reads on any screen."""

from __future__ import annotations

import dataclasses
import re
import struct
import typing
import zlib
from collections.abc import Mapping
from html import escape
from html.parser import HTMLParser
from pathlib import Path

import pytest
import screenshots
from costs import calls_of
from screenshots import DARK, chromium, realistic, shot

from dszig_py import RLM
from dszig_py.environments.base import Execution
from dszig_py.lm import ScriptedLM
from dszig_py.render.html import fragment, page
from dszig_py.render.markup import bounded, ends, highlight, seconds
from dszig_py.render.timeline import lay_out, peak
from dszig_py.trajectory import Action, Extraction, Input, Iteration, SubCall, Termination, Trajectory
from dszig_py.usage import Usage

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>\x1b[31m\x00\u202e\x9b\ud800]]></style></title>-->"
TAGS = set(
    "html head meta title style body main section header h1 h2 h3 h4 h5 h6 p strong b i span div dl dt dd ul li a "
    "details summary pre code svg rect path table caption thead tbody tfoot tr th td".split()
)
ATTRIBUTES = set(
    "class id lang style title href open role aria-label aria-hidden tabindex scope colspan charset http-equiv content "
    "name x y width height rx d viewbox preserveaspectratio".split()
)
CALL = Usage(1, 10, 2, 0.5, 0.4)
browser = pytest.mark.skipif(not screenshots.CHROMIUM.exists(), reason="no Chromium is installed")


class Parsed(HTMLParser):
    """What a browser would be told: tags, attributes, text outside of styles."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.depth: list[str] = []
        self.feed(document)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag != "meta":
            self.depth.append(tag)

    def handle_endtag(self, tag):
        assert self.depth.pop() == tag

    def handle_data(self, data):
        if "style" not in self.depth:
            self.text += data

    def unknown_decl(self, data):
        raise AssertionError(data)

    handle_pi = handle_comment = unknown_decl


def assert_sound(document: str) -> Parsed:
    """Balanced, and of nothing but the tags and attributes that are ours."""
    parsed = Parsed(document)
    assert not parsed.depth
    assert parsed.tags <= TAGS
    assert {name for name, _ in parsed.attributes} <= ATTRIBUTES
    assert all(value.startswith("#") for name, value in parsed.attributes if name in ("href", "src"))
    ids = [value for name, value in parsed.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert {value[1:] for name, value in parsed.attributes if name == "href"} <= set(ids)
    assert not re.search(r"url\(|@import|https?:", document)
    return parsed


class Hostile:
    def __repr__(self):
        return HOSTILE


def filled(tp, text, depth=0):
    """A value of a record's type with ``text`` in every str there is, found by the annotations."""
    origin, args = typing.get_origin(tp), typing.get_args(tp)
    if type(None) in args:
        return filled(next(a for a in args if a is not type(None)), text, depth)
    if tp is Usage:
        one = Usage(3, 20, 10, None, 0.5, estimated=True)
        return dataclasses.replace(one, by_model={text: one}, by_depth={0: one, 1: one})
    if tp is Trajectory and depth > 2:
        return None
    if dataclasses.is_dataclass(tp):
        hints = typing.get_type_hints(tp)
        below = depth + (tp is Trajectory)
        return tp(**{f.name: filled(hints[f.name], text, below) for f in dataclasses.fields(tp)})
    if origin is tuple:
        return (filled(args[0], text, depth),)
    if origin in (dict, Mapping):
        return {text: text, "data": [{text: text}], "other": Hostile()}
    return {int: 3, float: 1.5, bool: True}.get(tp, text)  # str, Any, and Literals: a record's words may be anything


def clean_hostile():
    """The same run where nothing was raised or submitted: other branches show other fields."""
    run = filled(Trajectory, HOSTILE)
    done = dataclasses.replace(run.iterations[0], execution=Execution(HOSTILE, 9_999, HOSTILE), observation="")
    call = dataclasses.replace(done.sub_calls[0], error="", trajectory=None)
    return dataclasses.replace(run, iterations=(dataclasses.replace(done, sub_calls=(call,)),))


def many(
    calls=5_000, *, prompt="text " * 300, reply="A reply of an ordinary length, with some 'quoted' <words> in it. " * 60
):
    """One batch of ``calls``, sixty-four at a time."""
    usage = CALL.at("vendor/small", 0)
    made = tuple(
        SubCall(f"r.{n}", "llm_query", f"Summarise part {n}: " + prompt, 50_000, reply, "refused" * (n % 97 == 5))
        if n % 97 == 5
        else SubCall(
            f"r.{n}", "llm_query", f"Summarise part {n}: " + prompt, 50_000, reply, "", "vendor/small", usage,
            1.0 + n // 64 * 0.4, 0.4, "b", n,
        )
        for n in range(calls)
    )  # fmt: skip
    action = Action("Ask about every part.", ("notes = llm_query_batched(parts)\nprint(len(notes))\n" * 40,))
    done = Iteration(1, action, Execution("5000\n", 5), "5000\n" * 2_000, made, CALL, 0.0, 35.0, 1.0)
    ended = Termination("submitted", "model")
    spent = sum((c.usage for c in made), CALL.at("vendor/large", 0))
    return Trajectory(
        "r",
        "parts: list[str] -> answer: str",
        iterations=(done,),
        termination=ended,
        usage=spent,
        outputs={"answer": "x"},
    )


def nested(levels=3):
    """A run in a run in a run, each of two iterations."""
    run = None
    for level in reversed(range(levels + 1)):
        call = (SubCall("c", "rlm_query", "deeper", 6, trajectory=run, started=0.5, seconds=2.0),) if run else ()
        steps = tuple(
            Iteration(n, Action("think", (f"level_{level}()",)), Execution(), "seen", call * (n == 1)) for n in (1, 2)
        )
        run = Trajectory(f"r{level}", "a -> b", depth=level, iterations=steps, begun=100.0 + level, seconds=3.0)
    return run


@pytest.mark.parametrize("run", [filled(Trajectory, HOSTILE), clean_hostile()], ids=["failed", "fine"])
def test_nothing_in_a_record_becomes_markup(run):
    """Every str field of the tree holds tags, quotes, ANSI, control, bidi and broken characters: all are text."""
    for document in (page(run), fragment(run), fragment(run, outputs={HOSTILE: HOSTILE, "o": Hostile()})):
        parsed = assert_sound(document)
        assert "<script" not in document and "<img" not in document and "alert(1)>" not in document
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", document)
        assert "alert(1)</script>\"'><img src=x onerror=alert(1)>[U+202E]" in parsed.text
        document.encode()


def test_every_text_of_a_run_is_shown():
    """Each field that a reader may look for is there, to its end or with its size."""
    call = SubCall("1", "llm_query", "the prompt " * 30, 90_000, "the reply", usage=CALL, model="m2", seconds=1.0)
    failed = SubCall("2", "predict", "p", 1, error="the refusal")
    run = Trajectory(
        "id1", "context -> answer, n: int", "the task", "m1", "m2", "process", "full",
        inputs=(Input("context", "str", "1,000 characters", "the preview"),),
        contract="the contract",
        iterations=(
            Iteration(1, Action("the reasoning", ("cell_one()", "cell_two()"), "the problem"),
                      Execution("out", 70_000, "v", "", None, 0.1, "the loss"), "the observation " * 1_000, (call, failed)),
            Iteration(2, Action("", ("x",)), Execution(error="the error"), "what was seen"),
            Iteration(3, Action("no fence", ()), Execution(), "write code"),
        ),
        extraction=Extraction("the extraction", "the gap", CALL, 1.0),
        termination=Termination("max_cost", "budget", "the detail"),
        outputs={"answer": "the answer", "n": None},
        usage=Usage(3, 1_000, 20, None, 61.0, estimated=True).at("m1", 0),
        begun=1e9,
    )  # fmt: skip
    text = assert_sound(page(run)).text
    for part in (
        *(
            "id1",
            "context -> answer, n: int",
            "the task",
            "m1, sub-calls on m2",
            "process, isolation full",
            "the preview",
        ),
        *("the contract", "the reasoning", "cell_one()", "cell_two()", "the problem", "the loss", "the observation"),
        *(
            "16,000 characters left out",
            "of 70,000 characters printed",
            "(90,000 characters)",
            "the reply",
            "the refusal",
        ),
        *("the error", "the extraction", "the gap", "limit reached: max_cost", "the detail", "the answer", "None"),
        *("about 1,020", "unknown", "2001-09-09 01:46:40 UTC", "worker lost", "1 sub-call failed", "no code"),
    ):
        assert part.replace("16,000", "") in text, part


def test_five_thousand_sub_calls_make_a_small_page():
    """At most 5 MB, also where prompts and replies are what escapes worst; the work grows as the number does."""
    assert calls_of(lambda: page(many(2_000))) < 2.2 * calls_of(lambda: page(many(1_000)))
    for reply in ("plain words " * 400, "\"'<&>" * 800, "漢字仮名" * 1_000):
        run = many(prompt=reply[:2_000], reply=reply)
        document = page(run)
        assert len(document.encode()) <= 5_000_000
        parsed = assert_sound(document)
        assert "at most 64 at once" in parsed.text
        assert "5,000, 52 failed" in parsed.text and "52 sub-calls failed" in parsed.text
        assert document.count("<rect") < 1_000 and document.count('<details class="dz-chunk"') <= 53


def test_a_tree_of_thousands_of_children_is_bounded_and_says_so():
    """What is not in the page is counted in it."""
    child = Trajectory(
        "c", "a -> b", iterations=(Iteration(1, Action("x" * 5_000, ("y = 1\n" * 900,)), Execution(), "z" * 9_000),)
    )
    calls = tuple(
        SubCall(str(n), "rlm_query", "p", 1, "r", trajectory=child, started=n / 10, seconds=0.2) for n in range(5_000)
    )
    document = page(
        Trajectory("r", "a -> b", iterations=(Iteration(1, Action("", ("go()",)), Execution(), "", calls),))
    )
    assert len(document.encode()) <= 5_000_000
    assert "in the saved run, not in this page" in document and "more child runs" in document
    assert_sound(document)
    assert "more sub-calls" in page(many(12_000))


def test_partial_empty_and_deep_runs_are_shown():
    """No end, no iterations, children three deep, thirty deep, times that are no times."""
    assert "unfinished" in page(dataclasses.replace(many(3), termination=None))
    assert "before the first decision" in page(Trajectory("r", "a -> b"))
    deep = page(nested())
    assert_sound(deep)
    assert all(f"level_{level}" in deep for level in range(4)) and deep.count('class="dz-within"') == 3
    assert_sound(page(nested(30)))
    odd = Iteration(1, Action("", ("x",)), Execution(), "", (SubCall("1", "tool", started=float("nan"), seconds=-1.0),))
    for bad in (float("inf"), float("nan"), -5.0, 1e300):
        step = dataclasses.replace(odd, started=bad, seconds=bad, decide_seconds=bad)
        whole = page(
            Trajectory("r", "a -> b", iterations=(step,), seconds=bad, begun=bad, usage=Usage(cost=bad, seconds=bad))
        )
        assert not re.search(r"(left|width):[^;\"]*(nan|inf|e\+)", whole)
        assert_sound(whole)


def test_children_stand_where_they_ran_and_parallel_calls_are_counted():
    """A child's clock begins when it did, after waiting for its turn; waiting calls are not at work."""
    assert [round(place.begins, 2) for place in lay_out(nested())] == [0.0, 0.5, 1.0, 1.5]
    waiting = [
        SubCall(str(n), "llm_query", usage=dataclasses.replace(CALL, seconds=1.0), seconds=n + 1.0) for n in range(9)
    ]
    assert (peak(waiting), peak(waiting[:0]), peak([SubCall("1", "tool", seconds=1.0)] * 4)) == (1, 0, 4)


def test_what_only_looks_like_evidence_is_shown_as_data():
    """Outputs of a model's making: positions that are none, ints too long to be written."""
    right = {"variable": "book", "start": 3, "end": 9, "text": "<b>said"}
    for odd in ({"start": 10**5_000}, {"end": "x"}, {"text": 10**5_000}, {"variable": None}):
        for value in ({**right, **odd}, [{**right, **odd}]):
            document = page(Trajectory("r", "a -> b", outputs={"answer": value}))
            assert_sound(document)
            assert "<blockquote" not in document
    quoted = page(Trajectory("r", "a -> b", outputs={"answer": [right]}))
    assert "<blockquote" in quoted and "book[3:9]" in quoted and "&lt;b&gt;said" in quoted


def test_fragments_of_one_run_share_a_page():
    """Identifiers differ, styles reach nothing but the fragments, and links stay inside their own."""
    run = nested()
    both = fragment(run) + fragment(run)
    assert_sound(both)
    assert both.count("<style>") == 2 and "<html" not in both and "<script" not in both
    css = re.search(r"<style>(.*?)</style>", both, re.DOTALL)[1]
    rules = re.findall(r"([^{}]+)\{[^{}]*\}", re.sub(r"/\*.*?\*/|@media[^{]*\{", "", css, flags=re.DOTALL))
    assert len(rules) > 80
    for selector in ",".join(rules).split(","):
        assert re.search(r"\.dz\b", selector), selector


def test_a_notebook_shows_a_prediction():
    """``pred`` as the last line of a cell: answer, code, and why it ended."""
    lm = ScriptedLM(
        ["Half of it.\n```python\nhalf = len(text) // 2\nprint(half)\n```", "```python\nSUBMIT(answer=half)\n```"]
    )
    pred = RLM("text: str -> answer: int", lm=lm)(text="four")
    for shown in (pred._repr_html_(), pred.trajectory._repr_html_(), page(pred.trajectory)):
        text = assert_sound(shown).text
        assert "half = len(text) // 2" in text and "submitted" in text and "Half of it." in text
        assert re.search(r"answer\s*2", text)


def test_python_is_coloured_and_text_that_is_none_is_kept():
    """The words stay what they were, whatever they are."""
    code = "def f(x):  # why\n    return llm_query(f'{x}\\'') + \"\"\"open\n<b>"
    shown = highlight(code)
    assert re.sub(r"<[^>]*>", "", shown) == escape(code)
    assert '<span class="dz-k">def</span>' in shown and '<span class="dz-c"># why</span>' in shown
    assert '<span class="dz-f">llm_query</span>' in shown
    quotes = "'" * 100_000 + '"""' * 100_000 + "\\" * 100_000  # what a careless pattern tries in every way there is
    assert re.sub(r"<[^>]*>", "", highlight(quotes)) == escape(quotes)


def test_texts_are_bounded_and_numbers_have_units():
    """Short texts are whole, long ones say what is missing, durations read well."""
    assert bounded("a<b", 10) == "a&lt;b"
    assert "9,9" in bounded("x" * 10_000, 100) and len(bounded("'" * 10_000, 1_000)) <= 3_000
    assert ends("Which is it? " * 20 + "ticket 7", 40).endswith("ticket 7")
    told = [seconds(value) for value in (0, 0.0123, 1.25, 99.4, 150, 7_300, float("inf"))]
    assert told == ["0 ms", "12 ms", "1.2 s", "99.4 s", "2 min 30 s", "2 h 1 min", "?"]


def luminance(colour):
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, two):
    light, dark = sorted((luminance(one), luminance(two)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_colours_have_enough_contrast(theme):
    """Text 4.5 on every ground it stands on, bars 3 on the paper."""
    pairs = re.findall(r"--([\w-]+): light-dark\((#\w{6}), (#\w{6})\)", fragment(nested()))
    colour = {name: (light, dark)[theme] for name, light, dark in pairs}
    for name in (
        "ink",
        "dim",
        "link",
        "good",
        "warn",
        "bad",
        "child",
        "keyword",
        "string",
        "number",
        "comment",
        "ours",
    ):
        assert min(contrast(colour[name], colour[ground]) for ground in ("paper", "wash")) >= 4.5, name
    for name in ("good", "warn", "bad"):
        assert contrast(colour[name], colour[f"{name}-wash"]) >= 4.5, name
    for name in ("decide", "run"):
        assert contrast(colour["on-bar"], colour[name]) >= 4.5, name
    for name in ("decide", "run", "call", "child", "cached", "bad"):
        assert contrast(colour[name], colour["paper"]) >= 3, name


def measured(folder: Path, document: str, width: int) -> dict[str, int]:
    """The document in a frame of this width with everything unfolded, measured from outside: it runs no scripts."""
    (folder / "outer.html").write_text(
        f"""<!doctype html><meta charset="utf-8"><iframe id="f" width="{width}" height="800" style="border:0"
srcdoc="{escape(document)}"></iframe><p id="out"></p><script>
f.onload = () => {{
  const inside = f.contentDocument, root = inside.scrollingElement;
  const folded = root.scrollWidth;
  inside.querySelectorAll("details").forEach(d => d.open = true);
  const focusable = [...inside.querySelectorAll("summary, a, [tabindex]")].filter(e => e.tabIndex >= 0).length;
  out.textContent = `folded=${{folded}} opened=${{root.scrollWidth}} inner=${{f.contentWindow.innerWidth}} ` +
    `scripts=${{inside.scripts.length}} images=${{inside.images.length}} hacked=${{Number("hacked" in f.contentWindow)}} ` +
    `details=${{inside.querySelectorAll("details").length}} focusable=${{focusable}}`;
}};</script>""",
        encoding="utf-8",
    )
    dumped = chromium("--virtual-time-budget=5000", "--dump-dom", (folder / "outer.html").as_uri())
    return {name: int(value) for name, value in re.findall(r"\b(\w+)=(\d+)", dumped.rpartition('<p id="out">')[2])}


@browser
@pytest.mark.parametrize("name", ["hostile", "realistic", "deep"])
def test_a_phone_needs_no_sideways_scrolling_and_nothing_runs(name, tmp_path):
    """At 360 pixels, folded and unfolded, the page is no wider than the window; no script or image came to be."""
    run = {
        "hostile": lambda: filled(Trajectory, HOSTILE),
        "realistic": lambda: realistic(0.1).trajectory,
        "deep": nested,
    }[name]()
    for document in (page(run), f"<!doctype html>{fragment(run)}"):
        found = measured(tmp_path, document, 360)
        assert found["folded"] <= found["inner"] == 360
        assert found["opened"] <= 360
        assert (found["scripts"], found["images"], found["hacked"]) == (0, 0, 0)
        assert found["focusable"] >= found["details"] > 3


@browser
def test_nothing_hostile_runs_in_a_browser(tmp_path):
    """The same with payloads that would leave a mark in the document, in a notebook's page without our policy."""
    payload = HOSTILE.replace("alert(1)", "document.body.setAttribute('hacked',1)")
    run = filled(Trajectory, payload)
    for number, document in enumerate(
        (page(run), f"<!doctype html><meta charset='utf-8'><body>{fragment(run)}</body>")
    ):
        file = tmp_path / f"{number}.html"
        file.write_text(document, encoding="utf-8")
        dumped = chromium("--virtual-time-budget=2000", "--dump-dom", file.as_uri())
        assert "Timeline" in dumped
        body = re.search(r"<body[^>]*>", dumped)[0]
        assert "hacked" not in body
        assert "<img" not in dumped and "<script" not in dumped


@browser
def test_a_bar_leads_to_its_iteration_unfolded(tmp_path):
    """A link of the timeline opens what it leads to, and what that is folded in, and nothing else."""
    file = tmp_path / "run.html"
    file.write_text(page(nested()), encoding="utf-8")
    for mark, around in (("dz-r0-i2", 1), ("dz-r0-i1", 1), ("dz-r1", 3), ("dz-r2-i2", 6)):
        dumped = chromium("--dump-dom", f"{file.as_uri()}#{mark}")
        path = re.findall(r"<details[^>]*>|</details>", dumped[: dumped.index(f'id="{mark}"')])
        folds = []
        for found in path:
            folds.append(found) if found != "</details>" else folds.pop()
        assert all("open" in fold for fold in folds) and len(folds) >= around, mark
        assert len(re.findall(r'<details class="dz-iteration" open', dumped)) == sum("iteration" in f for f in folds)


@browser
def test_thousands_of_sub_calls_open(tmp_path):
    """Loaded, laid out and dumped by a cold browser, as other pages are."""
    file = tmp_path / "many.html"
    file.write_text(page(many()), encoding="utf-8")
    dumped = chromium("--dump-dom", file.as_uri())
    assert dumped.count("<li>") >= 5_000


def pixels(picture: Path) -> tuple[int, int, bytes]:
    """Width, height and the first line's bytes of a PNG."""
    data = picture.read_bytes()
    width, height = struct.unpack(">II", data[16:24])
    at, packed = 8, b""
    while at < len(data):
        size = struct.unpack(">I", data[at : at + 4])[0]
        packed += data[at + 8 : at + 8 + size] if data[at + 4 : at + 8] == b"IDAT" else b""
        at += size + 12
    return width, height, zlib.decompress(packed)[1:7]


@browser
def test_dark_and_light_follow_the_system(tmp_path):
    """The same page, another ground."""
    document = page(nested())
    light = pixels(shot(document, tmp_path / "light.png", 500, 400))
    dark = pixels(shot(document, tmp_path / "dark.png", 500, 400, DARK))
    assert light[2][:3] == b"\xff\xff\xff" and max(dark[2][:3]) < 64
