"""Where a model answers: base URL and key by LiteLLM's names of providers and of their variables, without LiteLLM.

Only providers whose chat endpoint is plain OpenAI are here; those with a dialect of their own (Anthropic, Bedrock,
Gemini, Fireworks' model paths, ...) are LiteLLM's business. A test compares the table with LiteLLM's own resolution.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from dszig_py.errors import InputError

__all__ = ["Endpoint", "endpoint", "proxy", "split"]


@dataclass(frozen=True, slots=True)
class _Provider:
    """``base``: where it answers by default, ``None`` = only the user knows. ``paid``: it takes no call without a key."""

    base: str | None
    base_names: tuple[str, ...]
    key_names: tuple[str, ...]
    paid: bool = True


def _named(name: str, base: str | None, *, paid: bool = True) -> tuple[str, _Provider]:
    return name, _Provider(base, (f"{name.upper()}_API_BASE",), (f"{name.upper()}_API_KEY",), paid)


_OPENAI = "https://api.openai.com/v1"
_OLLAMA = _Provider("http://localhost:11434", ("OLLAMA_API_BASE",), ("OLLAMA_API_KEY",), paid=False)
_PROVIDERS: Mapping[str, _Provider] = {
    "openai": _Provider(_OPENAI, ("OPENAI_BASE_URL", "OPENAI_API_BASE"), ("OPENAI_API_KEY",)),
    **dict([
        _named("hosted_vllm", None, paid=False),
        _named("lm_studio", None, paid=False),
        _named("litellm_proxy", None, paid=False),
        _named("llamafile", "http://127.0.0.1:8080/v1", paid=False),
        _named("cerebras", "https://api.cerebras.ai/v1"),
        _named("deepinfra", "https://api.deepinfra.com/v1/openai"),
        _named("deepseek", "https://api.deepseek.com/beta"),
        _named("groq", "https://api.groq.com/openai/v1"),
        _named("moonshot", "https://api.moonshot.ai/v1"),
        _named("nvidia_nim", "https://integrate.api.nvidia.com/v1"),
        _named("openrouter", "https://openrouter.ai/api/v1"),
        _named("sambanova", "https://api.sambanova.ai/v1"),
        _named("xai", "https://api.x.ai/v1"),
    ]),
    "together_ai": _Provider(
        "https://api.together.ai/v1",
        ("TOGETHER_AI_API_BASE",),
        ("TOGETHER_API_KEY", "TOGETHER_AI_API_KEY", "TOGETHERAI_API_KEY", "TOGETHER_AI_TOKEN"),
    ),
    "ollama": _OLLAMA,
    "ollama_chat": _OLLAMA,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Endpoint:
    """``url`` of the chat completions. ``openai``: it is OpenAI's own, which has other names for some parameters."""

    url: str
    key: str | None = field(repr=False)
    openai: bool = False
    needs_key: str = ""  # the variable a key is looked for in, where there is none and calls are sure to be refused


def split(model: str) -> tuple[str, str]:
    """Provider and name of ``openai/gpt-5``. Raises :class:`InputError` for a provider that is not in the table."""
    provider, slash, name = model.partition("/")
    if not slash or not name or provider not in _PROVIDERS:
        known = ", ".join(_PROVIDERS)
        raise InputError(
            f"direct:{model}: the direct transport speaks OpenAI's protocol; write direct:PROVIDER/MODEL with one of {known}"
            " (any other server of that protocol: direct:openai/MODEL with api_base=), or leave out direct: to use LiteLLM"
        )
    return provider, name


def endpoint(provider: str, options: Mapping[str, Any]) -> Endpoint:
    """Where ``provider`` answers: ``api_base`` and ``api_key`` of the options, else of the environment, else its default.

    Raises :class:`InputError` where there is no address, or one that is none.
    """
    known = _PROVIDERS[provider]
    base = str(options.get("api_base") or options.get("base_url") or _variable(known.base_names) or known.base or "")
    key = options.get("api_key") or _variable(known.key_names)
    if not base:
        raise InputError(f"direct:{provider}/...: give the server's address as api_base=, or set {known.base_names[0]}")
    parts = urlsplit(base)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError(f"direct:{provider}/...: api_base is no http(s) address")
    needs = known.key_names[0] if not key and known.paid and base == known.base else ""
    return Endpoint(_completions(base, provider), None if key is None else str(key), base == _OPENAI, needs)


def _completions(base: str, provider: str) -> str:
    base = base.rstrip("/").removesuffix("/chat/completions")
    if provider.startswith("ollama") and not base.endswith("/v1"):
        base = f"{base}/v1"  # LiteLLM's address of Ollama is that of its native API, beside which the OpenAI one is
    return f"{base}/chat/completions"


def _variable(names: tuple[str, ...]) -> str | None:
    return next((value for name in names if (value := os.environ.get(name))), None)


@lru_cache(maxsize=256)
def proxy(url: str) -> str | None:
    """The proxy the environment names for ``url``, looked up once: aiohttp's own way does it for every request."""
    from urllib.request import getproxies, proxy_bypass

    parts = urlsplit(url)
    if not parts.hostname or parts.hostname in ("localhost", "127.0.0.1", "::1") or proxy_bypass(parts.netloc):
        return None
    found = getproxies()
    return found.get(parts.scheme) or found.get("all")
