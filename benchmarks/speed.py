"""What circuitkit costs, in plain forwards of the same model in the same process.

    python benchmarks/speed.py -o benchmarks/speed.md

F is the process CPU time of one plain forward (TransformerBridge, all logits) of the same batch
through the same loaded model, with the same number of threads; the least of several repetitions of
each is taken. Memory is the peak resident memory above what the loaded model took. The model has
the shape of GPT-2 small, and random weights.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np
import torch

from circuitkit.corruptions.replacement import counterfactual
from circuitkit.data import Batch, Dataset, Example
from circuitkit.discovery.attribution import eap, eap_ig
from circuitkit.engine.run import record, run
from circuitkit.metrics.answers import logit_diff
from circuitkit.scores import Scores
from circuitkit.transformer import Transformer, from_module

Row = tuple[str, float, str]


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    model = _gpt2_small()
    rows = [*_attribution(model, options), *_circuits(model, options)]
    if not options.no_peer:
        rows += _transformer_lens(model, options)
    text = _report(rows, options)
    print(text)
    if options.output:
        options.output.write_text(text, encoding="utf-8")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("-o", "--output", type=Path, help="also write the table here")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--no-peer", action="store_true", help="leave TransformerLens's own out")
    return parser.parse_args()


def _gpt2_small() -> Transformer:
    from transformers import GPT2Config, GPT2LMHeadModel

    return from_module(GPT2LMHeadModel(GPT2Config()), name="gpt2-small-shape")


def _data(model: Transformer, n: int, length: int = 16, seed: int = 1) -> Dataset:
    """Random pairs that differ in two tokens."""
    rng = np.random.default_rng(seed)
    examples = []
    for _ in range(n):
        clean = rng.integers(0, model.d_vocab, length)
        corrupt = clean.copy()
        corrupt[[length // 4, length // 2]] = rng.integers(0, model.d_vocab, 2)
        correct, wrong = rng.integers(0, model.d_vocab, 2)
        spans = {"end": (length - 1, length)}
        examples.append(
            Example(
                tuple(clean.tolist()),
                tuple(corrupt.tolist()),
                (int(correct),),
                (int(wrong),),
                spans,
            )
        )
    return Dataset(tuple(examples), batch_size=n)


# -- measuring -------------------------------------------------------------------------------------
def _seconds(work: Callable[[], Any], repeat: int) -> float:
    """The least CPU seconds of several runs."""
    best = float("inf")
    for _ in range(repeat):
        start = time.process_time()
        work()
        best = min(best, time.process_time() - start)
    return best


def _plain(model: Transformer, batch: Batch, repeat: int) -> float:
    def forward() -> None:
        with torch.no_grad():
            model.bridge(batch.clean)

    forward()
    return _seconds(forward, repeat)


def _resident(key: str) -> float:
    """A line of Linux's memory account in MiB; nan elsewhere."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(x.split()[1]) / 1024 for x in lines if x.startswith(key)), float("nan"))


def _memory(work: Callable[[], Any], loaded: float) -> float:
    """The peak resident MiB above what the loaded model took (Linux)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    except OSError:
        return float("nan")
    work()
    return _resident("VmHWM") - loaded


# -- sections --------------------------------------------------------------------------------------
def _attribution(model: Transformer, options: argparse.Namespace) -> list[Row]:
    data = _data(model, 8)
    batch = next(iter(data))
    loaded = _resident("VmRSS")
    memory = _memory(lambda: eap(model, data, logit_diff, counterfactual), loaded)
    steps = partial(eap_ig, steps=5)
    more = _memory(lambda: steps(model, data, logit_diff, counterfactual), loaded)
    plain = _plain(model, batch, options.repeat)
    one = _seconds(lambda: eap(model, data, logit_diff, counterfactual), options.repeat)
    five = _seconds(lambda: steps(model, data, logit_diff, counterfactual), 3)
    edges = model.wiring.n_edges
    return [
        ("one plain forward, 8 × 16 tokens (F)", plain, "CPU s"),
        (f"`eap`, all {edges:,} edges", one / plain, "F (target ≤ 6)"),
        (f"`eap_ig`, 5 steps, all {edges:,} edges", five / plain, "F (target ≤ 20)"),
        ("`eap`, memory above the loaded model", memory, "MiB (target ≤ 300)"),
        ("`eap_ig`, memory above the loaded model", more, "MiB (target ≤ 300)"),
    ]


@torch.no_grad()
def _circuits(model: Transformer, options: argparse.Namespace) -> list[Row]:
    data = _data(model, 32)
    batch = next(iter(data))
    plain = _plain(model, batch, options.repeat)
    found = eap(model, data, logit_diff, counterfactual)
    rng = np.random.default_rng(options.seed)
    null = Scores(model.wiring, rng.standard_normal(model.wiring.shape))
    rows: list[Row] = [("one plain forward, 32 × 16 tokens (F)", plain, "CPU s")]
    for name, keep in (
        ("best by `eap`", found.mask(500)),
        ("at random", null.mask(500)),
        ("whole model", model.wiring.legal),
    ):
        context = model.start(batch.clean, batch.mask)
        carried = record(model, model.start(batch.corrupt, batch.mask))

        def once(keep: Any = keep) -> None:
            corrupt = record(model, model.start(batch.corrupt, batch.mask))
            run(model, batch, model.start(batch.clean, batch.mask), corrupt, keep)

        def again(keep: Any = keep, context: Any = context, carried: Any = carried) -> None:
            run(model, batch, context, carried, keep)

        writers = int(keep.any(1).sum())
        label = f"circuit of {int(keep.sum()):,} edges, {name} ({writers} writers)"
        target = ("", "") if name == "whole model" else (" (target ≤ 1.5)", " (target ≤ 1)")
        rows += [
            (f"{label}, first", _seconds(once, options.repeat) / plain, f"F{target[0]}"),
            (f"{label}, each further", _seconds(again, options.repeat) / plain, f"F{target[1]}"),
        ]
    return rows


def _transformer_lens(model: Transformer, options: argparse.Namespace) -> list[Row]:
    """TransformerLens's own edge attribution, on the same examples. It takes the gradient at its
    ``corrupt`` prompt and points to its ``clean`` one: with the two swapped it is minus ours."""
    from transformer_lens.tools.analysis.attribution_patching import (
        EdgeAttributionConfig,
        attribution_patch,
    )

    n = 2
    data = _data(model, n)
    batch = next(iter(data))
    summed, peer = np.zeros(model.wiring.shape), 0.0
    model.bridge.requires_grad_(True)  # it cannot do without
    for example, clean, corrupt in zip(data.examples, batch.clean, batch.corrupt, strict=True):

        def metric(logits: torch.Tensor, own: Example = example) -> torch.Tensor:
            last = logits.flatten(0, -2)[-1]
            return last[own.correct[0]] - last[own.wrong[0]]

        config = EdgeAttributionConfig(granularity="edge")
        start = time.process_time()
        theirs = attribution_patch(model.bridge, corrupt[None], clean[None], metric, config)
        peer += time.process_time() - start
        for (writer, reader), value in theirs.edge_scores.items():
            index = model.wiring.writer[_name(writer)], model.wiring.reader[_name(reader)]
            summed[index] -= float(value) / n
    model.bridge.requires_grad_(False)
    ours = _seconds(lambda: eap(model, data, logit_diff, counterfactual), options.repeat)
    mine = eap(model, data, logit_diff, counterfactual).values
    scale = np.abs(mine).max()
    return [
        (f"TransformerLens {importlib.metadata.version('transformer_lens')} `attribution_patch`, "
         f"all edges, {n} examples", peer / ours, "times `eap` on the same (target ≥ 10)"),
        ("largest difference of the two, of the largest score",
         float(np.abs(summed - mine).max() / scale), f"(largest score {scale:.3g})"),
    ]  # fmt: skip


def _name(node: Any) -> str:
    """Our name of one of TransformerLens's nodes."""
    if node.kind.startswith("mlp"):
        return f"m{node.layer}"
    if node.kind == "attn_head_out":
        return f"a{node.layer}.h{node.head}"
    if node.kind.endswith("_input"):
        return f"a{node.layer}.h{node.head}.{node.kind[0]}"
    return str(node.kind)  # embed, logits


# -- the table -------------------------------------------------------------------------------------
def _report(rows: list[Row], options: argparse.Namespace) -> str:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    versions = ", ".join(
        f"{p} {importlib.metadata.version(p)}"
        for p in ("torch", "transformer_lens", "transformers")
    )
    lines = [
        "# What circuitkit costs",
        "",
        f"`python {' '.join(sys.argv)}`",
        "",
        f"GPT-2-small shape, random weights, {options.threads} thread(s) on a machine of "
        f"{os.cpu_count()} cores and {memory:.0f} GiB; Python {platform.python_version()}, "
        f"{versions}; seed {options.seed}. F: the CPU time of one plain forward of the same batch.",
        "",
        "| what | measured | unit |",
        "|---|---:|---|",
        *(f"| {what} | {value:.3g} | {unit} |" for what, value, unit in rows),
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
