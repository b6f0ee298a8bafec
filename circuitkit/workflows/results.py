"""What a discovery found: a circuit, with everything that was measured of it."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from circuitkit.evaluation.ability import Ability
from circuitkit.evaluation.faithfulness import Evaluation
from circuitkit.evaluation.verification import Verification
from circuitkit.graph import circuit as circuits
from circuitkit.graph.circuit import Circuit
from circuitkit.graph.compare import Agreement
from circuitkit.graph.nodes import INPUT
from circuitkit.graph.scores import Scores
from circuitkit.graph.types import Mask
from circuitkit.util.json_values import Json
from circuitkit.util.versions import versions

__all__ = ["Discovery"]


@dataclass(frozen=True)
class Discovery:
    """A circuit with what was measured of it; prints itself as a summary, and draws itself in a
    notebook."""

    circuit: Circuit
    scores: Scores
    ability: Ability
    evaluation: Evaluation
    complement: Evaluation
    null: tuple[Evaluation, ...]
    seconds: float
    mebibytes: float
    verification: Verification | None = None
    agreement: Agreement | None = None

    @classmethod
    def of(
        cls,
        scores: Scores,
        mask: Mask,
        evaluated: tuple[Evaluation, Evaluation, tuple[Evaluation, ...]],
        metadata: Mapping[str, Json],
        *,
        ability: Ability,
        seconds: float,
        mebibytes: float,
        verification: Verification | None = None,
        agreement: Agreement | None = None,
    ) -> Discovery:
        """The result, from the scores, the circuit chosen from them, the evaluations of the
        circuit, of all other edges and of random circuits, and what else was measured; scores and
        circuit carry the metadata."""
        found, complement, null = evaluated
        low, high = found.interval()
        random = float(np.mean([e.faithfulness for e in null]))
        numbers = {"value": found.faithfulness, "low": low, "high": high, "random": random}
        faithfulness = {key: round(value, 4) for key, value in numbers.items()}
        own = {**metadata, "faithfulness": faithfulness, "versions": versions()}
        scores = replace(scores, about={**scores.about, **own})
        return cls(
            circuit=scores.circuit(mask), scores=scores, evaluation=found, complement=complement,
            null=null, ability=ability, seconds=seconds, mebibytes=mebibytes,
            verification=verification, agreement=agreement,
        )  # fmt: skip

    @property
    def random(self) -> float:
        """The mean faithfulness of the random circuits."""
        return float(np.mean([e.faithfulness for e in self.null]))

    def heads(self, n: int = 10) -> list[tuple[str, float]]:
        """The heads and MLPs that carry most: Σ |weight| over the edges out of each."""
        carried: dict[str, float] = {}
        for writer, _, weight in circuits.edges(self.circuit):
            carried[writer] = carried.get(writer, 0.0) + abs(weight)
        carried.pop(INPUT, None)
        return sorted(carried.items(), key=lambda item: -item[1])[:n]

    def edges(self, n: int = 10) -> list[tuple[str, float]]:
        """The circuit's strongest edges."""
        own = circuits.mask(self.circuit)
        values = np.where(own, self.scores.values, 0)
        return Scores(self.scores.wiring, values).strongest(min(n, int(own.sum())))

    def to_dict(self) -> dict[str, Json]:
        """Everything that the summary says, for machines."""
        low, high = self.evaluation.interval()
        about = self.circuit.graph
        return {
            **{k: v for k, v in about.items() if k not in ("wiring", "versions")},
            "edges": self.evaluation.edges,
            "edges_total": self.scores.wiring.n_edges,
            "accuracy": self.ability.accuracy,
            "metric_clean": self.ability.clean,
            "metric_corrupt": self.ability.corrupt,
            "faithfulness": self.evaluation.faithfulness,
            "interval": [low, high],
            "mean_of_ratios": self.evaluation.mean_of_ratios,
            "complement_faithfulness": self.complement.faithfulness,
            "random_faithfulness": [e.faithfulness for e in self.null],
            "strongest_edges": self.edges(),
            "strongest_components": self.heads(),
            "seconds": round(self.seconds, 2),
            "peak_mebibytes": round(self.mebibytes),
            **({"verification": self.verification.to_dict()} if self.verification else {}),
            **({"orders": self.agreement.to_dict()} if self.agreement else {}),
        }

    def __repr__(self) -> str:
        about, found = self.circuit.graph, self.evaluation
        low, high = found.interval()
        spread = [e.faithfulness for e in self.null]
        lines = [
            f"{about['task']} on {about['model']}: {circuits.summary(self.circuit)}",
            "",
            f"  the model        {self.ability}",
            f"  faithfulness     {found.faithfulness:.3f}  [{low:.3f}, {high:.3f}]  "
            f"({found.metric}, {found.corruption}, {len(found.circuit)} unseen prompts)",
            f"  mean of ratios   {found.mean_of_ratios:.3f}",
            f"  without it       {self.complement.faithfulness:.3f}  (all other edges kept)",
            f"  random circuits  {self.random:.3f}  [{min(spread):.3f}, {max(spread):.3f}]  "
            f"({len(spread)} of the same size)",
            f"  cost             {self.seconds:.1f} s, peak memory {self.mebibytes:,.0f} MiB",
            "",
            f"  {'strongest edges':34s}strongest components (Σ|weight| of their edges)",
        ]
        rows = zip(self.edges(), [*self.heads(), *[("", 0.0)] * 10], strict=False)
        for (edge, weight), (head, total) in rows:
            right = f"{total:7.3f}  {head}" if head else ""
            lines.append(f"  {weight:+8.3f}  {edge:24s}{right}")
        if self.verification:
            lines += ["", repr(self.verification)]
        if self.agreement:
            lines += ["", f"In random orders, {self.agreement}"]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        picture: str = self.circuit._repr_svg_()
        return f"{picture}<pre>{html.escape(repr(self))}</pre>"
