"""The versions of the libraries that a result was computed with, and those that are supported."""

from __future__ import annotations

import importlib.metadata
import platform
import re

from circuitkit.errors import VersionError

__all__ = ["changed", "supported", "versions"]

OURS = "circuitkit-graph"  # the name of the distribution


def versions() -> dict[str, str]:
    """The versions of Python, of this package and of the libraries that compute."""
    found = {"python": platform.python_version()}
    for package in (OURS, "torch", "transformer_lens", "transformers"):
        found[package] = _version(package)
    return found


def supported(library: str) -> str:
    """The versions of a library that circuitkit supports, as its metadata declares them:
    ``<5,>=4.0``; empty if circuitkit is not installed."""
    try:
        needed = importlib.metadata.requires(OURS) or []
    except importlib.metadata.PackageNotFoundError:
        return ""
    for line in needed:
        match = re.match(r"([\w.-]+)\s*([^;\s]*)", line)
        if match and _plain(match[1]) == _plain(library):
            return match[2]
    return ""


def changed(library: str, what: str) -> VersionError:
    """The error for a library that no longer has what circuitkit uses."""
    wanted = f"{library}{supported(library)}"
    return VersionError(
        f"{library} {_version(library)} does not work with this version of circuitkit ({what}); "
        f"run pip install '{wanted}', or install a newer circuitkit"
    )


def _version(library: str) -> str:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
