"""DSPy's own kinds of inputs as values the REPL can hold: images by handle, ``SandboxSerializable`` by its own code.

An image never enters the REPL: what stands there is a handle, and ``llm_query(prompt, images=[page])`` sends the image
itself. A ``SandboxSerializable`` crosses once, as the bytes it gives, and is made inside by the assignment it gives.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import dspy
from dspy.primitives.sandbox_serializable import SandboxSerializable

from dszig_py.contract import Prepared

__all__ = ["ImageHandle", "Inputs", "prepared"]

IMAGE_NOTE = "Images are handles: llm_query(prompt, images=[handle, ...]) sends them to a model that sees."


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


def prepared(inputs: Mapping[str, Any], *, interpreted: bool) -> Inputs:
    """``inputs`` with DSPy's kinds replaced by what can be bound; everything else as it is.

    ``interpreted``: for an interpreter of dspy's, which lets a ``SandboxSerializable`` in as itself.
    """
    made = Inputs()
    for name, value in inputs.items():
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
        else:
            made.values[name] = value
    return made


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
