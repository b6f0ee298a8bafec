"""The tokens of a batch in the order of their spans, so that those of a span lie together."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from circuitkit.data.batches import Batch
from circuitkit.engine.devices import moved

__all__ = ["Layout"]


@dataclass(frozen=True, eq=False)
class Layout:
    """Which tokens of a batch are run, span by span.

    ``of`` is the span of every token, -1 on padding, and ``at`` the numbers of the tokens of each
    span, counted through the examples, in the order of the batch.
    """

    of: Int[Tensor, "b p"]
    at: tuple[Int[Tensor, " _tokens"], ...]

    @classmethod
    def by_span(
        cls, of: Int[Tensor, "b p"], spans: int, run: Bool[Tensor, "b p"] | None = None
    ) -> Layout:
        """The layout of these tokens, or of those of them that are ``run``."""
        kept = of if run is None else torch.where(run, of, of.new_full((), -1))
        return cls(of, tuple((kept == span).flatten().nonzero()[:, 0] for span in range(spans)))

    def answers(self, batch: Batch) -> Layout:
        """The same, of the answers' tokens alone."""
        length = self.of.shape[1]
        last = moved(batch.last, self.of.device)
        return Layout(self.of, tuple(own[own % length == last[own // length]] for own in self.at))

    @cached_property
    def tokens(self) -> Int[Tensor, " tokens"]:
        """All tokens that are run, span by span."""
        return torch.cat(self.at)

    @cached_property
    def parts(self) -> tuple[slice, ...]:
        """Where the tokens of each span lie among all."""
        ends = [0]
        for own in self.at:
            ends.append(ends[-1] + len(own))
        return tuple(slice(*pair) for pair in pairwise(ends))

    @cached_property
    def spans(self) -> Int[Tensor, " tokens"]:
        """The span of each token that is run."""
        return self.of.flatten()[self.tokens]

    def taken(self, x: Shaped[Tensor, "b p *rest"]) -> Shaped[Tensor, " tokens *rest"]:
        """What is at the tokens that are run."""
        return x.flatten(0, 1)[moved(self.tokens, x.device)]

    def put(
        self, into: Float[Tensor, "b p *rest"], values: Float[Tensor, " tokens *rest"]
    ) -> Float[Tensor, "b p *rest"]:
        """The tensor with these values at the tokens that are run; a copy."""
        tokens = moved(self.tokens, into.device)
        return into.flatten(0, 1).index_copy(0, tokens, values).view(into.shape)

    def mixed(
        self,
        base: Float[Tensor, "b p d"],
        weights: Float[Tensor, "w r spans"],
        changes: Float[Tensor, "w tokens d"],
    ) -> Float[Tensor, "r tokens d"]:
        """What readers read: the carried residual, and of the changes what each hears at the span
        of a token."""
        carried, read = self.taken(base), []
        for span, part in enumerate(self.parts):
            own = carried[part].reshape(1, -1)
            heard = torch.addmm(own, weights[..., span].T, changes[:, part].flatten(1))
            read.append(heard.view(heard.shape[0], -1, base.shape[-1]))
        return torch.cat(read, 1)
