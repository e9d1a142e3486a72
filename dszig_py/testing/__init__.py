"""For tests: a scripted model, a host that writes down what it is asked, and one suite that judges any environment.

>>> from dszig_py.testing import check_environment
>>> print(check_environment(MyEnvironment()))  # doctest: +SKIP
"""

from __future__ import annotations

from dszig_py.lm.scripted import ScriptedLM
from dszig_py.testing.conformance import acheck_environment, check_environment
from dszig_py.testing.host import RecordingHost
from dszig_py.testing.report import Report, Result

__all__ = ["RecordingHost", "Report", "Result", "ScriptedLM", "acheck_environment", "check_environment"]
