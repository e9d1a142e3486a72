"""Results on disk: one JSON line each, written as they come, so that a crash loses none and a rerun goes on."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pydantic_core import to_jsonable_python

from dszig_py.errors import DszigError, InputError
from dszig_py.evals.systems import Outcome
from dszig_py.evals.tasks import Example, Score
from dszig_py.previews import brief

__all__ = ["SCHEMA", "Key", "Row", "Store", "read"]

SCHEMA = "dszig.eval/1"
KEPT = 20_000  # characters of outputs kept in a row
Key = tuple[str, int, int, str]  # task, length, index, system


@dataclass(frozen=True, slots=True)
class Row:
    """One system on one example. ``score`` is 0 to 1, ``cost`` dollars (``None`` = unknown), ``seconds`` wall time.

    ``resumed``: it went on from where it was cut off; what it had spent by then is in it, and ``seconds`` are since then.
    """

    task: str
    length: int
    index: int
    system: str
    id: str
    score: float
    feedback: str
    answer: Any
    outputs: Any
    kind: str
    cause: str
    detail: str
    cost: float | None
    input_tokens: int
    output_tokens: int
    calls: int
    iterations: int
    seconds: float
    route: str = ""
    resumed: bool = False

    @property
    def key(self) -> Key:
        """What a rerun knows it by."""
        return (self.task, self.length, self.index, self.system)

    @property
    def failed(self) -> bool:
        """Whether something other than the system failed: a rerun tries it again."""
        return self.kind == "error" and self.cause in ("provider", "environment")

    @classmethod
    def of(
        cls, example: Example, index: int, system: str, outcome: Outcome, score: Score, *, resumed: bool = False
    ) -> Row:
        """The row of an outcome, as plain data."""
        usage = outcome.usage
        return cls(
            *(example.task, example.length, index, system, example.id, score.value, score.feedback),
            plain(example.answer),
            plain(dict(outcome.outputs)),
            *(outcome.kind, outcome.cause, outcome.detail, usage.cost, usage.input_tokens, usage.output_tokens),
            *(usage.calls, outcome.iterations, outcome.seconds, outcome.route, resumed),
        )


def plain(value: Any) -> Any:
    """``value`` as JSON holds it; text where it is too big to keep or of no kind JSON knows."""
    try:
        data = to_jsonable_python(value, fallback=str, bytes_mode="base64")
        text = json.dumps(data, allow_nan=False)
    except (ValueError, RecursionError):  # no number to JSON, or too long or too deep to be written
        return brief(value, KEPT)
    return data if len(text) <= KEPT else f"{text[:KEPT]} ..."


class Store:
    """Rows by key, in memory and, with a path, in a JSONL file whose first line says what the rows are results of."""

    def __init__(self, path: str | os.PathLike[str] | None, head: Mapping[str, Any]) -> None:
        self.path = None if path is None else Path(path).expanduser()
        self.head = {"schema": SCHEMA, **{name: plain(value) for name, value in head.items()}}
        self.rows: dict[Key, Row] = {}
        self.earlier: list[Row] = []  # every row found in the file, also those that were tried again: all of them cost
        self._fd: int | None = None
        if self.path is not None:
            self._open(self.path)

    def _open(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        except OSError as error:
            raise InputError(f"{path}: {error.strerror}") from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise InputError(f"{path}: another evaluation is writing to it") from None
        try:
            self._resume(path)
        except BaseException:
            self.close()
            raise

    def _resume(self, path: Path) -> None:
        assert self._fd is not None
        data = path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if not whole and json.dumps(self.head).encode().startswith(data):  # new, or killed within its first line
            os.ftruncate(self._fd, 0)
            self._write(self.head)
            return
        head, self.earlier = _parsed(data[:whole] or data, str(path))  # before anything is cut: it may be no such file
        os.ftruncate(self._fd, whole)  # the last writer may have been killed within a line
        self.rows = {row.key: row for row in self.earlier}
        if differing := [name for name in {**self.head, **head} if head.get(name) != self.head.get(name)]:
            name = differing[0]
            raise InputError(
                f"{path} holds results of another evaluation ({name}: {head.get(name)!r} there, "
                f"{self.head.get(name)!r} now); give another path, or remove it"
            )

    def add(self, row: Row) -> None:
        """Keep ``row``; it is in the file when this returns."""
        self.rows[row.key] = row
        if self._fd is not None:
            self._write(dataclasses.asdict(row))

    def _write(self, data: Mapping[str, Any]) -> None:
        assert self._fd is not None
        line = json.dumps(data).encode() + b"\n"
        try:
            while line:
                line = line[os.write(self._fd, line) :]
        except OSError as error:
            raise DszigError(f"{self.path}: results cannot be written: {error.strerror}") from error

    def close(self) -> None:
        """Let go of the file. May be called twice."""
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Any], list[Row]]:
    """Head and rows of a results file, of each key the last one. Raises ``ValueError`` for another kind of file."""
    data = Path(path).expanduser().read_bytes()
    head, rows = _parsed(data[: data.rfind(b"\n") + 1], str(path))
    return head, list({row.key: row for row in rows}.values())


def _parsed(data: bytes, path: str) -> tuple[dict[str, Any], list[Row]]:
    names = {f.name for f in dataclasses.fields(Row)}
    head: dict[str, Any] = {}
    rows: list[Row] = []
    for number, line in enumerate(data.splitlines(), 1):
        try:
            values = cast("dict[str, Any]", json.loads(line))
            if number == 1:
                head = values
                if head["schema"] != SCHEMA:
                    raise ValueError(f"schema {head['schema']!r}")
                continue
            rows.append(Row(**{name: value for name, value in values.items() if name in names}))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError(f"{path}: line {number} is none of results of an evaluation: {error}") from None
    return head, rows
