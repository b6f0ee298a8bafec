"""What a model's layers are made of: the one place that knows that a layer is heads, then an MLP.

A *part* names components that read and write together, before it is known where they are in a
model; ``Wiring`` lays the parts out one after the other, and a part with its place is a *stage*.
Who computes a stage is looked up by its ``kind``.
"""

from __future__ import annotations

import reprlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from circuitkit.errors import CircuitError
from circuitkit.graph.nodes import Node
from circuitkit.util.json_values import Json

__all__ = [
    "ATTENTION",
    "EXPERTS",
    "FEATURES",
    "MLP",
    "REMAINDERS",
    "Part",
    "Split",
    "Stage",
    "attention",
    "experts",
    "features",
    "laid_out",
    "mlp",
]

ATTENTION = "attention"
MLP = "mlp"
EXPERTS = "experts"
FEATURES = "features"
REMAINDERS = ("rest", "skip", "error")


@dataclass(frozen=True)
class Part:
    """Components of a layer: their writers, their readers, and for each writer the readers that
    feed it (as numbers, counted from the part's first). ``ports`` says how many readers, one after
    the other, read alike (of attention all queries, all keys, all values). ``beside``: they read
    what the part before them reads, so that the two do not hear each other."""

    layer: int
    kind: str
    writers: tuple[Node, ...]
    readers: tuple[Node, ...]
    feeds: tuple[tuple[int, ...], ...]
    ports: tuple[int, ...] = (1,)
    beside: bool = False


@dataclass(frozen=True)
class Split:
    """How an MLP is taken apart into features: the numbers of those that are ``chosen``, each with
    a reader of its own; and who writes what they leave over, all reading at the MLP's port: the
    ``rest`` (the other features and the bias), a ``skip`` and an ``error``.

    ``letter`` begins the names: ``f`` of features, ``n`` of neurons. ``tied``: whether a feature is
    active depends on the others too (top k), which read at the port.
    """

    chosen: Sequence[int]
    others: Sequence[str] = ("rest", "error")
    letter: str = "f"
    tied: bool = False

    def __post_init__(self) -> None:
        listed = isinstance(self.chosen, (list, tuple))
        numbers = listed and all(type(n) is int and n >= 0 for n in self.chosen)
        named = isinstance(self.others, (list, tuple)) and self.letter in ("f", "n")
        if not numbers or not named or not isinstance(self.tied, bool):
            raise CircuitError(f"{reprlib.repr(vars(self))} does not say how an MLP is split")
        if len(set(self.chosen)) != len(self.chosen) or not set(self.others) <= {*REMAINDERS}:
            raise CircuitError(
                f"an MLP is split into features, each once, and {', '.join(REMAINDERS)}; not into "
                f"{reprlib.repr((*self.chosen, *self.others))}"
            )
        if not self.chosen and not self.others:
            raise CircuitError("an MLP that is split into nothing; choose a feature")
        object.__setattr__(self, "chosen", tuple(self.chosen))
        object.__setattr__(self, "others", tuple(self.others))

    def to_dict(self) -> dict[str, Json]:
        """The fields, as files hold them."""
        return {"chosen": [*self.chosen], "others": [*self.others], "letter": self.letter,
                "tied": self.tied}  # fmt: skip


@dataclass(frozen=True)
class Stage:
    """A part at its place: the ``rows`` of its writers, the ``columns`` of its readers, and how
    many writers, from the first, its readers see (``upstream``)."""

    part: Part
    index: int
    rows: slice
    columns: slice
    upstream: int

    @property
    def layer(self) -> int:
        """The layer to which the stage belongs."""
        return self.part.layer

    @property
    def kind(self) -> str:
        """Who computes the stage: ``attention``, ``mlp``, ``experts``, ..."""
        return self.part.kind

    @property
    def writes(self) -> int:
        """How many writers there are."""
        return len(self.part.writers)

    @property
    def reads(self) -> int:
        """How many readers there are."""
        return len(self.part.readers)

    @cached_property
    def feeds(self) -> tuple[tuple[int, ...], ...]:
        """For each writer the columns of the readers that feed it."""
        start = self.columns.start
        return tuple(tuple(start + own for own in feed) for feed in self.part.feeds)

    def port(self, column: int) -> tuple[int, int]:
        """The port to which a reader belongs, and its place in it."""
        place = column - self.columns.start
        port = 0
        while place >= self.part.ports[port]:
            place -= self.part.ports[port]
            port += 1
        return port, place

    def port_columns(self, port: int) -> slice:
        """The columns of a port's readers."""
        start = self.columns.start + sum(self.part.ports[:port])
        return slice(start, start + self.part.ports[port])

    @cached_property
    def groups(self) -> tuple[int, ...]:
        """For each writer the first of the writers with which it shares a reader (itself, if it
        shares none)."""
        first: dict[int, int] = {}
        return tuple(
            min(first.setdefault(own, writer) for own in feed)
            for writer, feed in enumerate(self.part.feeds)
        )

    @cached_property
    def shared(self) -> frozenset[int]:
        """The columns that feed more than one writer."""
        counts = Counter(column for feed in self.feeds for column in set(feed))
        return frozenset(column for column, times in counts.items() if times > 1)


def attention(layer: int, heads: int, groups: int) -> Part:
    """The heads of a layer; with fewer groups than heads, the key and value ports are a group's."""
    own = "h" if groups == heads else "g"
    readers = [f"a{layer}.h{head}.q" for head in range(heads)]
    readers += [f"a{layer}.{own}{group}.{port}" for port in "kv" for group in range(groups)]
    shared = [head * groups // heads for head in range(heads)]
    return Part(
        layer,
        ATTENTION,
        tuple(Node(f"a{layer}.h{head}") for head in range(heads)),
        tuple(map(Node, readers)),
        tuple((head, heads + g, heads + groups + g) for head, g in enumerate(shared)),
        (heads, groups, groups),
    )


def mlp(layer: int, *, beside: bool) -> Part:
    """The MLP of a layer."""
    node = Node(f"m{layer}")
    return Part(layer, MLP, (node,), (node,), ((0,),), beside=beside)


def experts(layer: int, count: int, shared: bool, *, beside: bool) -> Part:
    """The experts of a layer's MLP, which read together; ``shared`` is the expert that every token
    goes through."""
    names = [f"m{layer}.e{expert}" for expert in range(count)] + [f"m{layer}.shared"] * shared
    writers = tuple(map(Node, names))
    feeds = ((0,),) * len(writers)
    return Part(layer, EXPERTS, writers, (Node(f"m{layer}"),), feeds, beside=beside)


def features(layer: int, split: Split, *, beside: bool) -> Part:
    """The MLP of a layer taken apart: each chosen feature reads by itself, all else at the port."""
    own = [Node(f"m{layer}.{split.letter}{number}") for number in split.chosen]
    port = len(own)
    fed = [(place, port if split.tied else place) for place in range(port)]
    return Part(
        layer,
        FEATURES,
        (*own, *(Node(f"m{layer}.{name}") for name in split.others)),
        (*own, Node(f"m{layer}")),
        (*fed, *[(port, port)] * len(split.others)),
        (port, 1) if port else (1,),
        beside=beside,
    )


def laid_out(parts: Iterator[Part]) -> Iterator[Stage]:
    """The parts one after the other, behind the input's row."""
    row, column, upstream = 1, 0, 1
    for index, part in enumerate(parts):
        upstream = upstream if part.beside else row
        rows = slice(row, row + len(part.writers))
        columns = slice(column, column + len(part.readers))
        yield Stage(part, index, rows, columns, upstream)
        row, column = rows.stop, columns.stop
