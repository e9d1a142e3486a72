"""``dszig run``: one option per input field, made from the signature while the command line is read."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

import click

from dszig_py.signature import Field, Signature, type_text

__all__ = ["command", "first_word"]

NO_MODEL = """no model is configured. Give one:
  -m openai/gpt-5            any LiteLLM model string; its key is read from the environment or .env
  -m ollama_chat/qwen3       a local server
  --main-cmd "my-program"    any program: prompt on stdin, completion on stdout
  -m offline                 no model at all: a deterministic stand-in
or set DSZIG_MODEL"""
FIELDS = "dszig.fields"  # where a context keeps the options made from the signature


class _Run(click.Command):
    """Reads the signature first, then everything else with the signature's own options added."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        found = first_word(args, self.params)
        if found is not None:
            try:
                ctx.meta[FIELDS] = _field_options(Signature.parse(args[found]), self.params)
            except ValueError as error:
                raise click.UsageError(str(error), ctx) from None
            # A signature without inputs begins with a dash; behind a blank it is no option to the parser.
            args = [*args[:found], f" {args[found]}", *args[found + 1 :]]
        return super().parse_args(ctx, args)

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        signature, *options = super().get_params(ctx)
        return [signature, *ctx.meta.get(FIELDS, ()), *options]


def first_word(args: Sequence[str], params: Iterable[click.Parameter]) -> int | None:
    """Where the first argument is that is neither an option nor the value of one. Unknown options take a value."""
    flags = {"-h", "--help"} | {opt for p in params if isinstance(p, click.Option) and p.is_flag for opt in p.opts}
    place = 0
    while place < len(args):
        arg = args[place]
        if arg == "--":
            place += 1
            break
        if not arg.startswith("-") or arg.startswith("->") or arg == "-":
            break
        place += 2 if _takes_next(arg, flags) else 1
    return place if place < len(args) else None


def _takes_next(arg: str, flags: set[str]) -> bool:
    """Whether the option ``arg`` has its value in the next argument."""
    if arg.startswith("--"):
        return "=" not in arg and arg not in flags
    letters = arg[1:]
    while letters and f"-{letters[0]}" in flags:  # -qm MODEL is -q -m MODEL
        letters = letters[1:]
    return len(letters) == 1


def _field_options(signature: Signature, params: Iterable[click.Parameter]) -> list[click.Option]:
    taken = {opt for param in params for opt in param.opts} | {"--help"}
    return [_field_option(f, taken) for f in signature.inputs]


def _field_option(field: Field, taken: set[str]) -> click.Option:
    """``--my_field`` and ``--my-field``; a field named like one of our own options becomes ``--input-NAME``."""
    name = field.name
    while taken & {f"--{name}", f"--{name.replace('_', '-')}"}:
        name = f"input-{name}"
    names = list(dict.fromkeys([f"--{name}", f"--{name.replace('_', '-')}"]))
    taken.update(names)
    about = f"Input field: {type_text(field.type)}"
    return click.Option([*names, f"field_{field.name}"], metavar="TEXT|@FILE|-", help=about)


@click.command(
    cls=_Run,
    context_settings={"help_option_names": ["-h", "--help"]},
    short_help="Run a signature over inputs (the default verb).",
)
@click.argument("signature")
@click.option("-m", "--model", help='LiteLLM model string, or "offline" (default: $DSZIG_MODEL).')
@click.option("--sub-model", help="The model sub-calls and child runs use (default: $DSZIG_SUB_MODEL, else the model).")
@click.option("--main-cmd", metavar="COMMAND", help="A command as the model: prompt on stdin, completion on stdout.")
@click.option("--rlm-cmd", metavar="COMMAND", help="The same for sub-calls.")
@click.option("--inputs", metavar="JSON", help="Inputs as a JSON object; options of single fields win.")
@click.option("--inputs-file", metavar="PATH", help="The same from a file.")
@click.option("--show", metavar="FIELD", multiple=True, help="Show this input whole in the prompt (repeatable).")
@click.option("--max-iters", type=click.IntRange(min=1), help="Decisions of one run (default: 20).")
@click.option("--max-llm-calls", type=click.IntRange(min=0), help="Model calls from inside code (default: 50).")
@click.option("--max-tokens", type=click.IntRange(min=1), help="Input and output tokens of all calls.")
@click.option("--max-cost", type=click.FloatRange(min=0), help="Dollars.")
@click.option("--max-seconds", type=click.FloatRange(min=0, min_open=True), help="Wall seconds.")
@click.option("--max-depth", type=click.IntRange(min=0), help="Levels of child runs (default: 1).")
@click.option("--max-concurrency", type=click.IntRange(min=1), help="Model calls in flight (default: 64).")
@click.option("--environment", default="auto", show_default=True, help="Where model-written code runs.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout: outputs, termination, usage, run.")
@click.option("--trace", type=click.Path(dir_okay=False, writable=True), help="Save the run's trajectory here as well.")
@click.option("-q", "--quiet", is_flag=True, help="No progress on stderr.")
@click.pass_context
def command(ctx: click.Context, signature: str, **given: Any) -> int:
    r"""Run SIGNATURE, such as "context, question -> answer: str", over inputs.

    Every input field is an option. Its value is a text, @FILE for a file's content, - for stdin, or @@TEXT for a text
    that begins with @. One field that is not given is read from stdin when something is piped in. Fields that are not
    text are read as JSON.

    \b
    dszig run "context, question -> answer" --context @book.txt --question "Who ...?" -m openai/gpt-5
    cat book.txt | dszig run "context -> title, year: int" -m offline --json
    """
    from dszig_py.cli.fields import Standard, read_inputs
    from dszig_py.cli.outcome import Report, perform

    parsed = Signature.parse(signature)
    if unknown := [name for name in given["show"] if name not in [f.name for f in parsed.inputs]]:
        raise click.UsageError(f"--show {unknown[0]}: no such input field", ctx)
    typed = {f.name: given.get(f"field_{f.name}") for f in parsed.inputs}
    options = {name: text for name, text in typed.items() if text is not None}
    rlm_options = _rlm_options(ctx, given)
    inputs = read_inputs(parsed, options, given["inputs"], given["inputs_file"], Standard())
    report = Report(as_json=given["as_json"], quiet=given["quiet"], trace=given["trace"])
    return perform(parsed, inputs, rlm_options, report)


def _rlm_options(ctx: click.Context, given: dict[str, Any]) -> dict[str, Any]:
    from pydantic import ValidationError

    from dszig_py.strategy import Strategy
    from dszig_py.usage import Budget

    if not (given["model"] or given["main_cmd"] or os.environ.get("DSZIG_MODEL") or os.environ.get("DSZIG_MAIN_CMD")):
        raise click.UsageError(NO_MODEL, ctx)
    for model, program in (("model", "main_cmd"), ("sub_model", "rlm_cmd")):
        if given[model] and given[program]:
            raise click.UsageError(f"give --{model} or --{program}, not both".replace("_", "-"), ctx)
    limits = {name: value for name, value in given.items() if name in Budget.model_fields and value is not None}
    try:
        budget = Budget(**limits)
    except ValidationError as error:
        told = "; ".join(f"--{str(e['loc'][0]).replace('_', '-')}: {e['msg']}" for e in error.errors())
        raise click.UsageError(told, ctx) from None
    return {
        "lm": given["model"],
        "sub_lm": given["sub_model"],
        "main_cmd": given["main_cmd"],
        "rlm_cmd": given["rlm_cmd"],
        "environment": given["environment"],
        "budget": budget,
        "strategy": Strategy(show=given["show"]),
    }
