"""Recursive language models as typed functions: a signature becomes a callable over inputs too big for a context window."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from dszig_py.errors import (
    DszigError,
    EnvironmentFailure,
    InputError,
    LimitReached,
    LMError,
    ReplayMismatch,
    SignatureError,
)
from dszig_py.evidence import Evidence
from dszig_py.rlm import RLM
from dszig_py.signature import Field, InputField, OutputField, Signature
from dszig_py.skills import Skill

if TYPE_CHECKING:
    from dszig_py.documents import Document, read_document
    from dszig_py.files import File, Folder, Text
    from dszig_py.images import Image
    from dszig_py.sessions import Session
    from dszig_py.strategy import Strategy
    from dszig_py.trajectory import Prediction, Termination, Trajectory
    from dszig_py.usage import Budget, Usage

__version__ = "0.1.0"

__all__ = [
    "RLM",
    "Budget",
    "Document",
    "DszigError",
    "EnvironmentFailure",
    "Evidence",
    "Field",
    "File",
    "Folder",
    "Image",
    "InputError",
    "InputField",
    "LMError",
    "LimitReached",
    "OutputField",
    "Prediction",
    "ReplayMismatch",
    "Session",
    "Signature",
    "SignatureError",
    "Skill",
    "Strategy",
    "Termination",
    "Text",
    "Trajectory",
    "Usage",
    "read_document",
]

_LATER = {
    "Budget": "usage",
    "Document": "documents",
    "File": "files",
    "Folder": "files",
    "Image": "images",
    "Prediction": "trajectory",
    "Session": "sessions",
    "Strategy": "strategy",
    "Termination": "trajectory",
    "Text": "files",
    "Trajectory": "trajectory",
    "Usage": "usage",
    "read_document": "documents",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'dszig_py' has no attribute {name!r}")
    return getattr(importlib.import_module(f"dszig_py.{_LATER[name]}"), name)
