"""``Text``: text of any size inside the REPL, read where it is when it is asked for. Standard library only.

Positions are bytes, which are characters where the text is ASCII; a slice never cuts a character. Counting characters
would mean reading ten gigabytes before the first slice.
"""

from __future__ import annotations

import codecs
import re
from typing import Any

if __package__:
    from dszig_py.environments._worker.stored import Held, Stored
else:  # in the worker: this file's folder was on the path when the zygote loaded it
    from stored import Held, Stored

__all__ = ["MOST", "Held", "Match", "Stored", "Text", "shown"]

BLOCK = 4 << 20  # bytes decoded at once; the larger, the less of it is what the next one reads again (_OVERLAP)
_SCAN = 512 << 10  # bytes looked through at once where nothing is decoded: they stay in the processor's cache
_FIRST = 64 << 10  # of a search, for what it looks for may be near
_LEAD = 4 << 10  # bytes before a block that a look-behind sees
_OVERLAP = 256 << 10  # bytes after it that a match may reach into, before more is read
MOST = 64 << 20  # bytes that are made one str without being asked for part by part
_LINE = 1 << 20  # bytes: a longer line comes in pieces, for a file without line ends is no line to hold in memory
_ONE_BYTE = ("ascii", "iso8859", "cp125", "koi8", "mac-")
_HAS = "len, [start:stop], in, find, rfind, count, search, finditer, findall, lines, chunks, startswith, endswith"


class Match:
    """What a search found; positions are those of the whole :class:`Text`. Used like a match of ``re``."""

    def __init__(self, groups: list[Any], spans: list[tuple[int, int]], names: dict[str, int]) -> None:
        self._groups, self._spans, self._names = groups, spans, names

    def _index(self, group: Any) -> int:
        return self._names[group] if isinstance(group, str) else group

    def group(self, *groups: Any) -> Any:
        found = tuple(self._groups[self._index(group)] for group in groups or (0,))
        return found[0] if len(found) == 1 else found

    def __getitem__(self, group: Any) -> Any:
        return self.group(group)

    def groups(self, default: Any = None) -> tuple[Any, ...]:
        return tuple(default if text is None else text for text in self._groups[1:])

    def groupdict(self, default: Any = None) -> dict[str, Any]:
        return {name: default if self._groups[i] is None else self._groups[i] for name, i in self._names.items()}

    def span(self, group: Any = 0) -> tuple[int, int]:
        return self._spans[self._index(group)]

    def start(self, group: Any = 0) -> int:
        return self.span(group)[0]

    def end(self, group: Any = 0) -> int:
        return self.span(group)[1]

    def __repr__(self) -> str:
        return f"<Match span={self.span()}, match={self._groups[0][:80]!r}>"


class Text:
    """Text of any size: ``text[a:b]`` is a ``str``, ``find``, ``count``, ``in`` and ``search`` read it block by block.

    Positions and ``len`` are in bytes (characters where the text is ASCII). Bytes that are no text of its encoding show as
    U+FFFD. It is no ``str``: ``str(text)`` makes one of up to 64 MiB, a slice one of any part.
    """

    _way_out = "pass a slice, text[start:stop], which is a str"
    _cited_as = "text"

    def __init__(self, source: Any, encoding: str = "utf-8", place: str = "") -> None:
        """``place``: the input that it is, as evidence names it."""
        self._place = place
        name = codecs.lookup(encoding).name
        self._zero = 3 if name in ("utf-8", "utf-8-sig") and source.read(0, 3) == codecs.BOM_UTF8 else 0
        if name == "utf-8-sig":
            name = "utf-8"
        if name != "utf-8" and not name.startswith(_ONE_BYTE):
            source, name = _as_utf8(source, encoding), "utf-8"
        self._source, self.encoding = source, name
        self._size = source.size - self._zero

    def __len__(self) -> int:
        return self._size

    def _bytes(self, start: int, stop: int) -> bytes:
        return self._source.read(self._zero + start, self._zero + min(stop, self._size))

    def span(self, start: Any, stop: Any = None) -> tuple[int, int]:
        """The positions of ``text[start:stop]``: those of whole characters."""
        first, last, _ = slice(start, stop).indices(self._size)
        return self._whole(first), self._whole(max(first, last))

    def _whole(self, at: int) -> int:
        """``at``, or where the next character begins."""
        if self.encoding != "utf-8" or not 0 < at < self._size:
            return at
        return at + _rest(self._bytes(at, at + 4), 0)

    def _slice(self, start: Any, stop: Any) -> str:
        """As ``_exact(*span(start, stop))``, by one read in place of three: code that slices, slices often."""
        first, last, _ = slice(start, stop).indices(self._size)
        if last <= first:
            return ""
        if self.encoding != "utf-8":
            return self._exact(first, last)
        data = self._bytes(first, last + 4)
        begun, end = _rest(data, 0) if first else 0, last - first
        return data[begun : end + (_rest(data, end) if last < self._size else 0)].decode("utf-8", "surrogateescape")

    def _viewed(self, start: int, stop: int, room: bytearray) -> memoryview:
        """The same bytes in ``room``, which grows where it is too small."""
        return self._source.view(self._zero + start, self._zero + min(stop, self._size), room)

    def _exact(self, start: int, stop: int) -> str:
        """Decoded so that it encodes to the same bytes again."""
        return self._bytes(start, stop).decode(self.encoding, "surrogateescape")

    def __getitem__(self, key: Any) -> str:
        if isinstance(key, slice):
            if key.step not in (None, 1):
                raise ValueError("a Text is sliced without a step")
            return shown(self._slice(key.start, key.stop), self.encoding)
        at = key + self._size if key < 0 else key
        if not 0 <= at < self._size:
            raise IndexError("Text index out of range")
        at = self._whole(at)
        return self[at : self._whole(at + 1)]

    def __contains__(self, needle: str) -> bool:
        return self.find(needle) >= 0

    def find(self, needle: str, start: int = 0, stop: int | None = None) -> int:
        """The first position of ``needle`` from ``start`` on, or -1."""
        wanted, (at, stop) = self._encoded(needle), self.span(start, stop)
        size, over = _FIRST, len(wanted) - 1
        while True:
            until = min(at + size + max(over, 0), stop)
            data = self._bytes(at, until)
            if (found := data.find(wanted)) >= 0:
                return at + found
            if until >= stop or len(data) <= over:
                return -1
            at, size = at + len(data) - over, min(4 * size, _SCAN)

    def rfind(self, needle: str, start: int = 0, stop: int | None = None) -> int:
        """The last position of ``needle``, or -1."""
        wanted, (start, stop) = self._encoded(needle), self.span(start, stop)
        size, over = _FIRST, max(len(wanted) - 1, 0)
        while True:
            at = max(stop - size - over, start)
            if (found := self._bytes(at, stop).rfind(wanted)) >= 0:
                return at + found
            if at <= start:
                return -1
            stop, size = at + over, min(4 * size, _SCAN)

    def index(self, needle: str, start: int = 0, stop: int | None = None) -> int:
        """As :meth:`find`. Raises ``ValueError`` where there is none."""
        if (found := self.find(needle, start, stop)) < 0:
            raise ValueError("substring not found")
        return found

    def count(self, needle: str, start: int = 0, stop: int | None = None) -> int:
        """How often ``needle`` is there, occurrences not overlapping."""
        wanted, (at, stop) = self._encoded(needle), self.span(start, stop)
        if not wanted:
            raise ValueError("count of an empty text")
        over, total = len(wanted) - 1, 0
        alone = not any(wanted.startswith(wanted[i:]) for i in range(1, len(wanted)))  # cannot overlap itself
        while at < stop:
            data = self._bytes(at, min(at + _SCAN + over, stop))
            if alone:
                found = data.count(wanted)
                total += found
                end = data.rfind(wanted) + len(wanted) if found else 0
            else:
                end = 0
                while (found := data.find(wanted, end)) >= 0:
                    total, end = total + 1, found + len(wanted)
            if len(data) <= over:
                break
            at += max(end, len(data) - over)
        return total

    def startswith(self, prefix: str, start: int = 0) -> bool:
        return self._bytes(start, start + len(self._encoded(prefix))) == self._encoded(prefix)

    def endswith(self, suffix: str) -> bool:
        wanted = self._encoded(suffix)
        return len(wanted) <= self._size and self._bytes(self._size - len(wanted), self._size) == wanted

    def encoded_size(self, needle: str) -> int:
        """How many positions ``needle`` takes. Raises ``UnicodeEncodeError`` where the text's encoding does not have it."""
        return len(self._encoded(needle))

    def _encoded(self, needle: str) -> bytes:
        if not isinstance(needle, str):
            raise TypeError(f"looked for in a Text is text, not {type(needle).__name__}")
        return needle.encode(self.encoding, "surrogateescape")

    def search(self, pattern: Any, start: int = 0, stop: int | None = None, flags: int = 0) -> Match | None:
        """The first match of the regular expression ``pattern``, or None."""
        return next(self.finditer(pattern, start, stop, flags), None)

    def findall(self, pattern: Any, start: int = 0, stop: int | None = None, flags: int = 0) -> list[Any]:
        """As ``re.findall``."""
        found = self.finditer(pattern, start, stop, flags)
        return [
            m.group() if not m.groups() else m.groups("") if len(m.groups()) > 1 else m.groups("")[0] for m in found
        ]

    def finditer(self, pattern: Any, start: int = 0, stop: int | None = None, flags: int = 0) -> Any:
        """Matches of the regular expression ``pattern`` in order, read block by block: a match that needs more than the
        256 KiB after its block may be missed or end early, unless it is one run up to the block's end (such as a long word), which is
        followed up to 64 MiB. A look-behind sees 4 KiB before the block.
        """
        compiled = re.compile(pattern, flags)
        at, stop = self.span(start, stop)
        size, room = _FIRST, bytearray()
        while at <= stop:
            block = _Block(self, at, min(at + size, stop), min(at + size + _OVERLAP, stop), room)
            onward = block.until
            for found in compiled.finditer(block.text, block.first):
                if found.start() >= block.edge and block.reach < stop:
                    break
                if found.end() == len(block.text) and block.reach < stop and size < MOST:
                    onward = block.offset(found.start())
                    break
                yield block.match(found, compiled)
                onward = max(onward, block.offset(found.end()))
            if block.reach >= stop and onward >= block.until:
                return
            size = 4 * size if onward < block.until else min(4 * size, BLOCK)
            at, found = onward, None
            del block  # its text is let go of before the next one is made, in the same memory

    def lines(self, start: int = 0, stop: int | None = None, *, offsets: bool = False) -> Any:
        """Each line as a ``str`` without its end, or (position, line). A line over 1 MiB comes in pieces."""
        at, stop = self.span(start, stop)
        while at < stop:
            until = min(at + BLOCK, stop)
            data = self._bytes(at, until)
            used = 0
            for used, line in _lines(data, until == stop or len(data) < until - at):
                text = shown(line.decode(self.encoding, "surrogateescape"), self.encoding)
                yield (at + used - len(line), text.rstrip("\r\n")) if offsets else text.rstrip("\r\n")
            if not used:
                return
            at += used

    def __iter__(self) -> Any:
        return self.lines()

    def splitlines(self) -> list[str]:
        """All lines, of up to 64 MiB of text."""
        return str(self).splitlines()

    def chunks(self, size: int | None = None, *, lines: int | None = None, overlap: int = 0) -> Any:
        """(position, ``str``) of ``size`` bytes each, ``overlap`` of them the end of the one before; or of ``lines`` lines."""
        if (size is None) == (lines is None):
            raise ValueError("chunks(size) or chunks(lines=n)")
        if lines is None:
            assert size is not None
            if size <= overlap or overlap < 0:
                raise ValueError("a chunk is larger than its overlap")
            at = 0
            while at < self._size:
                start, stop = self.span(at, at + size)
                yield start, self[start:stop]
                at = stop - overlap if stop < self._size else stop
            return
        begun, held = 0, 0
        for position, _line in self.lines(offsets=True):
            if held == lines:
                yield begun, self[begun:position]
                begun, held = position, 0
            held += 1
        if held:
            yield begun, self[begun:]

    def __str__(self) -> str:
        if self._size > MOST:
            raise ValueError(
                f"{self._size:,} bytes are too many for one str; take text[start:stop], .lines() or .chunks()"
            )
        return self[:]

    def __repr__(self) -> str:
        return f"<Text of {self._size:,} bytes, {self.encoding}: {self[:60]!r}{'...' if self._size > 60 else ''}>"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or not hasattr(str, name):
            raise AttributeError(f"'Text' object has no attribute {name!r}")
        raise AttributeError(
            f"a Text has no .{name}; it has {_HAS}. A part of it is a str: text[start:stop].{name}(...)"
        )


class _Block:
    """Characters of a text with a little before and after, and the way from their indices to positions."""

    def __init__(self, text: Text, at: int, until: int, reach: int, room: bytearray) -> None:
        begun = text._whole(max(at - _LEAD, 0))
        self.at, self.until, self.reach = at, text._whole(until), text._whole(reach)
        self.encoding = text.encoding
        with text._viewed(begun, self.reach, room) as data:
            self.text = self._decoded(data)
            self.even = self.encoding != "utf-8" or self.text.isascii()
            if self.even:
                self.first, self.edge = at - begun, self.until - begun
            else:
                self.first = len(self._decoded(data[: at - begun]))
                self.edge = len(self.text) - len(self._decoded(data[self.until - begun :]))

    def _decoded(self, data: Any) -> str:
        return str(data, self.encoding, "surrogateescape")

    def offset(self, index: int) -> int:
        if self.even:
            return self.at + index - self.first
        low, high = sorted((self.first, index))
        size = len(self.text[low:high].encode(self.encoding, "surrogateescape"))
        return self.at + (size if index >= self.first else -size)

    def match(self, found: Any, compiled: Any) -> Match:
        groups = [found[i] for i in range(compiled.groups + 1)]
        groups = [None if text is None else shown(text, self.encoding) for text in groups]
        spans = [found.span(i) for i in range(compiled.groups + 1)]
        places = [(-1, -1) if a < 0 else (self.offset(a), self.offset(b)) for a, b in spans]
        return Match(groups, places, dict(compiled.groupindex))


def _lines(data: bytes, last: bool) -> Any:
    """(where it ends, line with its end) of the whole lines in ``data``, and of the rest where nothing follows or it is long."""
    begun = 0
    while begun < len(data):
        end = data.find(b"\n", begun, begun + _LINE) + 1
        if not end and len(data) - begun > _LINE:
            end = begun + _LINE
            while end > begun + 1 and data[end] & 0xC0 == 0x80:  # not in the middle of a character
                end -= 1
        if not end and not last:
            return
        end = end or len(data)
        yield end, data[begun:end]
        begun = end


def _rest(data: bytes, at: int) -> int:
    """How many bytes from ``at`` on are the rest of a character; ``data`` holds four more, or ends with the text. Four of
    that kind are no character: nothing to keep together.
    """
    for skipped, byte in enumerate(data[at : at + 4]):
        if byte & 0xC0 != 0x80:
            return skipped
    return 0 if len(data) - at >= 4 else len(data) - at


def shown(text: str, encoding: str) -> str:
    """With what was no text as U+FFFD."""
    if text.isascii():
        return text
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode(encoding, "surrogateescape").decode(encoding, "replace")
    return text


def _as_utf8(source: Any, encoding: str) -> Held:
    """A whole text in another encoding, made UTF-8: in its own bytes a position may be the middle of a character."""
    if source.size > MOST:
        raise ValueError(
            f"{source.size:,} bytes of {encoding}: over 64 MiB, only utf-8 and one-byte encodings are read in place; use .bytes()"
        )
    return Held(source.read(0, source.size).decode(encoding, "replace").encode("utf-8", "surrogatepass"))
