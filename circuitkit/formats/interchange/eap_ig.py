"""EAP-IG's graph files (Hanna et al. 2024): other tools' scores and circuits in, ours out.

A ``.json`` file of ``Graph.to_json`` holds ``{"cfg": {"n_layers", "n_heads", "parallel_attn_mlp",
"d_model"}, "nodes": {"m0": {"in_graph": true}}, "edges": {"m0->logits": {"score": 0.2, "in_graph":
true}}}``; the nodes of older files are the flags themselves. A ``.pt`` file of ``Graph.to_pt``
holds the same as tensors, writers × readers.

EAP-IG scores are the gain of a *loss* when the edge carries the corrupted prompt, so a positive one
helps the clean behaviour, as here; the unit is that of the loss, and its scale the other tool's.
Some files hold the gain of a metric instead, MIB's own example among them: ``sign=-1`` turns these
around, and a warning says where scores look like that.

A graph gives each head keys and values of its own. Where heads share them, the score of a group's
edge is the sum of its heads', and each head gets an equal share of the group's; a ``cfg`` of ours
then also says ``n_key_value_heads``, and for other tools' files the model's wiring has to be given.
Models without MLPs have no counterpart, nor have experts. The flags of nodes follow from those of
edges, and are not read. Read from the source of github.com/hannamw/EAP-IG at 8fd10d9, and tried on
files that it wrote (``tests/recorded``).
"""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from circuitkit.errors import CircuitError, CircuitkitError, OutputError, ScoresError
from circuitkit.formats.interchange._archives import unpickled
from circuitkit.formats.interchange._tables import (
    GROUPS,
    Tables,
    edge_names,
    folded,
    from_plain,
    from_tensors,
    oriented,
    reader_names,
    require_described,
    spread,
    ungrouped,
    writer_names,
)
from circuitkit.graph.circuit import Circuit, mask, weight_matrix, wiring_of
from circuitkit.graph.scores import Scores, ScoresWarning
from circuitkit.graph.types import Graph, Mask
from circuitkit.graph.wiring import Wiring
from circuitkit.util.atomic import write_whole
from circuitkit.util.reading import read_json

__all__ = ["SUFFIXES", "is_eap", "read_eap_circuit", "read_eap_scores", "write_eap"]

SUFFIXES = (".json", ".pt")


# -- reading ---------------------------------------------------------------------------------------
def is_eap(path: str | os.PathLike[str]) -> bool:
    """Whether the file is meant as an EAP-IG graph: a ``.pt`` file, or JSON that has a ``cfg`` and
    does not say another format. False where it cannot be read."""
    if Path(path).suffix.lower() == ".pt":
        return True
    try:
        data = read_json(path)
    except (CircuitkitError, FileNotFoundError):
        return False
    return isinstance(data, dict) and "cfg" in data and "format" not in data


def read_eap_scores(
    path: str | os.PathLike[str], wiring: Wiring | None = None, *, sign: int = 1
) -> Scores:
    """The scores of all edges in an EAP-IG graph file, in double precision.

    Where heads share keys and values, the score of a group's edge is the sum of its heads'; for a
    file that another tool wrote, give the model's ``wiring``, which says which heads share. With
    ``sign=-1`` all scores are turned around: for files in which a positive score means that the
    edge hurts. Where they look like that, a warning (ScoresWarning) says so: those into the logits
    add up to about what all corruption together costs, which a task that the model does makes
    positive.

    Raises ScoresError where the file holds none, where nodes, edges or scores are missing, unknown
    or not numbers, where all scores are 0 (a graph that ranks nodes or neurons), and, if a wiring
    is given, where the graph is another model's.

    Example:
        >>> path = ck.write_eap(scores, "graph.json", d_model=model.d_model)
        >>> ck.read_eap_scores(path)["m3->logits"] == scores["m3->logits"]
        True
    """
    try:
        tables, _ = folded(_tables(path), wiring)
        if tables.scores is None:
            raise ScoresError("its edges have no 'score'")
        if not tables.scores.any():
            raise ScoresError(
                "all its edges score 0, as in a graph that ranks nodes or neurons; rank edges"
            )
        return Scores(tables.wiring, oriented(tables, sign).scores)  # type: ignore[arg-type]
    except CircuitkitError as error:
        raise ScoresError(f"{os.fspath(path)!r} holds no scores of edges: {error}") from error


def read_eap_circuit(
    path: str | os.PathLike[str],
    wiring: Wiring | None = None,
    *,
    empty: bool = False,
    sign: int = 1,
) -> Circuit:
    """The circuit in an EAP-IG graph file: the edges ``in_graph``, weighted by scores.

    Without scores each edge weighs 1, and the circuit says that it is ``unweighted``. Dead ends
    stay. Where heads share keys and values, a group's edge is kept where any of its heads' is: a
    warning (ScoresWarning) and the attribute ``widened`` say for how many edges some heads' were
    missing. ``wiring`` and ``sign``: see ``read_eap_scores``. ``Circuit.load`` calls this for a
    file that is one of EAP-IG's. Raises CircuitError as ``read_eap_scores`` raises ScoresError,
    where a kept node lacks some of its neurons, and, unless it may be ``empty``, where no edge is
    in the graph.

    Example:
        >>> path = ck.write_eap(circuit, "graph.json", d_model=model.d_model)
        >>> str(ck.read_eap_circuit(path)) == str(circuit)
        True
    """
    return read_counted(path, wiring, empty=empty, sign=sign)[0]


def read_counted(
    path: str | os.PathLike[str], wiring: Wiring | None, *, empty: bool, sign: int
) -> tuple[Circuit, int]:
    """The circuit, and how many edges it has as the file counts them: a head's keys and values are
    its own there."""
    try:
        found = _tables(path)
        tables, widened = folded(found, wiring)
        circuit = _circuit(oriented(tables, sign), empty)
    except CircuitkitError as error:
        raise CircuitError(f"{os.fspath(path)!r} holds no circuit of edges: {error}") from error
    if widened:
        circuit.graph["widened"] = widened
        warnings.warn(
            f"{os.fspath(path)!r} keeps {widened:,} edges into keys or values for some heads of "
            "a group alone, which a model whose heads share them cannot; here all of them keep "
            "these",
            ScoresWarning,
            stacklevel=3,
        )
    return circuit, 0 if found.keep is None else int(found.keep.sum())


def _circuit(tables: Tables, empty: bool) -> Circuit:
    if tables.keep is None:
        raise CircuitError("its edges have no 'in_graph'")
    if tables.split:
        raise CircuitError(
            f"{len(tables.split)} of its nodes keep only some neurons, the first "
            f"{tables.split[0]}; give a circuit of whole components"
        )
    if not empty and not tables.keep.any():
        raise CircuitError(
            "none is in the graph; if they have scores, choose a circuit of them with "
            "circuitkit.read_eap_scores(...).top(n)"
        )
    if tables.scores is None:
        ones = Scores(tables.wiring, np.ones(tables.wiring.shape))
        return ones.circuit(tables.keep, unweighted=True)
    return Scores(tables.wiring, tables.scores).circuit(tables.keep)


def _tables(path: str | os.PathLike[str]) -> Tables:
    if Path(path).suffix.lower() == ".pt":
        return from_tensors(unpickled(path, "cfg, src_nodes, dst_nodes and edges_scores"))
    try:
        data = read_json(path)
    except FileNotFoundError as error:
        raise CircuitError("there is no such file") from error
    if not isinstance(data, dict):
        raise CircuitError("it is not an object with cfg, nodes and edges")
    return from_plain(data)


# -- writing ---------------------------------------------------------------------------------------
def write_eap(
    item: Scores | Graph,
    path: str | os.PathLike[str],
    *,
    d_model: int,
    keep: Mask | None = None,
) -> Path:
    """Write scores or a circuit as EAP-IG's ``.json`` or ``.pt``, and return the path.

    Every edge is listed. Of a circuit its edges are ``in_graph``, and the others score 0; of scores
    those that ``keep`` says, else those that their method chose, else none. ``d_model`` is the
    width of the residual stream, without which EAP-IG does not read the file. Where heads share
    keys and values, each has the edge of its group, and an equal share of its score.

    Raises CircuitError for a model that the format cannot describe, and OutputError for another
    suffix and where the place cannot be written.

    Example:
        >>> ck.write_eap(circuit, "graph.json", d_model=model.d_model).name
        'graph.json'
        >>> path = ck.write_eap(scores, "graph.json", d_model=model.d_model, keep=scores.mask(20))
        >>> str(ck.Circuit.load(path)) == str(scores.top(20))
        True
    """
    if isinstance(item, Scores):
        wiring, values = item.wiring, item.values
        chosen = item.chosen if keep is None else keep
        kept = np.zeros(wiring.shape, dtype=bool) if chosen is None else chosen & wiring.legal
    else:
        wiring, values, kept = wiring_of(item), weight_matrix(item), mask(item)
    require_described(wiring)
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise OutputError(
            f"{os.fspath(path)!r} is not an EAP-IG graph; the suffixes are {' and '.join(SUFFIXES)}"
        )
    cfg = {
        "n_layers": wiring.layers, "n_heads": wiring.heads,
        "parallel_attn_mlp": wiring.parallel, "d_model": d_model,
    }  # fmt: skip
    values, kept = spread(wiring, np.where(wiring.legal, values, 0), kept)
    theirs = ungrouped(wiring)
    if wiring != theirs:
        cfg[GROUPS] = wiring.groups
    if suffix == ".json":
        return write_whole(path, json.dumps({"cfg": cfg, **_plain(theirs, values, kept)}))
    return write_whole(path, lambda draft: _pickle(draft, cfg, theirs, values, kept))


def _plain(wiring: Wiring, values: Any, kept: Any) -> dict[str, Any]:
    """The nodes and the edges as EAP-IG's JSON has them; the logits are always in its graph."""
    flags = zip(writer_names(wiring), kept.any(axis=1).tolist(), strict=True)
    columns = edge_names(wiring), values[wiring.legal].tolist(), kept[wiring.legal].tolist()
    return {
        "nodes": {name: {"in_graph": flag} for name, flag in [*flags, ("logits", True)]},
        "edges": {
            name: {"score": score, "in_graph": flag}
            for name, score, flag in zip(*columns, strict=True)
        },
    }


def _pickle(path: Path, cfg: dict[str, Any], wiring: Wiring, values: Any, kept: Any) -> None:
    import torch

    contents = {
        "cfg": cfg, "src_nodes": writer_names(wiring), "dst_nodes": reader_names(wiring),
        "edges_scores": torch.tensor(values), "edges_in_graph": torch.tensor(kept),
        "nodes_in_graph": torch.tensor(kept.any(axis=1)),
    }  # fmt: skip
    torch.save(contents, path)
