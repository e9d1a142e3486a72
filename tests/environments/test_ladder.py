"""The ladder: the strongest boundary this machine has, and none taken silently."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys

import pytest

from dszig_py import RLM, environments
from dszig_py.contract import compile_contract
from dszig_py.environments import _zygote, docker, isolation
from dszig_py.environments.base import CellLimits
from dszig_py.environments.docker import DockerEnvironment
from dszig_py.environments.inprocess import InProcessEnvironment
from dszig_py.environments.process import ProcessEnvironment
from dszig_py.errors import EnvironmentFailure, InputError
from dszig_py.signature import Signature
from dszig_py.testing import RecordingHost, ScriptedLM, check_environment

HERE = {"arch": "x86_64", "landlock": 7, "seccomp": True, "seatbelt": False}
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="the kernel's filters are Linux's")


def of(facts, **options):
    given = {"read": [], "memory": 1 << 30, "cpu_seconds": None, "packages": [], **options}
    return isolation.boundary(facts, **given)


@contextlib.asynccontextmanager
async def a_session(environment):
    contract = compile_contract(Signature.parse("context -> answer"), {"context": "abc"})
    session = await environment.open(contract, RecordingHost(contract), CellLimits())
    try:
        yield session
    finally:
        await session.close()


@pytest.fixture
def no_engine(monkeypatch, tmp_path):
    """Neither docker nor podman."""
    monkeypatch.setattr(docker, "_running", {})
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.fixture
def no_landlock(monkeypatch):
    """A kernel without Landlock, as far as the host is told by the zygote: what the worker does is real."""
    zygote = _zygote.zygote()
    monkeypatch.setattr(zygote, "facts", {**zygote.facts, "landlock": 0})


def with_facts(monkeypatch, **facts):
    monkeypatch.setattr(isolation, "facts", lambda: {**HERE, **facts})


def test_names_classes_and_objects_are_environments():
    """Anything else is an input error that says what can be given."""
    assert isinstance(environments.resolve("process"), ProcessEnvironment)
    assert isinstance(environments.resolve("inprocess"), InProcessEnvironment)
    assert isinstance(environments.resolve("docker"), DockerEnvironment)
    assert isinstance(environments.resolve(InProcessEnvironment), InProcessEnvironment)
    mine = ProcessEnvironment(memory="2GiB")
    assert environments.resolve(mine) is mine
    with pytest.raises(InputError, match="unknown environment 'sandbox'; known: auto, process, inprocess, docker"):
        environments.resolve("sandbox")
    for wrong in (3, None, dict):
        with pytest.raises(InputError, match="environment takes a name"):
            environments.resolve(wrong)


@pytest.mark.parametrize(
    ("facts", "level", "strict"),
    [({}, "full", False), ({"landlock": 0}, "strict", True), ({"landlock": 1}, "full", False)],
)
def test_each_rung_says_what_it_is(facts, level, strict):
    """The level, the policy that goes with it, and its words."""
    found = of({**HERE, **facts}, packages=["numpy"], read=["/data"])
    assert (found.isolation.level, found.policy["strict"]) == (level, strict)
    files = found.isolation.covered[0]
    assert ("numpy" in files and "/data" in files) != strict
    assert ("preloaded" in files) == strict
    assert any("Landlock" in line for line in found.isolation.not_covered) == strict


@pytest.mark.parametrize("facts", [{"seccomp": False}, {"arch": None}])
def test_without_a_filter_a_worker_is_refused_with_the_ways_out(facts):
    """Landlock alone is no boundary."""
    with pytest.raises(EnvironmentFailure, match="no boundary") as raised:
        of({**HERE, **facts})
    assert 'environment="docker"' in str(raised.value)
    assert 'environment="inprocess"   trusted' in str(raised.value)


def test_auto_takes_the_worker_wherever_there_is_a_boundary_for_it(monkeypatch, no_engine):
    """With and without Landlock, and on a Mac."""
    for facts in ({}, {"landlock": 0}, {"arch": None, "seccomp": False, "landlock": 0, "seatbelt": True}):
        with_facts(monkeypatch, **facts)
        assert isinstance(environments.resolve("auto"), ProcessEnvironment)


def test_auto_takes_a_container_where_the_kernel_gives_nothing(monkeypatch, tmp_path):
    """If one of the engines runs, that is."""
    with_facts(monkeypatch, seccomp=False)
    monkeypatch.setattr(docker, "_running", {})
    monkeypatch.setenv("PATH", str(tmp_path))
    program = tmp_path / "podman"
    program.write_text("#!/bin/sh\nexit 0\n")
    program.chmod(0o755)
    found = environments.resolve("auto")
    assert isinstance(found, DockerEnvironment)
    assert found.find_engine() == "podman"


def test_auto_refuses_where_there_is_nothing_and_no_model_is_called(monkeypatch, no_engine):
    """The refusal says what was missing at each rung and names the ways out."""
    with_facts(monkeypatch, seccomp=False, landlock=0)
    rlm = RLM("t -> answer", lm=ScriptedLM([]))
    with pytest.raises(EnvironmentFailure) as raised:
        rlm(t="")
    told = str(raised.value)
    for part in ("no boundary", "seccomp", "docker: not installed", "podman: not installed", "inprocess", "trusted"):
        assert part in told


def test_this_machine_is_asked_without_starting_anything():
    """The same answer as the zygote's, which does start."""
    facts = isolation.facts()
    assert set(facts) == {"arch", "landlock", "seccomp", "seatbelt"}
    if isolation.has_boundary(facts):
        assert _zygote.zygote().facts == {**_zygote.zygote().facts, **facts}


@on_linux
def test_a_strict_worker_opens_nothing_and_works(no_landlock):
    """For real, by the filter alone: no path, no import from disk, everything else."""

    async def go():
        async with a_session(ProcessEnvironment()) as session:
            cells = (
                "import json, re, asyncio, collections\nlen(context), json.dumps([1]), await asyncio.sleep(0, 2)",
                "open('/etc/passwd').read()",
                "import os\nos.listdir('/')",
                "os.stat('/')",
                "import wave",
                "open('/proc/self/mem', 'rb')",
                "import socket\nsocket.socket()",
                "context",
            )
            return session.isolation, [await session.execute(code) for code in cells]

    held, executions = asyncio.run(go())
    assert held.level == "strict"
    assert executions[0].value == "(3, '[1]', 2)"
    for execution in (*executions[1:4], *executions[5:7]):
        assert "PermissionError" in execution.error, execution
    assert "Error" in executions[4].error
    assert executions[7].value == "'abc'"
    assert not any(e.lost for e in executions)


@on_linux
def test_a_strict_worker_does_what_is_asked_of_all(no_landlock):
    """The whole suite."""
    report = check_environment(ProcessEnvironment(), hostile=False)
    assert report.isolation == "strict"
    assert not report.failed, str(report)


def test_a_mac_starts_its_zygote_under_a_profile(monkeypatch):
    """Text only: this has not been run on a Mac."""
    monkeypatch.setattr(isolation, "has_seatbelt", lambda: True)
    command = isolation.seatbelt_command(["/opt/pkgs/pydantic"])
    assert command[:2] == ("/usr/bin/sandbox-exec", "-p")
    assert f'(allow process-exec (literal "{os.path.realpath(sys.executable)}")' in command[2]
    assert '(subpath "/opt/pkgs/pydantic")' in command[2]
    monkeypatch.undo()
    assert (isolation.seatbelt_command(["/x"]) == ()) == (sys.platform != "darwin")


def test_the_profile_names_what_is_allowed_and_denies_the_rest():
    """Deny first; what may be read comes last, after site-packages are taken out again; quotes are escaped."""
    text = isolation.seatbelt(
        ['/data/a"b\\c', "/pkgs/x"], "/opt/py/bin/python", "/opt/py", "/opt/py/lib/py3", "/w/_worker"
    )
    lines = [line for line in text.splitlines() if not line.startswith(" ")]
    assert lines[:2] == ["(version 1)", "(deny default)"]
    assert '(allow process-exec (literal "/opt/py/bin/python") (subpath "/opt/py/Resources"))' in lines
    assert {"(deny network*)", "(deny mach-lookup)", "(deny file-write-create)"} <= set(lines)
    denied = text.index('(deny file-read* (subpath "/opt/py/lib/py3/site-packages"))')
    assert text.index('(subpath "/opt/py/lib/py3")') < denied < text.index('(subpath "/pkgs/x")')
    assert '(subpath "/data/a\\"b\\\\c")' in text
    assert text.count("(") == text.count(")")
    writes = [line for line in lines if "file-write" in line and line.startswith("(allow")]
    assert writes == ['(allow file-write-data (literal "/dev/null"))']


def test_a_mac_says_that_it_was_not_tested():
    """Its own level, and what it does not hold."""
    found = of({"arch": None, "landlock": 0, "seccomp": False, "seatbelt": True})
    assert found.isolation.level == "seatbelt"
    assert found.policy["address_space"] is None
    assert "not tested on a Mac" in found.isolation.not_covered[0]
    assert any(line.startswith("memory") for line in found.isolation.not_covered)
