"""The record of a run: frozen values, one JSON form of them, and the prediction they lead to.

A trajectory holds previews of the inputs, never the inputs. Replies are kept whole (they were paid for), prompts by
preview and size.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, cast

from dszig_py.environments._worker import codec
from dszig_py.environments.base import Execution
from dszig_py.usage import Usage

__all__ = ["Action", "Extraction", "Input", "Iteration", "Prediction", "SubCall", "Termination", "Trajectory"]

SCHEMA = "dszig.trajectory/1"
_END = ("extraction", "termination", "usage", "seconds", "outputs")  # what the last row adds to the first
Cause = Literal["model", "budget", "provider", "environment", "caller"]
Kind = Literal[
    "submitted",
    "max_iters",
    "max_llm_calls",
    "max_tokens",
    "max_cost",
    "max_seconds",
    "cancelled",
    "error",
]


@dataclass(frozen=True, slots=True)
class Action:
    """What the policy decided: why, and the cells to run in order. ``problem``: what was wrong with the reply."""

    reasoning: str = ""
    cells: tuple[str, ...] = ()
    problem: str = ""

    @property
    def code(self) -> str:
        """All cells as one text."""
        return "\n\n".join(self.cells)


@dataclass(frozen=True, slots=True)
class SubCall:
    """One call from inside code. ``kind``: llm_query, predict, rlm_query or tool; ``batch`` and ``index``: its place in a
    batch. ``prompt`` is a preview of ``prompt_chars`` characters; ``reply`` is whole. ``trajectory``: a child run's.
    ``started`` is seconds since the run began.
    """

    id: str
    kind: str
    prompt: str = ""
    prompt_chars: int = 0
    reply: str = ""
    error: str = ""
    model: str = ""
    usage: Usage = field(default_factory=Usage)
    started: float = 0.0
    seconds: float = 0.0
    batch: str = ""
    index: int = 0
    cached: bool = False
    trajectory: Trajectory | None = None


@dataclass(frozen=True, slots=True)
class Iteration:
    """One decide, execute, observe. ``observation`` is what the model was shown; ``decide_seconds`` the model's share."""

    index: int
    action: Action
    execution: Execution
    observation: str
    sub_calls: tuple[SubCall, ...] = ()
    usage: Usage = field(default_factory=Usage)
    started: float = 0.0
    seconds: float = 0.0
    decide_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Extraction:
    """The closing call that reads the history and fills the outputs, where the code did not SUBMIT."""

    reply: str = ""
    error: str = ""
    usage: Usage = field(default_factory=Usage)
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Termination:
    """Why a run ended: ``kind`` says what happened, ``cause`` whose it was, ``detail`` the words."""

    kind: Kind
    cause: Cause
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.kind} ({self.cause}){': ' + self.detail if self.detail else ''}"


@dataclass(frozen=True, slots=True)
class Input:
    """An input as the model was told of it."""

    name: str
    type: str
    size: str
    preview: str


@dataclass(frozen=True)
class Trajectory:
    """Everything a run did. ``begun`` is Unix time in seconds; ``outputs`` are plain data (models as dicts)."""

    id: str
    signature: str
    instructions: str = ""
    model: str = ""
    sub_model: str = ""
    environment: str = ""
    isolation: str = ""
    depth: int = 0
    inputs: tuple[Input, ...] = ()
    contract: str = ""
    iterations: tuple[Iteration, ...] = ()
    extraction: Extraction | None = None
    termination: Termination | None = None
    outputs: Mapping[str, Any] = field(default_factory=dict[str, Any])
    usage: Usage = field(default_factory=Usage)
    begun: float = 0.0
    seconds: float = 0.0

    def sub_calls(self) -> Iterator[SubCall]:
        """Every sub-call of this run and of its children, in order of their iterations."""
        for iteration in self.iterations:
            for call in iteration.sub_calls:
                yield call
                if call.trajectory is not None:
                    yield from call.trajectory.sub_calls()

    def save(self, path: str | Path) -> Path:
        """Write as JSONL: a head line, a line an iteration, an end line. Parent folders are made."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            for row in self.rows():
                file.write(codec.dumps(row) + b"\n")
        return path

    def rows(self) -> Iterator[dict[str, Any]]:
        """The JSONL lines of :meth:`save`, as plain data."""
        head = dataclasses.replace(self, iterations=(), extraction=None, termination=None, outputs={}, usage=Usage())
        yield {"schema": SCHEMA, "row": "run", **_pack(head)}
        for iteration in self.iterations:
            yield {"row": "iteration", **_pack(iteration)}
        end = {name: _pack(getattr(self, name)) for name in _END if name != "outputs"}
        yield {"row": "end", **end, "outputs": codec.encode(dict(self.outputs))}

    @classmethod
    def load(cls, path: str | Path) -> Trajectory:
        """Read what :meth:`save` wrote; a cut last line is passed over. Raises ``ValueError`` for another kind of file."""
        trajectory: Trajectory | None = None
        lines = Path(path).read_bytes().split(b"\n")
        for number, line in enumerate(lines):
            if not line.strip():
                continue
            try:
                row = codec.loads(line)
            except ValueError:
                if number == len(lines) - 1 and trajectory is not None:
                    break
                raise ValueError(f"{path}: line {number + 1} is not JSON") from None
            try:
                trajectory = _fold(trajectory, row, str(path))
            except (
                TypeError,
                LookupError,
                AttributeError,
                RecursionError,
            ) as error:  # valid JSON, but not of the shape saved
                raise ValueError(f"{path}: line {number + 1} is damaged: {error}") from error
        if trajectory is None:
            raise ValueError(f"{path}: no run in it")
        return trajectory

    def __str__(self) -> str:
        return f"Trajectory({self.signature!r}, {len(self.iterations)} iterations, {self.termination}, {self.usage})"

    __repr__ = __str__


def _fold(trajectory: Trajectory | None, row: Any, path: str) -> Trajectory:
    if not isinstance(row, dict) or "row" not in row:
        raise ValueError(f"{path}: not a saved run")
    row = cast("dict[str, Any]", row)
    kind = row.pop("row")
    if kind == "run":
        if row.pop("schema", None) != SCHEMA:
            raise ValueError(f"{path}: not written as {SCHEMA}")
        if trajectory is not None:
            raise ValueError(f"{path}: a second run in one file")
        return _unpack(Trajectory, row)
    if trajectory is None:
        raise ValueError(f"{path}: does not begin with a run")
    if kind == "iteration":
        return dataclasses.replace(trajectory, iterations=(*trajectory.iterations, _unpack(Iteration, row)))
    if kind != "end":
        raise ValueError(f"{path}: there is no row of kind {kind!r}")
    return dataclasses.replace(trajectory, **_fields(Trajectory, {name: row[name] for name in _END}))


def _pack(value: Any) -> Any:
    """A record as JSON-able data, defaults left out; outputs and submissions through the codec."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        packed: dict[str, Any] = {}
        for f in dataclasses.fields(value):
            item = getattr(value, f.name)
            default = f.default_factory() if f.default_factory is not dataclasses.MISSING else f.default
            if item != default:
                packed[f.name] = codec.encode(item) if f.name in ("submission", "outputs") else _pack(item)
        return packed
    if isinstance(value, tuple):
        return [_pack(item) for item in cast("tuple[Any, ...]", value)]
    if isinstance(value, Mapping):
        return {str(key): _pack(item) for key, item in cast("Mapping[Any, Any]", value).items()}
    return codec.encode(value)


def _unpack(tp: Any, data: Any) -> Any:
    """The value behind :func:`_pack`'s data, by its annotation. Raises ``ValueError`` where the data is of another type."""
    origin, args = typing.get_origin(tp), typing.get_args(tp)
    if type(None) in args:
        return None if data is None else _unpack(args[0], data)
    if dataclasses.is_dataclass(tp):
        return cast("Any", tp)(**_fields(cast("type", tp), data))
    if origin is tuple:
        return tuple(_unpack(args[0], item) for item in _of(list, data))
    if origin is Mapping:
        return {args[0](key): _unpack(args[1], item) for key, item in _of(dict, data).items()}
    value = codec.decode(data)
    if origin is Literal:
        if value not in args:
            raise ValueError(f"{value!r} is none of {', '.join(args)}")
        return value
    if tp in (int, float) and type(value) in (int, float):
        return float(value) if tp is float else value
    return _of(tp, value)


def _fields(tp: type, data: Any) -> dict[str, Any]:
    """The fields of a record. Unknown keys are passed over: a later version may have written them."""
    hints = _hints(tp)
    return {
        name: _of(dict, codec.decode(item, records=codec.plain_record))
        if name in ("submission", "outputs")
        else _unpack(hints[name], item)
        for name, item in _of(dict, data).items()
        if name in hints
    }


def _of(tp: Any, value: Any) -> Any:
    if type(value) is not tp:
        raise ValueError(f"a {tp.__name__} was expected, not a {type(value).__name__}")
    return value


@cache
def _hints(tp: type) -> dict[str, Any]:
    return typing.get_type_hints(tp)


class Prediction:
    """What a run came to. Outputs are attributes (``pred.answer``) and in ``pred.outputs``.

    ``termination`` says why it ended; where an output could not be had it is ``None`` and the termination has the reason.
    ``variables``: name -> short repr of what the REPL held at the end. ``usage`` is of the whole recursion tree.
    """

    def __init__(
        self, outputs: Mapping[str, Any], trajectory: Trajectory, variables: Mapping[str, str] | None = None
    ) -> None:
        self.outputs: dict[str, Any] = dict(outputs)
        self.trajectory = trajectory
        self.variables: dict[str, str] = dict(variables or {})

    @property
    def termination(self) -> Termination:
        assert self.trajectory.termination is not None
        return self.trajectory.termination

    @property
    def usage(self) -> Usage:
        return self.trajectory.usage

    def __getattr__(self, name: str) -> Any:
        outputs = self.__dict__.get("outputs", {})
        if name in outputs:
            return outputs[name]
        raise AttributeError(f"no output {name!r}; the outputs are {', '.join(outputs) or 'none'}")

    def __getitem__(self, name: str) -> Any:
        return self.outputs[name]

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self.outputs]

    def __repr__(self) -> str:
        from dszig_py.contract import brief

        shown = [f"  {name} = {brief(value, 500)}" for name, value in self.outputs.items()]
        return "\n".join(["Prediction(", *shown, f"  {self.termination}", f"  {self.usage}", ")"])
