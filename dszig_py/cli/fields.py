"""Input fields from the command line: a text, ``@file``, ``-`` for stdin, or JSON objects for several at once."""

from __future__ import annotations

import difflib
import json
import os
import re
import stat
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import click

from dszig_py.documents import FORMATS, read_document
from dszig_py.errors import InputError
from dszig_py.files import wanted
from dszig_py.images import Image, asked_for
from dszig_py.signature import Field, Signature, type_text
from dszig_py.validation import coerce

_BINARY = ("pdf", "docx", "xlsx")  # HTML is text as well, and its tags may be what is asked about

__all__ = ["Standard", "read_inputs"]


class Standard:
    """Standard input: readable once, by one field."""

    def __init__(self) -> None:
        self.taken_by = ""

    def read(self, taker: str) -> bytes:
        if self.taken_by:
            raise click.UsageError(f"{taker}: stdin is already read by {self.taken_by}; only one field can take it")
        self.taken_by = taker
        return b"" if sys.stdin is None else sys.stdin.buffer.read()

    @property
    def piped(self) -> bool:
        """Whether something was connected to be read. A terminal or /dev/null was not; a device may never end."""
        try:
            mode = os.fstat(sys.stdin.fileno()).st_mode
        except (AttributeError, OSError, ValueError):  # no stdin, or not a real file
            return False
        return stat.S_ISFIFO(mode) or stat.S_ISREG(mode) or stat.S_ISSOCK(mode)


def read_inputs(
    signature: Signature,
    options: Mapping[str, str],
    inline: str | None,
    file: str | None,
    standard: Standard,
    *,
    partial: bool = False,
) -> dict[str, Any]:
    """The inputs of a run. ``options`` (field -> text as typed) win over ``inline`` and ``file``, both JSON objects.

    ``partial``: some may be missing, an earlier call having given them.
    Raises :class:`click.UsageError` for whatever is missing, unknown, unreadable or of the wrong type.
    """
    inputs = _objects(signature, inline, file, standard)
    fields = {f.name: f for f in signature.inputs}
    for name, text in options.items():
        inputs[name] = _value(fields[name], text, standard)
    missing = [f for f in signature.inputs if f.name not in inputs]
    if len(missing) == 1 and not standard.taken_by and standard.piped and (data := standard.read(missing[0].name)):
        inputs[missing[0].name] = _typed(missing[0], _decoded(missing[0], data, "stdin"))
        missing = []
    if missing and not partial:
        wanted = ", ".join(f"--{f.name} ({type_text(f.type)})" for f in missing)
        raise click.UsageError(f"missing input: {wanted}. A value is text, @FILE, or - for stdin")
    return inputs


def _objects(signature: Signature, inline: str | None, file: str | None, standard: Standard) -> dict[str, Any]:
    first = {} if inline is None else _object("--inputs", inline)
    second = {}
    if file is not None:
        data = standard.read("--inputs-file") if file == "-" else _file_bytes("--inputs-file", file, escape="")
        second = _object("--inputs-file", data.decode("utf-8-sig", "replace"))
    if both := sorted(first.keys() & second.keys()):
        raise click.UsageError(f"{', '.join(both)}: in --inputs and in --inputs-file; give it once")
    names = [f.name for f in signature.inputs]
    for name in (*first, *second):
        if name not in names:
            close = difflib.get_close_matches(name, names, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else f"; the inputs are {', '.join(names) or 'none'}"
            raise click.UsageError(f"no input field {name!r}{hint}")
    return {**first, **second}


def _object(option: str, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise click.UsageError(f"{option}: not JSON: {error}") from None
    if not isinstance(value, dict):
        raise click.UsageError(f'{option}: takes a JSON object of fields, such as {{"question": "..."}}')
    return cast("dict[str, Any]", value)


def _value(field: Field, text: str, standard: Standard) -> Any:
    if text == "-":
        return _typed(field, _decoded(field, standard.read(f"--{field.name}"), "stdin"))
    if text.startswith("@@"):
        return _typed(field, text[1:])
    if text.startswith("@") and asked_for(field.type) and not text.lower().endswith(".pdf"):
        return _images(field, text[1:])
    if text.startswith("@") and wanted(field.type) is not None:
        return Path(text[1:]).expanduser()  # the run opens it, and nothing reads it here
    if text.startswith("@") and FORMATS.get(os.path.splitext(text)[1].lower()) in _BINARY and field.type is not bytes:
        return _document(field, text[1:])
    if text.startswith("@"):
        return _typed(field, _decoded(field, _file_bytes(f"--{field.name}", text[1:]), text[1:]))
    return _typed(field, text)


def _images(field: Field, name: str) -> Any:
    """A picture by its path, or a list of one."""
    try:
        found = Image.of(Path(name))
    except InputError as error:
        raise click.UsageError(f"--{field.name}: {error}") from None
    return found if field.type is Image else [found]


def _document(field: Field, name: str) -> Any:
    """A PDF, Word or Excel file: its pages for a list of texts, else all of its text."""
    try:
        found = read_document(name)
    except InputError as error:
        raise click.UsageError(f"--{field.name}: {error}") from None
    return found if field.type in (str, list[str], list[Image]) else _typed(field, found.text)


def _file_bytes(option: str, name: str, escape: str = "; a text that begins with @ is written @@") -> bytes:
    if not name:
        raise click.UsageError(f"{option}: @ takes a file's name; a text that begins with @ is written @@")
    try:
        return Path(name).expanduser().read_bytes()
    except (OSError, ValueError, RuntimeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise click.UsageError(f"{option}: {name}: {why}{escape}") from None


def _decoded(field: Field, data: bytes, source: str) -> str | bytes:
    """``data`` as UTF-8 text, undecodable bytes replaced and counted on stderr; as it is for a field of bytes."""
    if field.type is bytes:
        return data
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text, count = re.subn("[\udc80-\udcff]", "\ufffd", data.decode("utf-8-sig", "surrogateescape"))
        click.echo(f"warning: {source} is not all UTF-8: {count:,} bytes were replaced by U+FFFD", err=True)
        return text


def _typed(field: Field, value: str | bytes) -> Any:
    """``value`` for the field's type: text and bytes as they are, else as JSON where that fits, else as text."""
    if field.type is str or isinstance(value, bytes):
        return value
    if field.type is bytes:
        return value.encode("utf-8", "surrogateescape")
    problem = ""
    try:
        return coerce(field.type, json.loads(value))
    except (ValueError, RecursionError) as error:
        problem = str(error)
    try:
        return coerce(field.type, value)
    except ValueError as error:
        # Text that was no JSON at all is told as text: JSON's own complaint would hide what is wanted.
        told = str(error) if problem.startswith(("Expecting", "Extra data", "Invalid")) else problem
        raise click.UsageError(f"--{field.name} is declared {type_text(field.type)}: {told}") from None
