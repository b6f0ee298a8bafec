"""What each head of a circuit does: a table of what it writes, copies and looks at."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float

from circuitkit.data.batches import Batch, Dataset
from circuitkit.engine.inspection import Inspectable
from circuitkit.engine.metric import Corruption
from circuitkit.engine.model import Activations
from circuitkit.engine.record import record
from circuitkit.errors import DataError
from circuitkit.evaluation.heads.choice import Heads, chosen, roles, spans_of
from circuitkit.evaluation.heads.copying import Weights, answer_tokens, copied
from circuitkit.evaluation.heads.direct import answer_weights, direct, erasure
from circuitkit.graph.nodes import Node
from circuitkit.patching.attention import attention_to
from circuitkit.registry import name_of
from circuitkit.util.progress import track
from circuitkit.util.statistics import standard_error
from circuitkit.util.tables import as_text, to_frame
from circuitkit.viz.figures import Heatmap, Panels

if TYPE_CHECKING:
    import pandas

    from circuitkit.util.json_values import Json

__all__ = ["HeadDescriptions", "describe_heads"]

WRONG, MEAN = "correct − wrong", "correct − mean of all tokens"
LOGITS = ("direct", "total", "corrected")
SCORES = ("copying", "suppressing", "ov", "qk")


@dataclass(frozen=True)
class HeadDescriptions:
    """What each head of a circuit writes, copies and looks at; made by ``describe_heads``, which
    says what the numbers are.

    ``direct``, ``total``, ``corrected`` (in logits) and ``retained`` (a share) are [heads,
    examples]; ``copying``, ``suppressing`` (shares), ``ov`` and ``qk`` (from −1 to 1) are [heads];
    ``attention`` is [heads, spans, examples]. ``answer`` is the logit difference of each example
    that ``direct`` splits, and ``elsewhere`` what is not these heads' in it.
    """

    heads: tuple[str, ...]
    roles: tuple[str, ...]
    direct: Float[np.ndarray, "heads examples"]
    total: Float[np.ndarray, "heads examples"]
    retained: Float[np.ndarray, "heads examples"]
    copying: Float[np.ndarray, " heads"]
    suppressing: Float[np.ndarray, " heads"]
    ov: Float[np.ndarray, " heads"]
    qk: Float[np.ndarray, " heads"]
    attention: Float[np.ndarray, "heads spans examples"]
    answer: Float[np.ndarray, " examples"]
    elsewhere: Float[np.ndarray, " examples"]
    spans: tuple[str, ...]
    query: str
    direction: str
    removed: str
    copied: str
    model: str
    capped: bool

    @property
    def corrected(self) -> Float[np.ndarray, "heads examples"]:
        """The direct attribution of what later components leave of each head's output."""
        return np.asarray(self.direct * self.retained)

    def __len__(self) -> int:
        return len(self.heads)

    def rows(self) -> Iterator[dict[str, Json]]:
        """A row for each head, as ``to_frame`` gives them."""
        error = standard_error(self.direct)
        for i, head in enumerate(self.heads):
            row: dict[str, Json] = {"head": head}
            if any(self.roles):
                row["role"] = self.roles[i]
            row |= {"direct": float(self.direct[i].mean()), "error": float(error[i])}
            row |= {"total": float(self.total[i].mean()),
                    "retained": float(self.retained[i].mean()),
                    "corrected": float(self.corrected[i].mean())}  # fmt: skip
            row |= {name: float(getattr(self, name)[i]) for name in SCORES}
            paid = self.attention[i].mean(-1)
            yield row | {f"to {s}": float(p) for s, p in zip(self.spans, paid, strict=True)}

    def to_frame(self) -> pandas.DataFrame:
        """A row for each head: means over the examples, ``error`` the standard error of ``direct``,
        and ``to S1`` the attention that is paid to that span."""
        return to_frame(self.rows())

    def plot(self) -> Panels:
        """Three heat maps with a row for each head: logits, scores, and attention."""
        logits = np.stack([getattr(self, name).mean(-1) for name in LOGITS], axis=1)
        scores = np.stack([getattr(self, name) for name in SCORES], axis=1)
        rows = [f"{h} {r}".strip() for h, r in zip(self.heads, self.roles, strict=True)]
        panels = [
            Heatmap(logits, rows, LOGITS, title=self.direction, unit="logits", numbers=True),
            Heatmap(scores, rows, SCORES, title="copying and matching", unit="score", limit=1.0,
                    numbers=True),
        ]  # fmt: skip
        if self.spans:
            panels.append(
                Heatmap(
                    self.attention.mean(-1), rows, self.spans, title=f"attention from {self.query}",
                    unit="attention", diverging=False, limit=1.0, numbers=True,
                )
            )  # fmt: skip
        return Panels(panels, title=f"{len(self)} heads of {self.model}")

    def draw(self, path: str | os.PathLike[str]) -> Path:
        """Write the figure of ``plot`` as ``.svg``, ``.png`` or ``.pdf``."""
        return self.plot().save(path)

    def __str__(self) -> str:
        best = max(range(len(self)), key=lambda i: abs(self.direct[i].mean()))
        part, whole = self.direct.mean(-1).sum(), self.answer.mean()
        return (
            f"{len(self)} heads of {self.model}, {len(self.answer)} examples: {part:+.2f} of the "
            f"{whole:+.2f} logits ({self.direction}) are theirs directly, most of "
            f"{self.heads[best]} ({self.direct[best].mean():+.2f})"
        )

    def __repr__(self) -> str:
        notes = [
            f"total, retained: {self.removed} in its place at the answer",
            f"copying: of {self.copied}; to …: attention from {self.query}",
        ]
        if self.capped:
            notes.append("logits before the model's cap on them")
        small = dict.fromkeys(
            ("error", "retained", *SCORES, *(f"to {s}" for s in self.spans)), ".2f"
        )
        text = as_text(list(self.rows()), formats=dict.fromkeys(LOGITS, "+.2f") | small)
        return f"{self}\n{text}\n{'; '.join(notes)}"

    def _repr_html_(self) -> str:
        from html import escape

        table: str = self.to_frame().to_html(index=False, float_format="{:.3f}".format)
        return f"<p>{escape(str(self))}</p>{table}"


@torch.no_grad()
def describe_heads(
    model: Inspectable,
    circuit: Heads,
    data: Dataset,
    *,
    at: Sequence[str] | str | None = None,
    query: str = "end",
    corruption: Corruption | None = None,
) -> HeadDescriptions:
    """What each head of a circuit (a mask, or heads by name) writes, copies and looks at.

    - ``direct``: direct logit attribution in logits, positive towards the answer: what the head's
      output at the answer position adds to the mean logit of the correct answers less that of the
      wrong ones; where an example has no wrong answer, of all tokens. The final norm's scale is
      that of the run, and with it this is exact: all writers and the biases sum to the logit
      difference (before a cap on the logits, as Gemma 2 has it). The value bias is the head's, the
      output bias nobody's. In post-norm models the output is the head's share of the normed sum,
      whose scale is that of the run too. Source: Elhage et al. 2021.
    - ``retained``: the projection ratio of Dao et al. 2023 (arXiv:2310.07325), by intervention.
      The head's output o at the answer position is taken away (or replaced: o is then what
      changes), and all later components answer; Δ is what the final residual there loses. It is
      Δ·o / o·o: 1 where nobody touches the output, 0 where later components erase it, more than 1
      where they write it again. ``corrected`` is ``direct`` times that, example by example: the
      direct attribution of what is left. ``total`` is the attribution of the whole Δ.
    - ``copying``: the share of tokens that are among the five best of what the head would write
      from them alone, read behind the first layer, or as embedded by heads of that layer (Wang et
      al. 2023, §3.1); ``suppressing`` that of its negative. The tokens are those of the prompts
      that are answers, or all where none is.
    - ``ov`` and ``qk``: Σ λ / Σ |λ| of the eigenvalues of the head's full OV and QK circuits, from
      token embeddings to logits, and between token embeddings (Elhage et al. 2021): 1 copies, or
      matches, every token. The norms' weights are in them, but not their scales; no biases; logits
      count from their mean. With rotary positions the QK circuit is that at distance 0 (what a
      position adds to scores is left out). With grouped queries a head has its group's key and
      value. Both are nan where they are not defined.
    - ``to S1``, ...: the mean attention from the last token of ``query`` to the spans ``at``
      (by default to all that all prompts have).

    ``corruption`` says what replaces a head's output for ``total`` and ``retained`` (a function of
    ``circuitkit.corruptions``; by default nothing does). Raises CircuitError for a circuit without
    heads, or of another model, and DataError for a span that a prompt lacks.

    Example:

    >>> import circuitkit as ck
    >>> model = ck.load("mini")
    >>> data = ck.Dataset.of(ck.make_task("ioi", model, n=8), model)
    >>> found = ck.describe_heads(model, ["a2.h2", "a3.h2"], data, at=["IO", "S2"])
    >>> found.to_frame().set_index("head")[["to IO", "to S2"]].idxmax().tolist()
    ['a3.h2', 'a2.h2']
    """
    heads = chosen(circuit, model.wiring)
    spans = spans_of(data, at, query)
    wrong = all(example.wrong for example in data.examples)
    work = _Work(model, heads, data, wrong, corruption)
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
        removed="nothing" if corruption is None else name_of(corruption),
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
    return attention_to(model, data, heads, spans, query=query)


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
        return written.double().cpu().numpy(), copies.cpu().numpy()
