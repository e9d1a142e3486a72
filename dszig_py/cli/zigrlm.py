"""What zigrlm's flags are here. One that has no counterpart is refused with a word on what has."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from dszig_py.environments.base import Environment
    from dszig_py.lm.metered import Meter

__all__ = ["check_size", "compact_at", "environment", "field_texts", "limits", "meter", "session_path"]

ENVIRONMENTS = {"python": "auto", "docker-python": "docker"}  # zigrlm's names
COMPACTION = 128 * 1024  # zigrlm's threshold, in bytes there
_NAME = re.compile(r"[\w.-]+")

Given = Mapping[str, Any]


def limits(given: Given) -> dict[str, Any]:
    """Fields of a budget, under whichever of their names they were given."""
    found = {
        name: _one(given, name, theirs, scale)
        for name, theirs, scale in (
            ("max_iters", "max_iterations", 1),
            ("max_concurrency", "max_concurrent_subcalls", 1),
            ("max_seconds", "max_runtime_ms", 1000),
            ("max_errors", "max_consecutive_errors", 1),
        )
    }
    found |= {name: given[name] for name in ("max_llm_calls", "max_tokens", "max_cost", "max_depth")}
    return {name: value for name, value in found.items() if value is not None}


def _one(given: Given, ours: str, theirs: str, scale: int) -> Any:
    value = given.get(ours)
    if given[theirs] is None:
        return value
    other = given[theirs] if scale == 1 else given[theirs] / scale
    if value is not None and value != other:
        raise click.UsageError(f"--{ours} and --{theirs} say different things; give one".replace("_", "-"))
    return other


def meter(given: Given) -> Meter | None:
    """The count of calls and bytes, where one of them is limited."""
    names = ("max_calls", "max_input_bytes", "max_output_bytes")
    if all(given[name] is None for name in names):
        return None
    from dszig_py.lm.metered import Meter

    return Meter(**{name: given[name] for name in names})


def check_size(given: Given, values: Mapping[str, Any]) -> None:
    """Refuse inputs that are larger than all prompts may be."""
    most = given["max_input_bytes"]
    if most is None:
        return
    sizes = {name: _bytes(value) for name, value in values.items()}
    if sum(sizes.values()) > most:
        told = ", ".join(f"{name} has {size:,} bytes" for name, size in sizes.items())
        raise click.UsageError(f"--max-input-bytes allows {most:,}: {told}. To limit what is spent give --max-tokens")


def _bytes(value: Any) -> int:
    return len(value) if isinstance(value, bytes) else len(str(value).encode(errors="replace"))


def field_texts(given: Given, names: list[str], typed: Mapping[str, str]) -> dict[str, str]:
    """What ``--file`` and ``--stdin`` say of the first input that nothing else gives."""
    if given["file"] and given["stdin"]:
        raise click.UsageError("give --file or --stdin, not both")
    if not given["file"] and not given["stdin"]:
        return {}
    free = [name for name in names if name not in typed]
    if not free:
        raise click.UsageError("--file and --stdin are for an input that is not given; all are")
    return {free[0]: "-" if given["stdin"] else f"@{given['file']}"}


def environment(given: Given) -> str | Environment:
    """Where code runs: a name, or an environment with the options that were given."""
    asked: str = given["environment"]
    name = ENVIRONMENTS.get(asked, asked)
    _refuse(given)
    if name != "docker" and (given["docker_image"] or given["docker_bin"]):
        raise click.UsageError("--docker-image and --docker-bin go with --environment docker")
    if name != "docker" and given["timeout_ms"] is None:
        return name
    from dszig_py import environments

    found: Any = environments.resolve(name)
    changes: dict[str, Any] = {}
    if name == "docker":
        changes = {"image": given["docker_image"], "engine": _engine(given["docker_bin"])}
    if given["timeout_ms"] is not None and hasattr(found, "cell_seconds"):
        changes["cell_seconds"] = given["timeout_ms"] / 1000
    changed: Environment = dataclasses.replace(found, **{k: v for k, v in changes.items() if v is not None})
    return changed


def _refuse(given: Given) -> None:
    if given["docker_setup_timeout_ms"] is not None:
        raise click.UsageError("there is no --docker-setup-timeout-ms: fetch the image first, with docker pull")
    wanted: str | None = given["python_bin"]
    if wanted:
        found = shutil.which(wanted)
        if found is None or os.path.realpath(found) != os.path.realpath(sys.executable):
            raise click.UsageError(
                f"--python-bin {wanted}: code runs on the Python that runs dszig, {sys.executable}; install dszig_py "
                "there, or use --environment docker --docker-image IMAGE"
            )


def _engine(binary: str | None) -> str | None:
    if binary is None:
        return None
    found = shutil.which(binary)
    engine = Path(binary).name
    if engine not in ("docker", "podman") or found is None or found != shutil.which(engine):
        raise click.UsageError(f"--docker-bin {binary}: docker or podman, as found on PATH")
    return engine


def compact_at(given: Given) -> float | None:
    """Characters of history at which it is summarized; bytes are taken for characters."""
    most = given["compaction_threshold_bytes"]
    if most is not None and not given["compaction"]:
        raise click.UsageError("--compaction-threshold-bytes goes with --compaction")
    return (most or COMPACTION) if given["compaction"] else None


def session_path(given: Given, runs: Path) -> Path | None:
    """The file that ``--persistent NAME`` is kept in: beside the runs, or NAME itself where that is a path."""
    name = given["persistent"]
    if name is None:
        return None
    if name.startswith("-"):  # zigrlm's --persistent has no value, so that what follows it is the next option
        raise click.UsageError(f"--persistent takes a NAME, and {name} is an option: --persistent NAME {name} ...")
    if os.sep in name or name.endswith(".json"):
        return Path(name)
    if not _NAME.fullmatch(name) or name.startswith("."):
        raise click.UsageError(f"--persistent {name!r}: letters, digits, . _ and -, or a path")
    return runs / "sessions" / f"{name}.json"
