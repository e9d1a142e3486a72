"""A cache around any model: in memory, or in one SQLite file that processes share.

Prior art: litellm's and dspy's caches (diskcache, pickled values). Rejected: pickle (a cache file would be code that
runs), and a cache without single-flight, which pays a batch of identical prompts once each.
"""

from __future__ import annotations

import asyncio
import copy
import os
import sqlite3
import threading
import time
import warnings
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from dszig_py.errors import InputError
from dszig_py.lm import resolve
from dszig_py.lm._stored import packed, reply_data, reply_of, unpacked
from dszig_py.lm.base import LM, Reply, Request, answered, price_known, sees_images
from dszig_py.usage import Usage

__all__ = ["Around", "Cached", "Worker"]

SCHEMA_VERSION = 1  # of the SQLite file, kept in its user_version
BUSY_SECONDS = 5.0  # how long a query waits for another process
WAL_ATTEMPTS = 20

T = TypeVar("T")
_Loop = asyncio.AbstractEventLoop

_lock = threading.Lock()  # one for the process: it guards a few dictionary operations, and a fork can renew it
_of_parents: list[sqlite3.Connection] = []  # closing what a fork inherited could harm the parent's file


class Around:
    """An LM around another one, which may be given as anything :func:`~dszig_py.lm.resolve` takes."""

    def __init__(self, lm: Any) -> None:
        self._lm: Any = lm if isinstance(lm, str) and lm.strip() else resolve(lm)

    @property
    def lm(self) -> LM:
        """The model inside."""
        if isinstance(self._lm, str):
            self._lm = resolve(self._lm)
        return self._lm

    @property
    def model(self) -> str:
        """The inner model's name."""
        return self.lm.model

    @property
    def price(self) -> tuple[float, float] | None:
        """Dollars per input and output token, where the inner model has them."""
        return getattr(self.lm, "price", None)

    @property
    def max_tokens(self) -> int | None:
        """The longest reply the inner model gives, where it says so."""
        return getattr(self.lm, "max_tokens", None)

    async def price_known(self) -> bool:
        """Whether the inner model's calls will have a known cost."""
        return await price_known(self.lm)

    async def sees_images(self) -> bool | None:
        """Whether the inner model takes images; ``None`` = unknown."""
        return await sees_images(self.lm)


class Cached(Around):
    """Remembers the replies of ``lm``.

    ``path``: a SQLite file, shared by all processes that name it and not bounded; ``None`` = in memory, the
    ``max_entries`` last used. Requests are the same when model, messages and parameters are; what the budget still
    allows is no part of it. Requests with a temperature are remembered as well: whoever wants other samples asks
    without a cache, or varies the prompt.

    Identical requests at the same time on one event loop make one call. When the one that makes it is cancelled,
    another takes over; when it fails, all of them fail, nothing is remembered, and retrying is the callers' business.
    A hit has ``cached`` set and an empty usage. ``hits`` counts replies that needed no call, ``misses`` the calls.

    Thread-safe, bound to no event loop. Copies share cache and counts; pickles start empty or reopen ``path``.
    Raises InputError where ``path`` is something else than a cache. A disk that cannot be written is warned about once.
    """

    def __init__(self, lm: Any, *, path: str | Path | None = None, max_entries: int = 10_000) -> None:
        super().__init__(lm)
        if max_entries < 1:
            raise InputError("max_entries must be at least 1")
        self._shelf = _Shelf(None if path is None else os.path.abspath(os.path.expanduser(path)), max_entries)
        self._shelf.check()

    @property
    def hits(self) -> int:
        """Replies that needed no call."""
        return self._shelf.hits

    @property
    def misses(self) -> int:
        """Calls made of the inner model."""
        return self._shelf.misses

    def __repr__(self) -> str:
        return f"Cached({self._lm!r}, path={self._shelf.path!r}, hits={self.hits}, misses={self.misses})"

    async def complete(self, request: Request) -> Reply:
        """The reply remembered, or the inner model's. Raises :class:`~dszig_py.errors.LMError`, InputError."""
        return await self.stream(request)

    async def stream(self, request: Request, on_text: Callable[[str], None] | None = None) -> Reply:
        """The same; pieces come with a reply that is written for this very call, not with one remembered."""
        flights = self._shelf.flights
        at = (asyncio.get_running_loop(), request.key(self.model))
        while (flight := flights.get(at)) is not None:
            outcome = await asyncio.shield(flight)
            if isinstance(outcome, Reply):
                return self._hit(outcome)
            if outcome is not None:
                raise _copied(outcome) from outcome
        flight = flights[at] = at[0].create_future()
        outcome = None  # stays so where the call is cancelled: whoever waits makes it again
        try:
            reply = outcome = await self._answer(at[1], request, on_text)
            return reply
        except Exception as error:
            outcome = error
            raise
        finally:
            del flights[at]
            flight.set_result(outcome)

    async def recall(self, request: Request) -> Reply | None:
        """The reply remembered, without a call."""
        found = await self._shelf.get(request.key(self.model))
        return None if found is None else self._hit(found)

    async def _answer(self, key: str, request: Request, on_text: Callable[[str], None] | None) -> Reply:
        found = await self._shelf.get(key)
        if found is not None:
            return self._hit(found)
        self._shelf.count(misses=1)
        reply = await answered(self.lm, request, on_text)
        await self._shelf.put(key, reply)
        return reply

    def _hit(self, reply: Reply) -> Reply:
        self._shelf.count(hits=1)
        return replace(reply, usage=Usage(), cached=True)


def _copied(error: Exception) -> Exception:
    """An exception of one's own: a run writes into the exception that ends it, and many runs may wait for one call."""
    try:
        return copy.copy(error)
    except Exception:  # foreign exceptions need not be copyable
        return error


class _Shelf:
    """What the copies of one Cached share in a process. Flights are per event loop: no loop waits for another."""

    def __init__(self, path: str | None, max_entries: int) -> None:
        self.path, self.max_entries = path, max_entries
        self.hits = self.misses = 0
        self.flights: dict[tuple[_Loop, str], asyncio.Future[Reply | Exception | None]] = {}
        self._entries: OrderedDict[str, Reply] = OrderedDict()
        self._file = None if path is None else _File(path)

    def __deepcopy__(self, memo: Any) -> _Shelf:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _Shelf, (self.path, self.max_entries)

    def check(self) -> None:
        """Raise where the path already holds something else: better now than at the first request."""
        if self.path is not None and os.path.isfile(self.path) and os.access(self.path, os.R_OK):
            with open(self.path, "rb") as file:
                if file.read(16) not in (b"", b"SQLite format 3\0"):
                    raise _not_a_cache(self.path, "it is not a SQLite file")

    def count(self, *, hits: int = 0, misses: int = 0) -> None:
        with _lock:
            self.hits += hits
            self.misses += misses

    async def get(self, key: str) -> Reply | None:
        if self._file is not None:
            return await self._file.get(key)
        with _lock:
            found = self._entries.get(key)
            if found is not None:
                self._entries.move_to_end(key)
        return found

    async def put(self, key: str, reply: Reply) -> None:
        if self._file is not None:
            await self._file.put(key, reply)
            return
        with _lock:
            self._entries[key] = reply
            self._entries.move_to_end(key)
            while len(self._entries) > self.max_entries:
                self._entries.popitem(last=False)


class _File:
    """One SQLite file, opened and asked in a thread of its own. What fails here is a miss and a warning."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._worker = Worker("dszig-cache")
        self._db: sqlite3.Connection | None = None
        self._pid = 0
        self._unusable = self._warned = self._worked = False
        self._trouble = ""

    def __del__(self) -> None:
        if self._db is not None and self._pid == os.getpid():
            self._db.close()

    async def get(self, key: str) -> Reply | None:
        found = await self._worker.run(self._get, key)
        self._warn()
        return found

    async def put(self, key: str, reply: Reply) -> None:
        await self._worker.run(self._put, key, reply)
        self._warn()

    def _warn(self) -> None:
        """In the caller's thread, where a caller's warning filters and handlers are."""
        if self._trouble and not self._warned:
            self._warned = True
            warnings.warn(f"the cache {self._path} does not work: {self._trouble}", RuntimeWarning, stacklevel=2)

    def _get(self, key: str) -> Reply | None:
        try:
            db = self._opened()
            row = db and db.execute("SELECT reply FROM replies WHERE key = ?", (key,)).fetchone()
        except sqlite3.Error as error:
            if _broken(error) and not self._worked:
                raise _not_a_cache(self._path, str(error)) from error
            self._failed(error)
            return None
        self._worked = True
        try:
            return reply_of(unpacked(row[0])) if row else None
        except (KeyError, TypeError, ValueError, AttributeError):
            return None  # a row that nobody can read is written again

    def _put(self, key: str, reply: Reply) -> None:
        value = packed(reply_data(reply))
        try:
            db = self._opened()
            if db is not None:
                db.execute("INSERT OR REPLACE INTO replies VALUES (?, ?, ?)", (key, value, time.time()))
        except sqlite3.Error as error:
            self._failed(error)

    def _failed(self, error: sqlite3.Error) -> None:
        """A file that breaks while runs use it ends none of them."""
        self._trouble = str(error)
        if _broken(error):
            self._unusable, self._trouble = True, f"{error}; going on without it"
            if self._db is not None:
                self._db.close()
            self._db = None

    def _opened(self) -> sqlite3.Connection | None:
        if self._db is not None and self._pid != os.getpid():
            _of_parents.append(self._db)
            self._db = None
        if self._db is None and not self._unusable:
            try:
                self._db, self._pid = _connect(self._path), os.getpid()
            except (sqlite3.OperationalError, OSError) as error:
                self._unusable, self._trouble = True, f"{error}; going on without it"
        return self._db


def _broken(error: sqlite3.Error) -> bool:
    """Whether the file is no database, or no longer one."""
    return str(getattr(error, "sqlite_errorname", "")).startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT"))


def _connect(path: str) -> sqlite3.Connection:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    db = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        _prepare(db, path)
    except BaseException:
        db.close()
        raise
    return db


def _prepare(db: sqlite3.Connection, path: str) -> None:
    """Make the table in a new file; know an old one again before anything in it is changed."""
    db.execute("BEGIN IMMEDIATE")
    version = db.execute("PRAGMA user_version").fetchone()[0]
    names = {row[0] for row in db.execute("SELECT name FROM sqlite_master")}
    if version == 0 and not names:
        db.execute("CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, reply BLOB NOT NULL, made REAL NOT NULL)")
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    elif "replies" not in names:
        raise _not_a_cache(path, "it is another program's database")
    elif version != SCHEMA_VERSION:
        raise _not_a_cache(path, f"its version is {version}, this library's is {SCHEMA_VERSION}")
    db.execute("COMMIT")
    for _ in range(WAL_ATTEMPTS):
        try:
            db.execute("PRAGMA journal_mode = WAL")
            break
        except sqlite3.OperationalError:  # the switch does not wait for others; without it all is right, only slower
            time.sleep(0.01)
    db.execute("PRAGMA synchronous = NORMAL")


def _not_a_cache(path: str, why: str) -> InputError:
    return InputError(f"{path} cannot be used as a cache: {why}; delete the file or give another path")


class Worker:
    """One thread for short blocking work. Its own, since the loop's shared ones may all be waiting for a model."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._pool: ThreadPoolExecutor | None = None
        self._pid = 0

    async def run(self, function: Callable[..., T], *args: Any) -> T:
        """``function(*args)`` in the thread, in order of asking. Runs to its end also when the caller is cancelled."""
        with _lock:
            if self._pool is None or self._pid != os.getpid():
                self._pool, self._pid = ThreadPoolExecutor(1, self._name), os.getpid()
            pool = self._pool
        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(pool, function, *args))


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)
