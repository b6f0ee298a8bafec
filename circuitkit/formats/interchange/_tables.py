"""What an EAP-IG graph says, as tables over our wiring; from its JSON and from its tensors."""

from __future__ import annotations

import reprlib
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from circuitkit.errors import CircuitError
from circuitkit.graph.nodes import INPUT, LOGITS, edge_name
from circuitkit.graph.scores import ScoresWarning
from circuitkit.graph.types import Mask
from circuitkit.graph.wiring import Wiring
from circuitkit.util.json_values import Json

__all__ = [
    "GROUPS",
    "Tables",
    "as_numbers",
    "counted",
    "edge_names",
    "folded",
    "from_plain",
    "from_tensors",
    "oriented",
    "reader_names",
    "require_described",
    "spread",
    "ungrouped",
    "writer_names",
]


MOST_MISSING = 10**5
_MASKS = ("bool",)
_FLOATS = ("float64", "float32", "float16", "bfloat16")
_WHOLE = ("uint8", "int8", "int16", "int32", "int64")
GROUPS = "n_key_value_heads"  # as TransformerLens calls them; EAP-IG keeps what it does not know
INVERTED = -0.2  # of the scores' size; in MIB's own example -0.30 into the logits, -0.23 in all


@dataclass(frozen=True)
class Tables:
    """The scores and the flags ``in_graph`` of all edges, None where the file gives none; and the
    kept nodes of which it keeps only some neurons.

    ``wiring`` is as the file has it, in which each head has keys and values of its own; ``groups``
    how many groups of them the file says that a layer has, None where it says nothing.
    """

    wiring: Wiring
    scores: Float[np.ndarray, "writers readers"] | None
    keep: Mask | None
    split: tuple[str, ...] = ()
    groups: int | None = None


# -- names -----------------------------------------------------------------------------------------
def edge_names(wiring: Wiring) -> list[str]:
    """The names of all edges, row by row."""
    pairs = np.argwhere(wiring.legal)
    return [edge_name(wiring.writers[row], wiring.readers[column]) for row, column in pairs]


def writer_names(wiring: Wiring) -> list[str]:
    """EAP-IG's names of the writers, in its order, which is ours."""
    return [edge_name(writer, LOGITS).partition("->")[0] for writer in wiring.writers]


def reader_names(wiring: Wiring) -> list[str]:
    """EAP-IG's names of the readers, in its order, which is ours."""
    return [edge_name(INPUT, reader).partition("->")[2] for reader in wiring.readers]


def _shown(value: object) -> str:
    """A value on one line, cut short: tensors are spelt over several."""
    return " ".join(reprlib.repr(value).split())


def _size(wiring: Wiring) -> str:
    shape = ", parallel" if wiring.parallel else ""
    return f"{wiring}{shape}"


# -- which models ----------------------------------------------------------------------------------
def require_described(wiring: Wiring) -> None:
    """Raise CircuitError for a model that EAP-IG's graphs cannot describe."""
    if wiring.apart:
        raise CircuitError(
            f"the {wiring.apart} are writers of their own, which EAP-IG's graphs do not have; use "
            "circuitkit's own files, or a model whose MLPs are whole"
        )
    if not wiring.mlp:
        raise CircuitError(
            "the model has no MLPs, which EAP-IG's graphs always have; use circuitkit's own files"
        )


def _wiring(cfg: Any) -> tuple[Wiring, int | None]:
    """The wiring of a graph, and how many groups of keys and values it says there are."""
    keys = ("n_layers", "n_heads", "parallel_attn_mlp")
    known = _mapping(cfg, "its 'cfg'")
    lacking = [key for key in keys if key not in known]
    if lacking:
        raise CircuitError(f"its 'cfg' has no {lacking[0]!r}; give {', '.join(keys)}")
    layers, heads, parallel = (known[key] for key in keys)
    groups = known.get(GROUPS)
    if groups is not None:
        Wiring(layers, heads, groups, parallel=parallel)
    return Wiring(layers, heads, heads, parallel=parallel), groups


# -- heads that share keys and values --------------------------------------------------------------
def ungrouped(wiring: Wiring) -> Wiring:
    """The same model where each head has keys and values of its own, as in EAP-IG's graphs."""
    return replace(wiring, groups=wiring.heads)


def _columns(wiring: Wiring) -> tuple[Int[np.ndarray, " readers"], Int[np.ndarray, " readers"]]:
    """For each reader of EAP-IG's graph the column of ours that it is a part of, and of how many
    parts that is."""
    size = wiring.heads // wiring.groups
    found = []
    for reader in ungrouped(wiring).readers:
        shared = size > 1 and reader.port in ("k", "v") and reader.head is not None
        ours = f"a{reader.layer}.g{(reader.head or 0) // size}.{reader.port}" if shared else reader
        found.append(wiring.reader[ours])
    columns = np.array(found)
    return columns, np.bincount(columns)[columns]


def folded(tables: Tables, wiring: Wiring | None) -> tuple[Tables, int]:
    """The tables over a model's wiring, in which heads may share keys and values, and how many
    edges a circuit keeps for some heads of a group alone: here all of them keep such an edge. The
    score of a group's edge is the sum of its heads': what cutting all of them at once costs, to
    first order. Raises CircuitError where the graph is of another model.
    """
    found = tables.wiring
    if wiring is None:
        wiring = replace(found, groups=tables.groups or found.groups)
    require_described(wiring)
    if found != ungrouped(wiring) or tables.groups not in (None, wiring.groups):
        theirs = replace(found, groups=tables.groups or found.groups)
        raise CircuitError(
            f"it is of a model with {_size(theirs)}, and this one has {_size(wiring)}; "
            "give the graph of this model"
        )
    if wiring == found:
        return tables, 0
    columns, _ = _columns(wiring)
    scores, count = tables.scores, np.zeros(wiring.shape, dtype=int)
    if scores is not None:
        sums = np.zeros(wiring.shape)
        np.add.at(sums.T, columns, scores.T)
        scores = sums
    if tables.keep is None:
        return replace(tables, wiring=wiring, scores=scores), 0
    np.add.at(count.T, columns, tables.keep.T)
    some = (count > 0) & (count < np.bincount(columns)[None, :])
    return replace(tables, wiring=wiring, scores=scores, keep=count > 0), int(some.sum())


def spread(
    wiring: Wiring, values: Float[np.ndarray, "writers readers"], kept: Mask
) -> tuple[Float[np.ndarray, "writers columns"], Bool[np.ndarray, "writers columns"]]:
    """Scores and kept edges as EAP-IG's graphs have them: each head of a group has the group's
    edge, and an equal share of its score."""
    columns, parts = _columns(wiring)
    return values[:, columns] / parts, kept[:, columns]


def counted(wiring: Wiring, kept: Mask) -> int:
    """How many edges of EAP-IG's graph these are."""
    return int(kept[:, _columns(wiring)[0]].sum())


# -- which sign ------------------------------------------------------------------------------------
def oriented(tables: Tables, sign: int) -> Tables:
    """The tables with all scores times the sign, 1 or -1; warns (ScoresWarning) where these are
    scores of most edges and look inverted. Raises CircuitError for another sign."""
    if isinstance(sign, bool) or sign not in (1, -1):
        raise CircuitError(f"sign={sign!r} is not a sign; give 1, or -1 to turn all scores around")
    if tables.scores is None:
        return tables
    scores = tables.scores * sign
    shares = []
    for own in (scores[:, -1], scores):
        size = np.abs(own).sum()
        shares.append(float(own.sum() / size) if size and np.isfinite(size) else 0.0)
    most = 2 * np.count_nonzero(scores) > tables.wiring.n_edges  # else they are a circuit's
    if most and max(shares) <= INVERTED:
        warnings.warn(
            f"the scores look inverted: those into the logits add up to {shares[0]:.0%} of their "
            "size, as where a positive score means that the edge hurts; if so, read them with "
            f"sign={-sign}",
            ScoresWarning,
            stacklevel=4,
        )
    return replace(tables, scores=scores)


# -- the two forms ---------------------------------------------------------------------------------
def from_plain(data: Mapping[str, Json]) -> Tables:
    """What a graph in JSON says, of either version: its nodes are flags, or objects that hold one.

    Raises CircuitError for another model's nodes or edges, missing ones, scores that are not finite
    numbers and flags that are not booleans.
    """
    wiring, groups = _wiring(data.get("cfg"))
    nodes = _mapping(data.get("nodes"), "its 'nodes'")
    edges = _mapping(data.get("edges"), "its 'edges'")
    _require_all("nodes", nodes, [*writer_names(wiring), LOGITS], wiring)
    if wiring.n_edges > MOST_MISSING + 2 * len(edges):  # too many to name those that are missing
        raise CircuitError(
            f"it lists {len(edges):,} edges of the {wiring.n_edges:,} of a model with "
            f"{_size(wiring)}; list them all"
        )
    names = edge_names(wiring)
    _require_all("edges", edges, names, wiring)
    for name, entry in edges.items():
        _mapping(entry, name)
    scores = _column(edges, names, "score", _is_finite, "a finite number")
    flags = _column(edges, names, "in_graph", _is_flag, "true or false")
    tables = _table(wiring, scores, float), _table(wiring, flags, bool)
    return Tables(wiring, *tables, _split(data, nodes), groups)


def from_tensors(data: Mapping[object, object]) -> Tables:
    """What a graph in a ``.pt`` file says; older files call the scores ``edges``. What stands at
    pairs that are not edges is dropped: EAP-IG leaves arbitrary numbers there.

    Raises CircuitError for other nodes than the model's, or another order or shape.
    """
    wiring, groups = _wiring(data.get("cfg"))
    listed = {"src_nodes": writer_names(wiring), "dst_nodes": reader_names(wiring)}
    for key, expected in listed.items():
        found = _names(data.get(key), key)
        _require_all(f"'{key}'", found, expected, wiring)
        if found != expected:
            raise CircuitError(f"its {key!r} are in a different order than EAP-IG's")
    scores = _matrix(data, "edges_scores" if "edges_scores" in data else "edges", wiring)
    keep = _matrix(data, "edges_in_graph", wiring, mask=True)
    return Tables(wiring, scores, keep, _split_rows(data, listed["src_nodes"]), groups)


# -- the parts of JSON -----------------------------------------------------------------------------
def _mapping(value: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise CircuitError(f"{what} is {_shown(value)} instead of an object")
    return value


def _require_all(kind: str, found: Iterable[str], expected: Sequence[str], wiring: Wiring) -> None:
    """Raise CircuitError where a name is unknown, or one is missing."""
    names, known = dict.fromkeys(found), set(expected)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise CircuitError(
            f"{len(unknown):,} of its {kind} are not those of a model with {_size(wiring)}, "
            f"the first {_shown(unknown[0])}"
        )
    missing = [name for name in expected if name not in names]
    if missing:
        raise CircuitError(
            f"{len(missing):,} of {len(expected):,} {kind} are missing, the first {missing[0]}; "
            "list them all"
        )


def _column(
    edges: Mapping[str, Any], names: Sequence[str], key: str, fits: Callable[[Any], bool], what: str
) -> list[Any] | None:
    """What each edge holds under the key; None where no edge has it."""
    values = [edges[name].get(key) for name in names]
    if not any(key in edges[name] for name in names):
        return None
    wrong = [i for i, value in enumerate(values) if not fits(value)]
    if wrong:
        raise CircuitError(
            f"{len(wrong):,} edges have a {key!r} that is not {what}, the first "
            f"{names[wrong[0]]} with {_shown(values[wrong[0]])}"
        )
    return values


def _is_finite(value: Any) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and bool(abs(value) <= sys.float_info.max)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _table(wiring: Wiring, values: list[Any] | None, kind: type) -> Any:
    if values is None:
        return None
    table: Any = np.zeros(wiring.shape, dtype=kind)
    table[wiring.legal] = values
    return table


def _split(data: Mapping[str, Any], nodes: Mapping[str, Any]) -> tuple[str, ...]:
    """The kept nodes that keep only some neurons; older files list neurons beside the nodes."""
    beside = _mapping(data.get("neurons", {}), "its 'neurons'")
    split = []
    for name, entry in nodes.items():
        inside = entry if isinstance(entry, dict) else {"in_graph": entry}
        if not _is_flag(inside.get("in_graph")):
            raise CircuitError(
                f"its node {name} has {_shown(inside.get('in_graph'))} as 'in_graph'; "
                "give true or false"
            )
        neurons = inside.get("neurons", beside.get(name, []))
        if inside["in_graph"] and not (isinstance(neurons, list) and all(neurons)):
            split.append(name)
    return tuple(split)


# -- the parts of a .pt file -----------------------------------------------------------------------
def _names(value: Any, key: str) -> list[str]:
    if not isinstance(value, (list, tuple, dict)) or not all(isinstance(n, str) for n in value):
        raise CircuitError(f"its {key!r} is {_shown(value)} instead of a list of names")
    return list(value)


def _matrix(data: Mapping[object, object], key: str, wiring: Wiring, *, mask: bool = False) -> Any:
    """The table under the key, in double precision, or as a mask; None where there is none."""
    if key not in data:
        return None
    kinds = _MASKS if mask else _FLOATS
    found = as_numbers(data[key], repr(key), wiring.shape, f"a model with {_size(wiring)}", kinds)
    return np.where(wiring.legal, found != 0 if mask else found, False if mask else 0)


def _split_rows(data: Mapping[object, object], writers: Sequence[str]) -> tuple[str, ...]:
    """The kept writers that keep only some neurons."""
    neurons = data.get("neurons_in_graph")
    if neurons is None:
        return ()
    whose, width = f"a graph of {len(writers)} writers", tuple(getattr(neurons, "shape", ()))[-1:]
    kinds = (*_MASKS, *_FLOATS, *_WHOLE)
    kept = as_numbers(data.get("nodes_in_graph"), "'nodes_in_graph'", (len(writers),), whose, kinds)
    parts = as_numbers(neurons, "'neurons_in_graph'", (len(writers), *width), whose, kinds)
    whole = (parts != 0).all(axis=-1)
    return tuple(name for name, k, w in zip(writers, kept, whole, strict=True) if k and not w)


def as_numbers(
    given: object, what: str, shape: tuple[int, ...], whose: str, kinds: tuple[str, ...]
) -> Float[np.ndarray, "*shape"]:
    """A tensor of that shape as an array in double precision.

    Its kind, shape and storage are looked at before memory is taken: sparse, quantised and meta
    tensors are refused, and views that repeat a few numbers. One that carries a gradient is read.
    """
    value: Any = given
    tensor = hasattr(value, "untyped_storage")
    if not tensor or tuple(value.shape) != shape:
        shown = f"of shape {tuple(value.shape)}" if tensor else _shown(value)
        raise CircuitError(f"its {what} is {shown}, and {whose} needs a tensor of shape {shape}")
    kind, layout = (str(of).removeprefix("torch.") for of in (value.dtype, value.layout))
    if kind not in kinds or layout != "strided" or value.is_quantized or value.is_meta:
        where = " without data" if value.is_meta else ""
        raise CircuitError(
            f"its {what} is a {layout} tensor of {kind}{where}; save a dense one of "
            f"{' or '.join(kinds)}"
        )
    if value.untyped_storage().nbytes() < value.numel() * value.element_size():
        raise CircuitError(f"its {what} repeats a few numbers; save a tensor that holds them all")
    found: np.ndarray = value.detach().resolve_neg().cpu().double().numpy()
    return found
