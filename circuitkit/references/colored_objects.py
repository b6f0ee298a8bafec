"""Coloured objects in GPT-2 medium: the heads of Merullo et al."""

from __future__ import annotations

from circuitkit.graph.published import Published, heads, roles_of
from circuitkit.graph.wiring import Wiring

__all__ = ["merullo2024"]

_CLASSES = {
    "mover": heads("15.14 16.15 17.4 18.5 19.15"),
    "induction": heads("9.3"),
    "duplicate token": heads("6.4"),
    "content gatherer": heads("11.6 11.7 12.15"),
}


def merullo2024() -> Published:
    """gpt2-medium: 10 of 384 components; Merullo et al. 2024, arXiv:2310.08744.

    Example:
        >>> ck.references.colored_objects.merullo2024().roles["a15.h14"]
        'mover'
    """
    return Published(
        name="colored_objects:merullo2024",
        model="gpt2-medium",
        wiring=Wiring(layers=24, heads=16, groups=16),
        source="Merullo et al. 2024, arXiv:2310.08744",
        convention="heads; no edges were published",
        note=(
            "shares movers, induction and duplicate-token heads with ioi:merullo2024; content "
            "gatherers replace its inhibition heads and negative movers"
        ),
        roles=roles_of(_CLASSES),
    )
