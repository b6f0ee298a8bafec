"""Which heads are read: those of a circuit, of a mask, or by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import networkx as nx
import numpy as np

from circuitkit.data.batches import Dataset
from circuitkit.engine.inputs import refuse
from circuitkit.errors import CircuitError, DataError
from circuitkit.evaluation.masks import as_mask
from circuitkit.graph.nodes import Node
from circuitkit.graph.types import Graph, Mask
from circuitkit.graph.wiring import Wiring

__all__ = ["Heads", "chosen", "group_of", "roles", "spans_of"]

Heads: TypeAlias = Graph | Mask | Sequence[str] | str


def chosen(circuit: Heads, wiring: Wiring) -> tuple[Node, ...]:
    """The heads, in the order in which they were named or else write.

    Raises CircuitError where there are none, where a node is not a head of the model, and where the
    circuit does not fit it; NodeNameError for what is not a node's name.
    """
    if isinstance(circuit, (nx.DiGraph, np.ndarray)):
        keep = as_mask(circuit, wiring)
        heads = [n for n, own in zip(wiring.writers, keep, strict=True) if n.is_head and own.any()]
        if not heads:
            raise CircuitError("the circuit has no heads; give one that has, or heads by name")
        return tuple(heads)
    names = [circuit] if isinstance(circuit, str) else circuit
    if not isinstance(names, list | tuple):
        refuse("circuit", circuit, "a circuit, a mask, or names of heads such as ['a9.h9']")
    if not names:
        raise CircuitError(
            f"there are no heads; give at least one, such as {str(wiring.first_head)!r}"
        )
    nodes = dict.fromkeys(Node(name) for name in names)
    for node in nodes:
        if node not in wiring.writer or not node.is_head:
            raise CircuitError(
                f"{str(node)!r} is not a head of a model with {wiring.layers} layers and "
                f"{wiring.heads} heads; give names such as {str(wiring.first_head)!r}"
            )
    return tuple(nodes)


def roles(circuit: Heads, heads: Sequence[str]) -> tuple[str, ...]:
    """What the circuit says that each head is for; empty where it says nothing."""
    if not isinstance(circuit, nx.DiGraph):
        return ("",) * len(heads)
    return tuple(str(circuit.nodes[head].get("role", "")) for head in heads)


def group_of(wiring: Wiring, head: Node) -> int:
    """The group whose keys and values a head has (its own number, where every head has its own)."""
    return (head.head or 0) * wiring.groups // wiring.heads


def spans_of(data: Dataset, at: Sequence[str] | str | None, query: str) -> tuple[str, ...]:
    """The spans that are looked at: the named ones, or all that every prompt has and that reach no
    further than the query. Raises DataError for a span that a prompt lacks."""
    if not data.examples:
        raise DataError("there are no prompts; give at least one")
    named = () if at is None else (at,) if isinstance(at, str) else tuple(at)
    for name in (*named, query):
        if any(name not in e.spans for e in data.examples):
            known = ", ".join(data.examples[0].spans)
            raise DataError(f"a prompt has no span {name!r}; the first one has {known}")
    if at is not None:
        return named
    first, *others = (
        [name for name, (_, stop) in e.spans.items() if stop <= e.spans[query][1]]
        for e in data.examples
    )
    return tuple(name for name in first if all(name in own for own in others))
