"""Reversing a sequence, compiled by Tracr."""

from __future__ import annotations

from circuitkit.graph.published import Published
from circuitkit.graph.wiring import Wiring
from circuitkit.references._tracr import ACDC, AUTOCIRCUIT, CONSTANT, RESAMPLED, ZERO, merged

__all__ = ["EDGES", "acdc", "resample"]

# ACDC's edges, whose model has two inputs: the tokens and the positions.
EDGES = (
    "tokens->a0.h0<v>", "tokens->m0", "a0.h0->m0", "tokens->m1", "positions->m1", "m0->m1",
    "m1->m2", "m2->a3.h0<q>", "positions->a3.h0<k>", "tokens->a3.h0<v>", "a3.h0->logits",
)  # fmt: skip
_WIRING = Wiring(4, 1, 1)
_ROLES = {
    "a0.h0": "length", "m0": "length", "m1": "opposite index", "m2": "opposite index",
    "a3.h0": "reversed copy",
}  # fmt: skip


def acdc() -> Published:
    """tracr-reverse: 10 of 77 edges; Conmy et al. 2023, arXiv:2304.14997.

    Example:
        >>> len(ck.references.tracr_reverse.acdc().edges)
        10
    """
    return Published(
        name="tracr_reverse:acdc",
        model="tracr-reverse",
        wiring=_WIRING,
        source=ACDC,
        convention=ZERO.format("15 of 106"),
        note="edges that carry positions or the length count; under resampling they do not",
        roles=_ROLES,
        edges=merged(EDGES),
    )


def resample() -> Published:
    """tracr-reverse: 2 of 77 edges; Miller et al. 2024, arXiv:2407.08734.

    Example:
        >>> len(ck.references.tracr_reverse.resample().edges)
        2
    """
    return Published(
        name="tracr_reverse:resample",
        model="tracr-reverse",
        wiring=_WIRING,
        source=AUTOCIRCUIT,
        convention=RESAMPLED,
        note=CONSTANT,
        roles={"a3.h0": "reversed copy"},
        edges=merged(("a3.h0->logits", "input->a3.h0<v>")),
    )
