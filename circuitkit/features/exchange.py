"""Attribution graphs as JSON, in the format that Neuronpedia and circuit-tracer share.

What is written is valid under Neuronpedia's schema, and says more than it asks for, so that our own
graphs come back whole. Two things are done otherwise than in circuit-tracer's files: an error's id
is its own (there ``0_3_5`` may be an error of layer 3 or feature 3 of layer 0), and so is that of
the node that stands for a contrast of two answers.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float

from circuitkit.errors import CircuitError, CircuitkitError
from circuitkit.features.nodes import GraphNode
from circuitkit.util.json_values import Json, nan_to_none
from circuitkit.util.reading import read_json
from circuitkit.util.versions import versions

if TYPE_CHECKING:
    from scipy.sparse import csr_array

__all__ = ["Edge", "Parts", "listing", "node_id", "read", "to_json"]

FORMAT = "circuitkit.attribution_graph"
TYPES = {
    "token": "embedding", "feature": "cross layer transcoder", "error": "mlp reconstruction error",
    "rest": "mlp reconstruction error", "bias": "bias", "logit": "logit",
}  # fmt: skip
ORDER = {kind: i for i, kind in enumerate(("token", "bias", "feature", "rest", "error", "logit"))}
PICKLES = (".pt", ".pth", ".pkl", ".pickle")
SCHEMA_VERSION = 1  # a feature's number is that of the pair (layer, feature)


class Parts(NamedTuple):
    """What an attribution graph is made of; ``recalled`` is what follows from the whole graph, of
    which it may be a part: ``totals``, ``influence``, ``cumulative``, ``replacement`` and
    ``completeness``."""

    model: str
    prompt: str
    tokens: tuple[str, ...]
    nodes: tuple[GraphNode, ...]
    weights: csr_array
    sums: Float[np.ndarray, " n"]
    live: Float[np.ndarray, " n"]
    target: str
    about: dict[str, Json]
    recalled: dict[str, Json]


Edge: TypeAlias = tuple[int, int, float, float]  # to, from, weight, influence


# -- written ---------------------------------------------------------------------------------------
def to_json(graph: Parts, edges: Iterable[Edge], slug: str = "graph") -> str:
    """The graph as a JSON document, under the name by which programs call it."""
    ids = [node_id(node) for node in graph.nodes]
    links = [
        {"source": ids[start], "target": ids[to], "weight": weight, "influence": influence}
        for to, start, weight, influence in edges
    ]
    nodes = [_node(graph, i, ids[i]) for i in range(len(graph.nodes))]
    query = {"pinnedIds": [], "supernodes": _supernodes(graph, ids), "linkType": "both",
             "clickedId": "", "sg_pos": ""}  # fmt: skip
    whole = {"metadata": _metadata(graph, slug), "qParams": query, "nodes": nodes, "links": links}
    return json.dumps(nan_to_none(whole), ensure_ascii=False, allow_nan=False) + "\n"


def listing(graph: Parts, slug: str = "graph") -> str:
    """What circuit-tracer's local server reads beside the graphs: ``graph-metadata.json``."""
    return json.dumps({"graphs": [nan_to_none(_metadata(graph, slug))]}, indent=1) + "\n"


def _metadata(graph: Parts, slug: str) -> dict[str, Json]:
    about = dict(graph.about)
    return {
        "slug": slug,
        "scan": graph.model,
        "prompt_tokens": list(graph.tokens),
        "prompt": graph.prompt,
        "schema_version": SCHEMA_VERSION,
        "transcoder_list": list(about.get("dictionaries") or []),
        "info": {"generator": {"name": "circuitkit", "version": versions()["circuitkit-graph"]}},
        "replacement_score": graph.recalled["replacement"],
        "completeness_score": graph.recalled["completeness"],
        "circuitkit": {"format": FORMAT, "target": graph.target, "about": about},
    }


def _supernodes(graph: Parts, ids: Sequence[str]) -> list[list[str]]:
    """The groups of nodes that a program shows as one: a label, then ids."""
    by_name = {node.name: own for node, own in zip(graph.nodes, ids, strict=True)}
    groups = graph.about.get("supernodes") or {}
    found = [
        [label, *(by_name[n] for n in names if n in by_name)] for label, names in groups.items()
    ]
    return [group for group in found if len(group) > 1]


def node_id(node: GraphNode) -> str:
    """The id of a node: of features, tokens and logits as circuit-tracer writes it."""
    if node.kind == "feature":
        return f"{node.layer}_{node.number}_{node.position}"
    if node.kind in ("error", "rest"):
        return f"{node.layer}_{node.kind}_{node.position}"
    if node.kind == "token":
        return f"E_{node.number}_{node.position}"
    if node.kind == "bias":
        return f"bias_{node.stage}{node.layer}" if node.stage else "bias"
    number = "contrast" if node.number < 0 else node.number
    return f"{node.layer + 1}_{number}_{node.position}"


def _pair(layer: int, feature: int) -> int:
    """The number of a pair (Cantor)."""
    return (layer + feature) * (layer + feature + 1) // 2 + feature


def _node(graph: Parts, i: int, own_id: str) -> dict[str, Json]:
    node, last = graph.nodes[i], len(graph.tokens) - 1
    number, layer, script = node.number, str(node.layer), f"{node.layer}_{node.number}-0"
    if node.kind == "feature":
        number = _pair(node.layer, node.number)
    elif node.kind == "token":
        number, layer, script = node.position, "E", f"E_{node.number}-{node.position}"
    elif node.kind == "logit":
        layer, script = str(node.layer + 1), f"L_{node.number}-{node.position}"
    elif node.kind in ("error", "rest"):
        script = f"{node.layer}_{node.kind}-0"
    at = max(node.position, 0)
    return {
        "node_id": own_id, "feature": number, "layer": layer, "ctx_idx": at,
        "feature_type": TYPES[node.kind], "jsNodeId": script, "clerp": _clerp(node),
        "token_prob": node.weight if node.kind == "logit" else 0.0,
        "is_target_logit": node.kind == "logit", "run_idx": 0, "reverse_ctx_idx": last - at,
        "influence": float(graph.recalled["cumulative"][i]) if node.kind != "logit" else None,
        "activation": node.value if node.kind == "feature" else None,
        "circuitkit": {
            "kind": node.kind, "layer": node.layer, "position": node.position,
            "number": node.number, "label": node.label, "stage": node.stage,
            "weight": node.weight, "sum": float(graph.sums[i]), "live": float(graph.live[i]),
            "total": float(graph.recalled["totals"][i]),
            "influence": float(graph.recalled["influence"][i]),
        },
    }  # fmt: skip


def _clerp(node: GraphNode) -> str:
    """What programs show; a logit's without its probability stops both of them."""
    if node.kind == "logit":
        return f'Output "{node.label}" (p={node.weight:.3f})'
    if node.kind == "token":
        return f'Emb: "{node.label}"'
    if node.kind == "feature":
        return node.label
    return node.name.partition("@")[0]


# -- read ------------------------------------------------------------------------------------------
def read(path: str | os.PathLike[str]) -> Parts:
    """The graph in a JSON file of this format, whoever wrote it.

    Of one that another program has written, errors and labels come from ``feature_type`` and
    ``clerp``, and nothing is known of the model's gradient. Raises CircuitError for other files,
    and for pickles, which run code when they are opened.
    """
    name = repr(os.fspath(path))
    if Path(path).suffix.lower() in PICKLES:
        raise CircuitError(
            f"{name} is a pickle, which runs code when it is opened; write the graph as JSON "
            "(circuit_tracer.utils.create_graph_files)"
        )
    try:
        found = read_json(path)
    except FileNotFoundError as error:
        raise CircuitError(f"there is no file {name}") from error
    except CircuitkitError as error:
        raise CircuitError(f"{name} is not an attribution graph: {error}") from error
    try:
        return _graph(found)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        raise CircuitError(
            f"{name} is not an attribution graph of Neuronpedia's format "
            f"({type(error).__name__}: {str(error)[:100]}); give one with metadata, nodes and links"
        ) from error


def _graph(found: Mapping[str, Json]) -> Parts:
    from scipy.sparse import csr_array

    about, given = found["metadata"], list(found["nodes"])
    tokens = tuple(str(token) for token in about["prompt_tokens"])
    known = sorted(((_read_node(own), own) for own in given), key=lambda pair: _place(pair[0]))
    nodes = tuple(node for node, _ in known)
    number = {str(own["node_id"]): i for i, (_, own) in enumerate(known)}
    if len(number) < len(nodes) or len({node.name for node in nodes}) < len(nodes):
        raise ValueError("two nodes have the same id")
    links = [
        (number[str(own["target"])], number[str(own["source"])], _finite(own["weight"]))
        for own in found["links"]
    ]
    to, start, weight = (np.array(own) for own in zip(*links, strict=True)) if links else (
        np.zeros(0, int), np.zeros(0, int), np.zeros(0)
    )  # fmt: skip
    if (to <= start).any():
        raise ValueError("a link leads back to an earlier node")
    matrix = csr_array((weight, (to, start)), shape=(len(nodes), len(nodes)))
    own_about = about.get("circuitkit") or {}
    sums = np.array([_known(own, "sum", float("nan")) for _, own in known])
    sums = np.where(np.isnan(sums), matrix.sum(1), sums)
    return Parts(
        str(about["scan"]), str(about["prompt"]), tokens, nodes, matrix, sums,
        np.array([_known(own, "live", float("nan")) for _, own in known]),
        str(own_about.get("target", "the logits")), dict(own_about.get("about") or {}),
        _recalled(known, about),
    )  # fmt: skip


def _recalled(
    known: Sequence[tuple[GraphNode, Json]], about: Mapping[str, Json]
) -> dict[str, Json]:
    """What a file says of the whole graph, of which it may be a part."""
    found: dict[str, Json] = {}
    for key, name in (("total", "totals"), ("influence", "influence")):
        values = np.array([_known(own, key, float("nan")) for _, own in known])
        if not np.isnan(values).any():
            found[name] = values
    shares = [own.get("influence") for _, own in known]
    if "influence" in found:
        found["cumulative"] = np.array([1.0 if x is None else _finite(x) for x in shares])
    for key in ("replacement", "completeness"):
        if isinstance(about.get(f"{key}_score"), float):
            found[key] = about[f"{key}_score"]
    return found


def _known(own: Mapping[str, Json], key: str, default: float) -> float:
    """A number that our own files say of a node."""
    value = (own.get("circuitkit") or {}).get(key)
    return default if value is None else _finite(value)


def _finite(value: Json) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is not a number")
    return float(value)


def _place(node: GraphNode) -> tuple[float, int, int, int]:
    """Where a node is among all: what feeds others first."""
    layer = -1.0 if node.kind in ("token", "bias") else float(node.layer)
    return layer, ORDER[node.kind], node.position, node.number


def _read_node(own: Mapping[str, Json]) -> GraphNode:
    """A node of any program's file."""
    ours = own.get("circuitkit")
    if ours:
        numbers = {key: int(ours[key]) for key in ("layer", "position", "number")}
        if ours["kind"] not in ORDER:
            raise ValueError(f"a node of the kind {ours['kind']!r}")
        return GraphNode(
            str(ours["kind"]), value=_finite(own.get("activation") or 0.0),
            weight=_finite(ours["weight"]), label=str(ours["label"]), stage=str(ours["stage"]),
            **numbers,
        )  # fmt: skip
    kind, position = str(own["feature_type"]), int(own["ctx_idx"])
    label, parts = str(own.get("clerp") or ""), str(own["node_id"]).split("_")
    if kind == "embedding":
        return GraphNode("token", position=position, number=int(parts[1]), label=_quoted(label))
    layer = int(own["layer"])
    if kind == "logit":
        chance = _finite(own.get("token_prob") or 0.0)
        return GraphNode("logit", layer - 1, position, int(parts[1]), 0.0, chance, _quoted(label))
    if "error" in kind:
        return GraphNode("error", layer, position)
    value = _finite(own.get("activation") or 0.0)
    return GraphNode("feature", layer, position, int(parts[1]), value, label=label)


def _quoted(label: str) -> str:
    """What stands in quotes in a label: a token."""
    parts = label.split('"')
    return '"'.join(parts[1:-1]) if len(parts) > 2 else label
