"""Pieces of HTML that are safe by construction, Python coloured without running it, and numbers as words.

Text becomes :class:`Html` in one place, :func:`escape`; :func:`tag` escapes every child and attribute that is not
:class:`Html` yet. So a forgotten call shows as doubled escapes, never as markup that a model wrote.
"""

from __future__ import annotations

import html
import keyword
import math
import re
from collections.abc import Iterable

from dszig_py.text import clean, truncate
from dszig_py.usage import Usage

__all__ = [
    "Html",
    "bounded",
    "count",
    "dollars",
    "ends",
    "escape",
    "highlight",
    "join",
    "line",
    "seconds",
    "tag",
    "tokens",
]

# Characters that change how the text around them is read: directions (Trojan Source) and the C1 controls.
_HIDDEN = (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A), *range(0x80, 0xA0))
_SHOWN = {code: f"[U+{code:04X}]" for code in _HIDDEN}
_TOKEN = re.compile(
    r"(?P<c>\#[^\n]*)"
    r"|(?P<s>[rbfuRBFU]{0,2}(?:\"\"\"[\s\S]*?(?:\"\"\"|\Z)|'''[\s\S]*?(?:'''|\Z)"
    r"|\"(?:\\.|[^\"\\\n])*\"?|'(?:\\.|[^'\\\n])*'?))"
    r"|(?P<n>\d[\w.]*)"
    r"|(?P<w>[^\W\d]\w*)"
)
_OURS = frozenset(("predict", "predict_batched", "SUBMIT", "SHOW_VARS", "budget"))
_ASKS = ("llm_query", "rlm_query")  # and what begins so


class Html(str):
    """A string that is markup already."""

    __slots__ = ()


def escape(text: str) -> Html:
    """``text`` as HTML that shows it and does nothing else, in an element or in a quoted attribute."""
    if isinstance(text, Html):
        return text
    return Html(html.escape(clean(text).translate(_SHOWN)))


def bounded(text: str, limit: int) -> Html:
    """About ``limit`` characters of ``text``, escaped; what is left out is counted in its middle.

    Quotes and Chinese take several bytes a character, so text made of them is cut shorter: a page has a size to keep.
    """
    shown = escape(truncate(text, limit))
    weight, most = len(shown.encode()), 2 * limit if limit >= 300 else limit + 130
    return shown if weight <= most else escape(truncate(text, limit * most // weight))


def line(text: str, chars: int) -> str:
    """``text`` as one line of at most ``chars`` characters."""
    flat = " ".join(clean(text[: 10 * chars]).split())
    return flat if len(flat) <= chars and len(text) <= 10 * chars else f"{flat[: chars - 2].rstrip()} …"


def ends(text: str, chars: int) -> str:
    """``text`` as one line of its head and its tail: the prompts of a batch begin alike."""
    if len(text) <= chars:
        return line(text, chars)
    head, tail = (" ".join(clean(part).split()) for part in (text[:chars], text[-chars:]))
    flat = " ".join(clean(text).split()) if len(text) <= 2 * chars else ""
    return (
        flat if flat and len(flat) <= chars else f"{head[: chars // 2].rstrip()} … {tail[-(chars // 2 - 3) :].lstrip()}"
    )


def light(text: str, weight: int) -> Html:
    """The start of a short ``text``, escaped, of about ``weight`` bytes."""
    shown = escape(text)
    size = len(shown.encode())
    return shown if size <= weight else escape(f"{text[: max(1, len(text) * weight // size - 2)]} …")


def tag(name: str, /, *inner: str, **attributes: str | bool | None) -> Html:
    """An element. ``class_`` is class and ``aria_label`` is aria-label; ``None`` and ``False`` leave an attribute out."""
    opened = [name]
    for key, value in attributes.items():
        if value is not None and value is not False:
            written = key.rstrip("_").replace("_", "-")
            opened.append(written if value is True else f'{written}="{escape(value)}"')
    if name == "meta":  # the one void element in use
        return Html(f"<{' '.join(opened)}>")
    return Html(f"<{' '.join(opened)}>{''.join(map(escape, inner))}</{name}>")


def join(parts: Iterable[str], between: str = "") -> Html:
    """``parts`` one after the other, text among them escaped."""
    return Html(escape(between).join(map(escape, parts)))


def highlight(code: str) -> Html:
    """Python in colours. Works on any text: code that does not parse is what one most wants to read."""
    code = clean(code)  # as a whole: an escape sequence must not survive by being cut into tokens
    parts: list[str] = []
    at = 0
    for match in _TOKEN.finditer(code):
        kind = match.lastgroup or ""
        if kind == "w":
            kind = (
                "k" if keyword.iskeyword(match[0]) else "f" if match[0] in _OURS or match[0].startswith(_ASKS) else ""
            )
        if kind:
            parts += [escape(code[at : match.start()]), f'<span class="dz-{kind}">{escape(match[0])}</span>']
            at = match.end()
    return Html("".join([*parts, escape(code[at:])]))


def count(number: int, noun: str) -> str:
    """``1 call``, ``2,000 calls``."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def tokens(usage: Usage) -> str:
    """Input and output tokens together, "about" where some were estimated."""
    return f"{'about ' * usage.estimated}{count(usage.tokens, 'token')}"


def dollars(usage: Usage) -> str:
    """The cost, or that it is not known."""
    if usage.cost is None or not math.isfinite(usage.cost):
        return "unknown"
    return f"${usage.cost:,.4f}" if usage.cost < 10 else f"${usage.cost:,.2f}"


def seconds(value: float) -> str:
    """A duration in the unit that suits it."""
    if not math.isfinite(value):
        return "?"
    if abs(value) < 0.0995:
        return f"{value * 1000:.0f} ms"
    if abs(value) < 99.5:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes:,} min {rest} s" if minutes < 100 else f"{minutes // 60:,} h {minutes % 60} min"
