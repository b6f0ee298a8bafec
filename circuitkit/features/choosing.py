"""Which features (or neurons) of MLPs matter for a task, to first order.

What a feature f writes is a_f · d_f. With G the metric's gradient in what its MLP writes, in the
clean run,

    score(f) = Σ_tokens (a_f(clean) − a_f(carried)) · (d_f · G)

is by how much the metric falls where the feature carries what it does in the carried run: in the
units of edges' scores, summed over the feature's out-edges.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from circuitkit.data.batches import Batch
from circuitkit.engine.inputs import Inputs
from circuitkit.engine.inspection import Inspectable
from circuitkit.engine.metric import Metric
from circuitkit.engine.numerics import wide
from circuitkit.engine.record import answer, record
from circuitkit.features.dictionaries import Dictionary
from circuitkit.features.pulls import linked, require_traceable, written
from circuitkit.features.splitting import transcoder, written_per_unit
from circuitkit.graph.stages import MLP

__all__ = ["Basis", "feature_bases", "neuron_bases", "scored", "strongest"]

Scored: TypeAlias = dict[int, Float[Tensor, " f"]]  # by layer


class Basis(NamedTuple):
    """What an MLP's output is written in: the activation of each part where the MLP reads this
    residual, and what each writes per unit."""

    activations: Callable[[Float[Tensor, "b p d"]], Float[Tensor, "b p f"]]
    rows: Float[Tensor, "f d"]


def feature_bases(model: Inspectable, dictionaries: Sequence[Dictionary]) -> dict[int, Basis]:
    """The features of transcoders; raises DictionaryError where one does not fit the model."""

    def of(own: Dictionary) -> Basis:
        def activations(x: Tensor) -> Tensor:
            return own.encode(model.mlp_in(own.layer, x) if own.reads == "mlp_in" else x)

        return Basis(activations, own.decoder)

    fitting = [transcoder(one, model) for one in dictionaries]
    return {own.layer: of(own) for own in fitting}


def neuron_bases(model: Inspectable, layers: Sequence[int]) -> dict[int, Basis]:
    """The neurons of the MLPs of these layers; raises UnsupportedModelError where what they write
    does not add up."""
    return {i: Basis(partial(model.neurons, i), written_per_unit(model, i)) for i in layers}


def scored(inputs: Inputs, bases: Mapping[int, Basis]) -> Scored:
    """The score of each part of each MLP, in metric units per example, positive where it helps the
    clean behaviour. What is carried is taken where the carried run reads, which is not exact under
    ``mean``, ``zero`` and ``optimal``: these carry what no MLP computed."""
    model, data, metric, corruption = inputs
    own = require_traceable(model)
    carry = corruption(model, data)
    sums = {i: wide(torch.zeros(len(basis.rows))) for i, basis in bases.items()}
    for batch in data:
        with torch.no_grad():
            clean = record(model, model.start(batch.clean, batch.mask))
            draws = carry(batch)
        reference = answer(model, batch, clean.final).detach()
        steep = _gradients(own, batch, _value(metric, reference, batch), bases)
        numbers = {stage.layer: stage.index for stage in model.wiring.stages if stage.kind == MLP}
        with torch.no_grad():
            for layer, basis in bases.items():
                at = numbers[layer]
                live = basis.activations(clean.reads[at])
                per_unit = wide(steep[layer]) @ wide(basis.rows).T * batch.mask[..., None]
                for carried in draws:
                    change = wide(live - basis.activations(carried.reads[at]))
                    sums[layer] += (change * per_unit).sum((0, 1)).cpu() / len(draws)
    return {layer: total / len(data) for layer, total in sums.items()}


def _value(metric: Metric, reference: Tensor, batch: Batch) -> Callable[[Tensor], Tensor]:
    return lambda logits: metric(logits, reference, batch)


def _gradients(
    model: Inspectable, batch: Batch, value: Callable[[Tensor], Tensor], layers: Mapping[int, Basis]
) -> dict[int, Float[Tensor, "b p d"]]:
    """The gradient of the metric's sum in what the MLP of each layer writes in the clean run."""
    stages = [s for s in model.wiring.stages if s.kind == MLP and s.layer in layers]
    with torch.enable_grad():
        context = model.start(batch.clean, batch.mask)
        sources, final = linked(model, context, partial(written, model, context))
        total = value(answer(model, batch, final)).sum()
        found = torch.autograd.grad(total, [sources[stage.index] for stage in stages])
    return {stage.layer: own for stage, own in zip(stages, found, strict=True)}


def strongest(scores: Scored, n: int) -> dict[int, tuple[int, ...]]:
    """The n parts with the largest |score| over all layers, by layer, in the order of their
    numbers; of layers without any, none."""
    whole = torch.cat([own.abs() for own in scores.values()])
    kept = torch.zeros(len(whole), dtype=torch.bool)
    kept[whole.argsort(descending=True, stable=True)[:n]] = True
    parts = torch.split(kept, [len(own) for own in scores.values()])
    return {
        layer: tuple(part.nonzero().flatten().tolist())
        for layer, part in zip(scores, parts, strict=True)
    }
