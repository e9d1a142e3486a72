"""Performs one run for the command line: progress, saving, outputs, exit code."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from dszig_py.cli import INTERRUPTED, show
from dszig_py.errors import DszigError, InputError, SignatureError
from dszig_py.files import File
from dszig_py.rlm import RLM
from dszig_py.signature import Signature
from dszig_py.text import clean

if TYPE_CHECKING:
    from dszig_py.events import Event
    from dszig_py.trace import Tracer
    from dszig_py.trajectory import Prediction
    from dszig_py.usage import Usage

__all__ = ["Report", "perform", "runs_folder", "session_file", "told", "usage_record"]


@dataclass(frozen=True, slots=True)
class Report:
    """How a run is told. ``trace``: where its trajectory goes besides the folder of all runs; ``html``, ``metadata``:
    where it goes in those forms; ``session``: the file of the session it belongs to; ``resumable``: the trace beside which
    all is kept that resuming needs.
    """

    as_json: bool = False
    quiet: bool = False
    trace: str | None = None
    html: str | None = None
    metadata: str | None = None
    session: Path | None = None
    resumable: str | None = None


MOST_BITS = 14_000  # of an int that Python still writes in decimal: 4,300 digits

Go = Callable[[dict[str, Any]], "Prediction"]  # a run, given what of RLM's options this module decides on


def perform(signature: Signature, inputs: Mapping[str, Any], options: Mapping[str, Any], report: Report) -> int:
    """Run, save, print; the exit code. Raises InputError and SignatureError where nothing was run."""

    def go(ours: dict[str, Any]) -> Prediction:
        resumable = False if report.resumable is None else report.resumable
        rlm = RLM(signature, types={}, resumable=resumable, **ours, **options)
        return rlm(**inputs) if report.session is None else _in_session(rlm, inputs, report.session)

    return told(go, report)


def told(go: Go, report: Report) -> int:
    """Do a run, save and print it; the exit code. Raises InputError and SignatureError where nothing was run."""
    prediction, error, saved = _predict(go, report)
    if prediction is not None:
        try:
            _print(prediction, error, saved, report)
        finally:  # what cannot be printed is paid for
            _write_forms(prediction, report)
    elif report.as_json:
        _print_json(
            {"outputs": {}, "termination": None, "usage": None, "iterations": 0, "run": None, "error": str(error)}
        )
    if isinstance(error, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return INTERRUPTED
    if error is not None:
        click.echo(f"Error: {clean(str(error))}", err=True)
        return 1
    return 1 if prediction is None else _exit_code(prediction)


def _predict(go: Go, report: Report) -> tuple[Prediction | None, BaseException | None, Path | None]:
    """The prediction, what ended it, and where its trace is."""
    prediction: Prediction | None = None
    failure: BaseException | None = None
    with ExitStack() as stack:
        tracers = [stack.enter_context(tracer) for tracer in _tracers(report)]
        view = _subscriber(stack, report)
        live = view is not None and sys.stderr.isatty()
        try:
            prediction = go({"trace": tracers, "on_event": view, "stream_tokens": live})
        except (InputError, SignatureError):
            raise
        except (DszigError, KeyboardInterrupt) as error:
            prediction, failure = getattr(error, "prediction", None), error
    return prediction, failure, next((tracer.path for tracer in tracers if tracer.path is not None), None)


def _in_session(rlm: RLM, inputs: Mapping[str, Any], path: Path) -> Prediction:
    """One more call of the session in ``path``, which is written after it."""
    with rlm.session(path) as session:
        prediction = session(**inputs)
        if session.lost:
            lost = ", ".join(f"{name} ({kind})" for name, kind in session.lost.items())
            click.echo(f"warning: {path} cannot keep {lost}", err=True)
    return prediction


def _write_forms(prediction: Prediction, report: Report) -> None:
    """What ``--html`` and ``--metadata`` ask for. A failure only warns: the run is paid for."""
    run = prediction.trajectory
    if report.html is not None:
        _written(report.html, show.page(run))
    if report.metadata is not None:
        _written(report.metadata, show.export_lines(run, "rlm"))


def _written(path: str, text: str) -> None:
    try:
        show.write(Path(path), text)
    except click.ClickException as error:
        click.echo(f"warning: {error.message}", err=True)


def _tracers(report: Report) -> list[Tracer]:
    """To ``--trace`` and the folder of all runs, as the run goes. A failure only warns: the run is paid for."""
    from dszig_py.trace import Tracer

    def warn(message: str) -> None:
        click.echo(f"warning: the run was not saved: {message}", err=True)

    tracers = [] if report.trace is None else [Tracer(report.trace, folder=False, on_failure=warn)]
    try:
        tracers.append(Tracer(runs_folder(), folder=True, on_failure=warn))
    except RuntimeError as error:
        warn(str(error))
    return tracers


def _subscriber(stack: ExitStack, report: Report) -> Callable[[Event], None] | None:
    """A live view on a terminal, plain lines elsewhere, nothing where it is to be quiet."""
    if report.quiet:
        return None
    from dszig_py.render import console

    screen = console.rich_console(stderr=True)
    if screen.is_interactive and sys.stderr.isatty():
        from dszig_py.render.live import LiveView

        return stack.enter_context(LiveView(screen))
    return _all_but_the_end(console.printer())


def _all_but_the_end(write: Callable[[Event], None]) -> Callable[[Event], None]:
    """The run's end is told after its outputs, the same way for every kind of progress."""
    from dszig_py.stream import is_last

    return lambda event: None if is_last(event) else write(event)


def runs_folder() -> Path:
    """Where every run of the command line is saved. Raises ``RuntimeError`` where no home can be found."""
    if given := os.environ.get("DSZIG_RUNS_DIR"):
        return Path(given).expanduser()
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state") / "dszig" / "runs"


def session_file(given: Mapping[str, Any]) -> Path | None:
    """Where ``--persistent NAME`` is kept. Raises :class:`click.UsageError`."""
    from dszig_py.cli.zigrlm import session_path

    try:
        return session_path(given, runs_folder()) if given["persistent"] else None
    except RuntimeError as error:
        raise click.UsageError(f"--persistent: {error}; give a path") from None


def _print(prediction: Prediction, error: BaseException | None, saved: Path | None, report: Report) -> None:
    try:
        if report.as_json:
            _print_json(_record(prediction, error, saved))
        else:
            if not report.quiet and sys.stdout is not None and sys.stdout.isatty():
                print()  # between the progress above and the outputs, where both are on one screen
            _print_outputs(_by_path(prediction))
    finally:
        _print_end(prediction, error, saved, report)


def _print_end(prediction: Prediction, error: BaseException | None, saved: Path | None, report: Report) -> None:
    """Why it ended, what it cost, and where it is, on stderr."""
    ended = prediction.termination
    if ended.kind != "submitted" and error is None:
        click.echo(f"ended by {clean(str(ended))}", err=True)
    if report.quiet:
        return
    run = prediction.trajectory
    count = f"{len(run.iterations)} iteration{'s' * (len(run.iterations) != 1)}"
    click.echo(f"{ended.kind} after {count} in {run.seconds:.1f} s: {prediction.usage}", err=True)
    if saved is not None:
        click.echo(f"saved; look at it with: dszig show {shlex.quote(str(saved))}", err=True)


def _exit_code(prediction: Prediction) -> int:
    ended = prediction.termination
    if ended.kind == "submitted":
        return 0
    return 3 if ended.cause == "budget" else 1


def _record(prediction: Prediction, error: BaseException | None, saved: Path | None) -> dict[str, Any]:
    ended, run = prediction.termination, prediction.trajectory
    record: dict[str, Any] = {
        "outputs": _jsonable(dict(run.outputs)),
        "termination": {"kind": ended.kind, "cause": ended.cause, "detail": ended.detail},
        "usage": usage_record(prediction.usage),
        "iterations": len(run.iterations),
        "run": None if saved is None else str(saved),
    }
    if error is not None or (ended.cause != "budget" and ended.kind != "submitted"):
        record["error"] = clean(str(error or "")) or ended.detail or ended.kind
    return record


def usage_record(usage: Usage) -> dict[str, Any]:
    """``usage`` as plain data, with its splits."""
    names = ("calls", "input_tokens", "output_tokens", "cost", "seconds", "estimated")
    record: dict[str, Any] = {name: getattr(usage, name) for name in names}
    for split in ("by_model", "by_depth"):
        if parts := getattr(usage, split):
            record[split] = {str(key): usage_record(part) for key, part in parts.items()}
    return record


def _print_json(record: Mapping[str, Any]) -> None:
    # Outside UTF-8 a character the encoding lacks would become a question mark inside the data.
    utf8 = (getattr(sys.stdout, "encoding", "") or "").lower().replace("-", "") == "utf8"
    print(json.dumps(record, ensure_ascii=not utf8, allow_nan=False))


def _print_outputs(outputs: Mapping[str, Any]) -> None:
    """One output as its value, several as ``name: value``; an output that there is not prints nothing.

    By ``print``: click takes an ASCII stdout for a mistake and writes UTF-8 to it.
    """
    if len(outputs) == 1:
        (value,) = outputs.values()
        if value is not None:
            print(_text(value))
        return
    for name, value in outputs.items():
        print(f"{name}: {_text(value)}")


def _by_path(prediction: Prediction) -> dict[str, Any]:
    """The outputs as the trajectory has them, and a file as its path alone."""
    plain = prediction.trajectory.outputs
    return {name: plain[name] if (paths := _paths(prediction.outputs[name])) is None else paths for name in plain}


def _paths(value: Any) -> Any:
    if isinstance(value, File):
        return str(value.path)
    if isinstance(value, (list, tuple)) and value:
        paths = [_paths(item) for item in cast("list[Any]", value)]
        return None if None in paths else paths
    return None


def _text(value: Any) -> str:
    return clean(value) if isinstance(value, str) else json.dumps(_jsonable(value), ensure_ascii=False)


def _jsonable(value: Any) -> Any:
    """``value`` as JSON can hold it: no NaN, no lone surrogates, bytes in base64."""
    from pydantic_core import to_jsonable_python

    return _strict(to_jsonable_python(value, bytes_mode="base64", fallback=str))


def _strict(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, int) and value.bit_length() > MOST_BITS:
        return hex(value)
    if isinstance(value, str):
        return value if value.isascii() else re.sub("[\ud800-\udfff]", "\ufffd", value)
    if isinstance(value, list):
        return [_strict(item) for item in cast("list[Any]", value)]
    if isinstance(value, dict):
        return {_strict(key): _strict(item) for key, item in cast("dict[str, Any]", value).items()}
    return value
