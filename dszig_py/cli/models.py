"""Which models a command line names: a LiteLLM string, a command, a program, or what the environment says of each."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Literal

import click

__all__ = ["main_model", "sub_model"]

NO_MODEL = """no model is configured. Give one:
  -m openai/gpt-5            any LiteLLM model string; its key is read from the environment or .env
  -m ollama_chat/qwen3       a local server
  --main-cmd "my-program"    any program: prompt on stdin, completion on stdout
  --via codex|claude         the Codex or the Claude command-line program, with its own login
  -m offline                 no model at all: a deterministic stand-in
or set DSZIG_MODEL"""
# zigrlm's defaults for the providers it calls by itself; a program has its own.
OPENAI_MODEL, ZAI_MODELS = "gpt-5.4", {"MAIN": "glm-5.1", "RLM": "glm-5-turbo"}
ZAI_CODING_URL = "https://api.z.ai/api/coding/paas/v4"
TIMEOUT = 600.0

Role = Literal["MAIN", "RLM"]  # as zigrlm's variables say it: CODEX_MAIN_MODEL, CODEX_RLM_MODEL
Given = Mapping[str, Any]
ModelSpec = Any  # what RLM(lm=...) takes: a LiteLLM name, or an LM


def main_model(given: Given) -> ModelSpec:
    """The model that decides. Raises :class:`click.UsageError` where none is named, or two."""
    _once(given, "model", "main_cmd")
    via = given["via"]
    if given["main_cmd"] and via not in (None, "cmd"):
        raise click.UsageError(f"give --via {via} or --main-cmd, not both")
    if via is not None and via != "litellm":
        return _via(via, "MAIN", given["model"], given["main_cmd"], given)
    command = given["main_cmd"] or (None if given["model"] else _variable("DSZIG_MAIN_CMD"))
    if command:
        return _command(command, given)
    if model := given["model"] or _variable("DSZIG_MODEL"):
        return _litellm(model, given)
    if command := _variable("ZIGRLM_MAIN_CMD"):
        return _command(command, given)
    raise click.UsageError(NO_MODEL)


def sub_model(given: Given) -> ModelSpec:
    """The model of sub-calls and child runs; ``None``: the one that decides."""
    _once(given, "sub_model", "rlm_cmd")
    model, command = given["sub_model"], given["rlm_cmd"]
    if given["sub_via"] and command:
        raise click.UsageError("give --sub-via or --rlm-cmd, not both")
    if command:
        return _command(command, given)
    via = given["sub_via"] or given["via"]
    if via is not None and via != "litellm":
        return _via(via, "RLM", model, None, given)
    if not model and (command := _variable("DSZIG_RLM_CMD")):
        return _command(command, given)
    if model := model or _variable("DSZIG_SUB_MODEL"):
        return _litellm(model, given)
    asked = given["model"] or given["main_cmd"] or _variable("DSZIG_MAIN_CMD") or _variable("DSZIG_MODEL")
    if not asked and (command := _variable("ZIGRLM_RLM_CMD")):
        return _command(command, given)
    return None


def _once(given: Given, model: str, program: str) -> None:
    if given[model] and given[program]:
        raise click.UsageError(f"give --{model} or --{program}, not both".replace("_", "-"))


def _variable(name: str) -> str:
    """As zigrlm reads them: the name as it is, else in small letters."""
    return os.environ.get(name) or os.environ.get(name.lower()) or ""


def _via(via: str, role: Role, model: str | None, command: str | None, given: Given) -> ModelSpec:
    if model and via in ("cmd", "echo"):
        raise click.UsageError(f"--via {via} takes no model; {model!r} goes with litellm, codex, claude, openai or zai")
    if via in ("codex", "claude"):
        return _program(via, role, model, given)
    if via == "openai":
        name = model or _variable(f"OPENAI_{role}_MODEL") or OPENAI_MODEL
        return _litellm(name if name.startswith("openai/") else f"openai/{name}", given, _variable("OPENAI_BASE_URL"))
    if via == "zai":
        return _zai(role, model, given)
    if via == "echo":
        return _echo(role, given)
    command = command or _variable(f"DSZIG_{role}_CMD") or _variable(f"ZIGRLM_{role}_CMD")
    if not command and role == "RLM":
        command = given["main_cmd"] or _variable("DSZIG_MAIN_CMD") or _variable("ZIGRLM_MAIN_CMD")
    if not command:
        raise click.UsageError("--via cmd takes its command from --main-cmd, DSZIG_MAIN_CMD or ZIGRLM_MAIN_CMD")
    return _command(command, given)


def _program(via: str, role: Role, model: str | None, given: Given) -> ModelSpec:
    from dszig_py.lm import programs

    name = model or _variable(f"{via.upper()}_{role}_MODEL")
    binary = given[f"{via}_bin"] or _variable(f"{via.upper()}_BIN")
    effort = given["effort"] or (
        _variable(f"{via.upper()}_{role}_EFFORT") or _variable(f"{via.upper()}_EFFORT") or programs.EFFORT
    )
    tools, seconds = given["allow_tools"], _seconds(given)
    if via == "claude":
        return programs.claude(name, effort=effort, allow_tools=tools, binary=binary, timeout=seconds)
    return programs.codex(
        name,
        effort=effort,
        allow_tools=tools,
        sandbox=given["sandbox"],
        user_config=given["use_user_config"],
        binary=binary,
        timeout=seconds,
    )


def _zai(role: Role, model: str | None, given: Given) -> ModelSpec:
    """With zigrlm's variables where they are set, else with those that LiteLLM reads (ZAI_API_KEY, ZAI_API_BASE)."""
    name = model or _variable(f"ZAI_{role}_MODEL") or ZAI_MODELS[role]
    key = _variable("ZAI_CODING_API_KEY")
    url = _variable("ZAI_CODING_BASE_URL") or (ZAI_CODING_URL if key else "")
    return _litellm(name if name.startswith("zai/") else f"zai/{name}", given, url, key)


def _litellm(model: str, given: Given, url: str = "", key: str = "") -> ModelSpec:
    from dszig_py import lm

    if model == "offline":
        return lm.resolve(model)
    options: dict[str, Any] = {"timeout": _seconds(given)}
    if url := given["base_url"] or url:
        options["api_base"] = url
    if key:
        options["api_key"] = key
    if given["effort"]:
        options["reasoning_effort"] = given["effort"]
    if options == {"timeout": TIMEOUT}:
        return model  # by its name alone, which a journal can hold
    return lm.resolve(model, options=options)


def _command(command: str, given: Given) -> ModelSpec:
    from dszig_py.lm.command import CommandLM

    return CommandLM(command, timeout=_seconds(given))


def _echo(role: Role, given: Given) -> ModelSpec:
    """No model: the root hands its input to one sub-call, which says it back. All of a run but the model is real. A plain
    completion, which has no environment, is what the sub-call is.
    """
    from dszig_py.lm.scripted import ScriptedLM

    if role == "RLM" or "environment" not in given:
        return ScriptedLM(lambda request: request.prompt, model="echo")
    cell = "```python\nSUBMIT(llm_query(context))\n```"
    if given["environment"].startswith("script"):
        cell = "```repl\nllm_query said = context\nFINAL_VAR(said)\n```"
    return ScriptedLM([cell], model="echo", repeat_last=True)


def _seconds(given: Given) -> float:
    return given["timeout_ms"] / 1000 if given["timeout_ms"] else TIMEOUT
