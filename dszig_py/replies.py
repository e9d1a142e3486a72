"""The code that a model's reply means: fences, tags, JSON, or the reply as a whole; else what to tell the model."""

from __future__ import annotations

import ast
import json
import keyword
import re
import textwrap
import threading
import warnings
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, cast

from dszig_py.text import clean

__all__ = ["Extracted", "extract_code", "read_json"]

_MAX_CELLS = 50
_MAX_MARKS = 2_000  # fences and tags looked at in one reply
_MAX_CLOSERS = 50  # closing fences tried for one block
_MAX_TRIALS = 400  # parses for one reply
_MAX_TRIAL_CHARS = 600_000

_ASK = "Reply with one ```python block; to finish, call SUBMIT(...) inside it."
_EMPTY = f"Your reply was empty. {_ASK}"
_PROSE = f"Your reply had no code, so nothing ran; a SUBMIT(...) that prose mentions does not count. {_ASK}"
_ONLY_THOUGHTS = f"Your reply was only reasoning, and code inside reasoning tags does not run. {_ASK}"
_CUT = (
    "Your code was cut off before its block was closed, so that block did not run. "
    "Send it again, shorter or in smaller steps, in one closed ```python block."
)
_BROKEN = "A code block of your reply does not parse as Python; the blocks after it were left out. Correct it first."
_BAD_JSON = f"Your reply looks like JSON with code in it, but it is cut off or not valid. {_ASK}"
_BLANK = f"The code in your reply was empty. {_ASK}"
_TOO_MANY = (
    f"Your reply had more than {_MAX_CELLS} code blocks; only the first ones were taken. Send one block at a time."
)


@dataclass(frozen=True, slots=True)
class Extracted:
    """What one reply of a model means.

    `cells`: the code blocks to run, in order, none of them blank; `()` when the reply has none.
    `reasoning`: the text around them, the content of reasoning tags included; as long as the reply, so bound it.
    `problem`: what the model should do next, in one or two sentences. Always there when `cells` is empty; with cells it
    says what was left out, to be shown with their observation.
    """

    cells: tuple[str, ...]
    reasoning: str
    problem: str = ""


def extract_code(reply: str | None) -> Extracted:
    """The code cells in `reply`, or what to tell the model instead. Never raises; time is about linear."""
    text = clean(reply or "").strip()
    if not text:
        return Extracted((), "", _EMPTY)
    if plain := _plain(text):
        return plain
    start = _end_of_thoughts(text)
    thoughts, rest = text[:start], text[start:].strip()
    if not rest:
        return Extracted((), _prose(thoughts), _ONLY_THOUGHTS)
    got = _extract(rest, _Trials())
    cells: list[str] = []
    for cell in got.cells:
        # A model that repeats its block means it once.
        if cell.strip() and cell.rstrip() not in cells[-1:]:
            cells.append(cell.rstrip())
    problem = _TOO_MANY if len(cells) > _MAX_CELLS else got.problem
    if not cells and not problem:
        problem = _BLANK
    return Extracted(tuple(cells[:_MAX_CELLS]), _prose(f"{thoughts}\n\n{got.reasoning}"), problem)


# Prose, one labelled fence, nothing else that could mean anything: what most replies are, read without trial parses.
_PLAIN = re.compile(r"((?:[^`~<\[{]*\n)?)```(?:python|py)\n([^`~\s][^`~]*)\n```\s*\Z")


def _plain(text: str) -> Extracted | None:
    match = _PLAIN.match(text)
    if match is None or not match[2].strip() or ">>>" in match[2]:
        return None
    return Extracted((match[2].rstrip(),), _prose(match[1]))


def _extract(text: str, trials: _Trials) -> Extracted:
    if text.startswith("{") and (action := _json_action(text, trials)):
        return action
    # Before any fence is looked for: outside a string literal a fence is a syntax error, so a reply that parses as a
    # whole has its fences in literals.
    if (fit := trials.fit(text)) and _acts(*fit):
        return Extracted((fit[0],), "")
    if marked := _marked(text, trials):
        return marked
    scan = _Scan(text, trials)
    found = scan.run()
    if found.cells or scan.cut:
        return found
    for match in islice(_JSON_START.finditer(text), 5):
        start = match.end() - len(match[1])
        if action := _json_action(text[start:], trials):
            return Extracted(action.cells, f"{text[:start]}\n{action.reasoning}")
    if text.startswith("{") and _CODE_KEY.search(text):
        return Extracted((), text, _BAD_JSON)
    return found


class _Trials:
    """Trial parses, the one costly step, within a fixed allowance for one reply."""

    _lock = threading.Lock()

    def __init__(self) -> None:
        self.count = _MAX_TRIALS
        self.chars = _MAX_TRIAL_CHARS
        self.error = ""

    def take(self, chars: int) -> bool:
        if self.count <= 0 or chars > self.chars:
            return False
        self.count -= 1
        self.chars -= chars
        return True

    def tree(self, code: str) -> ast.Module | None:
        if not self.take(len(code)):
            return None
        try:
            if not _MAY_WARN.search(code):
                return _parse(code)
            # Changes filters of the whole process for a moment, hence not for code that cannot warn.
            with self._lock, warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return _parse(code)
        except SyntaxError as error:
            self.error = f"line {error.lineno}: {error.msg}"
        except (ValueError, RecursionError, MemoryError, OverflowError) as error:
            self.error = str(error)
        return None

    def fit(self, code: str) -> tuple[str, ast.Module] | None:
        """The code, without prompts and common indentation where it needs that to parse, and its tree."""
        code = _without_prompts(code)
        if code[:1] in (" ", "\t"):
            code = textwrap.dedent(code)
        tree = self.tree(code)
        return None if tree is None else (code, tree)


# An escape that is not one, a number that runs into a keyword, `return` in `finally`: what a parser can warn about.
_MAY_WARN = re.compile(r"""\\[^\n\\'"abfnrtvxuUN0-3]|\d(?:and|else|for|if|in|is|not|or)|\bfinally\b""")


def _parse(code: str) -> ast.Module:
    flags = ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    return cast(ast.Module, compile(code, "<reply>", "exec", flags, dont_inherit=True))


def _without_prompts(code: str) -> str:
    if not code.lstrip().startswith(">>>"):
        return code
    lines = [line.lstrip() for line in code.split("\n")]
    # What has no prompt is output.
    return "\n".join(line[4:] for line in lines if line.startswith((">>> ", "... ")) or line in (">>>", "..."))


_DEFINING = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_ASSIGNING = (ast.Assign, ast.AugAssign, ast.AnnAssign, ast.NamedExpr)
_LOOPING = (ast.For, ast.AsyncFor, ast.With, ast.AsyncWith, ast.ListComp, ast.SetComp, ast.DictComp)
_ACTING = _DEFINING + _ASSIGNING + _LOOPING
_TIGHT = re.compile(r"""[\w\])"'][(\[]""")
_WORDY = re.compile(r"(?!await\b)\w+[\s,]")


def _acts(code: str, tree: ast.Module) -> bool:
    """Whether what parses as Python was meant so; `Done`, `Paris (France)`, `Now, SUBMIT(x=1)`, `{"a": 1}` were not."""
    tight = _TIGHT.search(code) is not None
    lines = code.split("\n")
    for statement in tree.body:
        if isinstance(statement, ast.AnnAssign) and statement.value is None:
            continue  # "Answer: SUBMIT(x=1)"
        if isinstance(statement, ast.Expr) and (statement.col_offset or _WORDY.match(lines[statement.lineno - 1])):
            continue
        for node in ast.walk(statement):
            if isinstance(node, _ACTING) or (tight and isinstance(node, ast.Call | ast.Subscript)):
                return True
    return False


_THINK = "think|thinking|reasoning|reflection"
_TAG = rf"</?(?:{_THINK}|code|python|execute|tool_call)(?:\s[^<>\n]{{0,200}})?>"
_THINK_TAG = re.compile(rf"\s*<(/?)({_THINK})(?:\s[^<>\n]{{0,200}})?>", re.I)
_SINGLE_QUOTED = re.compile(r"(?:^|[\s(=,\[])[rbf]{0,2}'[^']*$")
_NOISE = re.compile(rf"{_TAG}|^[ \t]*\[\[ ## \w+ ## \]\]|^[ \t]*(?:`{{3,}}|~{{3,}})[ \t]*$", re.I | re.M)


def _end_of_thoughts(text: str) -> int:
    """Where the reply proper begins: after the reasoning that leads it, which chat templates leave with or without its
    opening tag.
    """
    position = 0
    first = _THINK_TAG.search(text)
    if first and first[1] and not _in_literal(text, first.end() - len(first[0].lstrip()), first.end()):
        position = first.end()
    while (opening := _THINK_TAG.match(text, position)) and not opening[1]:
        closing = re.compile(rf"</{opening[2]}\s*>", re.I).search(text, opening.end())
        if closing is None:
            break
        position = closing.end()
    return position


def _in_literal(text: str, start: int, end: int) -> bool:
    """Whether a closing tag is data in code (`x.split("</think>")`); at the start or end of its line it is real."""
    before = text[max(text.rfind("\n", 0, start) + 1, start - 500) : start]
    if not before.strip() or not text[end : end + 500].partition("\n")[0].strip():
        return False
    return before.count('"') % 2 == 1 or _SINGLE_QUOTED.search(before) is not None


def _prose(text: str) -> str:
    return re.sub(r"\n{3,}", "\n\n", _NOISE.sub("", text)).strip()


_JSON = json.JSONDecoder(strict=False)
_JSON_START = re.compile(r'^[ \t]*(\{\s*["\'])', re.M)
_CODE_KEY = re.compile(r'["\']code["\']\s*:')
_REASONING_KEYS = ("reasoning", "thought", "thoughts", "next_thought", "rationale", "explanation", "plan")
_CALL_KEYS = ("arguments", "parameters", "args", "input", "action", "function")
_MARKER = re.compile(r"^[ \t]*\[\[ ## (\w+) ## \]\]", re.M)
_BLOCK = re.compile(r"`{3}|~{3}|<(?:code|python|execute)\b", re.I)
_FENCE_FIRST = re.compile(r"\s*(?:`{3,}|~{3,})")


def _json_action(text: str, trials: _Trials) -> Extracted | None:
    """The action in the JSON object that `text` begins with; None when it is no object or holds no code."""
    if not trials.take(len(text) // 10):  # ten times as fast as a parse
        return None
    try:
        value, end = _JSON.raw_decode(text)
    except (ValueError, RecursionError):
        # Some write the object as a Python literal: single quotes, triple quotes, trailing commas.
        if not _CODE_KEY.search(text) or (tree := trials.tree(text)) is None:
            return None
        try:
            value, end = ast.literal_eval(ast.Expression(cast(ast.Expr, tree.body[0]).value)), len(text)
        except (ValueError, TypeError, AttributeError, RecursionError, MemoryError):
            return None
    for _ in range(4):
        if not isinstance(value, dict):
            return None
        fields = cast(dict[str, Any], value)
        if (codes := _strings(fields.get("code"))) is not None:
            said = [fields[key] for key in _REASONING_KEYS if isinstance(fields.get(key), str)]
            cells = [cell for code in codes for cell in _unwrap(clean(code), trials)]
            return Extracted(tuple(cells), clean("\n\n".join([*said, text[end:]])))
        value = next((fields[key] for key in _CALL_KEYS if key in fields), None)
        if isinstance(value, str):
            try:
                value = _JSON.decode(value)
            except (ValueError, RecursionError):
                return None
    return None


def _strings(value: object) -> list[str] | None:
    items = cast(list[object], value) if isinstance(value, list) else [value]
    return [item for item in items if isinstance(item, str)] if all(isinstance(item, str) for item in items) else None


def _unwrap(code: str, trials: _Trials) -> tuple[str, ...]:
    """Code that was fenced again, or escaped twice, inside the field that holds it."""
    if _FENCE_FIRST.match(code):
        return _Scan(code, trials).run().cells or (code,)
    if "\\n" in code and "\n" not in code and trials.tree(code) is None:
        plain = code.replace("\\n", "\n").replace('\\"', '"').replace("\\t", "\t")
        if trials.tree(plain) is not None:
            return (plain,)
    return (code,)


def _marked(text: str, trials: _Trials) -> Extracted | None:
    """The action of a reply in DSPy's `[[ ## field ## ]]` sections."""
    markers = list(islice(_MARKER.finditer(text), _MAX_MARKS))
    at = next((i for i, marker in enumerate(markers) if marker[1].lower() == "code"), None)
    fence = _BLOCK.search(text)
    if at is None or (fence and fence.start() < markers[0].start()):
        return None
    end = markers[at + 1].start() if at + 1 < len(markers) else len(text)
    body = text[markers[at].end() : end].strip("\n")
    around = f"{text[: markers[at].start()]}\n{text[end:]}"
    if _LINE_FENCE.search(body) and trials.fit(body) is None:
        inner = _Scan(body, trials).run()
        return Extracted(inner.cells, f"{around}\n{inner.reasoning}", inner.problem)
    fit = trials.fit(body)
    if fit is None and end == len(text):
        return Extracted((), text, _CUT)
    return Extracted((fit[0] if fit else body,), around)


_MARK = re.compile(rf"`{{3,}}|~{{3,}}|{_TAG}", re.I)
_LINE_FENCE = re.compile(r"^[ \t]*(?:`{3,}|~{3,})", re.M)
_LABELLED_FENCE = re.compile(r"\s*(?:`{3,}|~{3,})[ \t]*[\w{.]")
_LEAD = re.compile(r"[ \t]*(?:(?:[-*+>]|\d{1,3}[.)])[ \t]+|>)*")  # indentation, list item, quotation
_LABEL = re.compile(r"\{?\s*\.?([A-Za-z][\w+#.-]*)(?=$|[\s,:{}])")
_ATTRIBUTES = re.compile(r"""(?>\{[^{}]*\}|[\w.:/#-]+=(?>"[^"]*"|'[^']*'|[^\s"']+)|[\w.:/#-]+|[,}]|\s+)*+""")
_PYTHON = re.compile(r"i?py(?:thon)?[\d.]*|(?:python-|py)?repl|pycon|tool_code|code|.+\.py", re.I)

_Kind = Literal["python", "maybe"]  # "maybe" counts only in a reply that has no "python"


@dataclass(frozen=True, slots=True)
class _Mark:
    """A run of fence characters or a tag, and the line it is on."""

    start: int
    end: int
    line: int
    eol: int
    name: str  # "`", "~", "think", "/think", "code", ...
    leads: bool  # only indentation or quotation before it


def _marks(text: str) -> list[_Mark]:
    marks: list[_Mark] = []
    line, eol = 0, -1
    for match in islice(_MARK.finditer(text), _MAX_MARKS):
        start, end = match.span()
        if start > eol:
            line = text.rfind("\n", 0, start) + 1
            eol = text.find("\n", start)
            eol = len(text) if eol < 0 else eol
        name = match[0][0] if match[0][0] != "<" else match[0][1:-1].split()[0].lower()
        marks.append(_Mark(start, end, line, eol, name, start - line < 80 and not text[line:start].strip(" \t>")))
    return marks


def _info(info: str) -> tuple[str, str]:
    """A fence's info string as (label, code on the fence's own line)."""
    info = info.strip()
    match = _LABEL.match(info) or (re.search(r"\.(py\w*)", info) if info.startswith("{") else None)
    if not match:
        return "", info
    label, rest = match[1].lower(), info[match.end() :].strip()
    if not rest or (not keyword.iskeyword(rest.split()[0].rstrip(":")) and _ATTRIBUTES.fullmatch(rest)):
        return label, ""
    return (label, rest) if _PYTHON.fullmatch(label) else ("", info)


class _Scan:
    """One pass over a reply's fences and tags. A step takes a mark's index and gives the position to go on from."""

    def __init__(self, text: str, trials: _Trials) -> None:
        self.text = text
        self.trials = trials
        self.marks = _marks(text)
        self.end = _Mark(len(text), len(text), len(text), len(text), "", True)
        self.blocks: list[tuple[int, int, _Kind, tuple[str, ...]]] = []
        self.cut = False
        self.broken = False
        self.others: list[str] = []
        self.unparsed = ""

    def run(self) -> Extracted:
        position = 0
        for index, mark in enumerate(self.marks):
            if mark.start >= position and len(self.blocks) <= _MAX_CELLS * 2:
                position = self.fence(index) if mark.name in "`~" else self.tag(index)
        chosen = [block for block in self.blocks if block[2] == "python"] or self.blocks
        pieces: list[str] = []
        cells: list[str] = []
        position = 0
        for start, end, _, found in chosen:
            pieces.append(self.text[position:start])
            cells.extend(found)
            position = end
        return Extracted(tuple(cells), "\n".join([*pieces, self.text[position:]]), self.problem(bool(cells)))

    def problem(self, ran: bool) -> str:
        if self.cut:
            return _CUT
        if self.broken:
            return _BROKEN
        if ran:
            return _TOO_MANY if len(self.marks) == _MAX_MARKS else ""
        if self.unparsed:
            return (
                f"Your code block has no label and does not parse as Python ({self.unparsed}), so nothing ran. {_ASK}"
            )
        if self.others:
            names = ", ".join(f"```{name[:40]}" for name in dict.fromkeys(self.others[:5]))
            return f"Your reply had only {names} and no Python, so nothing ran. {_ASK}"
        return _PROSE

    def add(self, start: int, end: int, kind: _Kind, cells: tuple[str, ...]) -> int:
        if cells := tuple(cell for cell in cells if cell.strip()):
            self.blocks.append((start, end, kind, cells))
        return end

    def fence(self, index: int) -> int:
        mark = self.marks[index]
        lead = self.text[mark.line : mark.start][:80]
        own_line = _LEAD.fullmatch(lead) is not None
        if mark.name == "~" and not own_line:
            return mark.end
        if last := self.last_on_line(index):
            return self.inline(mark, last)
        label, first = _info(self.text[mark.end : mark.eol])
        if label in ("md", "markdown") or _LABELLED_FENCE.match(self.text, mark.eol):
            return mark.eol  # it only wraps what follows
        python = _PYTHON.fullmatch(label) is not None
        ends = self.closers(index)
        for end in [*ends, self.end] if python or not label or label.startswith("json") else []:
            if end.start - mark.eol > self.trials.chars:
                break
            if got := self.judge(self.body(mark, end, lead, first), label):
                return self.add(mark.start, self.after(end), *got)
        if (not own_line and not self.follows_colon(mark)) or (first and not python):
            return mark.end  # prose that mentions a fence
        for end in ends:
            rest = self.text[end.end : end.eol].strip()
            if not rest or (not python and _PYTHON.fullmatch(rest)):
                return self.unfit(mark, end, label, self.body(mark, end, lead, first))
        return self.unfit(mark, None, label, "")

    def judge(self, code: str, label: str) -> tuple[_Kind, tuple[str, ...]] | None:
        """What a block gives if `code` is all of it; None when it cannot be, as code that breaks off in a string."""
        python = _PYTHON.fullmatch(label) is not None
        if not python and code.startswith("{") and (action := _json_action(code, self.trials)):
            return "python", action.cells
        if (label and not python) or (fit := self.trials.fit(code)) is None:
            return None
        if python:
            return "python", (fit[0],)
        return "maybe", (fit[0],) if _acts(*fit) else ()

    def unfit(self, mark: _Mark, end: _Mark | None, label: str, code: str) -> int:
        """A block that is not what its label says, is in another language or (no `end`) never closed."""
        stop = self.after(end) if end else mark.end
        # A block that breaks off in a string literal leaves the rest of that literal behind, and fences in it are data:
        # so nothing after Python that does not parse is taken.
        if _PYTHON.fullmatch(label) and end:
            self.add(mark.start, stop, "python", (code,))  # the REPL shows the syntax error
            fences = (m for m in self.marks if m.start >= stop and m.name in "`~")
            self.broken = any(_PYTHON.fullmatch(self.text[m.end : m.eol].strip()) for m in fences)
            return len(self.text)
        if not end and (_PYTHON.fullmatch(label) or _CODE_KEY.search(self.text, mark.eol, mark.eol + 2_000)):
            self.cut = True
            return len(self.text)
        if label:
            self.others.append(label)
        else:
            self.unparsed = self.trials.error
        return stop

    def body(self, mark: _Mark, end: _Mark, lead: str, first: str) -> str:
        code = self.text[mark.eol + 1 : end.line if end.leads else end.start]
        if ">" in lead:
            code = re.sub(r"^[ \t]*> ?", "", code, flags=re.M)
        elif lead and _LEAD.fullmatch(lead):
            code = re.sub(rf"^[ \t]{{1,{len(lead)}}}", "", code, flags=re.M)
        return (f"{first}\n{code}" if first else code).strip("\n").rstrip()

    def closers(self, index: int) -> list[_Mark]:
        """Marks that may close a fence, likeliest first: leading a line and long enough (failing that, shorter), then
        ending a line of code.
        """
        mark = self.marks[index]
        later = [other for other in self.marks[index + 1 :] if other.name == mark.name]
        leading = [other for other in later if other.leads]
        long = [other for other in leading if other.end - other.start >= mark.end - mark.start]
        ending = (other for other in later if not other.leads and not self.text[other.end : other.eol].strip())
        return [*(long or leading)[:_MAX_CLOSERS], *islice(ending, _MAX_CLOSERS // 5)]

    def after(self, end: _Mark) -> int:
        """Past a closing fence; but one with a label closes nothing: it begins the next block, this was left open."""
        rest = self.text[end.end : end.eol]
        opens = re.fullmatch(r"[\w+#.-]+\s*", rest) or _PYTHON.fullmatch(rest.strip())
        return end.start if opens else end.end

    def last_on_line(self, index: int) -> _Mark | None:
        mark = self.marks[index]
        line = [m for m in self.marks[index + 1 : index + 50] if m.line == mark.line and m.name == mark.name]
        return next((m for m in reversed(line) if m.end - m.start >= mark.end - mark.start), None)

    def follows_colon(self, mark: _Mark) -> bool:
        return self.text[max(mark.line, mark.start - 80) : mark.start].rstrip(" *_").endswith(":")

    def alone(self, mark: _Mark, end: _Mark) -> bool:
        """Whether inline code has its own line or follows a colon: in mid-sentence it is talked about, not meant."""
        own_line = _LEAD.fullmatch(self.text[mark.line : mark.start][:80]) is not None
        return (own_line or self.follows_colon(mark)) and not self.text[end.end : end.eol].strip(" \t.")

    def inline(self, mark: _Mark, end: _Mark) -> int:
        """Code between two fences on one line."""
        code = self.text[mark.end : end.start].strip()
        label, _, rest = code.partition(" ")
        labelled = bool(rest) and _PYTHON.fullmatch(label) is not None
        fit = self.trials.fit(rest.strip() if labelled else code) if self.alone(mark, end) else None
        if fit and _acts(*fit):
            self.add(mark.start, end.end, "python" if labelled else "maybe", (fit[0],))
        return end.end

    def tag(self, index: int) -> int:
        mark = self.marks[index]
        closing = f"/{mark.name}"
        ends = [other for other in self.marks[index + 1 :] if other.name == closing]
        if mark.name in _THINK.split("|"):
            return ends[0].end if ends else mark.end
        talked_about = self.text[mark.start - 1 : mark.start] == "`"
        if mark.name.startswith("/") or talked_about or _LABELLED_FENCE.match(self.text, mark.end):
            return mark.end
        for end in [*(end for end in ends[:_MAX_CLOSERS] if self.alone(mark, end)), *([] if ends else [self.end])]:
            if end.start - mark.end > self.trials.chars:
                break
            code = self.text[mark.end : end.start].strip("\n").rstrip()
            if (got := self.judge(code.lstrip() if code.lstrip().startswith("{") else code, "")) and got[1]:
                return self.add(mark.start, end.end, "python", got[1])
        block = mark.leads and not self.text[mark.end : mark.eol].strip()
        if block and ends:
            self.add(mark.start, ends[0].end, "python", (self.text[mark.end : ends[0].start].strip("\n"),))
            return len(self.text)  # as in `unfit`
        self.cut = self.cut or block
        return mark.end


def read_json(text: str) -> dict[str, Any] | None:
    """The last JSON object in a reply, fenced or bare, or ``None``. Linear in the text's length but for nesting."""
    decoder = json.JSONDecoder(strict=False)
    found: dict[str, Any] | None = None
    start, tries = text.find("{"), 0
    while start != -1 and tries < 200:
        tries += 1
        try:
            value, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            start = text.find("{", start + 1)
            continue
        if isinstance(value, dict):
            found = cast("dict[str, Any]", value)
        start = text.find("{", end)
    return found
