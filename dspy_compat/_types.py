"""DSPy's own kinds of inputs as values the REPL can hold: images by handle, ``SandboxSerializable`` by its own code.

An image never enters the REPL: what stands there is a handle, and ``llm_query(prompt, images=[page])`` sends the image
itself. A ``SandboxSerializable`` crosses once, as the bytes it gives, and is made inside by the assignment it gives.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

import dspy
import pydantic
from dspy.primitives.sandbox_serializable import SandboxSerializable

from dszig_py.contract import Prepared
from dszig_py.previews import preview, size_text

__all__ = ["ImageHandle", "Inputs", "prepared"]

IMAGE_NOTE = "Images are handles: llm_query(prompt, images=[handle, ...]) sends them to a model that sees."


PREVIEW_CHARS = 500  # of a value that holds images somewhere inside


@dataclass(frozen=True)
class ImageHandle:
    """What stands for an image inside the REPL."""

    image: str


@dataclass
class Inputs:
    """``values`` to bind, ``code`` to run first, ``images`` by handle, ``notes`` for the contract."""

    values: dict[str, Any] = field(default_factory=dict)
    code: list[str] = field(default_factory=list)
    images: dict[str, str] = field(default_factory=dict)

    @property
    def notes(self) -> tuple[str, ...]:
        return (IMAGE_NOTE,) if self.images else ()


def prepared(inputs: Mapping[str, Any], types: Mapping[str, Any], *, interpreted: bool) -> Inputs:
    """``inputs`` with DSPy's kinds replaced by what can be bound; everything else as it is.

    ``types``: as declared; where they say that images are somewhere inside a value, it is looked through for them.
    ``interpreted``: for an interpreter of dspy's, which lets a ``SandboxSerializable`` in as itself.
    """
    made = Inputs()
    for name, given in inputs.items():
        pictured = _holds_images(types.get(name))
        value = _as_declared(types[name], given) if pictured else given
        if isinstance(value, SandboxSerializable) and interpreted:
            made.values[name] = Prepared(value, type(value).__name__, "", _preview(value))
        elif isinstance(value, SandboxSerializable):
            made.values[name] = _serialized(made, name, value)
        elif isinstance(value, dspy.Image):
            handle = _handle(made, name, value)
            made.values[name] = Prepared(handle, "image", "", f"{handle}: {_about(value)}")
        elif isinstance(value, (list, tuple)) and value and all(isinstance(one, dspy.Image) for one in value):
            handles = [_handle(made, f"{name}[{index}]", one) for index, one in enumerate(value)]
            shown = f"[{handles[0]}, ...]" if len(handles) > 1 else f"[{handles[0]}]"
            made.values[name] = Prepared(handles, "list of images", f"{len(handles):,} items", shown)
        elif pictured and (inside := _with_handles(made, name, value, interpreted)) is not value:
            shown = preview(inside, PREVIEW_CHARS)[0]
            made.values[name] = Prepared(inside, f"{type(value).__name__} with images", size_text(inside), shown)
        else:
            made.values[name] = value
    return made


def _holds_images(tp: Any, seen: frozenset[Any] = frozenset()) -> bool:
    """Whether a type has ``dspy.Image`` anywhere in it, in the fields of models too."""
    if isinstance(tp, type) and issubclass(tp, dspy.Image):
        return True
    inner = list(get_args(tp))
    if isinstance(tp, type) and issubclass(tp, pydantic.BaseModel) and tp not in seen:
        inner += [field.annotation for field in tp.model_fields.values()]
        seen |= {tp}
    return any(_holds_images(one, seen) for one in inner)


def _as_declared(tp: Any, value: Any) -> Any:
    """With images where rows of a file hold ``{"url": ...}``. What does not fit is left for the contract to refuse."""
    try:
        return pydantic.TypeAdapter(tp).validate_python(value)
    except ValueError:
        return value


def _with_handles(made: Inputs, path: str, value: Any, data: bool) -> Any:
    """``value`` with a handle in place of each image, named by its ``path``; the same object where there is none.

    ``data``: models become dicts, as they do in dspy's interpreters anyway; pydantic cannot write one with a handle in it.
    """
    if isinstance(value, dspy.Image):
        return _handle(made, path, value)
    if isinstance(value, Mapping):
        parts = {key: _with_handles(made, f"{path}[{key!r}]", one, data) for key, one in value.items()}
        return parts if any(part is not value[key] for key, part in parts.items()) else value
    if isinstance(value, (list, tuple)):
        items = [_with_handles(made, f"{path}[{index}]", one, data) for index, one in enumerate(value)]
        return items if any(new is not old for new, old in zip(items, value, strict=True)) else value
    if isinstance(value, pydantic.BaseModel):
        fields = {name: getattr(value, name) for name in type(value).model_fields}
        made_of = {name: _with_handles(made, f"{path}.{name}", one, data) for name, one in fields.items()}
        changed = {name: one for name, one in made_of.items() if one is not fields[name]}
        if not changed:
            return value
        return {**fields, **changed} if data else value.model_copy(update=changed)
    return value


def _handle(made: Inputs, name: str, image: dspy.Image) -> ImageHandle:
    made.images[name] = image.url
    return ImageHandle(name)


def _about(image: dspy.Image) -> str:
    kind, _, data = image.url.partition(",")
    return (
        f"{kind.partition(';')[0].removeprefix('data:')}, {len(data):,} characters of data" if data else image.url[:200]
    )


def _serialized(made: Inputs, name: str, value: SandboxSerializable) -> Prepared:
    payload = value.to_sandbox()
    try:
        data: Any = payload.decode("utf-8") if isinstance(payload, bytes) else str(payload)
    except UnicodeDecodeError:
        data = payload
    setup = value.sandbox_setup()
    raw = f"_raw_{name}"
    made.code.append(
        "\n".join(part for part in (f"{raw} = {name}", setup, value.sandbox_assignment(name, raw)) if part)
    )
    return Prepared(data, type(value).__name__, "", _preview(value))


def _preview(value: SandboxSerializable) -> str:
    setup = value.sandbox_setup()
    return value.rlm_preview() + (f"\n     already run: {setup}" if setup else "")
