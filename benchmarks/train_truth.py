"""Trains the models whose circuit is known edge by edge, once: ``benchmarks/trained/``.

    python benchmarks/train_truth.py -o benchmarks/trained

A model that is there already, or that was given up, is not trained again, so that a run that was
interrupted goes on. ``trained.md`` beside the models says what was measured and what it cost.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("TQDM_DISABLE", "1")

import torch

from circuitkit.truth import trained
from circuitkit.util.atomic import write_whole
from circuitkit.util.versions import versions

TRIES = 3  # trainings of a model, each with another seed, before it is given up
SEEDS = (0, 1)
HEADS, GROUPS, WIDTH = 4, 2, 64

# Each causal model with its family, its layers, and the steps of its first round.
PLAN = (
    ("modular_sum", "gptj", 2, 250),
    ("parity", "llama", 2, 250),
    ("recall", "gpt2", 3, 300),
    ("polarity", "phi", 3, 300),
    ("one_of_two", "gpt2", 2, 250),
    ("successor", "qwen2", 3, 350),
    ("backup", "gpt2", 3, 500),
    ("agreement", "phi", 2, 300),
    ("majority", "llama", 3, 400),
    ("indirect_object", "gpt2", 3, 700),
    ("priority", "gptj", 3, 300),
    ("pointer", "gpt2", 3, 350),
    ("negative", "gpt2", 3, 500),
    ("two_hops", "llama", 3, 900),
)


@dataclass(frozen=True)
class Job:
    """A model to train."""

    causal: str
    family: str
    layers: int
    steps: int
    seed: int

    @property
    def file(self) -> str:
        return f"{self.causal}-{self.family}-{self.seed}{trained.SUFFIX}"

    def train(self, attempt: int) -> trained.Attempt:
        causal = trained.causal_models()[self.causal]()
        groups = GROUPS if self.family in ("llama", "qwen2") else HEADS
        shape = trained.Shape(self.family, self.layers, HEADS, groups, WIDTH, 2 * WIDTH,
                              len(causal.words), causal.length + 1)  # fmt: skip
        recipe = trained.Recipe(steps=self.steps)
        return trained.train(causal, shape, self.seed + len(SEEDS) * attempt, recipe)


class Log:
    """All trainings so far, one after the other, in a file; two runs may share it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def rows(self) -> list[dict[str, Any]]:
        text = self.path.read_text() if self.path.exists() else "[]"
        found: list[dict[str, Any]] = json.loads(text)
        return found

    def of(self, job: Job) -> list[dict[str, Any]]:
        return [row for row in self.rows if row["file"] == job.file]

    def open(self, job: Job) -> bool:
        """Whether there is anything left to try."""
        own = self.of(job)
        return len(own) < TRIES and not any(row["accepted"] for row in own)

    def add(self, job: Job, attempt: trained.Attempt) -> None:
        about = {key: value for key, value in attempt.model.about.items() if key != "recipe"}
        row = {"file": job.file, "accepted": attempt.accepted, "failing": list(attempt.failing),
               "mapped": int(attempt.model.mapped.sum()),
               "edges": attempt.model.model.wiring.n_edges, **about}  # fmt: skip
        write_whole(self.path, json.dumps([*self.rows, row], indent=1) + "\n")


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    log = Log(options.output / "log.json")
    for job in _jobs(options.only):
        while log.open(job):
            attempt = job.train(len(log.of(job)))
            if attempt.accepted:
                attempt.model.save(options.output / job.file)
            log.add(job, attempt)
            said = "accepted" if attempt.accepted else f"rejected: {', '.join(attempt.failing)}"
            seconds = attempt.model.about["cpu_seconds"]
            print(f"{job.file}: {said} ({seconds} CPU s)", file=sys.stderr)
            write_whole(options.output / "trained.md", _page(log))
    write_whole(options.output / "trained.md", _page(log))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("-o", "--output", type=Path, required=True, help="the folder of the models")
    parser.add_argument("--only", nargs="*", help="causal models; default: all")
    return parser.parse_args()


def _jobs(only: list[str] | None) -> Iterator[Job]:
    for causal, family, layers, steps in PLAN:
        for seed in SEEDS:
            if not only or causal in only:
                yield Job(causal, family, layers, steps, seed)


def _page(log: Log) -> str:
    """What was measured, and what it cost."""
    jobs = [job for job in _jobs(None) if log.of(job)]
    kept = [row for row in log.rows if row["accepted"]]
    dropped = [job.file for job in jobs if not log.open(job) and not log.of(job)[-1]["accepted"]]
    minutes = sum(row["cpu_seconds"] for row in log.rows) / 60
    said = ", ".join(f"{name} {version}" for name, version in versions().items())
    lines = [
        "# Models that were trained to be a causal model, edge by edge\n",
        "`python benchmarks/train_truth.py -o benchmarks/trained`\n",
        f"{len(kept)} models of {len({row['causal'] for row in kept})} causal models are accepted, "
        f"of {len(log.rows)} trainings; {len(dropped)} of {len(jobs)} are given up after {TRIES}"
        f"{': ' + ', '.join(dropped) if dropped else ''}. All took {minutes:.1f} CPU minutes in "
        f"one thread. {platform.machine()}, {said}.\n",
        "Accuracies are on 512 unseen prompts after rounding to fp16, with the values of other "
        "prompts on: one part (interchange), one edge of the causal model (links), all edges "
        "outside of it (mapped only), all components outside (joint), a random half of the edges "
        "outside (subsets). Faithfulness is that of the mapped edges, by the logit difference, "
        "where the corrupted prompt is another one (other) or the nearest with another answer "
        "(near). Unmapped is the largest effect of an edge outside, as a share of the gap between "
        "the clean and the corrupted run.\n",
        "| model | mapped of edges | accuracy | interchange | links | mapped only | joint "
        "| subsets | faithfulness, other | near | unmapped | steps | CPU s |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    numbers = ("accuracy", "interchange", "links", "mapped_only", "joint", "subsets",
               "faithfulness_other", "faithfulness_near", "unmapped")  # fmt: skip
    for row in sorted(kept, key=lambda row: row["file"]):
        cells = " | ".join(f"{row[name]:.3f}" for name in numbers)
        name = row["file"].removesuffix(trained.SUFFIX)
        lines.append(f"| {name} | {row['mapped']} of {row['edges']} | {cells} | {row['steps']:,} "
                     f"| {row['cpu_seconds']:.0f} |")  # fmt: skip
    failed = [row for row in log.rows if not row["accepted"]]
    if failed:
        lines += ["\nRejected:\n", *(f"- {row['file'].removesuffix(trained.SUFFIX)}, seed "
                  f"{row['seed']} ({row['cpu_seconds']:.0f} CPU s): {', '.join(row['failing'])}"
                  for row in failed)]  # fmt: skip
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
