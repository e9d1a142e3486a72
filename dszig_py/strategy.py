"""How a run works, as data: which prompt, what is shown, what the code may call."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

__all__ = ["Strategy"]


class Strategy(BaseModel):
    """Choices that change how a run goes, not what it delivers.

    ``prompt``: which instructions; "cost_aware" asks for few and well packed sub-calls, "small_context" is for models with
    windows of some 8,000 to 32,000 tokens. ``show``: inputs shown whole in the prompt, up to 20,000 characters each (they
    are variables as well). ``sub_calls``: whether code may call models. ``helpers``: whether the REPL has peek, tail,
    chunk and search for texts. ``route``: "direct" answers by one typed call with the inputs in its prompt, "loop" (and
    ``None``) by code in the REPL, "auto" by the call where the inputs are under a quarter of the model's window, going on
    with the loop where it fails; all under the same budget. ``max_history_chars``: characters of earlier iterations in one
    prompt; older observations are shortened in steps. ``compact_at``: when the history has grown to that many characters,
    or to that share of the model's window where it is under 1, a model replaces it by a summary. ``max_query_chars``:
    characters of one sub-call's prompt; a longer one is refused with a word on splitting it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    prompt: Literal["default", "cost_aware", "small_context"] = "default"
    show: tuple[str, ...] = ()
    sub_calls: bool = True
    helpers: bool = False
    route: Literal["auto", "direct", "loop"] | None = None
    max_history_chars: int = Field(default=60_000, ge=2_000)
    compact_at: float | None = Field(default=None, gt=0)
    max_query_chars: int | None = Field(default=None, ge=1)

    @field_validator("compact_at")
    @classmethod
    def _characters_or_share(cls, value: float | None) -> float | None:
        if value is not None and 1 <= value < 2_000:
            raise ValueError("compact_at is a share of the model's window below 1, or at least 2,000 characters")
        return value
