"""Functions for reading long texts, given to the REPL where ``Strategy(helpers=True)`` asks for them.

The REPL gets this module's source, so it uses the standard library alone. Which functions, and that models of some sizes do
better with them than with slices of their own, is from pyrlm-runtime; the contract tells of them (``prompts.READING``).
"""

import re
from typing import Any

MOST_HITS = 1_000


def peek(text: str, n: int = 1_000) -> str:
    """The first ``n`` characters."""
    return text[:n]


def tail(text: str, n: int = 1_000) -> str:
    """The last ``n`` characters."""
    return text[-n:] if n > 0 else ""


def chunk(text: str, size: int = 50_000, overlap: int = 0) -> list[str]:
    """Pieces of at most ``size`` characters, cut behind a line's end where one is in the second half of a piece.

    ``overlap``: characters that each piece repeats of the one before. Without it the pieces joined are the text.
    """
    if size < 1 or not 0 <= overlap < size:
        raise ValueError("chunk takes size >= 1 and 0 <= overlap < size")
    pieces: list[str] = []
    start = 0
    while start < len(text):
        end = start + size
        if end < len(text):
            line = text.rfind("\n", start + size // 2, end)
            end = line + 1 if line > start + overlap else end
        pieces.append(text[start:end])
        if end >= len(text):
            break
        start = end - overlap
    return pieces


def search(text: str | list[str], pattern: str, context: int = 200, limit: int = 20) -> list[dict[str, Any]]:
    """Where a regular expression (or, where it is none, the text itself) occurs, case ignored.

    Gives at most ``limit`` of {"start", "end", "match", "around"}, ``around`` with ``context`` characters each side; in a
    list of texts each has its "index" too.
    """
    try:
        wanted = re.compile(pattern, re.IGNORECASE)
    except re.error:
        wanted = re.compile(re.escape(pattern), re.IGNORECASE)
    texts: list[tuple[Any, str]] = [(None, text)] if isinstance(text, str) else list(enumerate(text))
    found: list[dict[str, Any]] = []
    for index, one in texts:
        for match in wanted.finditer(one):
            if len(found) >= min(limit, MOST_HITS):
                return found
            start, end = match.span()
            around = one[max(0, start - context) : end + context]
            hit = {"start": start, "end": end, "match": match[0], "around": around}
            found.append(hit if index is None else {"index": index, **hit})
    return found
