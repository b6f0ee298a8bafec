"""The attribution graph of one prompt: features, errors, tokens, constants and logits, and how much
each takes from which."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeAlias

import networkx as nx
import numpy as np
from jaxtyping import Bool, Float

from circuitkit.errors import DataError, OutputError
from circuitkit.features.exchange import Parts, read, to_json
from circuitkit.features.nodes import GraphNode
from circuitkit.graph.types import Graph
from circuitkit.util.atomic import write_whole
from circuitkit.util.json_values import Json
from circuitkit.util.tables import to_frame

if TYPE_CHECKING:
    import pandas
    from scipy.sparse import csr_array

    from circuitkit.features.describing import Feature

__all__ = ["AttributionGraph", "cumulative", "influence_of", "normalised"]

COUNTED = ("token", "feature", "error", "logit")
Vector: TypeAlias = Float[np.ndarray, " n"]


@dataclass(frozen=True, eq=False, repr=False)
class AttributionGraph:
    """The attribution graph of one prompt, from ``trace``.

    ``weights[t, s]`` is what the node t (a feature's pre-activation, or a logit) takes from the
    node s, with attention patterns and what norms divide by held as they are in the prompt, through
    no other feature; all that a node takes adds up to ``sums[t]``. ``target`` is what the logits'
    nodes add up to with their ``weight``. Nothing of this says what happens to the model when a
    node is changed: ``validate`` measures that.

    Example:
        >>> {kind: int(graph.of_kind(kind).sum()) for kind in ("token", "error", "logit")}
        {'token': 14, 'error': 56, 'logit': 1}
        >>> 0 < graph.replacement < 1
        True

    Attributes:
        model: The model's name.
        prompt: The text.
        tokens: The text of each token.
        nodes: Tokens, constants, features, errors, then logits; a node feeds only later layers.
        weights: A sparse matrix [to, from].
        sums: A feature's pre-activation, or a logit; 0 for nodes that take nothing.
        live: What each node adds to the target by the gradient in the model itself, with norms and
            attention patterns live.
        target: What is explained, in words.
        about: What else is known: the norms (``frozen`` or ``live``), the dictionaries, the share
            of the variance of each MLP that features do not explain, the largest error of a sum,
            and of each ``skips`` what it adds (``total`` and ``live``, as of nodes) beside the
            ``features`` of its MLP (``live``).
    """

    model: str
    prompt: str
    tokens: tuple[str, ...]
    nodes: tuple[GraphNode, ...]
    weights: csr_array
    sums: Vector
    live: Vector
    target: str
    about: Mapping[str, Json] = field(default_factory=lambda: MappingProxyType({}))

    # -- who is who --------------------------------------------------------------------------------
    def __len__(self) -> int:
        return len(self.nodes)

    @cached_property
    def number(self) -> Mapping[str, int]:
        """The number of each node, by its name."""
        return {node.name: i for i, node in enumerate(self.nodes)}

    def of_kind(self, *kinds: str) -> Bool[np.ndarray, " n"]:
        """Which nodes are of these kinds."""
        return np.array([node.kind in kinds for node in self.nodes], dtype=bool)

    @cached_property
    def shares(self) -> Vector:
        """What each logit counts in the target; 0 for other nodes."""
        return np.array([node.weight for node in self.nodes])

    @property
    def value(self) -> float:
        """The target: what the logits' nodes add up to."""
        return float(self.shares @ self.sums)

    # -- through all paths -------------------------------------------------------------------------
    @cached_property
    def totals(self) -> Vector:
        """What each node adds to the target in all, directly and through features, with the gates
        of features as they are: if its activation were c times as large, the target of the graph
        would change by (c − 1) times this."""
        per_unit = self._per_unit
        backward = self.weights.T.tocsr()
        direct = backward @ self.shares
        found: Vector = direct
        for _ in range(len(self.nodes)):  # it ends after as many steps as a path has features
            new = direct + backward @ (per_unit * found)
            if np.array_equal(new, found):
                break
            found = new
        return found

    @cached_property
    def _per_unit(self) -> Vector:
        """One over each feature's activation; 0 for other nodes."""
        values = np.array([node.value for node in self.nodes])
        is_feature = self.of_kind("feature")
        found: Vector = np.divide(1.0, values, out=np.zeros_like(values), where=is_feature)
        return found

    @property
    def reached(self) -> Vector:
        """By how much the target grows with what each node takes, with the gates of features as
        they are."""
        found: Vector = self.shares + self._per_unit * self.totals
        return found

    @cached_property
    def influence(self) -> Vector:
        """How much of the target's |weight| comes from each node, through all paths (Ameisen et al.
        2025): each node's incoming |weights| are shares of 1, constants left out."""
        found: Vector = influence_of(normalised(self._counted), self._starts)
        return found

    @cached_property
    def _counted(self) -> csr_array:
        """The |weights| without constants."""
        counted = abs(self.weights)
        kept = (~self.of_kind("bias")).astype(counted.dtype)
        found: csr_array = counted.multiply(kept[None, :]).tocsr()
        return found

    @cached_property
    def _starts(self) -> Vector:
        sizes = np.abs(self.shares)
        found: Vector = sizes / sizes.sum() if sizes.any() else sizes
        return found

    @cached_property
    def cumulative(self) -> Vector:
        """For each node, the share of all influence that it and all stronger nodes hold."""
        return cumulative(self.influence)

    @cached_property
    def flows(self) -> csr_array:
        """How much of the target's |weight| goes through each edge, a sparse matrix [to, from]."""
        reached = self.influence + self._starts
        found: csr_array = normalised(self._counted).multiply(reached[:, None]).tocsr()
        return found

    @cached_property
    def replacement(self) -> float:
        """Of the influence of tokens and errors, the share of tokens: how much of the prompt's way
        to the target goes through features alone (Ameisen et al. 2025)."""
        tokens = self.influence[self.of_kind("token")].sum()
        errors = self.influence[self.of_kind("error", "rest")].sum()
        return float(tokens / (tokens + errors)) if tokens + errors else float("nan")

    @cached_property
    def completeness(self) -> float:
        """Of what nodes take, the share that is not error, by the influence of the node that takes
        it (Ameisen et al. 2025)."""
        errors = self.of_kind("error", "rest").astype(float)
        explained = 1 - normalised(self._counted) @ errors
        weight = self.influence + self._starts
        return float(explained @ weight / weight.sum()) if weight.any() else float("nan")

    # -- parts -------------------------------------------------------------------------------------
    def prune(self, nodes: float = 0.8, edges: float = 0.98) -> AttributionGraph:
        """The nodes that hold so large a share of the influence, and then the edges between them
        that do (Ameisen et al. 2025); tokens and logits stay. Constants are left out.

        The rows of what is left no longer add up. Raises DataError for a share that is not from 0
        to 1.

        Example:
            >>> len(graph.prune(nodes=0.5)) < len(graph.prune(nodes=0.9)) < len(graph)
            True
        """
        for name, share in (("nodes", nodes), ("edges", edges)):
            if not 0 <= share <= 1:
                raise DataError(f"{name}={share!r} is not a share; give one from 0 to 1")
        always = self.of_kind("token", "logit")
        kept = (_holding(self.influence, nodes) | always) & ~self.of_kind("bias")
        counted = self._among(self._counted, kept)
        shares = normalised(counted)
        reached = influence_of(shares, self._starts) + self._starts
        scores = shares.multiply(reached[:, None]).tocsr()
        held = scores.copy()
        held.data = _holding(scores.data, edges).astype(float)
        held.eliminate_zeros()
        while True:
            held = self._among(held, kept)
            feeds, fed = held.sum(0) > 0, held.sum(1) > 0
            takes = self.of_kind("feature")
            alive = kept & (always | (feeds & (fed | ~takes)))
            if np.array_equal(alive, kept):
                break
            kept = alive
        return self._part(kept, held, scores)

    def _among(self, matrix: csr_array, kept: Bool[np.ndarray, " n"]) -> csr_array:
        """The matrix without what is not between nodes that are kept."""
        inside = kept.astype(float)
        found = matrix.multiply(inside[None, :]).multiply(inside[:, None]).tocsr()
        found.eliminate_zeros()
        return found

    def _part(
        self, kept: Bool[np.ndarray, " n"], held: csr_array, flows: csr_array
    ) -> AttributionGraph:
        """These nodes, and the edges that are held; what is said of them is that of the whole."""
        places = np.flatnonzero(kept)
        weights, flows = (
            own.multiply(held > 0).tocsr()[places][:, places] for own in (self.weights, flows)
        )
        part = replace(
            self, nodes=tuple(self.nodes[i] for i in places), weights=weights,
            sums=self.sums[places], live=self.live[places],
            about={
                **self.about, "of": len(self.nodes), "of_edges": int(self.weights.nnz),
                "replacement": self.replacement, "completeness": self.completeness,
            },
        )  # fmt: skip
        vars(part).update(
            influence=self.influence[places], totals=self.totals[places], flows=flows,
            cumulative=self.cumulative[places], replacement=self.replacement,
            completeness=self.completeness,
        )  # fmt: skip
        return part

    def edges(self) -> Iterator[tuple[int, int, float, float]]:
        """Each edge: the numbers of the node that takes and of the one that it takes from, the
        weight, and how much of the target's |weight| goes through."""
        entries = self.weights.tocoo()
        to, start = entries.coords
        flows = np.asarray(self.flows[to, start]).ravel() if len(to) else np.zeros(0)
        columns = (to, start, entries.data, flows)
        yield from zip(*(own.tolist() for own in columns), strict=True)

    def labelled(self, labels: Mapping[str, Mapping[str, str]]) -> AttributionGraph:
        """The graph with what is known of features by name (``m3.f417``), at whatever token: their
        ``label``, and the ``supernode`` that groups them in Neuronpedia's view.

        Example:
            >>> named = graph.labelled({"m0.f3": {"label": "a name", "supernode": "names"}})
            >>> {node.label for node in named.nodes if node.name.startswith("m0.f3@")} <= {"a name"}
            True
        """
        nodes, groups = [], dict[str, list[str]]()
        for node in self.nodes:
            own = labels.get(node.name.partition("@")[0]) if node.kind == "feature" else None
            nodes.append(node._replace(label=own.get("label", "")) if own else node)
            if own and own.get("supernode"):
                groups.setdefault(own["supernode"], []).append(node.name)
        found = replace(self, nodes=tuple(nodes), about={**self.about, "supernodes": groups})
        vars(found).update(self.parts().recalled)
        return found

    # -- out ---------------------------------------------------------------------------------------
    def to_networkx(self) -> Graph:
        """The graph with a node for each node, by its name, and an edge for each weight.

        Nodes carry ``kind``, ``layer``, ``position``, ``token``, ``feature`` (or ``token_id``),
        ``value``, ``influence``, ``total``, ``live`` and ``label``, and a ``supernode`` where they
        are of one; edges ``weight`` and ``influence``.

        Example:
            >>> import networkx
            >>> small = graph.prune(nodes=0.5).to_networkx()
            >>> networkx.is_directed_acyclic_graph(small)
            True
        """
        found: Graph = nx.DiGraph()
        found.graph |= {
            **self.about, "model": self.model, "prompt": self.prompt, "tokens": list(self.tokens),
            "target": self.target, "value": self.value, "replacement": self.replacement,
            "completeness": self.completeness,
        }  # fmt: skip
        groups = self.about.get("supernodes") or {}
        group_of = {name: group for group, names in groups.items() for name in names}
        for i, node in enumerate(self.nodes):
            grouped = {"supernode": group_of[node.name]} if node.name in group_of else {}
            found.add_node(node.name, **self._said(i, node), **grouped)
        for to, start, weight, influence in self.edges():
            found.add_edge(
                self.nodes[start].name, self.nodes[to].name, weight=weight, influence=influence
            )
        return found

    def _said(self, i: int, node: GraphNode) -> dict[str, Json]:
        key = "token_id" if node.kind in ("token", "logit") else "feature"
        own: dict[str, Json] = {"kind": node.kind, "label": node.label}
        known = (("layer", node.layer), ("position", node.position), (key, node.number))
        own |= {name: value for name, value in known if value >= 0}
        if node.position >= 0:
            own["token"] = self.tokens[node.position]
        if node.kind == "logit":
            own["share"] = node.weight
        numbers = (("value", node.value), ("influence", self.influence[i]),
                   ("total", self.totals[i]), ("live", self.live[i]))  # fmt: skip
        return own | {name: float(value) for name, value in numbers}

    def to_frame(self) -> pandas.DataFrame:
        """A row for each node: its name, kind, place, activation, influence, and what it adds to
        the target, by the graph (``total``) and by the model's own gradient (``live``)."""
        rows = []
        for i, node in enumerate(self.nodes):
            rows.append({"node": node.name, **self._said(i, node)})
        order = ("node", "kind", "layer", "position", "token", "value", "influence", "total",
                 "live", "label")  # fmt: skip
        return to_frame(rows, order)

    def top(self, n: int = 10, by: str = "total", *kinds: str) -> tuple[GraphNode, ...]:
        """The n nodes with the largest |total|, |live| or influence: features, or of these
        kinds. Raises DataError for another order."""
        orders = {"total": self.totals, "live": self.live, "influence": self.influence}
        if by not in orders:
            raise DataError(f"{by!r} is not an order; give {', '.join(orders)}")
        places = np.flatnonzero(self.of_kind(*(kinds or ("feature",))))
        size = np.abs(orders[by][places])
        return tuple(self.nodes[places[i]] for i in np.argsort(-size, kind="stable")[:n])

    def draw(
        self,
        path: str | os.PathLike[str],
        *,
        edges: int | None = None,
        title: str | None = None,
        notes: Sequence[str] = (),
        features: Sequence[Feature] = (),
    ) -> Path:
        """Write a picture (``svg``, ``png``, ``pdf``) or an interactive page (``html``): tokens
        from left to right, layers upwards, lines as thick as what of the target goes through.

        Prune first. ``edges``: the strongest so many (default: 60, of a page all); ``notes``: lines
        below the picture, such as what ``validate`` found; ``features``: what they are, from
        ``features.describe``, which the page shows where one is chosen. Raises OutputError for
        another suffix, or a graph of more than 600 nodes.
        """
        from circuitkit.viz.traces.files import drawn

        place = Path(path)
        said = [own.to_dict() for own in features]
        content = drawn(self.to_networkx(), place.suffix[1:].lower(), edges, title, notes, said)
        return write_whole(place, content)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the graph as a file, in the format that its suffix names.

        ``.json`` is the format of Neuronpedia and circuit-tracer, from which
        ``AttributionGraph.load`` makes the graph again. ``.graphml``, ``.gexf``, ``.cyjs`` and
        ``.dot`` hold every node and edge with all that ``to_networkx`` says of them (a node's
        ``value`` is called ``activation`` there); ``.csv`` has a line for each edge. Raises
        OutputError for another suffix, or where the file cannot be written.
        """
        from circuitkit.formats.traces.files import WRITERS

        place = Path(path)
        suffix = place.suffix[1:].lower()
        if suffix == "json":
            return write_whole(place, self.to_json(place.stem))
        if suffix not in WRITERS:
            raise OutputError(
                f"an attribution graph is not saved as {suffix!r}; choose "
                f"{', '.join(('json', *WRITERS))}, or draw it"
            )
        return write_whole(place, WRITERS[suffix](self.to_networkx()))

    def to_json(self, slug: str = "graph") -> str:
        """The same as a text; ``slug`` is the name by which other programs call the graph."""
        return to_json(self.parts(), self.edges(), slug)

    def parts(self) -> Parts:
        """What the graph is made of, as files hold it."""
        keys = ("totals", "influence", "cumulative", "replacement", "completeness")
        return Parts(
            self.model, self.prompt, self.tokens, self.nodes, self.weights, self.sums, self.live,
            self.target, dict(self.about), {key: getattr(self, key) for key in keys},
        )  # fmt: skip

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> AttributionGraph:
        """The graph in a file of this format, ours or another program's. Nothing in it is executed;
        raises CircuitError where it does not hold one."""
        parts = read(path)
        found = cls(*parts[:9])
        vars(found).update(parts.recalled)
        return found

    def to_text(self) -> str:
        """How much there is of what."""
        counts = {kind: int(self.of_kind(kind).sum()) for kind in COUNTED}
        said = ", ".join(f"{n:,} {kind}{'s' * (n > 1)}" for kind, n in counts.items() if n)
        return f"{said}, {self.weights.nnz:,} edges"

    def _repr_html_(self) -> str:
        """The strongest part as a page, in a frame of its own."""
        from circuitkit.viz.viewer.traced import framed

        return framed(self.prune().to_networkx())

    def __str__(self) -> str:
        return f"attribution graph of {self.prompt!r}: {self.to_text()}"

    def __repr__(self) -> str:
        lines = [str(self), f"  {self.target} = {self.value:.3f} on {self.model}"]
        lines.append(
            f"  replacement {self.replacement:.3f}, completeness {self.completeness:.3f}, "
            f"norms {self.about.get('norms', 'frozen')}"
        )
        unexplained = self.about.get("unexplained")
        if isinstance(unexplained, Mapping):
            some = {layer: share for layer, share in unexplained.items() if share != 1}
            said = ", ".join(f"m{layer} {share:.3f}" for layer, share in some.items())
            others = len(unexplained) - len(some)
            more = f", and all of {others} MLPs without a dictionary" if others else ""
            lines.append(f"  not explained of what MLPs write in this prompt: {said}{more}")
        return "\n".join([*lines, *self._through_skips()])

    def _through_skips(self) -> list[str]:
        """Of transcoders with a skip, what goes past all features."""
        skips = self.about.get("skips")
        if not isinstance(skips, Mapping):
            return []
        lines = []
        for name, key in (("features", "features"), ("skips", "live")):
            values = {layer: said[key] for layer, said in skips.items()}
            by_layer = ", ".join(f"m{layer} {value:.3f}" for layer, value in values.items())
            lines.append(f"    {name:8} {sum(values.values()):.3f}: {by_layer}")
        return [
            "  what adds to the target by the model's own gradient, where a skip, a path",
            "  inside the edges that no node shows, may do the work of features:", *lines,
        ]  # fmt: skip


# -- numbers ---------------------------------------------------------------------------------------
def normalised(counted: csr_array) -> csr_array:
    """Each row over its sum; rows of zeros stay."""
    total = counted.sum(1)
    scale = np.divide(1.0, total, out=np.zeros_like(total), where=total > 0)
    return counted.multiply(scale[:, None]).tocsr()


def influence_of(shares: csr_array, starts: Vector) -> Vector:
    """What comes from each node along all paths that end at these: w N + w N² + ..., which ends, as
    there are no circles."""
    backward, found = shares.T.tocsr(), np.zeros_like(starts)
    step = starts
    for _ in range(len(starts)):
        step = backward @ step
        if not step.any():
            break
        found = found + step
    return found


def cumulative(values: Vector) -> Vector:
    """For each value, the share of the sum that it and all larger ones hold."""
    order = np.argsort(-values, kind="stable")
    found = np.empty_like(values)
    total = values.sum()
    found[order] = np.cumsum(values[order]) / total if total else 1.0
    return found


def _holding(values: Vector, share: float) -> Bool[np.ndarray, " n"]:
    """The fewest values that hold so large a share of the sum."""
    order = np.argsort(-values, kind="stable")
    held = np.cumsum(values[order])
    kept = np.zeros(len(values), dtype=bool)
    if share > 0 and len(values):
        enough = int(np.searchsorted(held, share * held[-1] * (1 - 1e-12))) + 1
        kept[order[:enough]] = values[order[:enough]] > 0
    return kept
