"""Chooses the next action: contract and history in, :class:`Action` out. :class:`ChatPolicy` asks an :class:`LM`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from dszig_py import prompts
from dszig_py.contract import Contract
from dszig_py.lm.base import LM, Request
from dszig_py.lm.gate import Gate, OnText
from dszig_py.replies import read_json
from dszig_py.trajectory import Action, Iteration
from dszig_py.usage import Ledger

__all__ = ["ChatPolicy", "Policy", "View"]


@dataclass(frozen=True, slots=True)
class View:
    """All a policy sees. ``iterations``: those to show one by one, ``summary`` what stands for the ones before them.
    ``remaining``: what the budget still allows, in words. ``ledger``: where its calls are paid. ``on_text``: told the
    pieces of the reply as they come, where somebody listens (see :data:`~dszig_py.lm.gate.OnText`).
    """

    contract: Contract
    iterations: Sequence[Iteration]
    remaining: str
    ledger: Ledger
    summary: str = ""
    on_text: OnText | None = None


class Policy(Protocol):
    """The seam between the loop and whatever decides. Raises ``Exhausted`` or ``LMError``; the runner handles both."""

    async def decide(self, view: View) -> Action:
        """The next action. A reply without code is an action with a ``problem``, never an exception."""
        ...

    async def extract(self, view: View) -> dict[str, Any]:
        """Raw outputs by name, as far as the history supports them; the contract judges them afterwards."""
        ...

    async def summarize(self, view: View) -> str:
        """What the iterations came to, to stand for them in later prompts. Asked only under Strategy(compact_at=...)."""
        ...


@dataclass(frozen=True)
class ChatPolicy:
    """Asks a chat model, with the history as a conversation."""

    lm: LM
    gate: Gate
    instructions: str
    max_history_chars: int

    async def decide(self, view: View) -> Action:
        request = self._request(view)
        reply = await self.gate.ask(self.lm, request, view.ledger, inner=view.ledger.depth > 0, on_text=view.on_text)
        found = view.contract.language.read(reply.text)
        return Action(found.reasoning, found.cells, found.problem)

    async def extract(self, view: View) -> dict[str, Any]:
        request = prompts.extraction(view.contract, view.iterations, self.max_history_chars, view.summary)
        reply = await self.gate.ask(self.lm, request, view.ledger, inner=view.ledger.depth > 0, final=True)
        names = [f.name for f in view.contract.signature.outputs]
        found = read_json(reply.text)
        if found is None and len(names) == 1 and view.contract.signature.outputs[0].type is str and reply.text.strip():
            return {names[0]: reply.text.strip()}  # one text output, answered in plain text
        return found or {}

    async def summarize(self, view: View) -> str:
        request = prompts.summary(self._request(view))
        return (await self.gate.ask(self.lm, request, view.ledger, inner=view.ledger.depth > 0)).text

    def _request(self, view: View) -> Request:
        return prompts.decision(
            self.instructions, view.contract, view.iterations, view.remaining, self.max_history_chars, view.summary
        )
