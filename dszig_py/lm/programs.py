"""The command-line programs of Codex and Claude as models: one completion a start, their tools off.

Prior art: zigrlm's codex-proxy and claude-proxy, whose flags these are, less the ``-o`` file (Codex prints nothing but the
final message on stdout, https://developers.openai.com/codex/noninteractive). Found by pointing both programs at a server
that shows what they send (Codex 0.169.0, Claude Code 2.1.329): ``--tools ""`` leaves Claude none, but MCP servers and
project settings have to be turned off besides; Codex has no such switch, so every feature that brings a tool is turned
off by name (it ignores names that it does not know) and its read-only sandbox without network holds the rest.
"""

from __future__ import annotations

import os

from dszig_py.lm.command import CommandLM

__all__ = ["claude", "codex"]

EFFORT = "low"  # zigrlm's default: in a run the loop does the thinking, and a sub-call is a small question

_CODEX_FEATURES = (
    *("shell_tool", "unified_exec", "multi_agent", "view_image", "image_generation", "apps", "plugins", "hooks"),
    *("goals", "skill_search", "tool_suggest", "code_mode_host"),
)
_CODEX_NO_TOOLS = (
    *(word for feature in _CODEX_FEATURES for word in ("-c", f"features.{feature}=false")),
    *("-c", 'web_search="disabled"'),
)
# An empty value of --tools and of --setting-sources means none.
_CLAUDE_NO_TOOLS = ("--tools", "", "--strict-mcp-config", "--setting-sources", "", "--disable-slash-commands")


def codex(
    model: str = "",
    *,
    effort: str = EFFORT,
    allow_tools: bool = False,
    sandbox: str = "read-only",
    user_config: bool = False,
    binary: str = "",
    timeout: float | None = 600,
) -> CommandLM:
    """``codex exec`` as a model; it uses its own login.

    ``model`` and ``effort`` as Codex names them (no model: Codex's own default). ``allow_tools``: its tools stay on and it
    works in the working directory instead of an empty folder, inside ``sandbox`` ("read-only", "workspace-write",
    "danger-full-access"). ``user_config``: heed ``config.toml``, and the MCP servers it names. ``binary``: default
    $CODEX_BIN, else ``codex``. ``timeout``: seconds for one call.
    """
    argv = [_program(binary, "CODEX_BIN", "codex"), "exec", "--ignore-rules", "--skip-git-repo-check"]
    argv += ["--sandbox", sandbox, "--color", "never", "--ephemeral", "-c", f'model_reasoning_effort="{effort}"']
    if not user_config:
        argv.append("--ignore-user-config")
    if not allow_tools:
        argv += _CODEX_NO_TOOLS
    if model:
        argv += ["-m", model]
    return CommandLM([*argv, "-"], timeout=timeout, model=_named("codex", model), empty_folder=not allow_tools)


def claude(
    model: str = "",
    *,
    effort: str = EFFORT,
    allow_tools: bool = False,
    binary: str = "",
    timeout: float | None = 600,
) -> CommandLM:
    """``claude -p`` (Claude Code) as a model; it uses its own login.

    ``model`` and ``effort`` as Claude Code names them (no model: its own default). ``allow_tools``: its tools, MCP servers
    and settings stay on, and it works in the working directory instead of an empty folder. ``binary``: default
    $CLAUDE_BIN, else ``claude``. ``timeout``: seconds for one call.
    """
    argv = [_program(binary, "CLAUDE_BIN", "claude"), "-p", "--output-format", "text"]
    argv += ["--input-format", "text", "--effort", effort, "--no-session-persistence"]
    if not allow_tools:
        argv += _CLAUDE_NO_TOOLS
    if model:
        argv += ["--model", model]
    return CommandLM(argv, timeout=timeout, model=_named("claude", model), empty_folder=not allow_tools)


def _program(given: str, variable: str, default: str) -> str:
    """A path stays what it is from here, whichever folder the program is started in."""
    name = given or os.environ.get(variable) or default
    return os.path.abspath(os.path.expanduser(name)) if os.sep in name else name


def _named(program: str, model: str) -> str:
    return f"{program}/{model}" if model else program
