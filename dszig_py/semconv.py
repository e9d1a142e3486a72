"""The attributes of our OpenTelemetry spans, by the semantic conventions for generative AI, in one table.

The conventions are all of status "development" and have been renamed before: a new version changes this file alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dszig_py.usage import Usage

__all__ = ["ATTRIBUTES", "VERSION", "chat", "error_type", "model", "named", "spent"]

VERSION = "1.41.0"  # github.com/open-telemetry/semantic-conventions, docs/gen-ai

# Every attribute name there is. Names beginning with "dszig." are for what the conventions have none.
ATTRIBUTES: Mapping[str, str] = {
    "operation": "gen_ai.operation.name",
    "provider": "gen_ai.provider.name",
    "model": "gen_ai.request.model",
    "agent": "gen_ai.agent.name",
    "agent_id": "gen_ai.agent.id",
    "tool": "gen_ai.tool.name",
    "tool_type": "gen_ai.tool.type",
    "call_id": "gen_ai.tool.call.id",
    "input_tokens": "gen_ai.usage.input_tokens",
    "output_tokens": "gen_ai.usage.output_tokens",
    "error": "error.type",
    # content, opt-in
    "input_messages": "gen_ai.input.messages",
    "output_messages": "gen_ai.output.messages",
    "arguments": "gen_ai.tool.call.arguments",
    "result": "gen_ai.tool.call.result",
    # ours
    "signature": "dszig.signature",
    "depth": "dszig.depth",
    "iteration": "dszig.iteration",
    "kind": "dszig.sub_call.kind",
    "batch": "dszig.sub_call.batch",
    "index": "dszig.sub_call.index",
    "cached": "dszig.cached",
    "cost": "dszig.cost",
    "termination": "dszig.termination.kind",
    "cause": "dszig.termination.cause",
    "iterations": "dszig.iterations",
    "calls": "dszig.usage.calls",
    "run_input_tokens": "dszig.usage.input_tokens",  # of the tree: summing gen_ai.usage over spans must not count twice
    "run_output_tokens": "dszig.usage.output_tokens",
}
# LiteLLM's names of providers where the conventions have another.
_PROVIDERS = {
    "azure": "azure.ai.openai",
    "azure_ai": "azure.ai.inference",
    "bedrock": "aws.bedrock",
    "cohere_chat": "cohere",
    "gemini": "gcp.gemini",
    "mistral": "mistral_ai",
    "vertex_ai": "gcp.vertex_ai",
    "watsonx": "ibm.watsonx.ai",
    "xai": "x_ai",
}


def named(told: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes by their short names as those of a span; what is None is left out."""
    return {ATTRIBUTES[name]: value for name, value in told.items() if value is not None}


def model(name: str) -> dict[str, Any]:
    """Provider and model of a LiteLLM name; a name without a provider says nothing of one."""
    provider, slash, model = name.removeprefix("direct:").partition("/")
    if not slash:
        return {"model": name or None}
    return {"provider": _PROVIDERS.get(provider, provider), "model": model}


def chat(told: Mapping[str, Any]) -> str:
    """The name of a model call's span."""
    return f"chat {told['model']}" if told.get("model") else "chat"


def spent(usage: Usage) -> dict[str, Any]:
    """What one model call took."""
    return {"input_tokens": usage.input_tokens, "output_tokens": usage.output_tokens, "cost": usage.cost}


def error_type(error: str) -> str:
    """A name of few values, as ``error.type`` has to be; "_OTHER" is the conventions' own for the rest."""
    return error if error.isidentifier() or not error else "_OTHER"
