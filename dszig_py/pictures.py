"""Images on their way from code to a model: which may be sent, where they stand in a prompt, what is written down of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from dszig_py import images
from dszig_py.environments.base import CallRefused
from dszig_py.images import Image
from dszig_py.signature import Signature
from dszig_py.validation import coerce

__all__ = ["apart", "known", "of_code", "told", "urls"]


def known(signature: Signature, inputs: Mapping[str, Any], handles: Mapping[str, str]) -> dict[str, str]:
    """What code may name -> what is sent: the addresses of images among the inputs, and handles of such as are no values."""
    values = [inputs[f.name] for f in signature.inputs if images.asked_for(f.type)]
    return {**{image.address: image.address for image in images.within(values) if image.address}, **handles}


def urls(given: Any, known: Mapping[str, str]) -> tuple[str, ...]:
    """What ``llm_query(images=...)`` sends. Raises CallRefused."""
    if given is None:
        return ()
    if not isinstance(given, (list, tuple)):
        raise CallRefused("images takes a list of images", "TypeError")
    return tuple(_judged(Image, one, "images", known).url for one in cast("list[Any]", given))


def of_code(signature: Signature, given: Mapping[str, Any], known: Mapping[str, str]) -> dict[str, Any]:
    """The inputs of a sub-call, with what code hands over for an image made one. Raises CallRefused."""
    types = {f.name: f.type for f in signature.inputs if images.asked_for(f.type)}
    return {n: _judged(types[n], value, n, known) if n in types else value for n, value in given.items()}


def _judged(tp: Any, value: Any, name: str, known: Mapping[str, str]) -> Any:
    try:
        return coerce(tp, value, {images.CODE: known})
    except ValueError as error:
        raise CallRefused(f"{name}: {error}", "ValueError") from None


def apart(signature: Signature, inputs: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Inputs with each image replaced by its number, and the images by number: providers take them beside the text."""
    found: list[str] = []

    def one(value: Any) -> Any:
        if isinstance(value, Image):
            found.append(value.url)
            return f"(image {len(found)})"
        if isinstance(value, Mapping):
            return {key: one(item) for key, item in cast("Mapping[Any, Any]", value).items()}
        if isinstance(value, (list, tuple)):
            return [one(item) for item in cast("list[Any]", value)]
        return value

    # By the declared types: to look through every value for an image takes as long as to print it.
    types = {f.name: f.type for f in signature.inputs}
    shown = {name: one(value) if images.asked_for(types.get(name)) else value for name, value in inputs.items()}
    return shown, tuple(found)


def told(prompt: Any, sent: tuple[str, ...]) -> Any:
    """A prompt as the trajectory keeps it: of each image its kind and size, never its data."""
    return "\n".join([str(prompt), *(f"[image {images.about(url)}]" for url in sent)]) if sent else prompt
