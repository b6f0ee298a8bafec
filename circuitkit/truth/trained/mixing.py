"""Runs in which every example has a mask of its own, and all weights take gradients."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from circuitkit.engine.dense import received
from circuitkit.engine.model import Activations, Context, Model

__all__ = ["logits", "mixed"]


def mixed(
    model: Model,
    context: Context,
    carried: Activations,
    keep: Float[Tensor, "b writers readers"],
) -> Float[Tensor, "b p d"]:
    """What the logits read under the masks: ``circuitkit.engine.run`` in its dense form,

        input[r] = carried_input[r] + Σ_w keep[w, r] · (live[w] − carried[w])

    stage by stage, where what is carried takes gradients too. It keeps everything that the backward
    needs, which is little in small models.
    """
    changes = (context.embed - carried.embed)[None]
    for stage in model.wiring.stages:
        kind, own = model.kinds[stage.kind], keep[:, : stage.upstream, stage.columns]
        heard = torch.einsum("bwr,wbpd->rbpd", own, changes[: stage.upstream])
        read = carried.reads[stage.index] + heard
        ports = received(model, stage, read)
        shares = kind.shares(model, stage, kind.compute(model, stage, context, ports))
        change = kind.write(model, stage, None, shares - carried.shares[stage.index])
        changes = torch.cat([changes, change])
    return carried.final + torch.einsum("bw,wbpd->bpd", keep[..., -1], changes)


def logits(model: Model, final: Float[Tensor, "b p d"]) -> Float[Tensor, "b p vocab"]:
    """The logits at every token."""
    return model.unembed(final.flatten(0, 1)).view(*final.shape[:2], -1)
