"""What every writer puts into a head's queries and keys."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from circuitkit.engine.devices import moved
from circuitkit.engine.inspection import Inspectable
from circuitkit.engine.model import Activations

__all__ = ["Sides"]


class Sides:
    """The queries and keys of a layer in a run, behind the norms over them, split over the writers
    upstream of it and then the biases; every norm with its scale of the run.

    The biases are those of the norms and projections, and what the output biases of earlier layers
    put into the residual stream.
    """

    def __init__(self, model: Inspectable, run: Activations, layer: int) -> None:
        self.model, self.run, self.layer = model, run, layer
        self.stage = model.wiring.attention(layer)
        self.read = run.reads[self.stage.index]
        self.norm = model.norm(layer, self.read)
        q, k, _ = model.project(layer, self.read)
        self.plain = q, k
        self.over = dict(zip("qk", model.port_norms(layer, q, k), strict=True))

    def totals(self) -> tuple[Float[Tensor, "b p h e"], Float[Tensor, "b p g e"]]:
        """All queries and all keys, behind the norms over them."""
        q, k = (
            self.over[port].of(x) + self.over[port].bias
            for port, x in zip("qk", self.plain, strict=True)
        )
        return q, k

    def split(self, port: str) -> Float[Tensor, "w b p n e"]:
        """The queries (q) or keys (k): each writer's part, and last that of the biases."""
        weights, biases = self.model.projection(self.layer, port)
        over = self.over[port]

        def project(part: Float[Tensor, "n b p d"]) -> Float[Tensor, "n b p k e"]:
            return over.of(torch.einsum("nbpd,kde->nbpke", self.norm.of(part), weights))

        constant = torch.zeros_like(self.read)
        parts = []
        for part, fixed in self._written():
            parts.append(project(moved(part, self.read.device)))
            if fixed is not None:
                constant = constant + moved(fixed, self.read.device)
        rest = torch.einsum("bpd,kde->bpke", self.norm.of(constant) + self.norm.bias, weights)
        rest = over.of(rest if biases is None else rest + biases) + over.bias
        return torch.cat([*parts, rest[None]])

    def _written(self) -> Iterator[tuple[Float[Tensor, "n b p d"], Tensor | None]]:
        """What the writers upstream wrote, stage by stage, and the output bias of each stage."""
        yield self.run.embed[None], None
        for stage in self.model.wiring.stages[: self.stage.index]:
            kind, shares = self.model.kinds[stage.kind], self.run.shares[stage.index]
            yield kind.write(self.model, stage, None, shares), kind.constant(self.model, stage)
