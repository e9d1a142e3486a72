"""Begin a run again from what its journal says of it: options and inputs as data, models' replies as they were."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import anyio.to_thread

from dszig_py import files
from dszig_py.environments._worker import codec
from dszig_py.errors import InputError
from dszig_py.lm.resumed import SUFFIX, Journal, beside
from dszig_py.runner import Plan
from dszig_py.signature import Signature
from dszig_py.strategy import Strategy
from dszig_py.usage import Budget

if TYPE_CHECKING:
    from dszig_py.rlm import RLM
    from dszig_py.trajectory import Prediction

__all__ = ["constructed", "journaled", "options", "reopen", "resumed"]

_PLAIN = ("environment", "max_output_chars", "on_limit", "output_dir")
_MODELS = ("lm", "sub_lm", "main_cmd", "rlm_cmd", "lms", "lm_options", "sub_lm_options")
# Of a model's options, those never written down: LiteLLM has dozens of names for keys, and none besides that look like one.
_HIDDEN = re.compile(r"key|secret|token(?!s)|password|credential|headers|(?:^|_)auth", re.IGNORECASE)


async def journaled(rlm: RLM, plan: Plan, inputs: Mapping[str, Any]) -> Plan:
    """The plan of a new run, kept beside its trace. Raises :class:`InputError` where it cannot be written down."""
    return with_journal(plan, await anyio.to_thread.run_sync(_begun, rlm, inputs))


def _begun(rlm: RLM, inputs: Mapping[str, Any]) -> Journal:
    try:
        types = {f.name: f.type for f in rlm.signature.inputs}
        given = {n: codec.encode_strictly(files.written(n, types.get(n), value)) for n, value in inputs.items()}
    except TypeError as error:
        raise InputError(f"a resumable run needs inputs that can be written down: {error}") from None
    return Journal.begin(beside(cast("str", rlm.resumable)), {"options": options(rlm), "inputs": given})


def options(rlm: RLM) -> dict[str, Any]:
    """What of an RLM's constructor can be written down; ``missing`` names what has to be given again."""
    kept: dict[str, Any] = {name: getattr(rlm, name) for name in _PLAIN}
    kept["signature"], kept["instructions"] = str(rlm.signature), rlm.signature.instructions
    kept["budget"] = rlm.budget.model_dump(mode="json", exclude_unset=True)
    kept["strategy"] = rlm.strategy.model_dump(mode="json", exclude_unset=True)
    missing = [name for name in ("tools", "check", "skills") if getattr(rlm, name)]
    for name in _MODELS:
        value = getattr(rlm, f"_{name}")
        if name.endswith("_options"):
            value = _without_secrets(value)
        if not _is_text(value):
            missing.append(name)
        elif value:
            kept[name] = value
    if not isinstance(rlm.environment, str):
        missing.append("environment")
        del kept["environment"]
    return {**kept, "missing": missing}


def _without_secrets(options: Any) -> Any:
    if not isinstance(options, Mapping):
        return options
    given = cast("Mapping[str, Any]", options)
    return {key: _without_secrets(value) for key, value in given.items() if not _HIDDEN.search(str(key))}


def _is_text(value: Any) -> bool:
    """Whether a model is named by text, or by lists and dicts of texts and numbers."""
    if isinstance(value, Mapping):
        return all(_is_text(item) for item in cast("Mapping[str, Any]", value).values())
    if isinstance(value, (list, tuple)):
        return all(_is_text(item) for item in cast("list[Any]", value))
    return value is None or isinstance(value, (str, int, float))


def reopen(trace: str | os.PathLike[str]) -> Journal:
    """The journal beside a trace. Raises :class:`InputError` where there is none."""
    path = beside(trace)
    if not os.path.exists(path):
        raise InputError(
            f"{trace} cannot be resumed: there is no {path}, which RLM(..., trace=..., resumable=True) keeps, or dszig run --trace PATH --resumable"
        )
    return Journal.reopen(path)


def constructed(rlm: type[RLM], journal: Journal, trace: str | os.PathLike[str], given: Mapping[str, Any]) -> RLM:
    """The RLM that the journal tells of, ``given`` before what is saved. Raises :class:`InputError`."""
    saved = dict(cast("Mapping[str, Any]", journal.facts["options"]))
    if lacking := [name for name in saved.pop("missing") if name not in given]:
        raise InputError(f"this run had {', '.join(lacking)} that no file can hold; give them again to RLM.resume")
    _check_trusted(saved, given, trace)
    instructions = saved.pop("instructions")
    saved["budget"], saved["strategy"] = Budget(**saved["budget"]), Strategy(**saved["strategy"])
    if "signature" not in given:
        types = cast("Mapping[str, Any]", given.get("types") or {})
        saved["signature"] = Signature.parse(saved["signature"], types=types, instructions=instructions)
    arguments: dict[str, Any] = {**saved, "trace": trace, **given, "resumable": os.fspath(trace)}
    return rlm(**arguments)


def _check_trusted(saved: Mapping[str, Any], given: Mapping[str, Any], trace: str | os.PathLike[str]) -> None:
    """Raise :class:`InputError` for a journal that would run what it says on this machine itself: anybody may have written
    it, and its replies are code.
    """
    if unknown := sorted({*saved} - {*_PLAIN, *_MODELS, "signature", "instructions", "budget", "strategy"}):
        raise InputError(f"{trace}{SUFFIX} holds {', '.join(unknown)[:200]}, which no run writes down")
    bare = [name for name in ("main_cmd", "rlm_cmd") if saved.get(name)]
    bare += ["environment"] if saved.get("environment") == "inprocess" else []
    if asked := [name for name in bare if name not in given]:
        told = ", ".join(f"{name}={saved[name]!r}" for name in asked)[:500]
        raise InputError(
            f"the journal of {trace} has {told}, which runs on this machine without a boundary; if that is what you want, "
            "give it again to RLM.resume, or as an option to dszig resume"
        )


def with_journal(plan: Plan, journal: Journal) -> Plan:
    """The plan with every model behind the journal."""
    return replace(
        plan,
        lms=[journal.around(lm, root=True) for lm in plan.lms],
        sub_lms=[journal.around(lm, root=False) for lm in plan.sub_lms],
        named_lms={name: journal.around(lm, root=False) for name, lm in plan.named_lms.items()},
    )


async def resumed(rlm: RLM, journal: Journal, inputs: Mapping[str, Any]) -> Prediction:
    """The run, gone on with; inputs that are not given again are as they were."""
    saved = cast("Mapping[str, Any]", journal.facts["inputs"])
    given = {name: codec.decode(value, records=codec.plain_record) for name, value in saved.items()}
    return await rlm._run({**given, **inputs}, None, lambda plan: with_journal(plan, journal))
