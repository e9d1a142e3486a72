"""What a run brings into its REPL besides the inputs and the host's callables: code of its own, run before the model's."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dszig_py import citing, prompts, reading, skills
from dszig_py.environments.base import Session
from dszig_py.errors import EnvironmentFailure, InputError
from dszig_py.evidence import asked_for
from dszig_py.language import PYTHON, Language
from dszig_py.signature import Signature
from dszig_py.skills import Skill
from dszig_py.strategy import Strategy
from dszig_py.tools import Tool

__all__ = ["Brought", "Preamble", "standard", "written_in"]


@dataclass(frozen=True)
class Preamble:
    """``code``, run first; ``tools`` for that code alone (the contract does not show them); ``notes`` and ``callables``
    (name, signature, documentation) that the contract does show. ``on_demand``: by a word, code that is run before the first
    cell in which the word stands.
    """

    code: str = ""
    tools: Mapping[str, Tool] = field(default_factory=dict[str, Tool])
    notes: tuple[str, ...] = ()
    on_demand: Mapping[str, str] = field(default_factory=dict[str, str])
    callables: tuple[tuple[str, str, str], ...] = ()


def standard(strategy: Strategy, signature: Signature, taught: Sequence[Skill]) -> list[Preamble]:
    """What options ask for: functions for reading, ``cite``, the modules of skills."""
    found: list[Preamble] = []
    if strategy.helpers:
        found.append(Preamble(_source("reading"), callables=_told(prompts.READING)))
    if asked_for([f.type for f in signature.outputs]):
        names = tuple(f.name for f in signature.inputs)
        found.append(Preamble(f"{_source('citing')}\nCITABLE = {names!r}", callables=_told(prompts.CITE)))
    if taught:
        found.append(Preamble(skills.module_code(taught), notes=tuple(skills.notes(taught))))
    return found


def written_in(language: Language, preambles: Sequence[Preamble]) -> list[Preamble]:
    """``preambles`` as a REPL of this language can have them: what would only come on demand is left out where the language
    is not Python. Raises :class:`InputError` for code that the run cannot do without.
    """
    if language is PYTHON:
        return list(preambles)
    if code := next((p.code for p in preambles if p.code), ""):
        told = ", ".join(name for p in preambles for name, *_ in p.callables) or f"{code.strip():.80}"
        raise InputError(
            f"the REPL's language is {language.label}, in which no Python runs; this run would bring some ({told}). "
            "Leave out Strategy(helpers=True), evidence outputs and skills with modules, or choose another environment"
        )
    return [preamble for preamble in preambles if not preamble.on_demand]


@functools.cache
def _source(name: str) -> str:
    return inspect.getsource({"reading": reading, "citing": citing}[name])


def _told(callables: Mapping[str, tuple[str, str]]) -> tuple[tuple[str, str, str], ...]:
    return tuple((name, *told) for name, told in callables.items())


class Brought:
    """The preambles of one run and what of them its REPL has by now."""

    def __init__(self, preambles: Sequence[Preamble]) -> None:
        self.preambles = preambles
        self._waiting: dict[str, str] = {}

    @property
    def tools(self) -> dict[str, Tool]:
        """What their code calls."""
        return {name: tool for preamble in self.preambles for name, tool in preamble.tools.items()}

    @property
    def notes(self) -> list[str]:
        """What the contract says of them."""
        return [note for preamble in self.preambles for note in preamble.notes]

    @property
    def callables(self) -> list[tuple[str, str, str]]:
        """What the contract offers of them."""
        return [told for preamble in self.preambles for told in preamble.callables]

    async def into(self, session: Session) -> None:
        """Into a new REPL, or one whose worker was replaced. Raises :class:`EnvironmentFailure` where the code fails."""
        for preamble in self.preambles:
            if not preamble.code:
                continue
            done = await session.execute(preamble.code)
            if done.error:
                raise EnvironmentFailure(f"what the run brings into its REPL fails there: {done.error}")
        self._waiting = {word: code for preamble in self.preambles for word, code in preamble.on_demand.items()}

    async def before(self, cell: str, session: Session) -> None:
        """What this cell is the first to ask for."""
        for word in [word for word in self._waiting if word in cell]:
            await session.execute(self._waiting.pop(word))
