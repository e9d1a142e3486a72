"""Skills: what a model is taught for a run, and what it is given to do it with, as one value that can be passed around."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from dszig_py.errors import InputError

if TYPE_CHECKING:
    from dszig_py.environments.base import Environment

__all__ = ["Skill", "instructed", "module_code", "notes", "with_packages"]

_NAME = re.compile(r"[^\W\d][\w-]{0,63}")


@dataclass(frozen=True)
class Skill:
    """How something is done, and with what.

    ``instructions`` join the strategy that the model follows, the text that optimizers tune. ``tools``: callables, as
    ``RLM(tools=...)``. ``packages``: installed packages the code may import. ``modules``: name -> Python source, or the
    path of a file that holds it; the code imports them, and they see no more than the code does.

    Raises InputError for a name that is none, and for a module that cannot be read or does not parse.
    """

    name: str
    instructions: str = ""
    tools: Sequence[Callable[..., Any]] | Mapping[str, Callable[..., Any]] = ()
    packages: Sequence[str] = ()
    modules: Mapping[str, str | Path] = field(default_factory=dict[str, "str | Path"])

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise InputError(f"a skill's name is a word such as 'citing' or 'sql-reports', not {self.name!r}")
        for name in self.modules:
            if not name.isidentifier():
                raise InputError(f"skill {self.name!r}: a module's name is an identifier, not {name!r}")
        object.__setattr__(self, "modules", {name: self._source(name, m) for name, m in self.modules.items()})

    def _source(self, name: str, given: str | Path) -> str:
        try:
            source = given.read_text(encoding="utf-8") if isinstance(given, Path) else given
            ast.parse(source)
        except (OSError, ValueError, SyntaxError) as error:
            raise InputError(f"skill {self.name!r}, module {name!r}: {error}") from error
        return source

    @property
    def named_tools(self) -> dict[str, Callable[..., Any]]:
        """The tools by name."""
        if isinstance(self.tools, Mapping):
            return dict(self.tools)
        return {getattr(tool, "__name__", ""): tool for tool in self.tools}


def instructed(instructions: str, skills: Iterable[tuple[str, str]]) -> str:
    """``instructions`` and after them those of the skills, each (name, instructions) under its name."""
    parts = [f"Skill {name}:\n{text.strip()}" for name, text in skills if text.strip()]
    return "\n\n".join([instructions, *parts])


def notes(skills: Sequence[Skill]) -> list[str]:
    """What the contract says of packages and modules."""
    packages = list(dict.fromkeys(name for skill in skills for name in skill.packages))
    modules = {name: source for skill in skills for name, source in skill.modules.items()}
    lines = [f"Packages you may import: {', '.join(packages)}."] if packages else []
    described = [f"  import {name}: {_told(str(source))}".rstrip(": ") for name, source in modules.items()]
    return [*lines, *(["\n".join(["Modules of this task:", *described])] if described else [])]


def _told(source: str) -> str:
    """A module's first line of documentation and what it defines."""
    tree = ast.parse(source)
    doc = (ast.get_docstring(tree) or "").partition("\n")[0]
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    names = [node.name for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_")]
    return " ".join(part for part in (doc, f"({', '.join(names[:20])})" if names else "") if part)


_INSTALL = """\
def __install(sources):
    import linecache, sys, types
    made = globals().setdefault("__modules__", {})
    own = getattr(sys.modules.get("__main__"), "__dict__", None) is globals()
    for name, source in sources.items():
        module = types.ModuleType(name)
        module.__file__ = f"<module {name}>"
        linecache.cache[module.__file__] = (len(source), None, source.splitlines(keepends=True), module.__file__)
        made[name] = module
        if own:  # the REPL has a process of its own
            sys.modules[name] = module
        exec(compile(source, module.__file__, "exec"), module.__dict__)
"""


def module_code(skills: Sequence[Skill]) -> str:
    """Python that makes the skills' modules importable in a REPL; "" where there are none."""
    sources = {name: str(source) for skill in skills for name, source in skill.modules.items()}
    return f"{_INSTALL}__install({sources!r})\ndel __install" if sources else ""


def with_packages(environment: Environment, skills: Sequence[Skill]) -> Environment:
    """The environment with the skills' packages importable. Raises :class:`InputError` where it takes none."""
    packages = [name for skill in skills for name in skill.packages]
    if not packages or environment.name == "inprocess":  # which can import whatever this process can
        return environment
    if not is_dataclass(environment) or getattr(environment, "packages", None) is None:
        raise InputError(f'environment="{environment.name}" cannot be given packages ({", ".join(packages)})')
    own = cast("Sequence[str]", getattr(environment, "packages", ()))
    return cast("Environment", replace(cast("Any", environment), packages=tuple(dict.fromkeys([*own, *packages]))))
