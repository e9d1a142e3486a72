"""``Text``: text of any size inside the REPL, read where it is when it is asked for. Standard library only.

Positions are bytes, which are characters where the text is ASCII; a slice never cuts a character. Counting characters
would mean reading ten gigabytes before the first slice.

Blocks are read by ``pread`` and not through one mapping: a mapping of ten gigabytes counts against the worker's address
space (RLIMIT_AS), and a file that is cut short while it is mapped kills the process (SIGBUS). A block of two MiB stays in
the processor's cache, which makes up for the copy.
"""

from __future__ import annotations

import codecs
import os
import re
from typing import Any

BLOCK = 2 << 20  # bytes read at once
_FIRST = 64 << 10  # of a search, for what it looks for may be near
_LEAD = 4 << 10  # bytes before a block that a look-behind sees
_OVERLAP = 256 << 10  # bytes after it that a match may reach into, before more is read
MOST = 64 << 20  # bytes that are made one str without being asked for part by part
_LINE = 1 << 20  # bytes: a longer line comes in pieces, for a file without line ends is no line to hold in memory
_ONE_BYTE = ("ascii", "iso8859", "cp125", "koi8", "mac-")
_HAS = "len, [start:stop], in, find, rfind, count, search, finditer, findall, lines, chunks, startswith, endswith"


class Stored:
    """Bytes behind a descriptor, which is closed with this; ``size`` is what they were when it was opened."""

    def __init__(self, fd: int, size: int) -> None:
        self.fd, self.size = fd, size
        self._pread, self._close = os.pread, os.close  # bound now: a cell may put something else in their place

    def read(self, start: int, stop: int) -> bytes:
        """Bytes ``start`` to ``stop``; fewer where the file has become shorter."""
        start, stop = max(start, 0), min(stop, self.size)
        parts: list[bytes] = []
        while start < stop and (part := self._pread(self.fd, stop - start, start)):
            parts.append(part)
            start += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def __del__(self) -> None:
        try:
            self._close(self.fd)
        except (OSError, AttributeError):  # at the interpreter's end
            pass


class Held:
    """The same for bytes in memory."""

    def __init__(self, data: bytes) -> None:
        self.data, self.size = data, len(data)

    def read(self, start: int, stop: int) -> bytes:
        return self.data[max(start, 0) : max(stop, 0)]


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

    def __init__(self, source: Any, encoding: str = "utf-8") -> None:
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

    def _range(self, start: Any, stop: Any) -> tuple[int, int]:
        first, last, _ = slice(start, stop).indices(self._size)
        return self._whole(first), self._whole(max(first, last))

    def _whole(self, at: int) -> int:
        """``at``, or where the next character begins."""
        if self.encoding != "utf-8" or not 0 < at < self._size:
            return at
        following = self._bytes(at, at + 4)
        for skipped, byte in enumerate(following):
            if byte & 0xC0 != 0x80:
                return at + skipped
        return (
            at if len(following) == 4 else at + len(following)
        )  # four such bytes are no character: nothing to keep together

    def _exact(self, start: int, stop: int) -> str:
        """Decoded so that it encodes to the same bytes again."""
        return self._bytes(start, stop).decode(self.encoding, "surrogateescape")

    def __getitem__(self, key: Any) -> str:
        if isinstance(key, slice):
            if key.step not in (None, 1):
                raise ValueError("a Text is sliced without a step")
            return shown(self._exact(*self._range(key.start, key.stop)), self.encoding)
        at = key + self._size if key < 0 else key
        if not 0 <= at < self._size:
            raise IndexError("Text index out of range")
        at = self._whole(at)
        return self[at : self._whole(at + 1)]

    def __contains__(self, needle: str) -> bool:
        return self.find(needle) >= 0

    def find(self, needle: str, start: int = 0, stop: int | None = None) -> int:
        """The first position of ``needle`` from ``start`` on, or -1."""
        wanted, (at, stop) = self._encoded(needle), self._range(start, stop)
        size, over = _FIRST, len(wanted) - 1
        while True:
            until = min(at + size + max(over, 0), stop)
            data = self._bytes(at, until)
            if (found := data.find(wanted)) >= 0:
                return at + found
            if until >= stop or len(data) <= over:
                return -1
            at, size = at + len(data) - over, min(4 * size, BLOCK)

    def rfind(self, needle: str, start: int = 0, stop: int | None = None) -> int:
        """The last position of ``needle``, or -1."""
        wanted, (start, stop) = self._encoded(needle), self._range(start, stop)
        size, over = _FIRST, max(len(wanted) - 1, 0)
        while True:
            at = max(stop - size - over, start)
            if (found := self._bytes(at, stop).rfind(wanted)) >= 0:
                return at + found
            if at <= start:
                return -1
            stop, size = at + over, min(4 * size, BLOCK)

    def index(self, needle: str, start: int = 0, stop: int | None = None) -> int:
        """As :meth:`find`. Raises ``ValueError`` where there is none."""
        if (found := self.find(needle, start, stop)) < 0:
            raise ValueError("substring not found")
        return found

    def count(self, needle: str, start: int = 0, stop: int | None = None) -> int:
        """How often ``needle`` is there, occurrences not overlapping."""
        wanted, (at, stop) = self._encoded(needle), self._range(start, stop)
        if not wanted:
            raise ValueError("count of an empty text")
        over, total = len(wanted) - 1, 0
        alone = not any(wanted.startswith(wanted[i:]) for i in range(1, len(wanted)))  # cannot overlap itself
        while at < stop:
            data = self._bytes(at, min(at + BLOCK + over, stop))
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
        at, stop = self._range(start, stop)
        size = _FIRST
        while at <= stop:
            block = _Block(self, at, min(at + size, stop), min(at + size + _OVERLAP, stop))
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
            at = onward

    def lines(self, start: int = 0, stop: int | None = None, *, offsets: bool = False) -> Any:
        """Each line as a ``str`` without its end, or (position, line). A line over 1 MiB comes in pieces."""
        at, stop = self._range(start, stop)
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
                start, stop = self._range(at, at + size)
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

    def __init__(self, text: Text, at: int, until: int, reach: int) -> None:
        begun = text._whole(max(at - _LEAD, 0))
        self.at, self.until, self.reach = at, text._whole(until), text._whole(reach)
        self.encoding = text.encoding
        self.text = text._exact(begun, self.reach)
        self.even = self.encoding != "utf-8" or self.text.isascii()
        if self.even:
            self.first, self.edge = at - begun, self.until - begun
        else:
            self.first = len(text._exact(begun, at))
            self.edge = self.first + len(text._exact(at, self.until))

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
