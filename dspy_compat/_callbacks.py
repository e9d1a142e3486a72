"""dspy callbacks hear of iterations and sub-calls: ``on_rlm_iteration_start/end``, ``on_rlm_sub_call_start/end``.

Methods of any ``dspy.utils.BaseCallback``, sync or async. One that fails is logged and is no part of the run.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import dspy

from dspy_compat._streaming import status_messages
from dszig_py.events import (
    Event,
    IterationFinished,
    IterationStarted,
    SubCallFinished,
    SubCallStarted,
)

if TYPE_CHECKING:
    from dspy_compat._module import RLM

__all__ = ["Callbacks"]

_running: set[asyncio.Future[Any]] = set()  # also those a run did not wait for: the loop itself holds tasks only weakly
FLUSH_SECONDS = 1.0  # how long a run that is over waits for asynchronous callbacks

logger = logging.getLogger(__name__)


class Callbacks:
    """What hears the events of one run, for the callbacks of dspy's settings and of the module.

    Asynchronous ones run beside the run, which waits for them at its end: ``asyncio.run`` would cancel what is left.
    """

    def __init__(self, module: RLM) -> None:
        callbacks = [*(dspy.settings.get("callbacks") or []), *module.callbacks]
        self._told: list[Callable[[Event], None]] = [self._of(callback, module) for callback in callbacks]
        self._told += status_messages(callbacks, module)
        self._pending: set[asyncio.Future[Any]] = set()

    def __call__(self, event: Event) -> None:
        for tell in self._told:
            try:
                tell(event)
            except Exception:
                logger.warning("a callback failed", exc_info=True)

    async def finished(self) -> None:
        """Return when the asynchronous ones have; one that takes longer than a second goes on alone."""
        if self._pending:
            await asyncio.wait([*self._pending], timeout=FLUSH_SECONDS)

    def _of(self, callback: Any, module: RLM) -> Callable[[Event], None]:
        def tell(event: Event) -> None:
            name, arguments = _named(event)
            method = getattr(callback, name, None) if name else None
            if method is None:
                return
            result = method(instance=module, **arguments)
            if inspect.isawaitable(result):
                future = asyncio.ensure_future(_guarded(result))
                _running.add(future)
                self._pending.add(future)
                future.add_done_callback(self._done)

        return tell

    def _done(self, future: asyncio.Future[Any]) -> None:
        self._pending.discard(future)
        _running.discard(future)


async def _guarded(result: Any) -> None:
    try:
        await result
    except Exception:
        logger.warning("a callback failed", exc_info=True)


def _named(event: Event) -> tuple[str, dict[str, Any]]:
    if isinstance(event, IterationStarted):
        return "on_rlm_iteration_start", {"call_id": event.run, "depth": event.depth, "iteration": event.index}
    if isinstance(event, IterationFinished):
        return "on_rlm_iteration_end", {"call_id": event.run, "depth": event.depth, "iteration": event.iteration}
    if isinstance(event, SubCallStarted):
        return "on_rlm_sub_call_start", {"call_id": event.id, "depth": event.depth, "kind": event.kind}
    if isinstance(event, SubCallFinished):
        return "on_rlm_sub_call_end", {"call_id": event.sub_call.id, "depth": event.depth, "sub_call": event.sub_call}
    return "", {}
