"""``dszig eval``: tasks, systems, lengths in; a table, a file of results, plots out. What is finished is never run twice."""

from __future__ import annotations

import os
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dszig_py.cli import INTERRUPTED
from dszig_py.cli.models import NO_MODEL
from dszig_py.cli.outcome import runs_folder

if TYPE_CHECKING:
    from dszig_py.evals import Evaluation
    from dszig_py.usage import Budget

__all__ = ["command"]

_UNITS = {"": 1, "K": 1_000, "M": 1_000_000}
_DRAWN = (".png", ".svg", ".pdf")


def _words(_ctx: click.Context, _param: click.Parameter, value: str) -> list[str]:
    """Values with commas between them."""
    return [part for part in re.split(r"[,\s]+", value) if part]


def _lengths(ctx: click.Context, param: click.Parameter, value: str) -> list[int]:
    """Characters: 8000, 8K, 1.5M."""
    lengths: list[int] = []
    for part in _words(ctx, param, value):
        found = re.fullmatch(r"(\d[\d_]*(?:\.\d+)?)([KM]?)", part.upper())
        if found is None:
            raise click.BadParameter(f"{part!r} is no length; write 8000, 8K or 1.5M", ctx, param)
        lengths.append(round(float(found[1]) * _UNITS[found[2]]))
    return list(dict.fromkeys(lengths))


def _drawn(ctx: click.Context, param: click.Parameter, paths: tuple[str, ...]) -> tuple[str, ...]:
    """Pictures, known as such before anything is paid for."""
    for path in paths:
        if Path(path).suffix.lower() not in _DRAWN:
            raise click.BadParameter(f"{path!r} is no picture; write a name in {', '.join(_DRAWN)}", ctx, param)
    return paths


@click.command(short_help="Compare ways to answer on tasks over long contexts.")
@click.argument("tasks", nargs=-1, required=True, metavar="TASK...")
@click.option("-m", "--model", help='LiteLLM model string, or "reader", a fake one that needs no key.')
@click.option("--sub-model", help="The model sub-calls use (default: $DSZIG_SUB_MODEL, else the model).")
@click.option("--systems", callback=_words, default="rlm,direct", show_default=True, help="What is compared.")
@click.option("--lengths", callback=_lengths, default="8K,32K,128K", show_default=True, help="Characters of context.")
@click.option("--n", type=click.IntRange(min=1), default=20, show_default=True, help="Examples a task and length.")
@click.option("--seed", type=int, default=0, show_default=True, help="Another seed, other examples.")
@click.option(
    "--field", "fields", multiple=True, metavar="NAME=COLUMN", help="Of rows:PATH, where names differ (repeatable)."
)
@click.option("--signature", help='Of rows:PATH (default: "context: str, question: str -> answer: str").')
@click.option("--json", "path", metavar="PATH", help="Results: rows in PATH.jsonl, resumed; the summary in PATH.json.")
@click.option(
    "--plot",
    metavar="PATH",
    multiple=True,
    callback=_drawn,
    help="Score and cost over length, as .png or .svg (repeatable).",
)
@click.option(
    "--engine", type=click.Choice(["local", "ray"]), default="local", show_default=True, help="Where it runs."
)
@click.option("--workers", type=click.IntRange(min=1), help="Ray actors (default: one a processor of the cluster).")
@click.option("--max-concurrency", type=click.IntRange(min=1), default=64, show_default=True, help="Calls in flight.")
@click.option("--max-iters", type=click.IntRange(min=1), help="Of one run: decisions (default: 20).")
@click.option("--max-llm-calls", type=click.IntRange(min=0), help="Of one run: calls from inside code (default: 50).")
@click.option("--max-tokens", type=click.IntRange(min=1), help="Of one run: tokens of all calls.")
@click.option("--max-cost", type=click.FloatRange(min=0), help="Of one run: dollars.")
@click.option("--max-seconds", type=click.FloatRange(min=0, min_open=True), help="Of one run: wall seconds.")
@click.option("--max-depth", type=click.IntRange(min=0), help="Of one run: levels of child runs (default: 1).")
@click.option("--total-tokens", type=click.IntRange(min=1), help="Of the evaluation; needs --max-tokens.")
@click.option("--total-cost", type=click.FloatRange(min=0), help="Of the evaluation, in dollars; needs --max-cost.")
@click.option("--total-seconds", type=click.FloatRange(min=0, min_open=True), help="Of the evaluation.")
@click.option("--environment", default="auto", show_default=True, help="Where model-written code runs.")
@click.option("-q", "--quiet", is_flag=True, help="No progress on stderr.")
@click.pass_context
def command(ctx: click.Context, **given: Any) -> int:
    r"""Run every system on every TASK with one model and one budget, and compare.

    \b
    Tasks:   needle multikey variable_tracking kv frequent_words label_count label_pairs facts,
             and rows of a file: oolong:PATH ruler:PATH rows:PATH (CSV or JSONL with context, question, answer)
    Systems: rlm rlm-no-subcalls rlm-auto direct dspy-rlm, or module:callable

    \b
    dszig eval needle label_count -m reader --lengths 8K,256K --json results
    dszig eval label_count -m openai/gpt-5 --systems rlm,direct --n 50 --max-cost 0.5 --total-cost 20 --json gpt5
    """
    from dszig_py.evals import aevaluate

    if not (given["model"] or os.environ.get("DSZIG_MODEL") or os.environ.get("DSZIG_MAIN_CMD")):
        raise click.UsageError(NO_MODEL, ctx)
    place = _place(given["path"])
    tasks = _tasks(ctx, given)
    _load(given["model"] or os.environ.get("DSZIG_MODEL"))
    try:
        found = _wait(aevaluate(tasks, given["systems"], **_options(given, place)))
    except KeyboardInterrupt:
        return _interrupted(place)
    _show(found, given)
    if failed := [row for row in found.rows if row.failed]:
        told = f"{len(failed)} of {len(found.rows)} runs failed for no fault of theirs, and are tried again by a rerun"
        click.echo(f"{told}; the last one: {failed[-1].detail}", err=True)
    return 3 if found.stopped else int(bool(failed) and len(failed) == len(found.rows))


def _tasks(ctx: click.Context, given: dict[str, Any]) -> list[Any]:
    """Names stay names; of rows with a signature or columns of their own, the task itself."""
    pairs = [field.partition("=") for field in given["fields"]]
    if wrong := [name for name, _, column in pairs if not name or not column]:
        raise click.UsageError(f"--field is NAME=COLUMN, not {wrong[0]!r}", ctx)
    own: dict[str, Any] = {"fields": {name: column for name, _, column in pairs}, "signature": given["signature"]}
    own = {name: value for name, value in own.items() if value}
    if not own:
        return list(given["tasks"])
    if not any(task.startswith("rows:") for task in given["tasks"]):
        raise click.UsageError("--field and --signature are for rows:PATH, and there is none", ctx)
    from dszig_py.evals import suite

    files = [task.partition(":") for task in given["tasks"]]
    return [suite.read(kind, path, **own) if kind == "rows" else f"{kind}{colon}{path}" for kind, colon, path in files]


def _load(model: str | None) -> None:
    """Import LiteLLM now, if it will be asked: what is there before the runs is what they keep from the collector."""
    from dszig_py.lm import LiteLLM, resolve

    if model is not None and isinstance(resolve(model), LiteLLM):
        from dszig_py.lm.litellm import preload

        preload()


def _wait(evaluation: Any) -> Evaluation:
    from dszig_py import portal

    async def run() -> Evaluation:
        return await evaluation

    return portal.call(run)


def _options(given: dict[str, Any], place: Path) -> dict[str, Any]:
    names = ("lengths", "n", "seed", "max_concurrency", "engine", "workers", "environment")
    options = {name: given[name] for name in names}
    return {
        **options,
        "lm": given["model"],
        "sub_lm": given["sub_model"],
        "budget": _budget({n: given[n] for n in given if n.startswith("max_") and n != "max_concurrency"}),
        "total": _budget({n.replace("total", "max"): given[n] for n in given if n.startswith("total_")}),
        "path": place,
        "progress": not given["quiet"],
    }


def _budget(limits: dict[str, Any]) -> Budget:
    from dszig_py.usage import Budget

    return Budget(**{name: value for name, value in limits.items() if value is not None})


def _place(path: str | None) -> Path:
    """Where the rows go; without a name for them, among the saved runs, so that nothing is lost even then."""
    if path is None:
        try:
            folder = runs_folder() / "evals"
            folder.mkdir(parents=True, exist_ok=True)
        except (OSError, RuntimeError) as error:  # no home, or one that is not ours to write in
            raise click.UsageError(f"{error}; say where the results go: --json PATH") from None
        return folder / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.jsonl"
    place = Path(path)
    return (
        place.with_suffix(".jsonl") if place.suffix in (".json", ".jsonl") else place.with_name(f"{place.name}.jsonl")
    )


def _show(found: Evaluation, given: dict[str, Any]) -> None:
    from dszig_py.errors import InputError

    assert found.path is not None
    summary = found.save(found.path.with_suffix(".json"))
    print(found.table())
    if not given["quiet"]:
        click.echo(f"rows in {found.path}, summary in {summary}", err=True)
    for path in given["plot"]:
        try:
            click.echo(f"plot in {found.plot(path)}", err=True)
        except (InputError, OSError, ValueError) as error:  # the results are there; a picture can be had later
            click.echo(f"no plot in {path}: {error}", err=True)


def _interrupted(place: Path) -> int:
    from dszig_py.evals import Evaluation

    if place.exists():
        found = Evaluation.load(place)
        if found.rows:
            print(found.table())
        sys.stdout.flush()
        click.echo(f"interrupted; {len(found.rows)} results are kept, go on with: --json {place}", err=True)
    return INTERRUPTED
