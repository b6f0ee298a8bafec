"""A table for each question of the paper (Zhang & Nanda 2024), as rows.

``detected`` (§3.1): which components each corruption and metric finds. ``corruptions`` and
``metrics``: how far two of them disagree, beside ``floor``, how far what one choice finds changes
with the sample of prompts. ``negatives`` (§4.2): the components that hurt, and what
probability can see of them. ``windows`` (§5): joint windows beside the sum of their layers.
``tokens`` (appendix F): where each corruption's difference stands in the residual stream.
``attention`` and ``restored`` (§3.2): what a corruption does to the mechanism. ``circuits``: how
faithful each circuit is under every choice, and ``choices`` what each choice does to that (Miller
et al. 2024).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import combinations
from typing import Any, TypeAlias

import numpy as np

from circuitkit.graph.compare import Overlap
from circuitkit.patching.detection import Detection, detected_by_threshold
from circuitkit.patching.effects import Effects
from circuitkit.util.statistics import spearman
from circuitkit.workflows.study.floor import bounded, floor, means, separated
from circuitkit.workflows.study.records import Records

__all__ = [
    "NEGLIGIBLE",
    "Row",
    "tables",
    "detected",
    "thresholds",
    "compared",
    "signs",
    "negatives",
    "windows",
]

Row: TypeAlias = dict[str, Any]
NEGLIGIBLE = 0.05  # of the gap: peaks below it have no telling ratio
HALF = 0.5  # of the gap: from there on a site is said to carry the difference


def tables(study: Records) -> dict[str, list[Row]]:
    """Every table that has rows, by its name."""
    made: Mapping[str, Iterable[Row]] = {
        "detected": detected(study),
        "thresholds": thresholds(study),
        "floor": floor(study),
        "corruptions": _pairs(study, "corruption"),
        "metrics": _pairs(study, "metric"),
        "negatives": negatives(study),
        "windows": windows(study),
        "tokens": _tokens(study),
        "attention": _attention(study),
        "restored": _restored(study),
        "choices": study.circuits.choices() if study.circuits else [],
        "circuits": study.circuits.rows() if study.circuits else [],
        "circuit_overlap": study.circuits.overlap() if study.circuits else [],
        "circuit_floor": study.circuits.floor() if study.circuits else [],
        "effects": _effects(study),
    }
    rows = {name: list(own) for name, own in made.items()}
    return {name: own for name, own in rows.items() if own}


# -- what is found ---------------------------------------------------------------------------------
def detected(study: Records) -> Iterator[Row]:
    """What each corruption and metric finds of each kind, by role where a reference names any."""
    for (part, corruption, metric), found in study.detections.items():
        row: Row = {"nodes": part, "corruption": corruption, "metric": metric}
        row |= {"help": ", ".join(found.helping), "hurt": ", ".join(found.hurting)}
        if study.roles and part == "z":
            row |= {role: f"{n}/{of}" for role, (n, of) in found.counts(study.roles).items()}
            overlap = found.overlap(study.roles)
            row |= {"precision": overlap.precision, "recall": overlap.recall}
        yield row


def thresholds(study: Records) -> Iterator[Row]:
    """How what is found changes with the threshold."""
    for key in study.detections:
        part, corruption, metric = key
        for row in detected_by_threshold(study.effects[key], study.roles):
            yield {"nodes": part, "corruption": corruption, "metric": metric, **row}


def _effects(study: Records) -> Iterator[Row]:
    for (part, corruption, metric), effects in study.effects.items():
        found = study.detections.get((part, corruption, metric))
        share = effects.share
        low, high = effects.interval()
        columns = (effects.mean, effects.standard_error, low, high, share)
        for name, *numbers in zip(effects.names, *map(np.ravel, columns), strict=True):
            values = dict(
                zip(("effect", "stderr", "low", "high", "share"), map(float, numbers), strict=True)
            )
            signs = "" if found is None or name not in found.nodes else _sign(found, name)
            yield {
                "nodes": part, "corruption": corruption, "metric": metric, "node": name,
                "role": study.roles.get(name, ""), **values, "detected": signs,
            }  # fmt: skip


def _sign(found: Detection, name: str) -> str:
    return {1: "+", -1: "-", 0: ""}[found.sign(name)]


# -- how far two choices disagree ------------------------------------------------------------------
def _pairs(study: Records, kind: str) -> Iterator[Row]:
    """Every two corruptions under one metric, or every two metrics under one corruption; ``within``
    and ``between`` are mean Jaccard indices of finds on two samples, ``p`` that of their
    difference."""
    of_corruption = kind == "corruption"
    fixed, varied = (study.metrics, study.corruptions)[:: 1 if of_corruption else -1]
    for part in study.kinds:
        for held in fixed:
            for left, right in combinations(varied, 2):
                keys = [(part, *((x, held) if of_corruption else (held, x))) for x in (left, right)]
                other = "metric" if of_corruption else "corruption"
                labels = {"nodes": part, other: held, "left": left, "right": right}
                apart = separated(study, keys[0], keys[1])
                beyond = {"within": apart.within, "between": apart.between, "p": apart.p}
                yield labels | compared(*(study.detections[key] for key in keys)) | beyond


def compared(left: Detection, right: Detection) -> Row:
    """How two detections of the same components agree: what both find, beside chance, the rank
    correlation of all effects, and the components that either finds whose effects differ in
    sign."""
    a, b = set(left.found), set(right.found)
    overlap = Overlap(len(a), len(b), len(a & b), len(left.nodes))
    return {
        "both": overlap.both, "left_only": len(a - b), "right_only": len(b - a),
        "jaccard": overlap.jaccard, "by_chance": overlap.expected_jaccard,
        "spearman": spearman(left.effects, right.effects),
        "flipped": ", ".join(signs(left, right)),
    }  # fmt: skip


def signs(left: Detection, right: Detection) -> list[str]:
    """The components that either finds, and whose effects differ in sign."""
    one, two = (dict(zip(d.nodes, d.effects, strict=True)) for d in (left, right))
    either = dict.fromkeys(left.found + right.found)
    return [name for name in either if one[name] * two[name] < 0]


def negatives(study: Records) -> Iterator[Row]:
    """The components that the logit difference finds to hurt, and what probability says of them;
    its effects cannot fall below −P_corrupt(r), the bound."""
    if not {"probability", "logit_diff"} <= set(study.metrics):
        return
    for part in study.kinds:
        for corruption in study.corruptions:
            likely = study.detections[part, corruption, "probability"]
            found = study.detections[part, corruption, "logit_diff"].hurting
            corrupted = float(study.corrupted[corruption, "probability"].mean())
            yield {
                "nodes": part, "corruption": corruption,
                "P clean": float(study.clean["probability"].mean()), "P corrupted": corrupted,
                "bound": -corrupted, "P threshold": likely.bounds[0],
                "hurt by logit_diff": ", ".join(found),
                "missed by probability": ", ".join(n for n in found if likely.sign(n) >= 0),
            }  # fmt: skip


# -- windows and tokens ----------------------------------------------------------------------------
def windows(study: Records) -> Iterator[Row]:
    """The peak of each size; no ratio where the MLPs carry next to nothing of the gap; its interval
    is that of draws of the examples."""
    for (corruption, metric), windows in study.windows.items():
        gap = float((study.clean[metric] - study.corrupted[corruption, metric]).mean())
        for size, joint in windows.joint.items():
            (at, peak), (alone, summed) = (_peak(e) for e in (joint, windows.summed[size]))
            tells = max(peak, summed) >= NEGLIGIBLE * abs(gap)
            ratio = bounded(_ratio(joint, windows.summed[size])) if tells else None
            yield {
                "corruption": corruption, "metric": metric, "at": study.about["windows_at"],
                "size": size,
                "peak": peak, "share": peak / gap if gap else np.nan, "layers": at,
                "peak of sums": summed, "layers of sums": alone,
                "ratio": ratio.value if ratio else np.nan,
                "low": ratio.low if ratio else np.nan, "high": ratio.high if ratio else np.nan,
            }  # fmt: skip


def _ratio(joint: Effects, summed: Effects) -> np.ndarray:
    """The peak of the joint effects over that of their sums, and that of each draw."""
    above, below = (means(one.values).max(0) for one in (joint, summed))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(below > 0, above / below, np.nan)


def _peak(effects: Effects) -> tuple[str, float]:
    best = int(np.argmax(effects.mean))
    return effects.axes["window"][best], float(effects.mean[best])


def _tokens(study: Records) -> Iterator[Row]:
    """At each span the largest share of the gap that the residual stream restores, where, and the
    last layer before which it still restores half."""
    for part in study.parts:
        if not part.nodes.startswith("resid"):
            continue
        for corruption in study.corruptions:
            for metric in study.metrics:
                effects = study.effects[part.name, corruption, metric]
                if "span" in effects.axes:
                    labels = {"corruption": corruption, "metric": metric}
                    yield from ({**labels, **row} for row in _by_span(effects))


def _by_span(effects: Effects) -> Iterator[Row]:
    own_shares = effects.share
    layers = effects.axes["layer"]
    for column, span in enumerate(effects.axes["span"]):
        own = own_shares[:, column]
        if np.isnan(own).all():
            continue
        best, carrying = int(np.nanargmax(own)), np.flatnonzero(own >= HALF)
        yield {
            "span": span, "largest share": float(own[best]), "before layer": layers[best],
            "half from": layers[carrying[0]] if len(carrying) else "",
            "half until": layers[carrying[-1]] if len(carrying) else "",
        }  # fmt: skip


# -- the mechanism ---------------------------------------------------------------------------------
def _attention(study: Records) -> Iterator[Row]:
    """The mean attention of each group's heads from the end to each span."""
    for group, own in study.groups.items():
        places = [study.watched.index(head) for head in own if head in study.watched]
        for run, seen in study.attention.items() if places else ():
            means = seen[places].mean((0, 2))
            spans = zip(study.spans, map(float, means), strict=True)
            yield {"heads": group, "run": run, **dict(spans)}


def _restored(study: Records) -> Iterator[Row]:
    for (corruption, metric), effects in study.restored.items():
        columns = (effects.mean, effects.standard_error, effects.share)
        for group, *numbers in zip(effects.axes["group"], *columns, strict=True):
            effect, error, share = map(float, numbers)
            reached = float(study.corrupted[corruption, metric].mean()) + effect
            yield {
                "group": group, "corruption": corruption, "metric": metric, "effect": effect,
                "stderr": error, "share": share, "metric reached": reached,
            }  # fmt: skip
