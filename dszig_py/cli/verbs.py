"""The group of verbs: each loads with its first use, and ``run`` is meant where a signature stands first."""

from __future__ import annotations

import difflib
import importlib
from pathlib import Path
from typing import Any

import click

from dszig_py import __version__

__all__ = ["dszig"]

VERBS = ("run", "complete", "resume", "demo", "runs", "show", "eval", "doctor")
# zigrlm's names; what they stand for is said in cli.families, which loads only with them
ALIASES = (
    *("echo", "openai-proxy", "codex-proxy", "claude-proxy"),
    *("cli-openai", "cli-codex", "cli-claude", "zai", "cli", "dszig"),
)
ENV_FILE = ".env"


class _Verbs(click.Group):
    """A group whose verbs live in modules of their own."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return _load(cmd_name) if cmd_name in (*VERBS, *ALIASES) else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_commands(ctx, formatter)
        with formatter.section("zigrlm's commands"):
            formatter.write_dl([(name, _load(name).get_short_help_str(80)) for name in ALIASES])

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in (*VERBS, *ALIASES, "--help", "-h", "--version"):
            args = self._with_verb(ctx, args)
        return super().parse_args(ctx, args)

    def _with_verb(self, ctx: click.Context, args: list[str]) -> list[str]:
        from dszig_py.cli.run import first_word

        found = first_word(args, _load("run").params)
        word = None if found is None else args[found]
        if word is not None and "->" in word:
            return ["run", *args]
        if word is None or args[0].startswith("-"):
            raise click.UsageError(f"{args[0]!r} is no verb and there is no signature to run", ctx)
        close = difflib.get_close_matches(word, (*VERBS, *ALIASES), n=1)
        hint = f"Did you mean {close[0]!r}? " if close else ""
        verbs = f"The verbs are {', '.join(VERBS)}"
        arrow = 'a signature has an arrow: "context, question -> answer"'
        raise click.UsageError(f"no verb {word!r}. {hint}{verbs}; {arrow}", ctx)


def _load(verb: str) -> click.Command:
    if verb in ALIASES:
        from dszig_py.cli import families

        return families.command(verb)
    command: Any = importlib.import_module(f"dszig_py.cli.{verb}").command
    return command


HELP = """\
Recursive language models: a typed question over inputs far too big for a context window.

\b
dszig demo
dszig "context, question -> answer" --context @book.txt --question "Who ...?" -m openai/gpt-5
"""


@click.group(
    cls=_Verbs,
    help=HELP,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 submitted, 1 error, 2 wrong usage, 3 ended by a limit, 130 interrupted.",
)
@click.version_option(__version__, prog_name="dszig", message="%(prog)s %(version)s")
def dszig() -> None:
    _read_env_file()


def _read_env_file() -> None:
    """The working directory's ``.env``, never over what the environment says. Only the command line does this."""
    path = Path(ENV_FILE)
    if path.is_file():
        from dotenv import load_dotenv

        try:
            load_dotenv(path, override=False)
        except (OSError, ValueError) as error:
            click.echo(f"warning: {ENV_FILE} was not read: {error}", err=True)
