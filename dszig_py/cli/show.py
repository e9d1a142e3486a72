"""``dszig show``: a saved run in the terminal, two of them side by side, as one HTML file, or in another tool's format."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from dszig_py.trajectory import Trajectory

__all__ = ["command", "export_lines", "page", "write"]


@click.command(short_help="Print a saved run, or two side by side.")
@click.argument("runs", metavar="RUN [RUN]", nargs=-1, required=True)
@click.option("--dir", "folder", type=click.Path(file_okay=False), help="Folder of runs that numbers count in.")
@click.option("--html", type=click.Path(dir_okay=False), help="Write one HTML file instead.")
@click.option(
    "--export", type=click.Choice(["zigrlm", "rlm"]), help="JSONL as zigrlm's trace or rlm's visualizer has it."
)
@click.option("--out", type=click.Path(dir_okay=False), help="Where --export goes (default: stdout).")
def command(runs: tuple[str, ...], folder: str | None, html: str | None, export: str | None, out: str | None) -> int:
    """Print a saved run: its iterations, code, output, sub-calls, child runs, and what it cost.

    RUN is a file, or a number as `dszig runs` gives it (1 is the newest). Two runs are set side by side.
    """
    if len(runs) > 2:
        raise click.UsageError("one run, or two to compare")
    if len(runs) == 2 and (html or export):
        raise click.UsageError("--html and --export take one run")
    if out is not None and export is None:
        raise click.UsageError("--out goes with --export")
    loaded = [_load(_path(run, folder)) for run in runs]
    if html is not None:
        write(Path(html), page(loaded[0]))
    if export is not None:
        _export(loaded[0], export, out)
    if html is None and export is None:
        _print(loaded)
    return 0


def _print(runs: list[Trajectory]) -> None:
    from dszig_py.render.compare import compare
    from dszig_py.render.console import rich_console, show

    if len(runs) == 1:
        show(runs[0], rich_console())
    else:
        compare(runs[0], runs[1], rich_console())


def _path(run: str, folder: str | None) -> Path:
    """The file that ``run`` names; a file of that name counts before a number."""
    path = Path(run)
    if not run.isdecimal() or path.is_file():
        if not path.is_file():
            raise click.UsageError(f"{run}: {'is no file' if path.exists() else 'does not exist'}")
        return path
    from dszig_py.cli.runs import folder_of, saved

    place = folder_of(folder)
    found = saved(place)
    if not 1 <= int(run) <= len(found):
        raise click.UsageError(f"there is no run {run}: {place} has {len(found):,}")
    return found[int(run) - 1]


def _load(path: Path) -> Trajectory:
    from dszig_py.trajectory import Trajectory

    try:
        return Trajectory.load(path)
    except (OSError, ValueError) as error:
        raise click.UsageError(str(error)) from None


def page(run: Trajectory) -> str:
    """The run as one HTML file."""
    from dszig_py.render.html import page as html_page

    return html_page(run)


def export_lines(run: Trajectory, export: str) -> str:
    """The run as JSONL: "zigrlm" its trace events, "rlm" the log of rlm's visualizer."""
    from dszig_py.exports import to_rlm_log, to_zigrlm_events

    lines = to_zigrlm_events(run) if export == "zigrlm" else to_rlm_log(run)
    # ASCII: whatever a model wrote, lone surrogates too, can be written anywhere.
    return "".join(f"{json.dumps(line, default=str)}\n" for line in lines)


def _export(run: Trajectory, export: str, out: str | None) -> None:
    text = export_lines(run, export)
    if out is None:
        sys.stdout.write(text)
    else:
        write(Path(out), text)


def write(path: Path, text: str) -> None:
    """Raises :class:`click.ClickException`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", errors="replace")
    except OSError as error:
        raise click.ClickException(f"{path}: {error.strerror}") from None
    click.echo(f"written: {path}", err=True)
