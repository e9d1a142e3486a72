"""Everything this library raises, in one tree.

DszigError(Exception)
├─ SignatureError(ValueError)   the signature cannot be parsed or compiled      the caller mends it
├─ InputError(ValueError)       inputs or options do not fit                    the caller mends it
├─ LMError                      a model's provider failed                       the provider; retried first
├─ EnvironmentFailure           no place to run code, or it broke repeatedly    the machine's owner
├─ LimitReached                 only with on_limit="raise"                      the caller chose it
└─ ReplayMismatch               a recorded run and the live request differ      whoever changed the program

What the *model* can mend (a traceback, a refused SUBMIT, a refused sub-call) is never one of these: it becomes
the observation of its next iteration. No name here shadows a builtin (``EnvironmentError`` and ``TimeoutError``
are taken), so ``except`` clauses mean what they say.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dszig_py.trajectory import Prediction

__all__ = [
    "DszigError",
    "EnvironmentFailure",
    "InputError",
    "LMError",
    "LimitReached",
    "ReplayMismatch",
    "SignatureError",
]


class DszigError(Exception):
    """Base of every exception raised on purpose by this library.

    ``prediction`` is the partial prediction of a run that had begun (trajectory, usage), else ``None``.
    """

    prediction: Prediction | None = None


class SignatureError(DszigError, ValueError):
    """The signature cannot be parsed or compiled. Raised before any model call, naming the field and the mend."""


class InputError(DszigError, ValueError):
    """Inputs or options do not fit the signature or each other. Raised before any model call."""


class LMError(DszigError):
    """A model's provider failed.

    ``retryable``: the same request may succeed later (rate limit, timeout, 5xx, broken connection).
    ``retry_after``: seconds the provider asked us to wait, else ``None``.
    """

    def __init__(self, message: str, *, retryable: bool = False, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retryable = retryable
        self.retry_after = retry_after


class EnvironmentFailure(DszigError):
    """No boundary to run model-written code in can be had, or the worker was lost three times in a row."""


class LimitReached(DszigError):
    """A budget's limit ended the run and the caller asked for ``on_limit="raise"``.

    ``limit`` is the name of the limit (``"max_iters"``, ``"max_cost"``, ...), ``prediction`` what there is.
    """

    # ``limit`` has a default because pickle and copy make an exception of its message alone, and then set the rest.
    def __init__(self, message: str, *, limit: str = "", prediction: Any = None) -> None:
        super().__init__(message)
        self.limit = limit
        self.prediction = prediction

    @property
    def spent(self) -> Any:
        """The :class:`~dszig_py.usage.Usage` of the run up to the limit."""
        return None if self.prediction is None else self.prediction.usage


class ReplayMismatch(DszigError):
    """A replayed run asked for something its recording does not hold; the program or its prompts changed."""
