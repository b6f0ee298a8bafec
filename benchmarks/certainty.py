"""Whether what is said of each edge's certainty is true: on many prompts, against fresh samples.

    python benchmarks/certainty.py -o benchmarks/certainty.md

The prompts are split into disjoint samples. The means over all prompts are taken for the truth that
intervals should cover; the circuits of the other samples for what frequencies and agreements
foresee. ``--scores FILE`` keeps the scores of each example, so that a second run takes seconds.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
from scipy import stats

import circuitkit as ck
from circuitkit.engine.inputs import prepare
from circuitkit.graph.scores import Scores
from circuitkit.util.statistics import means

Interval = Callable[[np.ndarray, float], tuple[np.ndarray, np.ndarray]]
BINS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
LEVELS = (0.8, 0.95)
STRONGEST = (100, 30)
RESAMPLES = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description="Is what is said of each edge's certainty true?")
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--task", default="ioi")
    parser.add_argument("--method", default="eap_ig")
    parser.add_argument("--samples", type=int, default=20)
    parser.add_argument("--examples", type=int, default=64, help="prompts of a sample")
    parser.add_argument("--edges", type=int, nargs="+", default=[30, 100])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--circuits-alone", action="store_true", help="without the intervals")
    parser.add_argument("--scores", type=Path, help="where the scores of each example are kept")
    options = parser.parse_args()
    samples = Samples.of(whole(options), options.samples, options.seed)
    parts = [heading(options)]
    if not options.circuits_alone:
        parts.append(coverage(samples))
    parts += [frequencies(samples, edges) for edges in options.edges]
    report = "\n\n".join(parts) + "\n"
    print(report)
    if options.output:
        options.output.write_text(report, encoding="utf-8")


def whole(options: argparse.Namespace) -> Scores:
    """The scores of each example, of all samples together."""
    if options.scores and options.scores.exists():
        return Scores.load(options.scores)
    model = ck.load(options.model)
    count = options.samples * options.examples
    inputs = prepare(model, options.task, examples=count, seed=options.seed, batch_size=32)
    method = ck.resolve("discovery", options.method)
    found: Scores = method(*inputs, groups="examples")
    if options.scores:
        found.save(options.scores)
    return found


@dataclass(frozen=True)
class Samples:
    """Disjoint samples of the prompts, each with its scores; and the means over all of them."""

    each: list[Scores]
    truth: np.ndarray

    @classmethod
    def of(cls, scores: Scores, count: int, seed: int) -> Samples:
        """The samples, of shuffled prompts: a template may come in turns."""
        groups = scores.groups
        if groups is None:
            raise SystemExit("the scores hold none of single examples")
        order = np.random.default_rng(seed).permutation(len(groups))
        parts = np.array_split(groups[order], count)
        return cls([of_examples(scores, part) for part in parts], groups.mean(0, dtype=float))

    @property
    def tables(self) -> list[np.ndarray]:
        """The scores [examples, edges] of each sample, in double precision."""
        return [np.asarray(one.groups, dtype=float) for one in self.each]


def of_examples(scores: Scores, groups: np.ndarray) -> Scores:
    """The scores of these examples alone."""
    values = np.zeros(scores.wiring.shape, np.float32)
    values[scores.wiring.legal] = groups.mean(0)
    return replace(scores, values=values, groups=groups, error=None)


def heading(options: argparse.Namespace) -> str:
    """What was measured, and with which command."""
    model, task, method = options.model, options.task, options.method
    given = sys.argv[1:]
    if "--scores" in given:  # where scores are kept changes nothing
        place = given.index("--scores")
        del given[place : place + 2]
    return "\n".join([
        "# Is what is said of each edge's certainty true?", "",
        f"`python benchmarks/certainty.py {shlex.join(given)}`: {method} on {model}, {task}; "
        f"{options.samples} disjoint samples of {options.examples} prompts.",
    ])  # fmt: skip


# -- intervals -------------------------------------------------------------------------------------
def ours(values: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    found = means(values, level)
    return found.low, found.high


def student(values: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    half = stats.t.ppf((1 + level) / 2, len(values) - 1) * stats.sem(values)
    return values.mean(0) - half, values.mean(0) + half


def johnson(values: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Student's interval around the mean, moved by the skew (Johnson 1978)."""
    low, high = student(values, level)
    third = stats.moment(values, 3) / np.maximum(values.var(0, ddof=1), 1e-30)
    return low + third / (6 * len(values)), high + third / (6 * len(values))


def drawn(values: np.ndarray) -> np.ndarray:
    """How often each example is in each bootstrap sample, as weights."""
    n = len(values)
    return np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), RESAMPLES) / n


def percentile(values: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    ends = np.quantile(drawn(values) @ values, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return ends[0], ends[1]


def bca(values: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Bias-corrected and accelerated (Efron 1987)."""
    mean, away = values.mean(0), values - values.mean(0)
    means_drawn = np.sort(drawn(values) @ values, axis=0)
    below = np.clip((means_drawn < mean).mean(0), 1 / RESAMPLES, 1 - 1 / RESAMPLES)
    bias = stats.norm.ppf(below)
    lean = (away**3).sum(0) / (6 * np.maximum((away**2).sum(0), 1e-30) ** 1.5)
    ends = []
    for tail in ((1 - level) / 2, (1 + level) / 2):
        z = bias + stats.norm.ppf(tail)
        place = stats.norm.cdf(bias + z / (1 - lean * z)) * RESAMPLES
        ends.append(np.clip(place.astype(int), 0, RESAMPLES - 1))
    low, high = (np.take_along_axis(means_drawn, end[None], 0)[0] for end in ends)
    return low, high


def bootstrap_t(values: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Student's statistic of bootstrap samples, by its magnitude (Hall 1988)."""
    mean, error, weights = values.mean(0), stats.sem(values), drawn(values)
    means_drawn = weights @ values
    spread = np.maximum(weights @ values**2 - means_drawn**2, 0) / (len(values) - 1)
    least = 1e-12 * np.abs(mean) + 1e-30
    q = np.quantile(np.abs(means_drawn - mean) / np.maximum(np.sqrt(spread), least), level, axis=0)
    return mean - q * error, mean + q * error


INTERVALS: dict[str, Interval] = {
    "Student's and Hall's (used)": ours, "Student's t": student, "Johnson's t": johnson,
    "percentile bootstrap": percentile, "BCa bootstrap": bca, "bootstrap-t": bootstrap_t,
}  # fmt: skip


def coverage(samples: Samples) -> str:
    """The share of samples whose interval holds the truth, averaged over edges."""
    strongest = np.argsort(-np.abs(samples.truth))
    chosen = [strongest, *(strongest[:n] for n in STRONGEST)]
    n, count = len(samples.tables[0]), len(samples.tables)
    # a sample is a part of the truth's prompts: its mean is that much nearer to it
    wider = 1 / np.sqrt(1 - 1 / count)
    rows = []
    for name, interval in INTERVALS.items():
        for level in LEVELS:
            held, widths = [], []
            for values in samples.tables:
                low, high = interval(values, level)
                mean = values.mean(0)
                there = mean + (samples.truth - mean) * wider
                held.append((low <= there) & (there <= high))
                with np.errstate(divide="ignore", invalid="ignore"):
                    widths.append((high - low) / np.diff(student(values, level), axis=0)[0])
            share = np.mean(held, axis=0)
            shown = " | ".join(f"{share[own].mean():.3f}" for own in chosen)
            wide = np.nanmedian(np.array(widths)[:, chosen[1]])
            rows.append(f"| {name} | {level:.2f} | {shown} | {wide:.2f} |")
    tails = np.nanmedian(stats.kurtosis(np.concatenate(samples.tables)))
    columns = "".join(f" {k} strongest |" for k in STRONGEST)
    return "\n".join([
        "## Intervals", "",
        f"How often the interval of {n} prompts holds the mean over all {n * count:,}, averaged "
        f"over edges. The examples' scores have heavy tails (median excess kurtosis {tails:.0f}).",
        "", f"| interval | nominal | all edges |{columns} width / Student's |",
        "|---|---|" + "---|" * (len(chosen) + 1), *rows,
    ])  # fmt: skip


# -- circuits --------------------------------------------------------------------------------------
def frequencies(samples: Samples, edges: int) -> str:
    """Frequencies that one sample says, beside those in the other samples' circuits."""
    sure = [ck.certainty(one, edges) for one in samples.each]
    legal = sure[0].wiring.legal
    held = np.array([one.mask[legal] for one in sure])
    said, seen, core = [], [], []
    for k, one in enumerate(sure):
        others = np.delete(held, k, axis=0)
        some = (one.frequency > 0) | others.any(0)
        said.append(one.frequency[some])
        seen.append(others[:, some].mean(0))
        core.append(others[:, one.core[legal]].mean())
    foreseen, found = np.concatenate(said), np.concatenate(seen)
    rows = []
    for number, (low, high) in enumerate(pairwise(BINS)):
        last = number == len(BINS) - 2
        own = (foreseen >= low) & ((foreseen <= high) if last else (foreseen < high))
        rows.append(f"| {low:.1f} to {high:.1f} | {own.sum() / len(sure):.0f} | "
                    f"{foreseen[own].mean():.2f} | {found[own].mean():.2f} |")  # fmt: skip
    pairs = [(a & b).sum() / (a | b).sum() for a, b in combinations(held, 2)]
    expected = [one.agreement for one in sure]
    size = np.mean([one.core.sum() for one in sure])
    return "\n".join([
        f"## Circuits of {edges} edges", "",
        "| frequency | edges of a sample | mean | in the other samples' circuits |",
        "|---|---|---|---|", *rows, "",
        f"Agreement of two samples (Jaccard): expected {np.mean(expected):.3f} (from each sample "
        f"alone: {min(expected):.3f} to {max(expected):.3f}), observed {np.mean(pairs):.3f}.",
        f"The core has {size:.0f} edges on average; {np.mean(core):.3f} of a sample's core are in "
        f"another sample's circuit (the least of any sample: {min(core):.3f}).",
    ])  # fmt: skip


if __name__ == "__main__":
    main()
