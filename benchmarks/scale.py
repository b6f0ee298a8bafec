"""Hours and memory of large models on many devices, by the formulas of ``ck.plan``.

    python benchmarks/scale.py -o benchmarks/scale.md

Nothing large is run: the forwards follow from the shapes and the prompts, as ``discover --plan``
counts them, and their time from the speed of a product and of a kernel's start on one device. What
was measured on a GPU (``speed-gpu.md``) stands beside what the formulas say of it.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from typing import Any

import torch

import circuitkit as ck
from circuitkit.engine.kinds import KINDS
from circuitkit.graph.wiring import Wiring
from circuitkit.registry import resolve
from circuitkit.workflows.asking import Asked
from circuitkit.workflows.plan import EFFICIENCY, OPERATIONS, _Costs

DEVICES = (1, 8, 64)
PROMPTS, BATCH, EDGES = 1024, 16, 2000  # in each half; of a batch; of the circuit
FLOPS = 4e14  # of a large product in bfloat16 on one device: taken, not measured
START = 1e-5  # seconds of a kernel's start: what speed-gpu.md gives for small batches
DEVICE = 80 * 2**30  # bytes of a device
WEIGHT = 2  # bytes
GIB = 2**30
PROCESS = 2 * GIB  # what a process holds on its device beside all that is counted
METHODS = ("eap", "eap_ig", "exact")
# In seconds, of speed-gpu.md: a batch of prompts of so many tokens, and what eap took.
MEASURED = (("1.5B", 2, 128, 0.127 * 1.19), ("8B", 2, 64, 0.206 * 1.52))


@dataclass(frozen=True)
class Shape:
    """As much of a model as the formulas look at."""

    name: str
    layers: int
    heads: int
    groups: int
    d_model: int
    d_head: int
    hidden: int
    d_vocab: int
    dtype: torch.dtype = torch.bfloat16
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    kinds: Any = field(default_factory=lambda: KINDS)

    @property
    def wiring(self) -> Wiring:
        return Wiring(self.layers, self.heads, self.groups)

    @property
    def weights(self) -> int:
        """Of all layers."""
        attention = 2 * self.d_model * self.d_head * (self.heads + self.groups)
        return self.layers * (attention + 3 * self.d_model * self.hidden)

    @property
    def parameters(self) -> int:
        """With the embeddings, of which 1.5B has one and the others two."""
        times = 1 if self.d_model < 4096 else 2
        return self.weights + times * self.d_vocab * self.d_model


SHAPES = (
    Shape("1.5B", 28, 12, 2, 1536, 128, 8960, 151_936),
    Shape("8B", 32, 32, 8, 4096, 128, 14_336, 128_256),
    Shape("70B", 80, 64, 8, 8192, 128, 28_672, 128_256),
)


class Costs(_Costs):
    """The formulas, for a shape whose weights are known."""

    def _weights(self) -> float:
        return float(self.model.weights)  # type: ignore[attr-defined]


def main() -> None:
    parser = argparse.ArgumentParser(description="Hours and memory of large models.")
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    report = text()
    print(report)
    if options.output:
        options.output.write_text(report, encoding="utf-8")


def data(n: int) -> Any:
    """Prompts of indirect objects: 14 to 21 tokens."""
    model = ck.load("mini")
    return ck.Dataset.of(ck.make_task("ioi", model, n=n), model, batch_size=BATCH)


def seconds(costs: Costs, forwards: float, batches: int, batch: int) -> float:
    """The time of so many forwards of prompts, in batches of which each process runs so many."""
    shape = costs.model
    products = forwards * costs.flops * EFFICIENCY / FLOPS
    between = OPERATIONS * len(shape.wiring.stages) * START * forwards / batch
    return (products + between) / batches


def row(shape: Shape, method: str, prompts: Any) -> list[str]:
    """A row of the table: the forwards, the memory of a device, and the hours on many."""
    costs = Costs(shape, prompts, "counterfactual")  # type: ignore[arg-type]
    asked = Asked("abs", PROMPTS, 0, edges=EDGES, batch_size=BATCH)
    how = resolve("discovery", method)
    steps = costs.steps(asked, how, PROMPTS, PROMPTS)
    alone = steps.pop("accuracy of the model")
    dealt = sum(steps.values())
    tables = 8 * shape.wiring.n_edges
    work = costs.bytes(how, BATCH, 0, None) + tables
    held = WEIGHT * shape.parameters
    each = ceil(held / (DEVICE - PROCESS - work))  # devices of one process
    found = [shape.name, f"`{method}`", f"{(alone + dealt) / PROMPTS:,.0f}", str(each),
             f"{(held + each * PROCESS + work) / each / GIB:.0f}"]  # fmt: skip
    batches = ceil(PROMPTS / BATCH)
    for devices in DEVICES:
        processes = devices // each
        if not processes:
            found.append("–")
            continue
        # batches are dealt; of exact effects blocks of edges, of which there are always enough
        share = processes if method == "exact" else batches / ceil(batches / processes)
        took = seconds(costs, dealt, 1, BATCH) / share + seconds(costs, alone, 1, BATCH)
        found.append(hours(took))
    return found


def hours(taken: float) -> str:
    """In two digits."""
    value = taken / 3600
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def checked() -> list[list[str]]:
    """What eap took, beside what the formulas say."""
    rows = []
    for name, batch, tokens, took in MEASURED:
        shape = next(one for one in SHAPES if one.name == name)
        prompts = data(batch)
        costs = Costs(shape, prompts, "zero")  # type: ignore[arg-type]
        costs.flops *= tokens / costs.tokens
        costs.tokens = tokens
        forwards = batch * (1 + costs.steepest)
        said = seconds(costs, forwards, 1, batch)
        rows.append([name, f"{batch} × {tokens}", f"{took:.2f}", f"{said:.2f}",
                     f"{said / took:.1f}"])  # fmt: skip
    return rows


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    lines = ["| " + " | ".join(head) + " |", "|---|---|" + "---:|" * (len(head) - 2)]
    return [*lines, *("| " + " | ".join(own) + " |" for own in rows)]


def text() -> str:
    """The report as Markdown."""
    prompts = data(PROMPTS)
    rows = [row(shape, method, prompts) for shape in SHAPES for method in METHODS]
    head = ["model", "method", "forwards per prompt", "devices per process", "GiB per device",
            *(f"hours, {n}" for n in DEVICES)]  # fmt: skip
    about = (
        f"By the formulas of `discover --plan`; **nothing of this table was run**. A circuit of "
        f"{EDGES:,} edges from {PROMPTS:,} prompts of 14 to 21 tokens, measured on as many, in "
        f"batches of {BATCH}, in bfloat16, on devices of {DEVICE // GIB} GiB whose large products "
        f"run at {FLOPS / 1e12:.0f} TFLOP/s (taken, not measured), under `counterfactual`. The "
        "forwards are right within a factor of 2, and the hours within 3. Where a model does not "
        "fit a device, a process has several (`--device-map auto`), of which one works at a time."
    )
    beside = (
        "One batch of `eap` on an H200, of [speed-gpu.md](speed-gpu.md), beside the same formulas. "
        "That the result of many processes is that of one, and how much sooner two end, was "
        "checked on processors (`processes.py`)."
    )
    seen = ["model", "tokens", "measured, s", "formula, s", "formula / measured"]
    lines = [
        "# Large models on many devices", "`python benchmarks/scale.py -o benchmarks/scale.md`",
        about, "\n".join(table(head, rows)), "## What was checked", beside,
        "\n".join(table(seen, checked())),
    ]  # fmt: skip
    return "\n\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
