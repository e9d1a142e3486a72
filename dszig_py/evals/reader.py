"""A fake model that reads: it knows nothing but the prompt in front of it, can err, and sees no further than its window.

It makes the suite's curves meaningful without a key: asked directly it fails as soon as the context outgrows its window;
as the root of a run it writes the code a good model would write; asked to label items it labels those it is shown.
"""

from __future__ import annotations

import ast
import asyncio
import hashlib
import json
import re
import time
from collections.abc import Mapping
from typing import Any

from dszig_py.evals import reader_code
from dszig_py.evals.labels import KIND_NAMES, kind_of
from dszig_py.evals.reading import answer, asked
from dszig_py.lm.base import Reply, Request, estimated_usage
from dszig_py.prompts import EXTRACTION, TYPED
from dszig_py.usage import CHARS_PER_TOKEN

__all__ = ["ReaderLM"]

_QUESTION = re.compile(r"^  question: .*\n     (?P<literal>.*)$", re.MULTILINE)
_TYPED, _EXTRACTION = (text.split("\n")[0].split("{")[0] for text in (TYPED, EXTRACTION))
_EMPTY: dict[str, Any] = {"string": "unknown", "integer": 0, "number": 0, "array": [], "boolean": False}


class ReaderLM:
    """Answers the tasks of ``dszig_py.evals`` by reading its prompt. Deterministic: errors depend on an item's text.

    ``window``: tokens it sees of a prompt; of a longer one the middle is lost on it. ``errors``: the share of items it
    labels wrong, for all kinds or by kind. ``price``: dollars per million input and output tokens. ``delay``: seconds a
    call. ``seed``: which items it gets wrong.
    """

    def __init__(
        self,
        *,
        window: int = 32_000,
        errors: float | Mapping[str, float] = 0.0,
        price: tuple[float, float] = (1.0, 4.0),
        delay: float = 0.0,
        seed: int = 0,
        model: str = "reader",
    ) -> None:
        self.window_tokens = window
        self.errors = dict.fromkeys(KIND_NAMES, errors) if isinstance(errors, (int, float)) else dict(errors)
        self.price = (price[0] / 1e6, price[1] / 1e6)
        self.delay = delay
        self.seed = seed
        self._model = model

    @property
    def model(self) -> str:
        """The name given."""
        return self._model

    def __repr__(self) -> str:
        return f"ReaderLM(window={self.window_tokens})"

    async def price_known(self) -> bool:
        """Yes: its price is its own."""
        return True

    async def complete(self, request: Request) -> Reply:
        """One reply, from the prompt alone."""
        started = time.perf_counter()
        if self.delay > 0:
            await asyncio.sleep(self.delay)
        text = self.read(request)
        usage = estimated_usage(request, text, cost=None, seconds=time.perf_counter() - started)
        cost = usage.input_tokens * self.price[0] + usage.output_tokens * self.price[1]
        return Reply(text, estimated_usage(request, text, cost=cost, seconds=usage.seconds), self._model, "stop")

    def read(self, request: Request) -> str:
        """The reply to ``request``."""
        system = request.messages[0].content
        if "Finish with SUBMIT(" in request.prompt and not system.startswith(_EXTRACTION):
            return self._decide(request)
        prompt = self._seen(request.prompt)
        if _TYPED in system:
            return json.dumps(self._typed(request.schema or {}, prompt))
        if system.startswith(_EXTRACTION):
            return "{}"
        if reader_code.CLASSIFY in prompt:
            found = re.findall(r"^(\d+)\. (.+)$", prompt, re.MULTILINE)
            return "\n".join(f"{number}: {kind}" for number, text in found if (kind := self.label(text)))
        return str(self._answer(prompt, "unknown"))

    def label(self, text: str) -> str | None:
        """The kind of an item, right or, at the rate of errors, wrong; ``None`` for what it cannot make out."""
        kind = kind_of(text.strip())
        if kind is None:
            return None
        digest = hashlib.blake2b(f"{self.seed}/{text.strip()}".encode(), digest_size=8).digest()
        if int.from_bytes(digest[:6]) / 2**48 >= self.errors.get(kind, 0.0):
            return kind
        others = [name for name in KIND_NAMES if name != kind]
        return others[digest[7] % len(others)]

    def _seen(self, prompt: str) -> str:
        """What the window holds of a prompt: its head and its tail."""
        limit = self.window_tokens * CHARS_PER_TOKEN
        if len(prompt) <= limit:
            return prompt
        return f"{prompt[: limit // 2]}\n\n{prompt[len(prompt) - limit // 2 :]}"

    def _answer(self, prompt: str, default: Any) -> Any:
        question = asked(prompt)
        found = None if question is None else answer(*question, prompt, self.label)
        return default if found is None else found

    def _typed(self, schema: Mapping[str, Any], prompt: str) -> dict[str, Any]:
        fields: dict[str, Any] = dict(schema.get("properties", {}))
        return {name: self._answer(prompt, _EMPTY.get(field.get("type", "string"))) for name, field in fields.items()}

    def _decide(self, request: Request) -> str:
        """Look first, then work; where the work printed statements, read them and submit."""
        contract = request.messages[1].content
        done = sum(message.role == "assistant" for message in request.messages)
        shown = _QUESTION.search(contract)
        question = asked(str(ast.literal_eval(shown["literal"]))) if shown and shown["literal"][0] in "'\"" else None
        if done == 0:
            return _reply("I look at the inputs first.", reader_code.LOOK)
        if question is None:
            return _reply("I cannot tell what is asked.", 'SUBMIT("unknown")')
        if done == 1:
            batch_chars = self.window_tokens * CHARS_PER_TOKEN // 2
            sub_calls = "llm_query_batched(" in contract
            code = reader_code.work(*question, sub_calls=sub_calls, batch_chars=batch_chars)
            return _reply("I know how it is built, so I can work on all of it.", code)
        found = answer(*question, request.messages[-1].content, self.label)
        return _reply("I read what was printed.", f"SUBMIT(answer={found or 'unknown'!r})")


def _reply(said: str, code: str) -> str:
    return f"{said}\n\n```python\n{code}\n```"
