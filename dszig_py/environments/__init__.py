"""Where model-written code runs. :func:`resolve` turns ``RLM(environment=...)`` into an :class:`Environment`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dszig_py.errors import InputError

if TYPE_CHECKING:
    from dszig_py.environments.base import Environment

__all__ = ["resolve"]

NAMES = ("auto", "process")


def resolve(environment: Any) -> Environment:
    """The environment behind a name, or the one given. Raises :class:`InputError` for anything else."""
    if isinstance(environment, str):
        if environment in ("auto", "process"):
            from dszig_py.environments.process import ProcessEnvironment

            return ProcessEnvironment()
        raise InputError(f"unknown environment {environment!r}; known: {', '.join(NAMES)}")
    if hasattr(environment, "open") and hasattr(environment, "name"):
        return environment
    raise InputError(
        f"environment takes a name ({', '.join(NAMES)}) or an Environment, not {type(environment).__name__}"
    )
