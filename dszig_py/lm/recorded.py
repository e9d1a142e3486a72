"""Record what a model answered, and answer the same again without it.

A recording is JSON lines: a head, each distinct message text once, and one line a call that names its messages by hash.
So a conversation that grows by two messages a call is stored in linear size, and a mismatch can say where it is.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
import uuid
import warnings
import weakref
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from dszig_py.errors import InputError, LMError, ReplayMismatch
from dszig_py.lm import cached
from dszig_py.lm._stored import packed, reply_data, reply_of, unpacked
from dszig_py.lm.base import Reply, Request, answered
from dszig_py.lm.cached import Around, Worker

__all__ = ["Recorded", "Replayed"]

SCHEMA = "dszig.recording/1"
PREVIEW = 200  # characters of the last message shown in a call's line, for people who read or compare recordings
SHOWN = 60  # characters shown of either side of a difference

_tapes: weakref.WeakValueDictionary[str, _Tape] = weakref.WeakValueDictionary()


class Recorded(Around):
    """Passes requests on to ``lm`` and records each with its reply or failure at ``path``, for :class:`Replayed`.

    The file is begun anew at the first call. All that are made for one path before that call share the recording (an
    ``lm`` and a ``sub_lm``); copies and pickles go on with it, in other processes too. One made later begins anew, and
    what the earlier ones ask from then on is not recorded, with a warning. Folders are made.

    Holds whole prompts and replies, and of a request's options only a digest. Raises InputError before the first
    call where the file cannot be written or is no recording; a disk that fails later is warned about once.
    """

    def __init__(self, lm: Any, path: str | Path) -> None:
        super().__init__(lm)
        self._tape = _tape_at(os.path.abspath(os.path.expanduser(path)))

    def __repr__(self) -> str:
        return f"Recorded({self._lm!r}, {self._tape.path!r})"

    async def complete(self, request: Request) -> Reply:
        """The inner model's reply. Raises what it raises, and InputError."""
        return await self.stream(request)

    async def stream(self, request: Request, on_text: Callable[[str], None] | None = None) -> Reply:
        """The same, told as it comes where the inner model can."""
        call: dict[str, Any] = {"model": self.model, "at": self._tape.now(), "price": self.price}
        await self._tape.worker.run(self._tape.begin)
        try:
            reply = await answered(self.lm, request, on_text)
        except Exception as error:
            await self._tape.add(request, {**call, "error": _error_data(error)})
            raise
        await self._tape.add(request, {**call, "reply": {**reply_data(reply), "cached": reply.cached}})
        return reply


def _error_data(error: Exception) -> dict[str, Any]:
    if isinstance(error, LMError):
        return {"message": str(error), "retryable": error.retryable}
    return {"message": f"{type(error).__name__}: {error}", "retryable": False}


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _parameters(request: Request) -> dict[str, Any]:
    """What besides the messages makes a request another one. Options by digest: they may hold secrets."""
    schema = None if request.schema is None else _digest(Request((), schema=request.schema).key(""))
    options = _digest(Request((), options=request.options).key("")) if request.options else None
    numbers = {"max_tokens": request.max_tokens, "temperature": request.temperature}
    images = {"images": [_digest(url) for url in request.images]} if request.images else {}
    return {**numbers, "schema": schema, "options": options, **images}


class _Tape:
    """One recording: a file and the identity in its head. Only its worker's thread writes; processes lock the file."""

    def __init__(self, path: str, identity: str, *, begun: bool = False) -> None:
        self.path, self.id, self.begun = path, identity, begun
        self.worker = Worker("dszig-recording")
        self._written: set[str] = set()
        self._last = 0
        self._trouble, self._warned = "", False

    def __deepcopy__(self, memo: Any) -> _Tape:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _rejoined, (self.path, self.id, self.begun)

    def now(self) -> int:
        """Unix nanoseconds, never the same twice: identical requests are replayed in the order in which they began."""
        with cached._lock:
            self._last = max(self._last + 1, time.time_ns())
            return self._last

    def begin(self) -> None:
        """Make the file this recording's, unless it was begun."""
        if self.begun:
            return
        try:
            os.makedirs(os.path.dirname(self.path), exist_ok=True)
            with _locked(self.path) as fd:
                self._claim(fd)
        except OSError as error:
            raise InputError(f"the recording {self.path} cannot be written: {error}; give another path") from error

    async def add(self, request: Request, call: dict[str, Any]) -> None:
        """Record one call."""
        await self.worker.run(self._add, request, call)
        if self._trouble and not self._warned:
            self._warned = True
            warnings.warn(f"{self.path} misses calls: {self._trouble}", RuntimeWarning, stacklevel=2)

    def _add(self, request: Request, call: dict[str, Any]) -> None:
        digests = [_digest(m.content) for m in request.messages]
        texts = {digest: m.content for digest, m in zip(digests, request.messages, strict=True)}
        messages = [[m.role, digest] for digest, m in zip(digests, request.messages, strict=True)]
        last = request.messages[-1].content[:PREVIEW] if request.messages else ""
        known = {"key": request.key(call["model"]), "prompt": last}
        line = {**known, "messages": messages, **_parameters(request), **call}
        try:
            with _locked(self.path) as fd:
                if not self._claim(fd):
                    self._trouble = "another recording took the file over"
                    return
                new = [{"content": d, "text": text} for d, text in texts.items() if d not in self._written]
                _append(fd, [*new, line])
                self._written.update(texts)
        except OSError as error:
            self._trouble = str(error)

    def _claim(self, fd: int) -> bool:
        """Whether the file is ours, made so where it may be."""
        start = os.pread(fd, 4096, 0)
        head = _head(start)
        if head.get("recording") == self.id:
            self.begun = True
            return True
        if start and self.begun:
            return False
        if start and head.get("schema") != SCHEMA:
            raise InputError(f"{self.path} exists and is no recording; delete it or give another path")
        os.ftruncate(fd, 0)
        self._written.clear()
        _append(fd, [{"schema": SCHEMA, "recording": self.id}])
        self.begun = True
        return True


def _tape_at(path: str) -> _Tape:
    with cached._lock:
        tape = _tapes.get(path)
        if tape is None or tape.begun:
            tape = _tapes[path] = _Tape(path, uuid.uuid4().hex)
        return tape


def _rejoined(path: str, identity: str, begun: bool) -> _Tape:
    with cached._lock:
        tape = _tapes.get(path)
        if tape is None or tape.id != identity:
            tape = _Tape(path, identity, begun=begun)
            _tapes.setdefault(path, tape)
        return tape


@contextmanager
def _locked(path: str) -> Generator[int]:
    """The file, ours alone among threads and processes."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
    try:
        with suppress(OSError):  # a file system without locks: a line is one write all the same
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield fd
    finally:
        os.close(fd)


def _append(fd: int, lines: Sequence[Mapping[str, Any]]) -> None:
    data = b"".join(packed(line) + b"\n" for line in lines)
    size = os.fstat(fd).st_size
    try:
        while data:
            data = data[os.write(fd, data) :]
    except OSError:
        os.ftruncate(fd, size)  # a full disk leaves no half line
        raise


def _head(raw: bytes) -> dict[str, Any]:
    try:
        head = unpacked(raw.split(b"\n", 1)[0])
    except ValueError:
        return {}
    return cast("dict[str, Any]", head) if isinstance(head, dict) else {}


@dataclass(frozen=True, slots=True)
class _Call:
    """One recorded call: its ``line``, and of that as types what answering needs. ``messages`` are role and text."""

    key: str
    model: str
    at: int
    messages: tuple[tuple[str, str], ...]
    line: Mapping[str, Any]
    price: Sequence[float] | None
    outcome: Reply | tuple[str, bool]


class Replayed:
    """Answers from a recording, without a model: the recorded reply or failure, at the recorded usage.

    Replies are charged as they were, so limits of calls, tokens and dollars bite where they did. Requests may come in
    any order; the same request several times gets its replies in the order in which they were asked for. Stands for
    every model of the recording, or for ``model`` alone. Copies go on from the same place on their own.

    Raises InputError where ``path`` is no recording; a request that it does not hold raises
    :class:`~dszig_py.errors.ReplayMismatch`, which says what is different. A last line that was cut off is left out.
    """

    def __init__(self, path: str | Path, *, model: str | None = None) -> None:
        self._path = str(path)
        self._calls = _load(self._path)
        models = dict.fromkeys(call.model for call in self._calls)
        if model is not None:
            if model not in models:
                raise InputError(f"{path} holds no call of {model!r}, but of: {', '.join(models) or 'no model'}")
            self._calls = [call for call in self._calls if call.model == model]
            models = {model: None}
        self._models = tuple(models)
        self._left: dict[str, deque[_Call]] = {}
        for call in self._calls:
            self._left.setdefault(call.key, deque()).append(call)

    @property
    def model(self) -> str:
        """The model of the first recorded call."""
        return self._models[0] if self._models else "replayed"

    @property
    def price(self) -> Sequence[float] | None:
        """Dollars per input and output token, where the recorded model had them."""
        return self._calls[0].price if self._calls else None

    @property
    def unused(self) -> int:
        """Recorded calls that were not asked for yet."""
        return sum(len(left) for left in self._left.values())

    def __repr__(self) -> str:
        return f"Replayed({self._path!r}, {self.unused} of {len(self._calls)} left)"

    async def price_known(self) -> bool:
        """Whether the recording knows what each of its replies cost."""
        return all(call.outcome.usage.cost is not None for call in self._calls if isinstance(call.outcome, Reply))

    async def complete(self, request: Request) -> Reply:
        """The recorded reply. Raises the recorded LMError, without its wait, and ReplayMismatch."""
        known = [left for model in self._models if (left := self._left.get(request.key(model))) is not None]
        for left in known:
            with suppress(IndexError):
                outcome = left.popleft().outcome
                if isinstance(outcome, Reply):
                    return outcome
                raise LMError(outcome[0], retryable=outcome[1], retry_after=0.0 if outcome[1] else None)
        why = "it was asked less often when it was recorded" if known else _difference(self._calls, request)
        raise ReplayMismatch(f"{self._path} holds no reply to this request: {why}")


def _load(path: str) -> list[_Call]:
    try:
        raw = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"the recording cannot be read: {error}") from error
    if (schema := _head(raw).get("schema")) != SCHEMA:
        raise InputError(f"{path} is no recording that can be read: its first line says {schema!r}, not {SCHEMA!r}")
    *lines, last = raw.split(b"\n")
    texts: dict[str, str] = {}
    calls: list[_Call] = []
    for number, line in enumerate([*lines, last], 1):
        try:
            _take(unpacked(line) if line else {}, texts, calls)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            if number <= len(lines):
                raise InputError(f"{path}, line {number}: {type(error).__name__}: {error}") from error
    return sorted(calls, key=lambda call: call.at)


def _take(line: Mapping[str, Any], texts: dict[str, str], calls: list[_Call]) -> None:
    if "content" in line:
        texts[line["content"]] = line["text"]
    elif "key" in line:
        error = line.get("error")
        outcome = reply_of(line["reply"]) if error is None else (str(error["message"]), bool(error["retryable"]))
        messages = tuple((role, texts[digest]) for role, digest in line["messages"])
        calls.append(_Call(line["key"], line["model"], line["at"], messages, line, line.get("price"), outcome))


def _difference(calls: Sequence[_Call], request: Request) -> str:
    """Where ``request`` leaves the recorded one that is most like it."""
    if not calls:
        return "the recording is empty"
    now = tuple((m.role, m.content) for m in request.messages)
    number, call = max(enumerate(calls, 1), key=lambda pair: _likeness(pair[1].messages, now))
    where = f"it is most like request {number} ({call.model}); "
    for index, ((role, text), (role_now, text_now)) in enumerate(zip(call.messages, now, strict=False), 1):
        if role != role_now:
            return f"{where}message {index} was of the {role} and is of the {role_now}"
        if text != text_now:
            at = _prefix(text, text_now)
            was, is_ = (repr(t[max(0, at - SHOWN // 3) : at + SHOWN]) for t in (text, text_now))
            return f"{where}message {index} ({role}) differs at character {at}: recorded {was}, now {is_}"
    if len(call.messages) != len(now):
        return (
            f"{where}it had {len(call.messages)} messages, now there are {len(now)}; those that both have are the same"
        )
    changed = [name for name, value in _parameters(request).items() if value != call.line.get(name)]
    return f"{where}the messages are the same, but not: {', '.join(changed) or 'the model'}"


def _likeness(then: Sequence[tuple[str, str]], now: Sequence[tuple[str, str]]) -> tuple[int, bool, int]:
    pairs = list(zip(then, now, strict=False))
    same = next((i for i, (a, b) in enumerate(pairs) if a != b), len(pairs))
    if same == len(pairs):
        return same, len(then) == len(now), 0
    (_, a), (_, b) = pairs[same]
    return same, len(then) == len(now), _prefix(a, b) + _prefix(a[::-1], b[::-1])


def _prefix(a: str, b: str) -> int:
    """Characters that ``a`` and ``b`` begin with alike. By bisection: comparing slices is fast, a loop is not."""
    return bisect_left(range(1, min(len(a), len(b)) + 1), True, key=lambda n: a[:n] != b[:n])
