"""What a feature is: where it is most active, which logits it raises, and how often that is."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from circuitkit.data.tokens import view
from circuitkit.engine.model import Model
from circuitkit.engine.record import record
from circuitkit.errors import DictionaryError
from circuitkit.evaluation.results import TableResult
from circuitkit.features.dictionaries import Dictionary
from circuitkit.features.sites import require_fitting, site_values
from circuitkit.features.texts import Tokens, padded
from circuitkit.util.json_values import Json
from circuitkit.util.tables import to_frame

if TYPE_CHECKING:
    import pandas

__all__ = ["Feature", "Shown", "describe", "describe_several", "parse_feature", "read_labels"]

BEFORE, AFTER = 14, 4  # tokens of a text that are shown around the one where it is most active
STEP = 1e-2  # of the final residual's size, by which a logit's slope is measured


@dataclass(frozen=True)
class Shown:
    """A text in which a feature is active: its tokens, the activation at each, and at which it is
    largest."""

    tokens: tuple[str, ...]
    values: tuple[float, ...]
    peak: int

    def __str__(self) -> str:
        start, stop = max(0, self.peak - BEFORE), self.peak + AFTER + 1
        parts = list(self.tokens)
        word = parts[self.peak]
        lead = len(word) - len(word.lstrip())
        parts[self.peak] = f"{word[:lead]}[{word[lead:]}]"
        text = "".join(parts[start:stop]).replace("\n", " ").strip()
        left, right = "..." * (start > 0), "..." * (stop < len(parts))
        return f"{self.values[self.peak]:7.2f}  {left}{text}{right}"


@dataclass(frozen=True, eq=False)
class Feature(TableResult):
    """What is known of a feature.

    ``shown`` are the texts in which it is most active, ``raised`` and ``lowered`` the tokens whose
    logits one unit of it moves most, by how much: *directly*, to first order, where it is most
    active; what later layers make of it is not in there. ``share`` is that of the ``tokens`` at
    which it is active.
    """

    name: str
    share: float
    tokens: int
    largest: float
    shown: tuple[Shown, ...]
    raised: tuple[tuple[str, float], ...]
    lowered: tuple[tuple[str, float], ...]
    texts: str
    label: str = ""

    def __str__(self) -> str:
        label = f" ({self.label})" if self.label else ""
        return (
            f"{self.name}{label}: active at {self.share:.1%} of {self.tokens:,} tokens of "
            f"{self.texts}"
        )

    def __repr__(self) -> str:
        lines = [str(self), ""]
        lines += [str(one) for one in self.shown] or ["nowhere active"]
        for what, pairs in (("raises", self.raised), ("lowers", self.lowered)):
            if pairs:
                lines += ["", f"directly {what} " + ", ".join(
                    f"{token!r} {value:+.3f}" for token, value in pairs)]  # fmt: skip
        return "\n".join(lines)

    def to_frame(self) -> pandas.DataFrame:
        """The texts in which it is most active, with the token and the activation."""
        return to_frame([
            {"text": "".join(one.tokens), "token": one.tokens[one.peak], "position": one.peak,
             "activation": one.values[one.peak]} for one in self.shown
        ])  # fmt: skip

    def to_dict(self) -> dict[str, Json]:
        """All of it as plain values."""
        return {
            "feature": self.name, "label": self.label, "active_share": self.share,
            "tokens": self.tokens, "largest": self.largest, "texts": self.texts,
            "shown": [{"tokens": [*one.tokens], "activations": [*one.values], "peak": one.peak}
                      for one in self.shown],
            "raised": [{"token": token, "by": by} for token, by in self.raised],
            "lowered": [{"token": token, "by": by} for token, by in self.lowered],
        }  # fmt: skip


def parse_feature(name: str) -> tuple[str, int]:
    """The component and the number in ``m3.f417``; raises DictionaryError for another name.

    Example:
        >>> from circuitkit.features.describing import parse_feature
        >>> parse_feature("m3.f417")
        ('m3', 417)
    """
    prefix, dot, number = name.strip().partition(".f")
    layer = prefix[1:]
    if (
        not dot
        or prefix[:1] not in ("m", "a", "r")
        or not (layer.isdecimal() and number.isdecimal())
    ):
        raise DictionaryError(
            f"{name!r} is not the name of a feature; write m3.f417 (of the MLP of layer 3), "
            "a3.f417 (of its attention) or r3.f417 (of the residual stream there)"
        )
    return prefix, int(number)


def read_labels(path: str | os.PathLike[str]) -> dict[str, dict[str, str]]:
    """What a CSV file says of features, by name: it has the columns ``feature`` and ``label``, and
    perhaps ``supernode`` and others. Raises DictionaryError."""
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            rows = [*csv.DictReader(file)]
    except (OSError, UnicodeError, csv.Error) as error:
        raise DictionaryError(f"{os.fspath(path)!r} cannot be read ({error})") from error
    found: dict[str, dict[str, str]] = {}
    for row in rows:
        kept = {str(key): value.strip() for key, value in row.items() if isinstance(value, str)}
        name = kept.pop("feature", "")
        if not name or "label" not in kept:
            raise DictionaryError(f"{os.fspath(path)!r} has no columns 'feature' and 'label'")
        parse_feature(name)
        found[name] = kept
    return found


def describe(
    model: Model,
    dictionary: Dictionary,
    features: Iterable[int],
    texts: Sequence[Tokens],
    *,
    top: int = 8,
    name: str = "the texts",
    labels: Mapping[str, Mapping[str, str]] | None = None,
    batch_size: int = 32,
) -> list[Feature]:
    """What features are, on texts in tokens (``features.texts.read_texts`` reads some).

    Args:
        model: The model, from ``ck.load``.
        dictionary: Their dictionary.
        features: Their numbers.
        texts: Where they are looked for.
        top: How many texts, and how many tokens of the vocabulary, are shown.
        name: What the texts are called.
        labels: What is known of features, as ``read_labels`` reads it.
        batch_size: How many texts run at once.

    Raises:
        DictionaryError: where the dictionary does not fit the model, or has no such feature.
    """
    return describe_several(
        model, [(dictionary, features)], texts, top=top, name=name, labels=labels,
        batch_size=batch_size,
    )  # fmt: skip


@torch.no_grad()
def describe_several(
    model: Model,
    asked: Sequence[tuple[Dictionary, Iterable[int]]],
    texts: Sequence[Tokens],
    *,
    top: int = 8,
    name: str = "the texts",
    labels: Mapping[str, Mapping[str, str]] | None = None,
    batch_size: int = 32,
) -> list[Feature]:
    """What features of several dictionaries are: as ``describe``, with each text run once."""
    wanted = [(own, _legal(model, own, numbers)) for own, numbers in asked]
    found = [[torch.zeros(0)] * len(texts) for _ in wanted]
    finals = [torch.zeros(0)] * len(texts)
    for rows, tokens, mask in padded(texts, batch_size, model.device):
        run = record(model, model.start(tokens, mask))
        for (dictionary, numbers), kept in zip(wanted, found, strict=True):
            read = site_values(model, run, dictionary.layer, dictionary.reads)
            active = dictionary.encode(read)[..., numbers].cpu()
            for row, text in enumerate(rows):
                kept[text] = active[row, : len(texts[text])]
        for row, text in enumerate(rows):
            finals[text] = run.final[row, : len(texts[text])].cpu()
    seen = _Seen(model, texts, finals, top, name, labels or {})
    return [
        seen.feature(dictionary, number, [values[:, place] for values in kept])
        for (dictionary, numbers), kept in zip(wanted, found, strict=True)
        for place, number in enumerate(numbers)
    ]


def _legal(model: Model, dictionary: Dictionary, features: Iterable[int]) -> list[int]:
    """The numbers, each once; raises DictionaryError for one that the dictionary lacks."""
    require_fitting(dictionary, model)
    wanted = list(dict.fromkeys(features))
    for number in wanted:
        if not 0 <= number < dictionary.n_features:
            raise DictionaryError(
                f"there is no {dictionary.feature(number)}; {dictionary.prefix} has the features 0 "
                f"to {dictionary.n_features - 1:,}"
            )
    return wanted


@dataclass(frozen=True)
class _Seen:
    """Texts that were run, with their final residuals."""

    model: Model
    texts: Sequence[Tokens]
    finals: Sequence[Float[Tensor, "_p d"]]
    top: int
    name: str
    labels: Mapping[str, Mapping[str, str]]

    def feature(
        self, dictionary: Dictionary, number: int, values: Sequence[Float[Tensor, " _p"]]
    ) -> Feature:
        """A feature with these activations in each text."""
        total, pieces = sum(map(len, values)), view(self.model).pieces
        active_at = sum(int((own > 0).sum()) for own in values)
        peaks = [float(own.max()) for own in values]
        best = _best(self.texts, values, peaks, self.top)
        shown = tuple(
            Shown(tuple(pieces(self.texts[i])), tuple(values[i].tolist()), int(values[i].argmax()))
            for i in best
        )
        at = [self.finals[i][int(values[i].argmax())] for i in best]
        raised, lowered = _logits(self.model, dictionary, number, at, self.top, pieces)
        return Feature(
            dictionary.feature(number), active_at / max(total, 1), total, max(peaks, default=0.0),
            shown, raised, lowered, self.name,
            self.labels.get(dictionary.feature(number), {}).get("label", ""),
        )  # fmt: skip


def _best(
    texts: Sequence[Tokens], values: Sequence[Tensor], peaks: Sequence[float], top: int
) -> list[int]:
    """The texts in which the feature is most active, each up to its peak another one: prompts that
    begin alike are one."""
    found: dict[Tokens, int] = {}
    for i in sorted(range(len(texts)), key=lambda i: (-peaks[i], i)):
        if peaks[i] <= 0 or len(found) == top:
            break
        found.setdefault(texts[i][: int(values[i].argmax()) + 1], i)
    return [*found.values()]


Pairs = tuple[tuple[str, float], ...]


def _logits(
    model: Model, dictionary: Dictionary, number: int, finals: Sequence[Float[Tensor, " d"]],
    top: int, pieces: object,
) -> tuple[Pairs, Pairs]:  # fmt: skip
    """The tokens whose logits a unit of the feature raises and lowers most at these final
    residuals, beside the mean over the vocabulary; none where it does not write into the stream."""
    direction = _direction(model, dictionary, number)
    if direction is None or not finals or not float(direction.norm()) > 0:
        return (), ()
    final = torch.stack(list(finals)).to(model.device)
    step = STEP * final.norm(dim=-1, keepdim=True) / direction.norm()
    change = step * direction
    slopes = (model.unembed(final + change) - model.unembed(final - change)) / (2 * step)
    mean = slopes.float().mean(0)
    mean = mean - mean.mean()
    ends = []
    for sign in (1, -1):
        best = (sign * mean).topk(min(top, len(mean)))
        words = pieces(best.indices.tolist())  # type: ignore[operator]
        ends.append(tuple(zip(words, (sign * best.values).tolist(), strict=True)))
    return ends[0], ends[1]


def _direction(model: Model, dictionary: Dictionary, number: int) -> Float[Tensor, " d"] | None:
    """What a feature writes into the residual stream per unit, into all layers together."""
    row = dictionary.decoder_rows([number])[0].to(model.device, model.dtype)
    row = row.sum(0) if row.ndim == 2 else row
    if dictionary.writes == "attn_z":
        z = row.view(1, 1, model.wiring.heads, model.d_head)
        share: Tensor = model.write(dictionary.layer, None, z).sum(0)[0, 0]
        return share
    inside = ("mlp_in", "mlp_normalized", "neurons")
    return None if dictionary.writes in inside else row
