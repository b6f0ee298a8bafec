"""The edges on which several circuits agree."""

from __future__ import annotations

from collections.abc import Sequence

from circuitkit.errors import ArgumentError, CircuitError
from circuitkit.graph.algebra import CONSENSUS
from circuitkit.graph.circuit import Circuit, combined
from circuitkit.graph.published import CircuitLike, opened

__all__ = ["consensus"]


def consensus(circuits: Sequence[CircuitLike], k: int) -> Circuit:
    """The edges that at least k of several circuits of one model hold.

    Each is given as to ``compare``. An edge has the k-th largest of its weights, by magnitude: with
    k = 1 this is the union (``a | b``), with k the number of circuits the intersection (``a & b``).
    Where one of them has no weights (``unweighted``), neither has the consensus. What it was made
    of is in its attribute ``made_of``, and in its file.

    Raises CircuitError where there is no circuit, one only lists its components, or they are of
    different models, and ArgumentError where k is not from 1 to their number.

    Example:
        >>> several = [ck.discovery.eap(model, "ioi").top(n) for n in (20, 30, 40)]
        >>> print(ck.consensus(several, 2))
        30 of 479 edges, 7 of 16 heads, 4 of 4 MLPs
    """
    several = [circuits] if isinstance(circuits, str) else [*circuits]
    if not several:
        raise CircuitError("there are no circuits; give a list of at least one")
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= len(several):
        raise ArgumentError(
            f"k is {k!r}, and there are {len(several)} circuits; give a whole number from 1 to "
            f"{len(several)}"
        )
    return combined([opened(circuit) for circuit in several], CONSENSUS, k)
