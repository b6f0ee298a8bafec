"""How much memory this process has used."""

from __future__ import annotations

import sys

__all__ = ["peak_mebibytes"]


def peak_mebibytes() -> float:
    """The peak memory in MiB (Linux counts it in KiB, macOS in bytes); nan on Windows."""
    try:
        import resource
    except ImportError:
        return float("nan")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
