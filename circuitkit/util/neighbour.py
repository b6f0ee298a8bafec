"""A package of another project that installs into the same folder as ours."""

from __future__ import annotations

__all__ = ["NeighbourWarning", "neighbour"]

THEIRS = "circuitkit"  # the distribution of that project; ours is circuitkit-graph


class NeighbourWarning(UserWarning):
    """A package of another project is in the same folder as ours."""


def neighbour() -> str | None:
    """The warning if the other project's package is installed beside ours, else None; one look-up
    by name."""
    import importlib.metadata  # --help does not need it

    try:
        found = importlib.metadata.distribution(THEIRS)
    except importlib.metadata.PackageNotFoundError:
        return None
    return (
        f"the package {THEIRS} {found.version}, another project, is installed beside "
        "circuitkit-graph and writes into the same folder, so that files of both are mixed: "
        f"pip uninstall {THEIRS} circuitkit-graph, then install circuitkit-graph again"
    )
