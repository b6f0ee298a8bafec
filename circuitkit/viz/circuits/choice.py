"""Which edges of a circuit a picture shows, and the words for those that it leaves out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from circuitkit.errors import OutputError
from circuitkit.graph.circuit import components, edges, wiring_of
from circuitkit.graph.filling import fill
from circuitkit.graph.nodes import Node
from circuitkit.graph.published import skeleton
from circuitkit.graph.types import Graph, Mask
from circuitkit.graph.wiring import Wiring

__all__ = [
    "SIZES",
    "USUAL",
    "Asked",
    "Choice",
    "Weighted",
    "between_roles",
    "check_asked",
    "chosen",
    "drawn_part",
    "nested",
    "smaller_parts",
]

USUAL = 40  # edges that are drawn unless another number is asked for: about what can be read
SIZES = (12, 25, 50, 100, 200)  # of the parts of a circuit whose faithfulness is measured
MOST_ALIKE = 300  # edges without weights: above, a picture of equal lines says nothing

Weighted = tuple[Node, Node, float]
Asked: TypeAlias = int | Literal["all"] | None  # how many edges; None: the usual number


@dataclass(frozen=True)
class Choice:
    """The edges to draw, the strongest first; which they are, and how strong what is left out."""

    shown: list[Weighted]
    left_out: int
    which: str  # "the 3 strongest of 5 edges"; empty where all are shown
    largest: float | None = None  # |weight| of what is left out; None where weights say nothing
    alone: float | None = None  # the faithfulness of what is shown; None where it is not known

    @property
    def words(self) -> str:
        """How many edges are drawn, of how many, and which are not."""
        number = len(self.shown)
        if not self.left_out:
            return f"{number:,} edges" if number else "no edges"
        strong = "" if self.largest is None else f", |weight| at most {self.largest:.3g}"
        return f"{self.which} ({self.left_out:,} left out{strong})"


def chosen(circuit: Graph, asked: Asked) -> Choice:
    """The edges of the circuit that a picture shows, at most so many (40), or all.

    The strongest that hang together; of a circuit without weights all, or else those between
    components that have roles. Raises OutputError where ``asked`` is not a count, where there are
    components and no edges, and where the edges that would be left out are no weaker than others.
    """
    check_asked(asked)
    wiring = wiring_of(circuit)
    found = sorted(edges(circuit), key=lambda e: (-abs(e[2]), e[0], e[1]))
    if not found and components(circuit):
        raise OutputError(
            f"{_name(circuit)} has components and no edges to draw; draw it as .svg, .pdf or .png "
            "by circuitkit's own layout, or save it as .json"
        )
    most = max(1, len(found)) if asked == "all" else asked
    if circuit.graph.get("unweighted"):
        return _between_roles(circuit, found, most)
    shown, which = _strongest(found, most or USUAL, wiring)
    kept = set(shown)
    largest = max((abs(edge[2]) for edge in found if edge not in kept), default=None)
    return Choice(shown, len(found) - len(shown), which, largest, _known(circuit, shown, found))


def check_asked(asked: Asked) -> None:
    """Raise OutputError where this is not a number of edges to draw."""
    if asked not in (None, "all") and (not isinstance(asked, int) or asked < 1):
        raise OutputError(f"edges={asked!r} cannot be drawn; give a whole number from 1 on, or all")


def drawn_part(circuit: Graph) -> Mask | None:
    """The edges that a picture shows where it does not show all of the circuit; else None."""
    choice, wiring = chosen(circuit, None), wiring_of(circuit)
    return _mask(choice.shown, wiring) if choice.left_out else None


def nested(shown: list[Weighted], wiring: Wiring) -> list[Weighted]:
    """The edges in an order whose first 12, 25, 50, 100 and 200 are the strongest that hang
    together, each part chosen within the next; within a part the strongest are first."""
    parts = [shown]
    for size in sorted(SIZES, reverse=True):
        if size < len(shown):
            parts.append(_strongest(parts[-1], size, wiring)[0])
    return list(dict.fromkeys(edge for part in reversed(parts) for edge in part))


def smaller_parts(circuit: Graph) -> dict[int, Mask]:
    """The parts of a circuit by their size, as ``nested`` orders it."""
    wiring, shown = wiring_of(circuit), chosen(circuit, "all").shown
    ordered = nested(shown, wiring)
    return {size: _mask(ordered[:size], wiring) for size in SIZES if size < len(shown)}


def _mask(edges: list[Weighted], wiring: Wiring) -> Mask:
    keep = np.zeros(wiring.shape, dtype=bool)
    for writer, reader, _ in edges:
        keep[wiring.index(writer, reader)] = True
    return keep


def _known(circuit: Graph, shown: list[Weighted], found: list[Weighted]) -> float | None:
    """The faithfulness of what is shown, where ``discover`` has measured that of this part."""
    said = circuit.graph.get("drawn")
    if not isinstance(said, Mapping) or len(shown) == len(found):
        return None
    if (said.get("edges"), said.get("of")) != (len(shown), len(found)):
        return None
    value = said.get("faithfulness")
    return float(value) if isinstance(value, int | float) else None


def _name(circuit: Graph) -> str:
    return str(circuit.graph.get("reference", "the circuit"))


def _strongest(found: list[Weighted], n: int, wiring: Wiring) -> tuple[list[Weighted], str]:
    """The first n edges; those that hang together, where all of them do, so that no box dangles."""
    if len(found) <= n:
        return found, ""
    flat = np.ravel_multi_index(
        np.array([wiring.index(writer, reader) for writer, reader, _ in found]).T, wiring.shape
    )
    strengths = np.zeros(wiring.shape)
    strengths.flat[flat] = [abs(weight) for *_, weight in found]
    kept, _ = fill(wiring, flat, strengths, n)
    if not kept.any() or wiring.best(flat, len(found)).sum() < len(found):
        return found[:n], f"the {n:,} strongest of {len(found):,} edges"
    shown = [edge for edge in found if kept[wiring.index(edge[0], edge[1])]]
    return shown, f"the {len(shown):,} strongest of {len(found):,} edges that hang together"


def between_roles(circuit: Graph, found: list[Weighted]) -> list[Weighted]:
    """Those of the edges that join components with roles; the same list where nothing has one."""
    if not any(role for _, role in circuit.nodes(data="role")):
        return found
    kept = {edge[:2] for edge in edges(skeleton(circuit))}
    return [edge for edge in found if edge[:2] in kept]


def _between_roles(circuit: Graph, found: list[Weighted], most: int | None) -> Choice:
    """All edges where so many are asked for, else those between components with roles: edges
    without weights have no order in which some could be left out."""
    small = between_roles(circuit, found) if len(found) > (most or 0) else found
    if len(small) > (most or MOST_ALIKE):
        between = "" if small is found else " between components with roles"
        raise OutputError(
            f"{_name(circuit)} has {len(small):,} edges{between}, none of them stronger than "
            f"another; ask for all of them with edges={len(small)} (--edges {len(small)})"
        )
    which = f"{len(small):,} of {len(found):,} edges, those between components with roles"
    return Choice(small, len(found) - len(small), which)
