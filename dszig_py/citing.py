"""``cite``, given to the REPL where an output is evidence. The REPL gets this module's source: standard library alone.

It only makes the record; whether that is true is for the host to judge, which reads the input itself.
"""

from collections.abc import Iterable, Iterator
from typing import Any, cast

CITABLE: tuple[str, ...] = ()  # the names of the inputs; the REPL is given them


def cite(source: Any, start: int | None = None, end: int | None = None) -> dict[str, Any]:
    """Evidence for SUBMIT: ``cite(variable, start, end)``, or ``cite(text)`` for its first place in any input.

    ``variable``: an input or an item of one, itself or by name ("docs[3]"). Raises ValueError where there is no such place.
    """
    if start is None:
        for name, text in _texts():
            at = text.find(source) if isinstance(source, str) and source else -1
            if at >= 0:
                return {"variable": name, "start": at, "end": at + len(source), "text": source}
        raise ValueError(f"no input holds this text: {source!r:.200}")
    for name, text in _texts():
        if source is text or (isinstance(source, str) and source == name):
            stop = len(text) if end is None else end
            if not 0 <= start < stop <= len(text):
                raise ValueError(f"{name} has {len(text):,} characters; [{start}:{stop}] is no span of it")
            return {"variable": name, "start": start, "end": stop, "text": text[start:stop]}
    raise ValueError(f"{source!r:.100} is no input and no text in one; the inputs are {', '.join(CITABLE)}")


def _texts() -> Iterator[tuple[str, str]]:
    for name in CITABLE:
        value: Any = globals().get(name)
        if isinstance(value, str):
            yield name, value
        else:
            yield from ((f"{name}[{key!r}]", item) for key, item in _items(value) if isinstance(item, str))


def _items(value: Any) -> Iterable[tuple[Any, Any]]:
    if isinstance(value, dict):
        return cast("dict[Any, Any]", value).items()
    return enumerate(cast("list[Any]", value)) if isinstance(value, (list, tuple)) else ()
