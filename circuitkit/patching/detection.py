"""Which components a patching experiment finds: those whose effect lies far from the mean.

A component is detected when its mean effect is at least so many standard deviations away from the
mean over all components of the experiment (2 in Zhang & Nanda 2024, §3.1): above it the component
helps the clean behaviour, below it the component hurts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int

from circuitkit.errors import EvaluationError
from circuitkit.graph.compare import Overlap
from circuitkit.graph.nodes import Node
from circuitkit.graph.types import Graph
from circuitkit.patching.effects import Effects
from circuitkit.util.json_values import Json

__all__ = ["Detection", "detect", "detected_by_threshold", "roles_of"]

THRESHOLD = 2.0
MEMBER = "member"  # the role of a component whose circuit names none


@dataclass(frozen=True)
class Detection:
    """What an experiment finds: every component with its mean effect, and the threshold in standard
    deviations from the mean of them all."""

    nodes: tuple[str, ...]
    effects: Float[np.ndarray, " nodes"]
    threshold: float = THRESHOLD

    @property
    def bounds(self) -> tuple[float, float]:
        """The effect from which on down a component is found to hurt, and up to help; infinite
        where all effects are alike."""
        centre, spread = float(self.effects.mean()), float(self.effects.std())
        if spread <= 1e-12 * max(1.0, float(np.abs(self.effects).max())):
            return -np.inf, np.inf
        return centre - self.threshold * spread, centre + self.threshold * spread

    @cached_property
    def signs(self) -> Int[np.ndarray, " nodes"]:
        """1 where the component is found to help, -1 where to hurt, 0 where it is not found."""
        low, high = self.bounds
        return np.asarray((self.effects >= high).astype(int) - (self.effects <= low).astype(int))

    @property
    def helping(self) -> tuple[str, ...]:
        """The components found to help, the strongest first."""
        return self._signed(1)

    @property
    def hurting(self) -> tuple[str, ...]:
        """The components found to hurt, the strongest first."""
        return self._signed(-1)

    @property
    def found(self) -> tuple[str, ...]:
        """All components found: those that help, then those that hurt."""
        return self.helping + self.hurting

    def sign(self, node: str) -> int:
        """1 where the component is found to help, -1 where to hurt, 0 where it is not found."""
        return int(self.signs[self.nodes.index(node)])

    def counts(self, reference: Mapping[str, str]) -> dict[str, tuple[int, int]]:
        """For each role of the reference (component to role), how many of its components are found
        and how many there are; of the reference only what was patched counts."""
        known = self._known(reference)
        found = set(self.found)
        return {
            role: (
                sum(node in found for node, own in known.items() if own == role),
                sum(own == role for own in known.values()),
            )
            for role in dict.fromkeys(known.values())
        }

    def overlap(self, reference: Iterable[str]) -> Overlap:
        """What is found (left) against the components of a reference that were patched (right)."""
        known, found = set(reference) & set(self.nodes), set(self.found)
        return Overlap(len(found), len(known), len(found & known), len(self.nodes))

    def _known(self, reference: Mapping[str, str]) -> dict[str, str]:
        there = set(self.nodes)
        return {node: role for node, role in reference.items() if node in there}

    def _signed(self, sign: int) -> tuple[str, ...]:
        places = np.flatnonzero(self.signs == sign)
        return tuple(self.nodes[i] for i in places[np.argsort(-np.abs(self.effects[places]))])

    def __repr__(self) -> str:
        low, high = self.bounds
        return (
            f"{len(self.found)} of {len(self.nodes)} found beyond {self.threshold:g} standard "
            f"deviations ({low:+.3g}, {high:+.3g}); help: {', '.join(self.helping) or 'none'}; "
            f"hurt: {', '.join(self.hurting) or 'none'}"
        )


def detect(effects: Effects, threshold: float = THRESHOLD) -> Detection:
    """What the experiment finds: components beyond ``threshold`` standard deviations (of the
    population of all components) from the mean effect, on either side (Zhang & Nanda 2024, §3.1).

    Components that no example has are left out. Raises EvaluationError where the threshold is not
    positive, or fewer than two components were patched.
    """
    if not threshold > 0:
        raise EvaluationError(f"a threshold of {threshold} finds everything; give a positive one")
    mean = effects.mean.ravel()
    there = ~np.isnan(mean)
    if there.sum() < 2:
        raise EvaluationError(
            f"{int(there.sum())} components have no spread; patch at least two of them"
        )
    names = tuple(name for name, here in zip(effects.names, there, strict=True) if here)
    return Detection(names, mean[there], threshold)


def detected_by_threshold(
    effects: Effects,
    reference: Mapping[str, str] | None = None,
    thresholds: Sequence[float] = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0),
) -> list[dict[str, Json]]:
    """How detection changes with the threshold: a row each, with the number of components found to
    help and to hurt, and against a reference (component to role) precision, recall and the counts
    of each role."""
    rows = []
    for threshold in thresholds:
        found = detect(effects, threshold)
        row: dict[str, Json] = {
            "threshold": threshold, "help": len(found.helping), "hurt": len(found.hurting),
        }  # fmt: skip
        if reference:
            overlap = found.overlap(reference)
            row |= {"precision": overlap.precision, "recall": overlap.recall}
            row |= {role: f"{n}/{of}" for role, (n, of) in found.counts(reference).items()}
        rows.append(row)
    return rows


def roles_of(circuit: Graph) -> dict[str, str]:
    """A reference made of any circuit: its heads and MLPs, each with its role (``member`` where the
    circuit names none)."""
    roles: dict[str, str] = {}
    for name, attributes in circuit.nodes(data=True):
        node = Node(name)
        if node.is_head or node.is_mlp:
            roles[name] = str(attributes.get("role") or MEMBER)
    return roles
