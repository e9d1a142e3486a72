"""Secrets taken out of what is written down: by their exact values, never by the look of a name or a text.

The values are those a caller names, however short, and those of providers' keys in the environment. Of the latter, values
under eight characters are passed over: nobody asked for them, and they are likely to be a part of ordinary text.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import Any, cast

from pydantic_core import to_json

from dszig_py.environments._worker import codec

__all__ = ["PROVIDER_KEYS", "Redactor"]

PROVIDER_KEYS = (
    *("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY", "GOOGLE_API_KEY", "AZURE_API_KEY", "AZURE_AI_API_KEY"),
    *("MISTRAL_API_KEY", "OPENROUTER_API_KEY", "GROQ_API_KEY", "TOGETHERAI_API_KEY", "TOGETHER_API_KEY"),
    *("FIREWORKS_API_KEY", "FIREWORKS_AI_API_KEY", "DEEPSEEK_API_KEY", "COHERE_API_KEY", "XAI_API_KEY"),
    *("PERPLEXITYAI_API_KEY", "CEREBRAS_API_KEY", "DATABRICKS_API_KEY", "DATABRICKS_TOKEN", "HUGGINGFACE_API_KEY"),
    *("HF_TOKEN", "NVIDIA_NIM_API_KEY", "REPLICATE_API_KEY", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
    *("AWS_SESSION_TOKEN", "AWS_BEARER_TOKEN_BEDROCK", "WATSONX_APIKEY", "LITELLM_API_KEY"),
    *("ZAI_API_KEY", "ZAI_CODING_API_KEY"),
)
REDACTED = "[redacted]"
MIN_CHARS = 8
# What ties the lines of a file together or is read back as one of a few words stays as it is.
_KEPT = frozenset({"schema", "event", "run", "parent", "id", "batch", "sub_calls", "child", "kind", "cause"})
_USERS = frozenset({"submission", "outputs", "by_model"})  # mappings whose keys are not ours


class Redactor:
    """Turns plain data into JSON lines without the secrets. ``secrets``: values besides the environment's keys."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        keys = (os.environ.get(name, "") for name in PROVIDER_KEYS)
        named = (secrets,) if isinstance(secrets, str) else secrets  # not its letters, each by itself
        found = {*filter(None, named), *(key for key in keys if len(key) >= MIN_CHARS)}
        longest = sorted(found, key=lambda s: (-len(s), s))
        # In one pass, so that no secret is looked for in the word that stands for another.
        self._secret = re.compile("|".join(map(re.escape, longest))) if longest else None
        self._written = {_json(secret)[1:-1] for secret in longest}
        self._written |= {codec.dumps(secret)[1:-1] for secret in longest}

    def line(self, row: dict[str, Any]) -> bytes:
        """``row`` as one JSON line."""
        data = _json(row)
        # JSON writes each character the same way wherever it stands, so this finds whatever is there. It may also find
        # what spans an escape and is no part of any string; so the replacing is done in the strings, not in the bytes.
        for written in self._written:
            if written in data:
                return _json(self._fields(row)) + b"\n"
        return data + b"\n"

    def text(self, text: str) -> str:
        """``text`` with every secret replaced."""
        return text if self._secret is None else self._secret.sub(REDACTED, text)

    def _fields(self, row: dict[str, Any]) -> dict[str, Any]:
        redacted: dict[str, Any] = {}
        for key, value in row.items():
            if key in _KEPT:
                redacted[key] = value
            elif key in _USERS and isinstance(value, dict):
                redacted[key] = self._data(value)
            else:
                redacted[key] = self._ours(value)
        return redacted

    def _ours(self, value: Any) -> Any:
        if isinstance(value, dict):
            return self._data(value) if codec.TAG in value else self._fields(cast("dict[str, Any]", value))
        if isinstance(value, list):
            return [self._ours(item) for item in cast("list[Any]", value)]
        return self.text(value) if isinstance(value, str) else value

    def _data(self, value: Any) -> Any:
        """Values as the codec encodes them; one whose own text holds a secret (a UUID, say) becomes the text."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return [self._data(item) for item in cast("list[Any]", value)]
        if not isinstance(value, dict):
            return value
        data = cast("dict[str, Any]", value)
        if codec.TAG not in data:
            return {self.text(key): self._data(item) for key, item in data.items()}
        kind, *body = data[codec.TAG]
        redacted = [self._data(item) for item in body]
        if redacted == body:
            return data
        holds = kind in _HOLDING
        return {codec.TAG: [kind, *redacted]} if holds else REDACTED


def _json(value: Any) -> bytes:
    try:
        return to_json(value)  # several times as fast
    except ValueError:  # lone surrogates, which UTF-8 cannot hold
        return codec.dumps(value)


_HOLDING = frozenset({"str", "record", "enum", "dict", "set", "frozenset", "tuple", "error", "opaque"})
