"""Waiting for what comes true in its own time, for so long that only a hang is given up, however busy the machine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

SECONDS = 60.0


def _never() -> str:
    return "it never came true"


async def eventually(true: Callable[[], object], seconds: float = SECONDS, told: Callable[[], object] = _never) -> None:
    """Until ``true()`` holds, while the loop goes on. ``told``: what to say where it does not."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, told()
        await asyncio.sleep(0.01)


def within(true: Callable[[], object], seconds: float = SECONDS, told: Callable[[], object] = _never) -> None:
    """The same without a loop."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, told()
        time.sleep(0.01)


def reached(attempt: Callable[[float], object], seconds: float) -> None:
    """Make an attempt whose limit is to strike in the middle of it: where so many seconds are over before it has come so
    far, as ``attempt`` says, once more with many more.
    """
    assert any(attempt(seconds * longer) for longer in (1, 5, 25)), "it never came so far"
