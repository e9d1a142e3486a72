"""Which way a run goes: one typed call where the inputs fit well into the model's window, else the loop.

The paper (arXiv:2512.24601) finds a recursive model slightly worse than the plain one on short inputs, and dearer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import anyio.to_thread
from pydantic.errors import PydanticUserError

from dszig_py import pictures, prompts, typed
from dszig_py.contract import Contract
from dszig_py.environments.base import CallRefused
from dszig_py.errors import InputError, LMError, SignatureError
from dszig_py.host import RunHost
from dszig_py.lm.base import IMAGE_TOKENS, LM, sees_images
from dszig_py.usage import CHARS_PER_TOKEN

__all__ = ["Route", "Unanswered", "answer", "choose", "too_long", "window_tokens"]

SHARE = 0.25  # of the window that inputs may take: models read the first quarter of it far better than the rest
ASSUMED_WINDOW = 32_000  # tokens, where nobody knows the model's
ATTEMPTS = 3

_TOO_LONG = re.compile(
    r"ContextWindowExceeded|context[ _-]?(?:length|window)|maximum (?:context|prompt|input)|(?:prompt|input) is too long"
    r"|too many (?:input )?tokens|reduce the length",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Route:
    """The way chosen and why."""

    direct: bool
    reason: str

    def __str__(self) -> str:
        return f"{'direct' if self.direct else 'loop'}: {self.reason}"


class Unanswered(Exception):
    """The direct call brought no outputs that fit; the loop may."""


async def choose(route: str, lm: LM, contract: Contract, *, tools: bool) -> Route:
    """The way for these inputs. ``tools``: the code may call functions of the user's, which one call cannot.

    Raises :class:`InputError` where what is asked for cannot be.
    """
    if contract.writes:
        if route == "direct":
            raise InputError(
                f'output {contract.writes[0]!r} is a file, which only code can write: Strategy(route="loop")'
            )
        return Route(False, "an output is a file, which only code can write")
    if route != "auto":
        return Route(route == "direct", "as asked")
    if tools:
        return Route(False, "there are tools, which only code can call")
    # In a thread: a model's window may be known only after its library is loaded, which takes seconds.
    window = await anyio.to_thread.run_sync(window_tokens, lm)
    limit = int((window or ASSUMED_WINDOW) * CHARS_PER_TOKEN * SHARE)
    known = f"the window of {window:,} tokens" if window else f"an assumed window of {ASSUMED_WINDOW:,} tokens"
    size = _size(contract, limit)
    if size > limit:
        return Route(False, f"the inputs are over {SHARE:.0%} of {known} ({limit:,} characters)")
    return Route(True, f"the inputs, {size:,} characters, are under {SHARE:.0%} of {known}")


def window_tokens(lm: Any) -> int | None:
    """Tokens a model can read at once, as it or the model it is wrapped around says; ``None`` = unknown."""
    while lm is not None:
        window: int | None = getattr(lm, "window_tokens", None)
        if window is not None:
            return window
        lm = getattr(lm, "lm", None)
    return None


def _size(contract: Contract, stop: int) -> int:
    """Characters of the inputs as a prompt would show them, counted until ``stop`` is passed."""
    values, images = pictures.apart(contract.signature, {v.name: v.value for v in contract.variables})
    total = len(images) * IMAGE_TOKENS * CHARS_PER_TOKEN
    for value in values.values():
        total += len(value) if isinstance(value, str) else len(typed.value_text(value))
        if total > stop:
            break
    return total


async def answer(host: RunHost, lm: LM, contract: Contract) -> dict[str, Any]:
    """The outputs by one typed call with the inputs in its prompt, asked again while its replies do not fit.

    Raises :class:`Unanswered`; whatever else the model fails by, and ``Exhausted``, pass through.
    """
    signature = contract.signature
    try:
        schema = typed.json_schema(signature, {})
    except (SignatureError, PydanticUserError) as error:
        raise Unanswered(f"the outputs have no JSON schema: {error}") from error
    values, images = pictures.apart(contract.signature, {v.name: v.value for v in contract.variables})
    if images and await sees_images(lm) is False:
        raise Unanswered(f"{lm.model} does not see images")
    texts = {name: typed.value_text(value).encode("utf-8", "replace").decode() for name, value in values.items()}
    request = prompts.typed_request(signature, texts, schema, images)
    error = ""
    for attempt in range(ATTEMPTS):
        asked = prompts.typed_again(request, error) if error else request
        try:
            with host.calls.recorded("direct", pictures.told(asked.prompt, images), "", attempt) as call:
                reply = await host.gate.ask(lm, asked, host.ledger, inner=False)
                call.note(reply=reply.text, model=reply.model or lm.model, usage=reply.usage, cached=reply.cached)
                try:
                    return await host.submit([], typed.read(signature, reply.text))
                except typed.BadReply as bad:
                    raise CallRefused(str(bad)) from None
        except CallRefused as refusal:
            error = str(refusal)
        except LMError as failure:
            if not too_long(failure):
                raise
            raise Unanswered(str(failure)) from failure
    raise Unanswered(f"{ATTEMPTS} replies did not fit: {error}")


def too_long(failure: LMError) -> bool:
    """Whether the provider refused a prompt for its length; providers say so in words only."""
    return _TOO_LONG.search(str(failure)) is not None
