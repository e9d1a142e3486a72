"""Typed sub-calls: a signature and inputs in, one JSON reply out, validated; classes of the cell included.

A class that the model defined in its cell exists in the worker only. Here it is a stand-in that carries its JSON schema
and takes any value; the worker builds the real instance, and asks again with the error where that fails. So no class is
ever rebuilt from what untrusted code says of it (predict-rlm rebuilds them on the host).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from pydantic_core import CoreSchema, core_schema

from dszig_py import images
from dszig_py.environments._worker import codec
from dszig_py.errors import SignatureError
from dszig_py.files import asked_for
from dszig_py.outputs import Collection
from dszig_py.replies import read_json
from dszig_py.signature import Signature
from dszig_py.validation import adapter, coerce

__all__ = ["BadReply", "Task", "json_schema", "read", "value_text"]

_MARK = "x-class-of-the-cell"
_MAX_CLASSES = 200  # of a cell; each is a class here, made while nothing else runs


class BadReply(ValueError):
    """A model's reply does not fit the signature; the message goes back to it."""


@dataclass(frozen=True)
class Task:
    """One typed sub-call: its signature, and the JSON schema its reply should follow."""

    signature: Signature
    schema: Mapping[str, Any]

    @classmethod
    def of(cls, text: Any, classes: Mapping[str, Any]) -> Task:
        """``classes``: JSON schemas of classes from the cell. Raises :class:`SignatureError`."""
        if not isinstance(text, str):
            kind = type(text).__name__
            raise SignatureError(f'the first argument is a signature such as "text -> label: str", not {kind}')
        if len(classes) > _MAX_CLASSES:
            raise SignatureError(f"{len(classes)} classes for one sub-call; at most {_MAX_CLASSES}")
        signature = Signature.parse(text, types={name: _stand_in(name) for name in classes})
        if any(asked_for(f.type) for f in (*signature.inputs, *signature.outputs)):
            # What the code names is no path of the caller's: a child's File would be opened by this process.
            raise SignatureError("a sub-call takes and gives no File, Folder, Path or Text; pass its text as a str")
        if any(images.beside_others(f.type) for f in signature.inputs):
            # A text that code gives as the text it may be would be the path of an image where a child's input is judged.
            raise SignatureError("a sub-call takes an image as such: declare Image, Image | None, or list[Image]")
        if any(images.asked_for(f.type) for f in signature.outputs):
            raise SignatureError("a sub-call takes images and gives none: declare the output str")
        return cls(signature, json_schema(signature, classes))


def _stand_in(name: str) -> type:
    """A class that takes any value; in JSON schemas it is a mark that :func:`json_schema` puts the real schema at."""

    def core(_cls: Any, _source: Any, _handler: Any) -> CoreSchema:
        return core_schema.any_schema()

    def shown(_cls: Any, _core: Any, _handler: Any) -> dict[str, Any]:
        return {_MARK: name}

    members = {
        "__get_pydantic_core_schema__": classmethod(core),
        "__get_pydantic_json_schema__": classmethod(shown),
    }
    return type(name, (), members)


def json_schema(signature: Signature, classes: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON schema of an object with the signature's outputs; definitions of nested classes stand at its top."""
    definitions: dict[str, Any] = {}
    for name, schema in classes.items():
        definitions[name] = _lifted(schema, definitions)
    properties: dict[str, Any] = {}
    for f in signature.outputs:
        schema = _lifted(adapter(f.type).json_schema(), definitions)
        properties[f.name] = {**schema, **({"description": f.desc} if f.desc else {})}
    names = [f.name for f in signature.outputs]
    whole: dict[str, Any] = {
        "type": "object",
        "properties": properties,
        "required": names,
        "additionalProperties": False,
    }
    return {**whole, "$defs": definitions} if definitions else whole


def _lifted(node: Any, definitions: dict[str, Any]) -> Any:
    """``node`` with every ``$defs`` moved to ``definitions``, since references count from the top, and marks replaced."""
    if isinstance(node, list):
        return [_lifted(item, definitions) for item in cast("list[Any]", node)]
    if not isinstance(node, dict):
        return node
    table = dict(cast("dict[str, Any]", node))
    if _MARK in table:
        return {"$ref": f"#/$defs/{table[_MARK]}"}
    for name, definition in cast("dict[str, Any]", table.pop("$defs", {})).items():
        definitions[name] = _lifted(definition, definitions)
    return {key: _lifted(value, definitions) for key, value in table.items()}


def read(signature: Signature, text: str) -> dict[str, Any]:
    """The outputs in a reply. Raises :class:`BadReply` naming every field that does not fit."""
    outputs = signature.outputs
    found = read_json(text)
    if found is None or not any(f.name in found for f in outputs):
        if len(outputs) == 1 and outputs[0].type is str and found is None and text.strip():
            return {outputs[0].name: text.strip()}
        raise BadReply(f"the reply is not a JSON object with the keys {', '.join(f.name for f in outputs)}")
    values: dict[str, Any] = {}
    problems: list[str] = []
    context = Collection(None).context  # a path in a reply is none of this process
    for f in outputs:
        if f.name not in found:
            problems.append(f"{f.name}: missing")
            continue
        try:
            values[f.name] = coerce(f.type, found[f.name], context)
        except ValueError as error:
            problems.append(f"{f.name}: {error}")
    if problems:
        raise BadReply("; ".join(problems))
    return values


def value_text(value: Any) -> str:
    """An input as a prompt shows it: text as it is, anything else as JSON."""
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, ensure_ascii=False, indent=1, default=_plain)
    except (TypeError, ValueError):
        return repr(value)


def _plain(value: Any) -> Any:
    data = codec.decode(codec.encode(value), records=codec.plain_record)
    if isinstance(data, (set, frozenset, tuple)):
        return list(cast("tuple[Any, ...]", data))
    if type(data) is dict:
        return cast("dict[str, Any]", data)
    return str(value)
