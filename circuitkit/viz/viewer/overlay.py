"""Two circuits of one model as one, in which every edge knows where it comes from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from circuitkit.errors import CircuitError
from circuitkit.graph.circuit import (
    Circuit,
    build,
    build_placed,
    edges,
    is_placed,
    places_of,
    wiring_of,
)
from circuitkit.graph.types import Graph
from circuitkit.viz import style
from circuitkit.viz.circuits.drawing import SOURCE

__all__ = ["Overlay", "overlaid"]

Pair = tuple[str, str]


@dataclass(frozen=True)
class Overlay:
    """The union of two circuits, A and B, and what each of them gives its edges.

    The weights of ``union`` are the larger of the two, after each circuit's are divided by its
    largest: those of two circuits may be in other units.
    """

    union: Circuit
    names: tuple[str, str]
    weights: tuple[dict[Pair, float], dict[Pair, float]]

    def side(self, pair: Pair) -> int:
        """0 for an edge of A alone, 1 of both, 2 of B alone."""
        a, b = (pair in own for own in self.weights)
        return 1 if a and b else 0 if a else 2


def overlaid(left: Graph, right: Graph) -> Overlay:
    """The two as one; raises CircuitError where they are not of one model, or of one's places."""
    make = _maker(left, right)
    a, b = ({(str(w), str(r)): x for w, r, x in edges(one)} for one in (left, right))
    scaled = [_scaled(own) for own in (a, b)]
    weights = {
        pair: max((own.get(pair, 0.0) for own in scaled), key=abs) for pair in sorted({*a, *b})
    }
    union = make(weights)
    if all(circuit.graph.get("unweighted") for circuit in (left, right)):
        union.graph["unweighted"] = True
    for circuit in (right, left):
        for name, own in circuit.nodes(data=True):
            if own.get("role"):
                union.add_node(name, role=own["role"])
    return Overlay(union, _names(left, right), (a, b))


def _maker(left: Graph, right: Graph) -> Callable[[dict[Pair, float]], Circuit]:
    """What builds a circuit of the model of both, or between the places of both."""
    if is_placed(left) and is_placed(right):
        places = places_of(left)
        if places_of(right) != places:
            raise CircuitError(
                "the circuits are between places of other spans or models; overlay circuits of "
                "the same places"
            )
        return partial(build_placed, places)
    wiring = wiring_of(left)
    if wiring_of(right) != wiring:
        raise CircuitError(
            f"the circuits belong to different models ({wiring}; {wiring_of(right)}); overlay "
            "circuits of one model"
        )
    return partial(build, wiring)


def _scaled(weights: dict[Pair, float]) -> dict[Pair, float]:
    largest = max(map(abs, weights.values()), default=0.0) or 1.0
    return {pair: weight / largest for pair, weight in weights.items()}


def _names(left: Graph, right: Graph) -> tuple[str, str]:
    """What the two are called: by their labels, or the first attributes that tell them apart."""
    a, b = left.graph, right.graph
    for key in ("label", *SOURCE):
        if a.get(key) != b.get(key):
            found = [
                style.plain(
                    about.get("label") or about.get("reference") or about.get(key) or "?", 40
                )
                for about in (a, b)
            ]
            return found[0], found[1]
    return "A", "B"
