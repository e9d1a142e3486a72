"""One REPL for one run after the other, seen from the host: what is bound again, and what a snapshot holds."""

from __future__ import annotations

from typing import Any, cast

from dszig_py.environments import inputs
from dszig_py.environments._worker import codec
from dszig_py.environments.base import Snapshot

__all__ = ["again", "snapshot"]

_MAX_NAMES = 10_000


def again(before: inputs.Packed, packed: inputs.Packed, most: int) -> dict[str, Any] | None:
    """The inputs of the next run for a worker that has those of the one before; ``None`` where they do not fit a frame.

    Small values are sent; of the large ones only those that are not the very object that was bound before.
    """
    if [passed.value for passed in before.opened] != [passed.value for passed in packed.opened]:
        # Descriptors come with a worker's start; those of the very same contract are there.
        return None
    known = dict(before.packs)
    same = [name for name, pack in packed.packs if known.get(name) is pack]
    fresh = [(name, pack) for name, pack in packed.packs if name not in same]
    if sum(pack.size for _, pack in fresh) > most // 2 or any(pack.kind == "pickle" for _, pack in fresh):
        return None
    values = [*packed.inline, *([name, codec.encode(pack.value)] for name, pack in fresh)]
    return {"values": values, "again": same}


def snapshot(frame: dict[str, Any]) -> Snapshot:
    """What a worker says it holds. Untrusted: kept as it came where it is well formed, and decoded by workers only."""
    given, lost = frame.get("values"), frame.get("lost")
    pairs = cast("list[Any]", given)[:_MAX_NAMES] if isinstance(given, list) else []
    values = [(pair[0], pair[1]) for pair in pairs if _is_pair(pair)]
    named = cast("dict[str, Any]", lost) if isinstance(lost, dict) else {}
    kinds = {name: kind[:200] for name, kind in list(named.items())[:_MAX_NAMES] if isinstance(kind, str)}
    return Snapshot(tuple(values), kinds)


def _is_pair(pair: Any) -> bool:
    if not isinstance(pair, list) or len(cast("list[Any]", pair)) != 2:
        return False
    name = cast("object", pair[0])
    return isinstance(name, str) and name.isidentifier() and not name.startswith("_")
