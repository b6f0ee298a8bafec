"""Whether a job keeps the memory that it was given: its peak, measured in a process of its own.

    python benchmarks/memory.py -o benchmarks/memory.md

Each job is given what its process holds before it, and somewhat more; the peak is that of the whole
process, as the system counts it. Then the plan of ``eap`` for large shapes, beside its peak.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil

SHAPES = {  # layers, width, heads, vocabulary; and MiB beyond what the process holds
    "4 × 64": (4, 64, 4, 500, 60),
    "8 × 256": (8, 256, 8, 1000, 200),
    "2 × 1024": (2, 1024, 16, 5000, 250),
}
JOBS = ("eap_ig", "exact", "curve")
WIDE = ("1.5B", "0.5B, long")  # of those that speed.py times
EXAMPLES, TOKENS, EDGES = 48, 24, 300
MIB = 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description="Does a job keep the memory that it was given?")
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", nargs=2, help=argparse.SUPPRESS)  # what a process of its own does
    options = parser.parse_args()
    if options.case:
        shape, job = options.case
        work = measured if shape in SHAPES else wide
        print(json.dumps(work(shape, job, options.seed)))
        return
    rows = [apart(shape, job, options.seed) for shape in SHAPES for job in JOBS]
    large = [
        apart(shape, "plan", options.seed) | apart(shape, "eap", options.seed) for shape in WIDE
    ]
    report = text(rows, large, options.seed)
    print(report)
    if options.output:
        options.output.write_text(report, encoding="utf-8")


def apart(shape: str, job: str, seed: int) -> dict[str, Any]:
    """One case, in a process of its own."""
    command = [sys.executable, __file__, "--case", shape, job, "--seed", str(seed)]
    done = subprocess.run(command, check=True, capture_output=True, text=True,
                          env={**os.environ, "TQDM_DISABLE": "1"})  # fmt: skip
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(shape, job, found, file=sys.stderr)
    return found


def measured(shape: str, job: str, seed: int) -> dict[str, Any]:
    """What the process holds, is given and takes, in MiB, and the batch."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    from _memory_jobs import data_of, model_of, run

    *size, more = SHAPES[shape]
    model = model_of(*size)
    data = data_of(size[-1], EXAMPLES, TOKENS, seed)
    before = psutil.Process().memory_info().rss
    given = before + more * MIB
    batch = run(job, model, data, given, EDGES)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    found = {"before": before, "given": given, "peak": peak}
    return {"shape": shape, "job": job, "batch": batch,
            **{key: round(value / MIB) for key, value in found.items()}}  # fmt: skip


def wide(shape: str, job: str, seed: int) -> dict[str, Any]:
    """What the process holds with a large shape, and what ``eap`` is planned to take with it
    (``plan``), or takes."""
    import torch
    from _inputs import pairs
    from _measure import Timer
    from _shapes import SHAPES as ALL
    from _shapes import model_of

    from circuitkit.corruptions.replacement import counterfactual
    from circuitkit.discovery.attribution import eap
    from circuitkit.engine.batching import needed
    from circuitkit.engine.memory import takes
    from circuitkit.metrics.answers import logit_diff

    torch.set_num_threads(1)
    timer = Timer("cpu", torch.float32, 1, 1, seed, False)
    name, kind, options, layers, _, dtype, (n, length) = next(x for x in ALL if x[0] == shape)
    model = model_of(timer, kind, options, layers, dtype, length)
    data = pairs(model, n, length)
    before = timer.held()
    if job == "plan":
        more = takes(model.device, needed(model, data, counterfactual).of(n)) / MIB
    else:
        more = timer.memory(lambda: eap(model, data, logit_diff, counterfactual), before)
    return {"shape": f"{name}, {dtype}, {n} × {length:,} tokens", "before": round(before),
            job: round(before + more)}  # fmt: skip


def text(rows: list[dict[str, Any]], large: list[dict[str, Any]], seed: int) -> str:
    """The report."""
    from circuitkit.util.versions import versions

    said = ", ".join(f"{name} {version}" for name, version in versions().items())
    kept = sum(row["peak"] <= row["given"] for row in rows)
    lines = [
        "# Whether jobs keep the memory that they are given", "",
        "`python benchmarks/memory.py -o benchmarks/memory.md`", "",
        f"Random weights, float32, 1 thread; {EXAMPLES} prompts of {TOKENS} tokens, seed {seed}; "
        f"{said}. `eap_ig` in 5 steps, `exact` of {EDGES} edges, `curve` of nine circuits. MiB of "
        "the whole process (ru_maxrss), each in a process of its own, weights and libraries "
        "included; the batch is what fits.", "",
        "| layers × width | job | held before | given | peak | batch |",
        "|---|---|---:|---:|---:|---:|",
    ]  # fmt: skip
    lines += [
        f"| {r['shape']} | `{r['job']}` | {r['before']:,} | {r['given']:,} | {r['peak']:,} | "
        f"{r['batch']} |"
        for r in rows
    ]
    lines += [
        "", f"{kept} of {len(rows)} are kept.", "", "## Large shapes", "",
        "`eap`, one batch, with all that is kept for its backward; the plan is made from pieces of "
        "the work (of one example alone, from that). MiB of the whole process.", "",
        "| shape | held before | planned | peak | peak / planned |",
        "|---|---:|---:|---:|---:|",
    ]  # fmt: skip
    lines += [
        f"| {r['shape']} | {r['before']:,} | {r['plan']:,} | {r['eap']:,} | "
        f"{r['eap'] / r['plan']:.2f} |"
        for r in large
    ]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
