"""The proportion of x so far, compiled by Tracr."""

from __future__ import annotations

from circuitkit.graph.published import Published
from circuitkit.graph.wiring import Wiring
from circuitkit.references._tracr import ACDC, AUTOCIRCUIT, CONSTANT, RESAMPLED, ZERO, merged

__all__ = ["EDGES", "acdc", "resample"]

# ACDC's edges, whose model has two inputs: the tokens and the positions.
EDGES = (
    "tokens->m0", "tokens->a1.h0<q>", "positions->a1.h0<q>", "tokens->a1.h0<k>",
    "positions->a1.h0<k>", "m0->a1.h0<v>", "a1.h0->logits",
)  # fmt: skip
_WIRING = Wiring(2, 1, 1)
_ROLES = {"m0": "is x", "a1.h0": "mean so far"}


def acdc() -> Published:
    """tracr-xproportion: 5 of 23 edges; Conmy et al. 2023, arXiv:2304.14997.

    Example:
        >>> len(ck.references.tracr_proportion.acdc().edges)
        5
    """
    return Published(
        name="tracr_proportion:acdc",
        model="tracr-xproportion",
        wiring=_WIRING,
        source=ACDC,
        convention=ZERO.format("10 of 38"),
        note=(
            "Shi et al. 2024 drop the tokens' edges into q and k of the head; as one input these "
            "are the edges of the positions, which they keep"
        ),
        roles=_ROLES,
        edges=merged(EDGES),
    )


def resample() -> Published:
    """tracr-xproportion: 3 of 23 edges; Miller et al. 2024, arXiv:2407.08734.

    Example:
        >>> len(ck.references.tracr_proportion.resample().edges)
        3
    """
    return Published(
        name="tracr_proportion:resample",
        model="tracr-xproportion",
        wiring=_WIRING,
        source=AUTOCIRCUIT,
        convention=RESAMPLED,
        note=CONSTANT,
        roles=_ROLES,
        edges=merged(("input->m0", "m0->a1.h0<v>", "a1.h0->logits")),
    )
