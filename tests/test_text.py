"""Bounded text, and the code that messy replies mean."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable

import pytest
from costs import seconds_of
from hypothesis import example, given
from hypothesis import strategies as st

from dszig_py.replies import Extracted, extract_code
from dszig_py.text import clean, preview, truncate

MARKER = re.compile(r"\n\.\.\. \[([\d,]+) of ([\d,]+) characters left out\] \.\.\.\n")
# No brackets, so that the text itself never looks like a marker.
PLAIN = st.text(alphabet="ab \n", max_size=2_000)


def number(text: str) -> int:
    return int(text.replace(",", ""))


@given(PLAIN, st.integers(-5, 2_100))
def test_truncate_keeps_the_bound_both_ends_and_the_count(text: str, limit: int) -> None:
    """Never above max(limit, marker); head and tail are the text's own; the marker counts exactly what is missing."""
    short = truncate(text, limit)
    if short == text:
        return
    match = MARKER.search(short)
    assert match and len(text) > limit
    head, tail = short[: match.start()], short[match.end() :]
    assert len(short) <= max(limit, len(match[0]))
    assert text.startswith(head) and text.endswith(tail)
    assert (number(match[1]), number(match[2])) == (len(text) - len(head) - len(tail), len(text))


@given(PLAIN, st.integers(0, 2_100))
def test_truncate_returns_what_fits_as_it_is(text: str, limit: int) -> None:
    """Text within the limit is untouched, and no text grows."""
    short = truncate(text, limit)
    assert len(short) <= len(text)
    assert short == text or len(text) > limit


@pytest.mark.parametrize("limit", [0, 1, 10])
def test_truncate_works_for_tiny_limits(limit: int) -> None:
    """Where not even the marker fits, the marker alone says how much there is."""
    assert truncate("x" * 40_000, limit) == "\n... [40,000 of 40,000 characters left out] ...\n"


def test_truncate_keeps_two_parts_of_head_for_one_of_tail() -> None:
    """Without line ends nothing is given up to them."""
    short = truncate("a" * 500 + "b" * 500, 300)
    head, _, _, tail = MARKER.split(short)
    assert 295 <= len(short) <= 300
    assert 1.9 < len(head) / len(tail) < 2.1


def test_truncate_cuts_at_line_ends() -> None:
    """Short lines stay whole on both sides of the marker."""
    lines = [f"line {i}" for i in range(1_000)]
    head, _, _, tail = MARKER.split(truncate("\n".join(lines), 500))
    assert set(head.split("\n")) | set(tail.split("\n")) <= set(lines)


def test_truncate_counts_what_was_lost_before() -> None:
    """With `total`, text that lost its middle elsewhere gets one marker for all of it, even if it fits."""
    for limit in (100, 500):
        match = MARKER.search(short := truncate("a" * 200 + "b" * 100, limit, total=1_000_000))
        assert match and number(match[2]) == 1_000_000
        assert number(match[1]) == 1_000_000 - (len(short) - len(match[0]))
    assert MARKER.split(truncate("a" * 200 + "b" * 100, 500, total=1_000))[0] == "a" * 200


@given(st.text(max_size=500), st.integers(0, 600))
def test_preview_is_bounded_and_clean(text: str, limit: int) -> None:
    """A preview can be encoded and is no longer than the truncation."""
    short = preview(text, limit)
    assert short == clean(short)
    assert len(short) <= len(truncate(text, limit))


@pytest.mark.parametrize(
    ("dirty", "expected"),
    [
        ("a\ud800b", "a\ufffdb"),
        ("a\udc00", "a\ufffd"),
        ("\ud83d\ude00", "\U0001f600"),
        ("a\x00b\x07c\td\n", "abc\td\n"),
        ("a\r\nb\rc", "a\nb\nc"),
        ("\x1b[31mred\x1b[0m \x1b]0;title\x07done\x1b(B", "red done"),
        ("\x1b[", ""),
        ("naïve 日本 \U0001f600", "naïve 日本 \U0001f600"),
    ],
)
def test_clean_gives_plain_text(dirty: str, expected: str) -> None:
    """Surrogates, controls, line ends and escapes."""
    assert clean(dirty) == expected


ANY_TEXT = st.text(alphabet=st.characters(exclude_categories=()), max_size=300)


@given(ANY_TEXT)
def test_clean_is_idempotent_encodable_and_never_longer(text: str) -> None:
    """Whatever comes in."""
    cleaned = clean(text)
    cleaned.encode("utf-8")
    assert clean(cleaned) == cleaned
    assert len(cleaned) <= len(text)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", cleaned)


CALL = "print(context[:100])"
TWO = "x = 1\nprint(x)"
INNER = 'prompt = """Answer as\n```json\n{"a": 1}\n```\nor\n```\ntext\n```\n"""\nprint(llm_query(prompt))'
REGEX = 'blocks = re.findall(r"```(.*?)```", reply)\nprint(blocks)'

CODE: dict[str, tuple[str, tuple[str, ...]]] = {
    "one fence": (f"I look first.\n\n```python\n{TWO}\n```\nThen more.", (TWO,)),
    "several fences": (f"```python\n{TWO}\n```\nand\n```python\n{CALL}\n```", (TWO, CALL)),
    "repeated fence": (f"```python\n{TWO}\n```\nAgain:\n```python\n{TWO}\n\n```", (TWO,)),
    "fence in a string": (f"```python\n{INNER}\n```\nDone.", (INNER,)),
    "fence in a string, then another cell": (f"```python\n{INNER}\n```\n\n```python\n{CALL}\n```", (INNER, CALL)),
    "fence in a regex": (f"```python\n{REGEX}\n```", (REGEX,)),
    "fence in a comment": ("```python\n# no ```\nx = 1\n```", ("# no ```\nx = 1",)),
    "python fence in a string": (
        "```python\np = '''\n```python\nSUBMIT(1)\n```\n'''\nprint(p)\n```",
        ("p = '''\n```python\nSUBMIT(1)\n```\n'''\nprint(p)",),
    ),
    "fence in a string without outer fence": (INNER, (INNER,)),
    "tildes": (f"~~~python\n{TWO}\n~~~", (TWO,)),
    "tildes around backticks": (f"~~~python\n{INNER}\n~~~", (INNER,)),
    "unlabelled": (f"```\n{TWO}\n```", (TWO,)),
    "repl": (f"```repl\n{TWO}\n```", (TWO,)),
    "Python": (f"```Python\n{TWO}\n```", (TWO,)),
    "py": (f"```py\n{TWO}\n```", (TWO,)),
    "python3": (f"``` python3\n{TWO}\n```", (TWO,)),
    "tool_code": (f"```tool_code\n{TWO}\n```", (TWO,)),
    "pycon": (
        "```pycon\n>>> x = 1\n>>> for i in y:\n...     print(i)\n...\n1\n>>> x\n1\n```",
        ("x = 1\nfor i in y:\n    print(i)\n\nx",),
    ),
    "four backticks": (f"````python\n{INNER}\n````", (INNER,)),
    "four backticks closed by three": (f"````python\n{TWO}\n```", (TWO,)),
    "closed by more": (f"```python\n{TWO}\n`````", (TWO,)),
    "title attribute": (f'```python title="x y.py" linenums\n{TWO}\n```', (TWO,)),
    "braces and dots": (f"```{{.python .x}}\n{TWO}\n```", (TWO,)),
    "braces with the label last": (f'```{{title="x" .python}}\n{TWO}\n```', (TWO,)),
    "braces": (f"```{{python}}\n{TWO}\n```", (TWO,)),
    "braces with options": (f"```{{python, echo=FALSE}}\n{TWO}\n```", (TWO,)),
    "file name": (f"```python:main.py\n{TWO}\n```", (TWO,)),
    "list item": (f"1. Look:\n\n   ```python\n   {TWO.replace(chr(10), chr(10) + '   ')}\n   ```\n2. Done", (TWO,)),
    "fence on the bullet": ("- ```python\n  x = 1\n  print(x)\n  ```", (TWO,)),
    "quotation": ("> ```python\n> x = 1\n> print(x)\n> ```", (TWO,)),
    "indented content only": ("```python\n    x = 1\n    print(x)\n```", (TWO,)),
    "fence after prose": (f"Here: ```python\n{TWO}\n```", (TWO,)),
    "CRLF": ("```python\r\nx = 1\r\nprint(x)\r\n```\r\n", (TWO,)),
    "code on the fence's line": ("```python import re\nprint(re)\n```", ("import re\nprint(re)",)),
    "assignment on the fence's line": ("```python x = 1\nprint(x)\n```", (TWO,)),
    "unlabelled, code on the fence's line": ("```x = 1\nprint(x)\n```", (TWO,)),
    "inline": ("```print(1)```", ("print(1)",)),
    "inline with label": ("Here: ```python print(1)```", ("print(1)",)),
    "close at the end of the code": (
        "```python\nprint(1)```\nprose\n```python\nprint(2)\n```",
        ("print(1)", "print(2)"),
    ),
    "close with text after it": (f"```python\n{TWO}\n``` which shows x.", (TWO,)),
    "close with an end token": (f"```python\n{TWO}\n```<|im_end|>", (TWO,)),
    "next fence closes": (f"```python\n{TWO}\n```python\n{CALL}\n```", (TWO, CALL)),
    "stray fence before": (f"```\nMy code is this:\n```python\n{TWO}\n```", (TWO,)),
    "wrapped fence": (f"```\n```python\n{TWO}\n```\n```\nThat is all.", (TWO,)),
    "wrapped by four": (f"````\n```python\n{TWO}\n```\n````\nAnd\n```python\n{CALL}\n```", (TWO, CALL)),
    "markdown fence around": (f"```markdown\nPlan.\n```python\n{TWO}\n```\n```", (TWO,)),
    "empty fence before": (f"```python\n\n```\n```python\n{TWO}\n```", (TWO,)),
    "unlabelled data next to code": (f"```\nx = 5\n```\n```python\n{TWO}\n```", (TWO,)),
    "json data next to code": (f'```json\n{{"x": 1}}\n```\n```python\n{TWO}\n```\n```output\n1\n```', (TWO,)),
    "shell next to code": (f"```bash\nls\n```\n\n```python\n{TWO}\n```", (TWO,)),
    "unclosed but whole": (f"Look.\n```python\n{TWO}\n", (TWO,)),
    "bare name in a labelled fence": ("```python\ncontext\n```", ("context",)),
    "top-level await": ("```python\nx = await f()\nprint(x)\n```", ("x = await f()\nprint(x)",)),
    "syntax error is shown by the REPL": ("```python\nx = = 1\n```\nok\n```\n", ("x = = 1",)),
    "invalid escape": ("```python\nprint(re.findall('\\d+', x), '```')\n```", ("print(re.findall('\\d+', x), '```')",)),
    "NUL": ("```python\nx\x00 = 1\nprint(x)\n```", (TWO,)),
    "JSON": ('{"reasoning": "look", "code": "x = 1\\nprint(x)"}', (TWO,)),
    "JSON with raw line ends": ('{"reasoning": "look", "code": "x = 1\nprint(x)"}', (TWO,)),
    "JSON list of code": ('{"thought": "look", "code": ["x = 1", "print(x)"]}', ("x = 1", "print(x)")),
    "JSON in a fence": ('Sure.\n```json\n{"plan": "look", "code": "x = 1\\nprint(x)"}\n```', (TWO,)),
    "JSON in an unlabelled fence": ('```\n{"plan": "look", "code": "x = 1\nprint(x)"}\n```', (TWO,)),
    "JSON with fenced code": ('{"reasoning": "r", "code": "```python\\nx = 1\\nprint(x)\\n```"}', (TWO,)),
    "JSON escaped twice": ('{"reasoning": "r", "code": "x = 1\\\\nprint(x)"}', (TWO,)),
    "JSON after prose": ('Here it is.\n{"reasoning": "r", "code": "x = 1\\nprint(x)"}', (TWO,)),
    "JSON tool call": ('{"name": "python", "arguments": {"code": "x = 1\\nprint(x)"}}', (TWO,)),
    "JSON tool call in a string": (r'{"name": "python", "arguments": "{\"code\": \"print(1)\"}"}', ("print(1)",)),
    "tool_call tag": ('<tool_call>\n{"name": "p", "arguments": {"code": "print(1)"}}\n</tool_call>', ("print(1)",)),
    "Python dict": ("{'reasoning': 'r', 'code': '''x = 1\nprint(x)''',}", (TWO,)),
    "lone surrogate in JSON": ('{"code": "print(\'\\ud800\')"}', ("print('\ufffd')",)),
    "code tag": (f"I look.\n<code>\n{TWO}\n</code>", (TWO,)),
    "code tag on one line": (f"<code>{CALL}</code>", (CALL,)),
    "code tag around a fence": (f"<code>\n```python\n{TWO}\n```\n</code>", (TWO,)),
    "python tag": (f"<python>\n{TWO}\n</python>", (TWO,)),
    "execute tag": (f"<execute>\n{TWO}\n</execute>", (TWO,)),
    "unclosed code tag": (f"<code>\n{TWO}", (TWO,)),
    "sections": (f"[[ ## reasoning ## ]]\nlook\n\n[[ ## code ## ]]\n{TWO}\n\n[[ ## completed ## ]]", (TWO,)),
    "sections with a fence": (f"[[ ## reasoning ## ]]\nlook\n[[ ## code ## ]]\n```python\n{TWO}\n```", (TWO,)),
    "think": (f"<think>```python\nbad()\n```</think>\n```python\n{TWO}\n```", (TWO,)),
    "reasoning tag, code tag": (f"<reasoning>\nbad()\n</reasoning>\n<code>\n{TWO}\n</code>", (TWO,)),
    "thinking in the middle": (f"So.\n<thinking>\n```python\nbad()\n```\n</thinking>\n```python\n{TWO}\n```", (TWO,)),
    "only the closing tag": (f"Try ```python\nbad()\n``` first.\n</think>\n\n```python\n{TWO}\n```", (TWO,)),
    "closing tag in mid-line": (f"Let's go.\n```python\nbad()\n```\nYes.</think>```python\n{TWO}\n```", (TWO,)),
    "closing tag, then JSON": ('I\'ll look.</think>{"code": "print(1)"}', ("print(1)",)),
    "unclosed think before a fence": (f"<think>I should look.\n```python\n{TWO}\n```", (TWO,)),
    "think tags as data": (
        "```python\nx = reply.split('</think>')[-1]\ny = re.sub(r'<think>.*</think>', '', x)\n```",
        ("x = reply.split('</think>')[-1]\ny = re.sub(r'<think>.*</think>', '', x)",),
    ),
    "tags mentioned in prose": (f"I use `<think>` and <code>x</code> tags.\n```python\n{TWO}\n```", (TWO,)),
    "fences mentioned in prose": (f"Use ```python fences``` or ```python to\nrun.\n\n```python\n{TWO}\n```", (TWO,)),
    "no fence at all": (
        "import re\n\nprint(re.findall('a', context))",
        ("import re\n\nprint(re.findall('a', context))",),
    ),
    "SUBMIT alone": ("SUBMIT(answer='x')", ("SUBMIT(answer='x')",)),
    "slice alone": ("context[:500]", ("context[:500]",)),
    "prompts without a fence": (">>> print(1)\n1", ("print(1)",)),
}


@pytest.mark.parametrize("case", CODE)
def test_messy_reply_becomes_the_code_that_was_meant(case: str) -> None:
    """Each shape of reply gives exactly its cells, and no complaint."""
    reply, cells = CODE[case]
    got = extract_code(reply)
    assert got.cells == cells
    assert got.problem == ""


NO_CODE: dict[str, tuple[str | None, str]] = {
    "None": (None, "empty"),
    "empty": ("", "empty"),
    "whitespace": (" \n\t\r\n", "empty"),
    "controls only": ("\x00\x1b[0m", "empty"),
    "prose": ("I think the answer is Paris.", "no code"),
    "prose with SUBMIT": ("I will call SUBMIT(answer='x') now.", "SUBMIT"),
    "prose with SUBMIT in backticks": ("I will call `SUBMIT(answer='x')` or ```SUBMIT(answer='x')``` now.", "no code"),
    "prose with SUBMIT in tags": ("I will call <code>SUBMIT(answer='x')</code> now.", "no code"),
    "one word": ("Done", "no code"),
    "number": ("42", "no code"),
    "label and value": ("answer: yes", "no code"),
    "name with a note": ("Paris (France)", "no code"),
    "label and SUBMIT": ("Answer: SUBMIT(answer='x')", "no code"),
    "adverb and SUBMIT": ("Finally, SUBMIT(answer='x')", "no code"),
    "is and SUBMIT": ("answer is SUBMIT(answer='x')", "no code"),
    "not SUBMIT": ("not SUBMIT(answer='x')", "no code"),
    "word; SUBMIT": ("Done; SUBMIT(answer='x')", "no code"),
    "SUBMIT talked about in a fence": ("```\nNow, SUBMIT(answer='x')\n```", "no code"),
    "heading": ("# Answer\n\n42", "no code"),
    "words with a hyphen": ("cost-benefit", "no code"),
    "word in a fence": ("```\nDone\n```", "no code"),
    "data in a fence": ('```\n{"a": 1}\n```', "no code"),
    "empty fence": ("```python\n\n```", "no code"),
    "other language": ("Run:\n```bash\nls -l\n```", "```bash"),
    "other languages": ("```json\n[1]\n```\n```text\nx\n```", "```json, ```text"),
    "unlabelled, not Python": ("```\nx = = 1\n```", "line 1"),
    "thoughts only": ("<think>\nprint(1)\n</think>", "only reasoning"),
    "fence in thoughts only": ("```python\nprint(1)\n```\n</think>", "only reasoning"),
    "unclosed thoughts": ("<think>\nI wonder\nx = 1", "no code"),
    "cut off": ("```python\nfor x in y:\n    print(x", "cut off"),
    "cut off in a section": ("[[ ## code ## ]]\nfor x in y:\n    print(x", "cut off"),
    "cut off in a tag": ("<code>\nfor x in y:\n    print(x", "cut off"),
    "cut JSON": ('{"reasoning": "r", "code": "x = 1\\nprint(', "JSON"),
    "cut JSON in a fence": ('```json\n{"reasoning": "r", "code": "x = 1\\nprint(', "cut off"),
    "empty JSON code": ('{"reasoning": "r", "code": ""}', "empty"),
    "JSON answer": ('{"answer": "Paris"}', "no code"),
}


@pytest.mark.parametrize("case", NO_CODE)
def test_reply_without_code_says_what_to_do_next(case: str) -> None:
    """No cells, and a problem that names what was wrong and asks for a python block."""
    reply, says = NO_CODE[case]
    got = extract_code(reply)
    assert got.cells == ()
    assert says in got.problem
    assert "```python" in got.problem


def test_cells_before_a_cut_still_run() -> None:
    """The whole cell is kept, and the cut one is reported with it."""
    got = extract_code(f"```python\n{TWO}\n```\nThen\n```python\nfor x in y:\n    print(x")
    assert got.cells == (TWO,)
    assert "cut off" in got.problem


def test_nothing_after_a_block_that_does_not_parse_is_taken() -> None:
    """What follows may be the rest of a string literal that was cut, and a SUBMIT in it an example."""
    got = extract_code("```python\np = '''\n```python\na\n```\n```python\nSUBMIT(1)\n```\nand")
    assert got.cells == ("p = '''\n```python\na",)
    assert "left out" in got.problem
    got = extract_code("```python\np = '''\n```python\nSUBMIT(1)\n")
    assert got.cells == ()
    assert "cut off" in got.problem


def test_reasoning_holds_the_prose_and_the_thoughts() -> None:
    """Tags, fences and code are not in it."""
    got = extract_code(f"<think>deep</think>First.\n\n```python\n{TWO}\n```\n\nLast.")
    assert got == Extracted((TWO,), "deep\n\nFirst.\n\nLast.")
    assert extract_code('{"reasoning": "why", "code": "print(1)"}').reasoning == "why"
    sections = "[[ ## reasoning ## ]]\nwhy\n[[ ## code ## ]]\nprint(1)\n[[ ## completed ## ]]"
    assert extract_code(sections).reasoning == "why"


def test_too_many_cells_are_capped_and_said() -> None:
    """Fifty run, the rest is reported."""
    got = extract_code("\n".join(f"```python\nprint({i})\n```" for i in range(60)))
    assert got.cells == tuple(f"print({i})" for i in range(50))
    assert "50" in got.problem


def test_trial_parses_raise_and_show_no_warnings() -> None:
    """Not even where warnings are errors."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("error")
        assert extract_code("print('\\d', 1if x else 2)").cells
    assert not seen


REPEATED = [
    (lambda n: "The answer is far away. " * n, 90_000),
    (lambda n: "word\n" * n, 400_000),
    (lambda n: "`" * n, 2_000_000),
    (lambda n: "```\n" * n, 500_000),
    (lambda n: "a ```\n" * n, 300_000),
    (lambda n: "```python\nprint(1)\n```\n" * n, 100_000),
    (lambda n: "".join(f"```python\nprint({i}\n```\n" for i in range(n)), 100_000),
    (lambda n: "```bash\nls\n```\n" * n, 100_000),
    (lambda n: "```\nnot python here\n```\n" * n, 100_000),
    (lambda n: '```json\n{"code": \n```\n' * n, 100_000),
    (lambda n: "<think>" * n, 300_000),
    (lambda n: "</think>" * n, 250_000),
    (lambda n: "<code>" * n, 300_000),
    (lambda n: "<code>a</code>" * n, 150_000),
    (lambda n: "```python\n" + "x = [1, 2, 3]\n" * n, 150_000),
    (lambda n: "```python\n" + "x = '''\n```\n" * n, 100_000),
    (lambda n: "[[ ## code ## ]]\n" * n, 100_000),
    (lambda n: '{"code": ' * n, 200_000),
    (lambda n: "(" * n, 2_000_000),
    (lambda n: "x = " + "(" * n + ")" * n, 150_000),
    (lambda n: "x = " + "-" * n + "1", 200_000),
    (lambda n: "{" * n, 500_000),
    (lambda n: "[" * n, 500_000),
    (lambda n: '"a" ' * n, 500_000),
    (lambda n: "\x1b]0;" * n, 400_000),
    (lambda n: " " * n + "x" + "\n" * n, 1_000_000),
    (lambda n: "> " * n + "```python\nx = 1\n```", 1_000_000),
    (lambda n: "```python " + "a=b " * n, 500_000),
    (lambda n: "```{" + "a " * n, 500_000),
]


@pytest.mark.parametrize(("repeated", "times"), REPEATED, ids=[repr(repeated(24)[:24]) for repeated, _ in REPEATED])
def test_megabytes_take_time_in_proportion(repeated: Callable[[int], str], times: int) -> None:
    """Whatever is repeated, sixteen times as much takes about sixteen times as long, and not its square."""
    replies = [repeated(times // part) for part in (64, 16, 4, 1)]
    taken = [max(seconds_of(lambda reply=reply: extract_code(reply)), 0.005) for reply in replies]
    assert taken[2] < 64 * taken[0] and taken[3] < 64 * taken[1], taken
    got = extract_code(replies[-1])
    assert got.cells or got.problem
    assert len(got.cells) <= 50


SNIPPETS = (
    TWO,
    CALL,
    INNER,
    REGEX,
    "SUBMIT(answer='x')",
    "def f(a):\n    if a:\n        return 1\n\n    return {\n        'b': 2,\n    }\n\n\nprint(f(0))",
    "parts = [llm_query(f'Sum up: {c}') for c in chunks]\nprint(parts)",
    "try:\n\tx = 1\nexcept Exception as e:\n\tprint(e)",
    "s = '''\n~~~\n```python\nnot code\n```\n~~~\n'''\nprint(s)",
    'md = f"""\n# Title\n```\n{x}\n```\n"""\nprint(md.replace("```", "~~~"))',
    "t = 'a\\n```\\nb'\nprint(t.split('```'))",
    "x = re.sub(r'<think>.*?</think>', '', reply)\nprint('<code>', x, '</code>')",
    "# look at it\nfor i, line in enumerate(context.splitlines()):\n    print(i, line)",
    "x = await aquery('a')\nprint(x)",
    "print('naïve 日本')",
    "class A:\n    '''Doc.'''\n\n    n: int = 1",
    'tags = """\n<think>\n[[ ## code ## ]]\nSUBMIT(1)\n</think>\n"""\nprint(tags)',
)


def indented(code: str) -> str:
    return "\n".join(f"   {line}" if line else "" for line in code.split("\n"))


STYLES = {
    "python": lambda code: f"```python\n{code}\n```",
    "repl": lambda code: f"```repl\n{code}\n```",
    "title": lambda code: f'```python title="x.py"\n{code}\n```',
    "unlabelled": lambda code: f"```\n{code}\n```",
    "four": lambda code: f"````py\n{code}\n````",
    "tildes": lambda code: f"~~~python\n{code}\n~~~",
    "indented": lambda code: indented(f"```python\n{code}\n```"),
    "inline start": lambda code: f"Here: ```python\n{code}\n```",
    "crlf": lambda code: f"```python\n{code}\n```".replace("\n", "\r\n"),
    "unclosed": lambda code: f"```python\n{code}\n",
    "code tag": lambda code: f"<code>\n{code}\n</code>",
}
WORDS = (
    "I think that the answer is now SUBMIT(answer='x') context print(x) done. ```python``` `llm_query(x)` not in "
    "and x = 1 import this for (see) [1] 42, <think> <code> don't\n"
)
PROSE = st.lists(st.sampled_from(WORDS.split(" ")), min_size=1, max_size=40).map(
    lambda words: "So I " + " ".join(words) + " and so on."
)


@given(
    st.sampled_from(SNIPPETS),
    st.sampled_from(sorted(STYLES)),
    st.sampled_from(["", "Let me look.\n\n", "<think>x</think>\n", "1. First,\n"]),
    st.sampled_from(["", "\n", "\n\nThat shows it.", "\n\n```output\n1\n```\n"]),
)
def test_program_in_any_fence_comes_back(code: str, style: str, before: str, after: str) -> None:
    """Whatever the program holds in its strings, it is the one cell."""
    if style == "unclosed":
        after = ""
    got = extract_code(before + STYLES[style](code) + after)
    if style == "indented":
        # What is in a string keeps its lines; as in CommonMark the fence's indentation goes from each of them.
        assert [cell.split() for cell in got.cells] == [code.split()]
    else:
        assert got.cells == (code,)
    assert got.problem == ""


@given(st.lists(st.sampled_from(SNIPPETS), min_size=1, max_size=6, unique=True))
def test_programs_come_back_in_order(codes: list[str]) -> None:
    """Several fences are several cells."""
    reply = "\nthen\n".join(f"```python\n{code}\n```" for code in codes)
    assert extract_code(reply).cells == tuple(codes)


@given(PROSE)
def test_prose_never_gives_cells(reply: str) -> None:
    """Mentions of calls, fences, tags and SUBMIT are no code."""
    got = extract_code(reply)
    assert got.cells == ()
    assert got.problem


PARTS = (
    '```|````|~~~|python|json|\n|\n| |x = 1|print(x)|"""|\'|{|}|"code": |<think>|</think>|<code>|</code>|'
    "[[ ## code ## ]]|> |- |>>> |\\|\x00|\ud800|(|#|SUBMIT(1)|:"
)
PIECES = st.sampled_from(PARTS.split("|"))


@given(st.one_of(ANY_TEXT, st.lists(PIECES, max_size=40).map("".join)))
@example("\ud800")
@example("```python\n\ud800\n```")
def test_no_text_makes_it_raise(reply: str) -> None:
    """Any string gives blank-free cells or a problem, and text that can be encoded."""
    got = extract_code(reply)
    assert got.cells or got.problem
    for part in (*got.cells, got.reasoning):
        part.encode("utf-8")
    assert all(cell.strip() for cell in got.cells)


@given(st.sampled_from(SNIPPETS), st.data())
def test_code_cut_anywhere_is_code_or_a_problem(code: str, data: st.DataObject) -> None:
    """A reply that stops at any character does not crash, and what runs is a beginning of the program."""
    reply = f"Look.\n```python\n{code}\n```"
    got = extract_code(reply[: data.draw(st.integers(1, len(reply)))])
    assert got.cells or got.problem
    assert all(code.startswith(cell) for cell in got.cells)
