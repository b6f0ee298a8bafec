"""Which components a patching experiment finds: those whose effect lies far from the mean.

A component is detected when its mean effect is at least so many standard deviations away from the
mean over all components of the experiment (2 in Zhang & Nanda 2024, §3.1): above it the component
helps the clean behaviour, below it the component hurts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Int

from circuitkit.engine.inputs import refuse
from circuitkit.errors import DataError, EvaluationError
from circuitkit.graph.compare import Overlap
from circuitkit.graph.nodes import Node
from circuitkit.graph.types import Graph
from circuitkit.patching.effects import Effects, full_name
from circuitkit.patching.pictures import Pictured, Plot
from circuitkit.util.json_values import Json
from circuitkit.util.tables import to_frame

if TYPE_CHECKING:
    import pandas

__all__ = ["Detection", "detect", "detected_by_threshold", "roles_of"]

THRESHOLD = 2.0
MEMBER = "member"  # the role of a component whose circuit names none


@dataclass(frozen=True, repr=False)
class Detection(Pictured):
    """What an experiment finds: the components whose mean effect lies far from the mean of all.

    ``nodes`` are the components and ``effects`` their mean effects [nodes], in metric units;
    ``threshold`` is a number of standard deviations (of all mean effects), and ``experiment`` the
    Effects in which was looked; components that no example has are left out.

    Source: Zhang & Nanda 2024 (arXiv:2309.16042), §3.1.

    Example:
        >>> from circuitkit.patching.detection import detect
        >>> found = detect(ck.patch_heads(model, data), threshold=1.5)
        >>> found.helping, found.hurting, found.sign("2.2")
        (('a2.h2', 'a0.h2'), (), 1)
    """

    nodes: tuple[str, ...]
    effects: Float[np.ndarray, " nodes"]
    threshold: float
    experiment: Effects

    @property
    def bounds(self) -> tuple[float, float]:
        """The effect at or below which a component is found to hurt, and that at or above which it
        is found to help; infinite where all effects are equal."""
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
        """1 where the component is found to help, -1 where to hurt, 0 where it is not found.

        Raises DataError where it was not patched.

        Example:
            >>> from circuitkit.patching.detection import detect
            >>> detect(ck.patch_heads(model, data), threshold=1.5).sign("a2.h2")
            1
        """
        own = node if node in self.nodes else full_name(node)
        if own not in self.nodes:
            known = ", ".join(self.nodes[:3])
            raise DataError(f"{node!r} was not patched; the names are {known}, ...")
        return int(self.signs[self.nodes.index(own)])

    def counts(self, reference: Mapping[str, str]) -> dict[str, tuple[int, int]]:
        """How many components of each role of a reference are found, and how many there are.

        Args:
            reference: The role of each component, by its name; those that were not patched do not
                count.

        Returns:
            For each role, the number found and the number patched.

        Example:
            >>> from circuitkit.patching.detection import detect
            >>> found = detect(ck.patch_heads(model, data), threshold=1.5)
            >>> found.counts({"2.2": "mover", "a3.h2": "mover"})
            {'mover': (1, 2)}
        """
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
        """What is found (left) against the components of a reference that were patched (right).

        Example:
            >>> from circuitkit.patching.detection import detect
            >>> found = detect(ck.patch_heads(model, data), threshold=1.5)
            >>> found.overlap(["a2.h2", "a3.h2"]).recall
            0.5
        """
        known, found = set(map(full_name, reference)) & set(self.nodes), set(self.found)
        return Overlap(len(found), len(known), len(found & known), len(self.nodes))

    def _known(self, reference: Mapping[str, str]) -> dict[str, str]:
        there = set(self.nodes)
        named = {full_name(node): role for node, role in reference.items()}
        return {node: role for node, role in named.items() if node in there}

    def _signed(self, sign: int) -> tuple[str, ...]:
        places = np.flatnonzero(self.signs == sign)
        return tuple(self.nodes[i] for i in places[np.argsort(-np.abs(self.effects[places]))])

    def to_frame(self) -> pandas.DataFrame:
        """The table of ``Effects.to_frame`` for the components, with the column ``found``: 1 where
        one is found to help, -1 where to hurt, 0 where it is not found.

        Example:
            >>> from circuitkit.patching.detection import detect
            >>> detect(ck.patch_heads(model, data), threshold=1.5).to_frame()["found"].sum()
            np.int64(2)
        """
        there = set(self.nodes)
        rows = [row for row in self.experiment.rows() if row["name"] in there]
        return to_frame({**row, "found": int(s)} for row, s in zip(rows, self.signs, strict=True))

    def plot(self, *, share: bool = False) -> Plot:
        """The figure of ``Effects.plot`` with the components found outlined (layers as bars).

        Args:
            share: Whether to draw the share of the gap rather than the effect in metric units.

        Example:
            >>> from circuitkit.patching.detection import detect
            >>> int(detect(ck.patch_heads(model, data), threshold=1.5).plot().marks.sum())
            2
        """
        return self.experiment.marked(self.marks, self.mark_name, share=share)

    @property
    def marks(self) -> Bool[np.ndarray, "*axes"]:
        """Whether each component of the experiment is found, in the shape of its means."""
        found = set(self.found)
        flags = np.array([name in found for name in self.experiment.names])
        return flags.reshape(self.experiment.shape[:-1])

    @property
    def mark_name(self) -> str:
        """What a figure's legend says of the components found."""
        return f"beyond {self.threshold:g} SD"

    def __str__(self) -> str:
        return (
            f"{len(self.found)} of {len(self.nodes)} found beyond {self.threshold:g} standard "
            f"deviations; {self.experiment}"
        )

    def __repr__(self) -> str:
        low, high = self.bounds
        return (
            f"{self}; bounds {low:+.3g}, {high:+.3g}; help: {', '.join(self.helping) or 'none'}; "
            f"hurt: {', '.join(self.hurting) or 'none'}"
        )


def detect(effects: Effects, threshold: float = THRESHOLD) -> Detection:
    """What the experiment finds: the components with effects far from the mean, on either side.

    Args:
        effects: The Effects of nodes of one kind.
        threshold: How many standard deviations (of the population of all mean effects) a mean
            effect lies at least from their mean.

    Returns:
        A Detection; components that no example has are left out of it.

    Raises:
        EvaluationError: where the threshold is not positive, or fewer than two components were
            patched.

    Source: Zhang & Nanda 2024 (arXiv:2309.16042), §3.1.

    Example:
        >>> from circuitkit.patching.detection import detect
        >>> print(detect(ck.patch_heads(model, data)))  # doctest: +ELLIPSIS
        2 of 16 found beyond 2 standard deviations; z, denoise, logit_diff under counterfactual: ...
    """
    if not isinstance(effects, Effects):
        refuse("effects", effects, "Effects, such as patch_heads gives")
    if not threshold > 0:
        raise EvaluationError(f"a threshold of {threshold} finds everything; give a positive one")
    mean = effects.mean.ravel()
    there = ~np.isnan(mean)
    if there.sum() < 2:
        raise EvaluationError(f"{int(there.sum())} components have no spread; patch at least two")
    names = tuple(name for name, here in zip(effects.names, there, strict=True) if here)
    return Detection(names, mean[there], threshold, effects)


def detected_by_threshold(
    effects: Effects,
    reference: Mapping[str, str] | None = None,
    thresholds: Sequence[float] = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0),
) -> list[dict[str, Json]]:
    """How detection changes with the threshold, a row for each.

    Args:
        effects: The Effects of nodes of one kind.
        reference: The role of each component of a known circuit, by its name.
        thresholds: Numbers of standard deviations.

    Returns:
        Rows with the ``threshold`` and the numbers of components found to ``help`` and to
        ``hurt``; against a reference also ``precision``, ``recall`` and for each role
        ``found/patched``.

    Raises:
        EvaluationError: as ``detect`` does.

    Example:
        >>> from circuitkit.patching.detection import detected_by_threshold
        >>> detected_by_threshold(ck.patch_heads(model, data), thresholds=[1.5, 10])
        [{'threshold': 1.5, 'help': 2, 'hurt': 0}, {'threshold': 10, 'help': 0, 'hurt': 0}]
    """
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
    """A reference made of any circuit: the role of each of its heads and MLPs, by name.

    A component whose circuit names no role is a ``member``.

    Example:
        >>> from circuitkit.patching.detection import roles_of
        >>> sorted(set(roles_of(circuit).values()))
        ['member']
    """
    roles: dict[str, str] = {}
    for name, attributes in circuit.nodes(data=True):
        node = Node(name)
        if node.is_head or node.is_mlp:
            roles[name] = str(attributes.get("role") or MEMBER)
    return roles
