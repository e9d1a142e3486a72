"""Options under headings: what `--help` shows together, and the groups that several verbs share."""

from __future__ import annotations

import re
from typing import Any

import click

from dszig_py.environments import NAMES

__all__ = ["LIMITS", "MODELS", "OUTPUT", "WHERE", "ZIGRLM", "Grouped", "Option"]

COUNT, AMOUNT, POSITIVE = click.IntRange(min=0), click.IntRange(min=1), click.FloatRange(min=0, min_open=True)
VIAS = ("litellm", "codex", "claude", "openai", "zai", "cmd", "echo")
_VIA = (
    "What asks the model: litellm (the default), codex or claude (their programs), openai or zai (with zigrlm's variables), "
    "cmd (commands of the environment), echo (nothing at all)."
)
_RANGE = re.compile(r"\s*\[x>=?\d+\]$")


class Option(click.Option):
    """An option with the heading it is shown under."""

    def __init__(self, *args: Any, heading: str = "Options", **attributes: Any) -> None:
        if isinstance(attributes.get("type"), (click.IntRange, click.FloatRange)):
            attributes["metavar"] = "N"
        super().__init__(*args, **attributes)
        self.heading = heading

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Without the range of a number: 0 and below are refused as one expects."""
        record = super().get_help_record(ctx)
        return None if record is None else (record[0], _RANGE.sub("", record[1]))


class Grouped(click.Command):
    """Shows each heading's options together; those without one come last, with ``--help``."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx) if isinstance(param, click.Option) else None
            if record is not None:
                groups.setdefault(getattr(param, "heading", "Options"), []).append(record)
        rest = groups.pop("Options", [])
        for heading, records in [*groups.items(), ("Options", rest)]:
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records, col_max=34)


def _group(heading: str, *options: tuple[tuple[str, ...], dict[str, Any]]) -> list[Option]:
    return [Option([*names], heading=heading, **attributes) for names, attributes in options]


def _model_options() -> list[Option]:
    return _group(
        "Models",
        (("-m", "--model"), {"help": 'LiteLLM model string, or "offline" (default: $DSZIG_MODEL).'}),
        (("--sub-model",), {"help": "For sub-calls and child runs (default: $DSZIG_SUB_MODEL, else the model)."}),
        (("--main-cmd",), {"metavar": "COMMAND", "help": "A command: prompt on stdin, completion on stdout."}),
        (("--rlm-cmd",), {"metavar": "COMMAND", "help": "The same for sub-calls."}),
        (("--via",), {"type": click.Choice(VIAS), "metavar": "WAY", "help": _VIA}),
        (
            ("--sub-via",),
            {"type": click.Choice(VIAS), "metavar": "WAY", "help": "The same for sub-calls (default: as --via)."},
        ),
        *_program_options(),
    )


def _program_options() -> list[tuple[tuple[str, ...], dict[str, Any]]]:
    """Of the Codex and Claude programs."""
    return [
        (("--effort", "--reasoning-effort"), {"help": "low, medium, high, ... (codex and claude: low)."}),
        (("--allow-tools",), {"is_flag": True, "help": "Leave the tools of codex and claude on."}),
        (
            ("--sandbox",),
            {
                "type": click.Choice(["read-only", "workspace-write", "danger-full-access"]),
                "metavar": "MODE",
                "default": "read-only",
                "help": "What codex's tools may do: read-only (the default), workspace-write, danger-full-access.",
            },
        ),
        (("--use-user-config",), {"is_flag": True, "help": "Let codex read its config.toml."}),
        (("--codex-bin",), {"metavar": "PATH", "help": "Default: $CODEX_BIN, else codex."}),
        (("--claude-bin",), {"metavar": "PATH", "help": "Default: $CLAUDE_BIN, else claude."}),
        (("--base-url",), {"metavar": "URL", "help": "Of the provider (default: as LiteLLM has it)."}),
    ]


def _limit_options() -> list[Option]:
    return _group(
        "Limits",
        (("--max-iters",), {"type": AMOUNT, "help": "Decisions of one run (default: 20)."}),
        (("--max-llm-calls",), {"type": COUNT, "help": "Model calls from inside code (default: 50)."}),
        (("--max-tokens",), {"type": AMOUNT, "help": "Input and output tokens of all calls."}),
        (("--max-cost",), {"type": click.FloatRange(min=0), "help": "Dollars."}),
        (("--max-seconds",), {"type": POSITIVE, "help": "Wall seconds."}),
        (("--max-depth",), {"type": COUNT, "help": "Levels of child runs (default: 1)."}),
        (("--max-concurrency",), {"type": AMOUNT, "help": "Model calls in flight (default: 64)."}),
    )


def _where_options() -> list[Option]:
    return _group(
        "Where code runs",
        (
            ("--environment",),
            {
                "default": "auto",
                "show_default": True,
                "help": f"{', '.join(NAMES)}; python and docker-python as zigrlm has them.",
            },
        ),
        (("--docker-image",), {"metavar": "IMAGE", "help": "With --environment docker."}),
        (("--docker-bin",), {"metavar": "PATH", "help": "docker or podman."}),
    )


def _output_options() -> list[Option]:
    writable = click.Path(dir_okay=False, writable=True)
    return _group(
        "Output",
        (("--json", "as_json"), {"is_flag": True, "help": "One JSON object: outputs, termination, usage, run."}),
        (("--trace",), {"type": writable, "help": "Save the run's trajectory here as well."}),
        (("--resumable",), {"is_flag": True, "help": "With --trace: keep beside it what dszig resume needs."}),
        (
            ("--output-dir",),
            {"type": click.Path(file_okay=False), "help": "Where outputs of type File go (default: dszig-outputs)."},
        ),
        (("--html",), {"type": writable, "help": "Write the run as one HTML file."}),
        (
            ("--metadata",),
            {"type": writable, "help": "Write the run as rlm's visualizer and zigrlm's --metadata have it."},
        ),
        (("-q", "--quiet"), {"is_flag": True, "help": "No progress on stderr."}),
    )


def _zigrlm_options() -> list[Option]:
    same = "The same as {}."
    return _group(
        "As zigrlm names them",
        (("--file",), {"type": click.Path(dir_okay=False), "help": "The first input not given, from this file."}),
        (("--stdin",), {"is_flag": True, "help": "The first input not given, from stdin."}),
        (("--timeout-ms",), {"type": AMOUNT, "help": "Of one model call, and of one cell."}),
        (("--max-runtime-ms",), {"type": AMOUNT, "help": same.format("--max-seconds")}),
        (("--max-iterations",), {"type": AMOUNT, "help": same.format("--max-iters")}),
        (("--max-concurrent-subcalls",), {"type": AMOUNT, "help": same.format("--max-concurrency")}),
        (("--max-calls",), {"type": AMOUNT, "help": "All model calls, the root's decisions too."}),
        (("--max-input-bytes",), {"type": AMOUNT, "help": "Bytes of all prompts; larger inputs are refused at once."}),
        (("--max-output-bytes",), {"type": AMOUNT, "help": "Bytes of all completions."}),
        (("--max-consecutive-errors",), {"type": AMOUNT, "help": "Iterations in a row that failed."}),
        (
            ("--max-output-chars",),
            {"type": AMOUNT, "help": "Of a cell's output as the model sees it (default: 10000)."},
        ),
        (("--persistent",), {"metavar": "NAME", "help": "Keep the variables under this name for later calls."}),
        (("--compaction",), {"is_flag": True, "help": "Have a long history summarized by the model."}),
        (("--compaction-threshold-bytes",), {"type": AMOUNT, "help": "When it is that long (default: 131072)."}),
        (("--python-bin",), {"metavar": "PATH", "help": "Refused, unless it is the Python that runs dszig."}),
        (("--docker-setup-timeout-ms",), {"type": AMOUNT, "help": "Refused: fetch the image first."}),
    )


MODELS, LIMITS, WHERE, OUTPUT, ZIGRLM = (
    _model_options(),
    _limit_options(),
    _where_options(),
    _output_options(),
    _zigrlm_options(),
)
