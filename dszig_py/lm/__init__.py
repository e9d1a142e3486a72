"""Models. :func:`resolve` turns what a caller names (a string, an LM, a callable) into an :class:`~dszig_py.lm.base.LM`."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dszig_py.errors import InputError

if TYPE_CHECKING:
    from dszig_py.lm.base import LM, Message, Reply, Request
    from dszig_py.lm.cached import Cached
    from dszig_py.lm.command import CommandLM
    from dszig_py.lm.direct import DirectLM
    from dszig_py.lm.function import FunctionLM
    from dszig_py.lm.litellm import LiteLLM
    from dszig_py.lm.offline import OfflineLM
    from dszig_py.lm.programs import claude, codex
    from dszig_py.lm.recorded import Recorded, Replayed
    from dszig_py.lm.scripted import ScriptedLM

__all__ = [
    "LM",
    "Cached",
    "CommandLM",
    "DirectLM",
    "FunctionLM",
    "LiteLLM",
    "Message",
    "OfflineLM",
    "Recorded",
    "Replayed",
    "Reply",
    "Request",
    "ScriptedLM",
    "claude",
    "codex",
    "resolve",
]

_HOMES = {
    **dict.fromkeys(("LM", "Message", "Reply", "Request"), "base"),
    "Cached": "cached",
    "CommandLM": "command",
    "DirectLM": "direct",
    "FunctionLM": "function",
    "LiteLLM": "litellm",
    "OfflineLM": "offline",
    "Recorded": "recorded",
    "Replayed": "recorded",
    "ScriptedLM": "scripted",
    **dict.fromkeys(("claude", "codex"), "programs"),
}

NO_MODEL = """\
no model is configured. Give one:
  RLM(..., lm="openai/gpt-5")            any LiteLLM model string; keys are read from the environment as LiteLLM does
  RLM(..., lm="ollama_chat/qwen3")       a local server
  RLM(..., lm="direct:openai/my-model")  a server of OpenAI's protocol without LiteLLM between: ten times the calls a second
  RLM(..., main_cmd="my-program")        any program: prompt on stdin, completion on stdout
  RLM(..., lm=my_function)               any callable from str to str
  RLM(..., lm="offline")                 no model at all: a deterministic stand-in
or set DSZIG_MODEL in the environment"""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(name)
    return getattr(importlib.import_module(f"dszig_py.lm.{_HOMES[name]}"), name)


def resolve(
    spec: Any, prices: Mapping[str, tuple[float, float]] | None = None, options: Mapping[str, Any] | None = None
) -> LM:
    """The model behind ``spec``: a LiteLLM model string, ``"offline"``, an LM object, or a callable from str to str.

    ``"direct:openai/MODEL"`` asks a server of OpenAI's protocol without LiteLLM between
    (:class:`~dszig_py.lm.direct.DirectLM`).
    ``prices``: dollars per million input and output tokens by model string. ``options``: parameters of each call
    (temperature, max_tokens, api_base, ...) for a model string. Raises :class:`InputError`.
    """
    if options and (not isinstance(spec, str) or spec == "offline"):
        raise InputError(f"options ({', '.join(options)}) go with a model string; give them to {spec!r} itself")
    if isinstance(spec, str):
        if not spec.strip():
            raise InputError("the model string is empty")
        if spec == "offline":
            from dszig_py.lm.offline import OfflineLM

            return OfflineLM()
        direct = spec.startswith("direct:")
        given = (prices or {}).get(spec) or (prices or {}).get(spec.removeprefix("direct:"))
        price = None if given is None else (given[0] / 1e6, given[1] / 1e6)
        if direct:
            from dszig_py.lm.direct import DirectLM

            return DirectLM(spec, price=price, **(options or {}))
        from dszig_py.lm.litellm import LiteLLM

        return LiteLLM(spec, price=price, **(options or {}))
    if hasattr(spec, "complete") and hasattr(spec, "model"):
        return spec
    if callable(spec):
        from dszig_py.lm.function import FunctionLM

        return FunctionLM(spec)
    raise InputError(f"a model is a string, an LM or a callable, not {type(spec).__name__}")
