"""How much attention heads pay to named parts of the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuitkit.data.batches import Batch
from circuitkit.engine.dealing import Block, by_batch, joined
from circuitkit.engine.devices import moved
from circuitkit.engine.inputs import (
    CorruptionLike,
    Data,
    as_corruption,
    as_data,
    refuse,
    require_model,
)
from circuitkit.engine.model import Activations, Context, Model
from circuitkit.engine.numerics import exact
from circuitkit.engine.record import at_answers, record
from circuitkit.errors import CircuitError, DataError, NodeNameError
from circuitkit.graph.nodes import Node
from circuitkit.patching.effects import full_name
from circuitkit.patching.pictures import Pictured
from circuitkit.patching.sites import spans_named
from circuitkit.registry import name_of
from circuitkit.util.statistics import standard_error
from circuitkit.util.tables import as_text, to_frame
from circuitkit.viz.figures import Heatmap

if TYPE_CHECKING:
    import pandas

__all__ = ["Attention", "attention_to"]

CLEAN = "clean"
NUMBERS = 120  # cells of a picture that are written into


@dataclass(frozen=True, repr=False)
class Attention(Pictured):
    """The share of its attention that each head pays to each span; made by ``attention_to``.

    ``values`` are [heads, spans, examples], from 0 to 1: from the last token of the span ``query``
    to all tokens of each span together. ``corruption`` says in which run (``clean``, or the
    corruption's name). ``numpy.asarray`` of it are the values.

    Example:
        >>> found = ck.attention_to(model, ["a2.h2", "3.2"], data, at=["S2", "IO"])
        >>> found.shape == (2, 2, len(data)), found["3.2"].shape == (2, len(data))
        (True, True)
        >>> print(found)
        attention of 2 heads of mini from end to S2, IO, clean run, 16 examples
    """

    heads: tuple[str, ...]
    spans: tuple[str, ...]
    values: Float[np.ndarray, "heads spans examples"]
    query: str
    corruption: str
    model: str

    @property
    def shape(self) -> tuple[int, ...]:
        """The numbers of heads, spans and examples."""
        return self.values.shape

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        values: np.ndarray = np.array(self.values, dtype=dtype, copy=copy)
        return values

    def __len__(self) -> int:
        """The number of heads."""
        return len(self.heads)

    def __getitem__(self, name: Any) -> Float[np.ndarray, "*rest"]:
        """What the head of that name (``a9.h9`` or ``9.9``) pays, [spans, examples]; of an index,
        that part of the values. Raises DataError for a head that is not here."""
        if not isinstance(name, str):
            return np.asarray(self.values[name])
        if full_name(name) not in self.heads:
            raise DataError(f"{name!r} is not here; the heads are {', '.join(self.heads[:3])}, ...")
        return np.asarray(self.values[self.heads.index(full_name(name))])

    @property
    def mean(self) -> Float[np.ndarray, "heads spans"]:
        """The mean over the examples."""
        return np.asarray(self.values.mean(-1))

    @property
    def standard_error(self) -> Float[np.ndarray, "heads spans"]:
        """The standard error of the mean; nan for one example."""
        return standard_error(self.values)

    def to_frame(self) -> pandas.DataFrame:
        """A pandas table with a row for each head and span.

        Columns: ``name`` (the head), ``layer``, ``head``, ``query``, ``span``, ``attention`` (the
        mean share, from 0 to 1) and ``error``, its standard error.

        Example:
            >>> frame = ck.attention_to(model, ["a2.h2"], data, at=["S2", "IO"]).to_frame()
            >>> frame[["name", "query", "span"]].values.tolist()
            [['a2.h2', 'end', 'S2'], ['a2.h2', 'end', 'IO']]
        """
        mean, error = self.mean.tolist(), self.standard_error.tolist()
        return to_frame(
            {
                "name": head, "layer": Node(head).layer, "head": Node(head).head,
                "query": self.query, "span": span, "attention": mean[i][j], "error": error[i][j],
            }
            for i, head in enumerate(self.heads) for j, span in enumerate(self.spans)
        )  # fmt: skip

    def plot(self) -> Heatmap:
        """The means as a heat map of heads by spans, which a notebook shows in the place of the
        result.

        Example:
            >>> ck.attention_to(model, ["a2.h2", "a3.h2"], data, at=["S2", "IO"]).plot()
            Heatmap(2 × 2, 'Attention from end, clean run')
        """
        return Heatmap(
            self.mean, self.heads, self.spans, column_name="attention to",
            title=f"Attention from {self.query}, {self._run}", unit="attention",
            numbers=len(self.spans) * len(self) <= NUMBERS, diverging=False, limit=1.0,
        )  # fmt: skip

    @property
    def _run(self) -> str:
        return f"{CLEAN} run" if self.corruption == CLEAN else f"under {self.corruption}"

    def __str__(self) -> str:
        heads = f"{len(self)} head{'s' * (len(self) != 1)}"
        return (
            f"attention of {heads} of {self.model} from {self.query} to {', '.join(self.spans)}, "
            f"{self._run}, {self.shape[-1]} examples"
        )

    def __repr__(self) -> str:
        order = np.argsort(-self.mean, axis=None, kind="stable")[:8]
        places = [np.unravel_index(i, self.mean.shape) for i in order]
        mean, error = self.mean, self.standard_error
        rows = [
            {"share": f"{mean[i, j]:.3f}", "error": f"± {error[i, j]:.3f}",
             "where": f"{self.heads[i]} to {self.spans[j]}"}
            for i, j in places
        ]  # fmt: skip
        text = as_text(rows, right=("share", "error"), header=False, indent=2)
        return f"{self}; the largest means, ± standard error:\n{text}"


@torch.no_grad()
def attention_to(
    model: Model,
    heads: Sequence[str],
    data: Data,
    corruption: CorruptionLike | None = None,
    *,
    at: str | Sequence[str],
    query: str = "end",
) -> Attention:
    """The share of its attention that each head pays to named parts of the prompt.

    Args:
        model: The model.
        heads: Names of heads (``a9.h9`` or ``9.9``), or one.
        data: A Dataset, a Task, a task's name or a file.
        corruption: Attend by the queries and keys of what this corruption carries (the mean over
            its draws); None for the clean run.
        at: The span, or the spans, to which attention is paid; ``all`` is the whole prompt.
        query: The span from whose last token it is paid.

    Returns:
        An Attention with values [heads, spans, examples], from 0 to 1. The spans of a prompt that
        hold every token once sum to 1 (to less in a model with attention sinks).

    Raises:
        ArgumentError: if the heads are something else.
        CircuitError: if a name is not a head of the model.
        DataError: if there are no heads or spans, or an example lacks a span.

    Example:
        >>> found = ck.attention_to(model, ["2.2", "3.2"], task, at=["S2", "IO"])
        >>> found.to_frame().query("attention > 0.5")["span"].tolist()
        ['S2', 'IO']
    """
    require_model(model)
    listed = [heads] if isinstance(heads, str) else heads
    if not isinstance(listed, list | tuple) or not all(isinstance(own, str) for own in listed):
        refuse("heads", heads, "names such as ['a9.h9']")
    if not isinstance(query, str):
        refuse("query", query, "the name of one span, such as 'end'")
    data = as_data(model, data).first_tokens()
    if not listed:
        raise DataError("there are no heads; give at least one, such as 'a9.h9'")
    spans, (query, *_) = spans_named(data, at), spans_named(data, query, name="query")
    nodes = [_head(model, name) for name in listed]
    carry = None if corruption is None else as_corruption(corruption)
    carried = None if carry is None else carry(model, data)

    def block(batch: Batch, first: int) -> Block:
        context = model.start(batch.clean, batch.mask)
        runs = [record(model, context)] if carried is None else carried(batch)
        attention = _Attention(model, batch, context, spans, query)
        return {"paid": np.mean([attention.paid(run, nodes) for run in runs], axis=0)}

    found = joined(by_batch(data, "attention", block))
    return Attention(
        tuple(map(str, nodes)), spans, found["paid"], query,
        CLEAN if carry is None else name_of(carry), model.name,
    )  # fmt: skip


def _head(model: Model, name: str) -> Node:
    """The head of that name; raises CircuitError where the model has none."""
    first = str(model.wiring.first_head)
    try:
        node = Node(name)
    except NodeNameError as error:
        raise CircuitError(
            f"{name!r} is not a head of {model.name!r}; give names like {first!r}"
        ) from error
    if node not in model.wiring.writer or not node.is_head:
        raise CircuitError(f"{name!r} is not a head of {model.name!r}; give names like {first!r}")
    return node


class _Attention:
    """A batch's spans as values: what a head gives of a token's membership in a span is the
    attention that it pays to that span."""

    def __init__(
        self, model: Model, batch: Batch, context: Context, spans: Sequence[str], query: str
    ) -> None:
        self.model, self.context = model, context
        self.ends = replace(batch, last=batch.within(query).long().cumsum(1).argmax(1))
        self.marks = torch.stack([batch.within(span) for span in spans], dim=-1).to(model.dtype)

    def paid(self, run: Activations, heads: Sequence[str]) -> Float[np.ndarray, "heads spans b"]:
        """What each head pays to each span in a run."""
        nodes = [Node(name) for name in heads]
        layers = {layer: self._layer(layer, run) for layer in {node.layer or 0 for node in nodes}}
        found = torch.stack([layers[node.layer or 0][:, node.head] for node in nodes])
        return exact(found.transpose(1, 2)).cpu().numpy()

    def _layer(self, layer: int, run: Activations) -> Float[Tensor, "b h spans"]:
        """What every head of a layer pays, as many spans at once as a head has channels."""
        stage = self.model.wiring.attention(layer)
        q, k, v = self.model.project(layer, run.reads[stage.index])
        width, found = v.shape[-1], []
        for start in range(0, self.marks.shape[-1], width):
            marks = moved(self.marks[..., start : start + width], v.device)
            padded = torch.nn.functional.pad(marks, (0, width - marks.shape[-1]))
            values = padded[:, :, None].expand(v.shape).contiguous()
            z = self.model.attend(self.context, layer, q, k, values)
            found.append(at_answers(self.ends, z)[..., : marks.shape[-1]])
        return moved(torch.cat(found, dim=-1), self.marks.device)
