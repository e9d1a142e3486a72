"""The tasks by name, and rows and metrics of them for whoever runs programs of their own."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

from dszig_py.errors import InputError
from dszig_py.evals import readers
from dszig_py.evals.counting import FREQUENT_WORDS, LABEL_COUNT, LABEL_PAIRS
from dszig_py.evals.retrieval import FACTS, KV, MULTIKEY, NEEDLE, VARIABLE_TRACKING
from dszig_py.evals.tasks import Example, Score, Task

__all__ = ["TASKS", "judge", "metric", "read", "resolve", "rows"]

TASKS: dict[str, Task] = {
    task.name: task
    for task in (NEEDLE, MULTIKEY, VARIABLE_TRACKING, KV, FREQUENT_WORDS, LABEL_COUNT, LABEL_PAIRS, FACTS)
}
_FILES: dict[str, Callable[..., Task]] = {"oolong": readers.oolong, "ruler": readers.ruler, "rows": readers.from_file}
_OWN = ("id", "task", "length", "meta")  # what a row has besides the fields of the signature


def resolve(task: str | Task) -> Task:
    """A task by name; ``"oolong:PATH"``, ``"ruler:PATH"`` and ``"rows:PATH"`` read a file. Raises ``InputError``."""
    if isinstance(task, Task):
        return task
    kind, _, path = task.partition(":")
    if path and kind in _FILES:
        return read(kind, path)
    if task in TASKS:
        return TASKS[task]
    close = difflib.get_close_matches(task, TASKS, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    files = ", ".join(f"{kind}:PATH" for kind in _FILES)
    raise InputError(f"no task {task!r}; {hint}the tasks are {', '.join(TASKS)}, and {files}")


def read(kind: str, path: str, **options: Any) -> Task:
    """The rows of a file as a task; ``options`` of that kind's reader. Raises ``InputError``."""
    try:
        return _FILES[kind](path, **options)
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise error if isinstance(error, InputError) else InputError(f"{kind}:{path}: {error}") from None


def rows(task: str | Task, length: int = 32_000, n: int = 50, *, seed: int = 0) -> list[dict[str, Any]]:
    """The first ``n`` examples as plain rows: the signature's inputs, ``answer``, and id, task, length and meta.

    As training data elsewhere, e.g. ``[dspy.Example(row).with_inputs("context", "question") for row in rows("kv")]``.
    """
    task = resolve(task)
    return [
        {**e.inputs, task.output: e.answer, "id": e.id, "task": e.task, "length": e.length, "meta": dict(e.meta)}
        for e in task.examples(length, n, seed=seed)
    ]


def judge(row: Any, outputs: Any, *, task: str | Task | None = None) -> Score:
    """How right ``outputs`` are for one of :func:`rows`, with words for an optimizer that reads feedback.

    Both may be mappings or objects with attributes. ``task`` is needed where the row is not of a task in ``TASKS``.
    """
    task = resolve(str(_get(row, "task")) if task is None else task)
    example = Example(
        str(_get(row, "id", "")),
        {},
        _get(row, task.output),
        task.name,
        int(_get(row, "length", 0)),
        _get(row, "meta", {}),
    )
    return task.score(example, {task.output: _get(outputs, task.output)})


def metric(row: Any, outputs: Any, *_: Any, **__: Any) -> float:
    """:func:`judge` as a number, with the calling convention of metrics (whatever else is passed is not looked at)."""
    return judge(row, outputs).value


def _get(thing: Any, name: str, default: Any = None) -> Any:
    if isinstance(thing, Mapping):
        return cast("Mapping[str, Any]", thing).get(name, default)
    try:
        return thing[name]
    except (KeyError, TypeError, IndexError, AttributeError):
        return getattr(thing, name, default)


def resolve_all(tasks: str | Task | Iterable[str | Task]) -> list[Task]:
    """Several tasks; no two may have one name."""
    found = [resolve(t) for t in ([tasks] if isinstance(tasks, (str, Task)) else tasks)]
    names = [task.name for task in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"two tasks are called {', '.join(twice)}; give one of them another name")
    if not found:
        raise InputError(f"no task is given; the tasks are {', '.join(TASKS)}")
    return found
