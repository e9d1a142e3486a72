"""What ``verbose=True`` shows: a plain line an event, and a bar for each batch of sub-calls while it goes on.

In a notebook and on a terminal; where output goes to a file there are lines alone, since a bar would fill it.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable
from typing import Any

from dszig_py.events import Event, IterationFinished, RunFinished, SubCallFinished, SubCallStarted
from dszig_py.render import console

__all__ = ["BatchBars", "in_notebook", "verbose"]

LEAST = 3  # calls of a batch that are worth a bar


def verbose() -> Callable[[Event], None]:
    """The subscriber behind ``verbose=True``, for where the process writes its errors to."""
    if not in_notebook() and not (sys.stderr is not None and sys.stderr.isatty()):
        return console.printer()
    bars = BatchBars()
    write = console.printer(bars.write)

    def tell(event: Event) -> None:
        bars(event)
        write(event)

    return tell


def in_notebook() -> bool:
    """Whether this is a Jupyter kernel, asked of IPython only where it is loaded: outside of one it is not."""
    shell: Any = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return shell is not None and "IPKernelApp" in getattr(shell, "config", ())


class BatchBars:
    """A subscriber with one bar for each batch that the root's code has under way. tqdm loads with the first one.

    ``file``: where bars are drawn, by default stderr (in a notebook they are widgets, where those are installed).
    ``every``: seconds between two drawings of a bar. Calls of children have no bars of their own.
    """

    def __init__(self, file: Any = None, *, every: float = 0.1) -> None:
        self._file, self._every = file, every
        self._bars: dict[str, Any] = {}
        self._failed: dict[str, int] = {}

    def __call__(self, event: Event) -> None:
        if event.depth:
            return
        if isinstance(event, SubCallStarted) and event.batch:
            self._started(event)
        elif isinstance(event, SubCallFinished) and event.sub_call.batch in self._bars:
            self._finished(event.sub_call.batch, failed=bool(event.sub_call.error))
        elif isinstance(event, (IterationFinished, RunFinished)):
            self.close()

    def write(self, line: str) -> None:
        """A line above the bars."""
        if self._bars:
            _tqdm().write(line, file=sys.stderr if self._file is None else self._file, end="")
        else:
            console.to_stderr(line)

    def close(self) -> None:
        """Finish all bars. May be called twice."""
        for bar in self._bars.values():
            bar.close()
        self._bars.clear()
        self._failed.clear()

    def _started(self, event: SubCallStarted) -> None:
        if event.batch in self._bars or event.size < LEAST:
            return
        self._bars[event.batch] = _tqdm()(
            total=event.size,
            desc=f"{event.kind}_batched",
            unit="call",
            file=self._file,
            mininterval=self._every,
            dynamic_ncols=True,
            leave=False,
        )

    def _finished(self, batch: str, *, failed: bool) -> None:
        self._failed[batch] = self._failed.get(batch, 0) + failed
        bar = self._bars[batch]
        if failed:
            bar.set_postfix_str(f"{self._failed[batch]} failed", refresh=False)
        bar.update()


def _tqdm() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that ipywidgets are not installed: the text bar it then takes is fine
        return importlib.import_module("tqdm.auto").tqdm
