"""The suite that every environment has to pass, run over each that ships. To judge another one, add it to the list."""

from __future__ import annotations

import asyncio

import pytest

from dszig_py.environments.base import CellLimits, Execution, Isolation
from dszig_py.environments.inprocess import InProcessEnvironment
from dszig_py.environments.process import ProcessEnvironment
from dszig_py.environments.script import ScriptEnvironment
from dszig_py.testing import acheck_environment, check_environment
from dszig_py.testing.conformance import CHECKS

ENVIRONMENTS = [
    ProcessEnvironment(),
    InProcessEnvironment(),
    ScriptEnvironment(),
]  # containers have the suite in test_docker, the strict worker in test_ladder


@pytest.fixture(scope="module", params=ENVIRONMENTS, ids=lambda environment: environment.name)
def report(request):
    return check_environment(request.param, hostile=False)


@pytest.mark.parametrize("name", [check.name for check in CHECKS])
def test_an_environment_does_what_is_asked_of_all(report, name):
    """One claim of the suite; a skip says why the environment cannot do it by its nature."""
    (result,) = [result for result in report.results if result.name == name]
    if result.skipped:
        pytest.skip(result.detail)
    assert result.ok, result.detail


class Broken:
    """An environment that runs nothing and says so of no cell."""

    name = "broken"
    isolation = Isolation("none")

    async def open(self, contract, host, limits: CellLimits):
        return self

    async def execute(self, code):
        return Execution(value="1")

    async def variables(self):
        return {}

    async def close(self):
        pass


def test_a_broken_environment_fails_with_details_and_raises_nothing():
    """Every check that ran failed or passed by itself; the report names each."""
    report = asyncio.run(acheck_environment(Broken()))
    assert not report.ok
    assert len(report.failed) > 30
    assert all(result.detail for result in report.failed)
    assert "FAILED  state persists" in str(report)


def test_trusted_environments_skip_what_needs_a_boundary():
    """Killing, memory and the hostile set are skipped with the reason, not passed."""
    report = asyncio.run(acheck_environment(Broken(), hostile=True))
    skipped = {result.name for result in report.results if result.skipped}
    assert {"hostile", "too much memory is an exception", "a lost worker is told and replaced"} <= skipped
    assert all("trusted" in result.detail for result in report.results if result.skipped)
