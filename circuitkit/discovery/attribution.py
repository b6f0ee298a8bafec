"""Edge attribution: what cutting each edge would do, to first order, for all edges at once.

Every score is Σ_tokens (clean − carried output of the writer) · (gradient at the reader); the
methods differ in where the gradient is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor

from circuitkit.data.batches import Batch
from circuitkit.engine.attribute import Pulls, by_example, score, score_groups
from circuitkit.engine.gradients import Gradients, gradients
from circuitkit.engine.inputs import CorruptionLike, Data, Inputs, MetricLike, prepare
from circuitkit.engine.metric import Metric, check_metric
from circuitkit.engine.model import Activations, Model
from circuitkit.engine.record import answer, record
from circuitkit.engine.tally import Groups, Tally, is_groups
from circuitkit.errors import MetricError
from circuitkit.graph.scores import Scores
from circuitkit.registry import name_of
from circuitkit.util.options import Bounds, Form, checked
from circuitkit.util.progress import track

__all__ = ["clean_corrupted", "eap", "eap_ig"]

FLAT = 1e-6  # a metric's gradient in the logits below this is rounding: kl at the clean run


@checked
def eap(
    model: Model,
    data: Data,
    metric: MetricLike | None = None,
    corruption: CorruptionLike | None = None,
    *,
    groups: Annotated[
        Groups, Form("'examples', counts of shape [groups, examples], or None", is_groups)
    ] = None,
) -> Scores:
    """Edge attribution patching (EAP): the gradient at the clean run, one forward and backward.

    The score of an edge is Σ_tokens (clean − carried output of the writer) · (gradient of the
    metric at the reader): the first-order estimate of what ``exact`` measures by noising it.

    Returns Scores [writers, readers]: in metric units per example, positive where the edge helps
    the clean behaviour. With ``groups="examples"`` they also hold each example's scores (``groups``
    [examples, edges]) and the standard error of the mean, and with counts [groups, examples] the
    means over resamples in which each example counts that often: at the same cost, in
    groups × edges × 4 bytes. Raises ArgumentError for an argument in the wrong place, and
    MetricError where the metric has no gradient there (kl and js are at their best).

    Differs from other tools: with grouped queries an edge into k or v is one per group of heads,
    where EAP-IG and MIB repeat it for every head. Scores are means over all examples, so that they
    do not depend on the batch size.

    Source: Syed et al. (2023); Nanda (2022) for nodes.

    Example:
        >>> scores = ck.discovery.eap(model, data, "logit_diff", "mean")
        >>> len(scores), scores.about["corruption"]
        (479, 'mean')
        >>> each = ck.discovery.eap(model, data, groups="examples")
        >>> each.groups.shape == (len(data), 479), bool((each.error >= 0).all())
        (True, True)
    """
    return _attribute(prepare(model, data, metric, corruption), [1.0], "eap", groups)


@checked
def eap_ig(
    model: Model,
    data: Data,
    metric: MetricLike | None = None,
    corruption: CorruptionLike | None = None,
    *,
    steps: Annotated[int, Bounds(1, 10_000)] = 5,
    groups: Annotated[
        Groups, Form("'examples', counts of shape [groups, examples], or None", is_groups)
    ] = None,
) -> Scores:
    """EAP with integrated gradients over the inputs (EAP-IG).

    The gradient is averaged over embeddings at the fractions 0, 1/steps, ..., (steps−1)/steps of
    the way from the carried to the clean one; all else runs free. Costs ``steps`` forwards and
    backwards.

    Returns Scores [writers, readers]: in metric units per example, positive where the edge helps
    the clean behaviour; ``groups`` as in ``eap``. Raises ArgumentError for an argument in the wrong
    place and for steps that are not from 1 to 10,000, and MetricError where the metric has no
    gradient.

    Differs from other tools: the fractions are those of the authors' code, which ends one step
    short of the clean input, and not the paper's 1/steps, ..., 1. ``zero`` carries a zero
    embedding, where EAP-IG keeps the position embedding, and ``mean`` carries each node's own mean,
    where EAP-IG has one vector for all nodes. With grouped queries an edge into k or v is one per
    group of heads.

    Source: Hanna et al. (2024, "Have faith in faithfulness").

    Example:
        >>> ck.discovery.eap_ig(model, data, "kl", steps=2).about["settings"]
        {'steps': 2}
    """
    alphas = [k / steps for k in range(steps)]
    return _attribute(
        prepare(model, data, metric, corruption), alphas, "eap_ig", groups, steps=steps
    )


@checked
def clean_corrupted(
    model: Model,
    data: Data,
    metric: MetricLike | None = None,
    corruption: CorruptionLike | None = None,
    *,
    groups: Annotated[
        Groups, Form("'examples', counts of shape [groups, examples], or None", is_groups)
    ] = None,
) -> Scores:
    """EAP with the mean of the gradients at the clean and at the corrupted embedding.

    Costs two forwards and backwards.

    Returns Scores [writers, readers]: in metric units per example, positive where the edge helps
    the clean behaviour; ``groups`` as in ``eap``. Raises as ``eap_ig`` does.

    Source: Hanna et al. (2024), whose program calls it ``clean-corrupted``.

    Example:
        >>> ck.discovery.clean_corrupted(model, data).about["method"]
        'clean_corrupted'
    """
    return _attribute(
        prepare(model, data, metric, corruption), [0.0, 1.0], "clean_corrupted", groups
    )


@torch.no_grad()
def _attribute(
    inputs: Inputs, alphas: Sequence[float], method: str, groups: Groups, **settings: float
) -> Scores:
    """The scores with the gradient averaged over these fractions of the way to the clean input."""
    model, data, metric, corruption = inputs
    tally = Tally(model.wiring, len(data), groups, data.memory)
    carry = corruption(model, data)
    legal = torch.from_numpy(model.wiring.legal).to(model.device)
    pulls, flat = Pulls(model), True
    for batch in track(data, method):
        draws = [carried.written() for carried in carry(batch)]
        table, silent = _score_batch(model, batch, metric, draws, alphas, tally.apart, pulls)
        require_gradients(metric, table[..., legal], batch)
        own = table[..., legal].cpu().numpy()
        tally.add(own) if tally.apart else tally.add_sum(own, batch.examples)
        flat &= silent
    if flat:
        raise MetricError(
            f"the gradient of {name_of(metric)} is zero wherever {method} looks, so every score "
            "would be zero; use eap_ig, or a different metric (logit_diff)"
        )
    return tally.scores({**inputs.metadata(), "method": method, "settings": settings})


def require_gradients(metric: Metric, table: Float[Tensor, "..."], batch: Batch) -> None:
    """Raise MetricError where what came of a batch's gradients is not finite."""
    if not bool(table.isfinite().all()):
        raise MetricError(
            f"the gradient of {name_of(metric)} is not finite among {len(batch)} examples, the "
            f"first of them {batch.name(0)}; check what the metric does there (batch_size=1 finds "
            "the example), or load the model in float32"
        )


def _score_batch(
    model: Model,
    batch: Batch,
    metric: Metric,
    draws: Sequence[Activations],
    alphas: Sequence[float],
    apart: bool,
    pulls: Pulls,
) -> tuple[Float[Tensor, "*examples writers readers"], bool]:
    """The scores summed over a batch, or of each example apart; and whether every gradient was
    zero."""
    context = model.start(batch.clean, batch.mask)
    clean: Gradients | None = None
    if 1.0 in alphas:  # the run at which the gradient is taken is the clean one, so it is run once
        itself = partial(_value, metric, None, batch)
        clean = gradients(model, batch, context, context.embed, itself)
        live, reference = clean.activations, clean.output
    else:
        with torch.no_grad():
            live = record(model, context).written()
            reference = answer(model, batch, live.final)
    value = partial(_value, metric, reference, batch)
    total: Any = 0.0
    silent = True
    for carried in draws:
        for alpha in alphas:
            embed = torch.lerp(carried.embed.to(live.embed), context.embed, alpha)
            at = clean if clean and alpha == 1 else gradients(model, batch, context, embed, value)
            silent &= at.steepest < FLAT
            given = model, batch, live, carried, at
            if apart:
                total += score_groups(*given, by_example(batch), batch.examples, pulls)
            else:
                total += score(*given, pulls)
            del at  # its activations, before the next step makes its own
    return total / (len(draws) * len(alphas)), silent


def _value(
    metric: Metric, reference: Tensor | None, batch: Batch, logits: Tensor
) -> Float[Tensor, " examples"]:
    """The metric with all but the logits bound (without a reference, they are it); raises
    MetricError where it has no gradient."""
    reference = logits.detach() if reference is None else reference
    values = check_metric(metric, logits, reference, batch)
    if torch.is_grad_enabled() and not values.requires_grad:
        raise MetricError(
            f"{name_of(metric)} has no gradient; discover with a different metric (logit_diff) and "
            f"evaluate with {name_of(metric)}"
        )
    return values
