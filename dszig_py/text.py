"""Pure text: bounded views of long text, and text that can be shown anywhere."""

from __future__ import annotations

import re

__all__ = ["clean", "preview", "truncate"]


def truncate(text: str, limit: int, *, total: int | None = None) -> str:
    """The head and the tail of `text` (about 2:1) with a marker between them that counts what is missing.

    The result has at most `limit` characters, or is the bare marker where not even that fits. Text that is no longer
    than the marker is returned as it is. `total` is the size before an earlier cut: `text` is then the head and tail
    that were kept (2:1 as here), and what was lost earlier is counted too.
    """
    size = max(len(text), total or 0)
    if size == len(text) <= limit:
        return text
    widest = len(_marker(size, size))
    if size == len(text) <= widest:
        return text
    keep = min(max(limit - widest, 0), len(text))
    head_end = (keep * 2 + 2) // 3
    tail_start = len(text) - (keep - head_end)
    if keep < len(text):
        # A whole line reads better than a half one, when at most a fifth of the piece is given up for it.
        if (newline := text.rfind("\n", head_end - head_end // 5, head_end + 1)) > 0:
            head_end = newline
        if (newline := text.find("\n", max(tail_start - 1, 0), tail_start + (len(text) - tail_start) // 5)) >= 0:
            tail_start = newline + 1
    missing = size - head_end - (len(text) - tail_start)
    return text[:head_end] + _marker(missing, size) + text[tail_start:]


def _marker(missing: int, size: int) -> str:
    return f"\n... [{missing:,} of {size:,} characters left out] ...\n"


def preview(text: str, limit: int) -> str:
    """One value as a prompt shows it: truncated first, then cleaned, so that a huge value is never scanned whole."""
    return clean(truncate(text, limit))


_ESCAPE = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor
    r"|[\]PX^_][^\x07\x1b\n]*(?:\x07|\x1b\\)"  # OSC and other strings: titles, links
    r"|[ -/]*[0-~])"
)
_CONTROL = {code: None for code in (*range(32), 127) if code not in (9, 10)}


def clean(text: str) -> str:
    r"""`text` that can be encoded as UTF-8 and shown anywhere.

    ANSI escapes and control characters other than \n and \t are dropped, \r\n and a lone \r become \n, and lone
    surrogates become U+FFFD. Never longer than `text`; cleaning twice changes nothing.
    """
    if "\x1b" in text:
        text = _ESCAPE.sub("", text)
    text = text.replace("\r\n", "\n").replace("\r", "\n").translate(_CONTROL)
    try:
        text.encode()
    except UnicodeEncodeError:
        # By way of UTF-16, so that a pair that arrived as two halves becomes the character it was.
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text
