"""Reasoning that leads a reply, and what is left of the text around the code."""

from __future__ import annotations

import re

__all__ = ["TAG", "THINK", "end_of_thoughts", "prose"]

THINK = "think|thinking|reasoning|reflection"
TAG = rf"</?(?:{THINK}|code|python|execute|tool_call)(?:\s[^<>\n]{{0,200}})?>"
_THINK_TAG = re.compile(rf"\s*<(/?)({THINK})(?:\s[^<>\n]{{0,200}})?>", re.I)
_SINGLE_QUOTED = re.compile(r"(?:^|[\s(=,\[])[rbf]{0,2}'[^']*$")
_NOISE = re.compile(rf"{TAG}|^[ \t]*\[\[ ## \w+ ## \]\]|^[ \t]*(?:`{{3,}}|~{{3,}})[ \t]*$", re.I | re.M)


def end_of_thoughts(text: str) -> int:
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


def prose(text: str) -> str:
    return re.sub(r"\n{3,}", "\n\n", _NOISE.sub("", text)).strip()
