"""``dszig show``: a saved run in the terminal."""

from __future__ import annotations

import click

__all__ = ["command"]


@click.command(short_help="Print a saved run.")
@click.argument("path", type=click.Path(exists=True, dir_okay=False))
def command(path: str) -> int:
    """Print the run saved in PATH: its iterations, code, output, sub-calls, child runs, and what it cost."""
    from dszig_py.render.console import rich_console, show
    from dszig_py.trajectory import Trajectory

    try:
        run = Trajectory.load(path)
    except (OSError, ValueError) as error:
        raise click.UsageError(str(error)) from None
    except (TypeError, KeyError, AttributeError, RecursionError):  # right in form, wrong in its fields
        raise click.UsageError(f"{path}: not a saved run") from None
    show(run, rich_console())
    return 0
