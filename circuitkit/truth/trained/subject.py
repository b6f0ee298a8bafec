"""A transformer beside the causal model that it is to be: prompts, edges and runs of both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from random import Random

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuitkit.engine.model import Activations, Model
from circuitkit.engine.record import record
from circuitkit.models.decoder import SPECIAL
from circuitkit.truth.trained.causal import Causal, Values
from circuitkit.truth.trained.mixing import logits, mixed
from circuitkit.truth.trained.placing import edge
from circuitkit.truth.trained.tables import Codes

__all__ = ["Rows", "Subject"]


@dataclass(frozen=True)
class Rows:
    """Prompts with a mask each: which edges carry the values of the sources, ``cut`` of the causal
    model's and ``outside`` of all others."""

    prompts: Codes
    sources: Codes
    cut: Bool[Tensor, "b links"]
    outside: Bool[Tensor, "b writers readers"]

    @classmethod
    def whole(cls, subject: Subject, prompts: Codes, sources: Codes) -> Rows:
        """Nothing is cut."""
        links, shape = len(subject.causal.links), subject.model.wiring.shape
        none = torch.zeros(len(prompts), links, dtype=torch.bool)
        return cls(prompts, sources, none, torch.zeros(len(prompts), *shape, dtype=torch.bool))


@dataclass(frozen=True, eq=False)
class Subject:
    """A transformer that is to be a causal model.

    Attributes:
        causal: The causal model.
        model: The transformer, in whose weights gradients are taken while it is trained.
        components: Which component each part is.
    """

    causal: Causal
    model: Model
    components: Mapping[str, str]

    def tokens(self, prompts: Codes) -> Int[Tensor, "b p"]:
        """Prompts with the first word, as the transformer takes them."""
        first = prompts.new_zeros(len(prompts), 1)
        return torch.cat([first, prompts + len(SPECIAL)], dim=1)

    def prompts(self, n: int, seed: int | str) -> Codes:
        """Random prompts."""
        return self.causal.prompts(n, Random(seed))

    @cached_property
    def edges(self) -> tuple[Int[Tensor, " links"], Int[Tensor, " links"]]:
        """The rows and the columns of the edges that the causal model's are."""
        own = [edge(link, self.components, self.model.wiring) for link in self.causal.links]
        writers, readers = torch.tensor(own).T
        return writers, readers

    def plain(self, prompts: Codes) -> Activations:
        """The transformer's own run."""
        tokens = self.tokens(prompts)
        return record(self.model, self.model.start(tokens, torch.ones_like(tokens).bool()))

    def keep(self, rows: Rows) -> Float[Tensor, "b writers readers"]:
        """The edges that are live, as weights."""
        writers, readers = self.edges
        found = ~rows.outside
        found[:, writers, readers] = ~rows.cut
        return found.to(self.model.dtype)

    def said(self, rows: Rows, source: Activations) -> Float[Tensor, "b p vocab"]:
        """The transformer's logits at every word, under the masks."""
        tokens = self.tokens(rows.prompts)
        context = self.model.start(tokens, torch.ones_like(tokens).bool())
        return self.spoken(mixed(self.model, context, source, self.keep(rows)))

    def spoken(self, final: Float[Tensor, "b p d"]) -> Float[Tensor, "b p vocab"]:
        """The logits at every word."""
        return logits(self.model, final[:, 1:])

    def asked(self, rows: Rows, source: Values) -> Float[Tensor, "b p vocab"]:
        """The causal model's votes under the same, which has no edges outside."""
        own = self.causal.values(rows.prompts, source, rows.cut)
        return self.causal.answers(own, source, rows.cut)

    def written(self, run: Activations, part: str) -> Float[Tensor, "b p d"]:
        """What the component of a part writes at every word."""
        row = self.model.wiring.writer[self.components[part]]
        stage = self.model.wiring.stage_of[row]
        if stage is None:
            return run.embed[:, 1:]
        place = row - stage.rows.start
        share = run.shares[stage.index][:, 1:, [place]]
        return self.model.kinds[stage.kind].write(self.model, stage, [place], share)[0]
