"""Why a head attends: its score between two tokens, split over the writers on both sides."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float

from circuitkit.engine.inputs import Data, as_data, require_model
from circuitkit.engine.inspection import Inspectable, require_sum
from circuitkit.errors import CircuitError, DataError
from circuitkit.evaluation.heads.choice import Heads, chosen, spans_of
from circuitkit.evaluation.heads.splitting import Split
from circuitkit.util.progress import track
from circuitkit.util.statistics import standard_error
from circuitkit.util.tables import as_text, to_frame
from circuitkit.viz.figures import Heatmap, Panels

if TYPE_CHECKING:
    import pandas

    from circuitkit.util.json_values import Json

__all__ = ["AttentionScores", "attention_scores"]

BIAS, POSITION, OTHERS = "bias", "position", "others"
MOST = 6  # panels of a figure


# -- the result ------------------------------------------------------------------------------------
@dataclass(frozen=True)
class AttentionScores:
    """The scores of heads from one span to others, split over the writers on both sides; made by
    ``attention_scores``, which says what the numbers are.

    ``values`` are means over the examples, [heads, spans, query writers, key writers];
    ``by_query`` and ``by_key`` keep the examples, with the other side summed; ``total`` is the
    score. ``writers`` names both sides: the model's writers, ``bias``, and ``position`` where the
    model adds to scores what depends on positions alone. ``heard`` says how many writers stand
    upstream of each head; what later ones would add is 0.
    """

    heads: tuple[str, ...]
    spans: tuple[str, ...]
    query: str
    writers: tuple[str, ...]
    values: Float[np.ndarray, "heads spans writers writers"]
    by_query: Float[np.ndarray, "heads spans writers examples"]
    by_key: Float[np.ndarray, "heads spans writers examples"]
    total: Float[np.ndarray, "heads spans examples"]
    heard: tuple[int, ...]
    model: str
    capped: bool

    def __len__(self) -> int:
        return len(self.heads)

    def upstream(self, head: str) -> tuple[str, ...]:
        """Which writers a head can hear; the biases are among them."""
        count = self.heard[self.heads.index(head)]
        beyond = self.writers.index(BIAS)
        return self.writers[:count] + self.writers[beyond:]

    def rows(self, side: str | None = None) -> Iterator[dict[str, Json]]:
        """The rows of ``to_frame``."""
        if side not in (None, "query", "key"):
            raise CircuitError(f"side={side!r} is not a side; choose 'query', 'key' or None")
        for i, head in enumerate(self.heads):
            for j, span in enumerate(self.spans):
                place: dict[str, Json] = {"head": head, "query": self.query, "key": span}
                for own in self._parts(i, j, side):
                    yield place | own

    def _parts(self, i: int, j: int, side: str | None) -> Iterator[dict[str, Json]]:
        heard = [self.writers.index(name) for name in self.upstream(self.heads[i])]
        if side is None:
            for q in heard:
                for k in heard:
                    names = {"query_writer": self.writers[q], "key_writer": self.writers[k]}
                    yield {**names, "score": float(self.values[i, j, q, k])}
            return
        values = (self.by_query if side == "query" else self.by_key)[i, j]
        error = standard_error(values)
        for w in heard:
            name: dict[str, Json] = {f"{side}_writer": self.writers[w]}
            yield name | {"score": float(values[w].mean()), "error": float(error[w])}

    def to_frame(self, side: str | None = None) -> pandas.DataFrame:
        """A row for each head, key span and pair of writers; with a ``side`` (query or key) for
        each writer on that side alone, with the standard error of its score."""
        return to_frame(self.rows(side))

    def strongest(self, n: int = 8) -> list[tuple[str, str, str, str, float]]:
        """The pairs of largest mean score: head, key span, query writer, key writer, score."""
        order = np.argsort(-np.abs(self.values), axis=None, kind="stable")[:n]
        found = (np.unravel_index(i, self.values.shape) for i in order)
        return [
            (self.heads[i], self.spans[j], self.writers[q], self.writers[k],
             float(self.values[i, j, q, k]))
            for i, j, q, k in found
        ]  # fmt: skip

    def plot(self, head: str | None = None, span: str | None = None, writers: int = 8) -> Panels:
        """Heat maps of query writers (rows) by key writers (columns), one for each head and span,
        or for those that are named; the strongest writers of each side, the others summed. Raises
        CircuitError for a head or span that is not here, and for more than six heat maps."""
        for name, known in ((head, self.heads), (span, self.spans)):
            if name is not None and name not in known:
                raise CircuitError(f"there are no scores of {name!r}; there are {', '.join(known)}")
        pairs = [
            (i, j) for i, h in enumerate(self.heads) for j, s in enumerate(self.spans)
            if head in (None, h) and span in (None, s)
        ]  # fmt: skip
        if len(pairs) > MOST:
            raise CircuitError(f"there are {len(pairs)} heat maps; name a head or a span of them")
        panels = [self._panel(i, j, writers) for i, j in pairs]
        return Panels(panels, title=f"Scores of {self.model}, by writers of query and key")

    def _panel(self, i: int, j: int, most: int) -> Heatmap:
        table, rows = _strongest(self.values[i, j], self.writers, 0, most)
        table, columns = _strongest(table, self.writers, 1, most)
        mean = self.total[i, j].mean()
        return Heatmap(
            table, rows, columns, row_name="query", column_name="key", unit="score", numbers=True,
            title=f"{self.heads[i]}: {self.query} → {self.spans[j]}, {mean:+.2f}",
        )  # fmt: skip

    def draw(self, path: str | os.PathLike[str]) -> Path:
        """Write the figure of ``plot`` as ``.svg``, ``.png`` or ``.pdf``."""
        return self.plot().save(path)

    def __str__(self) -> str:
        head, span, query, key, score = self.strongest(1)[0]
        return (
            f"scores of {len(self)} heads of {self.model} from {self.query} to "
            f"{', '.join(self.spans)}, {self.total.shape[-1]} examples: the strongest part is "
            f"{score:+.2f}, {head} to {span}, of {query} (query) and {key} (key)"
        )

    def __repr__(self) -> str:
        rows: list[dict[str, Json]] = [
            {"head": h, "key": s, "score": score, "query writer": q, "key writer": k}
            for h, s, q, k, score in self.strongest(12)
        ]
        totals = [
            {"head": h, **{f"to {s}": float(x) for s, x in zip(self.spans, own, strict=True)}}
            for h, own in zip(self.heads, self.total.mean(-1), strict=True)
        ]
        cap = "; before the model's cap on scores" if self.capped else ""
        sums = as_text(totals, formats=dict.fromkeys((f"to {s}" for s in self.spans), "+.2f"))
        parts = as_text(rows, formats={"score": "+.2f"})
        return f"{self}{cap}\n{sums}\nthe strongest parts:\n{parts}"

    def _repr_html_(self) -> str:
        from html import escape

        return f"<pre>{escape(repr(self))}</pre>"


def _strongest(
    table: Float[np.ndarray, "q k"], names: Sequence[str], axis: int, most: int
) -> tuple[Float[np.ndarray, "rows columns"], list[str]]:
    """The strongest rows (or columns), in their order, and the sum of the others."""
    size = np.abs(table).sum(1 - axis)
    best = sorted(int(i) for i in np.argsort(-size, kind="stable")[:most] if size[i])
    rest = [i for i in range(len(size)) if i not in best]
    parts = [np.take(table, best, axis)]
    labels = [names[i] for i in best]
    if size[rest].any():
        parts.append(np.take(table, rest, axis).sum(axis, keepdims=True))
        labels.append(OTHERS)
    return np.concatenate(parts, axis), labels


# -- how it is found -------------------------------------------------------------------------------
@torch.no_grad()
def attention_scores(
    model: Inspectable,
    heads: Heads,
    data: Data,
    *,
    at: Sequence[str] | str | None = None,
    query: str = "end",
) -> AttentionScores:
    """Why heads attend: their scores before the softmax, split over the writers on both sides.

    The scores from the last token of the span ``query`` to the spans ``at`` (by default all that
    all prompts have); to a span of several tokens it is the mean score. ``heads`` may be a circuit
    or a mask.

    A score is what enters the softmax: q · k, scaled as the model scales it, rotated, the norms
    applied. It is linear in what each writer puts into the query, and in what each puts into the
    key, with every norm's scale (before the attention, and over queries and keys) as it is in the
    run. So it is a sum over pairs of writers, and the result has each of them; biases are a writer
    of their own (``bias``). A score that is the same for all keys moves no attention: compare
    spans.

    Where a model caps its scores (Gemma 2), these are before the cap. What it adds to scores by
    position alone (ALiBi) is the writer ``position`` on both sides. Attention sinks (gpt-oss) are
    not part of scores.

    Source: the QK circuit of Elhage et al. 2021, for single prompts. Raises CircuitError for what
    is not a head; DataError for a span that a prompt lacks, or that the head does not see (it comes
    after the query, or is outside a sliding window); UnsupportedModelError where the model's scores
    are not such a sum.

    Example:
        >>> why = ck.attention_scores(model, ["a3.h2"], task, at=["IO", "S1"])
        >>> side = why.to_frame("query").pivot(index="query_writer", columns="key", values="score")
        >>> (side["IO"] - side["S1"]).idxmax()
        'a2.h2'
    """
    require_model(model)
    require_sum(model)
    found = chosen(heads, model.wiring)
    data = as_data(model, data, heads).first_tokens()
    spans = spans_of(data, at, query)
    if not spans:
        raise DataError("there are no spans to look at; name at least one that all prompts have")
    split = Split(model, found, spans, query)
    parts = [split.batch(batch) for batch in track(list(data), "scores")]
    names = (*split.names, BIAS, POSITION)
    by_query, by_key = (np.concatenate([p[i] for p in parts], axis=-1) for i in (1, 2))
    values = np.sum([part[0] for part in parts], axis=0) / len(data)
    kept = [i for i, name in enumerate(names) if name != POSITION or by_query[:, :, i].any()]
    return AttentionScores(
        heads=found,
        spans=spans,
        query=query,
        writers=tuple(names[i] for i in kept),
        values=values[..., kept, :][..., kept],
        by_query=by_query[:, :, kept],
        by_key=by_key[:, :, kept],
        total=by_query.sum(2),
        heard=tuple(model.wiring.attention(head.layer or 0).upstream for head in found),
        model=model.name,
        capped=split.capped,
    )
