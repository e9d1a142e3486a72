"""Putting our RLM where dspy has its own, and taking it out again.

Three names point at the class in dspy 3.4: ``dspy.RLM``, ``dspy.predict.RLM`` and ``dspy.predict.rlm.RLM``. The last is
also where pickles of the stock class look it up; our class migrates their state when it is unpickled.
"""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

__all__ = ["SUPPORTED", "install", "installed", "is_installed", "original", "uninstall"]

SUPPORTED = ((3, 4), (3, 5))  # from, up to but not including
_PLACES = ("dspy", "dspy.predict", "dspy.predict.rlm")
_STOCK = "_dspy_compat_stock_rlm"  # on the dspy module itself, so that a reload of this package finds it


def install(dspy: ModuleType | None = None) -> ModuleType:
    """Make our class ``dspy.RLM``; the module it was put into. Doing it again changes nothing.

    Without an argument the dspy already imported is taken, or dspy is imported. Raises ``ImportError`` where there is no
    dspy or one of another version range, ``TypeError`` for something that is not dspy.
    """
    module = _checked(dspy)
    from dspy_compat._module import RLM

    if not is_installed(module):
        setattr(module, _STOCK, _homes(module)["dspy.predict.rlm"].RLM)
    for home in _homes(module).values():
        home.RLM = RLM
    return module


def uninstall(dspy: ModuleType | None = None) -> None:
    """Put back what was there. Does nothing where nothing is installed."""
    module = dspy if dspy is not None else sys.modules.get("dspy")
    if module is None or not is_installed(module):
        return
    stock = getattr(module, _STOCK)
    for home in _homes(module).values():
        home.RLM = stock
    delattr(module, _STOCK)


@contextmanager
def installed(dspy: ModuleType | None = None) -> Generator[ModuleType]:
    """Installed inside the ``with``, as it was before afterwards."""
    module = _checked(dspy)
    before = is_installed(module)
    install(module)
    try:
        yield module
    finally:
        if not before:
            uninstall(module)


def is_installed(dspy: ModuleType | None = None) -> bool:
    """Whether ``dspy.RLM`` is ours."""
    module = dspy if dspy is not None else sys.modules.get("dspy")
    return module is not None and hasattr(module, _STOCK)


def original(dspy: ModuleType | None = None) -> Any:
    """The RLM class that dspy came with, installed or not."""
    module = _checked(dspy)
    return getattr(module, _STOCK, None) or _homes(module)["dspy.predict.rlm"].RLM


def _checked(dspy: ModuleType | None) -> ModuleType:
    if dspy is None:
        try:
            import dspy as found
        except ImportError as error:
            raise ImportError("dspy is not installed: pip install 'dspy>=3.4,<3.5'") from error
        dspy = found
    if not isinstance(dspy, ModuleType) or not hasattr(dspy, "Predict") or not hasattr(dspy, "Module"):
        raise TypeError(f"install() takes the dspy module, not {getattr(dspy, '__name__', type(dspy).__name__)!r}")
    version = str(getattr(dspy, "__version__", "0"))
    parts = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if not SUPPORTED[0] <= parts < SUPPORTED[1]:
        low, high = (".".join(map(str, end)) for end in SUPPORTED)
        raise ImportError(f"dspy {version} is not supported: this plug is for dspy >={low},<{high}")
    return dspy


def _homes(dspy: ModuleType) -> dict[str, Any]:
    import importlib

    return {name: dspy if name == "dspy" else importlib.import_module(name) for name in _PLACES}
