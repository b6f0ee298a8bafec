"""The scores of heads as sums over pairs of writers, batch by batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuitkit.data.batches import Batch
from circuitkit.engine.devices import moved
from circuitkit.engine.inspection import Inspectable
from circuitkit.engine.model import Activations, Context
from circuitkit.engine.numerics import exact
from circuitkit.engine.record import record
from circuitkit.errors import DataError, UnsupportedModelError
from circuitkit.evaluation.heads.writers import Sides
from circuitkit.graph.nodes import Node

__all__ = ["Split"]

VALUES = 2**24  # of queries and scores that exist at once
HIDDEN = -1e30  # a score below it is a key that is not seen
SMALL = 2.0**-7  # queries and keys so much smaller are not changed by a cap


class Split:
    """The scores of some heads, batch by batch."""

    def __init__(
        self, model: Inspectable, heads: Sequence[Node], spans: Sequence[str], query: str
    ) -> None:
        self.model, self.heads, self.spans, self.query = model, heads, spans, query
        self.layers = sorted({head.layer or 0 for head in heads})
        last = model.wiring.attention(self.layers[-1])
        self.names = model.wiring.writers[: last.upstream]
        self.capped = False

    def batch(self, batch: Batch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The values summed over the examples, and the two sides of each example."""
        context = self.model.start(batch.clean, batch.mask)
        run = record(self.model, context)
        shape = len(self.heads), len(self.spans), len(self.names) + 2
        values = np.zeros((*shape, shape[-1]))
        query, key = (np.zeros((*shape, len(batch))) for _ in range(2))
        for layer in self.layers:
            own = _Layer(self.model, batch, context, run, layer, self.spans, self.query)
            for i, head in enumerate(self.heads):
                if head.layer == layer:
                    split = own.split(head).cpu().numpy()
                    place = [*range(split.shape[1] - 1), len(self.names)]
                    values[i, :, np.array(place)[:, None], place] = split.sum(-1).transpose(1, 2, 0)
                    query[i][:, place], key[i][:, place] = split.sum(2), split.sum(1)
                    alone = own.alone(head).cpu().numpy()
                    values[i, :, -1, -1] = alone.sum(-1)
                    query[i, :, -1] = key[i, :, -1] = alone
            self.capped |= own.capped
        return values, query, key


class _Layer:
    """The scores of a layer's heads from one token of each prompt to its spans.

    What a key makes of a query's part is the slope of the score in the query. At a query of zero it
    is that before a cap, since caps have the slope 1 there.
    """

    def __init__(
        self,
        model: Inspectable,
        batch: Batch,
        context: Context,
        run: Activations,
        layer: int,
        spans: Sequence[str],
        query: str,
    ) -> None:
        self.model, self.context, self.layer = model, context, layer
        here = run.reads[model.wiring.attention(layer).index].device
        self.rows, self.at = torch.arange(len(batch), device=here), moved(_last(batch, query), here)
        within = moved(torch.stack([batch.within(span) for span in spans]), here)
        self.marks = within / within.sum(-1, keepdim=True)
        self.spans, self.within = spans, within
        sides = Sides(model, run, layer)
        self.q, self.k = sides.split("q")[:, self.rows, self.at], sides.split("k")
        self.zeros = tuple(map(torch.zeros_like, sides.totals()))
        self.base = self._to_spans(model.scores(context, layer, *self.zeros, normed=True))
        self.slopes = self._slopes()
        self.capped = self._check(sides)

    def _to_spans(self, scores: Float[Tensor, "m h p p"]) -> Float[Tensor, "spans m h"]:
        """The mean score from the query to the tokens of each span, for any number of batches."""
        times = len(scores) // len(self.rows)
        picked = scores[torch.arange(len(scores), device=scores.device), :, self.at.repeat(times)]
        marks = self.marks.to(scores).repeat(1, times, 1)[:, :, None]
        return torch.where(marks > 0, picked * marks, 0).sum(-1)

    def _slopes(self) -> Float[Tensor, "spans w b h e"]:
        """The slope in the query of each head's score to each span, for each part of the keys."""
        q, each = self.zeros[0], max(self.zeros[0].numel(), len(self.rows) * self.model.wiring.heads
                                     * self.marks.shape[-1] ** 2)  # fmt: skip
        found = []
        for keys in torch.split(self.k, max(1, VALUES // each)):
            times = len(keys)
            with torch.enable_grad():
                zero = q.repeat(times, 1, 1, 1).requires_grad_()
                scores = self.model.scores(
                    self.context.tile(times), self.layer, zero, keys.flatten(0, 1), normed=True
                )
                ends = self._to_spans(scores).flatten(1).sum(1)
                grads = [torch.autograd.grad(end, zero, retain_graph=True)[0] for end in ends]
            whole = torch.stack(grads).view(len(grads), times, *q.shape)
            found.append(whole[:, :, self.rows, self.at])
        return torch.cat(found, dim=1)

    def split(self, head: Node) -> Float[Tensor, "spans q k b"]:
        """A head's score to each span by the writers of its query and of its key."""
        own = head.head or 0
        query, key = exact(self.q[:, :, own]), exact(self.slopes[:, :, :, own])
        return torch.einsum("qbe,skbe->sqkb", query, key)

    def alone(self, head: Node) -> Float[Tensor, "spans b"]:
        """What is added to the score by the positions alone."""
        return exact(self.base[:, :, head.head or 0])

    def _check(self, sides: Sides) -> bool:
        """Whether the model caps its scores. Raises DataError where a head does not see a span, and
        UnsupportedModelError where the parts do not sum to the score."""
        q, k = sides.plain
        own = self.model.scores(self.context, self.layer, q, k)
        hidden = (own[self.rows, :, self.at] < HIDDEN).any(1) & self.within
        if bool(hidden.any()):
            span = self.spans[int(hidden.any((1, 2)).nonzero()[0])]
            raise DataError(
                f"layer {self.layer} does not see all of the span {span!r} from where it is asked, "
                "in some prompt: it stands behind the query or outside of a sliding window; name "
                "other spans"
            )
        query = exact(self.q.sum(0))
        total = torch.einsum("bhe,sbhe->sbh", query, exact(self.slopes.sum(1)))
        total = total + exact(self.base)
        if _near(self._to_spans(own), total, self.model.dtype):
            return False
        q, k = sides.totals()
        low = self.model.scores(self.context, self.layer, q * SMALL, k * SMALL, normed=True)
        if not _near(self._to_spans(low) / SMALL**2, total, self.model.dtype):
            raise UnsupportedModelError(
                f"the scores of layer {self.layer} of {self.model.name!r} are not linear in what "
                "was written, even with the norms' scales fixed; they cannot be split"
            )
        return True


def _near(found: Tensor, expected: Tensor, dtype: torch.dtype) -> bool:
    """Whether scores are the same, but for rounding."""
    tolerance = 0.1 if torch.finfo(dtype).bits == 16 else 1e-4
    found = exact(found)
    return bool((found - expected).abs().max() <= tolerance * expected.abs().max().clamp(min=1))


def _last(batch: Batch, span: str) -> Tensor:
    """The last token of a span in each prompt."""
    return batch.within(span).long().cumsum(1).argmax(1)
