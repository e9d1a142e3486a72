"""A run that goes on after its process has died: every reply it was given is kept, and given again before a model is asked.

The code of the run is executed again, which is what brings its variables back; what it is told by models comes from the
file, so nothing is paid twice. Prior art: durable execution (replay of a workflow against its history). Rejected: dumping
the REPL, which loses functions, modules and open iterators, and ties the file to one version of Python.
"""

from __future__ import annotations

import os
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from dszig_py.errors import InputError, LMError, ReplayMismatch
from dszig_py.lm import recorded
from dszig_py.lm._stored import reply_data, unpacked
from dszig_py.lm.base import LM, Reply, Request, answered, recalled
from dszig_py.lm.cached import Around, Worker

__all__ = ["Journal", "Journaled"]

SUFFIX = ".resume"


def beside(trace: str | os.PathLike[str]) -> str:
    """Where the journal of the run with that trace is."""
    return f"{os.path.abspath(os.path.expanduser(trace))}{SUFFIX}"


class Journal:
    """The replies of one run: a recording whose second line is ``facts``, whatever is needed to begin the run again.

    Requests are known by their key. One that is not in the journal goes to the model if all decisions of the root that the
    journal holds have been given again, for then the run is past where it ended; before that it means that the code did not
    do what it did the first time. ``resumed``: it holds replies of an earlier time; ``mismatched``: these did not fit.
    """

    def __init__(self, tape: recorded._Tape, facts: Mapping[str, Any], calls: Sequence[recorded._Call] = ()) -> None:
        self.facts = facts
        self._tape, self._calls = tape, calls
        self._left: dict[str, deque[recorded._Call]] = {}
        for call in calls:
            self._left.setdefault(call.key, deque()).append(call)
        self._decisions = sum(_is_decision(call) for call in calls)
        self.resumed = any(isinstance(call.outcome, Reply) for call in calls)
        self.mismatched = False

    @classmethod
    def begin(cls, path: str, facts: Mapping[str, Any]) -> Journal:
        """A new journal at ``path``, which is replaced. Raises :class:`InputError` where it cannot be written."""
        tape = recorded._Tape(path, uuid.uuid4().hex)
        try:
            with suppress(FileNotFoundError):
                os.unlink(path)
            os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o600))  # it holds the inputs whole, and every reply
            tape.begin()
            with recorded._locked(path) as fd:
                recorded._append(fd, [{"resume": dict(facts)}])
        except OSError as error:
            raise InputError(f"the run cannot be made resumable: {error}") from error
        return cls(tape, facts)

    @classmethod
    def reopen(cls, path: str) -> Journal:
        """The journal of a run that is to go on. A line that was cut off is dropped. Raises :class:`InputError`."""
        about = os.stat(path)
        if about.st_uid != os.geteuid() or about.st_mode & 0o022:
            raise InputError(
                f"{path} can be written by others, and what it holds is run: resume only what is yours (chmod 600)"
            )
        calls = recorded._load(path)
        raw = Path(path).read_bytes()
        whole = raw.rfind(b"\n") + 1
        lines = raw[:whole].split(b"\n", 2)
        facts = unpacked(lines[1]).get("resume") if len(lines) > 2 else None
        if not isinstance(facts, dict):
            raise InputError(f"{path} does not say how its run began; it was cut off too early to be resumed")
        if whole < len(raw):
            os.truncate(path, whole)
        tape = recorded._Tape(path, str(recorded._head(raw)["recording"]), begun=True)
        return cls(tape, cast("dict[str, Any]", facts), calls)

    def around(self, lm: LM, *, root: bool) -> Journaled:
        """``lm`` with this journal before it; ``root``: it decides for the root run."""
        return Journaled(lm, self, root=root)

    def known(self, request: Request, model: str) -> Reply | None:
        """The reply that this request was given, or ``None`` where a model must be asked.

        Raises the failure it was given, and :class:`ReplayMismatch`.
        """
        left = self._left.get(request.key(model))
        while left:
            call = left.popleft()
            if isinstance(call.outcome, Reply):
                self._decisions -= _is_decision(call)
                return call.outcome
            if self._decisions and not call.line.get("root"):  # later decisions answer to this failure
                message, retryable = call.outcome  # what was tried again is tried again, at once
                raise LMError(message, retryable=retryable, retry_after=0.0 if retryable else None)
        if self._decisions > 0:
            self.mismatched = True
            why = recorded._difference(self._calls, request)
            raise ReplayMismatch(f"the run does not repeat itself as {self._tape.path} holds it: {why}")
        return None

    async def add(self, request: Request, model: str, reply: Reply | Exception, *, root: bool, at: int) -> None:
        """Keep what a model answered now."""
        call: dict[str, Any] = {"model": model, "at": at, "price": None, "root": root}
        if isinstance(reply, Reply):
            await self._tape.add(request, {**call, "reply": {**reply_data(reply), "cached": reply.cached}})
        else:
            await self._tape.add(request, {**call, "error": recorded._error_data(reply)})

    def written_by(self, worker: Worker) -> None:
        """Share the thread that writes with other journals."""
        self._tape.worker = worker

    def now(self) -> int:
        """A time that no other call of this journal has."""
        return self._tape.now()


def _is_decision(call: recorded._Call) -> bool:
    return bool(call.line.get("root")) and isinstance(call.outcome, Reply)


class Journaled(Around):
    """``lm`` behind a journal: the reply it gave before, else its own, which is kept."""

    def __init__(self, lm: Any, journal: Journal, *, root: bool) -> None:
        super().__init__(lm)
        self._journal, self._root = journal, root

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # copy and pickle look attributes up before __init__ has run
            raise AttributeError(name)
        return getattr(self.lm, name)  # what a model says of itself besides is its own

    async def complete(self, request: Request) -> Reply:
        """The reply. Raises what the model raises, and :class:`ReplayMismatch`."""
        return await self.stream(request)

    async def stream(self, request: Request, on_text: Callable[[str], None] | None = None) -> Reply:
        """The same, told as it comes where it is new and the model can."""
        known = self._journal.known(request, self.model)
        if known is not None:
            return known
        at = self._journal.now()
        try:
            reply = await answered(self.lm, request, on_text)
        except LMError as error:
            await self._journal.add(request, self.model, error, root=self._root, at=at)
            raise
        await self._journal.add(request, self.model, reply, root=self._root, at=at)
        return reply

    async def recall(self, request: Request) -> Reply | None:
        """What the model remembers, where it does; it costs nothing and needs no keeping."""
        return await recalled(self.lm, request)
