"""What a circuit of features says beside its faithfulness: what features carry, and what is left to
them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from circuitkit.evaluation.faithfulness import Evaluation
from circuitkit.evaluation.results import TableResult
from circuitkit.features.describing import Feature
from circuitkit.util.json_values import Json, nan_to_none
from circuitkit.util.statistics import interval_text
from circuitkit.util.tables import as_text, to_csv, to_frame

if TYPE_CHECKING:
    import pandas

__all__ = ["FeatureReport", "Kept"]

SHOWN = 10  # features of a summary
MEMBERS = 6  # features of a supernode that are listed
COLUMNS = ("feature", "weight", "active_share", "text", "raises", "supernode")
WORDS = 44  # letters of the text in which one is most active


@dataclass(frozen=True)
class Kept:
    """What is kept of a model, in words, and how faithful that is; ``features`` is how many of them
    are nodes there, ``edges`` how many edges there are."""

    what: str
    features: int
    evaluation: Evaluation

    def to_dict(self) -> dict[str, Json]:
        """A row of the table."""
        low, high = self.evaluation.interval()
        return {"what": self.what, "features": self.features, "edges": self.evaluation.edges,
                "faithfulness": self.evaluation.faithfulness, "low": low, "high": high}  # fmt: skip


@dataclass(frozen=True, eq=False)
class FeatureReport(TableResult):
    """What the features of a circuit carry, and what they are.

    Attributes:
        dictionaries: Where the features are from.
        chosen: How many features of what is taken apart (``m3``, ``a3``, ``r3``) are nodes.
        of: How many features there are.
        kept: What is kept and how faithful that is. The headline is ``alone``: the circuit's
            features and heads without what features leave over.
        described: The features of the circuit, the strongest first: what each is.
        weights: The sum of |weight| of the edges out of each of them, in metric units per example.
        supernodes: Groups of them that are proposed as one: active at like places of the prompts,
            with like scores of their out-edges.
    """

    dictionaries: str
    chosen: Mapping[str, int]
    of: int
    kept: Sequence[Kept]
    described: Sequence[Feature]
    weights: Mapping[str, float]
    supernodes: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def alone(self) -> Evaluation:
        """What the named features alone carry: rest, skip and error are cut."""
        return self.kept[0].evaluation

    def to_frame(self) -> pandas.DataFrame:
        """The features of the circuit: ``feature``, ``weight``, ``active_share``, and the ``text``
        in which each is most active, the ``token`` there marked; ``supernode`` is the group that
        is proposed for it, if any."""
        group = {name: key for key, names in self.supernodes.items() for name in names}
        rows = [
            {"feature": own.name, "weight": self.weights[own.name], "active_share": own.share,
             "text": str(own.shown[0]).split(None, 1)[1] if own.shown else "",
             "raises": " ".join(repr(token) for token, _ in own.raised[:5]),
             "supernode": group.get(own.name, "")}
            for own in self.described
        ]  # fmt: skip
        return to_frame(rows, COLUMNS)

    def to_csv(self) -> str:
        """The same as a file."""
        return to_csv(self.to_frame().to_dict("records"), COLUMNS)

    def to_dict(self) -> dict[str, Json]:
        """What was measured, and what the features are, as plain values."""
        return {
            "dictionaries": self.dictionaries, "of": self.of,
            "chosen": {**self.chosen},
            "kept": nan_to_none([one.to_dict() for one in self.kept]),
            "described": [
                {"weight": self.weights[own.name], **own.to_dict()} for own in self.described
            ],
            "supernodes": {name: [*own] for name, own in self.supernodes.items()},
        }  # fmt: skip

    def __str__(self) -> str:
        low, high = self.alone.interval()
        return (
            f"{len(self.described)} features in the circuit; with the heads, and without what they "
            f"leave over, they keep {self.alone.faithfulness:.3f} {interval_text(low, high)}"
        )

    def __repr__(self) -> str:
        layers = ", ".join(f"{name} {count}" for name, count in self.chosen.items())
        total = sum(self.chosen.values())
        lines = [
            f"{total:,} of {self.of:,} features ({self.dictionaries}) are nodes: {layers}",
            "", "  faithfulness                edges  features  what is kept",
        ]  # fmt: skip
        for one in self.kept:
            value, (low, high) = one.evaluation.faithfulness, one.evaluation.interval()
            lines.append(f"  {value:6.3f}  {interval_text(low, high):16s} {one.evaluation.edges:7,}"
                         f"  {one.features:8,}  {one.what}")  # fmt: skip
        rows = [
            {"Σ|weight|": f"{self.weights[own.name]:.3f}", "feature": own.name,
             "active": f"{own.share:.1%}", "most active at": _short(own)}
            for own in self.described[:SHOWN]
        ]  # fmt: skip
        lines += ["", as_text(rows)] if rows else []
        return "\n".join([*lines, *self._grouped()])

    def _grouped(self) -> Iterator[str]:
        """The proposed supernodes, the strongest first."""
        if self.supernodes:
            yield from ("", "supernodes: features that are active at like places and give alike")
        for name, names in [*self.supernodes.items()][:SHOWN]:
            more = [f"and {len(names) - MEMBERS} more"] if len(names) > MEMBERS else []
            yield f"  {name}: {', '.join([*names[:MEMBERS], *more])}"
        if len(self.supernodes) > SHOWN:
            yield f"  and {len(self.supernodes) - SHOWN} more"


def _short(own: Feature) -> str:
    """The end of the text up to the token at which the feature is most active."""
    if not own.shown:
        return ""
    text = str(own.shown[0]).split(None, 1)[1]
    upto = text[: text.rindex("]") + 1] if "]" in text else text
    return upto if len(upto) <= WORDS else "..." + upto[-WORDS:]
