"""Calls that share one REPL: what one leaves in its variables, the next finds there; on disk too, where a file is given."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import tempfile
import warnings
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

from dszig_py import portal, prompts
from dszig_py.environments._worker import codec
from dszig_py.environments.base import Snapshot
from dszig_py.environments.kept import Kept
from dszig_py.errors import InputError
from dszig_py.preamble import Preamble
from dszig_py.previews import brief
from dszig_py.runner import Plan

if TYPE_CHECKING:
    from dszig_py.rlm import RLM
    from dszig_py.trajectory import Prediction

__all__ = ["Call", "Session"]

FORMAT = "dszig.session/1"
_TOLD = 5  # earlier calls told to the model
_TOLD_CHARS = 300


@dataclass(frozen=True, slots=True)
class Call:
    """An earlier call as later ones are told of it: inputs and outputs by name, shortened."""

    inputs: str
    outputs: str


class Session:
    """One REPL for calls that follow each other: ``with rlm.session() as s: s(context=book, question=...); s(question=...)``.

    An input that a call leaves out is what it was in the call before. ``path``: a JSON file, read where there is one and
    written after each call, so that a session goes on after its process has ended (where it cannot be written
    then, that is a warning: the call is paid for). It keeps what the codec holds (text, numbers, lists, dicts, sets, dates;
    instances of classes as records); ``lost`` names the rest with its type. One call at a time. Raises :class:`InputError` for a file that is none of a session or cannot be written, and where the environment
    cannot keep a REPL.
    """

    def __init__(self, rlm: RLM, path: str | os.PathLike[str] | None = None) -> None:
        self._rlm = rlm
        self._path = None if path is None else Path(path)
        self._plan = rlm.plan()
        self._kept = Kept(self._plan.environment)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closer: AsyncGenerator[None, None] | None = None
        self._busy = False
        self.calls: list[Call] = []
        self.inputs: dict[str, Any] = {}
        self.variables: dict[str, str] = {}
        if self._path is not None:
            _check_writable(self._path)
            if self._path.exists():
                self._load(self._path)

    @property
    def lost(self) -> Mapping[str, str]:
        """Name -> type of what the REPL holds and a file, or a REPL that takes its place, cannot have."""
        return self._kept.snapshot.lost

    def __call__(self, **inputs: Any) -> Prediction:
        """One call, as ``RLM.__call__``."""
        return portal.call(self.acall, inputs)

    async def acall(self, inputs: Mapping[str, Any] | None = None, /, **named: Any) -> Prediction:
        """One call on the caller's event loop. A session stays on the loop of its first call while that lives."""
        if self._busy:
            raise InputError("this session answers another call; one at a time")
        self._busy = True
        try:
            await self._on_this_loop()
            names = [f.name for f in self._rlm.signature.inputs]
            # A file may be of a run with another signature: what this one does not declare stays for that one.
            kept = {name: value for name, value in self.inputs.items() if name in names}
            given = {**kept, **(inputs or {}), **named}
            prediction = await self._rlm._run(given, None, self._adapted)
        finally:
            self._busy = False
        self.inputs = {**self.inputs, **given}
        self.variables = prediction.variables or self.variables
        told = ", ".join(f"{name}={brief(given[name], 100)}" for name in names)
        self.calls.append(Call(told[:_TOLD_CHARS], brief(prediction.outputs, _TOLD_CHARS)))
        if self._path is not None:
            await asyncio.to_thread(self._save_paid, self._path)
        return prediction

    async def _on_this_loop(self) -> None:
        loop = asyncio.get_running_loop()
        if self._loop is not None and self._loop is not loop:
            if not self._loop.is_closed():
                raise InputError("this session began on another event loop; use it there, or only synchronously")
            self._kept = Kept(self._plan.environment, self._kept.snapshot)  # its REPL went with that loop
        if self._loop is not loop:
            self._loop, self._closer = loop, _closing(self._kept)
            await anext(self._closer)

    def _adapted(self, plan: Plan) -> Plan:
        notes = prompts.session_notes([(c.inputs, c.outputs) for c in self.calls[-_TOLD:]], self.variables)
        before = plan.preamble

        def preamble(ledger: Any) -> Preamble:
            own = before(ledger) if before is not None else Preamble()
            return own if ledger.depth else replace(own, notes=(*own.notes, *notes))

        return replace(plan, environment=self._kept, preamble=preamble)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write what the session holds to ``path``, whole or not at all."""
        data = {
            "format": FORMAT,
            "signature": str(self._rlm.signature),
            "calls": [[c.inputs, c.outputs] for c in self.calls],
            "inputs": {name: codec.encode(value) for name, value in self.inputs.items()},
            "variables": self.variables,
            "values": [list(pair) for pair in self._kept.snapshot.values],
            "lost": dict(self._kept.snapshot.lost),
        }
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("wb", dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            try:
                file.write(json.dumps(data).encode("ascii"))
                file.flush()
                os.fsync(file.fileno())
                os.replace(file.name, path)
            except BaseException:
                os.unlink(file.name)
                raise

    def _save_paid(self, path: Path) -> None:
        try:
            self.save(path)
        except OSError as error:  # a full disk must not cost the prediction
            warnings.warn(f"the session was not saved to {path}: {error.strerror}", RuntimeWarning, stacklevel=2)

    def _load(self, path: Path) -> None:
        try:
            data = cast("dict[str, Any]", codec.loads(path.read_bytes()))
            if data["format"] != FORMAT:
                raise ValueError(f"its format is {data['format']!r}, not {FORMAT!r}")
            values = tuple((str(name), value) for name, value in data["values"])
            snapshot = Snapshot(values, {str(name): str(kind) for name, kind in data["lost"].items()})
            self.calls = [Call(str(inputs), str(outputs)) for inputs, outputs in data["calls"]]
            self.inputs = {
                str(name): codec.decode(value, records=codec.plain_record) for name, value in data["inputs"].items()
            }
            gone = snapshot.lost
            self.variables = {str(n): str(v) for n, v in data["variables"].items() if n not in gone}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{path} is no saved session: {error}") from error
        self._kept = Kept(self._plan.environment, snapshot)

    def close(self) -> None:
        """End the REPL. What ``path`` holds stays."""
        if self._loop is not None and not self._loop.is_closed():
            portal.call(self.aclose)

    async def aclose(self) -> None:
        """The same, asynchronously."""
        if self._loop is asyncio.get_running_loop():
            await self._kept.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


def _check_writable(path: Path) -> None:
    """Before anything is paid for. By trying: who runs as root may write to all folders but those that refuse it."""
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path.parent).close()
    except (OSError, ValueError) as error:
        raise InputError(f"the session cannot be kept in {path}: {getattr(error, 'strerror', None) or error}") from None


async def _closing(kept: Kept) -> AsyncGenerator[None, None]:
    """Ends the REPL with its event loop, or with a session that was dropped unclosed.

    A loop has no hook for its end, but it finishes the generators begun on it, and so it does those that nobody holds.
    """
    try:
        yield
    finally:
        await kept.close()
