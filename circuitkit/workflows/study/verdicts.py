"""Where a study's conclusions depend on the choice, in plain words.

Each verdict answers a question of the paper with this study's own numbers; those that depend on the
choice carry the recommendation that applies (Zhang & Nanda 2024, §6).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TypeAlias

import numpy as np

from circuitkit.workflows.study.records import Records
from circuitkit.workflows.study.tables import NEGLIGIBLE, compared, negatives, windows

__all__ = ["Verdict", "twins", "verdicts"]

ALIKE = 0.75  # the Jaccard index of what two choices find, below which they disagree
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
    """The answer to a question; ``depends`` says that the conclusion depends on the choice, and
    ``advice`` the recommendation that then applies."""

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
        *_circuits(study),
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
    """Of each kind of components: in how many pairs of choices the two find others."""
    for part in study.kinds if pairs else ():
        found = [tuple(study.detections[(part, *choice)] for choice in pair) for pair in pairs]
        rows = [compared(left, right) for left, right in found]
        jaccards = [row["jaccard"] for row in rows]
        apart = sum(jaccard < ALIKE for jaccard in jaccards)
        worst = int(np.argmin(jaccards))
        (left, right), row = found[worst], rows[worst]
        text = (
            f"{who} find different {_kind(part)} in {apart} of {len(pairs)} comparisons "
            f"(Jaccard index {min(jaccards):.2f} to {max(jaccards):.2f})."
        )
        if apart:
            text += (
                f" Furthest apart: {_choices(pairs[worst])}, with {len(left.found)} and "
                f"{len(right.found)} found, {row['both']} of them shared."
            )
        yield Verdict(question, text, bool(apart), advice if apart else "")


def _kind(part: str) -> str:
    return {"z": "heads", "mlp_out": "MLPs"}[part]


def _choices(pair: tuple[Choice, Choice]) -> str:
    """The two choices, without saying twice what they share."""
    (c1, m1), (c2, m2) = pair
    if m1 == m2:
        return f"{c1} and {c2} by {m1}"
    return f"{m1} and {m2} under {c1}"


def _flips(study: Records) -> Iterator[Verdict]:
    """Components that help by one choice and hurt by another."""
    for part in study.kinds:
        found = {key[1:]: d for key, d in study.detections.items() if key[0] == part}
        helping = {node: choice for choice, d in found.items() for node in d.helping}
        hurting = {node: choice for choice, d in found.items() for node in d.hurting}
        both = sorted(set(helping) & set(hurting))
        if not both:
            text = (
                f"None of the {_kind(part)} is found to help by one choice and to hurt by another."
            )
            yield Verdict("Does the sign hold?", text)
            continue
        (c1, m1), (c2, m2) = helping[both[0]], hurting[both[0]]
        text = (
            f"Found to help by one choice and to hurt by another: {', '.join(both)}. {both[0]} "
            f"helps by {m1} under {c1}, and hurts by {m2} under {c2}."
        )
        yield Verdict("Does the sign hold?", text, True, TOKENS if c1 != c2 else METRIC)


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
        text = (
            f"Probability misses {_kind(part)} that hurt by the logit difference under "
            f"{len(missing)} of {len(rows)} corruptions; under {row['corruption']} it misses "
            f"{row['missed by probability']}: no effect can be below −P(r) = {row['bound']:.2g} "
            f"there, and what hurts is found below {row['P threshold']:.2g}."
        )
        yield Verdict(question, text, True, METRIC)


# -- windows and the mechanism ---------------------------------------------------------------------
def _windows(study: Records) -> Iterator[Verdict]:
    rows = [row for row in windows(study) if row["size"] > 1]
    ratios = [row["ratio"] for row in rows]
    if not rows or np.isnan(ratios).all():
        return
    most = rows[int(np.nanargmax(ratios))]
    known = [ratio for ratio in ratios if not np.isnan(ratio)]
    inflated = sum(ratio >= INFLATED for ratio in known)
    text = (
        f"Joint windows of MLPs peak at {min(known):.2f} to {max(known):.2f} times the sum of "
        f"their layers, and at {INFLATED} times or more in {inflated} of {len(known)} "
        f"combinations; most of all {most['size']} layers by {most['metric']} under "
        f"{most['corruption']}."
    )
    yield Verdict("Do windows inflate the peak?", text, bool(inflated), SINGLE if inflated else "")


def _peaks(study: Records) -> Iterator[Verdict]:
    """How much higher MLPs peak under noise than under replacement (§3.1, figure 2), where both
    carry something: the share of the logit difference, the plain effect on other metrics."""
    rows = {
        (row["corruption"], row["metric"], row["size"]): row
        for row in windows(study)
        if row["share"] >= NEGLIGIBLE
    }
    ratios = []
    for replaced, noised in twins(study):
        for corruption, metric, size in rows:
            if corruption == noised and (replaced, metric, size) in rows:
                of = "share" if metric == "logit_diff" else "peak"
                pair = [rows[c, metric, size][of] for c in (noised, replaced)]
                ratios.append(pair[0] / pair[1])
    if ratios:
        text = (
            f"The peak over MLPs and windows of them is {min(ratios):.2f} to {max(ratios):.2f} "
            "times as high under noise as under replacement of the same tokens; it is higher in "
            f"{sum(ratio > 1 for ratio in ratios)} of {len(ratios)} combinations."
        )
        apart = max(ratios) >= PEAKED or min(ratios) <= 1 / PEAKED
        yield Verdict("Does noise sharpen the peak?", text, apart, TOKENS if apart else "")


def _attention(study: Records) -> Iterator[Verdict]:
    """Where the watched heads look most, where noise blurs it most."""
    for group, own in study.groups.items():
        places = [study.watched.index(head) for head in own if head in study.watched]
        found = []
        for replaced, noised in twins(study) if places and study.attention else ():
            runs = ("clean", replaced, noised)
            means = [study.attention[run][places].mean((0, 2)) for run in runs]
            sharp = [float(mean.max()) for mean in means]
            most = [study.spans[int(mean.argmax())] for mean in means]
            found.append((min(sharp[:2]) - sharp[2], runs, most, sharp))
        if found:
            drop, runs, most, sharp = max(found)
            seen = ", ".join(
                f"{span} ({value:.2f}) {'on clean prompts' if run == 'clean' else f'under {run}'}"
                for run, span, value in zip(runs, most, sharp, strict=True)
            )
            yield _mechanism(f"From the end {group} look most at {seen}.", drop >= BROKEN)


def _restored(study: Records) -> Iterator[Verdict]:
    """What restoring a group gives back, where noise and replacement differ most."""
    metric = study.main
    for at, group in enumerate(study.groups):
        found = []
        for replaced, noised in twins(study):
            one, two = (float(study.restored[c, metric].share[at]) for c in (replaced, noised))
            if not np.isnan(one - two):
                found.append((abs(one - two), replaced, noised, one, two))
        if found:
            shift, replaced, noised, one, two = max(found)
            text = (
                f"Restoring {group} gives back {one:.2f} of {metric} under {replaced}, and "
                f"{two:.2f} under {noised}."
            )
            yield _mechanism(text, shift >= BROKEN)


def _mechanism(text: str, broken: bool) -> Verdict:
    return Verdict("Is noise off-distribution?", text, broken, TOKENS if broken else "")


def _circuits(study: Records) -> Iterator[Verdict]:
    """How much the faithfulness of a circuit changes with the way it is measured."""
    if study.circuits is None:
        return
    rows = study.circuits.spread()
    fragile = [row for row in rows if row["highest"] - row["lowest"] >= ROBUST]
    widest = max(rows, key=lambda row: row["highest"] - row["lowest"])
    text = (
        f"The faithfulness of {len(fragile)} of {len(rows)} circuits changes by {ROBUST} or more "
        f"with the way it is measured; most for the one found by {widest['circuit']}: "
        f"{widest['lowest']:.2f} to {widest['highest']:.2f}"
        f"{', in sample' if study.circuits.in_sample else ''}."
    )
    yield Verdict("Are circuits robust?", text, bool(fragile), CIRCUITS if fragile else "")


# -- helpers ---------------------------------------------------------------------------------------
def twins(study: Records) -> list[tuple[str, str]]:
    """Pairs of a replacement and a noise on the same tokens."""
    replaced = {c: _settings(c) for c in study.corruptions if c.startswith("counterfactual")}
    noised = {c: _settings(c) for c in study.corruptions if c.startswith("noise")}
    return [(a, b) for a, x in replaced.items() for b, y in noised.items() if x == y]


def _settings(corruption: str) -> tuple[str, ...]:
    """The tokens that a corruption names."""
    return tuple(sorted(re.findall(r"\b(?:text|at)=(?:'[^']*'|[(\[][^)\]]*[)\]])", corruption)))
