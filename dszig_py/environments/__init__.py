"""Where model-written code runs. :func:`resolve` turns ``RLM(environment=...)`` into an :class:`Environment`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dszig_py.errors import EnvironmentFailure, InputError
from dszig_py.language import PYTHON, Language, language_of

if TYPE_CHECKING:
    from dszig_py.environments.base import Environment

__all__ = ["language", "resolve"]

NAMES = ("auto", "process", "inprocess", "docker", "script", "script+js")


def resolve(environment: Any) -> Environment:
    """The environment behind a name or a class, or the one given; "auto" is the strongest that this machine has.

    Raises :class:`InputError` for anything else, :class:`EnvironmentFailure` where "auto" finds no boundary.
    """
    if isinstance(environment, str):
        if environment not in NAMES:
            raise InputError(f"unknown environment {environment!r}; known: {', '.join(NAMES)}")
        return _named(environment)
    if hasattr(environment, "open") and hasattr(environment, "name"):
        return environment() if isinstance(environment, type) else environment
    if isinstance(environment, type):
        environment = environment.__name__
    raise InputError(
        f"environment takes a name ({', '.join(NAMES)}) or an Environment, not {type(environment).__name__}"
    )


def language(environment: Any) -> Language:
    """What code is written in where :func:`resolve` would send it, said without a look at the machine."""
    if isinstance(environment, str):
        return language_of(_named(environment)) if environment in ("script", "script+js") else PYTHON
    return language_of(environment)


def _named(name: str) -> Environment:
    if name == "inprocess":
        from dszig_py.environments.inprocess import InProcessEnvironment

        return InProcessEnvironment()
    if name == "docker":
        from dszig_py.environments.docker import DockerEnvironment

        return DockerEnvironment()
    if name.startswith("script"):
        from dszig_py.environments.script import ScriptEnvironment

        return ScriptEnvironment(js=name == "script+js")
    if name == "auto":
        return _strongest()
    from dszig_py.environments.process import ProcessEnvironment

    return ProcessEnvironment()


def _strongest() -> Environment:
    """The ladder: a worker under Landlock and seccomp, seccomp alone, or Seatbelt; a container; else a refusal.

    How strong the worker's boundary is, its session says; here counts that there is one.
    """
    from dszig_py.environments import isolation

    facts = isolation.facts()
    if isolation.has_boundary(facts):
        return _named("process")
    from dszig_py.environments.docker import DockerEnvironment

    container = DockerEnvironment()
    try:
        container.find_engine()
    except EnvironmentFailure as error:
        raise EnvironmentFailure(isolation.refusal(facts, f"; {error}")) from None
    return container
