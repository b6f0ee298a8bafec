"""To which cluster a new prompt belongs, without a look at its answer."""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuitkit.data.batches import Batch, Dataset
from circuitkit.engine.dealing import Block, by_batch, joined
from circuitkit.engine.inputs import Inputs
from circuitkit.engine.metric import Method
from circuitkit.engine.model import Model
from circuitkit.engine.record import at_answers, record
from circuitkit.errors import ScoresError
from circuitkit.graph.scores import Scores
from circuitkit.workflows.clusters.grouping import centroids, nearest, unit

__all__ = ["By", "assigned", "by_scores", "each_of"]

SHRUNK = 0.1  # of the mean variance, added to each
By: TypeAlias = Literal["residual", "scores"]


def assigned(
    by: By, how: Method, seen: Inputs, unseen: Inputs, labels: Int[np.ndarray, " seen"]
) -> Int[np.ndarray, " unseen"]:
    """The cluster of each unseen prompt: that of the nearest centroid.

    By the ``residual`` that the logits read in the clean run at the prompt's last token, in units
    of its scatter within clusters; or by the ``scores``, of length 1, of the logit of the token
    that the model itself puts first there, less the mean logit. Neither looks at the answers.
    """
    if labels.max() < 1:
        return np.zeros(len(unseen.data), int)
    if by == "residual":
        known, new = (_residuals(own.model, own.data) for own in (seen, unseen))
        scale = _scale(known, labels)
        return nearest(new @ scale, centroids(known @ scale, labels))
    known, new = (each_of(how(*_blind(own))) for own in (seen, unseen))
    return by_scores(known, labels, new)


def by_scores(
    known: Float[np.ndarray, "seen edges"],
    labels: Int[np.ndarray, " seen"],
    new: Float[np.ndarray, "unseen edges"],
) -> Int[np.ndarray, " unseen"]:
    """The cluster of the nearest centroid of scores."""
    if labels.max() < 1:
        return np.zeros(len(new), int)
    return nearest(unit(new), centroids(unit(known), labels))


def each_of(scores: Scores) -> Float[np.ndarray, "examples edges"]:
    """The scores of each example; raises ScoresError where there are none."""
    if scores.groups is None:
        raise ScoresError(
            f"{scores.about.get('method', 'the method')} gave no scores of single examples; take a "
            "method that does (eap_ig)"
        )
    return scores.groups


def own_answer(
    logits: Float[Tensor, "b vocab"], reference: Float[Tensor, "b vocab"], batch: Batch
) -> Float[Tensor, " b"]:
    """The logit of the token that the model puts first, less the mean logit."""
    first = reference.argmax(-1, keepdim=True)
    found: Tensor = logits.gather(-1, first)[:, 0] - logits.mean(-1)
    return found


def _blind(inputs: Inputs) -> Inputs:
    """The same with what the model says in the place of the answers."""
    return inputs._replace(data=inputs.data.first_tokens(), metric=own_answer)


def _scale(
    known: Float[np.ndarray, "seen d"], labels: Int[np.ndarray, " seen"]
) -> Float[np.ndarray, "d d"]:
    """What makes the scatter within clusters the same in all directions: the inverse root of its
    covariance, with a share of the mean variance added in each direction, for there are fewer
    prompts than directions."""
    away = known - centroids(known, labels)[labels]
    spread = away.T @ away / len(away)
    added = SHRUNK * float(np.trace(spread)) / len(spread) or 1.0
    return np.asarray(np.linalg.inv(np.linalg.cholesky(spread + added * np.eye(len(spread)))).T)


@torch.no_grad()
def _residuals(model: Model, data: Dataset) -> Float[np.ndarray, "examples d"]:
    """What the logits read at each prompt's last token, in the clean run."""

    def block(batch: Batch, first: int) -> Block:
        run = record(model, model.start(batch.clean, batch.mask))
        return {"read": at_answers(batch, run.final).float().cpu().numpy().T}

    read = joined(by_batch(data.first_tokens(), "residuals", block))["read"]
    return np.asarray(read.T.astype(np.float64))
