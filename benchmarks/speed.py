"""What circuitkit costs, in plain forwards of the same model in the same process.

    python benchmarks/speed.py -o benchmarks/speed.md --peer auto-circuit

F is the process CPU time of one plain forward (TransformerBridge, all logits) of the same batch
through the same loaded model, with the same number of threads; with ``--device cuda`` it is wall
time between two synchronisations, as is everything else. The least of several repetitions is taken,
unless a table says that it was timed once. Models have random weights.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import sys
from functools import cache
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("TQDM_DISABLE", "1")

import torch
from _attribution import attribution
from _circuits import bulk, circuits
from _edges import edges, growth, one_by_one
from _inputs import GPT2_SMALL, gpt2
from _measure import Table, Timer
from _nodes import nodes
from _peers import PEERS, default_cache
from _shapes import shapes
from _span_attribution import span_attribution
from _span_circuits import long_span_circuits, span_circuits

# what each section measures: a model of GPT-2 small's shape, or models of its own
GPT2 = {
    "attribution": attribution,
    "circuits": circuits,
    "bulk": bulk,
    "edges": edges,
    "nodes": nodes,
    "span_circuits": span_circuits,
}
OTHERS = {
    "shapes": shapes,
    "span_attribution": span_attribution,
    "long_span_circuits": long_span_circuits,
    "small": one_by_one,
    "growth": growth,
}


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    timer = Timer(
        options.device, getattr(torch, options.dtype), options.threads, options.repeat,
        options.seed, not options.no_peer,
    )  # fmt: skip
    model = cache(lambda: gpt2(timer, GPT2_SMALL))
    tables = []
    for name in (*options.sections, *options.peer):
        if name in PEERS:
            tables.append(PEERS[name](model(), timer, options.peer_cache))
        else:
            tables.append(OTHERS[name](timer) if name in OTHERS else GPT2[name](model(), timer))
        print(tables[-1].markdown(), flush=True)
        if options.output:  # what is done is not lost
            options.output.write_text(_report(tables, timer), encoding="utf-8")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("-o", "--output", type=Path, help="also write the tables here")
    parser.add_argument("--sections", nargs="*", choices=(*GPT2, *OTHERS),
                        default=(*GPT2, *OTHERS))  # fmt: skip
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--no-peer", action="store_true", help="leave TransformerLens's own out")
    parser.add_argument("--peer", nargs="*", default=[], choices=tuple(PEERS),
                        help="also time these, each in an environment of its own")  # fmt: skip
    parser.add_argument("--peer-cache", type=Path, default=default_cache(),
                        help="where the peers' environments are kept (%(default)s)")  # fmt: skip
    return parser.parse_args()


def _report(tables: list[Table], timer: Timer) -> str:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    versions = ", ".join(
        f"{p} {importlib.metadata.version(p)}"
        for p in ("torch", "transformer_lens", "transformers")
    )
    where = f"{timer.threads} thread(s) on a machine of {os.cpu_count()} cores and {memory:.0f} GiB"
    if timer.device != "cpu":
        where = f"one {torch.cuda.get_device_name(timer.device)}"
    lines = [
        "# What circuitkit costs",
        "",
        f"`python {' '.join(sys.argv)}`",
        "",
        f"Random weights, {str(timer.dtype)[6:]}, {where}; Python {platform.python_version()}, "
        f"{versions}; seed {timer.seed}. F: the {timer.unit} of one plain forward of the same "
        "batch, with all logits. The model has GPT-2 small's shape where nothing else is said.",
        "",
        *(table.markdown() for table in tables),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
