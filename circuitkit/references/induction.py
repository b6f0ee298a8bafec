"""Induction in a two-layer attention-only model: one head finds what came before, one copies it."""

from __future__ import annotations

from circuitkit.graph.published import Published, Rule, heads, joined, roles_of
from circuitkit.graph.wiring import Wiring

__all__ = ["circuitry"]

_WIRING = Wiring(layers=2, heads=8, groups=8, mlp=False)
_CLASSES = {"previous token": heads("0.0"), "induction": heads("1.6")}
_RULES: tuple[Rule, ...] = (
    ("input", "previous token", "v"),
    ("input", "induction", "qv"),
    ("previous token", "induction", "k"),
    ("induction", "output", ""),
    ("input", "output", ""),
)


def circuitry() -> Published:
    """redwood_attn_2l: 6 of 257 edges; Shi et al. 2024, arXiv:2410.13032.

    Example:
        >>> len(ck.references.induction.circuitry().edges)
        6
    """
    return Published(
        name="induction:circuitry",
        model="redwood_attn_2l",
        wiring=_WIRING,
        source="Shi et al. 2024, arXiv:2410.13032",
        convention="residual edges",
        note=(
            "ACDC names no edges here; head 1.5 is a second induction head that this set leaves "
            "out; positions enter queries and keys only, so that the input carries tokens alone"
        ),
        roles=roles_of(_CLASSES),
        edges=joined(_WIRING, _CLASSES, _RULES),
    )
