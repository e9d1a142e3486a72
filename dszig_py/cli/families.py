"""zigrlm's commands under their own names: each is one of ours with a part of its options given.

``*-proxy`` is ``complete``; ``cli-*``, ``zai``, ``cli`` and ``echo`` are ``run`` over a prompt, which is the variable
``context``, the answer being text; ``dszig`` is ``run`` with the signature as an option. They exist for scripts that have
them; ours say the same with fewer names.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import click

from dszig_py.cli import options
from dszig_py.signature import Signature

__all__ = ["FAMILIES", "command"]

PROMPT_SIGNATURE = "context: str -> answer: str"
MAX_ITERS = 8  # zigrlm's default for its recursive commands


@dataclass(frozen=True, slots=True)
class Family:
    """``via``: who asks the model. ``about``: what `dszig --help` says."""

    kind: Literal["flat", "recursive", "signature"]
    via: str
    about: str


FAMILIES = {
    "echo": Family("recursive", "echo", "A run without a model or network: says the prompt back."),
    "openai-proxy": Family("flat", "openai", "complete --via openai"),
    "codex-proxy": Family("flat", "codex", "complete --via codex"),
    "claude-proxy": Family("flat", "claude", "complete --via claude"),
    "cli-openai": Family("recursive", "openai", 'run "context -> answer" --via openai --environment script'),
    "cli-codex": Family("recursive", "codex", 'run "context -> answer" --via codex --environment script'),
    "cli-claude": Family("recursive", "claude", 'run "context -> answer" --via claude --environment script'),
    "zai": Family("recursive", "zai", 'run "context -> answer" --via zai --environment script'),
    "cli": Family("recursive", "cmd", 'run "context -> answer" --via cmd --environment script'),
    "dszig": Family("signature", "cmd", "run SIGNATURE --via cmd"),
}


def command(name: str) -> click.Command:
    """The command of that name."""
    family = FAMILIES[name]
    if family.kind == "flat":
        from dszig_py.cli.complete import PARAMS, complete

        about = "One plain completion: the prompt, or stdin, to stdout."
        return _command(name, family, about, PARAMS, partial(complete, via=family.via))
    if family.kind == "signature":
        signature = options.Option(["--signature"], required=True, heading="Inputs", help="As `dszig run` has it.")
        given = [
            options.Option(["--inputs"], heading="Inputs", metavar="JSON", help="A JSON object of all inputs."),
            options.Option(["--inputs-file"], heading="Inputs", metavar="PATH", help="The same from a file."),
        ]
        about = "Run a signature; --stdin reads the inputs as JSON."
        return _command(name, family, about, [signature, *given, *_RUN], partial(_signature, family.via))
    about = f"Answer PROMPT by a run: it is the variable `context`. At most {MAX_ITERS} iterations by default."
    prompts = [
        click.Argument(["prompt"], required=False),
        options.Option(["--prompt", "prompt_option"], heading="Inputs"),
    ]
    return _command(name, family, about, [*prompts, *_RECURSIVE], partial(_recursive, family.via))


# zigrlm's recursive commands run its DSL unless told otherwise, and count the root as a level.
_OTHERWISE = {
    "environment": options.Option(
        ["--environment"],
        heading="Where code runs",
        default="script",
        show_default=True,
        help="script, python, docker-python, or as `dszig run` has it.",
    ),
    "max_depth": options.Option(
        ["--max-depth"], heading="Limits", type=options.COUNT, help="Levels, the root's too (default: 2)."
    ),
}
_RUN = [*options.MODELS, *options.LIMITS, *options.WHERE, *options.OUTPUT, *options.ZIGRLM]
_RECURSIVE = [_OTHERWISE.get(str(option.name), option) for option in _RUN]


def _command(name: str, family: Family, about: str, params: list[Any], callback: Callable[..., int]) -> click.Command:
    return options.Grouped(
        name,
        context_settings={"help_option_names": ["-h", "--help"]},
        short_help=family.about,
        help=f"{about}\n\nzigrlm's name for `dszig {family.about}`." if name != "echo" else family.about,
        params=[p for p in params if p.name != "via"],
        callback=callback,
    )


def _recursive(via: str, prompt: str | None, prompt_option: str | None, **given: Any) -> int:
    from dszig_py.cli.run import perform_signature

    if prompt is not None and prompt_option is not None:
        raise click.UsageError("give the prompt once")
    text = prompt if prompt_option is None else prompt_option
    if text is None and not given["file"] and not given["stdin"] and not given["persistent"]:
        raise click.UsageError("give a prompt, --file PATH or --stdin")
    depth = given["max_depth"]
    if depth == 0:
        raise click.UsageError("--max-depth 0 is one plain completion: dszig complete")
    settled = {
        **_settled(via, given),
        "max_depth": None if depth is None else depth - 1,
        "inputs": None if text is None else json.dumps({"context": text}),
        "inputs_file": None,
        "show": ("context",),
    }
    if settled["max_iters"] is None and settled["max_iterations"] is None:
        settled["max_iters"] = MAX_ITERS
    return perform_signature(Signature.parse(PROMPT_SIGNATURE), {}, settled)


def _signature(via: str, signature: str, **given: Any) -> int:
    from dszig_py.cli.run import perform_signature

    if given["stdin"]:
        if given["inputs"] is not None or given["inputs_file"] is not None:
            raise click.UsageError("give the inputs once: --inputs, --inputs-file or --stdin")
        given = {**given, "stdin": False, "inputs_file": "-"}
    return perform_signature(Signature.parse(signature), {}, {**_settled(via, given), "show": ()})


def _settled(via: str, given: dict[str, Any]) -> dict[str, Any]:
    """With the way to the model, which one that is named makes clear by itself."""
    named = given["model"] or given["main_cmd"]
    return {**given, "via": None if named and via == "cmd" else via}
