"""``dszig demo``: the whole thing over a text that is on every machine, with no key and no network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

__all__ = ["command"]

QUESTION = "What does the with statement do, step by step?"
OFFLINE = "offline: no model answers here, but a deterministic stand-in that finds and quotes passages of the text"


@click.command(short_help="A real run over a real text: no key, no network.")
@click.argument("question", default=QUESTION)
@click.option("--file", type=click.Path(exists=True, dir_okay=False), help="Ask about this text file instead.")
@click.option("-m", "--model", default="offline", show_default=True, help="LiteLLM model string.")
def command(question: str, file: str | None, model: str) -> int:
    """Ask QUESTION about Python's own language reference (or --file) and watch the run.

    The default model "offline" is no model: it quotes the passages that match. Give -m for answers of a real one.
    """
    from dszig_py.cli.outcome import Report, perform
    from dszig_py.signature import Signature

    text = language_reference() if file is None else Path(file).read_text("utf-8", "replace")
    source = "Python's language reference" if file is None else file
    click.echo(f"question:  {question}\ntext:      {source}, {len(text):,} characters", err=True)
    if model == "offline":
        click.echo(f"model:     {OFFLINE}", err=True)
    # Sub-calls too: a DSZIG_SUB_MODEL in the environment must not turn the demo into a paid run.
    options: dict[str, Any] = {"lm": model, "sub_lm": model}
    signature = Signature.parse("context: str, question: str -> answer: str")
    return perform(signature, {"context": text, "question": question}, options, Report())


def language_reference() -> str:
    """What ``help("with")`` and its kind show, all topics under their titles."""
    from pydoc_data.topics import topics

    return "\n\n".join(f"{'=' * 20} {title} {'=' * 20}\n\n{text}" for title, text in sorted(topics.items()))
