"""The full computational graph of a model, as an index: which writer may reach which reader.

Writers stand in the order in which they write (embedding; then of each layer its heads and its
MLP), so a reader sees a *prefix* of them, and a mask over edges is an array [writers, readers].
With grouped-query attention the key and value ports belong to a group of heads, for that is what
the model computes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Int

from circuitkit.errors import CircuitError
from circuitkit.graph.nodes import LOGITS, Node, edge_name

__all__ = ["Wiring"]

MOST_HEADS = 2**15  # twice those of Llama 3.1 405B; a file that claims more would fill the memory


@dataclass(frozen=True)
class Wiring:
    """The shape of a decoder: layers, heads and key/value groups per layer; with MLPs or not;
    ``parallel`` where an MLP reads the same residual as its layer's attention."""

    layers: int
    heads: int
    groups: int
    mlp: bool = True
    parallel: bool = False

    def __post_init__(self) -> None:
        counts = (self.layers, self.heads, self.groups)
        whole = all(type(n) is int and 0 < n <= MOST_HEADS for n in counts)
        kinds = isinstance(self.mlp, bool) and isinstance(self.parallel, bool)
        if not whole or not kinds or self.layers * self.heads > MOST_HEADS:
            raise CircuitError(
                f"{str(self)[:200]} is no wiring: layers, heads and groups are positive whole "
                f"numbers, with at most {MOST_HEADS:,} heads in all; mlp and parallel are booleans"
            )
        if self.heads % self.groups:
            raise CircuitError(f"{self} is no wiring: the groups must divide the heads")

    @cached_property
    def writers(self) -> tuple[Node, ...]:
        """Every writer, in the order of writing."""
        names = ["embed"]
        for layer in range(self.layers):
            names += [f"a{layer}.h{head}" for head in range(self.heads)]
            names += [f"m{layer}"] * self.mlp
        return tuple(map(Node, names))

    @cached_property
    def readers(self) -> tuple[Node, ...]:
        """Every reader: of each layer its q, k and v ports and its MLP; then the logits."""
        names: list[str] = []
        for layer in range(self.layers):
            names += [f"a{layer}.h{head}.q" for head in range(self.heads)]
            names += [self.port(layer, letter, g) for letter in "kv" for g in range(self.groups)]
            names += [f"m{layer}"] * self.mlp
        return (*map(Node, names), LOGITS)

    def port(self, layer: int, letter: str, index: int) -> Node:
        """The name of a layer's port: of a head where each has its own, else of a group."""
        own = letter == "q" or self.groups == self.heads
        return Node(f"a{layer}.{'h' if own else 'g'}{index}.{letter}")

    @cached_property
    def writer(self) -> dict[str, int]:
        """The row of each writer."""
        return {name: i for i, name in enumerate(self.writers)}

    @cached_property
    def reader(self) -> dict[str, int]:
        """The column of each reader."""
        return {name: i for i, name in enumerate(self.readers)}

    @property
    def shape(self) -> tuple[int, int]:
        """Writers × readers."""
        return len(self.writers), len(self.readers)

    @cached_property
    def upstream(self) -> Int[np.ndarray, " readers"]:
        """How many writers, from the first, each reader sees."""
        return np.array([self._before(reader) for reader in self.readers])

    def _before(self, reader: Node) -> int:
        if reader == LOGITS:
            return len(self.writers)
        layer = reader.layer or 0
        inside = self.heads if reader.is_mlp and not self.parallel else 0
        return 1 + layer * (self.heads + self.mlp) + inside

    @cached_property
    def legal(self) -> Bool[np.ndarray, "writers readers"]:
        """Which pairs are edges."""
        return np.arange(len(self.writers))[:, None] < self.upstream[None, :]

    @property
    def n_edges(self) -> int:
        """How many edges there are (GPT-2 small: 32,491)."""
        return int(self.upstream.sum())

    # -- where a layer's parts stand ---------------------------------------------------------------
    def first_head(self, layer: int) -> int:
        """The row of a layer's head 0."""
        return 1 + layer * (self.heads + self.mlp)

    def mlp_row(self, layer: int) -> int:
        """The row of a layer's MLP."""
        return self.first_head(layer) + self.heads

    def ports(self, layer: int) -> dict[str, slice]:
        """The columns of a layer's q, k and v ports."""
        start = layer * (self.heads + 2 * self.groups + self.mlp)
        middle = start + self.heads
        return {
            "q": slice(start, middle),
            "k": slice(middle, middle + self.groups),
            "v": slice(middle + self.groups, middle + 2 * self.groups),
        }

    def mlp_column(self, layer: int) -> int:
        """The column of a layer's MLP."""
        return int(self.ports(layer)["v"].stop)

    def group(self, head: int) -> int:
        """The key/value group of a head."""
        return head * self.groups // self.heads

    def heads_of(self, reader: Node) -> tuple[Node, ...]:
        """The heads that a port feeds: one, or those of its group."""
        if reader.head is not None:
            return (reader.component,)
        size = self.heads // self.groups
        first = (reader.group or 0) * size
        return tuple(Node(f"a{reader.layer}.h{h}") for h in range(first, first + size))

    def index(self, writer: str, reader: str) -> tuple[int, int]:
        """Row and column of an edge; raises CircuitError where this model has no such edge, and
        NodeNameError where a name is no node's."""
        row, column = self.writer.get(writer), self.reader.get(reader)
        if row is None or column is None or not self.legal[row, column]:
            raise CircuitError(
                f"{edge_name(writer, reader)} is no edge of a model with {self.layers} layers, "
                f"{self.heads} heads and {self.groups} key/value groups"
            )
        return row, column

    def alive(
        self, keep: Bool[np.ndarray, "writers readers"], sources: Iterable[int] = (0,)
    ) -> Bool[np.ndarray, "writers readers"]:
        """The kept edges that lie on a kept path from a source (the embedding) to the logits.

        The others cannot change the output: a component without a kept in-edge writes what the
        carried run writes, and what nobody reads is not heard.
        """
        keep = keep & self.legal
        live = np.zeros(len(self.writers), dtype=bool)
        live[list(sources)] = True
        feeds = self._feeds
        for row in range(1, len(self.writers)):
            live[row] |= bool((keep[:, feeds[row]] & live[:, None]).any())
        keep = keep & live[:, None]
        heard = np.zeros(len(self.readers), dtype=bool)
        heard[-1] = True
        for row in range(len(self.writers) - 1, 0, -1):
            if (keep[row] & heard).any():
                heard[feeds[row]] = True
        return keep & heard[None, :]

    def best(
        self, ranking: Int[np.ndarray, " edges"], n: int
    ) -> Bool[np.ndarray, "writers readers"]:
        """The best n edges that hang together: of the longest head of the ranking (flat indices,
        the best first) of which no more than n edges are alive, those."""

        def alive(size: int) -> Bool[np.ndarray, "writers readers"]:
            keep = np.zeros(self.shape, dtype=bool)
            keep.reshape(-1)[ranking[:size]] = True
            return self.alive(keep)

        low, high = min(n, len(ranking)), len(ranking)
        while low < high:  # the more is kept, the more is alive: bisect
            middle = (low + high + 1) // 2
            low, high = (middle, high) if alive(middle).sum() <= n else (low, middle - 1)
        return alive(low)

    @cached_property
    def _feeds(self) -> list[list[int]]:
        """The columns that feed each writer; none feeds the embedding."""
        columns: list[list[int]] = [[]]
        for layer in range(self.layers):
            ports = self.ports(layer)
            for head in range(self.heads):
                shared = [ports[p].start + self.group(head) for p in "kv"]
                columns.append([ports["q"].start + head, *shared])
            columns += [[self.mlp_column(layer)]] * self.mlp
        return columns

    def feeds(self, row: int) -> list[int]:
        """The columns (q, k and v ports, or an MLP's input) that feed a writer's row."""
        return self._feeds[row]
