"""Which component of a transformer each part of a causal model is to be, and which edges follow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from random import Random

import numpy as np

from circuitkit.errors import CircuitError, ModelError
from circuitkit.graph.nodes import INPUT, LOGITS, Node
from circuitkit.graph.types import Mask
from circuitkit.graph.wiring import Wiring
from circuitkit.truth.trained.causal import Causal, Link

__all__ = ["mask_of", "place"]

TRIES = 2000


def place(causal: Causal, wiring: Wiring, seed: int = 0) -> dict[str, str]:
    """A component of a model of this shape for each part, drawn with the seed: heads for what
    attends, MLPs for the rest, each behind what it reads, and none of two heads that share keys.

    Raises ModelError where there is no room for all parts.
    """
    rng = Random(seed)
    for _ in range(TRIES):
        found: dict[str, str] = {}
        for part in causal.parts:
            layer, head = rng.randrange(wiring.layers), rng.randrange(wiring.heads)
            found[part] = f"a{layer}.h{head}" if causal.is_head(part) else f"m{layer}"
        if len(set(found.values())) == len(found) and _fits(causal, found, wiring):
            return found
    raise ModelError(
        f"{wiring} have no room for the {len(causal.parts)} parts of {causal.name!r}; use more "
        "layers"
    )


def _fits(causal: Causal, components: Mapping[str, str], wiring: Wiring) -> bool:
    """Whether every edge exists, and no two readers share one."""
    try:
        edges = [edge(link, components, wiring) for link in causal.links]
    except CircuitError:
        return False
    return len(set(edges)) == len(edges) and not _shared(components, wiring)


def _shared(components: Mapping[str, str], wiring: Wiring) -> bool:
    """Whether two of the heads share keys and values."""
    read = [c for name in components.values() for c in wiring.feeds(wiring.writer[Node(name)])]
    return len(set(read)) < len(read)


def edge(link: Link, components: Mapping[str, str], wiring: Wiring) -> tuple[int, int]:
    """The row and the column of an edge; raises CircuitError where there is none."""
    writer = components.get(link.writer, INPUT)
    if link.reader == LOGITS:
        return wiring.index(writer, LOGITS)
    columns = wiring.feeds(wiring.writer[Node(components[link.reader])])
    column = columns["qkv".index(link.port)] if link.port else columns[0]
    return wiring.index(writer, wiring.readers[column])


def mask_of(links: Iterable[Link], components: Mapping[str, str], wiring: Wiring) -> Mask:
    """The edges of a model that some edges of a causal model are."""
    found = np.zeros(wiring.shape, dtype=bool)
    for link in links:
        found[edge(link, components, wiring)] = True
    return found
