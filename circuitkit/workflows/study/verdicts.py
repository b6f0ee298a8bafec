"""Where a study's conclusions depend on the choice, in plain words.

Each verdict answers a question of the paper with this study's own numbers. A conclusion depends on
the choice where two choices differ beyond resampling, by more than one does on other prompts; it
then carries the recommendation that applies (Zhang & Nanda 2024, §6).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, TypeAlias

import numpy as np

from circuitkit.evaluation.robustness import Robustness
from circuitkit.graph.separation import BEYOND, Separation
from circuitkit.workflows.study.floor import (
    Bounded,
    bounded,
    divided,
    means,
    separated,
    spread_p,
    surely_beyond,
)
from circuitkit.workflows.study.records import KINDS, Records
from circuitkit.workflows.study.tables import NEGLIGIBLE, negatives, windows

__all__ = ["Verdict", "twins", "verdicts"]

INFLATED = 1.2  # times the sum of single layers: what the paper saw in every combination
PEAKED = 2.0  # times the peak under the other corruption: the least that the paper saw
BROKEN = 0.1  # of attention or of the gap: by how much two corruptions differ in the mechanism
ROBUST = 0.15  # of faithfulness, between two ways to measure one circuit

TOKENS = (
    "Prefer replacing tokens to noise, which takes the model off its distribution; use noise only "
    "where no aligned replacement exists."
)
METRIC = (
    "Prefer the normalised logit difference; read probability with care, for it cannot fall below "
    "zero; the KL divergence is fine for discovery."
)
SINGLE = "Patch single layers first; read a window as a joint effect, not as that of its middle."
SITES = "Corrupt several sets of tokens: each traces different parts of the circuit."
CIRCUITS = (
    "Report a faithfulness with its corruption, metric, granularity and aggregation; compare "
    "circuits under the same."
)


@dataclass(frozen=True)
class Verdict:
    """The answer to a question; ``depends`` says that the conclusion depends on the choice, beyond
    what other prompts change, and ``advice`` the recommendation that then applies."""

    question: str
    text: str
    depends: bool = False
    advice: str = ""

    def __repr__(self) -> str:
        return f"{self.text} {self.advice}".strip()


Choice: TypeAlias = tuple[str, str]  # a corruption and a metric


def verdicts(study: Records) -> list[Verdict]:
    """The verdicts, question by question."""
    return [
        *_gaps(study), *_noise(study), *_metrics(study), *_tokens(study), *_flips(study),
        *_negatives(study), *_windows(study), *_peaks(study), *_attention(study), *_restored(study),
        *_circuits(study), *_overlaps(study),
    ]  # fmt: skip


# -- what is found ---------------------------------------------------------------------------------
def _gaps(study: Records) -> Iterator[Verdict]:
    """Corruptions that leave a metric as it is, and components too few to compare."""
    question = "Is there anything to find?"
    for (name, corruption, metric), effects in study.effects.items():
        if name == study.parts[0].name and np.isnan(effects.share).all():
            text = f"{corruption} leaves {metric} as it is on average: its effects have no share."
            yield Verdict(question, text, True, "Leave this combination out.")
    for part, n in study.few.items():
        text = (
            f"{n} {_kind(part)} are too few for any to lie {study.threshold:g} standard deviations "
            "from their mean: see the figure of their effects."
        )
        yield Verdict(question, text)


def _noise(study: Records) -> Iterator[Verdict]:
    """Replacement and noise on the same tokens, under each metric."""
    pairs = [((a, m), (b, m)) for a, b in twins(study) for m in study.metrics]
    question = "Does noise find what replacement finds?"
    yield from _disagreement(study, pairs, question, "Replacing tokens and noise on them", TOKENS)


def _metrics(study: Records) -> Iterator[Verdict]:
    for left, right in combinations(study.metrics, 2):
        pairs = [((c, left), (c, right)) for c in study.corruptions]
        question, who = "Do the metrics find the same?", f"{left} and {right}"
        yield from _disagreement(study, pairs, question, who, METRIC)


def _tokens(study: Records) -> Iterator[Verdict]:
    """Replacements of different tokens."""
    kept = [c for c in study.corruptions if c.startswith("counterfactual")]
    pairs = [((a, m), (b, m)) for a, b in combinations(kept, 2) for m in study.metrics]
    question = "What does corrupting different tokens trace?"
    yield from _disagreement(study, pairs, question, "Replacements of different tokens", SITES)


def _disagreement(
    study: Records, pairs: Sequence[tuple[Choice, Choice]], question: str, who: str, advice: str
) -> Iterator[Verdict]:
    """Of each kind of components: in how many pairs of choices the two find others, beyond what
    other samples change."""
    for part in study.kinds if pairs else ():
        found = [separated(study, (part, *pair[0]), (part, *pair[1])) for pair in pairs]
        beyond = surely_beyond([one.p for one in found])
        n, kind, least = len(pairs), _kind(part), found[0].least
        if not least < BEYOND:
            yield Verdict(question, f"{who}: {_unknown(study, (part, *pairs[0][0]))}")
            continue
        alike = (
            f"Jaccard index {np.mean([one.between for one in found]):.2f} between the choices, "
            f"{np.mean([one.within for one in found]):.2f} between samples of one"
        )
        if not any(beyond):
            text = (
                f"{who} are not shown to find different {kind}: {alike} (of {n} comparisons the "
                f"smallest p is {min(one.p for one in found):.2g})."
            )
            yield Verdict(question, text)
            continue
        shown = [at for at in range(n) if beyond[at]]
        far = max(shown, key=lambda at: found[at].within - found[at].between)
        text = (
            f"{who} find different {kind} beyond resampling in {sum(beyond)} of {n} comparisons: "
            f"{alike}. Furthest apart: {_choices(pairs[far])}, {_apart(found[far])}."
        )
        yield Verdict(question, text, True, advice)


def _apart(found: Separation) -> str:
    return f"{found.between:.2f} against {found.within:.2f} (p = {found.p:.2g})"


def _unknown(study: Records, key: tuple[str, str, str]) -> str:
    """Why it is not known what other samples change."""
    n = len(study.redetections[key])
    samples = f"{n} sample{'s' * (n != 1)} of the prompts cannot show it" if n else "without others"
    return f"not known whether they differ beyond what other prompts change ({samples})."


def _kind(part: str) -> str:
    return KINDS[part]


def _choices(pair: tuple[Choice, Choice]) -> str:
    """The two choices, without saying twice what they share."""
    (c1, m1), (c2, m2) = pair
    if m1 == m2:
        return f"{c1} and {c2} by {m1}"
    return f"{m1} and {m2} under {c1}"


def _flips(study: Records) -> Iterator[Verdict]:
    """Components that help by one choice and hurt by another, on every sample."""
    question = "Does the sign hold?"
    for part in study.kinds:
        keys = [key for key in study.detections if key[0] == part]
        flips = [
            (node, one, other)
            for one in keys
            for other in keys
            for node in study.detections[one].helping
            if node in study.detections[other].hurting
        ]
        if not flips:
            text = (
                f"None of the {_kind(part)} is found to help by one choice and to hurt by another."
            )
            yield Verdict(question, text)
            continue
        times = [_times(study, *flip) for flip in flips]
        samples = len(study.redetections[keys[0]])
        shared = [(one[1] == other[1]) + (one[2] == other[2]) for _, one, other in flips]
        best = max(range(len(flips)), key=lambda at: (times[at], shared[at]))
        node, (_, c1, m1), (_, c2, m2) = flips[best]
        shown = samples > 1 and times[best] == samples
        nodes = dict.fromkeys(
            flip[0] for flip, n in zip(flips, times, strict=True) if n == samples or not shown
        )
        again = f" That is so on {times[best]} of {samples} samples." if samples > 1 else ""
        text = (
            f"Found to help by one choice and to hurt by another: {', '.join(sorted(nodes))}. "
            f"{node} helps by {m1} under {c1}, and hurts by {m2} under {c2}.{again}"
            f"{'' if shown else ' Not shown beyond resampling.'}"
        )
        yield Verdict(question, text, shown, (TOKENS if c1 != c2 else METRIC) if shown else "")


def _times(
    study: Records, node: str, one: tuple[str, str, str], other: tuple[str, str, str]
) -> int:
    """On how many samples it helps by the one choice and hurts by the other."""
    samples = zip(study.redetections[one], study.redetections[other], strict=True)
    return sum(node in left.helping and node in right.hurting for left, right in samples)


def _negatives(study: Records) -> Iterator[Verdict]:
    """What probability misses, where it misses most."""
    question = "Does probability miss components that hurt?"
    for part in study.kinds:
        rows = [r for r in negatives(study) if r["nodes"] == part]
        missing = [row for row in rows if row["missed by probability"]]
        if not any(row["hurt by logit_diff"] for row in rows):
            continue
        if not missing:
            text = f"Probability finds all {_kind(part)} that hurt by the logit difference."
            yield Verdict(question, text)
            continue
        row = max(missing, key=lambda row: (row["missed by probability"].count(","), row["bound"]))
        shown, said = _hurting(study, part, [row["corruption"] for row in missing])
        text = (
            f"Probability misses {_kind(part)} that hurt by the logit difference under "
            f"{len(missing)} of {len(rows)} corruptions{said}; under {row['corruption']} it misses "
            f"{row['missed by probability']}: no effect can be below −P(r) = {row['bound']:.2g} "
            f"there, and what hurts is found below {row['P threshold']:.2g}."
        )
        yield Verdict(question, text, shown, METRIC if shown else "")


def _hurting(study: Records, part: str, corruptions: Sequence[str]) -> tuple[bool, str]:
    """Whether the two metrics find others to hurt, beyond what other samples change; in words."""
    found = [
        separated(study, (part, c, "logit_diff"), (part, c, "probability"), sign=-1)
        for c in corruptions
    ]
    if not found[0].least < BEYOND:
        return False, " (not known whether beyond resampling)"
    beyond = sum(surely_beyond([one.p for one in found]))
    said = f", beyond resampling under {beyond}" if beyond else ", not shown beyond resampling"
    return beyond > 0, said


# -- windows and the mechanism ---------------------------------------------------------------------
def _windows(study: Records) -> Iterator[Verdict]:
    rows = [row for row in windows(study) if row["size"] > 1]
    ratios = [row["ratio"] for row in rows]
    if not rows or np.isnan(ratios).all():
        return
    most = rows[int(np.nanargmax(ratios))]
    known = [row for row in rows if not np.isnan(row["ratio"])]
    inflated = [row for row in known if row["ratio"] >= INFLATED]
    beyond = sum(row["low"] > 1 for row in inflated)
    low, high = (end(row["ratio"] for row in known) for end in (min, max))
    text = (
        f"Joint windows of MLPs peak at {low:.2f} to {high:.2f} times the sum of "
        f"their layers, and at {INFLATED} times or more in {len(inflated)} of {len(known)} "
        f"combinations, in {beyond} of them beyond resampling; most of all {most['size']} layers "
        f"by {most['metric']} under {most['corruption']}."
    )
    yield Verdict("Do windows inflate the peak?", text, bool(beyond), SINGLE if beyond else "")


def _peaks(study: Records) -> Iterator[Verdict]:
    """How much higher MLPs peak under noise than under replacement (§3.1, figure 2), where both
    carry something: the share of the logit difference, the plain effect on other metrics."""
    carrying = {
        (row["corruption"], row["metric"], row["size"])
        for row in windows(study)
        if row["share"] >= NEGLIGIBLE
    }
    ratios = [
        bounded(divided(_peak(study, noised, metric, size), _peak(study, replaced, metric, size)))
        for replaced, noised in twins(study)
        for corruption, metric, size in sorted(carrying)
        if corruption == noised and (replaced, metric, size) in carrying
    ]
    if ratios:
        higher = [ratio for ratio in ratios if ratio.value > 1]
        low, high = (end(ratio.value for ratio in ratios) for end in (min, max))
        text = (
            f"The peak over MLPs and windows of them is {low:.2f} to {high:.2f} "
            "times as high under noise as under replacement of the same tokens; it is higher in "
            f"{len(higher)} of {len(ratios)} combinations, in "
            f"{sum(ratio.low > 1 for ratio in higher)} of them beyond resampling."
        )
        apart = any(
            (ratio.low > 1 and ratio.value >= PEAKED)
            or (ratio.high < 1 and ratio.value <= 1 / PEAKED)
            for ratio in ratios
        )
        yield Verdict("Does noise sharpen the peak?", text, apart, TOKENS if apart else "")


def _peak(study: Records, corruption: str, metric: str, size: int) -> np.ndarray:
    """The peak of the joint effects, of the logit difference as a share of the gap, and that of
    each draw of the examples."""
    joint = study.windows[corruption, metric].joint[size]
    peak = means(joint.values).max(0)
    gap = study.clean[metric] - study.corrupted[corruption, metric]
    return divided(peak, means(gap)) if metric == "logit_diff" else peak


def _attention(study: Records) -> Iterator[Verdict]:
    """Where the watched heads look most, where noise blurs it most."""
    for group, own in study.groups.items():
        places = [study.watched.index(head) for head in own if head in study.watched]
        found = []
        for replaced, noised in twins(study) if places and study.attention else ():
            runs = ("clean", replaced, noised)
            drawn = [means(study.attention[run][places].mean(0)) for run in runs]
            sharp = [mean.max(0) for mean in drawn]
            most = [study.spans[int(mean[:, 0].argmax())] for mean in drawn]
            drop = bounded(np.minimum(*sharp[:2]) - sharp[2])
            found.append((drop.value, drop, runs, most, [float(own[0]) for own in sharp]))
        if found:
            _, drop, runs, most, values = max(found, key=lambda one: one[0])
            seen = ", ".join(
                f"{span} ({value:.2f}) {'on clean prompts' if run == 'clean' else f'under {run}'}"
                for run, span, value in zip(runs, most, values, strict=True)
            )
            blurred = drop.value > 0 and drop.apart(BROKEN)
            yield _mechanism(f"From the end {group} look most at {seen}.", blurred, drop)


def _restored(study: Records) -> Iterator[Verdict]:
    """What restoring a group gives back, where noise and replacement differ most."""
    metric = study.main
    for at, group in enumerate(study.groups):
        found = []
        for replaced, noised in twins(study):
            one, two = (study.restored[c, metric] for c in (replaced, noised))
            if not np.isnan(one.share[at] - two.share[at]):
                drawn = (divided(means(own.values[at]), means(own.gap)) for own in (one, two))
                shares = float(one.share[at]), float(two.share[at])
                found.append((bounded(np.subtract(*drawn)), replaced, noised, shares))
        if found:
            shift, replaced, noised, shares = max(found, key=lambda one: abs(one[0].value))
            text = (
                f"Restoring {group} gives back {shares[0]:.2f} of {metric} under {replaced}, and "
                f"{shares[1]:.2f} under {noised}."
            )
            yield _mechanism(text, shift.apart(BROKEN), shift)


def _mechanism(text: str, broken: bool, shift: Bounded) -> Verdict:
    """With the interval of the difference where it is large."""
    if abs(shift.value) >= BROKEN:
        ends = f"{shift.low:.2f} to {shift.high:.2f}" if shift.known else "not known"
        text += f" The difference is {shift.value:.2f} (95 % interval {ends})."
    return Verdict("Is noise off-distribution?", text, broken, TOKENS if broken else "")


def _circuits(study: Records) -> Iterator[Verdict]:
    """How much the faithfulness of a circuit changes with the way it is measured."""
    if study.circuits is None:
        return
    rows = study.circuits.spread()
    fragile = [row for row in rows if row["highest"] - row["lowest"] >= ROBUST]
    measured = study.circuits.rows()
    beyond = surely_beyond(
        [_p_of_spread(study.circuits, measured, row["circuit"]) for row in fragile]
    )
    widest = max(rows, key=lambda row: row["highest"] - row["lowest"])
    text = (
        f"The faithfulness of {len(fragile)} of {len(rows)} circuits changes by {ROBUST} or more "
        f"with the way it is measured, that of {sum(beyond)} beyond resampling; most for the one "
        f"found by {widest['circuit']}: {widest['lowest']:.2f} to {widest['highest']:.2f}"
        f"{', in sample' if study.circuits.in_sample else ''}."
    )
    yield Verdict("Are circuits robust?", text, any(beyond), CIRCUITS if any(beyond) else "")


def _p_of_spread(found: Robustness, rows: Sequence[Mapping[str, Any]], circuit: str) -> float:
    """The p that all measures of the circuit agree, but for the examples."""
    own = [row for row in rows if row["circuit"] == circuit and not np.isnan(row["faithfulness"])]
    keys = ("circuit", "corruption", "metric", "granularity")
    return spread_p([found.evaluations[tuple(row[key] for key in keys)] for row in own])


def _overlaps(study: Records) -> Iterator[Verdict]:
    """Whether choices find other circuits, beside the same choice on the other half."""
    if study.circuits is None or len(study.circuits.circuits) < 2:
        return
    rows, own = study.circuits.overlap(), [row["jaccard"] for row in study.circuits.floor()]
    if np.isnan(own).all():
        return
    between, within = (float(np.mean([row[key] for row in rows])) for key in ("between", "within"))
    text = (
        f"The edges of two choices' circuits have a Jaccard index of {between:.2f} on two samples, "
        f"those of one choice {within:.2f} (two samples cannot show a difference)."
    )
    yield Verdict("Do choices find different circuits?", text)


# -- helpers ---------------------------------------------------------------------------------------
def twins(study: Records) -> list[tuple[str, str]]:
    """Pairs of a replacement and a noise on the same tokens."""
    replaced = {c: _settings(c) for c in study.corruptions if c.startswith("counterfactual")}
    noised = {c: _settings(c) for c in study.corruptions if c.startswith("noise")}
    return [(a, b) for a, x in replaced.items() for b, y in noised.items() if x == y]


def _settings(corruption: str) -> tuple[str, ...]:
    """The tokens that a corruption names."""
    return tuple(sorted(re.findall(r"\b(?:text|at)=(?:'[^']*'|[(\[][^)\]]*[)\]])", corruption)))
