"""Tracing: the attribution graph of a prompt, row by row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuitkit.engine.devices import moved
from circuitkit.engine.inspection import Inspectable
from circuitkit.engine.memory import foresee, room_of
from circuitkit.engine.numerics import exact, wide
from circuitkit.errors import BudgetError, DataError, ModelError
from circuitkit.features.dictionaries import Dictionary
from circuitkit.features.graphs import AttributionGraph
from circuitkit.features.nodes import GraphNode
from circuitkit.features.pulls import EMBED, Pulled, require_traceable
from circuitkit.features.questions import MOST_LOGITS, Asked, Question, ask, live_gradients
from circuitkit.features.replacing import Replaced
from circuitkit.graph.stages import ATTENTION
from circuitkit.util.bytesize import spell
from circuitkit.util.json_values import Json
from circuitkit.util.options import require
from circuitkit.util.progress import counting

if TYPE_CHECKING:
    from scipy.sparse import csr_array

__all__ = ["NORMS", "trace"]

NORMS = ("frozen", "live")
ROWS = 512  # that are pulled at once, at most
CLOSE = 1e-5  # how near a row's sum has to be to what it reads, of the largest part
LOOSE = {torch.bfloat16: 2e-1, torch.float16: 5e-2, torch.float64: 1e-9}
ENTRY = 12  # bytes of an edge in a sparse matrix

Dictionaries: TypeAlias = Sequence[Dictionary]


# -- rows ------------------------------------------------------------------------------------------
class _Columns:
    """The nodes of a graph in their order, and what rows take from them: tokens, constants, then
    layer by layer features, rest and errors."""

    def __init__(self, replaced: Replaced, question: Question) -> None:
        self.replaced, self.run = replaced, replaced.run
        self.stages = {stage.layer: stage.index for stage in self.run.mlps()}
        self.nodes: list[GraphNode] = []
        self.first: dict[int, int] = {}  # of a layer's features
        for at, (token, piece) in enumerate(
            zip(question.ids.tolist(), question.pieces, strict=True)
        ):
            self.nodes.append(GraphNode("token", position=at, number=token, label=piece))
        for stage in self.run.model.wiring.stages:
            letter = "a" if stage.kind == ATTENTION else "m"
            self.nodes.append(GraphNode("bias", layer=stage.layer, stage=letter))
        self.nodes.append(GraphNode("bias"))
        self.fixed = len(self.nodes)
        for layer in self.stages:
            self._add_layer(layer, len(question.ids))
        self.logits = len(self.nodes)
        self.nodes += question.logits

    def _add_layer(self, layer: int, length: int) -> None:
        self.first[layer] = len(self.nodes)
        group = self.replaced.groups.get(layer)
        if group is not None:
            for at, feature, value in zip(*(own.tolist() for own in group.active), strict=True):
                self.nodes.append(GraphNode("feature", layer, at, feature, value))
        for kind in self._others(layer):
            self.nodes += [GraphNode(kind, layer, at) for at in range(length)]

    def _others(self, layer: int) -> Mapping[str, Tensor]:
        """What else is written there, position by position."""
        rest = self.replaced.rest.get(layer)
        known = {} if rest is None else {"rest": rest}
        return {**known, "error": self.replaced.errors[layer]}

    def take(self, pulled: Pulled) -> Float[Tensor, "n nodes"]:
        """What rows take from each node, given the gradients in all that was written."""
        number = len(next(iter(pulled.values())))
        found = torch.zeros(number, self.logits, dtype=wide(self.run.embed).dtype)
        length = len(self.run.embed)
        found[:, :length] = _along(pulled[EMBED], self.run.embed)
        for index in range(len(self.run.model.wiring.stages)):
            if index in pulled:
                own = _along(pulled[index], self.replaced.constants[index])
                found[:, length + index] = own.sum(1)
        for layer, group in self.replaced.groups.items():
            start = self.first[layer]
            for target, written in group.written.items():
                if self.stages[target] in pulled:
                    steep = pulled[self.stages[target]]
                    own = _by_token(steep, group.active.tokens, written)
                    found[:, start : start + own.shape[1]] += own
        for layer, index in self.stages.items():
            if index not in pulled:
                continue
            group_ = self.replaced.groups.get(layer)
            at = self.first[layer] + (0 if group_ is None else len(group_.active.tokens))
            for written in self._others(layer).values():
                found[:, at : at + length] = _along(pulled[index], written)
                at += length
        return found

    def through(self, pulled: Pulled) -> Float[Tensor, "n layers"]:
        """What of each row goes through the skip of each MLP: a path inside the edges, and so no
        part of the sum. What a skip writes of nothing is among the constants."""
        rows = len(next(iter(pulled.values())))
        found = torch.zeros(rows, len(self.stages), dtype=wide(self.run.embed).dtype)
        for i, (layer, index) in enumerate(self.stages.items()):
            skipped = self.run.skipped(layer)
            if skipped is not None and index in pulled:
                given = skipped - self.run.constants[index]
                found[:, i] = _along(pulled[index], given).sum(1)
        return found


def _along(steep: Float[Tensor, "n p d"], written: Float[Tensor, "p d"]) -> Float[Tensor, "n p"]:
    """What each row takes from what was written at each position."""
    return torch.einsum("npd,pd->np", wide(steep), wide(moved(written, steep.device))).cpu()


def _by_token(
    steep: Float[Tensor, "n p d"], tokens: Int[Tensor, " s"], written: Float[Tensor, "s d"]
) -> Float[Tensor, "n s"]:
    """What each row takes from features, sorted by their tokens."""
    found = torch.zeros(len(steep), len(tokens), dtype=wide(written).dtype)
    counts = torch.bincount(tokens, minlength=steep.shape[1]).tolist()
    start = 0
    for at, number in enumerate(counts):
        if number:
            own = wide(moved(written[start : start + number], steep.device))
            found[:, start : start + number] = (wide(steep[:, at]) @ own.T).cpu()
        start += number
    return found


@dataclass(frozen=True)
class _Targets:
    """Rows that read in one layer (None: the logits): their nodes, positions, directions, what they
    read of nothing, and what they read in the run."""

    layer: int | None
    nodes: Sequence[int]
    positions: Int[Tensor, " n"]
    directions: Float[Tensor, "n d"]
    constants: Float[Tensor, " n"]
    sums: Float[Tensor, " n"]
    behind: bool = True

    def some(self, part: slice) -> _Targets:
        """Some of the rows."""
        return _Targets(
            self.layer, self.nodes[part], self.positions[part], self.directions[part],
            self.constants[part], self.sums[part], self.behind,
        )  # fmt: skip


def _targets(columns: _Columns, question: Question) -> Iterator[_Targets]:
    """All rows: those of the logits, then layer by layer from the last."""
    run, at = columns.run, len(question.ids) - 1
    directions, offsets = run.model.logit_directions(question.rows)
    number = len(directions)
    yield _Targets(
        None, range(columns.logits, columns.logits + number), torch.full((number,), at),
        directions, offsets + directions @ run.bias(None),
        offsets + directions @ run.ending[at],
    )  # fmt: skip
    for layer, group in reversed([*columns.replaced.groups.items()]):
        dictionary, (tokens, features, _) = group.dictionary, group.active
        if not len(tokens):
            continue
        behind = dictionary.reads == "mlp_in"
        rows, bias = dictionary.encoder_rows(features), dictionary.encoder_bias[features]
        read = (run.readings if behind else run.residuals)[layer][tokens]
        start = columns.first[layer]
        constants = bias + rows @ run.bias(layer) if behind else bias
        sums = bias + (rows * read).sum(-1)
        nodes = range(start, start + len(tokens))
        yield _Targets(layer, nodes, tokens, rows, constants, sums, behind)


class _Rows:
    """The rows of a graph, block by block, as what a sparse matrix is made of."""

    def __init__(self, columns: _Columns, share: float) -> None:
        self.columns, self.share = columns, share
        self.to: list[np.ndarray] = []
        self.start: list[np.ndarray] = []
        self.weight: list[np.ndarray] = []
        self.sums = np.zeros(len(columns.nodes))
        self.skips = np.zeros((len(columns.nodes), len(columns.stages)))
        self.error = 0.0

    def block(self, targets: _Targets) -> tuple[Float[Tensor, "n nodes"], Tensor]:
        """What these rows take from each node, and what of it through each skip."""
        run = self.columns.run
        pulled = run.pull(
            targets.layer, targets.positions, targets.directions, behind=targets.behind
        )
        found = self.columns.take(pulled)
        found[:, self.columns.fixed - 1] += wide(targets.constants).cpu()
        return found, self.columns.through(pulled)

    def made(self, targets: _Targets) -> tuple[Float[Tensor, "n nodes"], Tensor]:
        """The same as it is kept; raises ModelError where a row does not add up."""
        whole, skips = self.block(targets)
        if self.columns.run.frozen:
            self._require_sums(whole, exact(targets.sums).cpu())
        return (whole if self.share == 1 else _strongest(whole, self.share)), skips

    def add(self, targets: _Targets) -> None:
        """Add these rows."""
        made, skips = self.made(targets)
        whole = made.numpy()
        self.skips[targets.nodes] = skips.numpy()
        self.sums[targets.nodes] = exact(targets.sums).cpu().numpy()
        rows, columns = whole.nonzero()
        self.to.append(np.asarray(targets.nodes, dtype=np.int32)[rows])
        self.start.append(columns.astype(np.int32))
        self.weight.append(whole[rows, columns])

    def _require_sums(self, whole: Tensor, sums: Tensor) -> None:
        parts = exact(whole)
        size = parts.abs().amax(1).maximum(sums.abs()).clamp(min=1e-12)
        self.error = max(self.error, float(((parts.sum(1) - sums).abs() / size).max()))
        model = self.columns.run.model
        if not self.error <= LOOSE.get(model.dtype, CLOSE):
            raise ModelError(
                f"what a node of {model.name!r} takes does not add up to what it reads (relative "
                f"error {self.error:.1e}); its attribution graph would be wrong, so load the model "
                "in float32, or use another one"
            )

    def matrix(self) -> csr_array:
        """All rows, as a sparse matrix [to, from]."""
        from scipy.sparse import csr_array

        number = len(self.columns.nodes)
        to, start, weight = (np.concatenate(own) for own in (self.to, self.start, self.weight))
        return csr_array((weight.astype(float), (to, start)), shape=(number, number))


def _strongest(whole: Float[Tensor, "n nodes"], share: float) -> Float[Tensor, "n nodes"]:
    """Each row's largest |weights| that hold so large a share of it; the others are 0."""
    size, order = whole.abs().sort(dim=1, descending=True)
    before = size.cumsum(1) - size
    dropped = before >= share * size.sum(1, keepdim=True)
    return whole.masked_fill(dropped.gather(1, order.argsort(1)), 0)


# -- the whole -------------------------------------------------------------------------------------
def trace(
    model: Inspectable,
    prompt: Asked,
    dictionaries: Dictionaries,
    *,
    norms: str = "frozen",
    probability: float = 0.95,
    most_logits: int = MOST_LOGITS,
    features: int | None = None,
    share: float = 1.0,
    memory: int | None = None,
) -> AttributionGraph:
    """The attribution graph of one prompt: how features, errors and tokens add up to its logits.

    MLPs are replaced by ``dictionaries`` (transcoders; an MLP without one is all error), and what
    the attention patterns are and norms divide by is held as it is in the prompt. Then each
    feature's pre-activation is a sum over earlier features, errors, tokens and constants, and these
    are the edges. What is explained is the correct less the wrong answers of a Prompt that has
    answers; of another one the tokens that come next with this ``probability`` together, at most
    ``most_logits``. With ``norms="live"`` edges are slopes through norms that answer, and no longer
    add up.

    ``features``: so many, those with the largest effect by the model's gradient, are nodes of their
    own (default: all that are active). ``share``: of each row the largest edges that hold this
    share of its |weight| (default: all). Rows are made in blocks that fit ``memory``. Raises
    DictionaryError for dictionaries that do not fit, UnsupportedModelError for a model that cannot
    be traced, BudgetError where the graph does not fit the memory, and ModelError where a row does
    not add up. Source: Ameisen et al. 2025; Dunefsky et al. 2024.

    Example:
        >>> prompt = ck.Prompt("When Anna and Paul met, Paul gave a book to", None, (" Anna",))
        >>> found = ck.trace(model, prompt, coders)
        >>> found.target
        "logit of ' Anna' less the mean of all tokens"
        >>> found.about["largest_error"] < 1e-5
        True
    """
    require_traceable(model)
    require("norms", norms, NORMS)
    if not 0 < share <= 1 or (features is not None and features < 1):
        raise DataError(f"share={share!r}, features={features!r}: give a share of 1, a number")
    question, context = ask(model, prompt, probability, most_logits)
    replaced = Replaced.of(model, context, dictionaries, norms)
    gradients = live_gradients(model, context, question)
    if features is not None:
        replaced = replaced.strongest(features, gradients)
    columns = _Columns(replaced, question)
    rows = _Rows(columns, share)
    with torch.no_grad():
        targets = [*_targets(columns, question)]
        _fill(rows, targets, room_of(model, memory))
        live = _live(columns, gradients)
    about = _about(question, replaced, rows) | {
        "norms": norms, "probability": probability, "most_logits": most_logits, "share": share,
        "features": features,
    }  # fmt: skip
    graph = AttributionGraph(
        model.name, question.text, question.pieces, tuple(columns.nodes), rows.matrix(), rows.sums,
        live, question.target, about,
    )  # fmt: skip
    if not replaced.run.skips:
        return graph
    return replace(graph, about={**about, "skips": _skips(graph, rows, gradients)})


def _skips(graph: AttributionGraph, rows: _Rows, gradients: Pulled) -> dict[str, Json]:
    """What the skip of each MLP adds to the target (``total`` and ``live``, as of nodes), and what
    its features do (``live``)."""
    columns, kinds = rows.columns, graph.of_kind("feature")
    layers = np.array([node.layer for node in graph.nodes])
    totals = graph.reached @ rows.skips
    lives = columns.through(gradients)[0].tolist()
    return {
        str(layer): {
            "total": float(totals[i]), "live": lives[i],
            "features": float(graph.live[kinds & (layers == layer)].sum()),
        }
        for i, layer in enumerate(columns.stages)
        if layer in columns.run.skips
    }  # fmt: skip


def _about(question: Question, replaced: Replaced, rows: _Rows) -> dict[str, Json]:
    """What a graph says beside its nodes and edges."""
    return {
        "prompt_ids": question.ids.tolist(),
        "correct": list(question.correct),
        "wrong": list(question.wrong),
        "spans": {name: list(own) for name, own in question.spans.items()},
        "dictionaries": [repr(group.dictionary) for group in replaced.groups.values()],
        "unexplained": {str(layer): own for layer, own in replaced.unexplained.items()},
        "largest_error": rows.error if replaced.run.frozen else None,
    }


def _fill(rows: _Rows, targets: Sequence[_Targets], space: float) -> None:
    """Make all rows, in blocks that fit the space."""
    number = sum(len(own.nodes) for own in targets)
    edges = sum(len(own.nodes) * (own.nodes[0] if len(own.nodes) else 0) for own in targets)
    if rows.share == 1 and 2 * ENTRY * edges > space:
        raise BudgetError(
            f"a graph of {number:,} features has up to {edges:,} edges, which take "
            f"{spell(2 * ENTRY * edges)}, and {spell(max(space, 0))} is available; give features= "
            "(so many nodes) or share= (of each row the largest edges)"
        )
    longest = max(targets, key=lambda own: len(own.nodes))
    need = foresee(lambda n: rows.made(longest.some(slice(0, n))), space, len(longest.nodes))
    size = need.most(space, ROWS, "row")
    with counting(number, "trace", "row") as count:
        for own in targets:
            for start in range(0, len(own.nodes), size):
                part = own.some(slice(start, start + size))
                rows.add(part)
                count(len(part.nodes))


def _live(columns: _Columns, gradients: Pulled) -> Float[np.ndarray, " n"]:
    """What each node adds to the target by the model's own gradient."""
    found = np.zeros(len(columns.nodes))
    found[: columns.logits] = columns.take(gradients)[0].numpy()
    return found
