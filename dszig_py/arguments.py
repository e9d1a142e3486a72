"""What a caller gives an RLM, looked at before anything runs: what is wrong is named, with what goes there.

A type checker says the same earlier, but a notebook has none, and an option that is used late (a check, a callback)
would otherwise fail, or be passed over, in a run that is paid for by then.
"""

from __future__ import annotations

import difflib
import inspect
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NoReturn, cast

from dszig_py.errors import InputError
from dszig_py.signature import REPL_NAMES, Signature
from dszig_py.skills import Skill
from dszig_py.strategy import Strategy
from dszig_py.trace import Tracer
from dszig_py.usage import Budget

__all__ = [
    "by_name",
    "check_budgets",
    "check_counts",
    "check_map",
    "check_names",
    "check_options",
    "kept_beside",
    "merged_budget",
    "named_tools",
    "no_such_option",
]


def _is_dict(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(name, str) for name in cast("Mapping[Any, Any]", value))


def _is_several(value: Any, kind: type = object) -> bool:
    """Whether ``value`` holds things of ``kind``, and is no text, which would be taken letter by letter."""
    if not isinstance(value, Collection) or isinstance(value, (str, bytes)):
        return False
    return all(isinstance(item, kind) for item in cast("Collection[Any]", value))


def _is_place(value: Any) -> bool:
    return isinstance(value, (str, os.PathLike, Tracer))


def _is_plain(value: Any) -> bool:
    """Callable, and what it does is done when it returns: a coroutine would be let through unasked."""
    return callable(value) and not any(inspect.iscoroutinefunction(f) for f in (value, type(value).__call__))


def _is_command(value: Any) -> bool:
    return bool(value) and (isinstance(value, str) or _is_several(value, str))


_DICT, _COMMAND = 'a dict, such as {"temperature": 0}', "a command, as a text or a list of its words"
_KINDS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "budget": (lambda v: isinstance(v, Budget), "a Budget, such as Budget(max_cost=1.5)"),
    "strategy": (lambda v: isinstance(v, Strategy), 'a Strategy, such as Strategy(prompt="cost_aware")'),
    "lm": (
        lambda v: not isinstance(v, (list, tuple)) or bool(cast("Sequence[Any]", v)),
        'a model, such as "openai/gpt-5", or a list of at least one',
    ),
    "lms": (_is_dict, 'a dict from names to models, such as {"strong": "openai/gpt-5"}'),
    "lm_options": (_is_dict, _DICT),
    "sub_lm_options": (_is_dict, _DICT),
    "main_cmd": (_is_command, _COMMAND),
    "rlm_cmd": (_is_command, _COMMAND),
    "tools": (_is_several, "a list of callables, such as [fetch], or a dict of them by name"),
    "child_tools": (lambda v: _is_several(v, str), 'a list of names of tools, such as ["fetch"]'),
    "skills": (lambda v: _is_several(v, Skill), "a list of Skill objects"),
    "max_output_chars": (lambda v: type(v) is int and v >= 100, "a whole number of at least 100"),
    "check": (_is_plain, "a callable that is given the outputs, and no coroutine function"),
    "on_event": (_is_plain, "a callable that is given an event, and no coroutine function"),
    "trace": (
        lambda v: _is_place(v) or (_is_several(v) and all(_is_place(place) for place in v)),
        "a file, a folder, a Tracer, or a list of these",
    ),
    "secrets": (lambda v: isinstance(v, str) or _is_several(v, str), "a text, or a list of texts"),
    "output_dir": (lambda v: isinstance(v, (str, os.PathLike)), "a folder's path"),
}


_PRIVATE = ("secrets", "lm_options", "sub_lm_options")  # an error's text is logged


def check_options(given: Mapping[str, Any]) -> None:
    """Raise :class:`InputError` for an option that is not what it takes. ``None`` is one that was not given."""
    for name, (fits, wanted) in _KINDS.items():
        if name not in given:
            continue
        value = given[name]
        if not fits(value) and (value is not None or name == "max_output_chars"):
            told = type(value).__name__ if name in _PRIVATE else _told(value)
            raise InputError(f"{name} takes {wanted}, not {told}")
    for one, other in (("lm", "main_cmd"), ("sub_lm", "rlm_cmd")):
        if given.get(one) is not None and given.get(other) is not None:
            raise InputError(f"give {one} or {other}, not both")
    if (on_limit := given.get("on_limit", "raise")) not in ("partial", "raise"):
        raise InputError(f'on_limit is "partial" or "raise", not {on_limit!r}')


def kept_beside(trace: object, resumable: object) -> str | os.PathLike[str] | None:
    """The file beside which a run that can be resumed is kept, where it is to be."""
    beside = trace if resumable is True else resumable
    if beside is False:
        return None
    if isinstance(beside, (str, os.PathLike)) and os.path.splitext(place := cast("str", beside))[1]:
        return place
    raise InputError("resumable=True keeps a run beside its trace: give trace= one file, such as run.jsonl")


def check_map(inputs: object, budget: object) -> None:
    """The same for :meth:`RLM.map`."""
    if isinstance(inputs, (Mapping, str, bytes)) or not isinstance(inputs, Iterable):
        raise InputError(f"map takes one dict of inputs for each run, as in [{{...}}, {{...}}], not {_told(inputs)}")
    check_budgets(budget=budget)


def check_budgets(**budgets: object) -> None:
    """Raise :class:`InputError` for what is given and is no Budget, by its name."""
    for name, budget in budgets.items():
        if budget is not None and not isinstance(budget, Budget):
            raise InputError(f"{name} takes {_KINDS['budget'][1]}, not {_told(budget)}")


def check_counts(**counts: object) -> None:
    """Raise :class:`InputError` for what is no whole number from 1 up, by its name."""
    for name, count in counts.items():
        if type(count) is not int or count < 1:
            raise InputError(f"{name} must be at least 1, a whole number, not {count!r:.80}")


def _told(value: Any) -> str:
    if callable(value) and hasattr(value, "__name__"):
        return f"the {type(value).__name__} {value.__name__}"
    plain = isinstance(value, (str, bytes, int, float, list, tuple, dict))
    return repr(cast(object, value))[:80] if plain else type(value).__name__


def no_such_option(name: str, options: Iterable[str]) -> TypeError:
    """What to raise for an option that is none: with the one that was meant, and where it goes."""
    known = [option for option in options if option not in ("signature", "unknown", "return")]
    parts = {"budget": Budget.model_fields, "strategy": Strategy.model_fields}
    close = difflib.get_close_matches(name, [*known, *(field for part in parts.values() for field in part)], n=1)
    meant = close[0] if close else ""
    for part, fields in parts.items():
        if meant in fields and meant not in known:
            return TypeError(f"RLM has no option {name!r}; write {part}={part.title()}({meant}=...)")
    hint = f"did you mean {meant!r}?" if meant else f"the options are {', '.join(known)}"
    return TypeError(f"RLM has no option {name!r}; {hint}")


def by_name(signature: Signature) -> NoReturn:
    """Raise for inputs that were given without their names."""
    example = ", ".join(f"{field.name}=..." for field in signature.inputs)
    raise TypeError(f"inputs are given by name: ({example})")


def merged_budget(budget: Budget, **shortcuts: int | None) -> Budget:
    """The constructor's own limits are the budget's; given both ways they must agree."""
    given = {name: value for name, value in shortcuts.items() if value is not None}
    for name, value in given.items():
        if name in budget.model_fields_set and getattr(budget, name) != value:
            raise InputError(f"{name} is given as {value} and in the budget as {getattr(budget, name)}; give it once")
    try:
        return type(budget).model_validate({**{n: getattr(budget, n) for n in budget.model_fields_set}, **given})
    except ValueError as error:
        errors: Any = getattr(error, "errors", None)
        told = [f"{e['loc'][0]}: {e['msg']}, not {e['input']!r}" for e in errors()] if errors else [str(error)]
        raise InputError("; ".join(told)) from None


def named_tools(
    tools: Collection[Callable[..., Any]] | Mapping[str, Callable[..., Any]],
    skills: Sequence[Skill],
    signature: Signature,
) -> dict[str, Callable[..., Any]]:
    """All tools by name. Raises :class:`InputError` for what is none, and for a name that cannot be used."""
    if twice := {s.name for s in skills if [o.name for o in skills].count(s.name) > 1}:
        raise InputError(f"two skills are called {', '.join(sorted(twice))}")
    pairs: Iterable[tuple[Any, Any]]
    if isinstance(tools, Mapping):
        pairs = cast("Mapping[Any, Any]", tools).items()
    else:
        pairs = [(getattr(tool, "__name__", ""), tool) for tool in tools]
    taken = {f.name for f in (*signature.inputs, *signature.outputs)}
    named: dict[str, Callable[..., Any]] = {}
    for name, tool in [*pairs, *(pair for skill in skills for pair in skill.named_tools.items())]:
        if not callable(tool):
            raise InputError(f"a tool is a callable, not {type(tool).__name__}")
        if not str(name).isidentifier():
            raise InputError(f"the tool {tool!r} has no usable name; give tools={{'name': function}}")
        if name in REPL_NAMES or name in taken or name in named:
            raise InputError(f"the tool name {name!r} is taken; give tools={{'other_name': function}}")
        named[name] = tool
    return named


def check_names(
    inputs: Iterable[str], tools: Collection[str], child_tools: Collection[str] | None, *, helpers: bool
) -> None:
    """Raise :class:`InputError` for tools of children that are none, and for names that the reading functions would take."""
    if lacking := [name for name in child_tools or () if name not in tools]:
        raise InputError(f"child_tools names {', '.join(lacking)}, which tools does not have")
    if helpers:
        from dszig_py.prompts import READING

        if taken := [name for name in (*inputs, *tools) if name in READING]:
            raise InputError(
                f"Strategy(helpers=True) brings {', '.join(READING)}; {', '.join(taken)} needs another name"
            )
