"""The full computational graph of a model, as an index: which writer may reach which reader.

Writers are in the order in which they write (the embedding, then stage by stage), so a reader sees
a *window* of them: from the first (or, behind a residual stream that is taken apart, from the first
part of that) to the last that wrote before it reads. A mask over edges is an array [writers,
readers]. With grouped-query attention the key and value ports belong to a group of heads, because
that is what the model computes. (EAP-IG ungroups keys and values first, and has one such edge for
each head.)
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
from jaxtyping import Int

from circuitkit.errors import CircuitError
from circuitkit.graph.nodes import INPUT, LOGITS, Node, edge_name
from circuitkit.graph.stages import (
    ATTENTION,
    LETTERS,
    OF_MLPS,
    Part,
    Split,
    Stage,
    attention,
    experts,
    features,
    laid_out,
    mlp,
    parts_of_attention,
    parts_of_the_stream,
)
from circuitkit.graph.types import Mask
from circuitkit.util.json_values import Json

__all__ = ["Wiring"]

MOST_HEADS = 2**15  # twice those of Llama 3.1 405B; a file that claims more would fill the memory
MOST_PAIRS = 2**29  # of writers and readers, a byte each in a mask; Llama 3.1 405B has 3e8


@dataclass(frozen=True)
class Wiring:
    """The shape of a decoder: layers, heads and key/value groups per layer; with MLPs or not;
    ``parallel`` where an MLP reads the same residual as its layer's attention.

    ``experts`` is how many experts each layer's MLP is taken apart into (0: it stays whole, and
    without any number all do), ``shared`` whether there is one more that every token goes through.
    ``splits`` say how each layer is taken apart into features: nothing of it (None, or empty), one
    stage (a Split), or several; without any all stages are whole. Raises CircuitError for numbers
    that no model has.
    """

    layers: int
    heads: int
    groups: int
    mlp: bool = True
    parallel: bool = False
    experts: Sequence[int] = ()
    shared: bool = False
    splits: Sequence[Split | Sequence[Split] | None] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "experts", _listed(self.experts))
        object.__setattr__(self, "splits", _splits(self.splits))
        counts = (self.layers, self.heads, self.groups)
        whole = all(type(n) is int and 0 < n <= MOST_HEADS for n in counts)
        kinds = all(isinstance(own, bool) for own in (self.mlp, self.parallel, self.shared))
        if not whole or not kinds or self.layers * self.heads > MOST_HEADS:
            raise CircuitError(
                f"{_short(self)} is not a wiring: layers, heads and groups are positive whole "
                f"numbers, with at most {MOST_HEADS:,} heads in all; mlp, parallel and shared are "
                "booleans"
            )
        if self.heads % self.groups:
            raise CircuitError(f"{self} is not a wiring: the groups must divide the heads")
        listed = isinstance(self.experts, tuple)
        numbers = listed and all(type(n) is int and 0 <= n <= MOST_HEADS for n in self.experts)
        if not numbers or sum(self.experts) > MOST_HEADS or (self.experts and not self.mlp):
            raise CircuitError(
                f"{_short(self)} is not a wiring: experts are whole numbers, at most "
                f"{MOST_HEADS:,} in all, of models with MLPs"
            )
        if self.experts and len(self.experts) != self.layers:
            raise CircuitError(f"{self} is not a wiring: give the number of experts of each layer")
        self._require_splits()
        own = [split for layer in self.of_layers for split in layer]
        chosen = sum(len(split.chosen) for split in own)
        writers = self.layers * (self.heads + 2) + sum(self.experts) + chosen + 3 * len(own)
        readers = self.layers * (self.heads + 2 * self.groups + 1) + chosen + len(own)
        if writers * readers > MOST_PAIRS:
            raise CircuitError(
                f"{_short(self)} is not a wiring: {writers:,} writers × {readers:,} readers are "
                f"more than {MOST_PAIRS:,} pairs, which no known model has"
            )

    def _require_splits(self) -> None:
        """Raise CircuitError where the model has no such stages, or one is taken apart twice."""
        if not self.splits:
            return
        if len(self.splits) != self.layers:
            raise CircuitError(f"{_short(self)} is not a wiring: say of each layer how it is split")
        for layer, own in enumerate(self.of_layers):
            sites = {split.site for split in own}
            if len({LETTERS[site] for site in sites}) < len(own):
                raise CircuitError(
                    f"{_short(self)} is not a wiring: layer {layer} splits one twice"
                )
            if sites & {"mlp", "mlp_out"} and (self.experts or not self.mlp):
                raise CircuitError(
                    f"{_short(self)} is not a wiring: MLPs are split into features of models with "
                    "MLPs that are not taken apart into experts"
                )
            if "resid_mid" in sites and (self.parallel or not self.mlp):
                raise CircuitError(
                    f"{_short(self)} is not a wiring: there is no residual stream between the "
                    f"attention and the MLP of layer {layer}; split it at 'resid_pre'"
                )
            before = {split.site for split in self.of_layers[layer - 1]} if layer else set()
            if "resid_pre" in sites and "resid_post" in before:
                raise CircuitError(
                    f"{_short(self)} is not a wiring: the residual stream after layer {layer - 1} "
                    f"is that before layer {layer}, which is split once"
                )

    @cached_property
    def of_layers(self) -> tuple[tuple[Split, ...], ...]:
        """How each layer is taken apart: a split for each stage that is."""
        each = self.splits or (None,) * self.layers
        return tuple(
            () if own is None else (own,) if isinstance(own, Split) else tuple(own) for own in each
        )

    @classmethod
    def from_dict(cls, said: Mapping[str, Json]) -> Wiring:
        """The wiring that a file holds. Raises CircuitError for numbers that no model has, and
        TypeError for other fields."""
        own = {**said}  # TypeError where it is no mapping
        return cls(**{**own, "splits": _splits(own.get("splits", ()))})

    def to_dict(self) -> dict[str, Json]:
        """The fields, as files hold them: experts and splits are named where there are any."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        if not self.experts:
            del found["experts"], found["shared"]
        if self.splits:
            found["splits"] = [
                [own.to_dict() for own in each] if len(each) > 1 else each[0].to_dict() if each
                else None for each in self.of_layers
            ]  # fmt: skip
        else:
            del found["splits"]
        return found

    def parts(self) -> Iterator[Part]:
        """The components, layer by layer: what a layer is made of is said here, and only here."""
        for layer in range(self.layers):
            count = self.experts[layer] if self.experts else 0
            split = {own.site: own for own in self.of_layers[layer]}
            if "resid_pre" in split:
                yield parts_of_the_stream(layer, split["resid_pre"])
            heads, whole = attention(layer, self.heads, self.groups), "attn_out" not in split
            yield heads if whole else parts_of_attention(layer, split["attn_out"], heads)
            if "resid_mid" in split:
                yield parts_of_the_stream(layer, split["resid_mid"])
            if own := split.get("mlp") or split.get("mlp_out"):
                yield features(layer, own, beside=self.parallel)
            elif count:
                yield experts(layer, count, self.shared, beside=self.parallel)
            elif self.mlp:
                yield mlp(layer, beside=self.parallel)
            if "resid_post" in split:
                yield parts_of_the_stream(layer, split["resid_post"])

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        """The parts with their rows and columns, in the order in which they write."""
        return tuple(laid_out(self.parts()))

    @cached_property
    def places(self) -> tuple[int, ...]:
        """Where the residual stream is read: after how many writers; the last is the logits'."""
        return (*sorted({stage.upstream for stage in self.stages}), len(self.writers))

    def attention(self, layer: int) -> Stage:
        """The heads of a layer; raises CircuitError where they are taken apart into features."""
        own = (s for s in self.stages if s.layer == layer and s.kind == ATTENTION)
        found = next(own, None)
        if found is None:
            raise CircuitError(
                f"the attention of layer {layer} is taken apart into features, so that its heads "
                "do not write; use the model with its heads whole"
            )
        return found

    def beyond_attention(self, layer: int) -> tuple[Stage, ...]:
        """What else a layer has: its MLP, or the parts of it; nothing in attention-only models."""
        return tuple(s for s in self.stages if s.layer == layer and s.kind in OF_MLPS)

    @cached_property
    def writers(self) -> tuple[Node, ...]:
        """Every writer, in the order of writing."""
        return (INPUT, *(node for stage in self.stages for node in stage.part.writers))

    @cached_property
    def first_head(self) -> Node:
        """The first head that writes; raises CircuitError where all are taken apart."""
        found = next((node for node in self.writers if node.is_head), None)
        if found is None:
            raise CircuitError(
                "the attention of every layer is taken apart into features, so that no head "
                "writes; use the model with its heads whole"
            )
        return found

    @cached_property
    def readers(self) -> tuple[Node, ...]:
        """Every reader, stage by stage; then the logits."""
        return (*(node for stage in self.stages for node in stage.part.readers), LOGITS)

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
        """How many writers have written when each reader reads."""
        seen = [stage.upstream for stage in self.stages for _ in stage.part.readers]
        return np.array([*seen, len(self.writers)])

    @cached_property
    def since(self) -> Int[np.ndarray, " readers"]:
        """The row of the first writer that each reader sees: 0, unless the residual stream is
        taken apart before it."""
        seen = [stage.since for stage in self.stages for _ in stage.part.readers]
        return np.array([*seen, self.renewed])

    @cached_property
    def renewed(self) -> int:
        """The row of the first writer that the logits see."""
        return max((stage.rows.start for stage in self.stages if stage.renews), default=0)

    @cached_property
    def legal(self) -> Mask:
        """Which pairs are edges."""
        rows = np.arange(len(self.writers))[:, None]
        found: Mask = (self.since[None, :] <= rows) & (rows < self.upstream[None, :])
        return found

    @property
    def of_mlps(self) -> str:
        """What the writers of MLPs are called: ``MLPs`` where these are whole, ``experts``, or
        ``parts of MLPs``."""
        sites = {split.site for own in self.of_layers for split in own}
        parts = "parts of MLPs" if sites & {"mlp", "mlp_out"} else "MLPs"
        return "experts" if self.experts else parts

    @property
    def apart(self) -> str:
        """What is taken apart: MLPs into experts, or stages into features; empty where all is
        whole."""
        return "experts" if self.experts else "features" if self.splits else ""

    def __str__(self) -> str:
        grouped = f", {self.groups} key/value groups" if self.groups != self.heads else ""
        without = "" if self.mlp else ", without MLPs"
        return f"{self.layers} layers × {self.heads} heads{grouped}{without}"

    @property
    def n_edges(self) -> int:
        """How many edges there are (GPT-2 small: 32,491)."""
        return int((self.upstream - self.since).sum())

    @cached_property
    def stage_of(self) -> tuple[Stage | None, ...]:
        """The stage of each writer's row; None for the embedding."""
        return (None, *(stage for stage in self.stages for _ in stage.part.writers))

    def entry(self, row: int) -> int:
        """The first place at which what a writer writes is heard."""
        return next(place for place in self.places if place > row)

    def fed(self, reader: Node) -> tuple[Node, ...]:
        """The writers that a reader feeds: a head, those of a group, an MLP, its experts or
        features; none by the logits."""
        return self._fed[self.reader[reader]]

    @cached_property
    def _fed(self) -> list[tuple[Node, ...]]:
        """The writers that each column feeds."""
        found: list[tuple[Node, ...]] = [() for _ in self.readers]
        for node, columns in zip(self.writers, self._feeds, strict=True):
            for column in columns:
                found[column] += (node,)
        return found

    def index(self, writer: str, reader: str) -> tuple[int, int]:
        """Row and column of an edge; raises CircuitError where this model has no such edge, and
        NodeNameError where a name is not a node's."""
        row, column = self.writer.get(writer), self.reader.get(reader)
        if row is None or column is None:  # a head in its short form, 3.7
            ends = Node(writer), Node(reader)
            if any(end.span is not None for end in ends):
                raise CircuitError(
                    f"{edge_name(*ends)} is an edge between places in the prompt, and this takes "
                    "edges without spans; a circuit with places gives circuit.collapse()"
                )
            row, column = self.writer.get(ends[0]), self.reader.get(ends[1])
        if row is None or column is None or not self.since[column] <= row < self.upstream[column]:
            raise CircuitError(
                f"{edge_name(writer, reader)} is not an edge of a model with {self.layers} layers, "
                f"{self.heads} heads and {self.groups} key/value groups"
            )
        return row, column

    def alive(self, keep: Mask, sources: Iterable[int] = (0,)) -> Mask:
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

    def between(self, nodes: Iterable[int]) -> Mask:
        """All edges between these writers (by their rows), the embedding and the logits: a circuit
        of nodes. Into a port that heads share it has all edges where it has one of the heads."""
        held = np.zeros(len(self.writers), dtype=bool)
        held[[0, *nodes]] = True
        return self.alive(self.legal & held[:, None])

    def best(self, ranking: Int[np.ndarray, " edges"], n: int) -> Mask:
        """The best n edges that hang together: of the longest head of the ranking (flat indices,
        the best first) of which no more than n edges are alive, those. ``filling.fill`` fills it
        up to n."""
        needed = self.needed(ranking)
        found: Mask = needed <= len(ranking)
        if found.sum() > n:
            found = needed < np.partition(needed, n, axis=None)[n]
        return found

    def needed(self, ranking: Int[np.ndarray, " edges"]) -> Int[np.ndarray, "writers readers"]:
        """How many edges of a ranking (flat indices) must be kept, from the first, until each edge
        is alive; more than there are for those that never are."""
        never = len(ranking) + 1
        place = np.full(self.shape, never)
        place.flat[ranking] = np.arange(1, never)
        live, heard = np.full(self.shape[0], never), np.full(self.shape[1], never)
        live[0] = heard[-1] = 0
        for stage in self.stages:
            read = place[stage.heard, stage.columns]
            reached = np.maximum(read, live[stage.heard, None]).min(0)
            live[stage.rows] = reached[np.array(stage.part.feeds)].min(1)
        for stage in reversed(self.stages):
            out = np.maximum(place[stage.rows], heard).min(1)
            np.minimum.at(heard, np.array(stage.feeds), out[:, None])
        found: np.ndarray = np.maximum(np.maximum(place, live[:, None]), heard)
        return found

    @cached_property
    def _feeds(self) -> list[list[int]]:
        """The columns that feed each writer; none feeds the embedding."""
        return [[], *([*dict.fromkeys(feed)] for stage in self.stages for feed in stage.feeds)]

    def feeds(self, row: int) -> list[int]:
        """The columns (q, k and v ports, or an MLP's input) that feed a writer's row."""
        return self._feeds[row]


def _listed(experts: object) -> object:
    """A list, as JSON has it, as a tuple; where no layer has experts, the empty one."""
    listed = tuple(experts) if isinstance(experts, list) else experts
    return () if isinstance(listed, tuple) and not any(listed) else listed


def _splits(given: object) -> tuple[Split | tuple[Split, ...] | None, ...]:
    """How each layer is split, of which a list may hold what JSON does; where nothing is, ()."""
    if not isinstance(given, (list, tuple)):
        raise CircuitError(f"{reprlib.repr(given)} does not say how each layer is split")
    try:
        found = tuple(_held(sorted(_read(own), key=_order)) for own in given)
    except TypeError as error:
        raise CircuitError(f"what says how a layer is split does not ({error})") from error
    return found if any(own is not None for own in found) else ()


def _read(own: object) -> Iterator[Split]:
    """The splits of a layer; raises CircuitError for what is none."""
    for one in own if isinstance(own, (list, tuple)) else () if own is None else (own,):
        split = Split(**one) if isinstance(one, dict) else one
        if not isinstance(split, Split):
            raise CircuitError(f"{reprlib.repr(one)} does not say how a layer is split")
        yield split


def _order(split: Split) -> int:
    return [*LETTERS].index(split.site)


def _held(own: list[Split]) -> Split | tuple[Split, ...] | None:
    """A layer's splits as they are held: none as None, and one by itself."""
    return (tuple(own) if len(own) > 1 else own[0]) if own else None


def _short(wiring: Wiring) -> str:
    """A wiring on one line, whatever its fields hold."""
    said = " ".join(str(wiring).split())[:200]
    return said.encode("utf-8", "backslashreplace").decode()
