"""Which features (or neurons) matter for a task, to first order.

What a feature f writes is a_f · d_f. With G the metric's gradient where it writes (in what its MLP
or the heads of its layer write, or in the residual stream), in the clean run,

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
from circuitkit.engine.model import Activations
from circuitkit.engine.numerics import wide
from circuitkit.engine.record import answer, record
from circuitkit.features.blocks import written_per_unit
from circuitkit.features.dictionaries import Dictionary
from circuitkit.features.pulls import linked, require_whole, written
from circuitkit.features.sites import site_values
from circuitkit.features.splitting import apart
from circuitkit.graph.stages import ATTENTION, MLP
from circuitkit.graph.wiring import Wiring

__all__ = ["Basis", "feature_bases", "neuron_bases", "scored", "strongest"]

Scored: TypeAlias = dict[str, Float[Tensor, " f"]]  # by what is taken apart: m3, a3, r3


class Basis(NamedTuple):
    """What is written at one place is written in: the activation of each part in a run, what each
    writes per unit, and the number of the stage behind which it writes (``EMBED`` before the
    first)."""

    activations: Callable[[Activations], Float[Tensor, "b p f"]]
    rows: Float[Tensor, "f d"]
    behind: int


def feature_bases(model: Inspectable, dictionaries: Sequence[Dictionary]) -> dict[str, Basis]:
    """The features of dictionaries, by what they take apart; raises DictionaryError where one does
    not fit the model."""

    def of(one: Dictionary, site: str) -> Basis:
        def activations(run: Activations) -> Tensor:
            return one.encode(site_values(model, run, one.layer, one.reads))

        return Basis(activations, one.decoder, _behind(model.wiring, one.layer, site))

    fitting = [apart(one, model) for one in dictionaries]
    return {one.prefix: of(one, site) for one, site in fitting}


def neuron_bases(model: Inspectable, layers: Sequence[int]) -> dict[str, Basis]:
    """The neurons of the MLPs of these layers; raises UnsupportedModelError where what they write
    does not add up."""

    def of(layer: int) -> Basis:
        behind = _behind(model.wiring, layer, "mlp")

        def activations(run: Activations) -> Tensor:
            return model.neurons(layer, run.reads[behind])

        return Basis(activations, written_per_unit(model, layer), behind)

    return {f"m{layer}": of(layer) for layer in layers}


def _behind(wiring: Wiring, layer: int, site: str) -> int:
    """The number of the stage behind which something at a site is written."""
    number = {(stage.layer, stage.kind): stage.index for stage in wiring.stages}
    if site in ("mlp", "mlp_out"):
        return number[layer, MLP]
    if site == "resid_post":
        return max(stage.index for stage in wiring.stages if stage.layer == layer)
    before = number[layer, ATTENTION] - 1  # the last stage of the layer before, or EMBED
    return before if site == "resid_pre" else before + 1


def scored(inputs: Inputs, bases: Mapping[str, Basis]) -> Scored:
    """The score of each part, in metric units per example, positive where it helps the clean
    behaviour. What is carried is taken where the carried run reads, which is not exact under
    ``mean``, ``zero`` and ``optimal``: these carry what no component computed."""
    model, data, metric, corruption = inputs
    own = require_whole(model)
    carry = corruption(model, data)
    sums = {name: wide(torch.zeros(len(basis.rows))) for name, basis in bases.items()}
    for batch in data:
        with torch.no_grad():
            clean = record(model, model.start(batch.clean, batch.mask))
            draws = carry(batch)
        reference = answer(model, batch, clean.final).detach()
        steep = _gradients(own, batch, _value(metric, reference, batch), bases)
        with torch.no_grad():
            for name, basis in bases.items():
                live = basis.activations(clean)
                here = batch.mask[..., None].to(live.device)
                per_unit = wide(steep[name]).to(live.device) @ wide(basis.rows).T * here
                for carried in draws:
                    change = wide(live - basis.activations(carried))
                    sums[name] += (change * per_unit).sum((0, 1)).cpu() / len(draws)
    return {name: total / len(data) for name, total in sums.items()}


def _value(metric: Metric, reference: Tensor, batch: Batch) -> Callable[[Tensor], Tensor]:
    return lambda logits: metric(logits, reference, batch)


def _gradients(
    model: Inspectable, batch: Batch, value: Callable[[Tensor], Tensor], bases: Mapping[str, Basis]
) -> dict[str, Float[Tensor, "b p d"]]:
    """The gradient of the metric's sum in the clean run, where each basis writes."""
    with torch.enable_grad():
        context = model.start(batch.clean, batch.mask)
        sources, final = linked(model, context, partial(written, model, context))
        total = value(answer(model, batch, final)).sum()
        found = torch.autograd.grad(total, [sources[one.behind] for one in bases.values()])
    return dict(zip(bases, found, strict=True))


def strongest(scores: Scored, n: int) -> dict[str, tuple[int, ...]]:
    """The n parts with the largest |score| of all, by what is taken apart, in the order of their
    numbers; where there are not any, none."""
    whole = torch.cat([own.abs() for own in scores.values()])
    kept = torch.zeros(len(whole), dtype=torch.bool)
    kept[whole.argsort(descending=True, stable=True)[:n]] = True
    parts = torch.split(kept, [len(own) for own in scores.values()])
    return {
        name: tuple(part.nonzero().flatten().tolist())
        for name, part in zip(scores, parts, strict=True)
    }
