"""What the two programs compiled by Tracr share; their edges depend on what a cut edge carries."""

from __future__ import annotations

from collections.abc import Iterable

from circuitkit.graph.nodes import parse_edge
from circuitkit.graph.published import Edges

__all__ = ["ACDC", "AUTOCIRCUIT", "CONSTANT", "RESAMPLED", "ZERO", "merged"]

ACDC = "Conmy et al. 2023, arXiv:2304.14997"
AUTOCIRCUIT = "Miller et al. 2024, arXiv:2407.08734"
ZERO = (
    "residual edges under zero ablation, tokens and positions as one input; as two inputs, and "
    "with one direct edge for every port entered, {}"
)
RESAMPLED = "residual edges under resampling, tokens and positions as one input"
CONSTANT = (
    "edges that carry only positions or the length carry the same in every prompt of one length: "
    "cutting them changes nothing, so they are not in this circuit"
)


def merged(names: Iterable[str]) -> Edges:
    """The edges, with tokens and positions as one input."""
    pairs = [name.partition("->")[::2] for name in names]
    return frozenset(
        parse_edge(f"{'input' if writer in ('tokens', 'positions') else writer}->{reader}")
        for writer, reader in pairs
    )
