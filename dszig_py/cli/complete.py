"""``dszig complete``: one plain completion, no REPL and no recursion: a prompt in, the reply out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dszig_py.cli import models, options
from dszig_py.cli.fields import Standard
from dszig_py.lm import resolve
from dszig_py.text import clean

if TYPE_CHECKING:
    from dszig_py.lm.base import LM, Reply

__all__ = ["PARAMS", "command", "complete"]

HELP = """\
Answer one prompt: PROMPT, or --file PATH, or what is piped in. The reply goes to stdout.

For a question over a long text take `dszig run`: here the prompt goes to the model as it is.

\b
printf 'Return exactly OK.' | dszig complete -m openai/gpt-5
dszig complete --via claude --file prompt.txt
dszig complete --cmd "llama-cli -f /dev/stdin" "Why is the sky blue?"
"""
_OF_RUNS = ("sub_model", "sub_via", "rlm_cmd", "main_cmd")


def complete(**given: Any) -> int:
    """The verb. The exit code."""
    from dszig_py import portal
    from dszig_py.cli.outcome import usage_record

    lm = resolve(models.main_model(given))
    prompt = _prompt(given)
    reply = portal.call(_ask, lm, prompt)
    text = clean(reply.text)
    if given["as_json"]:
        click.echo(json.dumps({"text": text, "model": reply.model or lm.model, "usage": usage_record(reply.usage)}))
    else:
        print(text)
    return 0


def _prompt(given: Mapping[str, Any]) -> str:
    sources = [name for name in ("prompt", "file", "stdin") if given[name]]
    if len(sources) > 1:
        raise click.UsageError("give the prompt once: as an argument, by --file, or by stdin")
    text = given["prompt"]
    if given["file"]:
        try:
            text = Path(given["file"]).read_text("utf-8-sig", "replace")
        except OSError as error:
            raise click.UsageError(f"--file: {given['file']}: {error.strerror}") from None
    elif text is None:
        standard = Standard()
        # An explicit --stdin is read even from a terminal, as cat does.
        text = standard.read("the prompt").decode("utf-8-sig", "replace") if given["stdin"] or standard.piped else ""
    if not text:
        raise click.UsageError("there is no prompt: give it as an argument, by --file PATH, or pipe it in")
    size, most = len(text.encode(errors="replace")), given["max_input_bytes"]
    if most is not None and size > most:
        raise click.UsageError(f"--max-input-bytes allows {most:,}, the prompt has {size:,}")
    return text


async def _ask(lm: LM, prompt: str) -> Reply:
    """Through a gate, for the same retries as a run has."""
    from dszig_py.lm.base import Request
    from dszig_py.lm.gate import Gate
    from dszig_py.usage import Budget, Ledger

    return await Gate(1).ask(lm, Request.of(prompt), Ledger(Budget()), inner=False)


PARAMS: list[click.Parameter] = [
    click.Argument(["prompt"], required=False),
    options.Option(
        ["--cmd", "--main-cmd", "main_cmd"],
        heading="Models",
        metavar="COMMAND",
        help="A command: prompt on stdin, completion on stdout.",
    ),
    *(option for option in options.MODELS if option.name not in _OF_RUNS),
    options.Option(["--file"], heading="Prompt", type=click.Path(dir_okay=False), help="The prompt is this file."),
    options.Option(["--stdin"], heading="Prompt", is_flag=True, help="The prompt is stdin, also from a terminal."),
    options.Option(
        ["--max-input-bytes"], heading="Prompt", type=options.AMOUNT, help="A larger prompt is refused, unsent."
    ),
    options.Option(["--timeout-ms"], heading="Prompt", type=options.AMOUNT, help="Of one call (default: 600000)."),
    options.Option(["--json", "as_json"], is_flag=True, help="One JSON object: text, model, usage."),
]

command = options.Grouped(
    "complete",
    context_settings={"help_option_names": ["-h", "--help"]},
    short_help="One plain completion: stdin to stdout.",
    help=HELP,
    params=PARAMS,
    callback=complete,
)
