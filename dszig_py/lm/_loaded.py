"""LiteLLM itself, imported when it is first needed, and what its map says of a model."""

from __future__ import annotations

import importlib
import logging
import os
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

__all__ = ["Facts", "facts_of", "known_price", "known_vision", "litellm", "loaded", "preload"]

# Asking LiteLLM about these models is a network request. Local ones cost nothing, which is known without asking.
_LOCAL = ("ollama/", "ollama_chat/")
_MARKED = ("anthropic", "bedrock", "bedrock_converse", "vertex_ai", "openrouter", "databricks", "azure_ai")
_NETWORKED = ("huggingface/", "lemonade/")

_lock = threading.Lock()
_module: Any = None


@dataclass(frozen=True, slots=True)
class Facts:
    """What LiteLLM's map says of a model: is its price known, the plain price per token, does it follow a schema, how many
    tokens it reads at once, whether its provider caches only what is marked, and whether it sees images. ``vision`` is
    ``None`` where the map leaves it out, as it does for many that see.
    """

    known: bool
    price: tuple[float, float] | None
    schema: bool
    window: int | None = None
    marks: bool = False
    vision: bool | None = None


def known_price(model: str) -> bool:
    """Whether LiteLLM knows what ``model`` costs. Blocks for seconds where LiteLLM is not loaded yet."""
    return facts_of(model, len(litellm().model_cost)).known


def known_vision(model: str) -> bool | None:
    """Whether LiteLLM knows that ``model`` sees images, or that it does not. Blocks as :func:`known_price` does."""
    return facts_of(model, len(litellm().model_cost)).vision


@lru_cache(maxsize=1024)
def facts_of(model: str, entries: int) -> Facts:
    """Cached, for LiteLLM runs hundreds of regular expressions over every name it does not know."""
    del entries  # the size of its map is part of the key, so that models registered later are seen
    module = litellm()
    schema = False
    entry: Mapping[str, Any] = module.model_cost.get(model) or {}
    if not model.startswith((*_LOCAL, *_NETWORKED)):
        with suppress(Exception):
            schema = bool(module.supports_response_schema(model))
        if not entry:
            with suppress(Exception):  # it raises a bare Exception for models it does not know
                entry = module.model_cost.get(module.get_model_info(model)["key"]) or {}
    elif not entry and model.startswith(_LOCAL):
        entry = {"input_cost_per_token": 0.0, "output_cost_per_token": 0.0}
    # get_model_info fills gaps with 0, so only what the map itself holds is believed.
    marks = _caches_what_is_marked(module, model)
    prices = entry.get("input_cost_per_token"), entry.get("output_cost_per_token")
    window = entry.get("max_input_tokens")
    window = int(window) if isinstance(window, (int, float)) else None
    vision = entry.get("supports_vision")
    if prices[0] is None or prices[1] is None:
        return Facts(bool(entry.get("tiered_pricing")), None, schema, window, marks, vision)
    return Facts(True, (float(prices[0]), float(prices[1])), schema, window, marks, vision)


def _caches_what_is_marked(module: Any, model: str) -> bool:
    """Anthropic's models, wherever they are served so that the marks arrive. Others cache by themselves, or refuse a mark;
    Gemini's, which LiteLLM would turn marks into a stored cache for, do both.
    """
    if "claude" not in model.lower():
        return False
    with suppress(Exception):  # it raises for names it cannot place
        return module.get_llm_provider(model)[1] in _MARKED
    return False


def preload() -> None:
    """Import LiteLLM now (2 to 5 seconds) instead of at the first call; callable from any thread."""
    litellm()


def litellm() -> Any:
    """The module. Blocks for seconds where it is not loaded yet."""
    global _module
    if _module is None:
        with _lock:
            if _module is None:
                _module = _import()
    return _module


def _import() -> Any:
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else the import waits for a download
    module: Any = importlib.import_module("litellm")
    module.suppress_debug_info = True  # or every error prints a plea for feedback
    for name in ("LiteLLM", "LiteLLM Router"):
        logger = logging.getLogger(name)
        if logger.level == logging.NOTSET and "LITELLM_LOG" not in os.environ:
            logger.setLevel(logging.CRITICAL)
    return module


def loaded() -> Any:
    """The module where it is there already, else ``None``."""
    return _module


def _reset_after_fork() -> None:
    global _lock
    _lock = threading.Lock()  # a thread that is no more may have held it


os.register_at_fork(after_in_child=_reset_after_fork)
