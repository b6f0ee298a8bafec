"""Induction in a two-layer attention-only model: one head finds what came before, one copies it."""

from __future__ import annotations

from circuitkit.graph.wiring import Wiring
from circuitkit.references._rules import Published, Rule, heads, joined, roles_of

__all__ = ["circuits"]

_WIRING = Wiring(layers=2, heads=8, groups=8, mlp=False)
_CLASSES = {"previous token": heads("0.0"), "induction": heads("1.6")}
_RULES: tuple[Rule, ...] = (
    ("input", "previous token", "v"),
    ("input", "induction", "qv"),
    ("previous token", "induction", "k"),
    ("induction", "output", ""),
    ("input", "output", ""),
)


def circuits() -> tuple[Published, ...]:
    """The one published circuit with edges."""
    return (
        Published(
            "induction:circuitry", "redwood_attn_2l", _WIRING,
            "Shi et al. 2024, arXiv:2410.13032",
            "residual edges",
            "ACDC names no edges here; head 1.5 is a second induction head that this set leaves "
            "out; positions enter queries and keys alone, so that embed carries tokens only",
            roles_of(_CLASSES), {}, joined(_WIRING, _CLASSES, _RULES),
        ),
    )  # fmt: skip
