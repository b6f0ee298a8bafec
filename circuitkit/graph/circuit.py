"""What a ``networkx.DiGraph`` must hold to be a circuit, and its file.

Nodes are names as in ``graph/nodes.py``. Writer → reader edges carry ``weight``: metric units per
example, positive where the edge helps the clean behaviour. Port → head edges carry nothing: they
close the paths, so that ``nx.ancestors`` and ``nx.all_simple_paths`` work unchanged. The graph's
attributes say where it comes from: ``wiring`` (always), and ``model, task, metric, corruption,
method, settings, versions, seed, ...`` as far as known.

Where ``places`` says which spans the prompts have, the circuit is one between places: its nodes are
``a9.h9@end``, an edge of the residual stream stays in its span, and a key or value has an edge with
a weight of its own, one of attention, to each place of a head that reads it. What is written for
circuits without places takes its ``wiring_of`` and so refuses these in one sentence; what takes
both asks ``any_wiring``.

The file is JSON, and loading it executes nothing::

    {"format": "circuitkit.circuit", "version": 1,
     "wiring": {"layers": 12, "heads": 12, "groups": 12, "mlp": true, "parallel": false},
     "places": {"spans": ["S1", "S2", "end"], ...},            # only of a circuit between places
     "attributes": {"model": "gpt2", "task": "ioi", ...},
     "nodes": {"a9.h9": {"role": "name mover"}, ...},          # only nodes that have attributes
     "digest": "3b0c...",                                      # of all the rest
     "edges": [{"edge": "a9.h9->logits", "weight": 0.61}, ...]}

A file whose digest is wrong was damaged, or changed by hand, and is refused; who changes one by
hand takes the digest out, for a file without one is read.
"""

from __future__ import annotations

import html
import inspect
import json
import math
import os
import reprlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsFloat

import networkx as nx
import numpy as np
from jaxtyping import Float

from circuitkit.errors import CircuitError, CircuitkitError, NodeNameError, OutputError
from circuitkit.graph import algebra
from circuitkit.graph.attributes import checked, written
from circuitkit.graph.digests import digest, require_digest
from circuitkit.graph.frames import CERTAINTY, edge_frame
from circuitkit.graph.nodes import Node, edge_name, parse_edge
from circuitkit.graph.places import PORTS, PlacedMask, Places
from circuitkit.graph.records import Record
from circuitkit.graph.types import Graph, Mask
from circuitkit.graph.wiring import Wiring
from circuitkit.registry import folder_of, lookup, names, unknown
from circuitkit.util.atomic import write_whole
from circuitkit.util.json_values import Json, plain
from circuitkit.util.reading import parse_json, read_json
from circuitkit.util.tables import to_frame

if TYPE_CHECKING:
    import pandas

__all__ = [
    "Circuit",
    "any_wiring",
    "build",
    "build_placed",
    "combined",
    "components",
    "edges",
    "from_json",
    "is_placed",
    "mask",
    "lists_members",
    "placed_mask",
    "places_of",
    "shared_space",
    "shared_wiring",
    "strongest",
    "summary",
    "to_json",
    "wiring_of",
]

FORMAT = "circuitkit.circuit"
VERSION = 1
_STRUCTURED = frozenset(
    ("wiring", "settings", "versions", "faithfulness", "asked", "drawn", "sizes", "made_of",
     "places", "words")
)  # fmt: skip
_KEYS = ("format", "version", "wiring", "places", "attributes", "nodes", "digest", "edges")
# What is true of a circuit between places, and not of the plain circuit that it gives.
_OF_PLACES = ("places", "words", "faithfulness", "in_sample", "drawn", "sizes", "agreement")
# What reads other tools' files, reached by name, for it stands below this room: whether a file is
# one of theirs, and the circuit in it.
_THEIRS = "circuitkit.formats.interchange"
_FOREIGN = (
    (f"{_THEIRS}.eap_ig:is_eap", f"{_THEIRS}.eap_ig:read_eap_circuit"),
    (f"{_THEIRS}.acdc:is_acdc", f"{_THEIRS}.acdc:read_acdc"),
)
_FRAMED = "circuitkit.viz.viewer.paged:framed"
_BY_SPAN = "circuitkit.graph.by_place:by_span"
_SAVES, _DRAWS = "formats", "viz/pictures"  # the folders of what saves and of what draws
_OTHER = {
    _SAVES: "would be a picture, which may leave edges out; draw it with circuit.draw",
    _DRAWS: "would not be a picture; write all of the circuit with circuit.save",
}
_SOURCE = ("model", "task", "metric", "corruption", "method")


class Circuit(Graph):  # type: ignore[misc, unused-ignore]
    """A circuit: a ``networkx.DiGraph`` with weighted edges, on which all of NetworkX works.

    The graph's attributes say where it comes from. A weight is in units of the metric per example,
    and positive where the edge helps the clean behaviour. ``len(circuit)``, ``circuit.nodes`` and
    ``circuit.edges`` are NetworkX's, and count ports and the edges from ports to their heads too;
    ``to_frame`` and ``print`` count the circuit's own edges. ``Circuit(graph)`` makes one from any
    directed graph with these attributes. ``save`` writes all of a circuit, ``draw`` a picture,
    which may leave edges out. Iterating over ``circuit.graph.items()``, as ``nx.write_graphml``
    does, gives attributes that are mappings or lists as JSON text, because other formats cannot
    hold such values; ``circuit.graph["settings"]`` and ``dict(circuit.graph)`` give them as they
    are.

    Circuits of one model are sets of edges: ``a | b`` is the union, ``a & b`` the intersection,
    ``a - b`` the edges of a that b lacks. An edge of both has the larger of its two weights, by
    magnitude, in the union, and the smaller in the intersection, so that the laws of sets hold of
    weights too; without weights where one of the two has none. ``made_of`` says what a circuit was
    made of; prompts that either has seen, it has seen. See ``consensus`` for k of n.

    A circuit between places has nodes such as ``a9.h9@end``, a node and a
    span of the prompt, and edges of attention from a key or value to the head that reads it;
    ``collapse`` gives the circuit without places.

    Example:
        >>> import networkx
        >>> circuit = ck.references.docstring.acdc().circuit
        >>> print(circuit)
        24 of 1,281 edges, 6 of 32 heads, 0 of 0 MLPs
        >>> circuit["a3.h6"]["logits"]["weight"]
        1.0
        >>> plain = networkx.DiGraph(circuit)
        >>> print(ck.Circuit(plain))
        24 of 1,281 edges, 6 of 32 heads, 0 of 0 MLPs
        >>> large, small = scores.top(40), scores.top(20)
        >>> print((large | small) - small)
        20 of 479 edges, 8 of 16 heads, 4 of 4 MLPs
    """

    graph_attr_dict_factory = node_attr_dict_factory = edge_attr_dict_factory = Record

    def __init__(self, incoming_graph_data: Graph | None = None, **attr: object) -> None:
        super().__init__(incoming_graph_data, **attr)
        for key in _STRUCTURED.intersection(self.graph):
            self.graph[key] = _unspelt(self.graph[key])
        short = {name: Node(name) for name in self if isinstance(name, str) and name[:1].isdigit()}
        if short:
            nx.relabel_nodes(self, short, copy=False)

    # -- what is in it -------------------------------------------------------------------------
    @property
    def heads(self) -> list[str]:
        """The attention heads in the circuit, in the model's order.

        These are the heads that an edge leaves or enters at their own port, and those with a role.
        Raises CircuitError where the graph has no wiring.

        Example:
            >>> ck.references.greater_than.hanna2023().circuit.heads[:3]
            ['a0.h1', 'a0.h3', 'a0.h5']
        """
        found = components(self)
        return [str(node) for node in any_wiring(self).writers if node.is_head and node in found]

    @property
    def mlps(self) -> list[str]:
        """The MLPs in the circuit, in the model's order, or their experts where these are nodes.

        Raises CircuitError where the graph has no wiring.

        Example:
            >>> ck.references.greater_than.hanna2023().circuit.mlps
            ['m0', 'm1', 'm2', 'm3', 'm8', 'm9', 'm10', 'm11']
        """
        found = components(self)
        return [str(node) for node in any_wiring(self).writers if node.is_mlp and node in found]

    def mask(self) -> Mask:
        """The circuit's edges as a mask of bool [writers, readers] over the model's wiring.

        Example:
            >>> int(circuit.mask().sum()) == len(circuit.to_frame())
            True
        """
        return mask(self)

    def placed_mask(self) -> PlacedMask:
        """The edges of a circuit between places as masks of bool, [writers, readers, spans] and
        [heads, 2, source, destination]; raises CircuitError where the circuit has no places."""
        return placed_mask(self)

    def collapse(self) -> Circuit:
        """The circuit without places: an edge of the residual stream has the sum of its weights
        over the spans, and attention is free. A circuit without places stays as it is."""
        return collapsed(self) if is_placed(self) else self

    def to_frame(self) -> pandas.DataFrame:
        """The circuit's edges as a pandas table, the strongest first.

        Columns: ``writer`` and ``reader`` (names), ``weight`` (metric units per example), ``exact``
        (whether the weight was measured rather than estimated; missing where unknown). If the
        circuit says how sure its edges are, also the columns of ``Certainty.to_frame``:
        ``standard_error``, ``low``, ``high``, ``p``, ``q``, ``frequency`` and ``core``. Between
        places also ``kind`` (``residual`` or ``attention``), ``source`` and ``destination`` (spans
        of the writer and the reader).

        Example:
            >>> ck.references.docstring.acdc().circuit.to_frame().head(2)
              writer   reader  weight  exact
            0  a0.h5  a1.h2.k     1.0   <NA>
            1  a0.h5  a1.h2.q     1.0   <NA>
        """
        found = strongest(self)
        writers, readers = ([str(edge[end]) for edge in found] for end in (0, 1))
        said = [self[writer][reader] for writer, reader, _ in found]
        sure = any(name in own for own in said for name in CERTAINTY)
        columns = {name: [own.get(name) for own in said] for name in ("exact", *CERTAINTY)}
        flags, weights = columns.pop("exact"), [weight for _, _, weight in found]
        frame = edge_frame(writers, readers, weights, flags, columns if sure else None)
        if is_placed(self):
            frame["kind"] = ["attention" if edge[0].port else "residual" for edge in found]
            frame["source"], frame["destination"] = (
                [edge[:2][end].span for edge in found] for end in (0, 1)
            )
        return frame

    def by_span(self) -> pandas.DataFrame:
        """Which spans of the prompt the circuit uses, and how: a pandas table, one row a span.

        Columns: ``span``, ``heads`` and ``mlps`` (how many write there), ``roles`` (each with how
        many have it). A circuit between places also has how many edges lead ``into q``, ``k``,
        ``v``, ``MLPs`` and ``logits`` there, and how many of attention's stay within the span, come
        ``from`` others and go ``to`` others. A published circuit says where its components write,
        so that the two tables stand side by side, whatever models they are of. Raises CircuitError
        for a circuit that says of no component where it writes.

        Example:
            >>> frame = ck.references.ioi.wang2022().circuit.by_span()
            >>> frame[["span", "heads"]].values.tolist()
            [['S1+1', 2], ['S2', 7], ['end', 17]]
        """
        rows: list[dict[str, Json]] = lookup("formats", _BY_SPAN)(self)
        return to_frame(rows)

    # -- files ---------------------------------------------------------------------------------
    @classmethod
    def load(cls, path: str | os.PathLike[str], *, force: bool = False) -> Circuit:
        """The circuit in a file: circuitkit's ``.json``, an EAP-IG graph (``.json``, ``.pt``), or
        a subgraph of ACDC (``.pth``).

        Nothing that a file holds is executed. Raises CircuitError where the file is missing, broken
        or not a circuit, and, unless ``force`` is given, if its digest is wrong.

        Example:
            >>> path = ck.references.docstring.acdc().circuit.save("docstring.json")
            >>> print(ck.Circuit.load(path))
            24 of 1,281 edges, 6 of 32 heads, 0 of 0 MLPs
        """
        for is_theirs, read in _FOREIGN:
            if lookup("formats", is_theirs)(path):
                found: Circuit = lookup("formats", read)(path)
                return found
        name = repr(os.fspath(path))
        try:
            data = read_json(path)
        except FileNotFoundError as error:
            raise CircuitError(f"there is no file {name}") from error
        except CircuitkitError as error:
            raise CircuitError(f"{name} cannot be read as a circuit: {error}") from error
        return _from_data(data, name, force)

    def save(self, path: str | os.PathLike[str], *, format: str | None = None) -> Path:
        """Write all of the circuit, in the format of the path's suffix, and return the path.

        ``.json`` (which ``load`` reads), ``.graphml``, ``.gexf``, ``.cyjs`` and ``.dot`` hold every
        edge, node and attribute; ``.csv`` every edge with its attributes. ``format`` overrides the
        suffix: a name (``node_link``), or ``path/to/mine.py:name``. An existing file is replaced
        once the new one is complete.

        Raises OutputError for a suffix that is not known, or is a picture's, and where the file
        cannot be written; UnknownNameError for a format that is not known.

        Example:
            >>> ck.references.docstring.acdc().circuit.save("docstring.csv").name
            'docstring.csv'
        """
        return write_whole(path, _exporter(path, format, _SAVES)(self))

    def draw(
        self, path: str | os.PathLike[str], *, format: str | None = None, **style: object
    ) -> Path:
        """Draw the circuit as ``.svg``, ``.pdf`` or ``.png``, or as an interactive page
        (``.html``), and return the path.

        A picture may leave edges out, and its caption says which and how many. Style: ``edges``,
        how many to draw at most (40, or ``"all"``; for a circuit without weights, all between
        components with roles; for a page, 5,000), ``title``, ``width`` in inches for a column of a
        paper, with letters of at least 7 points, ``engine`` ("builtin", or "dot" for Graphviz's
        layout; not for a page), ``beside``, a second circuit to overlay, and for a page
        ``attention``. A circuit that names components and no edges is drawn by their roles, and one
        between places along the words of a ``prompt``, ``{"S1": "Mary", "end": "to"}``: the words
        below, layers upwards, attention sideways.
        ``format`` overrides the suffix: a name, or ``path/to/mine.py:name``.

        Raises OutputError for a suffix or style that is not known, a suffix that is not a
        picture's, and where the picture cannot be drawn or written; UnknownNameError for a format
        that is not known.

        Example:
            >>> ck.references.docstring.acdc().circuit.draw("docstring.svg", title="ACDC").name
            'docstring.svg'
        """
        exporter = _exporter(path, format, _DRAWS)
        styles = [name for name in inspect.signature(exporter).parameters if name != "circuit"]
        for name in style:
            if name not in styles:
                listed = ", ".join(styles) or "no style at all"
                what = format or Path(path).suffix.removeprefix(".").lower()
                raise OutputError(f"{what} files have no style {name!r}; they take {listed}")
        return write_whole(path, exporter(self, **style))

    # -- as sets of edges ----------------------------------------------------------------------
    def __or__(self, other: Graph) -> Circuit:
        return self._with(other, algebra.UNION)

    def __and__(self, other: Graph) -> Circuit:
        return self._with(other, algebra.INTERSECTION)

    def __sub__(self, other: Graph) -> Circuit:
        return self._with(other, algebra.DIFFERENCE)

    def _with(self, other: Graph, operation: str) -> Circuit:
        if not isinstance(other, nx.DiGraph):
            return NotImplemented
        return combined([self, other], operation)

    # -- displays ------------------------------------------------------------------------------
    def __str__(self) -> str:
        return summary(self) if "wiring" in self.graph else str(super().__str__())

    def __repr__(self) -> str:
        if "wiring" not in self.graph:
            return str(super().__repr__())
        about = [f"{key}: {self.graph[key]}" for key in _SOURCE if self.graph.get(key)]
        lines = [summary(self), " · ".join(about), *_by_role(self)]
        if algebra.is_made(self.graph.get("made_of")):
            lines += algebra.listed(self.graph["made_of"])
        if not self.graph.get("unweighted"):
            lines += ["the strongest edges:"] * (next(edges(self), None) is not None)
            lines += [f"{x:+12.4g}  {edge_name(w, r)}" for w, r, x in strongest(self)[:8]]
        return "\n".join(filter(None, lines))

    def _repr_svg_(self) -> str:
        try:
            picture: str = lookup("formats", "svg")(self)
        except CircuitkitError as error:  # a notebook then shows the text
            raise NotImplementedError(str(error)) from error
        return picture

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(repr(self))}</pre>{self._framed()}"

    def _framed(self, **style: object) -> str:
        """The page of the circuit in a frame of its own; empty where there is nothing to draw."""
        try:
            page: str = lookup("formats", _FRAMED)(self, **style)
        except CircuitkitError:
            return ""
        return page


def _unspelt(value: Json) -> Json:
    """A mapping or list that GraphML, or other files of NetworkX, hold as JSON text; else the
    value."""
    if not isinstance(value, str) or not value.startswith(("{", "[")):
        return value
    try:
        return parse_json(value)
    except CircuitkitError:
        return value


def _exporter(
    path: str | os.PathLike[str], format: str | None, folder: str
) -> Callable[..., str | bytes]:
    """What writes the format, or that of the path's suffix, if it saves (or draws) circuits."""
    name, known = os.fspath(path), names("formats")
    suffix = Path(path).suffix.removeprefix(".").lower()
    if format is None and suffix not in known:
        why = unknown("file format", suffix, known) if suffix else "it has no suffix"
        sorts = {sort: [f for f in known if folder_of("formats", f) == sort] for sort in _OTHER}
        raise OutputError(
            f"{name!r} cannot be written: {why}; save writes {', '.join(sorts[_SAVES])}, "
            f"draw {', '.join(sorts[_DRAWS])}"
        )
    format = format or suffix
    if ":" not in format and folder_of("formats", format) != folder:
        raise OutputError(f"{name!r} {_OTHER[folder]}({name!r})")
    return lookup("formats", format)


def _by_role(circuit: Graph) -> Iterator[str]:
    """A line for each role: the components that have it."""
    held: dict[str, list[str]] = {}
    for name, said in circuit.nodes(data="role"):
        if said:
            held.setdefault(str(said), []).append(str(name))
    row = any_wiring(circuit).writer
    for role, found in held.items():
        ordered = sorted(found, key=lambda name: row.get(Node(name).plain, 0))
        yield f"{role}: {', '.join(ordered)}"


def build(
    wiring: Wiring,
    weights: Mapping[tuple[str, str], SupportsFloat],
    /,
    *,
    edge_attributes: Mapping[tuple[str, str], Mapping[str, object]] | None = None,
    **attributes: object,
) -> Circuit:
    """The circuit of these (writer, reader) edges, each with its weight; its graph attributes are
    the given ones. Raises CircuitError on an edge that the wiring lacks, or a weight that is not
    finite."""
    circuit = Circuit()
    circuit.graph.update(attributes, wiring=wiring.to_dict())
    writers = {Node(writer) for writer, _ in weights}
    for pair, weight in weights.items():
        writer, reader = map(Node, pair)
        wiring.index(writer, reader)
        _add(circuit, writer, reader, weight, (edge_attributes or {}).get(pair, {}))
        for fed in wiring.fed(reader):
            if fed != reader and (fed in writers or fed == reader.component):
                circuit.add_edge(reader, fed)
    return circuit


def build_placed(
    places: Places,
    weights: Mapping[tuple[str, str], SupportsFloat],
    /,
    *,
    edge_attributes: Mapping[tuple[str, str], Mapping[str, object]] | None = None,
    **attributes: object,
) -> Circuit:
    """The circuit of these edges between places, of the residual stream (``a0.h2@S2`` to
    ``a2.h2.v@S2``) and of attention (``a2.h2.v@S2`` to ``a2.h2@end``), each with its weight; its
    graph attributes are the given ones. Raises CircuitError for an edge that there is not, or a
    weight that is not finite."""
    circuit, wiring = Circuit(), places.wiring
    circuit.graph.update(attributes, wiring=wiring.to_dict(), places=places.to_dict())
    writers = {Node(writer) for writer, _ in weights}
    for pair, weight in weights.items():
        writer, reader = map(Node, pair)
        index = places.index(writer, reader)
        _add(circuit, writer, reader, weight, (edge_attributes or {}).get(pair, {}))
        if len(index) == 4 or (reader.port is not None and reader.port in PORTS):
            continue  # a key or value reaches a head by edges of attention alone
        for fed in wiring.fed(reader.plain):
            own = fed.at(reader.span)
            if own != reader and (own in writers or reader.head is not None):
                circuit.add_edge(reader, own)
    return circuit


def _add(
    circuit: Graph, writer: Node, reader: Node, weight: SupportsFloat, extra: Mapping[str, Any]
) -> None:
    """Add an edge with its weight; raises CircuitError where that is not finite."""
    if not math.isfinite(weight):
        raise CircuitError(
            f"{edge_name(writer, reader)} has the weight {weight}; give a finite number"
        )
    circuit.add_edge(writer, reader)
    circuit[writer][reader].update(extra, weight=float(weight))


def collapsed(circuit: Graph) -> Circuit:
    """The plain circuit of one between places: of each residual edge the sum over its spans. The
    role of a component at one place is its role, and its places are its ``positions``."""
    sums: dict[tuple[str, str], float] = {}
    exact: dict[tuple[str, str], set[object]] = {}
    for writer, reader, weight in edges(circuit):
        if writer.port is None:
            pair = writer.plain, reader.plain
            sums[pair] = sums.get(pair, 0.0) + weight
            exact.setdefault(pair, set()).add(circuit[writer][reader].get("exact"))
    extra = {pair: {"exact": True} for pair, flags in exact.items() if flags == {True}}
    about = {key: own for key, own in dict(circuit.graph).items() if key not in _OF_PLACES}
    whole = build(any_wiring(circuit), sums, edge_attributes=extra, **about)
    for name, role in circuit.nodes(data="role"):
        node = Node(name)
        if role and node.plain in whole:
            own = whole.nodes[node.plain]
            own.setdefault("role", role)
            own["positions"] = [*own.get("positions", ()), *filter(None, [node.span])]
    return whole


def combined(parts: Sequence[Graph], operation: str, k: int | None = None) -> Circuit:
    """The union, intersection or difference of circuits, or their consensus of k; raises
    CircuitError where they are of different models or places, or one lists members and no edges."""
    space, parts = shared_space(parts), [*map(Circuit, parts)]
    for number, part in enumerate(parts, start=1):
        if lists_members(part):
            raise CircuitError(
                f"circuit {number} of those that are combined lists members and no edges, which "
                "is what sets of edges are made of; give a circuit with edges"
            )
    every = [_records(part) for part in parts]
    if operation == algebra.DIFFERENCE:
        found, weighed = algebra.without(*every), parts[:1]
    else:
        least = {algebra.UNION: 1, algebra.INTERSECTION: len(parts)}.get(operation, k or 1)
        found, weighed = algebra.held(every, least), parts
    unweighted = any(part.graph.get("unweighted") for part in weighed)
    weights = {pair: 1.0 if unweighted else said["weight"] for pair, said in found.items()}
    extra = {pair: {key: own for key, own in said.items() if key != "weight"}
             for pair, said in found.items() if not unweighted}  # fmt: skip
    abouts = [dict(part.graph) for part in parts]
    sizes = map(len, every)
    own = algebra.made(operation, [*zip(abouts, sizes, map(_digest, parts), strict=True)], k)
    said = {**algebra.shared(abouts), "method": algebra.described(own), "made_of": own}
    said |= {"unweighted": True} if unweighted else {}
    make: Callable[..., Circuit] = build_placed if isinstance(space, Places) else build
    whole = make(space, weights, edge_attributes=extra, **said)
    for part in reversed(parts):
        for name, said in part.nodes(data=True):
            if name in whole and said.get("role"):
                whole.nodes[name].update({x: said[x] for x in ("role", "positions") if x in said})
    return whole


def shared_space(parts: Sequence[Graph], verb: str = "combine") -> Wiring | Places:
    """The wiring of circuits, or their places; raises CircuitError, with what they were to be,
    where these differ."""
    if not any(map(is_placed, parts)):
        return shared_wiring(parts, verb)
    if not all(map(is_placed, parts)):
        raise CircuitError(
            "some of the circuits have edges between places in the prompt and some do not; "
            f"{verb} circuits of one kind: circuit.collapse() gives the plain one"
        )
    spaces = [places_of(circuit) for circuit in parts]
    for other in spaces[1:]:
        if other != spaces[0]:
            raise CircuitError(
                "the circuits belong to different models or spans of the prompt; "
                f"{verb} circuits of the same places"
            )
    return spaces[0]


def _records(circuit: Graph) -> dict[tuple[str, str], dict[str, Json]]:
    """What the circuit says of each of its edges."""
    return {(writer, reader): {**dict(circuit[writer][reader]), "weight": weight}
            for writer, reader, weight in edges(circuit)}  # fmt: skip


def _digest(circuit: Graph) -> str | None:
    """The digest that the circuit's file has; None where it cannot be written."""
    with suppress(CircuitError):
        return str(_document(circuit)["digest"])
    return None


def shared_wiring(several: Sequence[Graph], verb: str) -> Wiring:
    """The wiring of all circuits; raises CircuitError, with what they were to be, where these are
    of different models."""
    wirings = [wiring_of(circuit) for circuit in several]
    for other in wirings[1:]:
        if other != wirings[0]:
            raise CircuitError(
                f"the circuits belong to different models ({wirings[0]}; {other}); "
                f"{verb} circuits of one model"
            )
    return wirings[0]


def is_placed(circuit: object) -> bool:
    """Whether this is a circuit whose edges are between places in the prompt."""
    return isinstance(circuit, nx.DiGraph) and bool(circuit.graph.get("places"))


def wiring_of(circuit: Graph) -> Wiring:
    """The wiring of the model that a circuit without places belongs to; raises CircuitError without
    one, and for a circuit between places, which only what asks for those can read."""
    if is_placed(circuit):
        raise CircuitError(
            "the circuit's edges are between places in the prompt, and this takes circuits without "
            "places; give circuit.collapse()"
        )
    return any_wiring(circuit)


def places_of(circuit: Graph) -> Places:
    """The places of a circuit between some; raises CircuitError where it has none."""
    if not is_placed(circuit):
        raise CircuitError(
            "the circuit has no places in the prompt: its edges count at all positions together; "
            "take one from placed scores"
        )
    return Places.of(any_wiring(circuit), circuit.graph["places"])


def placed_mask(circuit: Graph, places: Places | None = None) -> PlacedMask:
    """Which edges a circuit between places keeps, in the order of its places, or of the given ones;
    raises CircuitError where it has no places, or an edge that these lack."""
    places = places_of(circuit) if places is None else places
    legal = places.legal
    keep = PlacedMask(places, np.zeros_like(legal.residual), np.zeros_like(legal.attention))
    for writer, reader, _ in edges(circuit):
        index = places.index(writer, reader)
        (keep.residual if len(index) == 3 else keep.attention)[index] = True
    return keep


def any_wiring(circuit: Graph) -> Wiring:
    """The wiring of the model that the circuit, with places or without, belongs to; raises
    CircuitError without one."""
    try:
        return Wiring.from_dict(circuit.graph["wiring"])
    except (KeyError, TypeError) as error:
        raise CircuitError(
            "the graph has no 'wiring' attribute; take a circuit from scores.top(n), or build one "
            "with circuitkit.graph.circuit.build"
        ) from error


def edges(circuit: Graph) -> Iterator[tuple[Node, Node, float]]:
    """Writer, reader and weight of every weighted edge; the plumbing is left out."""
    for writer, reader, data in circuit.edges(data=True):
        if data.get("weight") is not None:
            yield Node(writer), Node(reader), float(data["weight"])


def mask(circuit: Graph, wiring: Wiring | None = None) -> Mask:
    """Which edges the circuit keeps, in the wiring's order (its own, or a model's); raises
    CircuitError where the circuit has an edge that the wiring lacks."""
    if wiring is None or is_placed(circuit):  # which refuses these
        wiring = wiring_of(circuit)
    keep = np.zeros(wiring.shape, dtype=bool)
    for writer, reader, _ in edges(circuit):
        keep[wiring.index(writer, reader)] = True
    return keep


def weight_matrix(circuit: Graph) -> Float[np.ndarray, "writers readers"]:
    """The weights of the circuit's edges, 0 elsewhere."""
    wiring = wiring_of(circuit)
    values = np.zeros(wiring.shape)
    for writer, reader, weight in edges(circuit):
        values[wiring.index(writer, reader)] = weight
    return values


def strongest(circuit: Graph) -> list[tuple[Node, Node, float]]:
    """The weighted edges, those of largest magnitude first; equal ones by their names."""
    return sorted(edges(circuit), key=lambda edge: (-abs(edge[2]), *edge[:2]))


def components(circuit: Graph) -> set[str]:
    """The heads and MLPs in the circuit: those that an edge leaves or enters at a port of their
    own, and those that have a role; wherever in the prompt."""
    wiring = any_wiring(circuit)
    found = {Node(name).plain for name, role in circuit.nodes(data="role") if role}
    for writer, reader, _ in edges(circuit):
        found |= {writer.plain, reader.component.plain}
    return {name for name in found if wiring.writer.get(name, 0) > 0}


def lists_members(circuit: Graph) -> bool:
    """Whether the circuit names components by their roles and no edge between them."""
    named = any(role for _, role in circuit.nodes(data="role"))
    return named and next(edges(circuit), None) is None


def summary(circuit: Graph) -> str:
    """One line: how many edges, heads and MLPs of how many; between places also at how many of
    these."""
    wiring, own = any_wiring(circuit), components(circuit)
    parts = [node for node in wiring.writers if node.part and not node.is_mlp]
    held = {
        "heads": [node for node in wiring.writers if node.is_head],
        wiring.of_mlps: [node for node in wiring.writers if node.is_mlp],
        "parts of attention": [node for node in parts if not node.is_stream],
        "parts of the stream": [node for node in parts if node.is_stream],
    }
    counts = [
        f"{len(own.intersection(nodes))} of {len(nodes)} {what}"
        for what, nodes in held.items()
        if nodes or (what in ("heads", "MLPs") and not parts)
    ]
    return ", ".join([_extent(circuit, wiring), *counts])


def _extent(circuit: Graph, wiring: Wiring) -> str:
    """How many edges of how many; of a circuit between places of each kind, and at how many
    places: components at spans."""
    found = [edge[:2] for edge in edges(circuit)]
    if not is_placed(circuit):
        return f"{len(found):,} of {wiring.n_edges:,} edges"
    of, attention = places_of(circuit).n_edges, sum(writer.port is not None for writer, _ in found)
    at = {end.component for edge in found for end in edge if end.port not in (*PORTS,)}
    spans = {place.span for place in at}
    return (
        f"{len(found) - attention:,} of {of[0]:,} residual edges and {attention:,} of {of[1]:,} "
        f"attention edges, at {len(at):,} places in {len(spans):,} of "
        f"{len(places_of(circuit).spans):,} spans"
    )


# -- files -----------------------------------------------------------------------------------------
def to_json(circuit: Graph) -> str:
    """The circuit as text, one line per edge; equal circuits give equal text. Raises CircuitError
    where it could not be read again."""
    head = _document(circuit)
    listed = head.pop("edges")
    opening = json.dumps(head, indent=1, allow_nan=False, ensure_ascii=False)
    body = ",\n".join(f"  {json.dumps(entry, allow_nan=False)}" for entry in listed)
    return f'{opening[:-2]},\n "edges": [\n{body}\n ]\n}}\n'


def _document(circuit: Graph) -> dict[str, Json]:
    """What the file of a circuit holds."""
    space: Wiring | Places = places_of(circuit) if is_placed(circuit) else wiring_of(circuit)
    wiring = any_wiring(circuit)
    nodes = {name: data for name, data in circuit.nodes(data=True) if data}
    for name in nodes:
        _known(space, name)
    about = dict(circuit.graph).items()
    own = {key: value for key, value in about if key not in ("wiring", "places")}
    where = {"places": space.to_dict()} if isinstance(space, Places) else {}
    head: dict[str, Json] = {
        "format": FORMAT,
        "version": VERSION,
        "wiring": plain(wiring.to_dict(), "wiring"),
        **where,
        "attributes": written(own, "the circuit"),
        "nodes": {name: written(nodes[name], name, "node") for name in sorted(nodes)},
    }
    listed = [
        _entry(circuit, space, *edge) for edge in sorted(edges(circuit), key=lambda edge: edge[:2])
    ]
    return {**head, "digest": digest({**head, "edges": listed}), "edges": listed}


def _entry(
    circuit: Graph, space: Wiring | Places, writer: Node, reader: Node, weight: float
) -> dict[str, Json]:
    """An edge as the file lists it."""
    space.index(writer, reader)
    name = edge_name(writer, reader)
    if not math.isfinite(weight):
        raise CircuitError(f"{name} has the weight {weight}; give a finite number")
    extra = {k: v for k, v in dict(circuit[writer][reader]).items() if k != "weight"}
    if "edge" in extra:
        raise CircuitError(
            f"{name} has an attribute 'edge', which is what its name is called; rename it"
        )
    return {"edge": name, "weight": weight, **(written(extra, name, "edge") if extra else {})}


def _known(space: Wiring | Places, name: str) -> None:
    """Raise CircuitError for what has attributes and is not a node of this model, or not at one of
    its places."""
    wiring = space.wiring if isinstance(space, Places) else space
    try:
        node = Node(name)
    except NodeNameError as error:
        raise CircuitError(f"attributes belong to nodes, and {error}") from error
    plain = node.plain
    there = (plain in wiring.writer or plain in wiring.reader) and name == node
    known = (None,) if isinstance(space, Wiring) else space.spans
    if not there or node.span not in known:
        of = "this model" if not there or isinstance(space, Wiring) else "these places"
        raise CircuitError(f"attributes belong to nodes, and {str(node)!r} is not a node of {of}")


def from_json(text: str, source: str = "the text", *, force: bool = False) -> Circuit:
    """The circuit that the text describes; raises CircuitError, naming the source, where it does
    not describe one, and, unless it is read by ``force``, where its digest is wrong."""
    try:
        data = parse_json(text)
    except CircuitkitError as error:
        raise CircuitError(f"{source} is not a circuit: {error}") from error
    return _from_data(data, source, force)


def _from_data(data: Json, source: str, force: bool) -> Circuit:
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise CircuitError(f"{source} is not a circuit: its 'format' is not {FORMAT!r}")
    version = data.get("version")
    if type(version) is not int or version != VERSION:
        raise CircuitError(
            f"{source} has the format version {reprlib.repr(version)}, only {VERSION} is known; "
            "update circuitkit or write the file again"
        )
    try:
        for key in data:
            if key not in _KEYS:
                raise CircuitError(
                    f"it has the key {reprlib.repr(key)}, and files of circuits have only "
                    f"{', '.join(_KEYS)}"
                )
        circuit = _assemble(data)
        if "digest" in data:
            rest = {key: value for key, value in data.items() if key != "digest"}
            require_digest(data["digest"], digest(rest), force)
    except CircuitkitError as error:
        raise CircuitError(f"{source} is not a circuit: {error}") from error
    return circuit


def _assemble(data: Mapping[str, Any]) -> Circuit:
    weights: dict[tuple[str, str], float] = {}
    extra: dict[tuple[str, str], dict[str, Any]] = {}
    for entry in _typed(data.get("edges"), list, "'edges'"):
        entry = _typed(entry, dict, "an entry of 'edges'")
        pair = parse_edge(entry.get("edge"))
        if pair in weights:
            raise CircuitError(f"the edge {entry['edge']} is listed twice")
        weights[pair] = _weight(entry)
        own = {key: value for key, value in entry.items() if key not in ("edge", "weight")}
        extra[pair] = checked(own, entry["edge"], "edge") if own else own
    try:
        wiring = Wiring.from_dict(_typed(data.get("wiring"), dict, "'wiring'"))
    except TypeError as error:
        raise CircuitError(f"its 'wiring' does not describe one ({error})") from error
    space: Wiring | Places = wiring
    if "places" in data:
        space = Places.of(wiring, _typed(data["places"], dict, "'places'"))
    make: Callable[..., Circuit] = build_placed if isinstance(space, Places) else build
    circuit = make(space, weights, edge_attributes=extra)
    about = checked(data.get("attributes", {}), "'attributes'")
    if "places" in about:
        raise CircuitError("its 'attributes' have 'places', which stand beside the 'wiring'")
    circuit.graph.update({**about, **dict(circuit.graph)})
    for name, own in _typed(data.get("nodes", {}), dict, "'nodes'").items():
        _known(space, name)
        circuit.add_node(name)
        circuit.nodes[name].update(checked(own, f"{name!r} in 'nodes'", "node"))
    return circuit


def _typed(value: Any, kind: type, what: str) -> Any:
    if not isinstance(value, kind):
        name = "a list" if kind is list else "an object"
        raise CircuitError(f"{what} is {reprlib.repr(value)} instead of {name}")
    return value


def _weight(entry: Mapping[str, Any]) -> float:
    weight: Any = entry.get("weight")
    number = isinstance(weight, (int, float)) and not isinstance(weight, bool)
    if not number or not abs(weight) <= sys.float_info.max:
        raise CircuitError(
            f"{entry['edge']} has the weight {reprlib.repr(weight)}; give a finite number"
        )
    return float(weight)
