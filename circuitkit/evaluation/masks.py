"""The masks that are evaluated: a circuit's own, that of its nodes, and random ones of its size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import networkx as nx
import numpy as np
import torch
from torch import Tensor

from circuitkit.engine.inputs import refuse
from circuitkit.engine.model import Model
from circuitkit.errors import CircuitError, ScoresError
from circuitkit.graph import circuit as circuits
from circuitkit.graph.circuit import Circuit
from circuitkit.graph.placed_scores import PlacedScores
from circuitkit.graph.placed_walks import drawn_places
from circuitkit.graph.places import PORTS, AnyMask, PlacedMask
from circuitkit.graph.scores import Scores
from circuitkit.graph.types import Graph, Mask
from circuitkit.graph.walks import drawn_masks
from circuitkit.graph.wiring import Wiring
from circuitkit.util.options import Count, Seed, Size, check, checked

__all__ = [
    "AnyScoresLike",
    "CircuitLike",
    "ScoresLike",
    "as_any_mask",
    "as_any_scores",
    "as_array",
    "as_bool",
    "as_graph",
    "as_mask",
    "as_masks",
    "as_places",
    "as_scores",
    "dense",
    "drawn_nodes",
    "is_one",
    "node_level",
    "nodes_beside",
    "others",
    "random_masks",
    "require_shape",
]


@runtime_checkable
class _Found(Protocol):
    """What holds a circuit, as a Discovery does."""

    @property
    def circuit(self) -> Circuit:
        """The circuit."""


@runtime_checkable
class _Scored(Protocol):
    """What holds scores, as a Discovery does."""

    @property
    def scores(self) -> Scores:
        """The scores."""


@runtime_checkable
class _PlacedScored(Protocol):
    """What holds scores between places, as a PlacedDiscovery does."""

    @property
    def scores(self) -> PlacedScores:
        """The scores."""


CircuitLike: TypeAlias = Graph | np.ndarray | Tensor | PlacedMask | _Found
ScoresLike: TypeAlias = Scores | _Scored
AnyScoresLike: TypeAlias = Scores | PlacedScores | _Scored | _PlacedScored


# -- scores ----------------------------------------------------------------------------------------
def as_scores(scores: ScoresLike, model: Model | None = None) -> Scores:
    """The Scores, or those of a Discovery.

    Raises ArgumentError for what has no scores, and ScoresError where they are another model's.
    """
    found = scores if isinstance(scores, Scores) else getattr(scores, "scores", scores)
    if isinstance(found, PlacedScores):
        raise ScoresError(
            "the scores are of edges between places in the prompt, and this takes scores without "
            "places; give scores.collapse()"
        )
    if not isinstance(found, Scores):
        refuse("scores", scores, "the Scores of a discovery method, or a Discovery")
    if isinstance(model, Model) and found.wiring != model.wiring:
        raise ScoresError(
            f"the scores belong to {_described(found.wiring)}, and the model has "
            f"{_described(model.wiring, '')}; give scores of this model"
        )
    return found


def as_any_scores(scores: AnyScoresLike, model: Model, keep: AnyMask) -> Scores | PlacedScores:
    """The Scores of plain edges, or those between the places of a circuit, for its mask; raises as
    ``as_scores`` does, and ScoresError where the places are others."""
    found: Any = getattr(scores, "scores", scores)
    if not isinstance(keep, PlacedMask):
        return as_scores(found, model)
    if not isinstance(found, PlacedScores) or found.places != keep.places:
        raise ScoresError(
            "the circuit is between places in the prompt, and the scores are not of the edges "
            "between these; give those that it was chosen from, or circuit.collapse()"
        )
    return found


# -- circuits --------------------------------------------------------------------------------------
def is_one(circuit: CircuitLike | Sequence[CircuitLike]) -> bool:
    """Whether this is one circuit, rather than several."""
    return not isinstance(circuit, list | tuple)


def as_masks(circuit: CircuitLike | Sequence[CircuitLike], wiring: Wiring) -> list[AnyMask]:
    """The mask of a circuit, or of each of several, plain or between places; raises as ``as_mask``
    does, and CircuitError where there is none."""
    each: list[Any] = [*circuit] if isinstance(circuit, list | tuple) else [circuit]
    if not each:
        raise CircuitError("there are no circuits; give at least one")
    return [as_any_mask(one, wiring) for one in each]


def as_any_mask(circuit: CircuitLike, wiring: Wiring) -> AnyMask:
    """The mask of a circuit, plain or between places; raises as ``as_mask`` does."""
    if isinstance(circuit, PlacedMask):
        return circuit
    placed = as_places(circuit, wiring)
    return as_mask(circuit, wiring) if placed is None else placed


def others(mask: AnyMask, wiring: Wiring) -> AnyMask:
    """All edges outside a circuit."""
    return mask.others() if isinstance(mask, PlacedMask) else np.asarray(wiring.legal & ~mask)


def as_graph(circuit: CircuitLike) -> Graph | np.ndarray:
    """The graph of a Discovery; a graph or an array as it is, and a tensor as an array. Raises as
    ``as_mask`` does."""
    if isinstance(circuit, Scores):
        raise CircuitError("scores are not a circuit; choose one: scores.top(100)")
    if isinstance(circuit, PlacedMask):
        raise CircuitError(
            "the mask is over edges between places in the prompt, and this takes circuits without "
            "places; give mask.collapse()"
        )
    graph = circuit if isinstance(circuit, nx.DiGraph) else getattr(circuit, "circuit", circuit)
    if isinstance(graph, Tensor):
        return as_array(graph)
    if not isinstance(graph, nx.DiGraph | np.ndarray):
        refuse("circuit", circuit, "a circuit, or a mask over the model's edges")
    return graph


def as_array(tensor: Tensor) -> np.ndarray:
    """The numbers of a tensor, on the CPU; raises as ``dense`` does."""
    own = dense(tensor).detach()
    return own.cpu().double().numpy() if own.is_floating_point() else own.numpy(force=True)


def dense(tensor: Tensor) -> Tensor:
    """The tensor, no longer sparse, as something that a mask can be read from; raises CircuitError
    for one that has no numbers, or has them in another form (meta, quantised)."""
    if tensor.is_meta or tensor.is_quantized or tensor.is_nested:
        kind = "quantised" if tensor.is_quantized else "nested" if tensor.is_nested else "meta"
        raise CircuitError(f"the mask is a {kind} tensor, which holds no mask; give one of bool")
    return tensor if tensor.layout == torch.strided else tensor.to_dense()


def as_mask(circuit: CircuitLike, wiring: Wiring) -> Mask:
    """The mask of a circuit, which may be one already: of bool, or of the numbers 0 and 1.

    A mask is cut to the edges that the model has. Raises ArgumentError for what is not a circuit,
    and CircuitError where it does not fit the wiring, or holds other numbers.
    """
    graph = as_graph(circuit)
    if isinstance(graph, np.ndarray):
        require_shape(graph, wiring)
        return np.asarray(as_bool(graph) & wiring.legal)
    theirs = circuits.wiring_of(graph)
    if theirs != wiring:
        raise CircuitError(
            f"the circuit belongs to {_described(theirs)}, and the model has "
            f"{_described(wiring, '')}; give a circuit of this model"
        )
    found: Mask = circuits.mask(graph)
    return found


def as_places(circuit: object, wiring: Wiring | None) -> PlacedMask | None:
    """The mask of a circuit between places; None for every other circuit. Raises CircuitError where
    it is one of another model than that of the wiring, where there is one."""
    graph = circuit if isinstance(circuit, nx.DiGraph) else getattr(circuit, "circuit", None)
    if graph is None or not circuits.is_placed(graph):
        return None
    found: Graph = graph
    mask = circuits.placed_mask(found)
    if wiring is not None and mask.places.wiring != wiring:
        raise CircuitError(
            f"the circuit belongs to {_described(mask.places.wiring)}, and the model has "
            f"{_described(wiring, '')}; give a circuit of this model"
        )
    return mask


def require_shape(mask: np.ndarray | Tensor, wiring: Wiring) -> None:
    """Raise CircuitError where the mask is not one over the wiring's writers and readers."""
    if tuple(mask.shape) != wiring.shape:
        raise CircuitError(
            f"the mask has the shape {tuple(mask.shape)}, and the model has {wiring.shape[0]} "
            f"writers and {wiring.shape[1]} readers; give a circuit of this model, or a mask of "
            f"shape {wiring.shape}"
        )


def as_bool(mask: np.ndarray) -> Mask:
    """The mask as bool; raises CircuitError where it holds anything but 0 and 1."""
    if mask.dtype == bool:
        return mask
    if mask.dtype.kind not in "iuf" or not np.isin(mask, (0, 1)).all():
        raise CircuitError(
            f"the mask is of {mask.dtype} and holds more than 0 and 1; give a mask of bool (ck.run "
            "and ck.measure take fractions)"
        )
    return mask.astype(bool)


def _described(wiring: Wiring, before: str = "a model of ") -> str:
    """A model by its wiring: ``a model of 4 layers × 8 heads without MLPs (1,281 edges)``."""
    groups = f" in {wiring.groups} groups" if wiring.groups != wiring.heads else ""
    extra = groups + ("" if wiring.mlp else " without MLPs")
    size = f"{wiring.layers} layers × {wiring.heads} heads"
    return f"{before}{size}{extra} ({wiring.n_edges:,} edges)"


def node_level(circuit: CircuitLike, wiring: Model | Wiring | None = None) -> AnyMask:
    """The mask of a circuit's nodes: every edge out of every one of them.

    In its run each other node is ablated as a whole, and not edge by edge. A node belongs to the
    circuit if it writes or reads in it; by a port that heads share, none of them reads alone. The
    wiring, or the model, is needed where the circuit is a mask. Between places a node is a
    component at a span, with all of attention into it.

    Returns a mask of bool [writers, readers], or a PlacedMask of a circuit between places. Raises
    ArgumentError for what is not a circuit, and CircuitError where it does not fit the wiring.

    Source: Miller et al. (2024), who compare ablating nodes with ablating edges.

    Example:
        >>> whole = ck.node_level(circuit)
        >>> int(whole.sum()) > len(circuit.to_frame())
        True
    """
    if isinstance(circuit, PlacedMask):
        return _node_level_at(circuit)
    if (placed := as_places(circuit, None if wiring is None else _wiring_of(wiring))) is not None:
        return _node_level_at(placed)
    wiring = _wiring_of(circuit if wiring is None else wiring)
    keep = as_mask(circuit, wiring) & wiring.legal
    held = keep.any(1)
    for reader, read in zip(wiring.readers, keep.any(0), strict=True):
        if reader.component in wiring.writer:
            held[wiring.writer[reader.component]] |= read
    whole: Mask = wiring.legal & held[:, None]
    return whole


def _node_level_at(keep: PlacedMask) -> PlacedMask:
    """That of a circuit between places: every edge out of every component at its spans."""
    places, wiring = keep.places, keep.places.wiring
    residual, attention = np.asarray(keep.residual) != 0, np.asarray(keep.attention) != 0
    held = residual.any(1)
    for reader, read in zip(wiring.readers, residual.any(0), strict=True):
        if reader.port not in (*PORTS,) and reader.component in wiring.writer:
            held[wiring.writer[reader.component]] |= read
    held[places.heads] |= attention.any((1, 2))
    legal, into = places.legal, held[places.heads]
    return PlacedMask(places, legal.residual & held[:, None], legal.attention & into[:, None, None])


def _wiring_of(given: object) -> Wiring:
    """The wiring of a model, a circuit, scores or a Discovery, or the wiring itself; raises
    ArgumentError where there is none."""
    found = given if isinstance(given, Wiring) else getattr(given, "wiring", None)
    graph = given if isinstance(given, nx.DiGraph) else getattr(given, "circuit", None)
    if isinstance(graph, nx.DiGraph):
        return circuits.wiring_of(graph)
    if not isinstance(found, Wiring):
        refuse("model", given, "a model, its wiring, or a circuit")
    return found


# -- random circuits -------------------------------------------------------------------------------
@checked
def random_masks(
    model: Model | Wiring | CircuitLike, edges: Size | None = None, n: Count = 5, seed: Seed = 0
) -> list[AnyMask]:
    """Random circuits of exactly that many edges, to compare a circuit with.

    Each is connected: every edge lies on a path from the input to the logits. For a circuit they
    have its own number of edges, unless ``edges`` says otherwise; more edges than the model has
    give the whole model. The first argument is a model, its wiring, or a circuit. For a circuit
    between places they are between the same ones, have as many edges of the residual stream and as
    many of attention (fewer where so many do not fit), and begin in the spans in which it begins.

    Returns n masks of bool [writers, readers], or n of PlacedMask. Raises ArgumentError for
    anything else, and for numbers that are not whole or below 1, and CircuitError for a number of
    edges where these are between places.

    Example:
        >>> [int(mask.sum()) for mask in ck.random_masks(model, 100, n=2)]
        [100, 100]
        >>> evaluations = ck.evaluate(model, ck.random_masks(circuit, n=3), data)
        >>> [each.edges for each in evaluations] == [len(circuit.to_frame())] * 3
        True
    """
    keep = model if isinstance(model, PlacedMask) else as_places(model, None)
    if keep is not None:
        if edges is not None:
            raise CircuitError(
                f"edges={edges!r} does not say how many are of the residual stream and how many of "
                "attention; leave it out, and random circuits between places are as large as this "
                "one"
            )
        return [*drawn_places(keep.places, *keep.counts(), n, seed, keep.begins())]
    wiring = _wiring_of(model)
    graph = model if isinstance(model, nx.DiGraph) else getattr(model, "circuit", None)
    if edges is None and isinstance(graph, nx.DiGraph):
        edges = int(circuits.mask(graph).sum())
    check("edges", edges, Size, "random_masks")
    return [*drawn_masks(wiring, int(edges or 0), n, seed)]


def drawn_nodes(wiring: Wiring, nodes: int, n: int, seed: int) -> list[Mask]:
    """n random circuits of so many nodes: all edges between these, the embedding and the logits."""
    return nodes_beside(wiring, [], nodes, n, seed)


def nodes_beside(wiring: Wiring, held: Sequence[int], nodes: int, n: int, seed: int) -> list[Mask]:
    """n circuits of these nodes (by their rows), and so many random ones of the others."""
    rng = np.random.default_rng(seed)
    others = np.setdiff1d(np.arange(1, len(wiring.writers)), held)
    return [wiring.between([*held, *rng.permutation(others)[:nodes]]) for _ in range(n)]
