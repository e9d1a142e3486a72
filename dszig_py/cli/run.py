"""``dszig run``: one option per input field, made from the signature while the command line is read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click

from dszig_py.cli import options
from dszig_py.signature import Field, Signature, type_text

__all__ = ["command", "first_word", "perform_signature"]

FIELDS = "dszig.fields"  # where a context keeps the options made from the signature
INPUTS = "Inputs"
HELP = """\
Run SIGNATURE, such as "context, question -> answer: str", over inputs.

Every input field is an option. Its value is a text, @FILE for a file's content, - for stdin, or @@TEXT for a text
that begins with @. One field that is not given is read from stdin when something is piped in. Fields that are not
text are read as JSON.

\b
dszig run "context, question -> answer" --context @book.txt --question "Who ...?" -m openai/gpt-5
cat book.txt | dszig run "context -> title, year: int" -m offline --json
"""


class _Run(options.Grouped):
    """Reads the signature first, then everything else with the signature's own options added."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        found = first_word(args, self.params)
        if found is not None:
            try:
                ctx.meta[FIELDS] = _field_options(Signature.parse(args[found]), self.params)
            except ValueError as error:
                advice = " (in Python: a command line names Python's own types alone)" if "types=" in str(error) else ""
                raise click.UsageError(f"{error}{advice}", ctx) from None
            # A signature without inputs begins with a dash; behind a blank it is no option to the parser.
            args = [*args[:found], f" {args[found]}", *args[found + 1 :]]
        return super().parse_args(ctx, args)

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        signature, *rest = super().get_params(ctx)
        return [signature, *ctx.meta.get(FIELDS, ()), *rest]


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
    return options.Option([*names, f"field_{field.name}"], heading=INPUTS, metavar="TEXT|@FILE|-", help=about)


def _run(signature: str, **given: Any) -> int:
    parsed = Signature.parse(signature)
    if unknown := [name for name in given["show"] if name not in [f.name for f in parsed.inputs]]:
        raise click.UsageError(f"--show {unknown[0]}: no such input field")
    typed = {f.name: given.get(f"field_{f.name}") for f in parsed.inputs}
    return perform_signature(parsed, {name: text for name, text in typed.items() if text is not None}, given)


def perform_signature(signature: Signature, typed: Mapping[str, str], given: Mapping[str, Any]) -> int:
    """Run ``signature``: ``typed`` are its fields as on the command line, ``given`` everything else. The exit code."""
    from dszig_py.cli import zigrlm
    from dszig_py.cli.fields import Standard, read_inputs
    from dszig_py.cli.outcome import Report, perform, session_file

    rlm_options = _rlm_options(given)
    given_json = given["inputs"] is not None or given["inputs_file"] is not None
    names = [f.name for f in signature.inputs]
    texts = {**typed, **zigrlm.field_texts(given, [] if given_json else names, typed)}
    session = session_file(given)
    inputs = read_inputs(
        signature, texts, given["inputs"], given["inputs_file"], Standard(), partial=session is not None
    )
    zigrlm.check_size(given, inputs)
    report = Report(
        as_json=given["as_json"],
        quiet=given["quiet"],
        trace=given["trace"],
        html=given["html"],
        metadata=given["metadata"],
        session=session,
        resumable=_resumable(given),
    )
    return perform(signature, inputs, rlm_options, report)


def _resumable(given: Mapping[str, Any]) -> str | None:
    if not given.get("resumable"):
        return None
    if given["trace"] is None:
        raise click.UsageError("--resumable keeps a run beside its trace: give --trace PATH as well")
    if given["persistent"]:
        raise click.UsageError("--resumable and --persistent do not go together")
    return str(given["trace"])


def _rlm_options(given: Mapping[str, Any]) -> dict[str, Any]:
    from pydantic import ValidationError

    from dszig_py.cli import models, zigrlm
    from dszig_py.strategy import Strategy
    from dszig_py.usage import Budget

    lms = {"lm": models.main_model(given), "sub_lm": models.sub_model(given)}
    if (meter := zigrlm.meter(given)) is not None:
        from dszig_py.lm.metered import Metered

        lms = {name: None if lm is None else Metered(lm, meter) for name, lm in lms.items()}
    try:
        budget = Budget(**zigrlm.limits(given))
        strategy = Strategy(show=given["show"], compact_at=zigrlm.compact_at(given))
    except ValidationError as error:
        told = "; ".join(f"--{str(e['loc'][0]).replace('_', '-')}: {e['msg']}" for e in error.errors())
        raise click.UsageError(told) from None
    found: dict[str, Any] = {**lms, "environment": zigrlm.environment(given), "budget": budget, "strategy": strategy}
    if given.get("output_dir") is not None:
        found["output_dir"] = given["output_dir"]
    if given["max_output_chars"] is not None:
        found["max_output_chars"] = given["max_output_chars"]
    return found


_INPUT_OPTIONS = [
    options.Option(["--inputs"], heading=INPUTS, metavar="JSON", help="A JSON object; options of single fields win."),
    options.Option(["--inputs-file"], heading=INPUTS, metavar="PATH", help="The same from a file."),
    options.Option(
        ["--show"], heading=INPUTS, metavar="FIELD", multiple=True, help="Show this input whole in the prompt."
    ),
]

command = _Run(
    "run",
    context_settings={"help_option_names": ["-h", "--help"]},
    short_help="Run a signature over inputs (the default verb).",
    help=HELP,
    params=[
        click.Argument(["signature"]),
        *_INPUT_OPTIONS,
        *options.MODELS,
        *options.LIMITS,
        *options.WHERE,
        *options.OUTPUT,
        *options.ZIGRLM,
    ],
    callback=_run,
)
