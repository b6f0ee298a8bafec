"""One method on one model under one corruption and seed: every number of its scores."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from math import nan
from typing import Any, TypeAlias

import numpy as np

from circuitkit.engine.metric import Corruption, Metric
from circuitkit.errors import EvaluationError
from circuitkit.evaluation.recovery import average_precision, recovery
from circuitkit.evaluation.size_curves import size_curves
from circuitkit.graph.scores import Scores, ScoresWarning
from circuitkit.workflows.benchmark.counting import cost, counted
from circuitkit.workflows.benchmark.labels import MEMBERS, TrueEdges
from circuitkit.workflows.benchmark.subjects import Subject

__all__ = ["NUMBERS", "Numbers", "to_block", "from_block", "measured"]

Numbers: TypeAlias = dict[str, float]
LABELLED = ("ap_one", "ap_half")
RECOVERY = ("average_precision", "auroc", "acdc_auroc", "hamming", "recall")
CURVES = ("cmd", "cmd_log", "cpr", "accuracy_area")
NUMBERS = (
    "average_precision", *LABELLED, *RECOVERY[1:], *(f"recall_{label}" for label in MEMBERS),
    *CURVES, "forwards", "backwards", "sequence_backwards", "cpu_seconds", "true", "edges",
)  # fmt: skip


def to_block(numbers: Numbers) -> dict[str, np.ndarray]:
    """As a block of a journal."""
    return {"numbers": np.array([numbers[name] for name in NUMBERS])}


def from_block(block: dict[str, np.ndarray] | None) -> Numbers | None:
    """From a block of a journal; None where there is none, or something else, such as a cell of
    another version."""
    if block is None or list(block) != ["numbers"]:
        return None
    numbers = block["numbers"]
    if numbers.shape != (len(NUMBERS),) or numbers.dtype.kind != "f":
        return None
    return dict(zip(NUMBERS, numbers.tolist(), strict=True))


def measured(
    subject: Subject,
    method: Callable[..., Scores],
    prompts: int,
    metric: Metric,
    corruption: Corruption,
    truth: TrueEdges | None,
    **settings: object,
) -> Numbers:
    """What the method's scores of the first so many seen prompts are worth, by the NUMBERS: against
    the truth if there is one, and on the unseen prompts. They are timed and counted. What is not
    defined is nan; raises as the method does."""
    model, tally = counted(subject.model)
    seen = subject.seen[:prompts]
    start = time.process_time()
    with warnings.catch_warnings():  # of single methods: what they are worth is measured
        warnings.simplefilter("ignore", ScoresWarning)
        scores = method(model, seen, metric, corruption, **settings)
    seconds = time.process_time() - start
    spent = cost(subject.model, seen, tally)
    numbers = {
        **dict.fromkeys(NUMBERS, nan),
        **_recovered(scores, truth),
        **_curves(subject, scores, metric, corruption),
        "forwards": spent.forwards,
        "backwards": spent.backwards,
        "sequence_backwards": spent.sequence_backwards,
        "cpu_seconds": seconds,
        "edges": float(subject.model.wiring.n_edges),
    }
    return {name: numbers[name] for name in NUMBERS}


def _recovered(scores: Scores, truth: TrueEdges | None) -> Numbers:
    if truth is None:
        return {}
    found = recovery(scores, truth.true, truth.members)
    other = {
        f"ap_{label}": average_precision(scores, mask)
        for label, mask in truth.labels.items()
        if f"ap_{label}" in LABELLED
    }
    recalls = {f"recall_{label}": value for label, value in found.recalls.items()}
    own = {name: getattr(found, name) for name in RECOVERY}
    return own | other | recalls | {"true": float(found.true)}


def _curves(subject: Subject, scores: Scores, *inputs: Any) -> Numbers:
    """The areas; nan where the metric has no gap between the clean and the corrupted run."""
    curves = size_curves(subject.model, scores, subject.unseen, *inputs)
    signed, magnitude = curves["signed"], curves["abs"]
    try:
        areas = magnitude.cmd("asked"), magnitude.cmd("log"), signed.cpr("asked")
    except EvaluationError:
        areas = nan, nan, nan
    return dict(zip(CURVES, (*areas, magnitude.accuracy_area("log")), strict=True))
