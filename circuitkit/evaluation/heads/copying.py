"""What heads copy and match: by the tokens that they write, and by the eigenvalues of their
weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuitkit.data.batches import Batch
from circuitkit.engine.devices import device_of, moved
from circuitkit.engine.inspection import Inspectable
from circuitkit.engine.model import Activations
from circuitkit.engine.numerics import exact, wide
from circuitkit.errors import UnsupportedModelError
from circuitkit.evaluation.heads.choice import group_of
from circuitkit.graph.nodes import Node

__all__ = ["Weights", "answer_tokens", "copied"]

BEST = 5  # of the tokens that a head would write, those that count (Wang et al. 2023)
ROWS = 256  # of logits that exist at once
TOKENS = 4096  # that are embedded at once


# -- by tokens -------------------------------------------------------------------------------------
def answer_tokens(batch: Batch) -> Bool[Tensor, "b p"]:
    """Which tokens of the prompts are answers, correct or wrong ones."""
    answers = torch.cat([batch.correct, batch.wrong], dim=1)
    same = batch.clean[..., None] == answers[:, None]
    return same.any(-1) & batch.mask


def copied(
    model: Inspectable,
    batch: Batch,
    run: Activations,
    heads: Sequence[Node],
    marks: Bool[Tensor, "b p"],
) -> Float[Tensor, "sign heads n"]:
    """Whether each head, looking at one of the marked tokens alone, would write that token: whether
    it is among the five best tokens of what the head writes; and then, of its negative.

    The head reads what is there after the first layer (in the first layer: the embedding).
    """
    tokens, found = batch.clean[marks], {}
    for layer in {head.layer or 0 for head in heads}:
        stage = model.wiring.attention(min(layer, 1))
        read = moved(run.reads[stage.index], marks.device)[marks]
        read = moved(read, device_of(model, model.wiring.attention(layer)))
        values = model.project(layer, read[None])[2][0]
        for head in (head for head in heads if head.layer == layer):
            group = group_of(model.wiring, head)
            wrote = model.write(layer, [head.head or 0], values[:, [group]])[0]
            wrote = moved(wrote, tokens.device)
            found[head] = torch.stack([_best(model, sign * wrote, tokens) for sign in (1, -1)])
    return torch.stack([found[head] for head in heads], dim=1)


def _best(
    model: Inspectable, x: Float[Tensor, "n d"], tokens: Int[Tensor, " n"]
) -> Float[Tensor, " n"]:
    """Whether these residuals have each token among their best."""
    hits = [
        (logits > logits.gather(1, own[:, None])).sum(1) < BEST
        for some, own in zip(torch.split(x, ROWS), torch.split(tokens, ROWS), strict=True)
        for logits in [model.unembed(some)]
    ]
    return exact(torch.cat(hits) if hits else x.new_zeros(0))


# -- by weights ------------------------------------------------------------------------------------
class Weights:
    """The circuits of heads from tokens to tokens, as weights: their eigenvalues.

    The embedding is the tokens' own, the norms' weights and centring are in it and their scales are
    not; biases and rotary angles are left out. All tokens meet in two small matrices, made once:
    the eigenvalues other than 0 of a matrix [vocab, vocab] of this rank are those of a matrix
    [d_head, d_head].
    """

    def __init__(self, model: Inspectable) -> None:
        self.model = model
        self.squared, self.read_off = self._tokens()

    def _tokens(self) -> tuple[Float[Tensor, "d d"], Float[Tensor, "d d"]]:
        """Eᵀ E, and Eᵀ Uᵀ: E the embedding, and U the unembedding [d, vocab] with its mean over
        tokens taken off, since that moves no probability."""
        ids = torch.arange(self.model.d_vocab)[:, None]
        rows = [self.model.embed_tokens(some)[:, 0] for some in torch.split(ids, TOKENS)]
        embedding = torch.cat(rows)
        columns = torch.split((embedding - embedding.mean(0)).T, ROWS)
        read_off = torch.cat([self.model.logit_directions(some)[0] for some in columns])
        return wide(embedding.T) @ wide(embedding), wide(read_off)

    def copying(self, head: Node) -> float:
        """Σ λ / Σ |λ| of the OV circuit, from −1 to 1: 1 where what the head looks at is what it
        raises."""
        model, layer = self.model, head.layer or 0
        weights, _ = model.projection(layer, "v")
        value = weights[group_of(model.wiring, head)]
        units = torch.eye(model.d_head, dtype=value.dtype, device=value.device)[:, None]
        wrote = moved(model.write(layer, [head.head or 0], units)[0], self.squared.device)
        out = model.norm(None, None).of(wrote)
        read = moved(model.norm(layer, None).pull(value.T), self.squared.device)
        return _positive(wide(out) @ self.read_off.T @ wide(read).T)

    def matching(self, head: Node) -> float:
        """Σ λ / Σ |λ| of the QK circuit, from −1 to 1: 1 where a token is looked at from itself;
        nan where the norms over queries and keys are not the same for all heads."""
        model, layer = self.model, head.layer or 0
        try:
            norm, over = model.norm(layer, None), model.port_norms(layer, None, None)
        except UnsupportedModelError:
            return float("nan")
        sides = []
        for port, own, frozen in zip("qk", (head.head or 0, group_of(model.wiring, head)), over,
                                     strict=True):  # fmt: skip
            weights, _ = model.projection(layer, port)
            normed = frozen.of(weights.transpose(0, 1))  # [d, n, e]
            sides.append(moved(wide(norm.pull(normed[:, own].T)), self.squared.device))
        query, key = sides
        return _positive(key @ self.squared @ query.T)


def _positive(matrix: Float[Tensor, "e e"]) -> float:
    """The sum of the eigenvalues over the sum of their sizes; nan where all are 0."""
    values = torch.linalg.eigvals(exact(matrix).cpu())
    sizes = values.abs().sum()
    return float(values.sum().real / sizes) if sizes > 0 else float("nan")
