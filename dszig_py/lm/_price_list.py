"""LiteLLM's price list, read as the JSON file it ships: its import costs seconds, the file costs thirty milliseconds."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
import threading
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

__all__ = ["Entry", "cost", "entry", "load", "loaded", "plain_price"]

Entry = Mapping[str, Any]

_FILE = "model_prices_and_context_window_backup.json"
_ABOVE = re.compile(r"input_cost_per_token_above_(\d+)k_tokens")
_LOCAL = ("ollama", "ollama_chat", "llamafile", "lm_studio")
_FREE: Entry = {"input_cost_per_token": 0.0, "output_cost_per_token": 0.0, "supports_response_schema": True}
_KEPT = (
    "input_cost",
    "output_cost",
    "cache_read_input",
    "supports_response_schema",
    "supports_vision",
    "max_input_tokens",
    "litellm_provider",
)
_lock = threading.Lock()
_list: dict[str, Entry] | None = None


def loaded() -> bool:
    """Whether :func:`load` has been called."""
    return _list is not None


def load() -> None:
    """Read the file, once. Blocks for some tens of milliseconds; callable from any thread."""
    global _list
    with _lock:
        if _list is None:
            _list = _read()
            _entry.cache_clear()


def _read() -> dict[str, Entry]:
    """Chat models of the file with what is asked of them here; nothing where LiteLLM has moved it."""
    found = importlib.util.find_spec("litellm")  # finds without importing
    folders = [] if found is None else list(found.submodule_search_locations or ())
    try:
        whole = json.loads(Path(folders[0], _FILE).read_bytes())
    except (OSError, ValueError, IndexError):
        return {}
    listed = cast("dict[str, dict[str, Any]]", whole)
    return {
        name: {key: value for key, value in one.items() if key.startswith(_KEPT)}
        for name, one in listed.items()
        if one.get("mode") in ("chat", "completion", "responses")
    }


def entry(provider: str, name: str) -> Entry:
    """What the list says of a model; empty where nothing, or where :func:`load` was not called yet."""
    # A program that has LiteLLM loaded may have registered models of its own there.
    live: dict[str, Entry] | None = getattr(sys.modules.get("litellm"), "model_cost", None)
    return _entry(provider, name, -1 if live is None else len(live))


@lru_cache(maxsize=1024)
def _entry(provider: str, name: str, live: int) -> Entry:
    if provider in _LOCAL:
        return _FREE
    listed: dict[str, Entry] = (_list if live < 0 else sys.modules["litellm"].model_cost) or {}
    bare = listed.get(name) or {}  # other providers' models stand there under bare names as well
    return listed.get(f"{provider}/{name}") or (bare if bare.get("litellm_provider") == provider else {})


def plain_price(listed: Entry) -> tuple[float, float] | None:
    """Dollars per input and output token, for prompts of common length."""
    read, written = listed.get("input_cost_per_token"), listed.get("output_cost_per_token")
    return None if read is None or written is None else (float(read), float(written))


def cost(listed: Entry, tokens_in: int, tokens_out: int, *, cached: int = 0, tier: str = "") -> float | None:
    """Dollars of one call; ``None`` where the list has no price.

    ``cached``: input tokens that the provider took from its cache. A prompt above a model's threshold costs the higher
    price as a whole, as providers with such prices charge it. ``tier``: the service tier that answered.
    """
    if plain_price(listed) is None:
        return None
    above = [int(found[1]) for key in listed if (found := _ABOVE.fullmatch(key)) and tokens_in > int(found[1]) * 1000]
    longer = f"_above_{max(above)}k_tokens" if above else ""
    faster = f"_{tier}" if tier in ("flex", "priority") else ""

    def price(name: str) -> float | None:
        for ending in (longer + faster, longer, faster, ""):
            if (given := listed.get(name + ending)) is not None:
                return float(given)
        return None

    read, written = price("input_cost_per_token"), price("output_cost_per_token")
    again = price("cache_read_input_token_cost")
    fresh = tokens_in - cached if again is not None else tokens_in
    return fresh * (read or 0.0) + (tokens_in - fresh) * (again or 0.0) + tokens_out * (written or 0.0)
