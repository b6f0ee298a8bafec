"""What the two programs that Tracr compiled share; which edges are true depends on what a cut edge
carries."""

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
    "what carries only positions or the length is the same in every prompt of one length: cut or "
    "not, nothing changes, so that its edges are none here"
)


def merged(names: Iterable[str]) -> Edges:
    """The edges, tokens and positions become the one embedding."""
    pairs = [name.partition("->")[::2] for name in names]
    return frozenset(
        parse_edge(f"{'input' if writer in ('tokens', 'positions') else writer}->{reader}")
        for writer, reader in pairs
    )
