"""Arrays and tables as a prompt shows them, known by what they offer: neither NumPy nor pandas is imported for it."""

from __future__ import annotations

from typing import Any

__all__ = ["is_array", "preview", "size"]

_COLUMNS = 20
_ROWS = 5
_ITEMS = 20
_ITEM = 80  # characters
_BOUNDED_KINDS = "biufcmM"  # of numpy.dtype.kind: numbers and dates, whose repr leaves out what is over a thousand


def is_array(value: Any) -> bool:
    """Whether ``value`` has the shape and the types of an array, a series or a table."""
    try:
        return isinstance(value.shape, tuple) and (hasattr(value, "dtype") or hasattr(value, "columns"))
    except Exception:  # most values have no shape, and a property may raise anything
        return False


def size(value: Any) -> str:
    """``shape (1000, 3), dtype float64``, or the rows and the columns with their types."""
    try:
        if not hasattr(value, "columns"):
            return f"shape {tuple(value.shape)}, dtype {value.dtype}"
        types = list(zip(value.columns, value.dtypes, strict=False))
        names = ", ".join(f"{name!s:.{_ITEM}} {tp}" for name, tp in types[:_COLUMNS])
        more = f", and {len(types) - _COLUMNS} more" if len(types) > _COLUMNS else ""
        return f"{value.shape[0]:,} rows, {len(types):,} columns: {names}{more}"
    except Exception:  # the value's own code
        return ""


def preview(value: Any, limit: int) -> tuple[str, bool]:
    """The beginning of ``value`` in at most about ``limit`` characters, and whether that is all of it."""
    try:
        text, whole = _shown(value)
    except Exception:  # the value's own code
        return f"<{type(value).__name__}>", False
    text = text.replace("\n", "\n     ")  # its lines stand under its name
    return (text, whole) if len(text) <= limit else (f"{text[:limit]} ...", False)


def _shown(value: Any) -> tuple[str, bool]:
    if hasattr(value, "head"):
        return repr(value.head(_ROWS)), value.shape[0] <= _ROWS and (len(value.shape) < 2 or value.shape[1] <= _COLUMNS)
    if value.dtype.kind in _BOUNDED_KINDS:
        return repr(value), value.size <= _ITEMS
    first = list(value.flat[:_ITEMS])
    return f"first items {[item[:_ITEM] if isinstance(item, str) else item for item in first]!r}", False
