"""A stand-in that needs no key and no network: it writes real REPL code, but there is no model behind it.

Asked to decide, it writes code that ranks passages of the inputs with BM25, asks itself about the best ones and submits
typed outputs. Asked anything else, it quotes the sentences of the prompt that match the question in it best.
"""

from __future__ import annotations

import json
import re

from dszig_py.lm._offline_answers import (
    NOTHING,
    extraction_reply,
    filled_in,
    found_in,
    matching_sentences,
    wanted_schema,
)
from dszig_py.lm._offline_code import ASK, action_text, look_code, plain_submit_code, search_code, submit_code
from dszig_py.lm._offline_contract import CONTRACT, plan_of, read_contract
from dszig_py.lm.base import Reply, Request, estimated_usage
from dszig_py.prompts import EXTRACTION, LAST, TYPED

__all__ = ["OfflineLM"]


class OfflineLM:
    """No model: an extractive search that writes real code. Deterministic, free, and without a network."""

    @property
    def model(self) -> str:
        """Always ``"offline"``."""
        return "offline"

    async def price_known(self) -> bool:
        """It costs nothing, and that is known."""
        return True

    async def complete(self, request: Request) -> Reply:
        """The same reply to the same request, always."""
        text = _reply(request)
        return Reply(text, estimated_usage(request, text, cost=0.0, seconds=0.0), self.model, "stop")

    def __repr__(self) -> str:
        return "OfflineLM()"


def _reply(request: Request) -> str:
    messages = request.messages
    if len(messages) > 1 and messages[0].role == "system" and CONTRACT.search(messages[1].content):
        return _decision(request)
    asked = "\n\n".join(m.content for m in messages if m.role == "user")
    if asked.startswith(EXTRACTION.partition(".")[0]) and CONTRACT.search(asked):
        return extraction_reply(asked)
    if asked.startswith(ASK):
        question, _, passage = asked.removeprefix(ASK).strip().removeprefix("Question: ").partition("\n\nPassage:\n")
        return "\n".join(matching_sentences(passage, question)[:3]) or NOTHING
    task, typed, _ = (messages[0].content if messages else "").partition(TYPED.partition("\n")[0])
    found = found_in(asked, task.strip() if typed else "")
    schema = wanted_schema(request.schema, asked)
    return found.text if schema is None else json.dumps(filled_in(plan_of(schema, schema), found), ensure_ascii=False)


def _decision(request: Request) -> str:
    """The next action: look, search, submit; in the last iteration all that is still to be done."""
    contract = read_contract(request.messages[1].content)
    said, seen = request.messages[2::2], request.messages[3::2]
    searched = [number for number, message in enumerate(said) if "def passages(text)" in message.content]
    if searched:
        failed = searched[-1] < len(said) - 1 or any(re.search("^Traceback", m.content, re.M) for m in seen[-1:])
        if failed:
            return action_text(
                "That did not work, so I submit what was found until then.", plain_submit_code(contract, seen)
            )
        return action_text("I submit the sentences that hold most of the question.", submit_code(contract))
    search = search_code(contract, request.remaining)
    if LAST in request.remaining:
        return action_text("I rank the passages with BM25 and submit at once.", search, submit_code(contract))
    if not said:
        return action_text("First a look at the variables.", look_code(contract))
    return action_text("I rank the passages with BM25 and ask about the best ones.", search)
