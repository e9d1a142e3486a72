"""Models of OpenAI's protocol, asked directly: vLLM, llama.cpp, Ollama, LM Studio, and hosted ones that speak it.

LiteLLM takes 3 to 4 ms of CPU a call, so one process makes 250 to 370 calls a second through it whatever is done above
it (measured with 1.106); this transport takes a tenth of that. LiteLLM stays the default: it knows a hundred providers'
dialects, this knows one protocol. Rejected: the openai SDK (1 to 4 ms a call) and httpx, which with a thousand requests
open spends 16 ms a call in its pool; aiohttp does not.
"""

from __future__ import annotations

import asyncio
import functools
import json
import re
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from dszig_py.errors import InputError, LMError
from dszig_py.lm import _price_list
from dszig_py.lm._completions import Completion, Refused, body_of, completion_of, error_text, streamed
from dszig_py.lm._endpoints import Endpoint, endpoint, split
from dszig_py.lm._failures import KEYS, retry_after
from dszig_py.lm._sessions import TooLarge, library, pieces, posted, whole
from dszig_py.lm._streaming import told
from dszig_py.lm.base import Reply, Request, estimated_usage
from dszig_py.lm.litellm import _SHOWN
from dszig_py.usage import Usage

if TYPE_CHECKING:
    import aiohttp

__all__ = ["DirectLM"]

_LOGIN = re.compile("//[^/@ ]*@")  # the name and password of an address


class DirectLM:
    """A model that speaks OpenAI's chat completions, by LiteLLM's name for it: ``DirectLM("openai/gpt-5")``.

    Address and key are LiteLLM's: ``api_base`` and ``api_key``, else ``OPENAI_BASE_URL`` and ``OPENAI_API_KEY`` (for
    ``openai/``; the other providers' own variables for theirs), else the provider's address. ``price``: dollars per input
    token and per output token; it goes before LiteLLM's price list. ``timeout``: seconds for one call, ``None`` = not
    limited. ``extra_headers``, ``extra_body``: for the server; other ``options`` go into the request's body, a
    request's own parameters before them. Holds no connection and no lock: it can be copied, pickled and shared by
    threads and event loops. Raises :class:`InputError` for a provider of another protocol, or one without an address.
    """

    def __init__(
        self, model: str, *, price: tuple[float, float] | None = None, timeout: float | None = 600, **options: Any
    ) -> None:
        self._provider, self._name = split(model.removeprefix("direct:"))
        if price is None and "input_cost_per_token" in options:
            price = float(options["input_cost_per_token"]), float(options.get("output_cost_per_token", 0.0))
        self._price = price
        self._timeout = timeout
        self._options = options
        self._refused_schemas: set[int] = set()
        endpoint(self._provider, options)

    @property
    def model(self) -> str:
        """``direct:`` and LiteLLM's name of the model: resolved again, it is this transport again."""
        return f"direct:{self._provider}/{self._name}"

    @property
    def price(self) -> tuple[float, float] | None:
        """Dollars per input and output token: the user's, else the list's once it is loaded and where it has them."""
        return self._price or _price_list.plain_price(self._listed())

    @property
    def max_tokens(self) -> int | None:
        """Output tokens one call may take, where that is set."""
        given = self._options.get("max_tokens") or self._options.get("max_completion_tokens")
        return int(given) if given else None

    @property
    def window_tokens(self) -> int | None:
        """Tokens the model can read at once, where LiteLLM's list knows it."""
        _price_list.load()
        given = self._listed().get("max_input_tokens")
        return int(given) if isinstance(given, int | float) else None

    def __repr__(self) -> str:
        shown = [f"{name}={self._options[name]!r}" for name in _SHOWN if name in self._options]
        if "api_base" in self._options:
            shown.insert(0, f"api_base={_LOGIN.sub('//', str(self._options['api_base']))!r}")
        return f"DirectLM({', '.join([repr(f'{self._provider}/{self._name}'), *shown])})"

    async def price_known(self) -> bool:
        """Whether a call's cost will be known."""
        await self._load_prices()
        return self.price is not None

    async def sees_images(self) -> bool | None:
        """Whether the model takes images, where the list says so."""
        await self._load_prices()
        return self._listed().get("supports_vision")

    async def complete(self, request: Request) -> Reply:
        """One completion, tried once. Raises :class:`LMError`, ``retryable`` where the same call may succeed later."""
        return await self._ask(request, None)

    async def stream(self, request: Request, on_text: Callable[[str], None]) -> Reply:
        """The same, told as it comes. A server that does not stream is asked for the whole."""
        return await told(functools.partial(self._ask, request), on_text)

    async def _ask(self, request: Request, on_text: Callable[[str], None] | None) -> Reply:
        await self._load_prices()
        started = time.perf_counter()
        listed = self._listed()
        # A model the list does not know is asked with the schema: its server says if it cannot follow one.
        wanted = request.schema is not None and listed.get("supports_response_schema", not listed)
        shape = hash(json.dumps(request.schema, sort_keys=True, default=repr)) if wanted else 0
        if not wanted or shape in self._refused_schemas:
            made = await self._sent(request, on_text, schema=False)
        else:
            try:
                made = await self._sent(request, on_text, schema=True)
            except _BadRequest:
                # Servers differ in what they call a schema they cannot follow: whether that was it, the call without shows.
                made = await self._sent(request, on_text, schema=False)
                self._refused_schemas.add(shape)
        return self._reply(request, made, time.perf_counter() - started)

    async def _sent(self, request: Request, on_text: Callable[[str], None] | None, *, schema: bool) -> Completion:
        """One HTTP request. Raises :class:`LMError` only."""
        aiohttp = await library()
        where = self._endpoint()
        openai, stream = where.openai, on_text is not None
        try:
            body = body_of(self._name, request, self._options, openai=openai, schema=schema, stream=stream)
            async with await posted(where.url, body, self._headers(where), self._timeout) as answer:
                return await self._answered(answer, where, on_text)
        except TimeoutError as error:
            within = "" if self._timeout is None else f" within {self._timeout:g} s"
            raise LMError(f"{self.model}: no whole reply{within}", retryable=True) from error
        except Refused as error:
            raise self._failure(error.status, str(error), where) from error
        except (aiohttp.ClientSSLError, aiohttp.InvalidURL, TooLarge, TypeError) as error:
            raise self._failure(None, f"{type(error).__name__}: {error}", where) from error
        except (aiohttp.ClientError, ValueError, OSError) as error:
            raise self._failure(None, f"{type(error).__name__}: {error}", where, retryable=True) from error

    async def _answered(
        self, answer: aiohttp.ClientResponse, where: Endpoint, on_text: Callable[[str], None] | None
    ) -> Completion:
        if not 200 <= answer.status < 300:
            data = b"" if 300 <= answer.status < 400 else await whole(answer)
            moved = f"redirected to {answer.headers.get('Location', '?')}; keys are not sent after a redirect, give the address itself"
            raise self._failure(answer.status, error_text(data) if data else moved, where, answer.headers)
        if on_text is not None and answer.content_type == "text/event-stream":
            return await streamed(pieces(answer), on_text)
        return completion_of(await whole(answer))

    def _endpoint(self) -> Endpoint:
        try:
            where = endpoint(self._provider, self._options)
        except InputError as error:  # the environment has changed since
            raise LMError(str(error)) from error
        if where.needs_key:
            raise LMError(f"{self.model}: there is no key: give api_key=, or set {where.needs_key}")
        return where

    def _headers(self, where: Endpoint) -> dict[str, str]:
        headers = {"Content-Type": "application/json"}
        if where.key:
            headers["Authorization"] = f"Bearer {where.key}"
        if self._options.get("organization"):
            headers["OpenAI-Organization"] = str(self._options["organization"])
        for given in ("headers", "extra_headers"):
            headers.update(self._options.get(given) or {})
        return headers

    def _failure(
        self,
        status: int | None,
        detail: str,
        where: Endpoint,
        headers: Mapping[str, str] | None = None,
        *,
        retryable: bool = False,
    ) -> LMError:
        """A failure as ours: short, without keys. By status, where there is one: 4xx but for 408, 409 and 429 stays so."""
        if where.key:
            detail = detail.replace(where.key, "...")
        detail = KEYS.sub("...", _LOGIN.sub("//", detail))[:300]
        told = f"{self.model}: HTTP {status}: " if status else f"{self.model}: "
        if status is not None:
            retryable = (status in (408, 409, 429) or status >= 500) and "insufficient_quota" not in detail
        kind = _BadRequest if status in (400, 404, 415, 422, 501) else LMError
        lower = {name.lower(): value for name, value in (headers or {}).items()}
        return kind(f"{told}{detail}", retryable=retryable, retry_after=retry_after(lower))

    def _reply(self, request: Request, made: Completion, seconds: float) -> Reply:
        tokens_in, tokens_out, estimated = made.tokens_in, made.tokens_out, not made.tokens_in
        if estimated:
            rough = estimated_usage(request, made.text, cost=None, seconds=seconds)
            tokens_in, tokens_out = rough.input_tokens, rough.output_tokens
        if self._price is not None:
            cost: float | None = tokens_in * self._price[0] + tokens_out * self._price[1]
        else:
            cost = _price_list.cost(self._listed(), tokens_in, tokens_out, cached=made.cached, tier=made.tier)
        return Reply(made.text, Usage(1, tokens_in, tokens_out, cost, seconds, estimated), self.model, made.finish)

    def _listed(self) -> _price_list.Entry:
        provider, _, name = str(self._options.get("base_model") or f"{self._provider}/{self._name}").partition("/")
        return _price_list.entry(provider, name) if name else _price_list.entry("openai", provider)

    async def _load_prices(self) -> None:
        if self._price is None and not _price_list.loaded():
            await asyncio.to_thread(_price_list.load)


class _BadRequest(LMError):
    """The server does not take this request; it may take it without a schema."""
