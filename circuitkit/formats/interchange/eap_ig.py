"""EAP-IG's graph files (Hanna et al. 2024): other tools' scores and circuits in, ours out.

A ``.json`` file of ``Graph.to_json`` holds ``{"cfg": {"n_layers", "n_heads", "parallel_attn_mlp",
"d_model"}, "nodes": {"m0": {"in_graph": true}}, "edges": {"m0->logits": {"score": 0.2, "in_graph":
true}}}``; the nodes of older files are the flags themselves. A ``.pt`` file of ``Graph.to_pt``
holds the same as tensors, writers × readers.

EAP-IG scores are the gain of a *loss* when the edge carries the corrupted prompt, so a positive one
helps the clean behaviour, as here; the unit is that of the loss, and its scale the other tool's. A
graph gives each head keys and values of its own: models whose heads share them have no counterpart,
nor have models without MLPs. The flags of nodes follow from those of edges, and are not read. Read
from the source of github.com/hannamw/EAP-IG at 8fd10d9; no file of its own making was tried.
"""

from __future__ import annotations

import json
import os
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from circuitkit.errors import CircuitError, CircuitkitError, OutputError, ScoresError
from circuitkit.formats.interchange._tables import (
    Tables,
    edge_names,
    from_plain,
    from_tensors,
    reader_names,
    require_same,
    require_ungrouped,
    writer_names,
)
from circuitkit.graph.circuit import Circuit, mask, weight_matrix, wiring_of
from circuitkit.graph.scores import Scores
from circuitkit.graph.types import Graph, Mask
from circuitkit.graph.wiring import Wiring
from circuitkit.util.atomic import write_whole
from circuitkit.util.reading import read_json, require_file

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


def read_eap_scores(path: str | os.PathLike[str], wiring: Wiring | None = None) -> Scores:
    """The scores of all edges in an EAP-IG graph file, in double precision.

    Raises ScoresError where the file holds none, where nodes, edges or scores are missing, unknown
    or not numbers, where all scores are 0 (a graph that ranks nodes or neurons), and, if a wiring
    is given, where the graph is another model's.

    Example:
        >>> path = ck.write_eap(scores, "graph.json", d_model=model.d_model)
        >>> ck.read_eap_scores(path)["m3->logits"] == scores["m3->logits"]
        True
    """
    try:
        tables = _tables(path)
        require_same(tables.wiring, wiring)
        if tables.scores is None:
            raise ScoresError("its edges have no 'score'")
        if not tables.scores.any():
            raise ScoresError(
                "all its edges score 0, as in a graph that ranks nodes or neurons; rank edges"
            )
        return Scores(tables.wiring, tables.scores)
    except CircuitkitError as error:
        raise ScoresError(f"{os.fspath(path)!r} holds no scores of edges: {error}") from error


def read_eap_circuit(
    path: str | os.PathLike[str], wiring: Wiring | None = None, *, empty: bool = False
) -> Circuit:
    """The circuit in an EAP-IG graph file: the edges ``in_graph``, weighted by scores.

    Without scores each edge weighs 1, and the circuit says that it is ``unweighted``. Dead ends
    stay. ``Circuit.load`` calls this for a file that is one of EAP-IG's. Raises CircuitError as
    ``read_eap_scores`` raises ScoresError, where a kept node lacks some of its neurons, and, unless
    it may be ``empty``, where no edge is in the graph.

    Example:
        >>> path = ck.write_eap(circuit, "graph.json", d_model=model.d_model)
        >>> str(ck.read_eap_circuit(path)) == str(circuit)
        True
    """
    try:
        tables = _tables(path)
        require_same(tables.wiring, wiring)
        return _circuit(tables, empty)
    except CircuitkitError as error:
        raise CircuitError(f"{os.fspath(path)!r} holds no circuit of edges: {error}") from error


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
        return from_tensors(_unpickled(path))
    try:
        data = read_json(path)
    except FileNotFoundError as error:
        raise CircuitError("there is no such file") from error
    if not isinstance(data, dict):
        raise CircuitError("it is not an object with cfg, nodes and edges")
    return from_plain(data)


def _unpickled(path: str | os.PathLike[str]) -> Mapping[str, Any]:
    """What a ``.pt`` file holds, read so that it executes nothing and takes no more memory than the
    file's own size."""
    import torch

    try:
        require_file(path)
        _require_stored(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CircuitError("there is no such file") from error
    except CircuitkitError:
        raise
    except Exception as error:  # a damaged pickle can raise any: IndexError, MemoryError, ...
        raise CircuitError(
            "it is not a .pt file, or holds more than tensors, lists, texts and numbers"
        ) from error
    if not isinstance(data, dict):
        raise CircuitError("it is not a dictionary with cfg, src_nodes, dst_nodes and edges_scores")
    return data


def _require_stored(path: str | os.PathLike[str]) -> None:
    """Raise CircuitError for what is not an archive as torch.save writes it since 1.6: its parts
    are not compressed, so that they are not larger than the file, and as their checksums say."""
    size = os.stat(path).st_size
    try:
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
            claimed = sum(part.file_size for part in parts)
            compressed = claimed > size or any(part.compress_type for part in parts)
            damaged = None if compressed else archive.testzip()
    except Exception as error:  # a damaged archive can raise any: BadZipFile, struct.error, ...
        raise CircuitError("it is not a .pt file of torch 1.6 or later") from error
    if compressed:
        raise CircuitError("it is compressed, or claims to hold more than it does; save it anew")
    if damaged is not None:
        raise CircuitError(f"its part {damaged!r} is damaged: the checksum is wrong")


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
    width of the residual stream, without which EAP-IG does not read the file.

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
    require_ungrouped(wiring)
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise OutputError(
            f"{os.fspath(path)!r} is not an EAP-IG graph; the suffixes are {' and '.join(SUFFIXES)}"
        )
    cfg = {
        "n_layers": wiring.layers, "n_heads": wiring.heads,
        "parallel_attn_mlp": wiring.parallel, "d_model": d_model,
    }  # fmt: skip
    values = np.where(wiring.legal, values, 0)
    if suffix == ".json":
        return write_whole(path, json.dumps({"cfg": cfg, **_plain(wiring, values, kept)}))
    return write_whole(path, lambda draft: _pickle(draft, cfg, wiring, values, kept))


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
