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

__all__ = ["subscriber"]

logger = logging.getLogger(__name__)
_pending: set[asyncio.Future[Any]] = set()  # the loop itself holds tasks only weakly


def subscriber(module: RLM) -> Callable[[Event], None]:
    """What hears the events of one run, for the callbacks of dspy's settings and of the module."""
    callbacks = [*(dspy.settings.get("callbacks") or []), *module.callbacks]
    told: list[Callable[[Event], None]] = [_callback(callback, module) for callback in callbacks]
    told += status_messages(callbacks, module)

    def publish(event: Event) -> None:
        for tell in told:
            try:
                tell(event)
            except Exception:
                logger.warning("a callback failed", exc_info=True)

    return publish


def _callback(callback: Any, module: RLM) -> Callable[[Event], None]:
    def tell(event: Event) -> None:
        name, arguments = _named(event)
        method = getattr(callback, name, None) if name else None
        if method is None:
            return
        result = method(instance=module, **arguments)
        if inspect.isawaitable(result):
            future = asyncio.ensure_future(_guarded(result))
            _pending.add(future)
            future.add_done_callback(_pending.discard)

    return tell


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
