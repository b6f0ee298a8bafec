"""Circuits from discrete codes of what is written: no gradient, no patching, and no metric."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuitkit.data.batches import Batch
from circuitkit.discovery._written import blocks, written
from circuitkit.engine.inputs import CorruptionLike, Data, Inputs, MetricLike, prepare
from circuitkit.engine.model import Activations, Model
from circuitkit.engine.record import record
from circuitkit.graph.scores import Scores
from circuitkit.graph.wiring import Wiring
from circuitkit.util.options import Count, Seed, checked
from circuitkit.util.progress import track

__all__ = ["discrete_codes"]

STEPS, RATE = 60, 3e-2
PENALTY = 0.1  # of the sum of activations, where what is written has a mean square of 1


@checked
def discrete_codes(
    model: Model,
    data: Data,
    metric: MetricLike | None = None,
    corruption: CorruptionLike | None = None,
    *,
    features: Count = 64,
    against: Literal["pair", "all"] = "pair",
    level: Literal["edge", "node"] = "edge",
    seed: Seed = 0,
) -> Scores:
    """How often the codes of an edge's two ends are codes of the clean prompts alone.

    What each head and MLP writes, in the mean over a prompt's tokens, is centred and scaled writer
    by writer over the clean and the carried runs, and one small sparse autoencoder (tied, ReLU) is
    trained on all of it. The code of an output is its most active feature. A node scores the share
    of prompts whose code the carried runs do not have, and an edge the share in which that is so at
    both of its ends. The embedding and the logits have no code and take the other end's score;
    between the two it is 0. ``against="all"`` asks that no carried run has the code, as published:
    it needs corrupted prompts that lack the task, such as ``ioi(corrupt='names')``. Where they are
    the clean ones with their answers exchanged, both have the same codes, and ``against="pair"``
    compares each prompt with its own carried run.

    Costs two forwards a prompt and the training, about a second. The metric is not used: a score
    says that something differs there, and not that it matters.

    Returns Scores [writers, readers], shares between 0 and 1, with many ties; at ``level="node"``
    of nodes. Raises ArgumentError for an argument in the wrong place.

    Source: O'Neill & Bui (2024, arXiv:2405.12522), of heads alone; the pairs, the mean over tokens
    and MLPs are ours.

    Example:
        >>> found = ck.discovery.discrete_codes(model, data, seed=1)
        >>> bool(0 <= found.values.min() and found.values.max() <= 1)
        True
    """
    inputs = prepare(model, data, metric, corruption)
    clean, carried = _outputs(inputs)
    codes = _codes(torch.cat([clean[None], carried]), features, seed)
    own = _unique(codes[0], codes[1:], against == "all")
    settings = {"features": features, "against": against, "seed": seed}
    about = {key: value for key, value in inputs.metadata().items() if key != "metric"}
    about |= {"method": "discrete_codes", "settings": settings}
    if level == "node":
        return Scores.of_nodes(model.wiring, own.mean(0), about)
    return Scores(model.wiring, _together(model.wiring, own), about)


@torch.no_grad()
def _outputs(inputs: Inputs) -> tuple[Float[Tensor, "n w d"], Float[Tensor, "draws n w d"]]:
    """What each writer writes in the clean runs, and in what cut edges carry."""
    model, data = inputs.model, inputs.data
    carry = inputs.corruption(model, data)
    clean, carried = [], []
    for batch in track(data, "discrete_codes"):
        live = record(model, model.start(batch.clean, batch.mask)).written()
        clean.append(_means(model, batch, live))
        carried.append(torch.stack([_means(model, batch, run) for run in carry(batch)]))
    return torch.cat(clean), torch.cat(carried, 1)


def _means(model: Model, batch: Batch, run: Activations) -> Float[Tensor, "n w d"]:
    """What each writer writes, in the mean over an example's tokens; on the processor."""
    shape = batch.examples, len(model.wiring.writers), model.d_model
    sums, counts = torch.zeros(shape), torch.zeros(shape[0])
    for block, row in blocks(model, batch):
        example = batch.owner[row].cpu()
        sums.index_add_(0, example, written(model, run, block).transpose(0, 1).float().cpu())
        counts.index_add_(0, example, torch.ones(len(example)))
    return sums / counts[:, None, None]


def _codes(x: Float[Tensor, "runs n w d"], features: int, seed: int) -> Int[np.ndarray, "r n w"]:
    """The most active feature of each output, by an autoencoder that is trained on all of them."""
    x = x - x.mean((0, 1))
    size = x.square().sum(-1).mean((0, 1)).sqrt()
    rows = (x / torch.where(size > 0, size, 1)[:, None]).flatten(0, 2)
    start = torch.randn(features, x.shape[-1], generator=torch.Generator().manual_seed(seed))
    weights = torch.nn.functional.normalize(start, dim=1).requires_grad_()
    bias = torch.zeros(features, requires_grad=True)
    optimiser = torch.optim.Adam([weights, bias], RATE)
    for _ in range(STEPS):
        active = torch.relu(rows @ weights.T + bias)
        left = (rows - active @ weights).square().sum(-1)
        loss = (left + PENALTY * active.sum(-1)).mean()
        weights.grad, bias.grad = torch.autograd.grad(loss, [weights, bias])
        optimiser.step()
    with torch.no_grad():
        best = torch.relu(rows @ weights.T + bias).argmax(-1)
    return np.asarray(best.view(x.shape[:-1]))


def _unique(
    clean: Int[np.ndarray, "n w"], carried: Int[np.ndarray, "draws n w"], all_runs: bool
) -> Float[np.ndarray, "n w"]:
    """In which share of its draws a prompt's code is not a carried run's: not its own, or none's.
    The embedding has no code."""
    if all_runs:
        seen = carried.reshape(-1, carried.shape[-1])
        own = np.stack([~np.isin(clean[:, w], seen[:, w]) for w in range(clean.shape[1])], 1)
        found: Float[np.ndarray, "n w"] = own.astype(float)
    else:
        found = (clean != carried).mean(0)
    found[:, 0] = 0
    return found


def _together(wiring: Wiring, own: Float[np.ndarray, "n w"]) -> Float[np.ndarray, "w r"]:
    """In which share of prompts both ends of each edge have a code of the clean prompts alone. A
    port that heads share counts with the strongest of them."""
    ends = own.copy()
    ends[:, 0] = 1  # the other end's own score
    fed = np.stack([
        own[:, [wiring.writer[node] for node in wiring.fed(reader)]].max(1, initial=0)
        for reader in wiring.readers
    ], 1)  # fmt: skip
    fed[:, -1] = 1
    table = ends.T @ fed / len(own)
    table[0, -1] = 0
    return np.where(wiring.legal, table, 0).astype(np.float32)
