"""Third-party packages that a worker may import: found by their distributions, with what these require.

A worker starts without site-packages. Each allowed package adds its own files and folders to what may be read, and its
top-level names to what may be imported; the rest of site-packages stays invisible.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata

from dszig_py.errors import InputError

__all__ = ["Packages", "find_packages"]

# Extension modules link to system libraries. Debian keeps these in folders of their own; elsewhere they lie next to
# whole programs and other Pythons' packages, so there only what a wheel may link to is named (PEP 600's libraries).
_LIBRARY_FOLDERS = ("/lib", "/lib64", "/usr/lib", "/usr/lib64")
_LIBRARIES = re.compile(
    r"(ld-.*|lib(c|m|dl|rt|util|pthread|nsl|resolv|gcc_s|stdc\+\+|z|expat|gomp|atomic|gfortran|quadmath))(-[\d.]+)?\.so(\.\d+)*"
)
_REQUIREMENT = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)([^;]*)(;.*)?$")


@dataclass(frozen=True, slots=True)
class Packages:
    """``read``: paths to allow. ``modules``: (top-level module, its file, whether it is a package), to import from."""

    read: tuple[str, ...] = ()
    modules: tuple[tuple[str, str, bool], ...] = ()


@functools.lru_cache(maxsize=32)
def find_packages(packages: tuple[str, ...]) -> Packages:
    """The files of ``packages`` and of what they require. Raises :class:`InputError` for one that is not installed."""
    read: set[str] = set()
    modules: dict[str, tuple[str, str, bool]] = {}
    native = False
    for distribution in _closure(packages):
        for top, is_native in _top_levels(distribution).items():
            path = os.path.realpath(str(distribution.locate_file(top)))
            read.add(path)
            native = native or is_native
            if (module := _module(path)) is not None:
                modules[module[0]] = module
    if native:
        read.update(_shared_libraries())
    return Packages(tuple(sorted(read)), tuple(modules[name] for name in sorted(modules)))


def _shared_libraries() -> list[str]:
    found = ["/etc/ld.so.cache"]
    for folder in filter(os.path.isdir, _LIBRARY_FOLDERS):
        names = os.listdir(folder)
        found += [os.path.join(folder, name) for name in names if "-linux-" in name or _LIBRARIES.fullmatch(name)]
    return found


def _module(path: str) -> tuple[str, str, bool] | None:
    """The import that a top-level file or folder stands for. Found here, because a worker that may not list
    site-packages cannot look for it there, as Python's own path finder would.
    """
    folder, name = os.path.split(path)
    if os.path.isdir(path):
        init = os.path.join(path, "__init__.py")
        return (name, init, True) if os.path.exists(init) and name.isidentifier() else None
    stem, dot, _suffix = name.partition(".")
    return (stem, os.path.join(folder, name), False) if dot and name.endswith((".py", ".so")) else None


def _closure(packages: Sequence[str]) -> list[metadata.Distribution]:
    found: dict[str, metadata.Distribution] = {}
    todo = [(name, True) for name in packages]
    while todo:
        name, asked_for = todo.pop()
        key = re.sub(r"[-_.]+", "-", name).lower()
        if key in found:
            continue
        distribution = _distribution(name)
        if distribution is None:
            if asked_for:
                raise InputError(f"the package {name!r} is not installed here, so a worker cannot import it")
            continue
        found[key] = distribution
        for requirement in distribution.requires or ():
            match = _REQUIREMENT.match(requirement)
            if match is not None and "extra ==" not in (match[3] or ""):
                todo.append((match[1], False))
    return list(found.values())


def _distribution(name: str) -> metadata.Distribution | None:
    """By distribution name, else by the name that is imported (``sklearn`` is ``scikit-learn``)."""
    try:
        return metadata.distribution(name)
    except metadata.PackageNotFoundError:
        owners = metadata.packages_distributions().get(name, [])
        return metadata.distribution(owners[0]) if owners else None


def _top_levels(distribution: metadata.Distribution) -> dict[str, bool]:
    """Top-level files and folders of a distribution that can hold code, and whether they hold native code."""
    tops: dict[str, bool] = {}
    for file in distribution.files or ():
        top = file.parts[0]
        if top in ("..", "__pycache__") or top.endswith((".pth", ".egg-link")):
            continue
        tops[top] = tops.get(top, False) or file.suffix == ".so" or ".so." in file.name
    return tops
