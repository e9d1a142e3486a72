"""What the code of an environment is written in: all that contract, prompts and replies have to know of it.

Python, unless an environment brings a :class:`Language` of its own (``environment.language``). So nothing but the
environment knows its language, and a caller's own environment can bring one as the script environment does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dszig_py.replies import Extracted, extract_code

__all__ = ["PYTHON", "Callables", "Language", "language_of"]

Callables = Sequence[tuple[str, str, str]]


def _as_they_are(callables: Callables) -> Callables:
    return callables


@dataclass(frozen=True, slots=True)
class Language:
    """``name``: in words; ``label``: of the fences that hold it. ``read``: the cells of a reply, never raising. ``finish``: what submits.

    ``instructions``: how to work, where prompts' own (for Python) do not fit. ``heading`` and ``told``: how the contract
    lists what the code may call, given as (name, Python signature, documentation).
    """

    name: str = "Python"
    label: str = "python"
    read: Callable[[str | None], Extracted] = extract_code
    finish: str = "SUBMIT"
    instructions: str = ""
    heading: str = "Functions in the REPL:"
    told: Callable[[Callables], Callables] = _as_they_are


PYTHON = Language()


def language_of(environment: object) -> Language:
    """The language an environment brings, else Python."""
    found = getattr(environment, "language", PYTHON)
    return found if isinstance(found, Language) else PYTHON
