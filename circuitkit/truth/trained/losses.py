"""The three losses of edge-level strict interchange training, and a probe to begin with.

All are one number: how far the logits of a run under a mask are from what the causal model answers
when the same of its edges are cut.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from circuitkit.engine.model import Activations
from circuitkit.truth.trained.causal import Values
from circuitkit.truth.trained.subject import Rows, Subject
from circuitkit.truth.trained.tables import Codes

__all__ = ["UNIT", "distance", "masks", "probed"]

UNIT = 6.0  # logits a vote
EXACT = 0.1  # of the squared difference
INTERCHANGE, STRICT = 0, 1  # kinds of rows; the third does both


def distance(
    said: Float[Tensor, "b p vocab"], votes: Float[Tensor, "b p vocab"]
) -> Float[Tensor, ""]:
    """How far logits are from the votes, where there are any: the divergence of what they predict,
    and a tenth of the mean squared difference of the centred logits."""
    asked = ~votes.isnan().any(-1)
    found, wanted = said[asked], UNIT * votes[asked]
    apart = nn.functional.kl_div(
        found.log_softmax(-1), wanted.log_softmax(-1), reduction="batchmean", log_target=True
    )
    centred = found - found.mean(-1, keepdim=True) - wanted + wanted.mean(-1, keepdim=True)
    return apart + EXACT * centred.square().mean()


def masks(subject: Subject, prompts: Codes, sources: Codes, rng: torch.Generator) -> Rows:
    """Random masks of the rows. A third interchanges a part, or one edge of the causal model; in a
    third edges outside of it carry the source's values; a third does both. Of the edges outside, a
    third of those rows cut all, and the others each with probability ½."""
    causal, number = subject.causal, len(prompts)
    kind = torch.randint(3, (number,), generator=rng)
    parts = torch.tensor([[link.writer == part for link in causal.links] for part in causal.parts])
    single = torch.eye(len(causal.links), dtype=torch.bool)
    often = torch.cat([torch.full((len(own),), 1 / len(own)) for own in (parts, single)])
    chosen = torch.multinomial(often, number, replacement=True, generator=rng)
    cut = torch.cat([parts, single])[chosen] & (kind != STRICT)[:, None]
    outside = torch.rand(number, *subject.model.wiring.shape, generator=rng) < 0.5
    outside |= (torch.rand(number, generator=rng) < 1 / 3)[:, None, None]
    return Rows(prompts, sources, cut, outside & (kind != INTERCHANGE)[:, None, None])


def probed(
    subject: Subject, run: Activations, values: Values, probes: Mapping[str, nn.Module]
) -> Float[Tensor, ""]:
    """How badly a linear probe reads the value of each part off what its component writes."""
    total = run.final.new_zeros(())
    for part, probe in probes.items():
        held = values[part] >= 0
        read = probe(subject.written(run, part)[held])
        total = total + nn.functional.cross_entropy(read, values[part][held])
    return total / len(probes)
