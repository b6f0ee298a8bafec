"""What each head of a circuit does, as a table and a figure."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from circuitkit.util.statistics import standard_error
from circuitkit.util.tables import as_text, to_frame
from circuitkit.viz.figures import Heatmap, Panels

if TYPE_CHECKING:
    import pandas

    from circuitkit.util.json_values import Json

__all__ = ["HeadDescriptions"]

LOGITS = ("direct", "total", "corrected")
SCORES = ("copying", "suppressing", "ov", "qk")


@dataclass(frozen=True)
class HeadDescriptions:
    """What each head of a circuit writes, copies and looks at; made by ``describe_heads``.

    Of each head and example:

    - ``direct``: direct logit attribution, in logits, positive towards the answer: what the head's
      output at the answer position adds to the mean logit of the correct answers less that of the
      wrong ones, or, where an example has no wrong answer, that of all tokens (``direction`` says
      which). The final norm's scale is that of the run, and with it this is exact: all writers and
      the biases sum to the logit difference (before a cap on the logits, as Gemma 2 has it:
      ``capped``). The value bias is the head's, the output bias nobody's. In post-norm models the
      output is the head's share of the normed sum, whose scale is that of the run too. ``answer``
      is that difference of each example, and ``elsewhere`` what in it is not these heads'.
      Source: Elhage et al. 2021.
    - ``retained``: the projection ratio of Dao et al. 2023 (arXiv:2310.07325), by intervention.
      The head's output o at the answer position is taken away (or replaced: o is then what
      changes), and all later components answer; Δ is what the final residual there loses. It is
      Δ·o / o·o: 1 where nobody touches the output, 0 where later components erase it, more than 1
      where they write it again.
    - ``corrected``: ``direct`` times ``retained``, the direct attribution of what is left.
    - ``total``: the attribution of the whole Δ.

    Of each head:

    - ``copying``: the share of tokens that are among the five best of what the head would write
      from them alone, read behind the first layer, or as embedded by heads of that layer (Wang et
      al. 2023, §3.1); ``suppressing`` that of its negative. ``copied`` says which tokens: those of
      the prompts that are answers, or all where none is.
    - ``ov`` and ``qk``: Σ λ / Σ |λ|, from −1 to 1, of the eigenvalues of the head's full OV and QK
      circuits, from token embeddings to logits, and between token embeddings (Elhage et al. 2021):
      1 copies, or matches, every token. The norms' weights are in them, but not their scales; no
      biases; logits count from their mean. With rotary positions the QK circuit is that at distance
      0 (what a position adds to scores is left out). With grouped queries a head has its group's
      key and value. Both are nan where they are not defined.
    - ``attention``: from the last token of the span ``query`` to each of the ``spans``, of each
      example.
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
