"""A run's trace, written as it goes: one JSON object a line, one line an event, UTF-8.

The first line names the schema, ``dszig.trace/1``. A reader passes over keys and events it does not know, and over a last
line that was cut; a change that such a reader could not bear gets another number. Keys with a default value (an empty
text, no tokens) are left out.

========= ============================ ==============================================================================
event     when                         keys besides ``event``, ``run``, ``depth`` (0 = root) and ``t``
========= ============================ ==============================================================================
run       a run begins                 ``schema`` (first line), ``parent`` (the sub-call a child answers),
                                       ``signature``, ``instructions``, ``model``, ``sub_model``, ``environment``,
                                       ``isolation``, ``begun`` (Unix time), ``contract``,
                                       ``inputs`` (``name``, ``type``, ``size``, ``preview``)
action    the model has decided        ``index``, ``action`` (``reasoning``, ``cells``, ``problem``), ``usage`` (the
                                       decision's own), ``started``, ``decide_seconds``, ``compaction`` (of the history
                                       before it: ``iterations``, ``summary``, ``variable``, ``chars``, ``usage``)
sub_call  a sub-call has ended         ``id``, ``kind`` (llm_query, predict, rlm_query, tool; direct: the one call of a
                                       direct route), ``batch`` and ``index`` (its place in a batch), ``prompt`` (a preview), ``prompt_chars`` (its full
                                       size), ``reply`` (whole), ``error``, ``model``, ``usage``, ``started``,
                                       ``seconds``, ``cached``, ``child`` (the run that answered)
iteration its code has run             ``index``, ``execution`` (``stdout``, ``stdout_chars``, ``value``, ``error``,
                                       ``submission``, ``seconds``, ``lost``), ``observation`` (what the model is
                                       shown), ``sub_calls`` (ids), ``seconds`` (decision included)
end       the run is over              ``termination`` (``kind``, ``cause``, ``detail``), ``outputs``, ``iterations`` (how
                                       many), ``usage`` (with ``by_model``, ``by_depth``), ``seconds``,
                                       ``extraction``, ``route``, ``isolation``
========= ============================ ==============================================================================

``t`` is seconds since the root began, at the time of the event; ``started`` is seconds since the line's own run began.
``usage`` has ``calls``, ``input_tokens``, ``output_tokens``, ``cost`` (dollars, null = unknown), ``seconds``,
``estimated``. Values that JSON lacks, in ``outputs`` and ``submission``, are ``{"~": [kind, ...]}``. Secrets are replaced
by "[redacted]" (see ``dszig_py.redaction``).

A line is one write to a file opened for appending, so that whatever ends the process leaves every line before it. It is
written on the run's own loop: that costs microseconds, and a queue would lose its content in a crash. Rejected after
measuring: one write for all lines of a turn of the loop saves one of six microseconds a line, and a kill in that turn would
lose answers that were paid for; JSON put together from pieces is slower than pydantic's encoder over a plain dict.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Self

from dszig_py import rows
from dszig_py.environments.base import Execution
from dszig_py.events import ActionChosen, Event, IterationFinished, RunFinished, RunStarted, SubCallFinished
from dszig_py.redaction import Redactor
from dszig_py.rows import SCHEMA, Place
from dszig_py.trajectory import Iteration, Trajectory

__all__ = ["SCHEMA", "Tracer", "file_name"]


class Tracer:
    """A subscriber that writes one root run with all of its children.

    ``place``: a file (a path with a suffix, or an existing file), which is replaced, or a folder (any other), which gets
    ``<UTC time>-<run id>.jsonl``; ``folder`` says which where the path does not. Never fails the run: what goes wrong is told once, to ``on_failure`` (default: a
    warning), and tracing stops. ``path``: the file, once there is one and as long as it can be written.
    """

    def __init__(
        self,
        place: str | os.PathLike[str],
        *,
        folder: bool | None = None,
        secrets: Iterable[str] = (),
        on_failure: Callable[[str], None] | None = None,
    ) -> None:
        self.path: Path | None = None
        self._place = Path(place).expanduser()
        self._folder = _is_folder(os.fspath(place), self._place) if folder is None else folder
        self._redactor = Redactor(secrets)
        self._on_failure = on_failure or _warn
        self._fd: int | None = None
        self._over = False
        self._runs: dict[str, Place] = {}
        self._root: Trajectory | None = None

    def __call__(self, event: Event) -> None:
        write = _WRITERS.get(type(event))
        if write is None or self._over:
            return
        try:
            write(self, event)
        except Exception as error:  # whatever a trace fails by, the run was asked for and the trace is a record of it
            self._fail(error)

    def _within(self, make: Callable[[Place, Any], dict[str, Any]], run: str, what: Any) -> None:
        """A line of a run that has begun."""
        at = self._runs.get(run)
        if at is not None:
            self._write(make(at, what))

    def _started(self, event: RunStarted) -> None:
        if event.trajectory is not None:
            self._begin(event.trajectory, event.parent)

    def _begin(self, run: Trajectory, parent: str) -> None:
        if self._root is None:
            self._root = run
            self._open(run)
        at = Place.of(run, self._root)
        self._runs[run.id] = at
        self._write(rows.head(at, run, parent))

    def _finished(self, event: RunFinished) -> None:
        run = event.prediction.trajectory
        if run.id not in self._runs:  # it ended before its session was open
            self._begin(run, event.parent)
        self._write(rows.end(self._runs[run.id], run))
        if event.depth == 0:
            self.close()

    def _open(self, run: Trajectory) -> None:
        path = self._place / file_name(run) if self._folder else self._place
        path.parent.mkdir(mode=0o700 if self._folder else 0o777, parents=True, exist_ok=True)
        if path.is_file():
            # Not truncated: another run may still be writing to it. That one keeps the file it has opened.
            path.resolve().unlink()
        # A pipe that nobody reads must not hold up the loop that this is called on.
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK, 0o666)
        self.path = path

    def _write(self, row: dict[str, Any]) -> None:
        line = self._redactor.line(row)
        assert self._fd is not None
        written = os.write(self._fd, line)
        while written < len(line):  # a full disk takes a part first and fails with the next
            line = line[written:]
            written = os.write(self._fd, line)

    def _fail(self, error: Exception) -> None:
        where = self._place if self.path is None else self.path
        self.path = None
        self.close()
        why = error.strerror if isinstance(error, OSError) and error.strerror else f"{type(error).__name__}: {error}"
        self._on_failure(f"{where}: {why}")

    def close(self) -> None:
        """Stop writing. May be called twice."""
        self._over = True
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def file_name(run: Trajectory) -> str:
    """The name of a run's file in a folder of runs: sorted by name is sorted by time."""
    return f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime(run.begun))}-{run.id}.jsonl"


def _is_folder(given: str, place: Path) -> bool:
    if place.is_dir() or given.endswith(("/", os.sep)):
        return True
    return not place.suffix and not place.exists()


def _decided(event: ActionChosen) -> Iteration:
    return Iteration(
        event.index,
        event.action,
        Execution(),
        "",
        usage=event.usage,
        started=event.started,
        decide_seconds=event.seconds,
        compaction=event.compaction,
    )


_WRITERS: dict[type[Event], Callable[[Tracer, Any], None]] = {
    RunStarted: Tracer._started,
    ActionChosen: lambda tracer, event: tracer._within(rows.action, event.run, _decided(event)),
    SubCallFinished: lambda tracer, event: tracer._within(rows.sub_call, event.run, event.sub_call),
    IterationFinished: lambda tracer, event: tracer._within(rows.iteration, event.run, event.iteration),
    RunFinished: Tracer._finished,
}


def _warn(message: str) -> None:
    warnings.warn(f"the trace was not written to its end: {message}", RuntimeWarning, stacklevel=2)
