"""``dszig doctor``: what this machine has for running models' code and reaching models. Never a key's value."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import time
from collections.abc import Mapping
from typing import Any

import click

from dszig_py.redaction import PROVIDER_KEYS

__all__ = ["command"]

PACKAGES = ("dszig-py", "dspy", "litellm", "pydantic")
KEYS = (*PROVIDER_KEYS, "OLLAMA_API_BASE")
PROGRAMS = ("codex", "claude", "docker", "podman", "node")
# Commands and names not known here may hold a secret in their value: only that they are set is told.
SHOWN_SETTINGS = ("DSZIG_MODEL", "DSZIG_SUB_MODEL", "DSZIG_RUNS_DIR")


@click.command(short_help="Versions, keys that are set, isolation of this machine.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def command(as_json: bool) -> int:
    """Tell versions, which keys are set (never their values), and how model-written code is isolated here.

    Exit code 0 where code can be run, 1 where it cannot.
    """
    isolation = _isolation()
    found: dict[str, Any] = {
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "keys": [name for name in KEYS if os.environ.get(name)],
        "settings": _settings(),
        "programs": [name for name in PROGRAMS if shutil.which(os.environ.get(f"{name.upper()}_BIN") or name)],
        "runs": _runs(),
        "isolation": isolation,
    }
    if as_json:
        click.echo(json.dumps(found))
    else:
        _tell(found)
    return 1 if "error" in isolation else 0


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _settings() -> dict[str, str]:
    names = sorted(name for name in os.environ if name.startswith(("DSZIG_", "ZIGRLM_")))
    return {name: os.environ[name] if name in SHOWN_SETTINGS else "(set)" for name in names}


def _runs() -> str | None:
    from dszig_py.cli.outcome import runs_folder

    try:
        return str(runs_folder())
    except RuntimeError:
        return None


class _NoCalls:
    """The host of a session that only shows that code runs."""

    functions: Mapping[str, str] = {}

    async def call(self, name: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
        raise RuntimeError(f"{name} is not available here")

    async def submit(self, args: list[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
        return kwargs


def _isolation() -> dict[str, Any]:
    """A real session, opened and used: nothing else proves that code can be run."""
    from dszig_py import portal
    from dszig_py.errors import DszigError

    try:
        return portal.call(_open_session)
    except (DszigError, OSError) as error:
        return {"error": str(error)}


async def _open_session() -> dict[str, Any]:
    from dszig_py import environments
    from dszig_py.contract import compile_contract
    from dszig_py.environments.base import CellLimits
    from dszig_py.signature import Signature

    contract = compile_contract(Signature.parse("text -> answer"), {"text": "x"})
    environment = environments.resolve("auto")
    started = time.monotonic()
    session = await environment.open(contract, _NoCalls(), CellLimits())
    try:
        execution = await session.execute("1 + 1")
        seconds = time.monotonic() - started
        if execution.value != "2":
            return {"error": f"code does not run: {execution.error or execution.lost or 'no value came back'}"}
        held = session.isolation
        return {
            "environment": environment.name,
            "level": held.level,
            "covered": list(held.covered),
            "not_covered": list(held.not_covered),
            "start_ms": round(seconds * 1000, 1),
        }
    finally:
        await session.close()


def _tell(found: dict[str, Any]) -> None:
    for name, version in found["versions"].items():
        click.echo(f"{name:<10} {version or 'not installed'}")
    click.echo(f"{'keys':<10} {', '.join(found['keys']) or 'none is set'}")
    click.echo(f"{'programs':<10} {', '.join(found['programs']) or 'none of ' + ', '.join(PROGRAMS)}")
    for name, value in found["settings"].items():
        click.echo(f"{'setting':<10} {name} = {value}")
    click.echo(f"{'runs':<10} {found['runs'] or 'not saved: there is no home folder'}")
    held = found["isolation"]
    if "error" in held:
        click.echo(f"{'isolation':<10} none to be had, so no code is run: {held['error']}")
        return
    about = f"{held['level']} ({held['environment']}; first execution after {held['start_ms']:g} ms)"
    click.echo(f"{'isolation':<10} {about}")
    for line in held["covered"]:
        click.echo(f"  + {line}")
    for line in held["not_covered"]:
        click.echo(f"  - not covered: {line}")
