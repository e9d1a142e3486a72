"""What opening a session takes, whatever runs it."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any, TypeVar

from dszig_py.environments import inputs
from dszig_py.errors import InputError

if TYPE_CHECKING:
    from dszig_py.contract import Contract
    from dszig_py.environments.session import WorkerSession

__all__ = ["off_loop", "packed_inputs", "size_in_bytes", "started"]

S = TypeVar("S", bound="WorkerSession")
_PLAIN = (int, float, bool, type(None))
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


async def packed_inputs(contract: Contract, modules: frozenset[str] = frozenset()) -> inputs.Packed:
    """The contract's inputs, packed off the event loop where that may take long. Raises :class:`InputError`."""
    values = {v.name: v.value for v in contract.variables}
    if all(type(value) in _PLAIN or (type(value) is str and len(value) <= inputs.SMALL) for value in values.values()):
        return inputs.pack(values, modules)
    packing = asyncio.ensure_future(off_loop(inputs.pack, values, modules))
    try:
        return await asyncio.shield(packing)
    except asyncio.CancelledError:
        packing.add_done_callback(_release)  # the thread goes on to its end
        raise


def _release(packing: asyncio.Future[inputs.Packed]) -> None:
    if not packing.cancelled() and packing.exception() is None:
        packing.result().release()


async def started(session: S) -> S:
    """The session with its worker up, or closed where that fails."""
    try:
        await session.start()
    except BaseException:
        await session.close()
        raise
    return session


def size_in_bytes(size: int | str) -> int:
    """Bytes of "512MB", "4GiB", "2g" or a number; units are powers of 1024. Raises :class:`InputError`."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?\s*", str(size), re.IGNORECASE)
    if match is None:
        raise InputError(f"memory={size!r} is no size; write a number of bytes, or text like '4GiB'")
    return int(float(match[1]) * _UNITS[match[2].upper()])


async def off_loop(function: Any, *args: Any) -> Any:
    """Run something slow in a thread of asyncio's own pool; leaf work only, so nothing can wait on itself there."""
    return await asyncio.to_thread(function, *args)
