"""Rows that users have: OOLONG and RULER as published (JSONL), and CSV or JSONL of one's own.

A JSONL file is read once for its line offsets; afterwards one line at a time, so a file of a million-token contexts
takes no memory. A CSV file is held whole.
"""

from __future__ import annotations

import ast
import csv
import json
import random
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from dszig_py.errors import InputError
from dszig_py.evals import scoring
from dszig_py.evals.tasks import Example, Made, Score, Task

__all__ = ["from_file", "oolong", "ruler"]

_ANSWER = "context: str, question: str -> answer: str"
Row = Mapping[str, Any]


def oolong(path: str | Path, *, name: str = "oolong") -> Task:
    """``oolong-synth`` rows: ``context_window_text``, ``question``, ``answer``, and where given ``answer_type``.

    The answer may be a list in text form with one element, also a ``datetime.date``. Numbers score 0.75 to the power of
    the distance (those of another ``answer_type``, a user's say, must be the same), dates and comparisons ("more common
    than") are found in a sentence, all else must match.
    """

    def made(row: Row) -> Made:
        context = _first(row, "context_window_text", "context")
        inputs = {"context": context, "question": str(_first(row, "question"))}
        keep = ("id", "dataset", "task", "answer_type", "context_len", "input_subset")
        return inputs, _plain(_first(row, "answer")), {key: row[key] for key in keep if key in row}

    return _task(name, path, made, _typed_answer, ("semantics", "aggregation"), "OOLONG, oolong-synth rows")


def ruler(path: str | Path, *, name: str = "ruler", several: bool | None = None) -> Task:
    """RULER's JSONL: ``input`` (context and question in one), ``outputs``, and where given ``index`` and ``length``.

    The last line of ``input`` is taken for the question; the whole of it stays the context. The score is the share of
    ``outputs`` that stand in the answer, or with ``several`` ways to answer (default: where the file or its folder is
    called "qa..." as RULER writes them) whether one of them does.
    """
    if several is None:
        several = any(part.lower().startswith("qa") for part in (Path(path).stem, Path(path).absolute().parent.name))

    def made(row: Row) -> Made:
        text = str(_first(row, "input"))
        outputs = _first(row, "outputs", "answer")
        wanted = cast("list[Any]", outputs) if isinstance(outputs, list) else [outputs]
        question = text.rstrip().rpartition("\n")[2][-1_000:]
        meta = {key: row[key] for key in ("index", "length") if key in row}
        return {"context": text, "question": question}, [str(one) for one in wanted], meta

    judge = scoring.contains_any if several else scoring.contains_all
    return _task(name, path, made, judge, ("retrieval",), "RULER arXiv:2404.06654, published rows")


def from_file(
    path: str | Path,
    *,
    name: str = "",
    fields: Mapping[str, str] | None = None,
    signature: str = _ANSWER,
    judge: Callable[[Example, Any], Score] | None = None,
) -> Task:
    """A CSV (with a header) or JSONL of your own.

    ``fields``: names in ``signature`` -> columns, where they differ; the first output's column holds the right answer.
    ``judge``: (example, answer) -> :class:`Score`; default: numbers by distance, all else by match.
    """
    from dszig_py.signature import Signature

    parsed, columns = Signature.parse(signature), dict(fields or {})
    output = parsed.outputs[0].name
    names = [*(f.name for f in parsed.inputs), output]
    if unknown := sorted(set(columns) - set(names)):
        raise InputError(f"fields names {', '.join(unknown)}; the signature has {', '.join(names)}")

    def made(row: Row) -> Made:
        inputs = {f.name: _first(row, columns.get(f.name, f.name)) for f in parsed.inputs}
        return inputs, _plain(_first(row, columns.get(output, output))), {}

    return _task(name or Path(path).stem, path, made, judge or _typed_answer, (), str(path), signature, output)


def _task(
    name: str,
    path: str | Path,
    made: Callable[[Row], Made],
    judge: Callable[[Example, Any], Score],
    abilities: tuple[str, ...],
    source: str,
    signature: str = _ANSWER,
    output: str = "answer",
) -> Task:
    rows = _Rows(Path(path))
    sizes = [_size(rows, index, made) for index in range(len(rows.places))]
    if not sizes:
        raise InputError(f"{path}: no rows in it")

    def make(index: int, _rng: random.Random) -> Made:
        return made(rows.row(index))

    return Task(name, signature, abilities, make, judge, source, output=output, sizes=sizes)


def _size(rows: _Rows, index: int, made: Callable[[Row], Made]) -> int:
    try:
        inputs, _, _ = made(rows.row(index))
    except (InputError, ValueError) as error:
        raise InputError(f"{rows.path}: row {index + 1}: {error}") from None
    return sum(len(str(value)) for value in inputs.values())


@dataclass
class _Rows:
    """A file's rows by number: of JSONL only the offsets are held."""

    path: Path

    def __post_init__(self) -> None:
        self.places: Sequence[int | Row] = self._of_csv() if self.path.suffix.lower() == ".csv" else self._offsets()

    def _of_csv(self) -> list[Row]:
        csv.field_size_limit(sys.maxsize)
        with self.path.open(encoding="utf-8-sig", newline="") as file:
            return [dict(row) for row in csv.DictReader(file)]

    def _offsets(self) -> list[int]:
        offsets, at = list[int](), 0
        with self.path.open("rb") as file:
            for line in file:
                if line.strip():
                    offsets.append(at)
                at += len(line)
        return offsets

    def row(self, index: int) -> Row:
        place = self.places[index]
        if not isinstance(place, int):
            return place
        with self.path.open("rb") as file:
            file.seek(place)
            row = json.loads(file.readline().decode("utf-8-sig"))
        if not isinstance(row, dict):
            raise InputError("a row is a JSON object")
        return cast("dict[str, Any]", row)


def _first(row: Row, *names: str) -> Any:
    for name in names:
        if row.get(name) is not None:
            return row[name]
    raise InputError(f"no {' or '.join(names)} in it; it has {', '.join(map(str, row)) or 'nothing'}")


_DATE = re.compile(r"\[?datetime\.date\((\d{1,4}), *(\d{1,2}), *(\d{1,2})\)\]?")
_DAY = re.compile(r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])")


def _plain(answer: Any) -> Any:
    """The answer itself where it is wrapped in a list, or is a list or a number in text form."""
    if isinstance(answer, str):
        if date := _DATE.fullmatch(answer.strip()):
            return f"{int(date[1]):04}-{int(date[2]):02}-{int(date[3]):02}"
        try:
            answer = ast.literal_eval(answer.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return answer.strip()
    if isinstance(answer, (list, tuple)) and len(cast("list[Any]", answer)) == 1:
        answer = cast("list[Any]", answer)[0]
    return cast("Any", answer) if isinstance(answer, (int, float, list, tuple)) else str(answer)


def _typed_answer(example: Example, given: Any) -> Score:
    """Numbers by their distance, lists as sets, dates however written, all else by the words without regard to case."""
    right = example.answer
    if isinstance(right, (int, float)) and not isinstance(right, bool):
        kind = str(example.meta.get("answer_type") or "NUMERIC").upper().rpartition(".")[2]
        return scoring.count(example, given) if kind == "NUMERIC" else scoring.identity(example, given)
    if isinstance(right, (list, tuple)):
        return scoring.names(example, given)
    if _DAY.fullmatch(str(right)):
        return scoring.day(example, given)
    if str(right).lower().startswith(scoring.COMPARISONS):
        return scoring.compared(example, given)
    told = scoring.as_text(given)
    said = told.rpartition(":")[2].strip(" .*\"'[]").lower()
    if str(right).strip(" .").lower() in (said, told.strip().lower()):
        return Score(1.0, "right")
    return Score(0.0, f"right is {right!r}, the answer was {told[:200]!r}")
