"""A host for tests of environments: plain functions to call, and a record of every call."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from dszig_py.contract import Contract, SubmissionRefused
from dszig_py.environments.base import CallRefused

__all__ = ["RecordingHost"]


class RecordingHost:
    """Serves ``functions`` (plain or async) to the code of a session. ``calls`` holds (name, args, kwargs) in order of
    arrival, ``submissions`` what was accepted, ``peak`` the most calls that were served at the same time.

    With a ``contract``, SUBMIT is judged by it; without, keyword outputs are taken as they come.
    """

    def __init__(
        self, contract: Contract | None = None, functions: Mapping[str, Callable[..., Any]] | None = None
    ) -> None:
        self.contract = contract
        self._functions = dict(functions or {})
        self.calls: list[tuple[str, list[Any], dict[str, Any]]] = []
        self.submissions: list[dict[str, Any]] = []
        self.peak = 0
        self._now = 0

    @property
    def functions(self) -> Mapping[str, str]:
        """Name -> first line of the docstring."""
        return {name: (inspect.getdoc(f) or "").split("\n")[0] for name, f in self._functions.items()}

    async def call(self, name: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
        """Record the call and serve it. Raises :class:`CallRefused` for an unknown name, or as the function does."""
        self.calls.append((name, args, kwargs))
        if name not in self._functions:
            raise CallRefused(f"{name} is not available here", "NameError")
        self._now += 1
        self.peak = max(self.peak, self._now)
        try:
            result = self._functions[name](*args, **kwargs)
            return await result if inspect.isawaitable(result) else result
        finally:
            self._now -= 1

    async def submit(self, args: list[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
        """The outputs, typed by the contract. Raises :class:`CallRefused`."""
        try:
            outputs = dict(kwargs) if self.contract is None else self.contract.validate(args, kwargs)
        except SubmissionRefused as refusal:
            raise CallRefused(str(refusal), "ValueError") from None
        self.submissions.append(outputs)
        return outputs
