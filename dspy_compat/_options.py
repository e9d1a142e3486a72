"""The options of an RLM that a saved state carries along, besides what its predictors have learned."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal

from dszig_py import Budget, Strategy

__all__ = ["Option", "Options"]

_ALLOWED = {
    "on_failure": ("return", "raise"),
    "on_limit": ("partial", "raise"),
    "trace_steps": ("taught", "all"),
}


@dataclass
class Options:
    """Shared by a module and its ``generate_action``, through which it gets into states: dspy asks predictors alone.

    Models, tools, environments and callables are code, and stay out. Raises ``ValueError`` for a value that is none.
    """

    budget: Budget = field(default_factory=Budget)
    strategy: Strategy = field(default_factory=Strategy)
    max_output_chars: int = 10_000
    on_failure: Literal["return", "raise"] = "return"
    on_limit: Literal["partial", "raise"] = "partial"
    trace_steps: Literal["taught", "all"] = "taught"

    def __post_init__(self) -> None:
        for name, allowed in _ALLOWED.items():
            if (given := getattr(self, name)) not in allowed:
                raise ValueError(f"{name} is {allowed[0]!r} or {allowed[1]!r}, not {given!r}")
        if not isinstance(self.max_output_chars, int):
            raise ValueError(f"max_output_chars is a number of characters, not {self.max_output_chars!r}")  # noqa: TRY004 as dspy's own class

    def dump(self) -> dict[str, Any]:
        """What differs from the defaults, as data JSON can hold."""
        changed = {name: getattr(self, name) for name in _plain() if getattr(self, name) != getattr(Options, name)}
        models = {name: getattr(self, name).model_dump(mode="json", exclude_unset=True) for name in _MODELS}
        return {**{name: told for name, told in models.items() if told}, **changed}

    def load(self, saved: dict[str, Any]) -> None:
        """Take over what was saved, except where this program was given a value of its own: its code comes last.

        So a state keeps budget and options, and one loaded into an RLM of other limits cannot lift them.
        """
        for name, kind in _MODELS.items():
            own = getattr(self, name)
            setattr(self, name, kind.model_validate({**saved.get(name, {}), **own.model_dump(exclude_unset=True)}))
        for name in _plain():
            if name in saved and getattr(self, name) == getattr(Options, name):
                setattr(self, name, saved[name])
        self.__post_init__()


_MODELS = {"budget": Budget, "strategy": Strategy}


def _plain() -> list[str]:
    return [f.name for f in fields(Options) if f.name not in _MODELS]


class Option:
    """An attribute of the module that stands in its ``options``."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, module: Any, owner: type | None = None) -> Any:
        return self if module is None else getattr(module.options, self._name)

    def __set__(self, module: Any, value: Any) -> None:
        setattr(module.options, self._name, value)
