"""The versions of what a result was computed with, and of what we can work with."""

from __future__ import annotations

import importlib.metadata
import platform
import re

from circuitkit.errors import VersionError

__all__ = ["changed", "supported", "versions"]

OURS = "circuitkit-graph"  # what the distribution is called


def versions() -> dict[str, str]:
    """The versions of Python and of what computes."""
    found = {"python": platform.python_version()}
    for package in (OURS, "torch", "transformer_lens", "transformers"):
        found[package] = _version(package)
    return found


def supported(library: str) -> str:
    """The versions of a library with which circuitkit works, as its metadata declares them:
    ``<5,>=4.0``; empty where circuitkit is not installed."""
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
    """The error for a library in which what we use is not as it was."""
    wanted = f"{library}{supported(library)}"
    return VersionError(
        f"{library} {_version(library)} is not as circuitkit needs it ({what}); "
        f"install a version that is: pip install '{wanted}', or a newer circuitkit"
    )


def _version(library: str) -> str:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
