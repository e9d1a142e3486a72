"""One pass over a reply's fences and tags."""

from __future__ import annotations

import keyword
import re
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from dszig_py.replies._forms import CODE_KEY, json_action
from dszig_py.replies._python import Trials, acts
from dszig_py.replies._thoughts import TAG, THINK
from dszig_py.replies._told import ASK, BROKEN, CUT, MAX_CELLS, MAX_CLOSERS, MAX_MARKS, PROSE, TOO_MANY, Extracted

__all__ = ["Scan", "scan"]

_MARK = re.compile(rf"`{{3,}}|~{{3,}}|{TAG}", re.I)
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
    for match in islice(_MARK.finditer(text), MAX_MARKS):
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


class Scan:
    """One pass over a reply's fences and tags. A step takes a mark's index and gives the position to go on from."""

    def __init__(self, text: str, trials: Trials) -> None:
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
            if mark.start >= position and len(self.blocks) <= MAX_CELLS * 2:
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
            return CUT
        if self.broken:
            return BROKEN
        if ran:
            return TOO_MANY if len(self.marks) == MAX_MARKS else ""
        if self.unparsed:
            return f"Your code block has no label and does not parse as Python ({self.unparsed}), so nothing ran. {ASK}"
        if self.others:
            names = ", ".join(f"```{name[:40]}" for name in dict.fromkeys(self.others[:5]))
            return f"Your reply had only {names} and no Python, so nothing ran. {ASK}"
        return PROSE

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
        if not python and code.startswith("{") and (action := json_action(code, self.trials, scan)):
            return "python", action.cells
        if (label and not python) or (fit := self.trials.fit(code)) is None:
            return None
        if python:
            return "python", (fit[0],)
        return "maybe", (fit[0],) if acts(*fit) else ()

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
        if not end and (_PYTHON.fullmatch(label) or CODE_KEY.search(self.text, mark.eol, mark.eol + 2_000)):
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
        return [*(long or leading)[:MAX_CLOSERS], *islice(ending, MAX_CLOSERS // 5)]

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
        if fit and acts(*fit):
            self.add(mark.start, end.end, "python" if labelled else "maybe", (fit[0],))
        return end.end

    def tag(self, index: int) -> int:
        mark = self.marks[index]
        closing = f"/{mark.name}"
        ends = [other for other in self.marks[index + 1 :] if other.name == closing]
        if mark.name in THINK.split("|"):
            return ends[0].end if ends else mark.end
        talked_about = self.text[mark.start - 1 : mark.start] == "`"
        if mark.name.startswith("/") or talked_about or _LABELLED_FENCE.match(self.text, mark.end):
            return mark.end
        for end in [*(end for end in ends[:MAX_CLOSERS] if self.alone(mark, end)), *([] if ends else [self.end])]:
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


def scan(text: str, trials: Trials) -> Extracted:
    """The code in a text's fences and tags."""
    return Scan(text, trials).run()
