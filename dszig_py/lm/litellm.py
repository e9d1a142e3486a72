"""Models through LiteLLM: one call, one reply, the provider's failure as an :class:`~dszig_py.errors.LMError`.

LiteLLM costs seconds and a hundred megabytes to import, so it is imported at the first call, in a thread. It is never
asked to retry: the layer above does, and two layers multiply.
"""

from __future__ import annotations

import asyncio
import email.utils
import importlib
import inspect
import logging
import math
import os
import re
import threading
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from dszig_py.errors import LMError
from dszig_py.lm._streaming import streamed
from dszig_py.lm.base import Reply, Request, estimated_usage
from dszig_py.usage import Usage

__all__ = ["LiteLLM", "close_clients", "known_price", "preload"]

# Nothing else of the options may show in a repr: headers and extra bodies carry secrets as often as api_key does.
_SHOWN = ("temperature", "max_tokens", "top_p", "reasoning_effort")
# Asking LiteLLM about these models is a network request. Local ones cost nothing, which is known without asking.
_LOCAL = ("ollama/", "ollama_chat/")
_NETWORKED = ("huggingface/", "lemonade/")


@dataclass(slots=True)
class _Loop:
    """One event loop's clients by ``id``, and the generator whose end closes them."""

    closer: AsyncGenerator[None, None]
    clients: dict[int, Any] = field(default_factory=dict[int, Any])


_lock = threading.Lock()
_module: Any = None
_loops: dict[asyncio.AbstractEventLoop, _Loop] = {}


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
        if self._price is not None or _module is None:
            return self._price
        return _facts(self._priced_as, len(_module.model_cost)).price

    @property
    def max_tokens(self) -> int | None:
        """Output tokens one call may take, where that is set."""
        given = self._options.get("max_tokens") or self._options.get("max_completion_tokens")
        return int(given) if given else None

    @property
    def window_tokens(self) -> int | None:
        """Tokens the model can read at once, where LiteLLM knows it. Blocks for seconds where that is not loaded yet."""
        return _facts(self._priced_as, len(_load().model_cost)).window

    def __repr__(self) -> str:
        shown = [f"{name}={self._options[name]!r}" for name in _SHOWN if name in self._options]
        if "api_base" in self._options:
            shown.insert(0, f"api_base={re.sub('//[^/@]*@', '//', str(self._options['api_base']))!r}")
        return f"LiteLLM({', '.join([repr(self._model), *shown])})"

    async def price_known(self) -> bool:
        """Whether a call's cost will be known. Loads LiteLLM unless the user gave the price."""
        if self._price is not None or "input_cost_per_token" in self._options:
            return True
        return await asyncio.to_thread(known_price, self._priced_as)

    async def complete(self, request: Request) -> Reply:
        """One completion, tried once. Raises :class:`LMError`, ``retryable`` where the same call may succeed later."""
        return await self._ask(request, None)

    async def stream(self, request: Request, on_text: Callable[[str], None]) -> Reply:
        """The same, told as it comes. What cannot be streamed, or comes without any text (a server that ignores what it
        was asked for, or answers with something else), is asked for whole: that says what there is to say.
        """
        heard: list[str] = []

        def tell(text: str) -> None:
            heard.append(text)
            on_text(text)

        try:
            reply = await self._ask(request, tell)
            if heard:
                return reply
        except LMError as error:
            if heard or error.retryable:
                raise
        reply = await self.complete(request)
        on_text(reply.text)
        return reply

    async def _ask(self, request: Request, on_text: Callable[[str], None] | None) -> Reply:
        litellm = _module or await asyncio.to_thread(_load)
        loop = await _close_with_loop()
        facts = _facts(self._priced_as, len(litellm.model_cost))
        started = time.perf_counter()
        try:
            arguments = self._arguments(request, schema=facts.schema)
            if on_text is None:
                response = await litellm.acompletion(**arguments)
            else:
                response = await streamed(litellm, arguments, on_text)
        except TimeoutError as error:
            raise LMError(f"{self._model}: no whole reply within {self._timeout:g} s", retryable=True) from error
        except Exception as error:
            raise _failure(error, self._model, str(self._options.get("api_key") or "")) from error
        finally:
            loop.clients.update(_cached_clients())
        return self._reply(request, response, facts, time.perf_counter() - started)

    @property
    def _priced_as(self) -> str:
        return str(self._options.get("base_model") or self._model)

    def _arguments(self, request: Request, *, schema: bool) -> dict[str, Any]:
        arguments: dict[str, Any] = {"drop_params": True, **self._options}
        if self._timeout is not None:
            arguments["timeout"] = self._timeout
        if request.max_tokens is not None:
            arguments["max_tokens"] = request.max_tokens
        if request.temperature is not None:
            arguments["temperature"] = request.temperature
        if request.schema is not None and schema:
            named = {"name": "reply", "schema": dict(request.schema), "strict": False}
            arguments["response_format"] = {"type": "json_schema", "json_schema": named}
        arguments.update(request.options)
        messages: list[dict[str, Any]] = [{"role": m.role, "content": _sendable(m.content)} for m in request.sent]
        if request.images:
            pictures = [{"type": "image_url", "image_url": {"url": url}} for url in request.images]
            messages[-1]["content"] = [{"type": "text", "text": messages[-1]["content"]}, *pictures]
        return {**arguments, "model": self._model, "messages": messages, "num_retries": 0, "max_retries": 0}

    def _reply(self, request: Request, response: Any, facts: _Facts, seconds: float) -> Reply:
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

    def _cost(self, response: Any, facts: _Facts, tokens_in: int, tokens_out: int, *, estimated: bool) -> float | None:
        """Dollars; ``None`` where nobody knows. LiteLLM itself says 0.0 for names it only half recognizes."""
        price = self._price or facts.price
        if self._price is None and not estimated:
            # Already computed by LiteLLM for this call, with cached tokens, tiers and long contexts priced right.
            told = getattr(response, "_hidden_params", {}).get("response_cost")
            if told or (told is not None and (facts.known or "input_cost_per_token" in self._options)):
                return float(told)
        return None if price is None else tokens_in * price[0] + tokens_out * price[1]


@dataclass(frozen=True, slots=True)
class _Facts:
    """What LiteLLM's map says of a model: is its price known, the plain price per token, does it follow a schema, and
    how many tokens it reads at once.
    """

    known: bool
    price: tuple[float, float] | None
    schema: bool
    window: int | None = None


def known_price(model: str) -> bool:
    """Whether LiteLLM knows what ``model`` costs. Blocks for seconds where LiteLLM is not loaded yet."""
    return _facts(model, len(_load().model_cost)).known


@lru_cache(maxsize=1024)
def _facts(model: str, entries: int) -> _Facts:
    """Cached, for LiteLLM runs hundreds of regular expressions over every name it does not know."""
    del entries  # the size of its map is part of the key, so that models registered later are seen
    litellm = _load()
    schema = False
    entry: Mapping[str, Any] = litellm.model_cost.get(model) or {}
    if not model.startswith((*_LOCAL, *_NETWORKED)):
        with suppress(Exception):
            schema = bool(litellm.supports_response_schema(model))
        if not entry:
            with suppress(Exception):  # it raises a bare Exception for models it does not know
                entry = litellm.model_cost.get(litellm.get_model_info(model)["key"]) or {}
    elif not entry and model.startswith(_LOCAL):
        entry = {"input_cost_per_token": 0.0, "output_cost_per_token": 0.0}
    # get_model_info fills gaps with 0, so only what the map itself holds is believed.
    prices = entry.get("input_cost_per_token"), entry.get("output_cost_per_token")
    window = entry.get("max_input_tokens")
    window = int(window) if isinstance(window, (int, float)) else None
    if prices[0] is None or prices[1] is None:
        return _Facts(bool(entry.get("tiered_pricing")), None, schema, window)
    return _Facts(True, (float(prices[0]), float(prices[1])), schema, window)


def preload() -> None:
    """Import LiteLLM now (2 to 5 seconds) instead of at the first call; callable from any thread."""
    _load()


def _load() -> Any:
    global _module
    if _module is None:
        with _lock:
            if _module is None:
                _module = _import()
    return _module


def _import() -> Any:
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else the import waits for a download
    litellm: Any = importlib.import_module("litellm")
    litellm.suppress_debug_info = True  # or every error prints a plea for feedback
    for name in ("LiteLLM", "LiteLLM Router"):
        logger = logging.getLogger(name)
        if logger.level == logging.NOTSET and "LITELLM_LOG" not in os.environ:
            logger.setLevel(logging.CRITICAL)
    return litellm


async def close_clients() -> None:
    """Close the HTTP clients LiteLLM opened on the running event loop; those of other loops stay open.

    Happens by itself when a loop ends as ``asyncio.run`` ends it. ``litellm.close_litellm_async_clients`` would close
    every loop's clients, also under another loop's requests.
    """
    if _module is None:
        return
    known = _loops.get(asyncio.get_running_loop())
    clients = {**(known.clients if known else {}), **_cached_clients(forget=True)}
    for client in clients.values():
        if getattr(client, "_client", None) is _module.aclient_session is not None:
            continue  # built around a session the user owns
        close = getattr(client, "aclose", None) or getattr(client, "close", None)
        with suppress(Exception):
            closing: Any = close() if close is not None else None
            if inspect.isawaitable(closing):
                await closing
    if known:
        known.clients.clear()
    await asyncio.sleep(0)  # the sockets themselves close one round of the loop later


def _cached_clients(*, forget: bool = False) -> dict[int, Any]:
    """The clients of the running loop that LiteLLM holds, by ``id``; its cache drops (and leaks) each after an hour."""
    cached: dict[str, Any] = getattr(_module.in_memory_llm_clients_cache, "cache_dict", {})
    mine = f"-{id(asyncio.get_running_loop())}"
    keys = [key for key in list(cached) if key.endswith(mine)]
    clients = [cached.pop(key, None) if forget else cached.get(key) for key in keys]
    return {id(client): client for client in clients if client is not None}


async def _close_with_loop() -> _Loop:
    """Have the running loop close its clients at its end, or each open session is reported on stderr.

    An event loop has no shutdown hook, but it does finish the async generators begun on it.
    """
    loop = asyncio.get_running_loop()
    if loop not in _loops:
        for old in [old for old in list(_loops) if old.is_closed()]:
            _loops.pop(old, None)
        _loops[loop] = _Loop(_until_loop_ends())
        await anext(_loops[loop].closer)
    return _loops[loop]


async def _until_loop_ends() -> AsyncGenerator[None, None]:
    try:
        yield
    finally:
        await close_clients()
        _loops.pop(asyncio.get_running_loop(), None)


_KEYS = re.compile(r"(sk-|AIza|Bearer +|[?&]key=)[\w.*~+/-]+")
_PREFIX = re.compile(r"^(?:litellm\.)?(?:\w+Error|Timeout): ?(?:\w+(?: Error)?: )?(?:\w+Exception - )?")
_LOCAL_FAULT = re.compile(r"missing (?:[\w ]*api key|credentials)|no module named", re.IGNORECASE)


def _failure(error: Exception, model: str, key: str) -> LMError:
    """``error`` as ours: short, without keys, and saying whether the same call may succeed later."""
    chain = _chain(error)
    headers = _headers(chain)
    status = getattr(error, "status_code", None)
    status = int(status) if isinstance(status, int | str) and str(status).isdigit() else None
    detail = _PREFIX.sub("", " ".join(str(error).split("Traceback (most recent")[0].split()))
    if key:
        detail = detail.replace(key, "...")
    # Without headers there was no HTTP answer and the status is LiteLLM's invention.
    told = f"{type(error).__name__} (HTTP {status})" if status and headers is not None else type(error).__name__
    return LMError(
        f"{model}: {told}: {_KEYS.sub('...', detail)[:300]}",
        retryable=_retryable(chain, status, answered=headers is not None),
        retry_after=_retry_after(headers or {}),
    )


def _retryable(chain: list[BaseException], status: int | None, *, answered: bool) -> bool:
    """Decided by status: the classes say less, LiteLLM has one ``APIError`` for 403, 409 and 529."""
    if status is None or any("insufficient_quota" in f"{getattr(e, 'code', '')} {e}" for e in chain):
        return False
    if not answered and any(isinstance(e, ImportError) or _LOCAL_FAULT.search(str(e)) for e in chain):
        return False  # a missing key or package, which LiteLLM reports as a server's error 500
    return status in (408, 409, 429) or status >= 500 or status < 300  # 2xx: the body was broken


def _chain(error: BaseException | None) -> list[BaseException]:
    chain: list[BaseException] = []
    while error is not None and len(chain) < 10:
        chain.append(error)
        error = error.__cause__ or error.__context__
    return chain


def _headers(chain: list[BaseException]) -> dict[str, str] | None:
    """The headers of the provider's answer, names in lower case; ``None`` where it gave none."""
    for error in chain:
        headers: Any = getattr(error, "litellm_response_headers", None)
        headers = headers or getattr(getattr(error, "response", None), "headers", None)
        if headers:
            return {str(name).lower(): str(value) for name, value in headers.items()}
    return None


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds, from ``retry-after-ms`` or ``retry-after`` (seconds or a date)."""
    seconds = math.nan
    given = headers.get("retry-after", "")
    with suppress(ValueError, TypeError):
        seconds = email.utils.parsedate_to_datetime(given).timestamp() - time.time()
    with suppress(ValueError):
        seconds = float(given)
    with suppress(ValueError, KeyError):
        seconds = float(headers["retry-after-ms"]) / 1000
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _sendable(text: str) -> str:
    """Lone surrogates are legal in a ``str`` and in no request body."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode(errors="replace").decode()
    return text


def _text(choice: Any) -> str:
    content: Any = getattr(getattr(choice, "message", None), "content", None)
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(part if isinstance(part, str) else str(part.get("text") or "") for part in content)


def _reset_after_fork() -> None:
    global _lock
    _lock = threading.Lock()  # a thread that is no more may have held it
    _loops.clear()


os.register_at_fork(after_in_child=_reset_after_fork)
