"""Which findings of Zhang & Nanda (2024) hold in the studies that stand here, as one table.

    python examples/findings.py > examples/findings.md

Reads the tables that ``circuitkit study`` wrote into ``examples/*-study-*``.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import mean

from circuitkit.workflows.study.floor import surely_beyond

HERE = Path(__file__).parent
LEAST = 0.05  # of the gap: smaller peaks are not compared
Row = dict[str, str]


def rows(study: Path, table: str, **wanted: str) -> list[Row]:
    """The rows of a study's table that have these values; none where it has no such table."""
    path = study / f"{table}.csv"
    if not path.exists():
        return []
    with path.open(encoding="utf-8") as file:
        return [r for r in csv.DictReader(file) if all(r[k] == v for k, v in wanted.items())]


def tokens(corruption: str) -> str:
    """Which tokens a corruption changes."""
    return "".join(re.findall(r"text='([^']*)'", corruption))


def twins(row: Row) -> bool:
    """Whether a row compares replacement with noise on the same tokens."""
    left, right = row["left"], row["right"]
    kinds = left.startswith("counterfactual") and right.startswith("noise")
    return kinds and tokens(left) == tokens(right)


def apart(found: list[Row]) -> str:
    """In how many comparisons others are found beyond resampling, and the mean Jaccard index of two
    choices beside that of one on other prompts; a study without other samples does not know."""
    if not found:
        return "–"
    if not all(row.get("p") for row in found):
        index = mean(float(row["jaccard"]) for row in found)
        return f"not known (Jaccard {index:.2f} on one sample)"
    beyond = sum(surely_beyond([float(row["p"]) for row in found]))
    between, within = (mean(float(row[key]) for row in found) for key in ("between", "within"))
    count = f"{beyond} of {len(found)}" if beyond else "not shown"
    return f"{count} (Jaccard {between:.2f}, of one choice {within:.2f})"


# -- the findings ----------------------------------------------------------------------------------
def noise(study: Path) -> str:
    return apart([r for r in rows(study, "corruptions", nodes="z") if twins(r)])


def other_tokens(study: Path) -> str:
    both = "counterfactual"
    found = [r for r in rows(study, "corruptions", nodes="z")
             if r["left"].startswith(both) and r["right"].startswith(both)]  # fmt: skip
    return apart(found)


def metrics(left: str, right: str) -> Callable[[Path], str]:
    return lambda study: apart(rows(study, "metrics", nodes="z", left=left, right=right))


def negatives(study: Path) -> str:
    found = rows(study, "negatives", nodes="z")
    hurt = [name for r in found for name in r["hurt by logit_diff"].split(", ") if name]
    missed = [name for r in found for name in r["missed by probability"].split(", ") if name]
    return f"{len(missed)} of {len(hurt)}" if hurt else "none hurts"


def windows(study: Path) -> str:
    ratios = [float(r["ratio"]) for r in rows(study, "windows", metric="logit_diff")
              if r["size"] != "1" and r["ratio"]]  # fmt: skip
    return f"{min(ratios):.2f} to {max(ratios):.2f}" if ratios else "–"


def peaks(study: Path) -> str:
    found = rows(study, "windows", metric="logit_diff")
    shares = {(r["corruption"], r["size"]): float(r["share"]) for r in found}
    ratios = [
        share / shares[corruption.replace("noise", "counterfactual"), size]
        for (corruption, size), share in shares.items()
        if corruption.startswith("noise")
        and min(share, shares[corruption.replace("noise", "counterfactual"), size]) >= LEAST
    ]
    return f"{min(ratios):.2f} to {max(ratios):.2f}" if ratios else "–"


def attention(study: Path) -> str:
    """The largest mean attention to one span: clean, under replacement, under noise."""
    most: dict[str, list[float]] = {}
    for row in rows(study, "attention"):
        seen = max(float(v) for k, v in row.items() if k not in ("heads", "run"))
        most.setdefault(row["run"].partition("(")[0], []).append(seen)
    return ", ".join(f"{mean(values):.2f}" for values in most.values())


def restored(study: Path) -> str:
    """The share of the logit difference that the heads give back: replacement, noise."""
    back: dict[str, list[float]] = {}
    for row in rows(study, "restored", metric="logit_diff"):
        back.setdefault(row["corruption"].partition("(")[0], []).append(float(row["share"]))
    return ", ".join(f"{mean(values):.2f}" for values in back.values())


def circuits(study: Path) -> str:
    """From the least to the most faithful measure of the first circuit."""
    found = rows(study, "circuits")
    own = [float(r["faithfulness"]) for r in found if r["circuit"] == found[0]["circuit"]]
    return f"{min(own):.2f} to {max(own):.2f}" if own else "–"


FINDINGS: dict[str, Callable[[Path], str]] = {
    "noise and replacement of the same tokens find different heads": noise,
    "logit difference and probability find different heads": metrics("logit_diff", "probability"),
    "logit difference and KL find different heads": metrics("logit_diff", "kl"),
    "replacements of different tokens find different heads": other_tokens,
    "heads that hurt and that probability misses": negatives,
    "joint window over sum of its layers, at the peak (logit difference)": windows,
    "peak under noise over peak under replacement (logit difference)": peaks,
    "attention of the strongest heads to one span: clean, replaced, noise": attention,
    "logit difference given back by the strongest heads: replaced, noise": restored,
    "faithfulness of one circuit over all measures": circuits,
}


def table() -> Iterator[str]:
    """The table as Markdown, a column for each study."""
    studies = sorted(path for path in HERE.glob("*-study-*") if (path / "detected.csv").exists())
    names = [path.name.replace("-study-", ", ") for path in studies]
    yield "| finding | " + " | ".join(names) + " |"
    yield "|---" * (len(studies) + 1) + "|"
    for finding, say in FINDINGS.items():
        yield f"| {finding} | " + " | ".join(say(study) for study in studies) + " |"


if __name__ == "__main__":
    print("\n".join(table()))
