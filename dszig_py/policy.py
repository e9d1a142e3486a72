"""Chooses the next action: contract and history in, :class:`Action` out. :class:`ChatPolicy` asks an :class:`LM`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

from dszig_py import prompts
from dszig_py.contract import Contract
from dszig_py.lm.base import LM
from dszig_py.lm.gate import Gate
from dszig_py.text import extract_code
from dszig_py.trajectory import Action, Iteration
from dszig_py.usage import Ledger

__all__ = ["ChatPolicy", "Policy", "View", "read_json"]


@dataclass(frozen=True, slots=True)
class View:
    """All a policy sees. ``remaining``: what the budget still allows, in words. ``ledger``: where its calls are paid."""

    contract: Contract
    iterations: Sequence[Iteration]
    remaining: str
    ledger: Ledger


class Policy(Protocol):
    """The seam between the loop and whatever decides. Raises ``Exhausted`` or ``LMError``; the runner handles both."""

    async def decide(self, view: View) -> Action:
        """The next action. A reply without code is an action with a ``problem``, never an exception."""
        ...

    async def extract(self, view: View) -> dict[str, Any]:
        """Raw outputs by name, as far as the history supports them; the contract judges them afterwards."""
        ...


@dataclass(frozen=True)
class ChatPolicy:
    """Asks a chat model, with the history as a conversation."""

    lm: LM
    gate: Gate
    instructions: str
    max_history_chars: int

    async def decide(self, view: View) -> Action:
        request = prompts.decision(
            self.instructions, view.contract, view.iterations, view.remaining, self.max_history_chars
        )
        reply = await self.gate.ask(self.lm, request, view.ledger, inner=view.ledger.depth > 0)
        found = extract_code(reply.text)
        return Action(found.reasoning, found.cells, found.problem)

    async def extract(self, view: View) -> dict[str, Any]:
        request = prompts.extraction(view.contract, view.iterations, self.max_history_chars)
        reply = await self.gate.ask(self.lm, request, view.ledger, inner=view.ledger.depth > 0, final=True)
        names = [f.name for f in view.contract.signature.outputs]
        found = read_json(reply.text)
        if found is None and len(names) == 1 and view.contract.signature.outputs[0].type is str and reply.text.strip():
            return {names[0]: reply.text.strip()}  # one text output, answered in plain text
        return found or {}


def read_json(text: str) -> dict[str, Any] | None:
    """The last JSON object in a reply, fenced or bare, or ``None``. Linear in the text's length but for nesting."""
    decoder = json.JSONDecoder(strict=False)
    found: dict[str, Any] | None = None
    start, tries = text.find("{"), 0
    while start != -1 and tries < 200:
        tries += 1
        try:
            value, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            start = text.find("{", start + 1)
            continue
        if isinstance(value, dict):
            found = cast("dict[str, Any]", value)
        start = text.find("{", end)
    return found
