"""What a ``networkx.DiGraph`` must hold to be a circuit, and its file.

Nodes are names as in ``graph/nodes.py``. Writer → reader edges carry ``weight``: metric units per
example, positive where the edge helps the clean behaviour. Port → head edges carry nothing: they
close the paths, so that ``nx.ancestors`` and ``nx.all_simple_paths`` work unchanged. The graph's
attributes say where it comes from: ``wiring`` (always), and ``model, task, metric, corruption,
method, settings, versions, seed, ...`` as far as known.

The file is JSON, and loading it executes nothing::

    {"format": "circuitkit.circuit", "version": 1,
     "wiring": {"layers": 12, "heads": 12, "groups": 12, "mlp": true, "parallel": false},
     "attributes": {"model": "gpt2", "task": "ioi", ...},
     "nodes": {"a9.h9": {"role": "name mover"}, ...},          # only nodes that have attributes
     "edges": [{"edge": "a9.h9->logits", "weight": 0.61}, ...]}
"""

from __future__ import annotations

import inspect
import json
import math
import os
import reprlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, SupportsFloat

import numpy as np
from jaxtyping import Float

from circuitkit.errors import CircuitError, CircuitkitError, NodeNameError, OutputError
from circuitkit.graph.nodes import Node, edge_name, parse_edge
from circuitkit.graph.types import Graph, Mask
from circuitkit.graph.wiring import Wiring
from circuitkit.registry import lookup, names, unknown
from circuitkit.util.atomic import write_whole

__all__ = [
    "Circuit",
    "build",
    "edges",
    "from_json",
    "mask",
    "read",
    "summary",
    "to_json",
    "wiring_of",
    "write",
]

FORMAT = "circuitkit.circuit"
VERSION = 1


class Circuit(Graph):  # type: ignore[misc, unused-ignore]
    """A ``networkx.DiGraph`` that prints itself as one line, and draws itself in a notebook."""

    def __repr__(self) -> str:
        return summary(self) if "wiring" in self.graph else super().__repr__()

    def _repr_svg_(self) -> str:
        picture: str = lookup("formats", "svg")(self)
        return picture


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
        if not math.isfinite(weight):
            raise CircuitError(
                f"{edge_name(writer, reader)} has the weight {weight}; give a finite number"
            )
        extra = (edge_attributes or {}).get(pair, {})
        circuit.add_edge(writer, reader)
        circuit[writer][reader].update(extra, weight=float(weight))
        for fed in wiring.fed(reader):
            if fed != reader and (fed in writers or reader.head is not None):
                circuit.add_edge(reader, fed)
    return circuit


def wiring_of(circuit: Graph) -> Wiring:
    """The wiring of the model that the circuit belongs to; raises CircuitError without one."""
    try:
        return Wiring(**circuit.graph["wiring"])
    except (KeyError, TypeError) as error:
        raise CircuitError(
            "the graph has no 'wiring' attribute; build circuits with circuitkit.circuit.build"
        ) from error


def edges(circuit: Graph) -> Iterator[tuple[Node, Node, float]]:
    """Writer, reader and weight of every weighted edge; the plumbing is left out."""
    for writer, reader, data in circuit.edges(data=True):
        if data.get("weight") is not None:
            yield Node(writer), Node(reader), float(data["weight"])


def mask(circuit: Graph, wiring: Wiring | None = None) -> Mask:
    """Which edges the circuit keeps, in the wiring's order (its own, or a model's); raises
    CircuitError where the circuit has an edge that the wiring lacks."""
    wiring = wiring or wiring_of(circuit)
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


def summary(circuit: Graph) -> str:
    """One line: how many edges, heads and MLPs of how many."""
    wiring = wiring_of(circuit)
    kept = list(edges(circuit))
    written = {writer for writer, _, _ in kept}
    heads = [writer for writer in wiring.writers if writer.is_head]
    mlps = [writer for writer in wiring.writers if writer.is_mlp]
    return (
        f"{len(kept):,} of {wiring.n_edges:,} edges, "
        f"{len(written.intersection(heads))} of {len(heads)} heads, "
        f"{len(written.intersection(mlps))} of {len(mlps)} "
        f"{'experts' if wiring.experts else 'MLPs'}"
    )


# -- files -----------------------------------------------------------------------------------------
def to_json(circuit: Graph) -> str:
    """The circuit as text, one line per edge; equal circuits give equal text. Raises CircuitError
    where it could not be read again."""
    wiring = wiring_of(circuit)
    nodes = {name: data for name, data in circuit.nodes(data=True) if data}
    for name in nodes:
        _known(wiring, name)
    try:
        head = {
            "format": FORMAT,
            "version": VERSION,
            "wiring": wiring.to_dict(),
            "attributes": _sorted({k: v for k, v in circuit.graph.items() if k != "wiring"}),
            "nodes": _sorted(nodes),
        }
        opening = json.dumps(head, indent=1, allow_nan=False, ensure_ascii=False)
        opening.encode()
        listed = sorted(edges(circuit), key=lambda edge: edge[:2])
        body = ",\n".join(f"  {_line(circuit, wiring, *edge)}" for edge in listed)
    except (TypeError, ValueError, RecursionError) as error:
        raise CircuitError(f"the circuit holds what JSON cannot: {error}") from error
    return f'{opening[:-2]},\n "edges": [\n{body}\n ]\n}}\n'


def _line(circuit: Graph, wiring: Wiring, writer: Node, reader: Node, weight: float) -> str:
    wiring.index(writer, reader)
    name = edge_name(writer, reader)
    extra = _sorted({k: v for k, v in circuit[writer][reader].items() if k != "weight"})
    if "edge" in extra:
        raise CircuitError(f"{name} has an attribute 'edge', as its name is called; rename it")
    return json.dumps({"edge": name, "weight": weight, **extra}, allow_nan=False)


def _sorted(data: Mapping[str, Any]) -> dict[str, Any]:
    """What is read again of the data, its keys in order."""
    plain: dict[str, Any] = json.loads(json.dumps(data, sort_keys=True))
    return plain


def _known(wiring: Wiring, name: str) -> None:
    """Raise CircuitError for what has attributes and is not a node of this model."""
    if name in wiring.writer or name in wiring.reader:
        return
    try:
        why = f"{str(Node(name))!r} is not a node of this model"
    except NodeNameError as error:
        why = str(error)
    raise CircuitError(f"attributes belong to nodes, and {why}")


def from_json(text: str, source: str = "the text") -> Circuit:
    """The circuit that the text describes; raises CircuitError, naming the source, where it does
    not describe one."""
    try:
        data = json.loads(text)
    except ValueError as error:
        raise CircuitError(f"{source} is not a circuit: it is no JSON ({error})") from error
    except RecursionError as error:
        raise CircuitError(f"{source} is not a circuit: it is nested too deeply") from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise CircuitError(f"{source} is not a circuit: its 'format' is not {FORMAT!r}")
    if data.get("version") != VERSION:
        raise CircuitError(
            f"{source} has the format version {reprlib.repr(data.get('version'))}, only {VERSION} "
            "is known; update circuitkit or write the file again"
        )
    try:
        return _assemble(data)
    except CircuitkitError as error:
        raise CircuitError(f"{source} is not a circuit: {error}") from error


def _assemble(data: Mapping[str, Any]) -> Circuit:
    weights: dict[tuple[str, str], float] = {}
    extra: dict[tuple[str, str], dict[str, Any]] = {}
    for entry in _typed(data.get("edges"), list, "'edges'"):
        entry = _typed(entry, dict, "an entry of 'edges'")
        pair = parse_edge(entry.get("edge"))
        if pair in weights:
            raise CircuitError(f"the edge {entry['edge']} stands there twice")
        weights[pair] = _weight(entry)
        extra[pair] = {key: value for key, value in entry.items() if key not in ("edge", "weight")}
    try:
        wiring = Wiring(**_typed(data.get("wiring"), dict, "'wiring'"))
    except TypeError as error:
        raise CircuitError(f"its 'wiring' does not describe one ({error})") from error
    circuit = build(wiring, weights, edge_attributes=extra)
    attributes = _typed(data.get("attributes", {}), dict, "'attributes'")
    circuit.graph.update(attributes, wiring=wiring.to_dict())
    for name, roles in _typed(data.get("nodes", {}), dict, "'nodes'").items():
        _known(wiring, name)
        circuit.add_node(name)
        circuit.nodes[name].update(_typed(roles, dict, f"{name!r} in 'nodes'"))
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


def read(path: str | os.PathLike[str]) -> Circuit:
    """The circuit in the file; raises CircuitError where there is none, or it is broken."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise CircuitError(f"there is no file {os.fspath(path)!r}") from error
    except (OSError, ValueError) as error:
        raise CircuitError(f"{os.fspath(path)!r} cannot be read as a circuit: {error}") from error
    return from_json(text, source=repr(os.fspath(path)))


def write(
    circuit: Graph, path: str | os.PathLike[str], *, format: str | None = None, **style: object
) -> Path:
    """Write the circuit in the format of the path's suffix, or in another one (``format``: its
    name, or ``path/to/mine.py:name``), and return the path; a file that was there is replaced once
    the new one is whole.

    Raises UnknownNameError for a format, and OutputError for a suffix or a style, that is not
    known; OutputError where the file cannot be drawn or written.
    """
    suffix, known = Path(path).suffix.removeprefix(".").lower(), names("formats")
    if format is None and suffix not in known:
        why = unknown("file format", suffix, known) if suffix else "it has no suffix"
        raise OutputError(
            f"{os.fspath(path)!r} cannot be written: {why}; the formats are {', '.join(known)}"
        )
    format = format or suffix
    exporter = lookup("formats", format)
    styles = [name for name in inspect.signature(exporter).parameters if name != "circuit"]
    for name in style:
        if name not in styles:
            listed = ", ".join(styles) or "no style at all"
            raise OutputError(f"{format} files know no style {name!r}; they take {listed}")
    return write_whole(path, exporter(circuit, **style))
