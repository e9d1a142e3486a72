"""How a run works, as data: which prompt, what is shown, what the code may call."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["Strategy"]


class Strategy(BaseModel):
    """Choices that change how a run goes, not what it delivers.

    ``prompt``: which instructions. ``show``: inputs shown whole in the prompt, up to 20,000 characters each (they are
    variables as well). ``sub_calls``: whether code may call models. ``route``: "direct" answers by one typed call with the
    inputs in its prompt, "loop" (and ``None``) by code in the REPL, "auto" by the call where the inputs are under a quarter
    of the model's window, going on with the loop where it fails; all under the same budget. ``max_history_chars``:
    characters of earlier iterations in one prompt; older observations are shortened in steps.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: Literal["default"] = "default"
    show: tuple[str, ...] = ()
    sub_calls: bool = True
    route: Literal["auto", "direct", "loop"] | None = None
    max_history_chars: int = Field(default=60_000, ge=2_000)
