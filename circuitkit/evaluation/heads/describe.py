"""What each head of a circuit does: a table of what it writes, copies and looks at."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float

from circuitkit.data.batches import Batch, Dataset
from circuitkit.engine.inputs import (
    CorruptionLike,
    Data,
    as_corruption,
    as_data,
    require_model,
)
from circuitkit.engine.inspection import Inspectable, require_sum
from circuitkit.engine.metric import Corruption
from circuitkit.engine.model import Activations
from circuitkit.engine.numerics import exact
from circuitkit.engine.record import record
from circuitkit.errors import DataError
from circuitkit.evaluation.heads.choice import Heads, chosen, roles, spans_of
from circuitkit.evaluation.heads.copying import Weights, answer_tokens, copied
from circuitkit.evaluation.heads.descriptions import HeadDescriptions
from circuitkit.evaluation.heads.direct import answer_weights, direct, erasure
from circuitkit.graph.nodes import Node
from circuitkit.patching.attention import attention_to
from circuitkit.registry import name_of
from circuitkit.util.progress import track

__all__ = ["describe_heads"]

WRONG, MEAN = "correct − wrong", "correct − mean of all tokens"


@torch.no_grad()
def describe_heads(
    model: Inspectable,
    circuit: Heads,
    data: Data,
    *,
    at: Sequence[str] | str | None = None,
    query: str = "end",
    corruption: CorruptionLike | None = None,
) -> HeadDescriptions:
    """What each head of a circuit writes, copies and looks at.

    Direct logit attribution, and what later components leave of it; copying and matching scores;
    and the attention from the last token of ``query`` to the spans ``at`` (by default to all that
    all prompts have). ``circuit`` may be a mask, or heads by name. The result's docstring says
    what the numbers, their units and signs are.

    ``corruption`` says what replaces a head's output for ``total`` and ``retained``; by default
    nothing does. Raises CircuitError for a circuit without heads, or of another model, and
    DataError for a span that a prompt lacks. Source: Elhage et al. 2021; Wang et al. 2023, §3.1;
    Dao et al. 2023.

    Example:
        >>> found = ck.describe_heads(model, ["a2.h2", "a3.h2"], task, at=["IO", "S2"])
        >>> found.to_frame().set_index("head")[["to IO", "to S2"]].idxmax().tolist()
        ['a3.h2', 'a2.h2']
    """
    require_model(model)
    require_sum(model)
    heads = chosen(circuit, model.wiring)
    data = as_data(model, data, circuit)
    if any(example.sequences is not None for example in data.examples):
        raise DataError(
            "what heads write in the direction of an answer is said of answers of one token, and "
            "these have several (answers='sequence'); use answers='first'"
        )
    carried = None if corruption is None else as_corruption(corruption)
    spans = spans_of(data, at, query)
    wrong = all(example.wrong for example in data.examples)
    work = _Work(model, heads, data, wrong, carried)
    parts = [work.batch(batch) for batch in track(list(data), "heads")]
    written, copies = (np.concatenate(own, axis=-1) for own in zip(*parts, strict=True))
    if not copies.shape[-1]:
        raise DataError("the prompts have no tokens; give some that have")
    (direct_, total, retained), (copying, suppressing) = written[:, :-2], copies.mean(-1)
    weights = Weights(model)
    return HeadDescriptions(
        heads=heads,
        roles=roles(circuit, heads),
        direct=direct_,
        total=total,
        retained=retained,
        copying=copying,
        suppressing=suppressing,
        ov=np.array([weights.copying(head) for head in heads]),
        qk=np.array([weights.matching(head) for head in heads]),
        attention=_paid(model, data, heads, spans, query),
        answer=written[0, -2],
        elsewhere=written[0, -1],
        spans=spans,
        query=query,
        direction=WRONG if wrong else MEAN,
        removed="nothing" if carried is None else name_of(carried),
        copied="answers in the prompts" if work.answers else "all tokens of the prompts",
        model=model.name,
        capped=work.capped,
    )


def _paid(
    model: Inspectable, data: Dataset, heads: Sequence[str], spans: Sequence[str], query: str
) -> Float[np.ndarray, "heads spans examples"]:
    """The attention that heads pay to spans, of which there may be none."""
    if not spans:
        return np.zeros((len(heads), 0, len(data)))
    return attention_to(model, heads, data, at=spans, query=query).values


class _Work:
    """What is measured batch by batch."""

    def __init__(
        self,
        model: Inspectable,
        heads: Sequence[Node],
        data: Dataset,
        wrong: bool,
        corruption: Corruption | None,
    ) -> None:
        self.model, self.heads, self.wrong, self.capped = model, heads, wrong, False
        self.carry = None if corruption is None else corruption(model, data)
        known = ((set(e.clean), {*e.correct, *e.wrong}) for e in data.examples)
        self.answers = any(tokens & answers for tokens, answers in known)

    def batch(self, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        """[direct, total and retained; heads, the answer and what is elsewhere; examples], and
        whether tokens are copied or suppressed [sign, heads, tokens]."""
        model, heads = self.model, self.heads
        context = model.start(batch.clean, batch.mask)
        run = record(model, context)
        weights = answer_weights(batch, model.d_vocab, wrong=self.wrong)
        found = direct(model, batch, run, weights)
        self.capped |= found.capped
        rows = [model.wiring.writer[head] for head in heads]
        others = [row for row in range(len(found.writers)) if row not in rows]
        elsewhere = found.writers[others].sum(0) + found.bias
        carried: Sequence[Activations | None] = [None] if self.carry is None else self.carry(batch)
        left = [erasure(model, batch, context, run, one, heads, found.pull) for one in carried]
        total, retained = (
            torch.stack([getattr(one, name) for one in left]).mean(0)
            for name in ("total", "retained")
        )
        ends = torch.stack([found.answer, elsewhere])
        written = torch.stack(
            [torch.cat([x, ends]) for x in (found.writers[rows], total, retained)]
        )
        marks = answer_tokens(batch) if self.answers else batch.mask
        copies = copied(model, batch, run, heads, marks)
        return exact(written).cpu().numpy(), copies.cpu().numpy()
