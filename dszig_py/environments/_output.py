"""Whose output is it? While cells run in this process, ``sys.stdout`` and ``sys.stderr`` pass each write on to the REPL
it comes from, and every other write to where it went before.

A REPL is known by a context variable (its own thread, coroutines, ``asyncio.to_thread``), else by its code on the stack
of the writing thread: its frames have builtins of their own. So a thread that cells start needs no patch of
``threading``; one that runs library code alone, with no frame of a cell beneath it, writes to the real stream.
"""

from __future__ import annotations

import contextvars
import sys
import threading
import types
from dataclasses import dataclass
from typing import Any

from dszig_py.environments._worker import cell

__all__ = ["Writer", "current", "enter", "is_ours", "leave"]


@dataclass(eq=False)
class Writer:
    """Where the cells of one REPL write now."""

    output: cell.Output


current: contextvars.ContextVar[Writer | None] = contextvars.ContextVar("dszig_py.output", default=None)

_lock = threading.Lock()
_writers: dict[
    int, tuple[dict[str, Any], Writer]
] = {}  # by the id of a REPL's builtins, kept here so that it stays theirs
_previous_hook: Any = None


class _Stream:
    """Stands for one of the two streams; everything but the choice of a target is the target's business."""

    def __init__(self, real: Any) -> None:
        self.real = real

    def _target(self) -> Any:
        return (current.get() or _on_stack(sys._getframe(2)) or self).output

    @property
    def output(self) -> Any:
        return self.real

    def write(self, text: str) -> int:
        target = self._target()
        return len(text) if target is None else target.write(text)

    def flush(self) -> None:
        target = self._target()
        if target is not None:
            target.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target(), name)


# The last of each, kept: print() borrows sys.stdout, and crashes where another thread ends the REPL whose stream it was.
_streams: dict[str, _Stream] = {}


def enter(builtins: dict[str, Any], writer: Writer) -> None:
    """Take what code with these builtins writes to ``writer``, from now on."""
    with _lock:
        _writers[id(builtins)] = (builtins, writer)
        for name in ("stdout", "stderr"):
            if not is_ours(real := getattr(sys, name)):
                if name not in _streams or _streams[name].real is not real:
                    _streams[name] = _Stream(real)
                setattr(sys, name, _streams[name])
        _hook()


def leave(builtins: dict[str, Any]) -> None:
    """The end of that; with the last REPL the streams are what they were."""
    with _lock:
        _writers.pop(id(builtins), None)
        if _writers:
            return
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if isinstance(stream, _Stream):  # else somebody put another in its place, and will put it back
                setattr(sys, name, stream.real)
        _unhook()


def is_ours(stream: Any) -> bool:
    return isinstance(stream, _Stream)


def _on_stack(frame: types.FrameType | None) -> Writer | None:
    while frame is not None:
        if (found := _writers.get(id(frame.f_builtins))) is not None:
            return found[1]
        frame = frame.f_back
    return None


def _hook() -> None:
    global _previous_hook
    if threading.excepthook is not _thread_failed:
        _previous_hook, threading.excepthook = threading.excepthook, _thread_failed


def _unhook() -> None:
    if threading.excepthook is _thread_failed:
        threading.excepthook = _previous_hook


def _thread_failed(args: threading.ExceptHookArgs) -> None:
    """A thread of a cell ended by an exception: shown where the cell's output is, and an accepted SUBMIT is none."""
    if args.exc_type is cell.Submitted:
        return
    trace = args.exc_traceback
    while trace is not None:
        if (writer := _on_stack(trace.tb_frame)) is not None and args.exc_value is not None:
            name = args.thread.name if args.thread is not None else "?"
            writer.output.write(f"Exception in thread {name}:\n{cell.describe(args.exc_value)}\n")
            return
        trace = trace.tb_next
    _previous_hook(args)
