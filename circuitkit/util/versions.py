"""The versions of what a result was computed with."""

from __future__ import annotations

import importlib.metadata
import platform

__all__ = ["versions"]


def versions() -> dict[str, str]:
    """The versions of Python and of what computes."""
    found = {"python": platform.python_version()}
    for package in ("circuitkit-graph", "torch", "transformer_lens", "transformers"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "unknown"
    return found
