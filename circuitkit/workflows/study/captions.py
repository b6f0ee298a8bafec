"""What the captions of a study's page say: what is drawn, in which unit and with which sign."""

from __future__ import annotations

from types import MappingProxyType

from circuitkit.workflows.study.about import samples
from circuitkit.workflows.study.records import KINDS, Records

__all__ = ["TABLES", "of_figure"]

SIGN = "Positive values help the clean behaviour, negative ones work against it."
COLOURS = "Red helps the clean behaviour, blue works against it; all panels share one colour scale."
ENDS = "It ends at ±1, the whole gap, at the latest; its bar is pointed where values lie beyond."

# By the name of a table; units are those of the metric unless something else is said.
TABLES = MappingProxyType({
    "detected": "The components that each corruption and metric finds to help the clean behaviour "
    "and to hurt it (z are heads, mlp_out MLPs); against a reference, how many of each role.",
    "floor": "The noise floor: how many components one choice finds on a sample of the prompts, "
    "and the mean Jaccard index (1: the same ones) of what it finds on two samples.",
    "corruptions": "Two corruptions under one metric: how many components both find and only one, "
    "their Jaccard index beside that of random sets (by chance), the rank correlation of all "
    "effects, and components whose effects differ in sign. Within and between: the mean Jaccard "
    "index of one choice's finds and of the two choices', each on two samples; p: that of their "
    "difference.",
    "metrics": "Two metrics under one corruption; columns as for two corruptions.",
    "negatives": "The mean probability of the answer in both runs, the lowest effect that a "
    "component can have on it (bound), the effect below which one is found to hurt (P threshold), "
    "and the components that hurt by the logit difference.",
    "windows": "The largest joint effect of each size of window (peak; as a share of the gap), and "
    "of the sum of its layers; their ratio with its 95 % bootstrap interval over the prompts.",
    "tokens": "The largest share of the gap that the residual stream gives back at each span, "
    "before which layer, and the layers from and until which it is at least half.",
    "attention": "The mean attention (0 to 1) of each group of heads from the last token to each "
    "span.",
    "restored": "The joint effect of each group of heads with its standard error, in units of the "
    "metric and as a share of the gap, and the metric that is reached with them.",
    "choices": "What each choice alone does to the faithfulness, all others held: the mean and the "
    "largest range over its options.",
    "circuits": "The faithfulness of each circuit (1: the whole model, 0: the corrupted run) by "
    "each way to measure it, as the ratio of means with its 95 % bootstrap interval, and as the "
    "mean of ratios.",
    "circuit_overlap": "Two circuits: the Jaccard index of their edges beside that of random ones "
    "(expected), weighted overlap, the rank correlation of shared edges, and how many of these "
    "differ in sign; within, between and p as for two corruptions.",
    "circuit_floor": "The noise floor of circuits: the mean Jaccard index of the edges that one "
    "choice finds on two samples.",
})  # fmt: skip


def of_figure(study: Records, name: str) -> str:
    """The caption of a figure."""
    captions = {
        "heads": _heads, "mlps": _mlps, "thresholds": _thresholds, "agreement": _agreement,
        "ranks": _ranks, "stream": _stream, "prompt": _prompt, "windows": _windows,
        "circuits": _circuits,
    }  # fmt: skip
    return captions[name](study)


def _gives(study: Records) -> str:
    """What an effect is in the direction of the study."""
    return "gives back" if study.about["direction"] == "denoise" else "takes away"


def _kind(study: Records) -> str:
    return KINDS[study.kinds[0]]


def _unit(study: Records) -> str:
    """The unit of curves of the main metric."""
    if study.main == "logit_diff":
        return "as a share of its gap between the clean and the corrupted run"
    return "in its own unit per example"


def _ends(study: Records) -> str:
    return f" {ENDS}" if study.main == "logit_diff" else ""


def _heads(study: Records) -> str:
    return (
        "The share of the gap between the clean and the corrupted run that each head "
        f"{_gives(study)} when its output alone is patched (0: nothing, 1: all of it); a row of "
        f"panels for each corruption, a column for each metric. {COLOURS} {ENDS} Outlined: heads "
        f"that are found, at least {study.threshold:g} standard deviations from the mean of all."
    )


def _mlps(study: Records) -> str:
    own = [name for name in study.metrics if name != "logit_diff"]
    share = "as a share of the gap in logit_diff" if "logit_diff" in study.metrics else ""
    plain = f"of {' and '.join(own)} in its own unit per example" if own else ""
    return (
        "The effect of each MLP's output, patched alone, by its layer: "
        f"{' and '.join(part for part in (share, plain) if part)}; a line for each corruption. "
        f"{SIGN}"
    )


def _thresholds(study: Records) -> str:
    return (
        f"How many {_kind(study)} are found, to help or to hurt, by the threshold in standard "
        "deviations from the mean of all; a panel for each metric, a line for each corruption. "
        f"Everything else on this page is at {study.threshold:g}."
    )


def _agreement(study: Records) -> str:
    floor = samples(study) > 1
    how = (
        "means over pairs of samples of the prompts. On the diagonal stands the noise floor, how "
        "alike the finds of one choice are: what lies far below it differs by the choice"
        if floor else "on the same prompts; what other prompts change is not known"
    )  # fmt: skip
    return (
        f"How alike the {_kind(study)} are that two choices of corruption and metric find: the "
        f"Jaccard index, shared of united, without a unit (0: none in common, 1: the same); {how}."
    )


def _ranks(study: Records) -> str:
    return (
        f"How alike two choices of corruption and metric order all {_kind(study)}: Spearman's rank "
        "correlation of their effects, without a unit. Red (1): the same order; white (0): "
        "unrelated; blue (−1): the opposite order."
    )


def _stream(study: Records) -> str:
    return (
        "The effect of the residual stream before each layer (rows), when it alone is patched at "
        f"one span of the prompt (columns), on {study.main}, {_unit(study)}; a panel for each "
        f"corruption. {COLOURS}{_ends(study)}"
    )


def _prompt(study: Records) -> str:
    return (
        "The same at every token of the first prompt: the effect of the residual stream before "
        f"each layer (rows) at one token (columns) on {study.main}, {_unit(study)}. One prompt "
        f"says nothing of others. {COLOURS}{_ends(study)}"
    )


def _windows(study: Records) -> str:
    return (
        f"The effect on {study.main}, {_unit(study)}, of windows of adjacent MLPs that are patched "
        "together (joint), by their middle layer, beside the sum of what their layers do alone "
        f"(summed); a panel for each corruption. {SIGN}"
    )


def _circuits(study: Records) -> str:
    sample = study.circuits is not None and study.circuits.in_sample
    return (
        "The faithfulness of each circuit (rows: the choice by which it was found) by each way to "
        "measure it (columns), as the ratio of means, without a unit: 1 is the whole model, 0 the "
        "corrupted run, below 0 (blue) worse than that"
        f"{'; in sample, so too high by an unknown amount' if sample else ''}. All panels share "
        "one colour scale, which ends at ±1; the numbers say what lies beyond."
    )
