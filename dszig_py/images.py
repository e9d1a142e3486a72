"""Images as values: the type of a field, what code in the REPL hands to sub-calls, and the form in which a model gets them.

An image crosses into the REPL by value, as its bytes, so that code can cut and combine it where a library for that is
allowed; a sub-call sends what the code hands back. One that is known by its address only stays there: the provider fetches
it, and code can send no other address than those it was given, which could carry data out.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Union, cast, get_args, get_origin

from dszig_py.errors import InputError

if TYPE_CHECKING:
    from dszig_py.signature import Signature

__all__ = ["CODE", "Image", "about", "asked_for", "beside_others", "refused", "within"]

CODE = (
    "dszig.code"  # in pydantic's context: the value comes from code, which may name these images, by address or handle
)
MOST = 20 * 1024 * 1024  # bytes of one image; providers take 5 to 20 MB
_KINDS = ((b"\x89PNG\r\n\x1a\n", "image/png"), (b"\xff\xd8\xff", "image/jpeg"), (b"GIF8", "image/gif"))
_DATA = re.compile(r"data:(image/[\w.+-]+);base64,", re.ASCII)
_ADDRESS = re.compile(r"https?://", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Image:
    """A picture: its bytes (PNG, JPEG, GIF, WebP), or the address a provider fetches it from. :meth:`of` makes one of
    whatever there is.

    Raises :class:`InputError` where the bytes are of no such kind and ``media_type`` does not say of which.
    """

    data: bytes = field(default=b"", repr=False)
    media_type: str = ""
    address: str = ""

    def __post_init__(self) -> None:
        if bool(self.data) == bool(self.address):
            raise InputError("an image has data or an address, one of them")
        if len(self.data) > MOST:
            raise InputError(f"an image of {len(self.data):,} bytes; at most {MOST:,} can be sent")
        if self.data and not self.media_type:
            object.__setattr__(self, "media_type", _kind(self.data))
        if self.address and not _ADDRESS.match(self.address):
            raise InputError("an image's address begins with http:// or https://")

    @classmethod
    def of(cls, source: Any) -> Image:
        """``source``: an ``Image``, bytes, a path, an http or data URL (as text, or as the ``url`` of what has one, such as
        ``dspy.Image``). Files are read now. Raises :class:`InputError`.
        """
        if isinstance(source, cls):
            return source
        if isinstance(source, (bytes, bytearray)):
            return cls(bytes(source))
        if isinstance(url := getattr(source, "url", None), str):
            source = url
        if isinstance(source, str) and (found := _DATA.match(source)):
            return cls(_bytes(source[found.end() :]), found[1])
        if isinstance(source, str) and _ADDRESS.match(source):
            return cls(address=source)
        if isinstance(source, (str, os.PathLike)):
            return cls._read(Path(cast("str", source)))
        raise InputError(f"pass an Image, bytes, a path or a URL, not a {type(cast('object', source)).__name__}")

    @classmethod
    def _read(cls, path: Path) -> Image:
        try:
            with path.expanduser().open("rb") as file:
                return cls(file.read(MOST + 1))
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or error
            raise InputError(f"{str(path)[:200]!r} is no image: {why}") from None

    @property
    def url(self) -> str:
        """What a model's provider takes: the address, or the bytes as a data URL."""
        return self.address or f"data:{self.media_type};base64,{base64.b64encode(self.data).decode('ascii')}"

    @property
    def about(self) -> str:
        """In words: "image/png, 34 KB"."""
        return f"at {self.address[:200]}" if self.address else f"{self.media_type}, {_size(len(self.data))}"

    def __repr__(self) -> str:
        return f"Image({self.about})"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        return core_schema.with_info_plain_validator_function(cls._judged)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: Any) -> Any:
        return {"type": "string", "description": "an image"}

    @classmethod
    def _judged(cls, value: Any, info: Any) -> Any:
        context: Any = info.context
        if context and CODE in context:
            return _of_code(value, context[CODE])
        if isinstance(value, Mapping):  # what a journal or a results file holds
            return cls(**cast("Mapping[str, Any]", value))
        return cls.of(value)


def _of_code(value: Any, known: Mapping[str, str]) -> Image:
    """The image that code hands over: bytes, or what it was given. Never a path: that would be one of this process."""
    if isinstance(value, Mapping):
        fields = cast("Mapping[str, Any]", value)
        for name in (fields.get("address"), fields.get("image")):
            if isinstance(name, str) and name in known:
                return Image.of(known[name])
        if handle := fields.get("image"):
            raise ValueError(f"no image input is called {handle!r:.100}")
        value = fields.get("data")
    if not isinstance(value, (bytes, bytearray)) or not value:
        raise ValueError("pass an image that is an input, or the bytes of a PNG, JPEG, GIF or WebP")
    return Image(bytes(value))


def _kind(data: bytes) -> str:
    for start, kind in _KINDS:
        if data.startswith(start):
            return kind
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "image/webp"
    raise InputError("these bytes are no PNG, JPEG, GIF or WebP")


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError(f"a data URL that cannot be read: {error}") from None


def _size(count: int) -> str:
    for size, unit in ((1_000_000, "MB"), (1_000, "KB")):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count} bytes"


def about(url: str) -> str:
    """What is told of an image in place of its data."""
    found = _DATA.match(url)
    return f"{found[1]}, {_size((len(url) - found.end()) * 3 // 4)}" if found else f"at {url[:200]}"


def asked_for(tp: Any) -> bool:
    """Whether a type holds images, anywhere in it."""
    return tp is Image or any(asked_for(arg) for arg in get_args(tp))


def beside_others(tp: Any) -> bool:
    """Whether a value of a type may be an image or something else, anywhere in it; ``None`` is nothing else."""
    args = [arg for arg in get_args(tp) if arg is not NoneType]
    if get_origin(tp) in (Union, UnionType) and any(map(asked_for, args)) and not all(map(asked_for, args)):
        return True
    return any(map(beside_others, args))


def within(value: Any) -> Iterator[Image]:
    """The images in a value of such a type, in order."""
    if isinstance(value, Image):
        yield value
    elif isinstance(value, Mapping):
        for item in cast("Mapping[Any, Any]", value).values():
            yield from within(item)
    elif isinstance(value, (list, tuple, set, frozenset)):
        for item in cast("list[Any]", value):
            yield from within(item)


def refused(signature: Signature, environment: str) -> None:
    """Raise :class:`InputError` for inputs that are images where an environment cannot hold them."""
    if names := [f.name for f in signature.inputs if asked_for(f.type)]:
        raise InputError(
            f'input {names[0]!r} is an image, which environment="{environment}" cannot hold; use environment="process"'
        )
