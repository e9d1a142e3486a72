"""What of a REPL can be kept: the variables that the codec can hold, and the names of the rest. Standard library only."""

from __future__ import annotations

import types
from typing import Any


def snapshot(repl: Any, codec: Any, most: int) -> tuple[list[list[Any]], dict[str, str]]:
    """([name, encoded], ...) of at most ``most`` bytes in all, and name -> type of what cannot be kept.

    Inputs are left out: whoever gave them has them. ``codec`` is handed in, for a worker knows it by another name.
    """
    values: list[list[Any]] = []
    lost: dict[str, str] = {}
    room = codec.MAX_VALUES // 2
    for name in repl.names():
        if name in repl.inputs:
            continue
        value = repl.namespace.get(name)
        kind = type(value).__name__
        try:
            if isinstance(value, (types.ModuleType, type)) or callable(value):
                raise TypeError
            encoded = codec.encode_strictly(value)
            data = codec.dumps(encoded)
            size, count = len(data) + len(name), 1 if isinstance(encoded, str) else _count(data)
        except BaseException:  # the value's own code may raise anything
            lost[name[:100]] = kind
            continue
        if size > most or count > room:
            lost[name[:100]] = f"{kind} of {size:,} bytes"
            continue
        most -= size
        room -= count
        values.append([name, encoded])
    return values, lost


def _count(data: bytes) -> int:
    """Values in JSON, commas in texts taken for more of them: a frame may hold no more than the host will build."""
    return 1 + data.count(b",") + data.count(b"[") + data.count(b"{")
