"""One method on one model under one corruption and seed: its scores, and every number of them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from math import nan
from typing import Any

import numpy as np

from circuitkit.engine.metric import Corruption, Metric
from circuitkit.errors import CircuitkitError, EvaluationError
from circuitkit.evaluation.recovery import recovery
from circuitkit.evaluation.size_curves import size_curves
from circuitkit.graph.scores import Scores
from circuitkit.graph.wiring import Wiring
from circuitkit.util.reading import json_in
from circuitkit.workflows.benchmark.counting import cost, counted
from circuitkit.workflows.benchmark.subjects import LABELS, Subject, TrueEdges

__all__ = ["SHARE", "NUMBERS", "Cell", "measured"]

SHARE = 0.05  # of all edges, whose agreement over seeds is measured where no truth gives a size
RECOVERY = ("auroc", "acdc_auroc", "average_precision", "hamming", "recall")
CURVES = ("cpr", "cpr_kept", "cmd", "cmd_kept", "cmd_log", "accuracy_area")
NUMBERS = (
    *RECOVERY, *(f"recall_{label}" for label in LABELS), *CURVES,
    "forwards", "backwards", "sequence_backwards", "cpu_seconds", "true", "edges",
)  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """What a method said, and its NUMBERS by name; nan where one is not defined."""

    scores: Scores
    numbers: dict[str, float]

    def arrays(self) -> dict[str, np.ndarray]:
        """As a block of a journal."""
        numbers = np.array([self.numbers[name] for name in NUMBERS])
        chosen = bool(self.scores.about.get("chosen"))
        return {
            "values": self.scores.values, "chosen": np.array(chosen), "numbers": numbers,
            "wiring": np.frombuffer(json.dumps(self.scores.wiring.to_dict()).encode(), np.uint8),
        }  # fmt: skip

    @classmethod
    def of(cls, block: dict[str, np.ndarray]) -> Cell | None:
        """From a block of a journal; None where it is something else, such as a cell of another
        version."""
        if sorted(block) != ["chosen", "numbers", "values", "wiring"]:
            return None
        numbers, chosen = block["numbers"], block["chosen"]
        if numbers.shape != (len(NUMBERS),) or numbers.dtype.kind != "f" or chosen.dtype != bool:
            return None
        try:
            said: Any = json_in(block["wiring"])
            scores = Scores(Wiring(**said), block["values"], {"chosen": chosen.item()})
        except (CircuitkitError, TypeError, ValueError):
            return None
        return cls(scores, dict(zip(NUMBERS, numbers.tolist(), strict=True)))


def measured(
    subject: Subject,
    method: Callable[..., Scores],
    metric: Metric,
    corruption: Corruption,
    truth: TrueEdges | None,
    **settings: object,
) -> Cell:
    """The method's scores of the seen prompts, timed and counted, and what they are worth: against
    the truth if there is one, and on the unseen prompts. Raises as the method does."""
    model, tally = counted(subject.model)
    start = time.process_time()
    scores = method(model, subject.seen, metric, corruption, **settings)
    seconds = time.process_time() - start
    spent = cost(subject.model, subject.seen, tally)
    numbers = {
        **_recovered(scores, truth),
        **_curves(subject, scores, metric, corruption),
        "forwards": spent.forwards,
        "backwards": spent.backwards,
        "sequence_backwards": spent.sequence_backwards,
        "cpu_seconds": seconds,
        "edges": float(subject.model.wiring.n_edges),
    }
    return Cell(scores, {name: numbers[name] for name in NUMBERS})


def _recovered(scores: Scores, truth: TrueEdges | None) -> dict[str, float]:
    if truth is None:
        names = (*RECOVERY, *(f"recall_{label}" for label in LABELS), "true")
        return dict.fromkeys(names, nan)
    found = recovery(scores, truth.true, truth.members)
    recalls = {f"recall_{label}": found.recalls[label] for label in LABELS}
    return {name: getattr(found, name) for name in RECOVERY} | recalls | {"true": float(found.true)}


def _curves(subject: Subject, scores: Scores, *inputs: Any) -> dict[str, float]:
    """The areas; nan where the metric has no gap between the clean and the corrupted run."""
    curves = size_curves(subject.model, scores, subject.unseen, *inputs)
    signed, magnitude = curves["signed"], curves["abs"]
    try:
        areas = (
            signed.cpr("asked"), signed.cpr("kept"),
            magnitude.cmd("asked"), magnitude.cmd("kept"), magnitude.cmd("log"),
        )  # fmt: skip
    except EvaluationError:
        areas = (nan,) * 5
    return dict(zip(CURVES, (*areas, magnitude.accuracy_area("log")), strict=True))
