"""What a discovery between places found: a circuit, with everything that was measured of it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from circuitkit.evaluation.ability import Ability
from circuitkit.evaluation.faithfulness import Evaluation
from circuitkit.evaluation.places.certainty import PlacedCertainty
from circuitkit.evaluation.places.choosing import ChosenPlaces
from circuitkit.graph import circuit as circuits
from circuitkit.graph.circuit import Circuit
from circuitkit.graph.nodes import edge_name
from circuitkit.graph.placed_scores import PlacedScores
from circuitkit.graph.places import PlacedMask
from circuitkit.util.json_values import Json, nan_to_none
from circuitkit.util.statistics import interval_text
from circuitkit.util.versions import versions
from circuitkit.workflows.folders import filled
from circuitkit.workflows.measured import Measured

if TYPE_CHECKING:
    import pandas

__all__ = ["FILES", "PlacedDiscovery"]

FILES = ("circuit.json", "scores.safetensors", "circuit.svg")


@dataclass(frozen=True, eq=False, repr=False)
class PlacedDiscovery(Measured):
    """What a discovery between places found: a circuit, with everything that was measured of it.

    Attributes:
        circuit: The circuit, whose nodes are bound to spans; an edge of the residual stream has its
            score for a weight, and one of attention what cutting it alone in the circuit costs.
        scores: The scores from which it was chosen.
        ability: How well the model does the task, on the prompts of the discovery.
        chosen: How it was chosen: the sizes that were tried, and the edges of attention.
        evaluation: Its faithfulness.
        free: That of the circuit with all edges of attention.
        plain: That of the plain circuit that the same scores give for what was asked.
        plain_places: The plain circuit, spread over all places.
        null: That of random circuits between places of the same numbers of edges.
        certainty: How sure its edges are.
        seconds: How long it took.
        mebibytes: The most memory that the process held.

    Example:
        >>> found = ck.discover_positions(model, "ioi", method="eap", edges=30, examples=8)
        >>> print(found)
        ioi on mini: ... residual and ... attention edges, faithfulness ... 8 unseen prompts)
    """

    circuit: Circuit
    scores: PlacedScores
    ability: Ability
    chosen: ChosenPlaces
    evaluation: Evaluation
    free: Evaluation
    plain: Evaluation
    plain_places: PlacedMask
    null: tuple[Evaluation, ...]
    certainty: PlacedCertainty | None
    seconds: float
    mebibytes: float

    @classmethod
    def of(
        cls,
        scores: PlacedScores,
        chosen: ChosenPlaces,
        evaluated: Sequence[Evaluation],
        metadata: Mapping[str, Json],
        *,
        ability: Ability,
        plain: PlacedMask,
        certainty: PlacedCertainty | None,
        words: Sequence[Sequence[str]],
        seconds: float,
        mebibytes: float,
    ) -> PlacedDiscovery:
        """The result, from the scores, the circuit chosen from them, and the evaluations of the
        circuit, of it with all of attention, of the plain one, and of random ones."""
        found, free, whole, *null = evaluated
        random = float(np.mean([each.faithfulness for each in null]))
        own = {**metadata, "faithfulness": found.said(random=random), "versions": versions()}
        scores = replace(scores, about={**scores.about, **own})
        circuit = _circuit(scores, chosen, certainty, words)
        return cls(circuit, scores, ability, chosen, found, free, whole, plain, tuple(null),
                   certainty, seconds, mebibytes)  # fmt: skip

    def edges(self, n: int = 15) -> list[tuple[str, float]]:
        """The n strongest edges, each with its weight."""
        return [(edge_name(w, r), x) for w, r, x in circuits.strongest(self.circuit)[:n]]

    def to_frame(self) -> pandas.DataFrame:
        """The circuit's edges, the strongest first, as ``Circuit.to_frame`` gives them."""
        return self.circuit.to_frame()

    def save(self, folder: str | os.PathLike[str], *, overwrite: bool = False) -> list[Path]:
        """Write the circuit (``circuit.json``), the scores (``scores.safetensors``) and a picture
        (``circuit.svg``) into a folder; returns the files. Raises OutputError as
        ``Discovery.save`` does."""
        with filled(folder, "discovery", overwrite) as new:
            self.circuit.save(new / FILES[0])
            self.scores.save(new / FILES[1])
            self.draw(new / FILES[2])
        return [Path(folder) / name for name in FILES]

    def to_dict(self) -> dict[str, Json]:
        """The summary as a dictionary for JSON."""
        low, high = self.evaluation.interval()
        residual, attention = self.chosen.mask.counts()
        plain = self.plain_places.counts()
        about = dict(self.circuit.graph)
        return {
            **{k: v for k, v in about.items() if k not in ("wiring", "versions", "places")},
            "spans": list(self.scores.places.spans),
            "in_sample": self.in_sample,
            "residual_edges": residual,
            "attention_edges": attention,
            "attention_edges_alive": self.chosen.free.counts()[1],
            "accuracy": self.ability.accuracy,
            "faithfulness": self.evaluation.faithfulness,
            "interval": nan_to_none([low, high]),
            "free_faithfulness": self.free.faithfulness,
            "plain": {"edges": self.plain.edges, "faithfulness": self.plain.faithfulness,
                      "residual_places": plain[0], "attention_places": plain[1]},
            "random_faithfulness": [each.faithfulness for each in self.null],
            "sizes": {str(n): value for n, value in self.chosen.sizes.items()},
            "kept": {str(n): value for n, value in self.chosen.kept.items()},
            "strongest_edges": self.edges(),
            "seconds": round(self.seconds, 2),
            "peak_mebibytes": round(self.mebibytes),
            "certainty": None if self.certainty is None else self.certainty.to_dict(),
        }  # fmt: skip

    # -- displays ------------------------------------------------------------------------------
    def _counted(self) -> str:
        residual, attention = self.chosen.mask.counts()
        return f"{residual:,} residual and {_attention_edges(attention)}"

    def __str__(self) -> str:
        about, found = self.circuit.graph, self.evaluation
        return (
            f"{about['task']} on {about['model']}: {self._counted()}, faithfulness "
            f"{found.faithfulness:.3f} {interval_text(*found.interval())} ({found.metric}, "
            f"{self._prompts()})"
        )

    def __repr__(self) -> str:
        about, found, plain = self.circuit.graph, self.evaluation, self.plain_places.counts()
        spread = [each.faithfulness for each in self.null]
        lines = [
            f"{about['task']} on {about['model']}: {self._counted()} between "
            f"{len(self.scores.places.spans)} spans",
            "",
            f"  spans            {', '.join(self.scores.places.spans)}",
            f"  the model        {self.ability!r}",
            f"  method           {about['method']}, ranked by {about['rule']}",
            f"  faithfulness     {found.faithfulness:.3f}  {interval_text(*found.interval())}  "
            f"({found.metric}, {found.corruption}, {self._prompts()})",
            f"  attention free   {self.free.faithfulness:.3f}  "
            f"({_attention_edges(self.chosen.free.counts()[1])} instead)",
            f"  plain circuit    {self.plain.faithfulness:.3f}  ({self.plain.edges:,} edges, which "
            f"are {plain[0]:,} residual and {_attention_edges(plain[1])} here)",
            f"  random circuits  {self.random:.3f}  [{min(spread):.3f}, {max(spread):.3f}]  "
            f"({len(spread)} of the same size)",
            self._pruning(),
            *self._sure(),
            f"  cost             {self.seconds:.1f} s, peak memory {self.mebibytes:,.0f} MiB",
            "",
            "  strongest edges",
            *(f"  {weight:+8.3f}  {edge}" for edge, weight in self.edges()),
        ]
        return "\n".join(lines)

    def _pruning(self) -> str:
        """How the edges of attention were chosen, on the prompts of the discovery."""
        chosen = self.chosen
        (attention, alive), whole = (
            (m.counts()[1] for m in (chosen.mask, chosen.free)),
            chosen.whole,
        )
        return (
            f"  attention edges  {attention:,} of {alive:,}, by exact effects; in sample they keep "
            f"{chosen.value:.3f} of {whole:.3f}"
        )

    def _sure(self) -> Iterator[str]:
        if self.certainty is None:
            yield "  certainty        not known: no scores of single examples"
            return
        yield from (f"  {name:17s}{text}" for name, text in self.certainty.lines())


def _attention_edges(n: int) -> str:
    return f"{n:,} attention edge{'' if n == 1 else 's'}"


def _circuit(
    scores: PlacedScores,
    chosen: ChosenPlaces,
    certainty: PlacedCertainty | None,
    words: Sequence[Sequence[str]],
) -> Circuit:
    """The circuit, with what is known of its edges."""
    places = scores.places
    circuit = scores.circuit(chosen.mask, words=[list(pair) for pair in words])
    for index in chosen.mask.edges()[chosen.mask.counts()[0] :]:
        writer, reader = places.edge(index)
        circuit[writer][reader].update(weight=float(chosen.effects[index]), exact=True)
    if certainty is not None:
        for cell, known in certainty.said():
            writer, reader = places.edge(cell)
            circuit[writer][reader].update(known)
    return circuit
