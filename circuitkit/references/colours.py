"""Coloured objects in GPT-2 medium, and the indirect objects whose heads they share."""

from __future__ import annotations

from circuitkit.graph.wiring import Wiring
from circuitkit.references._rules import Published, heads, roles_of

__all__ = ["circuits"]

_WIRING = Wiring(layers=24, heads=16, groups=16)
_SOURCE = "Merullo et al. 2024, arXiv:2310.08744"
_SHARED = {
    "mover": heads("15.14 16.15 17.4 18.5 19.15"),
    "induction": heads("9.3"),
    "duplicate token": heads("6.4"),
}
_OBJECTS = _SHARED | {"content gatherer": heads("11.6 11.7 12.15")}
_NAMES = _SHARED | {"inhibition": heads("12.3 13.4 13.13"), "negative mover": heads("19.1")}


def circuits() -> tuple[Published, ...]:
    """The heads of the two tasks."""
    convention = "heads; no edges were published"
    return (
        Published(
            "colored_objects:merullo2024", "gpt2-medium", _WIRING, _SOURCE, convention,
            "shares movers, induction and duplicate-token heads with ioi:merullo2024; content "
            "gatherers stand where that has inhibition and negative movers",
            roles_of(_OBJECTS),
        ),
        Published(
            "ioi:merullo2024", "gpt2-medium", _WIRING, _SOURCE, convention,
            "another model than all other circuits of the task; an appendix has 13.14 among the "
            "inhibition heads as well",
            roles_of(_NAMES),
        ),
    )  # fmt: skip
