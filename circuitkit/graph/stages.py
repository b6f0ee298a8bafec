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
    "ATTENTION_FEATURES",
    "EXPERTS",
    "FEATURES",
    "LETTERS",
    "MLP",
    "OF_MLPS",
    "REMAINDERS",
    "STREAM_FEATURES",
    "Part",
    "Split",
    "Stage",
    "attention",
    "experts",
    "features",
    "laid_out",
    "mlp",
    "parts_of_attention",
    "parts_of_the_stream",
]

ATTENTION = "attention"
MLP = "mlp"
EXPERTS = "experts"
FEATURES = "features"
ATTENTION_FEATURES = "attention_features"
STREAM_FEATURES = "stream_features"
OF_MLPS = (MLP, EXPERTS, FEATURES)
REMAINDERS = ("rest", "skip", "error")
LETTERS = {  # of a layer's parts, by what is taken apart
    "mlp": "m", "mlp_out": "m", "attn_out": "a", "resid_pre": "r", "resid_mid": "r",
    "resid_post": "r",
}  # fmt: skip


@dataclass(frozen=True)
class Part:
    """Components of a layer: their writers, their readers, and for each writer the readers that
    feed it (as numbers, counted from the part's first). ``ports`` says how many readers, one after
    the other, read alike (of attention all queries, all keys, all values). ``beside``: they read
    what the part before them reads, so that the two do not hear each other. ``renews``: what they
    write is the residual stream from there on, so that nobody behind them hears who wrote
    before."""

    layer: int
    kind: str
    writers: tuple[Node, ...]
    readers: tuple[Node, ...]
    feeds: tuple[tuple[int, ...], ...]
    ports: tuple[int, ...] = (1,)
    beside: bool = False
    renews: bool = False


@dataclass(frozen=True)
class Split:
    """How a stage is taken apart into features; ``site`` says which stage, and where features read:
    ``mlp`` (an MLP, of which each feature reads by itself), ``mlp_out`` or ``attn_out`` (what an
    MLP or the heads write together, which decides what each feature writes), or the residual
    stream at ``resid_pre``, ``resid_mid`` or ``resid_post``, where each reads by itself.

    ``chosen`` are the numbers of the features that are writers of their own; the ``others`` write
    what these leave over: the ``rest`` (the other features and the bias), a ``skip`` and an
    ``error``, all reading at the stage's ports. ``letter`` begins the names: ``f`` of features,
    ``n`` of neurons. ``tied``: whether a feature that reads by itself is active depends on the
    others too (top k), which read at the port.
    """

    chosen: Sequence[int]
    others: Sequence[str] = ("rest", "error")
    letter: str = "f"
    tied: bool = False
    site: str = "mlp"

    def __post_init__(self) -> None:
        listed = isinstance(self.chosen, (list, tuple))
        numbers = listed and all(type(n) is int and n >= 0 for n in self.chosen)
        named = isinstance(self.others, (list, tuple)) and self.letter in ("f", "n")
        known = isinstance(self.site, str) and self.site in LETTERS
        if not numbers or not named or not known or not isinstance(self.tied, bool):
            raise CircuitError(f"{reprlib.repr(vars(self))} does not say how a stage is split")
        if self.letter == "n" and self.site != "mlp":
            raise CircuitError(f"neurons are of MLPs, and there are none at {self.site!r}")
        if len(set(self.chosen)) != len(self.chosen) or not set(self.others) <= {*REMAINDERS}:
            raise CircuitError(
                f"a stage is split into features, each once, and {', '.join(REMAINDERS)}; not into "
                f"{reprlib.repr((*self.chosen, *self.others))}"
            )
        if not self.chosen and not self.others:
            raise CircuitError("a stage that is split into nothing; choose a feature")
        object.__setattr__(self, "chosen", tuple(self.chosen))
        object.__setattr__(self, "others", tuple(self.others))

    def stem(self, layer: int) -> str:
        """How the names of a layer's parts begin: ``m3``, ``a3`` or ``r3``."""
        return f"{LETTERS[self.site]}{layer}"

    def to_dict(self) -> dict[str, Json]:
        """The fields, as files hold them; an MLP is meant where the site is not named."""
        found: dict[str, Json] = {"chosen": [*self.chosen], "others": [*self.others],
                                  "letter": self.letter, "tied": self.tied}  # fmt: skip
        return found if self.site == "mlp" else {**found, "site": self.site}


@dataclass(frozen=True)
class Stage:
    """A part at its place: the ``rows`` of its writers, the ``columns`` of its readers, and which
    writers these see: those from the row ``since`` on (the first, unless a stage before it renews
    the residual stream) up to ``upstream``."""

    part: Part
    index: int
    rows: slice
    columns: slice
    upstream: int
    since: int = 0

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
    def renews(self) -> bool:
        """Whether what it writes is the residual stream from there on."""
        return self.part.renews

    @property
    def heard(self) -> slice:
        """The rows of the writers that its readers see."""
        return slice(self.since, self.upstream)

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
    """The MLP of a layer taken apart: each chosen feature reads by itself, all else at the port; of
    features of what the MLP writes, everything."""
    node = Node(f"m{layer}")
    if split.site == "mlp_out":
        names = _names(layer, split)
        return Part(layer, FEATURES, names, (node,), ((0,),) * len(names), beside=beside)
    return _each_by_itself(layer, FEATURES, split, node, beside=beside)


def parts_of_attention(layer: int, split: Split, heads: Part) -> Part:
    """What the heads of a layer write together, taken apart: each part is fed by all their ports,
    which stay as they are."""
    names, fed = _names(layer, split), (*range(len(heads.readers)),)
    kind, ports = ATTENTION_FEATURES, heads.ports
    return Part(layer, kind, names, heads.readers, (fed,) * len(names), ports)


def parts_of_the_stream(layer: int, split: Split) -> Part:
    """The residual stream taken apart at a place of a layer: each chosen feature reads by itself,
    all else at the port, and together they write the stream anew."""
    return _each_by_itself(layer, STREAM_FEATURES, split, Node(f"r{layer}"), renews=True)


def _names(layer: int, split: Split) -> tuple[Node, ...]:
    """The writers: the chosen parts, and who writes what they leave over."""
    own = [f"{split.letter}{number}" for number in split.chosen]
    return tuple(Node(f"{split.stem(layer)}.{name}") for name in (*own, *split.others))


def _each_by_itself(
    layer: int, kind: str, split: Split, node: Node, *, beside: bool = False, renews: bool = False
) -> Part:
    """Parts of which the chosen ones are readers too, and the others read at the port."""
    names, port = _names(layer, split), len(split.chosen)
    fed = [(place, port if split.tied else place) for place in range(port)]
    return Part(
        layer,
        kind,
        names,
        (*names[:port], node),
        (*fed, *[(port, port)] * len(split.others)),
        (port, 1) if port else (1,),
        beside=beside,
        renews=renews,
    )


def laid_out(parts: Iterator[Part]) -> Iterator[Stage]:
    """The parts one after the other, behind the input's row."""
    row, column, upstream, since = 1, 0, 1, 0
    for index, part in enumerate(parts):
        upstream = upstream if part.beside else row
        rows = slice(row, row + len(part.writers))
        columns = slice(column, column + len(part.readers))
        yield Stage(part, index, rows, columns, upstream, since)
        row, column = rows.stop, columns.stop
        since = rows.start if part.renews else since
