"""The runs that the hypotheses are tested on: the metric of every prompt in each."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import chain, islice

import numpy as np
from jaxtyping import Float, Int

from circuitkit.engine.inputs import Inputs
from circuitkit.errors import UnfinishedError
from circuitkit.evaluation.faithfulness import measure_all
from circuitkit.graph.places import AnyMask, PlacedMask

__all__ = ["Measured", "Runs"]

AT_ONCE = 256  # masks in memory
BYTES = 2**30  # that they may take together

Table = Float[np.ndarray, "runs examples"]
Row = Float[np.ndarray, " examples"]


@dataclass(frozen=True)
class Measured:
    """The metric of every prompt: of the whole model, of nothing, of the circuit, and of the model
    ``without`` it; then tables [circuits, examples]. ``random`` are random circuits of its size,
    and ``lacking`` the model without each of them; ``cut`` is the circuit without each of its
    edges, ``inflated`` the circuit with a random path, and ``deflated`` that without one of the
    path's new edges. A table that was not asked for has no rows."""

    everything: Row
    nothing: Row
    circuit: Row
    without: Row
    random: Table
    lacking: Table
    cut: Table
    inflated: Table
    deflated: Table

    def of(self, prompts: Int[np.ndarray, " some"]) -> Measured:
        """The same on some of the prompts."""
        return replace(self, **{name: table[..., prompts] for name, table in vars(self).items()})


@dataclass
class Runs:
    """Runs of circuits on the prompts, a few masks at a time. With ``resume`` finished batches are
    kept; a shard makes its part of all of them, and has an ``unfinished`` table at the end."""

    inputs: Inputs
    resume: str | os.PathLike[str] | None
    ends: Table = field(default_factory=lambda: np.zeros((2, 0)))  # of everything and nothing
    unfinished: UnfinishedError | None = None

    def table(self, masks: Iterable[AnyMask]) -> Table:
        """The metric of every prompt under each mask; zeros where a shard has not all of them."""
        model, data, metric, corruption = self.inputs
        found = [np.zeros((0, len(data)))]
        left = iter(masks)
        first = [*islice(left, 1)]
        size = min([AT_ONCE, *(max(1, BYTES // _bytes(mask)) for mask in first)])
        left = chain(first, left)
        while some := [*islice(left, size)]:
            try:
                values = measure_all(model, some, data, [metric], corruption, self.resume)[0]
            except UnfinishedError as error:
                self.unfinished = error
                values = np.zeros((2 + len(some), len(data)))
            self.ends = values[:2]
            found.append(values[2:])
        return np.concatenate(found)

    def finish(self) -> None:
        """Raise UnfinishedError where a shard has not all blocks."""
        if self.unfinished is not None:
            raise self.unfinished


def _bytes(mask: AnyMask) -> int:
    """What a mask takes in memory."""
    tables = [mask.residual, mask.attention] if isinstance(mask, PlacedMask) else [mask]
    return sum(int(table.nbytes) for table in tables)
