"""``cite``, given to the REPL where an output is evidence. The REPL gets this module's source: standard library alone.

It only makes the record; whether that is true is for the host to judge, which reads the input itself.
"""

from collections.abc import Iterable, Iterator
from typing import Any, cast

CITABLE: tuple[str, ...] = ()  # the names of the inputs; the REPL is given them


def cite(source: Any, start: int | None = None, end: int | None = None) -> dict[str, Any]:
    """Evidence for SUBMIT: ``cite(variable, start, end)``, or ``cite(text)`` for its first place in any input.

    ``variable``: an input or an item of one, itself or by name ("docs[3]", "folder['a.txt']"). Positions are those of slices:
    characters of a str; bytes of a File or Text, moved to whole characters. Raises ValueError where there is no such place.
    """
    if start is None:
        for name, text in _texts() if isinstance(source, str) and source else ():
            at, stop = _place(text, source)
            if at >= 0:
                return {"variable": name, "start": at, "end": stop, "text": source}
        raise ValueError(f"no input holds this text: {source!r:.200}")
    name, text = _named(source)
    stop = len(text) if end is None else end
    if not 0 <= start < stop <= len(text):
        units = "characters" if isinstance(text, str) else "bytes"
        raise ValueError(f"{name} has {len(text):,} {units}; [{start}:{stop}] is no span of it")
    start, stop = (start, stop) if isinstance(text, str) else text.span(start, stop)
    return {"variable": name, "start": start, "end": stop, "text": text[start:stop]}


def _texts() -> Iterator[tuple[str, Any]]:
    """(name, text) of all there is to cite, the texts of a folder's files one by one."""
    for name in CITABLE:
        value: Any = globals().get(name)
        kind = getattr(value, "_cited_as", "")
        if kind == "folder":
            for path in value.files():
                try:
                    file = value[path]
                    if b"\0" not in file.bytes(0, 8192):  # else binary
                        yield f"{name}[{path!r}]", file.text()
                except OSError:  # not to be read by this user
                    continue
        elif kind == "file":
            yield name, value.text()
        elif isinstance(value, str) or kind:
            yield name, value
        else:
            yield from ((f"{name}[{key!r}]", item) for key, item in _items(value) if isinstance(item, str))


def _items(value: Any) -> Iterable[tuple[Any, Any]]:
    if isinstance(value, dict):
        return cast("dict[Any, Any]", value).items()
    return enumerate(cast("list[Any]", value)) if isinstance(value, (list, tuple)) else ()


def _place(text: Any, wanted: str) -> tuple[int, int]:
    """Where ``wanted`` begins and ends; (-1, -1) where the text does not hold it."""
    if isinstance(text, str):
        at = text.find(wanted)
        return at, at + len(wanted)
    try:
        at = text.find(wanted)
    except UnicodeEncodeError:  # what its encoding cannot say, it does not hold
        return -1, -1
    return at, at + text.encoded_size(wanted) if at >= 0 else -1


def _named(source: Any) -> tuple[str, Any]:
    """The text meant by an input, by an item of one, or by a name of either."""
    file = _in_folder(source) if isinstance(source, str) else source
    kind, place = (getattr(file, name, "") for name in ("_cited_as", "_place"))
    if kind in ("file", "text") and place:  # wherever the code has it from
        return place, file.text() if kind == "file" else file
    for name in CITABLE:
        value: Any = globals().get(name)
        own = [(name, value)] if isinstance(value, str) else [(f"{name}[{key!r}]", item) for key, item in _items(value)]
        for place, text in own:
            if isinstance(text, str) and (source is text or (isinstance(source, str) and source == place)):
                return place, text
    raise ValueError(f"{source!r:.100} is no input and no text in one; the inputs are {', '.join(CITABLE)}")


def _in_folder(name: str) -> Any:
    """The File or Text of that name: an input, or a file in a folder that is one ("folder['a.txt']")."""
    from ast import literal_eval

    root, bracket, key = name.partition("[")
    value: Any = globals().get(root) if root in CITABLE else None
    if not bracket or getattr(value, "_cited_as", "") != "folder":
        return None if bracket else value
    try:
        return value[literal_eval(key.removesuffix("]"))]
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{name!r:.100} is no file: {error}") from None
