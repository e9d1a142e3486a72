"""The record of a run: frozen values, one JSON form of them, and the prediction they lead to.

A trajectory holds previews of the inputs, never the inputs. Replies are kept whole (they were paid for), prompts by
preview and size.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from dszig_py.environments.base import Execution
from dszig_py.usage import Usage

__all__ = [
    "Action",
    "Compaction",
    "Extraction",
    "Input",
    "Iteration",
    "Prediction",
    "SubCall",
    "Termination",
    "Trajectory",
]

SHOWN = 500  # characters of an output or of a termination in a repr

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
    """One call from inside code. ``kind``: llm_query, predict, rlm_query, tool, or direct (of a route without code;
    ``index`` is the attempt); ``batch`` and ``index``: its place in a batch. ``prompt`` is a preview of ``prompt_chars``
    characters; ``reply`` is whole, of a child run or a tool the head of its repr. ``trajectory``: a child run's. ``started`` is seconds since the run began.
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
class Compaction:
    """A summary that took the place of the first ``iterations`` of a run in its later prompts.

    ``variable``: where the REPL keeps them whole, "" where it cannot. ``chars``: of the history before.
    """

    iterations: int
    summary: str
    variable: str = ""
    chars: int = 0
    usage: Usage = field(default_factory=Usage)
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Iteration:
    """One decide, execute, observe. ``observation`` is what the model was shown; ``decide_seconds`` the model's share;
    ``compaction`` what was made of the history before it was decided.
    """

    index: int
    action: Action
    execution: Execution
    observation: str
    sub_calls: tuple[SubCall, ...] = ()
    usage: Usage = field(default_factory=Usage)
    started: float = 0.0
    seconds: float = 0.0
    decide_seconds: float = 0.0
    compaction: Compaction | None = None


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
    """Everything a run did. ``begun`` is Unix time in seconds; ``outputs`` are plain data (models as dicts).

    ``route``: where ``Strategy(route=...)`` was given, which way was taken ("direct: ..." or "loop: ...") and why; what a
    direct call came to is iteration 0.
    """

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
    route: str = ""

    def sub_calls(self) -> Iterator[SubCall]:
        """Every sub-call of this run and of its children, in order of their iterations."""
        for iteration in self.iterations:
            for call in iteration.sub_calls:
                yield call
                if call.trajectory is not None:
                    yield from call.trajectory.sub_calls()

    def save(self, path: str | Path, *, secrets: Iterable[str] = ()) -> Path:
        """Write as JSONL, the lines that a live trace has. Parent folders are made.

        ``secrets`` and the values of providers' keys in the environment are written as "[redacted]".
        """
        from dszig_py.redaction import Redactor

        redactor, path = Redactor(secrets), Path(path).expanduser()
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.writelines(redactor.line(row) for row in self.rows())
        return path

    def rows(self) -> Iterator[dict[str, Any]]:
        """The lines of :meth:`save`, as plain data: a run begins, decides, calls, observes, ends."""
        from dszig_py import rows

        return rows.of_run(self)

    @classmethod
    def load(cls, path: str | Path) -> Trajectory:
        """Read what :meth:`save` or a live trace wrote; a run that was cut off is read as far as it went.

        Raises ``ValueError`` for another kind of file.
        """
        from dszig_py import rows

        return rows.load(Path(path).expanduser().read_bytes().split(b"\n"), str(path))

    def _repr_html_(self) -> str:
        from dszig_py.render import html

        return html.fragment(self)

    def __str__(self) -> str:
        ended = "unfinished" if self.termination is None else _short(self.termination)
        return f"Trajectory({self.signature!r}, {len(self.iterations)} iterations, {ended}, {self.usage})"

    __repr__ = __str__


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

    def __iter__(self) -> Iterator[str]:
        """The outputs' names; without this Python would ask for ``prediction[0]``, also for ``"answer" in prediction``."""
        return iter(self.outputs)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self.outputs]

    def _repr_html_(self) -> str:
        from dszig_py.render import html

        return html.fragment(self.trajectory, outputs=self.outputs)

    def __repr__(self) -> str:
        from dszig_py.previews import brief

        shown = [f"  {name} = {brief(value, SHOWN)}" for name, value in self.outputs.items()]
        return "\n".join(["Prediction(", *shown, f"  {_short(self.termination)}", f"  {self.usage}", ")"])


def _short(termination: Termination) -> str:
    """Why a run ended, in one line for a terminal: a provider's words may be long, and hold escape sequences."""
    from dszig_py.text import clean, truncate

    return " ".join(truncate(clean(str(termination)), SHOWN).split())
