"""Which methods find circuits that are known: the leaderboard of ``circuitkit bench``.

    python benchmarks/recover.py -o benchmarks/recover.md
    python benchmarks/recover.py --quick -o benchmarks/recover-quick.md

writes the tables, and beside them the figures (``recover-auroc.svg``, ``recover-cmd.svg``).
"""

from __future__ import annotations

import argparse
import os
import platform
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("TQDM_DISABLE", "1")

import torch

from circuitkit.workflows.benchmark.results import Benchmark
from circuitkit.workflows.benchmark.running import METHODS, QUICK, bench

ALTS = {"auroc": "AUROC against sequence-backwards", "cmd": "CMD against sequence-backwards"}


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    found = bench(options.methods or METHODS, **(QUICK if options.quick else {}),
                  resume=options.cells)  # fmt: skip
    output = options.output
    lines = [_heading(found, options)]
    for name, figure in found.figures().items():
        picture = figure.save(output.with_name(f"{output.stem}-{name}.svg"))
        lines.append(f"![{ALTS[name]}]({picture.name})\n")
    output.write_text("\n".join([*lines, found.markdown()]).rstrip() + "\n", encoding="utf-8")
    print(repr(found))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("-o", "--output", type=Path, required=True, help="the tables (.md)")
    parser.add_argument("--quick", action="store_true", help="few models, two seeds")
    parser.add_argument("--methods", nargs="*", help="default: all")
    parser.add_argument("--cells", type=Path, help="where finished cells are kept")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def _heading(found: Benchmark, options: argparse.Namespace) -> str:
    about = found.about
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    corruptions = found.options("corruption")
    alone = sum(row.get("cpu_seconds", 0.0) for row in found.rows) / 60
    told = [
        f"{len(found.methods)} methods × {len(found.options('model'))} models × {len(corruptions)} "
        f"corruptions ({', '.join(corruptions)}) × {len(about['seeds'])} seeds "
        f"({', '.join(map(str, about['seeds']))}), by {about['metric']}, on {about['examples']} "
        "prompts; ± is half of the 95 % interval over seeds (Student's t).",
        f"{about['cpu_seconds'] / 60:.1f} CPU minutes in {options.threads} thread(s) on a machine "
        f"of {os.cpu_count()} cores, {about['earlier']} of {len(found.rows)} cells taken from an "
        f"earlier run; the methods alone take {alone:.1f} CPU minutes. "
        f"{platform.machine()}, {versions}.",
    ]
    return (
        "\n\n".join(["# Which methods find known circuits", f"`{_command(options)}`", *told]) + "\n"
    )


def _command(options: argparse.Namespace) -> str:
    """What makes these tables, wherever they and the finished cells were put."""
    quick = " --quick" if options.quick else ""
    methods = f" --methods {' '.join(options.methods)}" if options.methods else ""
    return f"python benchmarks/recover.py{quick}{methods} -o benchmarks/{options.output.name}"


if __name__ == "__main__":
    main()
