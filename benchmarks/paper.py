"""The findings of Zhang & Nanda (2024) on their own models: target beside measured value.

    python benchmarks/paper.py --model gpt2        # T1 to T6: indirect objects, GPT-2 small
    python benchmarks/paper.py --model gpt2-xl     # T7: factual recall, GPT-2 XL

The weights come from the Hugging Face hub or from a directory (``--model DIR --targets gpt2``);
where they cannot be reached the script says so and ends with exit code 2. Prompts are ours, made of
the paper's templates' kind, so numbers are to agree in what they say, not in their digits; some
targets are known second-hand. ``--resume DIR`` keeps finished cells.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

import circuitkit as ck
from circuitkit.errors import CircuitkitError
from circuitkit.graph.published import named
from circuitkit.workflows.study.records import Part
from circuitkit.workflows.study.results import Study

Row = tuple[str, str, str, str]  # target, what, the paper's value, ours
REPLACED, NOISED = "counterfactual(text={!r})", "noise(text={!r})"
TEXTS = ("S2", "S1+IO", "names")
CLASSES = ("name mover", "duplicate token", "S-inhibition", "negative name mover")
TABLE = {  # Table 1: heads found under the corruption of S2 by probability, by class
    REPLACED: ("1/3", "0/2", "3/4", "1/2"),
    NOISED: ("0/3", "1/2", "2/4", "2/2"),
}
DUPLICATE = ("a0.h1", "a3.h0")  # the two that the paper counts
RATIOS = {3: 1.40, 5: 1.75, 10: 1.59}


def main() -> int:
    options = _options()
    try:
        model = ck.load(options.model, device=options.device)
    except (CircuitkitError, OSError) as error:
        print(f"paper: {options.model} cannot be reached, so nothing was measured: {error}")
        return 2
    targets = options.targets or ("gpt2-xl" if "xl" in model.name else "gpt2")
    rows = sorted({"gpt2": _small, "gpt2-xl": _large}[targets](model, options), key=_target)
    rows.insert(0, ("", "", "the paper", "measured"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    print(f"{model}\n{options.examples} prompts, seed {options.seed}\n")
    for row in rows:
        print("  ".join(text.ljust(w) for text, w in zip(row, widths, strict=True)).rstrip())
    return 0


def _target(row: Row) -> str:
    return row[0]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="gpt2", help="gpt2, gpt2-xl or a directory")
    parser.add_argument("--targets", choices=("gpt2", "gpt2-xl"), help="default: by the name")
    parser.add_argument("--examples", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device")
    parser.add_argument("--resume", metavar="DIR", help="where finished cells are kept")
    return parser.parse_args()


# -- GPT-2 small, indirect objects -----------------------------------------------------------------
def _small(model: Any, options: argparse.Namespace) -> Iterator[Row]:
    roles = dict(named("ioi:wang2022").roles)
    study = ck.study(
        model, "ioi", parts=[Part("z")], windows=(), circuits=(), roles=roles, only=None,
        examples=options.examples, seed=options.seed, resume=options.resume,
    )  # fmt: skip
    clean = study.clean["logit_diff"]
    yield "T0", "logit difference on clean prompts", "3.56", f"{clean.mean():.2f}"
    yield "T0", "share of prompts with IO above S", "0.993", f"{(clean > 0).mean():.3f}"
    yield "T0", "probability of IO on clean prompts", "0.49", _mean(study.clean["probability"])
    yield from _detections(study)
    yield from _probabilities(study)
    yield from _attention(study)
    yield from _restored(study)
    yield from _other_tokens(study)


def _mean(values: np.ndarray) -> str:
    return f"{values.mean():.2g}"


def _detections(study: Study) -> Iterator[Row]:
    replaced, noised = (kind.format("S2") for kind in (REPLACED, NOISED))
    for metric in study.metrics:
        one, two = (set(study.detections["z", c, metric].found) for c in (replaced, noised))
        said = f"{'different' if one != two else 'the same'} ({len(one)}, {len(two)}, "
        said += f"{len(one & two)} shared)"
        yield "T1", f"heads found by {metric}: replacement and noise on S2", "different", said
    for kind, paper in TABLE.items():
        found = set(study.detections["z", kind.format("S2"), "probability"].found)
        for role, count in zip(CLASSES, paper, strict=True):
            own = [n for n, of in study.roles.items() if of == role]
            own = [n for n in own if role != "duplicate token" or n in DUPLICATE]
            ours = f"{sum(n in found for n in own)}/{len(own)}"
            yield "T2", f"{role} found by probability, {kind.format('S2')}", count, ours


def _probabilities(study: Study) -> Iterator[Row]:
    for text, paper in (("S2", "0.03"), ("names", "5e-4")):
        name = REPLACED.format(text)
        ours = _mean(study.corrupted[name, "probability"])
        yield "T5", f"probability of IO under {name}", paper, ours
        found = study.detections["z", name, "probability"].hurting
        negative = [n for n, role in study.roles.items() if role == "negative name mover"]
        missed = ", ".join(n for n in negative if n not in found) or "none"
        target = {"S2": "a11.h10", "names": "a10.h7, a11.h10"}[text]
        yield "T5", "  negative name movers that probability misses", target, missed


def _attention(study: Study) -> Iterator[Row]:
    movers = [study.watched.index(n) for n in study.groups["name mover"]]
    runs = (("clean", "IO", "0.58"), (NOISED.format("S2"), "IO", "0.26"),
            (NOISED.format("S2"), "S1", "0.21"))  # fmt: skip
    for run, span, paper in runs:
        seen = study.attention[run][movers, study.spans.index(span)].mean()
        yield "T3", f"attention of name movers from end to {span}, {run}", paper, f"{seen:.2f}"


def _restored(study: Study) -> Iterator[Row]:
    for kind, paper in ((REPLACED, "1.04"), (NOISED, "0.49")):
        effects = study.restored[kind.format("S2"), "logit_diff"]
        at = effects.axes["group"].index("S-inhibition")
        share = effects.normalised[at]
        name = f"normalised, S-inhibition heads restored, {kind.format('S2')}"
        yield "T4", name, paper, f"{share:.2f}"


def _other_tokens(study: Study) -> Iterator[Row]:
    whole = 0
    for kind in (REPLACED, NOISED):
        for metric in study.metrics:
            counts = study.detections["z", kind.format("S1+IO"), metric].counts(study.roles)
            movers, inhibiting = counts["name mover"], counts["S-inhibition"]
            whole += movers[0] == movers[1]
            name = f"name movers, S-inhibition by {metric}, {kind.format('S1+IO')}"
            ours = f"{movers[0]}/{movers[1]}, {inhibiting[0]}/{inhibiting[1]}"
            yield "T6", name, "3/3 (5 of 6), 0/4", ours
    yield "T6", "combinations with all name movers", "5 of 6", f"{whole} of 6"


# -- GPT-2 XL, factual recall ----------------------------------------------------------------------
def _large(model: Any, options: argparse.Namespace) -> Iterator[Row]:
    study = ck.study(
        model, "facts", metrics=["logit_diff", "probability"], parts=[], windows=(1, *RATIOS),
        circuits=(), both_ways=True, examples=options.examples, seed=options.seed,
        resume=options.resume,
    )  # fmt: skip
    for metric in study.metrics:
        noised, replaced = (study.windows[c, metric] for c in ("noise", "counterfactual"))
        single = noised.joint[1]
        peak = single.axes["window"][int(np.argmax(single.mean))]
        yield "T7", f"layer of the peak under noise, {metric}", "16 (15 alone)", peak
        for size in (1, *RATIOS):
            ratio = noised.joint[size].mean.max() / replaced.joint[size].mean.max()
            name = f"peak under noise over replacement, {size} layers, {metric}"
            yield "T7", name, "2 to 5", f"{ratio:.2f}"
        for size, paper in RATIOS.items():
            ours = " and ".join(f"{w.peak_ratio(size):.2f}" for w in (noised, replaced))
            name = f"joint over sum, {size} layers, {metric} (noise and replacement)"
            yield "T7", name, f"{paper:.2f}", ours


if __name__ == "__main__":
    sys.exit(main())
