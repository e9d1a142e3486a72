"""Recursive language models inside DSPy: installs our RLM into an already imported ``dspy``.

Importing this package imports neither dspy nor LiteLLM; both load with the first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from dspy_compat._install import install, installed, is_installed, original, uninstall

if TYPE_CHECKING:
    from dspy_compat._feedback import feedback
    from dspy_compat._module import RLM

__all__ = ["RLM", "feedback", "install", "installed", "is_installed", "original", "uninstall"]

_LATER = {"RLM": "_module", "feedback": "_feedback"}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'dspy_compat' has no attribute {name!r}")
    return getattr(importlib.import_module(f"dspy_compat.{_LATER[name]}"), name)
