"""What a model is told of the `repl` language, and how its replies are read: blocks tagged exactly ``repl``."""

from __future__ import annotations

import re

from dszig_py.language import Callables, Language
from dszig_py.replies import Extracted
from dszig_py.text import clean

__all__ = ["language", "read_reply"]

_INSTRUCTIONS = """\
You solve a task by writing short programs for a small REPL. It is not Python: a program is lines of a few kinds, listed with \
the task. The inputs are variables there and may be far too big to read: you see only their names, types, sizes and \
previews. Reply with a sentence or two of reasoning and one ```repl block. It is run line by line, you are shown what it \
printed, and you go on from there; variables stay.

How to work:
- There are no loops, conditions, functions or arithmetic: write one line for each step.
- Look first: print the start, the middle and the end of a long input, as print(context[0:1500]). Never print it whole.
- A sub-call sees only the text you give it: join the question, the instructions and a piece of the input with +. Give a \
long input to several sub-calls, a slice of up to 100,000 characters each, all at once with the batched form.
- Keep answers in variables and build the output from variables, not from text you retype.
- A line that fails stops its block, and you are told which and why; the lines before it have been run.
- When you have the answer, finish with a FINAL line in a ```repl block. Nothing you write outside the block counts as an \
answer."""

_VALUE = """\
a text on one line in quotes ('...' or "...", with \\n, \\t, \\", \\\\), a number, or a variable, also a part of it as \
context[0:2000], docs[3] or row["id"]; joined with +"""
_OWN = (
    ("let", "let NAME = VALUE", "keeps a value"),
    ("print", "print(VALUE)", "shows it to you"),
)
_JS = (
    "js",
    "js NAME = VALUE",
    "runs a JavaScript text, which sees the variables it names; NAME is its last expression",
)
_FINAL = (
    (
        "FINAL",
        "FINAL(VALUE), or FINAL(output=VALUE, output=VALUE)",
        "finishes with the outputs (SUBMIT is the same); JSON text for lists",
    ),
    ("FINAL_VAR", "FINAL_VAR(NAME)", "finishes with a variable"),
)
_HOST = {
    "llm_query": ("llm_query NAME = VALUE", "asks a model; it sees this text and nothing else"),
    "llm_query_batched": (
        "llm_query_batched NAME = VALUE | VALUE | VALUE",
        "the same for many at once; NAME is the list of answers, NAME[0] the first",
    ),
    "predict": (
        'predict NAME = "text, question -> label: str", text=VALUE, question=VALUE',
        "one typed model call",
    ),
    "rlm_query": (
        'rlm_query NAME = VALUE, or rlm_query NAME = "notes, question -> answer", notes=VALUE, question=VALUE',
        "a whole run like yours, for a part that needs work of its own",
    ),
    "rlm_query_batched": ("rlm_query_batched NAME = VALUE | VALUE", "many at once"),
    "budget": ("budget()", "shows what is left of this run's limits"),
    "SHOW_VARS": ("SHOW_VARS()", "shows names and short values of all variables"),
}
_LEFT_OUT = ("predict_batched",)  # its inputs are a list of dicts, for which the language has no form

_ASK = "Reply with one ```repl block; to finish, write FINAL(...) inside it."
_EMPTY = f"Your reply was empty. {_ASK}"
_NO_BLOCK = f"Your reply had no ```repl block, so nothing ran; what stands outside one is no answer. {_ASK}"
_CUT = "Your ```repl block was not closed, so it did not run. Send it again, shorter, and close it with ```."
_MAX_CELLS = 50
_TOO_MANY = f"Your reply had more than {_MAX_CELLS} blocks; only the first ones were taken."
_FENCE = re.compile(r"[ \t]{0,3}(`{3,}|~{3,})([^`]*)$")
_THOUGHTS = re.compile(
    r"\s*(?:<(think|thinking|reasoning|reflection)>.*?(?:</\1\s*>|\Z)\s*)+|.*?^[ \t]*</(?:think|thinking|reasoning)>[ \t]*$",
    re.DOTALL | re.IGNORECASE | re.MULTILINE,
)


def language(js: bool) -> Language:
    """The `repl` language; ``js``: with JavaScript lines."""

    def told(callables: Callables) -> Callables:
        host = [(n, *_HOST[n]) if n in _HOST else (n, *_as_statement(n, s, doc)) for n, s, doc in callables]
        offered = [one for one in host if one[0] not in _LEFT_OUT]
        return [*_OWN, *([_JS] if js else []), *offered, *_FINAL, ("VALUE", "VALUE", _VALUE)]

    heading = "A ```repl block has one of these on each line:"
    return Language("lines of the repl language", "repl", read_reply, "FINAL", _INSTRUCTIONS, heading, told)


def _as_statement(name: str, signature: str, doc: str) -> tuple[str, str]:
    """A tool as the language calls it: ``fetch(url: str) -> str`` is ``fetch NAME = url``."""
    return f"{name} NAME = VALUE, ... or {name} NAME = parameter=VALUE, ...", f"{signature}. {doc}".rstrip()


def read_reply(reply: str | None) -> Extracted:
    """The `repl` blocks of a reply, in order, or what to tell the model instead. Never raises; linear."""
    text = clean(reply or "").strip()
    if not text:
        return Extracted((), "", _EMPTY)
    thoughts = _THOUGHTS.match(text)
    start = thoughts.end() if thoughts else 0
    cells, prose, cut = _blocks(text[start:].split("\n"))
    said = "\n".join([text[:start], *prose]).strip()
    if cut:
        problem = _CUT
    elif not cells:
        problem = _NO_BLOCK
    else:
        problem = _TOO_MANY if len(cells) > _MAX_CELLS else ""
    return Extracted(tuple(cells[:_MAX_CELLS]), said, problem)


def _blocks(lines: list[str]) -> tuple[list[str], list[str], bool]:
    """(blocks tagged repl, the lines around them, whether the last block was left open)."""
    cells: list[str] = []
    prose: list[str] = []
    body: list[str] | None = None  # of the repl block that is open
    fence = ""  # what opened the block that is open
    for line in lines:
        match = _FENCE.match(line)
        mark, label = (match[1], match[2].strip()) if match else ("", "")
        closes = fence and mark.startswith(fence) and not label
        opens = mark and label and (not fence or mark.startswith(fence))
        if closes or opens:
            if body and any(part.strip() for part in body):
                cells.append("\n".join(body))
            body = list[str]() if opens and label == "repl" else None
            fence = mark if opens else ""
        elif mark and not fence and not label:
            fence = mark
        elif body is not None:
            body.append(line)
        else:
            prose.append(line)
    return cells, prose, body is not None
