"""Where in the prompt: the edges of a model between spans of words.

A span is a part of the prompt that has a name in every prompt (``S2``, ``end``), and every token
belongs to one. An edge of the residual stream stays in its span, so a mask over these edges is
[writers, readers, spans]. Between spans only attention moves anything: the key or the value that a
head reads at one span is an edge into what it writes at another, in a second table [heads, 2
(k, v), source span, destination span]. A head's query is read where the head writes.

A plain edge is the same edge in all spans, with all of attention: ``spread`` and ``collapse`` go
from one to the other.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Bool, Int, Shaped

from circuitkit.errors import CircuitError
from circuitkit.graph.nodes import Node, edge_name, is_span
from circuitkit.graph.stages import ATTENTION, ATTENTION_FEATURES, Stage
from circuitkit.graph.types import Mask
from circuitkit.graph.wiring import Wiring
from circuitkit.util.json_values import Json

__all__ = ["PORTS", "AnyMask", "Edge", "PlacedMask", "Places", "Spans", "bits_of", "edges_of"]

PORTS = "kv"  # what attention reads at a source; the order of the attention table

Spans = Bool[np.ndarray, "spans spans"]
# writer, reader, span of an edge of the residual stream; head, port, source, destination of one of
# attention: where it is in the tables
Edge: TypeAlias = tuple[int, int, int] | tuple[int, int, int, int]


@dataclass(frozen=True, eq=False)
class Places:
    """A wiring and the spans of its prompts.

    ``sees[source, destination]`` says whether in some prompt a token of the source is not after one
    of the destination, and ``answers`` which spans hold a token at which the model answers: only
    there the logits read.
    """

    wiring: Wiring
    spans: tuple[str, ...]
    sees: Spans
    answers: Bool[np.ndarray, " spans"]

    def __post_init__(self) -> None:
        n = len(self.spans)
        if any(own.renews or own.kind == ATTENTION_FEATURES for own in self.wiring.stages):
            raise CircuitError(
                "edges between places lead from keys and values to heads that write, and past no "
                "features of attention or of the residual stream; use the model with these whole"
            )
        for name in self.spans:
            if not is_span(name):
                raise CircuitError(
                    f"{reprlib.repr(name)} is not a span's name; write words, without @, < and >"
                )
        named = len(set(self.spans)) == n
        if not n or not named or self.sees.shape != (n, n) or self.answers.shape != (n,):
            raise CircuitError(
                f"the spans {', '.join(map(repr, self.spans)) or '(none)'} do not fit tables of "
                f"{self.sees.shape} and {self.answers.shape}; give different names, one for each"
            )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Places) and self.wiring == other.wiring and (
            self.to_dict() == other.to_dict()
        )  # fmt: skip

    def __hash__(self) -> int:
        return hash((self.wiring, self.spans))

    def to_dict(self) -> dict[str, Json]:
        """The spans, as files hold them, beside the wiring."""
        return {
            "spans": list(self.spans),
            "sees": self.sees.astype(int).tolist(),
            "answers": self.answers.astype(int).tolist(),
        }

    @classmethod
    def of(cls, wiring: Wiring, said: Mapping[str, Json]) -> Places:
        """The places that a file says; raises CircuitError where it says something else."""
        try:
            spans = tuple(said["spans"])
            sees, answers = (np.array(said[key]) for key in ("sees", "answers"))
        except (KeyError, TypeError, ValueError) as error:
            raise CircuitError("the spans of the file are not a table; write it again") from error
        for table in (sees, answers):
            if table.dtype.kind not in "iub" or not np.isin(table, (0, 1)).all():
                raise CircuitError("the tables of the spans hold more than 0 and 1")
        return cls(wiring, spans, sees.astype(bool), answers.astype(bool))

    # -- the edges -----------------------------------------------------------------------------
    @property
    def shape(self) -> tuple[int, int, int]:
        """Writers × readers × spans: that of the edges of the residual stream."""
        return *self.wiring.shape, len(self.spans)

    @cached_property
    def stages(self) -> tuple[tuple[Stage, slice], ...]:
        """The stages of attention, each with the rows of its heads in the attention table."""
        found, row = [], 0
        for stage in self.wiring.stages:
            if stage.kind == ATTENTION:
                found.append((stage, slice(row, row + stage.writes)))
                row += stage.writes
        return tuple(found)

    @cached_property
    def heads(self) -> Int[np.ndarray, " heads"]:
        """The row, among the writers, of each head of the attention table."""
        return np.concatenate([np.arange(s.rows.start, s.rows.stop) for s, _ in self.stages])

    @cached_property
    def ports(self) -> Int[np.ndarray, "heads 2"]:
        """The columns, among the readers, of the key and value port of each head."""
        return np.array([feed[1:] for stage, _ in self.stages for feed in stage.feeds])

    @cached_property
    def legal(self) -> PlacedMask:
        """All edges: the logits read at the answers alone, and nothing sees what comes after it."""
        residual = np.repeat(self.wiring.legal[:, :, None], len(self.spans), 2)
        residual[:, -1] &= self.answers
        attention = np.broadcast_to(self.sees, (len(self.heads), 2, *self.sees.shape)).copy()
        return PlacedMask(self, residual, attention)

    @cached_property
    def n_edges(self) -> tuple[int, int]:
        """How many edges there are: of the residual stream, and of attention."""
        answering = int(self.answers.sum())
        inner, last = self.wiring.n_edges - self.shape[0], self.shape[0]
        return inner * self.shape[2] + last * answering, 2 * len(self.heads) * int(self.sees.sum())

    def span(self, name: str) -> int:
        """The number of a span; raises CircuitError where there is none of that name."""
        if name not in self.spans:
            known = ", ".join(self.spans)
            raise CircuitError(f"{name!r} is not a span of these prompts; they have {known}")
        return self.spans.index(name)

    def index(self, writer: str, reader: str) -> Edge:
        """Where an edge is in the tables: three numbers for one of the residual stream, and four
        for one of attention. Raises CircuitError where there is no such edge, and NodeNameError
        where a name is not a node's."""
        one, other = Node(writer), Node(reader)
        if one.span is None or other.span is None:
            raise CircuitError(
                f"{edge_name(one, other)} does not say where in the prompt it is; name the spans "
                "of both ends, as in m0@S2->m1@S2"
            )
        source, destination = self.span(one.span), self.span(other.span)
        if one.port is None and source == destination:
            row, column = self.wiring.index(one.plain, other.plain)
            if column + 1 < self.shape[1] or self.answers[source]:
                return row, column, source
        head = self._rows.get(other.plain)
        if one.port is not None and head is not None and self.sees[source, destination]:
            for port, column in enumerate(self.ports[head]):
                if self.wiring.readers[column] == one.plain:
                    return head, port, source, destination
        raise CircuitError(
            f"{edge_name(one, other)} is not an edge between these places: an edge stays in its "
            "span, or leads from a key or value to a head that sees it; the logits read at the "
            "answers alone"
        )

    def edge(self, index: Edge) -> tuple[Node, Node]:
        """The two nodes of an edge, at their spans."""
        if len(index) == 3:
            row, column, span = index
            ends = self.wiring.writers[row], self.wiring.readers[column]
            return ends[0].at(self.spans[span]), ends[1].at(self.spans[span])
        head, port, source, destination = index
        read = self.wiring.readers[self.ports[head, port]]
        writer = self.wiring.writers[self.heads[head]]
        return read.at(self.spans[source]), writer.at(self.spans[destination])

    @cached_property
    def _rows(self) -> dict[str, int]:
        """The row of each head in the attention table."""
        return {self.wiring.writers[row]: number for number, row in enumerate(self.heads)}

    def spread(self, mask: Mask) -> PlacedMask:
        """A plain circuit in places: its edges in every span, and all edges of attention."""
        legal = self.legal
        return PlacedMask(self, legal.residual & mask[:, :, None], legal.attention.copy())

    # -- the best edges ------------------------------------------------------------------------
    def best(
        self, ranking: Int[np.ndarray, " edges"], n: int, *, joint: bool = False
    ) -> PlacedMask:
        """The best n edges of the residual stream that hang together where attention is free: of
        the longest head of the ranking (flat indices, the best first) of which no more than n edges
        are alive, those, and all edges of attention that are alive beside them. ``joint`` is as in
        ``alive``."""
        return self.chosen(self.needed(ranking, joint=joint), len(ranking), n, joint=joint)

    def chosen(
        self,
        needed: Int[np.ndarray, "writers readers spans"],
        ranked: int,
        n: int,
        *,
        joint: bool = False,
    ) -> PlacedMask:
        """The same, where it is known how many edges of the ranking each edge needs."""
        found = needed <= ranked
        if found.sum() > n:
            found = needed < np.partition(needed, n, axis=None)[n]
        whole = PlacedMask(self, found, self.legal.attention)
        return PlacedMask(self, found, self.alive(whole, joint=joint).attention)

    def needed(
        self, ranking: Int[np.ndarray, " edges"], *, joint: bool = False
    ) -> Int[np.ndarray, "writers readers spans"]:
        """How many residual edges of a ranking (flat indices) must be kept, from the first, until
        each is alive, with attention free; more than there are for those that never are."""
        never = len(ranking) + 1
        place = np.full(self.shape, never)
        place.flat[ranking] = np.arange(1, never)
        place[:, -1, ~self.answers] = never
        place = np.maximum(place, self._reached(place, never)[:, None])
        found: np.ndarray = np.maximum(place, self._hears(place, never, joint)[None])
        return found

    def _reached(self, place: Any, never: int) -> Int[np.ndarray, "writers spans"]:
        """How many edges are needed until each writer is live at each span."""
        live = np.full((self.shape[0], self.shape[2]), never)
        live[0] = 0
        heads = {stage.index for stage, _ in self.stages}
        for stage in self.wiring.stages:
            up, feeds = stage.upstream, np.array(stage.part.feeds)
            read = np.maximum(place[:up, stage.columns], live[:up, None]).min(0)
            if stage.index not in heads:
                live[stage.rows] = read[feeds].min(1)
                continue
            source = read[feeds[:, 1:]].min(1)[:, :, None]
            sent = np.where(self.sees, source, never).min(1)
            live[stage.rows] = np.minimum(read[feeds[:, 0]], sent)
        return live

    def _hears(self, place: Any, never: int, joint: bool) -> Int[np.ndarray, "readers spans"]:
        """How many edges are needed until the logits hear each reader at each span."""
        heard = np.full((self.shape[1], self.shape[2]), never)
        heard[-1, self.answers] = 0
        heads = {stage.index for stage, _ in self.stages}
        for stage in reversed(self.wiring.stages):
            own = np.maximum(place[stage.rows], heard).min(1)
            feeds = np.array(stage.feeds)
            if stage.index in heads:
                own = np.repeat(own.min(1, keepdims=True), own.shape[1], 1) if joint else own
                np.minimum.at(heard, feeds[:, 0], own)
                back = np.where(self.sees, own[:, None], never).min(2)
                np.minimum.at(heard, feeds[:, 1:], back[:, None])
            else:
                np.minimum.at(heard, feeds, own[:, None])
        return heard

    # -- what is alive -------------------------------------------------------------------------
    def alive(self, mask: PlacedMask, *, joint: bool = False) -> PlacedMask:
        """The kept edges that lie on a kept path from the embedding to the logits.

        ``joint``: a norm lies over all heads of a layer (``Kind.joint``), so that a head which is
        heard at one span is heard at all: what it writes elsewhere counts in the norm there, as in
        the run of the plain circuit.
        """
        return self.alive_and_live(mask, joint=joint)[0]

    def alive_and_live(
        self, mask: PlacedMask, *, joint: bool = False
    ) -> tuple[PlacedMask, Bool[np.ndarray, "writers spans"]]:
        """The same, and where each writer is computed: it hears something that is kept and is
        heard. Anywhere else it writes what is carried."""
        legal = self.legal
        residual = (mask.residual != 0) & legal.residual
        attention = (mask.attention != 0) & legal.attention
        live = self._live(residual, attention)
        residual &= live[:, None]
        heard = self._heard(residual, attention, joint)
        residual &= heard[1][None]
        attention &= heard[0][self.heads][:, None, None]
        return PlacedMask(self, residual, attention), live & heard[0]

    def inside(self, mask: PlacedMask, *, joint: bool = False) -> PlacedMask:
        """The edges that are alive in a circuit, or would be if one were added: from a writer that
        hears something to a reader that is heard, or from a key or value that hears something to a
        head that is heard there. ``joint`` is as in ``alive``."""
        own = self.alive(mask, joint=joint)
        live = self._live(own.residual, own.attention.copy())
        heard, read = self._heard(own.residual, own.attention, joint)
        given = own.residual.any(0)[self.ports]
        return PlacedMask(
            self,
            self.legal.residual & live[:, None] & read[None],
            self.legal.attention & given[..., None] & heard[self.heads][:, None, None],
        )

    def _live(self, residual: Any, attention: Any) -> Bool[np.ndarray, "writers spans"]:
        """Which writers hear the embedding at which spans; attention's dead sources are dropped."""
        live = np.zeros((self.shape[0], self.shape[2]), bool)
        live[0] = True
        heads = {stage.index: rows for stage, rows in self.stages}
        for stage in self.wiring.stages:
            reads = (residual[: stage.upstream, stage.columns] & live[: stage.upstream, None]).any(
                0
            )
            feeds = np.array(stage.part.feeds)
            if stage.index not in heads:
                live[stage.rows] = reads[feeds].any(1)
                continue
            table = attention[heads[stage.index]]
            table &= reads[feeds[:, 1:]][..., None]
            live[stage.rows] = reads[feeds[:, 0]] | table.any((1, 2))
        return live

    def _heard(
        self, residual: Any, attention: Any, joint: bool
    ) -> tuple[Bool[np.ndarray, "writers spans"], Bool[np.ndarray, "readers spans"]]:
        """Which writers and which readers the logits hear at which spans."""
        written = np.zeros((self.shape[0], self.shape[2]), bool)
        read = np.zeros((self.shape[1], self.shape[2]), bool)
        read[-1] = self.answers
        heads = {stage.index: rows for stage, rows in self.stages}
        for stage in reversed(self.wiring.stages):
            own = (residual[stage.rows] & read).any(1)
            feeds = np.array(stage.feeds)
            if stage.index in heads:
                own = np.repeat(own.any(1, keepdims=True), own.shape[1], 1) if joint else own
                np.logical_or.at(read, feeds[:, 0], own)
                sources = (attention[heads[stage.index]] & own[:, None, None]).any(3)
                np.logical_or.at(read, feeds[:, 1:], sources)
            else:
                np.logical_or.at(read, feeds, own[:, None])
            written[stage.rows] = own
        written[0] = (residual[0] & read).any(0)
        return written, read


@dataclass(frozen=True, eq=False)
class PlacedMask:
    """A mask, or weights, over the edges between places: those of the residual stream and those of
    attention. The arrays may be NumPy's or, where a gradient flows, tensors."""

    places: Places
    residual: Shaped[Any, "writers readers spans"]
    attention: Shaped[Any, "heads 2 source destination"]

    def __post_init__(self) -> None:
        places = self.places
        n = len(places.spans)
        shapes = tuple(self.residual.shape), tuple(self.attention.shape)
        if shapes != (places.shape, (len(places.heads), 2, n, n)):
            raise CircuitError(
                f"the tables have the shapes {shapes[0]} and {shapes[1]}, and these places "
                f"{places.shape} and {(len(places.heads), 2, n, n)}"
            )

    def counts(self) -> tuple[int, int]:
        """How many edges are kept: of the residual stream, and of attention."""
        return int((self.residual != 0).sum()), int((self.attention != 0).sum())

    def edges(self) -> list[Edge]:
        """Where the kept edges are in the tables: of the residual stream, then of attention."""
        tables = np.asarray(self.residual), np.asarray(self.attention)
        found: list[Any] = [tuple(map(int, at)) for table in tables for at in np.argwhere(table)]
        return found

    def others(self) -> PlacedMask:
        """All edges that are not kept."""
        legal = self.places.legal
        return PlacedMask(
            self.places,
            legal.residual & (self.residual == 0),
            legal.attention & (self.attention == 0),
        )

    def begins(self) -> Bool[np.ndarray, " spans"] | None:
        """The spans in which the embedding is read; None where it is not."""
        found: np.ndarray = np.any(np.asarray(self.residual)[0], axis=0)
        return found if found.any() else None

    def collapse(self) -> Mask:
        """The plain circuit: an edge is kept if it is in any span."""
        found: Mask = (np.asarray(self.residual) != 0).any(2)
        return found


AnyMask: TypeAlias = Mask | PlacedMask


def edges_of(mask: AnyMask) -> int:
    """How many edges a mask keeps: between places, of the residual stream and of attention."""
    return sum(mask.counts()) if isinstance(mask, PlacedMask) else int(mask.sum())


def bits_of(mask: AnyMask) -> bytes:
    """The mask as bytes, by which a run recognises it."""
    if not isinstance(mask, PlacedMask):
        return np.packbits(mask).tobytes()
    said = repr(mask.places.to_dict()).encode()
    return said + np.packbits(mask.residual).tobytes() + np.packbits(mask.attention).tobytes()
