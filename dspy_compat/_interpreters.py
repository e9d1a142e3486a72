"""Where the code runs: our environment, or a DSPy interpreter where one is asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import dspy

from dspy_compat._facade import OwnEnvironment
from dszig_py import environments
from dszig_py.errors import InputError
from dszig_py.skills import with_packages

if TYPE_CHECKING:
    from dspy_compat._module import RLM
    from dszig_py.environments.base import Environment

__all__ = ["NotAnInterpreter", "check_factory", "chosen_factory", "environment", "is_interpreter", "runtime_notes"]


class NotAnInterpreter(InputError, TypeError):
    """A factory made something that is no ``dspy.CodeInterpreter``."""


def check_factory(factory: Any) -> None:
    """Dspy's own rules: a zero-argument callable, not an interpreter, its instructions text. Raises ``TypeError``."""
    if factory is None:
        return
    if not callable(factory) or (isinstance(factory, dspy.CodeInterpreter) and not isinstance(factory, type)):
        raise TypeError("interpreter_factory must be a callable that creates an interpreter, such as its class")
    if not isinstance(getattr(factory, "execution_instructions", ""), str):
        raise TypeError("interpreter_factory.execution_instructions must be a string")


def chosen_factory(module: RLM, factory: Any) -> Any:
    """What is asked for in the call, in the constructor, in dspy's settings; ``None`` where nothing is.

    ``dspy.PythonInterpreter`` in the constructor gives way to the settings: dspy's class has it there as its default.
    """
    own, configured = module._interpreter_factory, dspy.settings.get("interpreter_factory")
    if own is dspy.PythonInterpreter and configured is not None:
        own = None
    chosen = next((one for one in (factory, own, configured) if one is not None), None)
    check_factory(chosen)
    return chosen


def is_interpreter(chosen: Any) -> bool:
    """Whether DSPy's interpreters run the code."""
    return chosen is not None and not isinstance(chosen, OwnEnvironment)


def environment(module: RLM, chosen: Any) -> Environment:
    """A DSPy interpreter where one is asked for; else ours, also for an RLM nested in a REPL of ours."""
    if not is_interpreter(chosen):
        given = environments.resolve(module.environment if chosen is None else chosen.environment)
        return with_packages(given, module.skills)
    from dszig_py.environments.interpreter import InterpreterEnvironment

    return InterpreterEnvironment(_checked(chosen))


def runtime_notes(chosen: Any) -> tuple[str, ...]:
    """What a factory says of its runtime, for the contract."""
    told = getattr(chosen, "execution_instructions", "") if is_interpreter(chosen) else ""
    return (told.strip(),) if told.strip() else ()


def _checked(factory: Callable[[], Any]) -> Callable[[], Any]:
    def make() -> Any:
        interpreter = factory()
        if not isinstance(interpreter, dspy.CodeInterpreter):
            raise NotAnInterpreter(f"interpreter must implement CodeInterpreter, not {type(interpreter).__name__}")
        return interpreter

    return make
