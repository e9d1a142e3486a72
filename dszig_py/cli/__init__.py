"""The ``dszig`` command."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence

__all__ = ["main"]

_STREAM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)
INTERRUPTED = 130  # 128 + SIGINT, as shells report it


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line ``args`` (default: the process's own) and return its exit code.

    0 submitted or done, 1 error, 2 wrong usage, 3 ended by a limit, 130 interrupted.
    """
    if sys.stderr is None:  # closed by whoever started us; what is told there is for nobody
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - for the rest of the process
    if reconfigure := getattr(sys.stdout, "reconfigure", None):
        reconfigure(errors="replace")  # a model may write what the terminal's encoding lacks
    try:
        code = _run(args)
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except BrokenPipeError:
        _give_up_stdout()  # the reader left (``| head``)
        return 1
    except OSError as error:
        # Of what nobody below has a word on, the full disk that stdout goes to comes first.
        place = error.filename or ("standard output" if error.errno in _STREAM else "")
        sys.stderr.write(f"Error: {f'{place}: {error.strerror}' if place else error}\n")
        _give_up_stdout()
        return 1


def _give_up_stdout() -> None:
    """Python flushes stdout once more at its end, which must not fail as well."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _run(args: Sequence[str] | None) -> int:
    import click

    from dszig_py.cli.verbs import dszig
    from dszig_py.errors import DszigError, InputError, SignatureError

    try:
        code = dszig.main(None if args is None else list(args), prog_name="dszig", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except DszigError as error:
        click.echo(f"Error: {error}", err=True)
        return 2 if isinstance(error, (InputError, SignatureError)) else 1
