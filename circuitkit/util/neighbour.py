"""Another project's package, which installs into the same folder as ours."""

from __future__ import annotations

__all__ = ["NeighbourWarning", "neighbour"]

THEIRS = "circuitkit"  # that project's distribution; ours is called circuitkit-graph


class NeighbourWarning(UserWarning):
    """Another project's package lies in the same folder as ours."""


def neighbour() -> str | None:
    """What to say where the other project's package is installed beside ours; None where it is
    not. One look-up by name."""
    import importlib.metadata  # of no use to --help

    try:
        found = importlib.metadata.distribution(THEIRS)
    except importlib.metadata.PackageNotFoundError:
        return None
    return (
        f"the package {THEIRS} {found.version}, another project, is installed beside "
        "circuitkit-graph and writes into the same folder, so that files of both are mixed: "
        f"pip uninstall {THEIRS} circuitkit-graph, then install circuitkit-graph again"
    )
