"""``dszig resume``: go on with a run whose process died."""

from __future__ import annotations

from typing import Any

import click

from dszig_py.cli import options

__all__ = ["command"]

HELP = """\
Go on with the run of TRACE, which was begun with dszig run --trace TRACE --resumable and whose process died.

Its code is executed again with the replies it was given, so none is paid twice; where they end, models are asked.
"""


def _resume(trace: str, *, as_json: bool, quiet: bool, html: str | None, model: str | None, **again: str | None) -> int:
    from dszig_py.cli.outcome import Report, told
    from dszig_py.rlm import RLM

    given: dict[str, Any] = {name: value for name, value in {"lm": model, **again}.items() if value is not None}
    report = Report(as_json=as_json, quiet=quiet, trace=trace, html=html)
    return told(lambda ours: RLM.resume(trace, **ours, **given), report)


command = options.Grouped(
    "resume",
    context_settings={"help_option_names": ["-h", "--help"]},
    short_help="Go on with a run whose process died.",
    help=HELP,
    params=[
        click.Argument(["trace"], type=click.Path(dir_okay=False)),
        options.Option(["--model", "-m"], metavar="MODEL", help="The model, where the run had one of no name."),
        options.Option(["--main-cmd"], metavar="COMMAND", help="The program that decides, where the run had one."),
        options.Option(["--rlm-cmd"], metavar="COMMAND", help="The program that answers sub-calls, where it had one."),
        options.Option(["--environment"], metavar="NAME", help="Where code runs: to be said again of inprocess."),
        options.Option(["--html"], metavar="PATH", help="Write the run as HTML as well."),
        options.Option(["--json", "as_json"], is_flag=True, help="One JSON object on standard output."),
        options.Option(["--quiet", "-q"], is_flag=True, help="Nothing but the outputs."),
    ],
    callback=_resume,
)
