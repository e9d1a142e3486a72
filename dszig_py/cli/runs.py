"""``dszig runs``: the saved runs, newest first. Of each file only its first and its last line are read."""

from __future__ import annotations

import json
import os
import re
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import click

from dszig_py.cli.outcome import runs_folder
from dszig_py.rows import SCHEMA
from dszig_py.text import clean

__all__ = ["command", "saved"]

PIECE = 16_384  # bytes read at a time from either end
MOST = 4 << 20  # a line longer than this is not looked for
MOST_AMOUNT = 1e15
STAMP = re.compile(r"(\d{8}-\d{6})-")


@dataclass(frozen=True, slots=True)
class Row:
    """A saved run in one line. ``number``: 1 is the newest. ``None``: not known, the file ends before its run does."""

    number: int
    path: str
    when: float
    signature: str
    model: str
    ended: str | None
    iterations: int | None
    calls: int | None
    tokens: int | None
    cost: float | None
    seconds: float | None


@click.command(short_help="List saved runs.")
@click.option("--dir", "folder", type=click.Path(file_okay=False), help="Folder of runs (default: where run saves).")
@click.option("-n", "count", type=click.IntRange(min=0), default=20, show_default=True, help="How many; 0 = all.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line on stdout.")
def command(folder: str | None, count: int, as_json: bool) -> int:
    """List the saved runs, newest first. Their numbers are what `dszig show` takes."""
    place = folder_of(folder)
    paths = saved(place)
    shown = paths[: count or None]
    rows = [row for number, path in enumerate(shown, 1) if (row := _row(number, path)) is not None]
    if as_json:
        for row in rows:
            click.echo(json.dumps(asdict(row)))
        return 0
    if not rows:
        click.echo(f"no runs in {place}", err=True)
        return 0
    _print(rows)
    if len(paths) > len(shown):
        click.echo(f"{len(paths) - len(shown):,} older ones: -n 0 lists all", err=True)
    return 0


def folder_of(given: str | None) -> Path:
    """The folder that was named, else the one of all runs."""
    if given is not None:
        return Path(given)
    try:
        return runs_folder()
    except RuntimeError as error:
        raise click.UsageError(f"{error}; give --dir") from None


def saved(folder: Path) -> list[Path]:
    """The files of runs in ``folder``, newest first: by the time in their names, which a copy keeps, else their own.

    Raises :class:`click.ClickException` for a folder that cannot be read.
    """
    found: list[tuple[str, int, str]] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.endswith(".jsonl") and entry.is_file():
                    changed = entry.stat().st_mtime_ns
                    stamp = STAMP.match(entry.name)
                    when = time.strftime("%Y%m%d-%H%M%S", time.gmtime(changed / 1e9)) if stamp is None else stamp[1]
                    found.append((when, changed, entry.path))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise click.ClickException(f"{folder}: {error.strerror}") from None
    return [Path(path) for _, _, path in sorted(found, reverse=True)]


def _row(number: int, path: Path) -> Row | None:
    """``None`` for a file that holds no run."""
    try:
        with path.open("rb") as file:
            head = _object(_first(file))
            last = _object(_last(file))
    except OSError:
        return None
    if head.get("schema") != SCHEMA:
        return None
    is_end = last.get("event") == "end" and last.get("run") == head.get("run")
    ended = _part(last, "termination") if is_end else {}
    usage = _part(last, "usage") if is_end else {}
    tokens = [_amount(usage, name, 0) for name in ("input_tokens", "output_tokens")]
    return Row(
        number,
        str(path),
        float(_amount(head, "begun", 0.0) or 0.0),
        str(head.get("signature", "")),
        str(head.get("model", "")),
        str(ended["kind"]) if "kind" in ended else None,
        _whole(last, "iterations", None) if is_end else None,
        _whole(usage, "calls", 0) if is_end else None,
        int(sum(count for count in tokens if count is not None)) if is_end and None not in tokens else None,
        _amount(usage, "cost", 0.0) if is_end else None,
        _amount(last, "seconds", None) if is_end else None,
    )


def _amount(row: dict[str, Any], name: str, default: float | None) -> float | None:
    """A number of a row, ``None`` for whatever else stands there: a damaged file must not hide all others."""
    value = row.get(name, default)
    return value if type(value) in (int, float) and abs(value) < MOST_AMOUNT else None


def _whole(row: dict[str, Any], name: str, default: int | None) -> int | None:
    value = _amount(row, name, default)
    return None if value is None else int(value)


def _first(file: Any) -> bytes:
    line: bytes = file.readline(MOST)
    return line


def _last(file: Any) -> bytes:
    """The last whole line."""
    size = file.seek(0, os.SEEK_END)
    tail = b""
    while size and len(tail) < MOST:
        step = min(max(PIECE, len(tail)), size)  # twice as much each time
        size -= step
        file.seek(size)
        tail = file.read(step) + tail
        end = tail.rfind(b"\n")
        begin = tail.rfind(b"\n", 0, max(end, 0))
        if end > 0 and (begin >= 0 or size == 0):
            return tail[begin + 1 : end]
    return b""


def _object(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _part(row: dict[str, Any], name: str) -> dict[str, Any]:
    value = row.get(name)
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _print(rows: list[Row]) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from dszig_py.render.console import rich_console

    lines = [_cells(row) for row in rows]
    console = rich_console()
    widths: list[int] = []
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for at, name in enumerate(("#", "when", "signature", "ended", "iters", "calls", "cost")):
        numeric = name in ("#", "iters", "calls", "cost")
        widest = max([len(name), *(len(line[at]) for line in lines)])
        widths.append(widest)
        justify = "right" if numeric else "left"
        table.add_column(name, justify=justify, no_wrap=True, overflow="ellipsis", min_width=widest)
    # Numbers and times are worth more than the end of a long signature: it alone gives way.
    room = console.width - sum(widths) + widths[2] - 3 * len(widths)
    table.columns[2].min_width = table.columns[2].max_width = max(10, min(widths[2], room))
    for line in lines:
        table.add_row(*(Text(cell) for cell in line))
    console.print(table)


def _cells(row: Row) -> list[str]:
    from dszig_py.render.console import begun

    when = begun(row.when, "%Y-%m-%d %H:%M")
    numbers = [_number(row.iterations), _number(row.calls), _cost(row)]
    return [str(row.number), when, clean(row.signature), row.ended or "unfinished", *numbers]


def _number(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _cost(row: Row) -> str:
    if row.ended is None:
        return "-"
    return "unknown" if row.cost is None else f"${row.cost:.4f}"
