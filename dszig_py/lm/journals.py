"""The journals of runs that go on side by side, in a folder next to their results.

A row of an evaluation, an element of a corpus: while it is under way its replies are kept, so that a process that is
killed pays for none of them twice. With its result on disk its journal goes.
"""

from __future__ import annotations

import hashlib
import os
import re
from contextlib import suppress

from dszig_py.errors import InputError
from dszig_py.lm.cached import Worker
from dszig_py.lm.resumed import SUFFIX, Journal

__all__ = ["Journals"]

SHOWN = 60  # characters of a row's name in the name of its file


class Journals:
    """A journal by the name of a row. ``folder``: ``None`` = nothing is kept.

    A folder that is not there is not made here: an actor on another machine does not see its driver's, and keeps nothing.
    """

    def __init__(self, folder: str | None) -> None:
        self.folder = folder if folder is not None and os.path.isdir(folder) else None
        self._worker = Worker("dszig-journal")  # of all of them: a thread a row would cost more than its writing

    @classmethod
    def beside(cls, results: str | os.PathLike[str] | None) -> Journals:
        """Those of a results file, in ``<results>.runs``, which is made. Raises :class:`InputError`."""
        if results is None:
            return cls(None)
        folder = f"{os.path.abspath(os.path.expanduser(results))}.runs"
        try:
            os.makedirs(folder, mode=0o700, exist_ok=True)
        except OSError as error:
            raise InputError(f"what is needed to resume runs cannot be kept: {error}") from error
        return cls(folder)

    async def open(self, row: str, *, anew: bool = False) -> Journal | None:
        """The journal of a row, gone on with where there is one; ``anew``: in its place another one."""
        if self.folder is None:
            return None
        return await self._worker.run(self._open, self._path(self.folder, row), row, anew)

    def _open(self, path: str, row: str, anew: bool) -> Journal:
        journal = None
        if not anew and os.path.exists(path):
            with suppress(InputError):  # cut before it said anything
                journal = Journal.reopen(path)
        if journal is None or journal.facts.get("row") != row:
            journal = Journal.begin(path, {"row": row})
        journal.written_by(self._worker)
        return journal

    def drop(self, row: str) -> None:
        """The row's result is on disk."""
        if self.folder is not None:
            with suppress(OSError):
                os.unlink(self._path(self.folder, row))

    def close(self) -> None:
        """Remove the folder where no row in it is unfinished."""
        if self.folder is not None:
            with suppress(OSError):
                os.rmdir(self.folder)

    @staticmethod
    def _path(folder: str, row: str) -> str:
        shown = re.sub(r"[^A-Za-z0-9._-]+", "-", row)[:SHOWN].lstrip(".")
        digest = hashlib.sha256(row.encode("utf-8", "surrogatepass")).hexdigest()[:16]
        return os.path.join(folder, f"{shown}-{digest}{SUFFIX}")
