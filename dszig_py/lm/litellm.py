"""Models through LiteLLM: one call, one reply, the provider's failure as an :class:`~dszig_py.errors.LMError`.

LiteLLM costs seconds and a hundred megabytes to import, so it is imported at the first call, in a thread. It is never
asked to retry: the layer above does, and two layers multiply.
"""

from __future__ import annotations

import asyncio
import functools
import re
import time
from collections.abc import Callable
from typing import Any

from dszig_py.errors import LMError
from dszig_py.lm import _clients, _loaded
from dszig_py.lm._clients import close_clients
from dszig_py.lm._failures import failure
from dszig_py.lm._loaded import known_price, preload
from dszig_py.lm._messages import messages_of
from dszig_py.lm._streaming import streamed, told
from dszig_py.lm.base import Reply, Request, estimated_usage
from dszig_py.usage import Usage

__all__ = ["LiteLLM", "close_clients", "known_price", "preload"]

# Nothing else of the options may show in a repr: headers and extra bodies carry secrets as often as api_key does.
_SHOWN = ("temperature", "max_tokens", "top_p", "reasoning_effort")


class LiteLLM:
    """A model by LiteLLM's name for it, e.g. ``LiteLLM("openai/gpt-5", temperature=1.0)``.

    ``price``: dollars per input token and per output token; it goes before the price LiteLLM knows. ``timeout``:
    seconds for one call, ``None`` = LiteLLM's own. ``options`` go to ``litellm.acompletion`` (``api_base``,
    ``api_key``, ``temperature``, ...); a request's own parameters go before them. Holds no client and no lock: it can
    be copied, pickled and shared by threads and event loops.
    """

    def __init__(
        self, model: str, *, price: tuple[float, float] | None = None, timeout: float | None = 600, **options: Any
    ) -> None:
        self._model = model
        self._price = price
        self._timeout = timeout
        self._options = options

    @property
    def model(self) -> str:
        """LiteLLM's name of the model."""
        return self._model

    @property
    def price(self) -> tuple[float, float] | None:
        """Dollars per input and output token: the user's, else LiteLLM's once it is loaded and where it knows them."""
        if self._price is not None or _loaded.loaded() is None:
            return self._price
        return _loaded.facts_of(self._priced_as, len(_loaded.loaded().model_cost)).price

    @property
    def max_tokens(self) -> int | None:
        """Output tokens one call may take, where that is set."""
        given = self._options.get("max_tokens") or self._options.get("max_completion_tokens")
        return int(given) if given else None

    @property
    def window_tokens(self) -> int | None:
        """Tokens the model can read at once, where LiteLLM knows it. Blocks for seconds where that is not loaded yet."""
        return _loaded.facts_of(self._priced_as, len(_loaded.litellm().model_cost)).window

    def __repr__(self) -> str:
        shown = [f"{name}={self._options[name]!r}" for name in _SHOWN if name in self._options]
        if "api_base" in self._options:
            shown.insert(0, f"api_base={re.sub('//[^/@]*@', '//', str(self._options['api_base']))!r}")
        return f"LiteLLM({', '.join([repr(self._model), *shown])})"

    async def price_known(self) -> bool:
        """Whether a call's cost will be known. Loads LiteLLM unless the user gave the price."""
        if self._price is not None or "input_cost_per_token" in self._options:
            return True
        return await asyncio.to_thread(_loaded.known_price, self._priced_as)

    async def sees_images(self) -> bool | None:
        """Whether the model takes images, where LiteLLM's map says so. Loads LiteLLM."""
        return await asyncio.to_thread(_loaded.known_vision, self._priced_as)

    async def complete(self, request: Request) -> Reply:
        """One completion, tried once. Raises :class:`LMError`, ``retryable`` where the same call may succeed later."""
        return await self._ask(request, None)

    async def stream(self, request: Request, on_text: Callable[[str], None]) -> Reply:
        """The same, told as it comes. What cannot be streamed, or comes without any text (a server that ignores what it
        was asked for, or answers with something else), is asked for whole: that says what there is to say.
        """
        return await told(functools.partial(self._ask, request), on_text)

    async def _ask(self, request: Request, on_text: Callable[[str], None] | None) -> Reply:
        litellm = _loaded.loaded() or await asyncio.to_thread(_loaded.litellm)
        loop = await _clients.of_this_loop()
        facts = _loaded.facts_of(self._priced_as, len(litellm.model_cost))
        started = time.perf_counter()
        try:
            arguments = self._arguments(request, facts)
            if on_text is None:
                response = await litellm.acompletion(**arguments)
            else:
                response = await streamed(litellm, arguments, on_text)
        except TimeoutError as error:
            raise LMError(f"{self._model}: no whole reply within {self._timeout:g} s", retryable=True) from error
        except Exception as error:
            raise failure(error, self._model, str(self._options.get("api_key") or "")) from error
        finally:
            loop.note()
        return self._reply(request, response, facts, time.perf_counter() - started)

    @property
    def _priced_as(self) -> str:
        return str(self._options.get("base_model") or self._model)

    def _arguments(self, request: Request, facts: _loaded.Facts) -> dict[str, Any]:
        arguments: dict[str, Any] = {"drop_params": True, **self._options}
        if self._timeout is not None:
            arguments["timeout"] = self._timeout
        if request.max_tokens is not None:
            arguments["max_tokens"] = request.max_tokens
        if request.temperature is not None:
            arguments["temperature"] = request.temperature
        if request.schema is not None and facts.schema:
            named = {"name": "reply", "schema": dict(request.schema), "strict": False}
            arguments["response_format"] = {"type": "json_schema", "json_schema": named}
        arguments.update(request.options)
        messages = messages_of(request, marked=facts.marks)
        return {**arguments, "model": self._model, "messages": messages, "num_retries": 0, "max_retries": 0}

    def _reply(self, request: Request, response: Any, facts: _loaded.Facts, seconds: float) -> Reply:
        choices: list[Any] = getattr(response, "choices", None) or []
        text = _text(choices[0]) if choices else ""
        finish = str(getattr(choices[0], "finish_reason", None) or "") if choices else ""
        counted = getattr(response, "usage", None)
        tokens_in = int(getattr(counted, "prompt_tokens", None) or 0)
        tokens_out = int(getattr(counted, "completion_tokens", None) or 0)
        estimated = not tokens_in  # no prompt has none: LiteLLM fills in zeros where the provider reports nothing
        if estimated:
            rough = estimated_usage(request, text, cost=None, seconds=seconds)
            tokens_in, tokens_out = rough.input_tokens, rough.output_tokens
        cost = self._cost(response, facts, tokens_in, tokens_out, estimated=estimated)
        return Reply(text, Usage(1, tokens_in, tokens_out, cost, seconds, estimated), self._model, finish)

    def _cost(
        self, response: Any, facts: _loaded.Facts, tokens_in: int, tokens_out: int, *, estimated: bool
    ) -> float | None:
        """Dollars; ``None`` where nobody knows. LiteLLM itself says 0.0 for names it only half recognizes."""
        price = self._price or facts.price
        if self._price is None and not estimated:
            # Already computed by LiteLLM for this call, with cached tokens, tiers and long contexts priced right.
            told = getattr(response, "_hidden_params", {}).get("response_cost")
            if told or (told is not None and (facts.known or "input_cost_per_token" in self._options)):
                return float(told)
        return None if price is None else tokens_in * price[0] + tokens_out * price[1]


def _text(choice: Any) -> str:
    message: Any = getattr(choice, "message", None)
    content: Any = getattr(message, "content", None)
    if not content:  # OpenAI's other place for what a model says
        told: dict[str, Any] = getattr(message, "provider_specific_fields", None) or {}
        content = told.get("refusal")
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(part if isinstance(part, str) else str(part.get("text") or "") for part in content)
