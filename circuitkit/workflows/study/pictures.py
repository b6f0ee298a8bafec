"""The figures of a study."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np

from circuitkit.graph.separation import alike
from circuitkit.patching.detection import Detection
from circuitkit.patching.effects import Effects
from circuitkit.patching.pictures import unit_of
from circuitkit.util.statistics import spearman
from circuitkit.viz.figures import Heatmap, Lines, Panels
from circuitkit.workflows.study.records import KINDS, Records
from circuitkit.workflows.study.tables import thresholds

__all__ = ["Figure", "figures"]

Figure: TypeAlias = Heatmap | Lines | Panels
SHARED = {"logit_diff"}  # curves of it are shares of the gap (§2); of other metrics plain effects
GAP = "share of the gap"  # what colours mean that are the same under every metric


def figures(study: Records) -> dict[str, Figure]:
    """Every figure that the study has numbers for, by its name."""
    made: Mapping[str, Any] = {
        "heads": _heads,
        "mlps": _mlps,
        "thresholds": _thresholds,
        "agreement": _agreement,
        "ranks": _ranks,
        "stream": _stream,
        "prompt": _prompt,
        "windows": _windows,
        "circuits": _circuits,
    }
    drawn = {name: draw(study) for name, draw in made.items()}
    return {name: figure for name, figure in drawn.items() if figure is not None}


def _drawn(effects: Effects) -> np.ndarray:
    """The normalised effects of the logit difference, the plain ones of other metrics (§2)."""
    return effects.share if _shared(effects.metric) else effects.mean


def _shared(metric: str) -> bool:
    return metric in SHARED


def _short(corruption: str) -> str:
    """``noise S2`` of ``noise(text='S2')``: figures have little room."""
    return re.sub(r"\(text='([^']*)'\)$", r" \1", corruption)


# -- components ------------------------------------------------------------------------------------
def _heads(study: Records) -> Panels | None:
    """Layer × head, a panel for each corruption (down) and metric (across): shares of the gap under
    every metric, so that all panels have one scale. It ends at the whole gap at the latest."""
    cells = [
        (corruption, metric, study.effects["z", corruption, metric])
        for corruption in study.corruptions
        for metric in study.metrics
        if ("z", corruption, metric) in study.detections
    ]
    if not cells:
        return None
    panels = []
    for corruption, metric, effects in cells:
        found = study.detections["z", corruption, metric]
        panel = effects.heatmap(
            share=True, title=f"{metric}, {_short(corruption)}", marks=found.marks,
            mark_name=found.mark_name,
        )  # fmt: skip
        panels.append(replace(panel, unit=GAP))
    panels = _to_the_gap(panels)
    return Panels(panels, columns=len(study.metrics), title="The effect of each head")


def _to_the_gap(panels: Sequence[Heatmap]) -> list[Heatmap]:
    """The panels of shares, whose colours end at the whole gap, ±1, where any goes beyond."""
    beyond = any(bool(np.any(np.abs(panel.table) > 1)) for panel in panels)
    return [replace(panel, limit=1.0) for panel in panels] if beyond else [*panels]


def _mlps(study: Records) -> Panels | None:
    """The effect of each MLP, a panel for each metric, a line for each corruption."""
    if not any(part.name == "mlp_out" for part in study.parts):
        return None
    panels = []
    for metric in study.metrics:
        own = {c: study.effects["mlp_out", c, metric] for c in study.corruptions}
        panels.append(
            Lines(
                x=tuple(map(int, next(iter(own.values())).axes["layer"])),
                series={_short(c): _drawn(effects) for c, effects in own.items()},
                title=metric,
                x_name="layer",
                y_name=unit_of(metric, _shared(metric)),
            )
        )
    return Panels(panels, columns=len(panels), title="The effect of each MLP")


# -- agreement -------------------------------------------------------------------------------------
def _agreement(study: Records) -> Heatmap | None:
    """Every corruption and metric against every other: how alike what they find is; on the diagonal
    what one of them finds on two samples, where there are any."""
    found = _compared(study)
    if not found:
        return None
    part = study.kinds[0]
    again = [[d.found for d in study.redetections[part, *choice]] for choice in found]
    floor = all(len(own) > 1 for own in again)
    sets = again if floor else [[d.found] for d in found.values()]
    on = " on two samples (diagonal: the noise floor)" if floor else ""
    return _matrix(
        np.array([[alike(a, b) for b in sets] for a in sets]), found,
        f"{KINDS[part]} found{on}", "Jaccard index", diverging=False,
    )  # fmt: skip


def _ranks(study: Records) -> Heatmap | None:
    """Every corruption and metric against every other: how they rank all components."""
    found = _compared(study)
    if not found:
        return None
    table = [[spearman(a.effects, b.effects) for b in found.values()] for a in found.values()]
    title = f"The order of all {KINDS[study.kinds[0]]}"
    return _matrix(np.array(table), found, title, "rank correlation of effects", diverging=True)


def _compared(study: Records) -> dict[tuple[str, str], Detection]:
    """What each corruption and metric finds of the first kind of components; empty where there are
    no two of them."""
    if len(study.corruptions) * len(study.metrics) < 2 or not study.kinds:
        return {}
    part = study.kinds[0]
    return {(key[1], key[2]): d for key, d in study.detections.items() if key[0] == part}


def _matrix(
    values: np.ndarray, found: Iterable[tuple[str, str]], title: str, unit: str, *, diverging: bool
) -> Heatmap:
    labels = tuple(f"{_short(corruption)} · {metric}" for corruption, metric in found)
    return Heatmap(
        values, labels, labels, title=title[:1].upper() + title[1:], unit=unit, numbers=True,
        diverging=diverging, limit=1.0,
    )  # fmt: skip


def _thresholds(study: Records) -> Panels | None:
    """How many components are found, by the threshold; a panel for each metric."""
    if not study.kinds:
        return None
    rows = [row for row in thresholds(study) if row["nodes"] == study.kinds[0]]
    panels = []
    for metric in study.metrics:
        own = [row for row in rows if row["metric"] == metric]
        x = tuple(dict.fromkeys(row["threshold"] for row in own))
        series = {
            _short(c): np.array(
                [r["help"] + r["hurt"] for r in own if r["corruption"] == c], dtype=float
            )
            for c in study.corruptions
        }
        panels.append(
            Lines(x=x, series=series, title=metric, x_name="threshold (SD)", y_name="found")
        )
    return Panels(panels, columns=len(panels), title="Detection against its threshold")


# -- where and when --------------------------------------------------------------------------------
def _stream(study: Records) -> Panels | None:
    """Layer × span of the residual stream, a panel for each corruption."""
    metric = study.main
    panels = [
        effects.heatmap(share=_shared(metric), title=_short(corruption))
        for (name, corruption, of), effects in study.effects.items()
        if name.startswith("resid") and of == metric and "span" in effects.axes
    ]
    if not panels:
        return None
    title = f"The residual stream at each span ({metric})"
    panels = _to_the_gap(panels) if _shared(metric) else panels
    return Panels(panels, columns=min(len(panels), 2), title=title)


def _prompt(study: Records) -> Panels | None:
    """Layer × token of one prompt, a panel for each corruption."""
    shared = _shared(study.main)
    panels = [
        effects.heatmap(share=shared, title=_short(corruption), columns=study.tokens)
        for corruption, effects in study.prompt.items()
    ]
    if not panels:
        return None
    title = "The residual stream at each token of the first prompt"
    panels = _to_the_gap(panels) if shared else panels
    return Panels(panels, columns=min(len(panels), 2), title=title)


def _windows(study: Records) -> Panels | None:
    """The joint effect of windows by their middle layer, and the sums of their layers."""
    metric = study.main
    panels = [
        study.windows[corruption, metric].curves(share=_shared(metric), title=_short(corruption))
        for corruption in study.corruptions
        if (corruption, metric) in study.windows
    ]
    if not panels:
        return None
    title = "Windows of adjacent MLPs: joint, and as sums of single layers"
    return Panels(panels, columns=min(len(panels), 2), title=title)


# -- circuits --------------------------------------------------------------------------------------
def _circuits(study: Records) -> Panels | None:
    """Circuits × the ways to measure them, a panel for each granularity."""
    if study.circuits is None:
        return None
    rows = study.circuits.rows()
    levels = dict.fromkeys(row["granularity"] for row in rows)
    panels = [
        _measured([row for row in rows if row["granularity"] == level], f"by cutting {level}s")
        for level in levels
    ]
    sample = ", in sample" if study.circuits.in_sample else ""
    title = f"The faithfulness of every circuit by every measure{sample}"
    return Panels(panels, columns=1, title=title)


def _measured(rows: Sequence[Mapping[str, Any]], title: str) -> Heatmap:
    found = tuple(dict.fromkeys(row["circuit"] for row in rows))
    ways = tuple(dict.fromkeys(_way(row) for row in rows))
    values = np.full((len(found), len(ways)), np.nan)
    for row in rows:
        values[found.index(row["circuit"]), ways.index(_way(row))] = row["faithfulness"]
    return Heatmap(
        values,
        row_labels=tuple(map(_found, found)),
        column_labels=ways,
        row_name="circuit found by",
        column_name="measured by",
        title=title,
        unit="faithfulness (ratio of means)",
        numbers=True,
        limit=1.0,
    )


def _found(circuit: str) -> str:
    metric, _, corruption = circuit.partition(" under ")
    return f"{_short(corruption)} · {metric}"


def _way(row: Mapping[str, Any]) -> str:
    return f"{_short(row['corruption'])} · {row['metric']}"
