"""Which methods find circuits that are known: the tables of ``circuitkit bench``.

    python benchmarks/recover.py --jobs 2 -o benchmarks/recover.md
    python benchmarks/recover.py --quick --jobs 2 -o benchmarks/recover-quick.md

writes the page, the figures beside it (``recover-ap-trained.svg``, ...), and the tables behind it
(``recover-rows.csv``, ...). With ``--redraw`` it draws the figures again from those tables, and
measures nothing.
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
from math import nan
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("TQDM_DISABLE", "1")

import torch

from circuitkit.workflows.benchmark.budgets import QUICK
from circuitkit.workflows.benchmark.results import Benchmark
from circuitkit.workflows.benchmark.running import bench

TEXTS = {"block", "program", "model", "corruption", "method", "failed"}  # other columns are numbers
MEASURES = {"ap": "Average precision", "cmd": "CMD"}


def main() -> None:
    options = _options()
    if options.redraw:
        _draw(_read(options.output), options.output)
        return
    torch.set_num_threads(options.threads * options.jobs)
    given = (QUICK if options.quick else {}) | {
        key: own for key in ("methods", "models") if (own := getattr(options, key))
    }
    found = bench(**given, jobs=options.jobs, resume=options.cells)
    output = options.output
    lines = [_heading(found, options)]
    for name, picture in _draw(found, output).items():
        measure, _, block = name.partition("-")
        lines.append(f"![{MEASURES[measure]} against cost, {block} models]({picture.name})\n")
    output.write_text("\n".join([*lines, found.markdown()]).rstrip() + "\n", encoding="utf-8")
    for name, text in found.tables().items():
        output.with_name(f"{output.stem}-{name}.csv").write_text(text, encoding="utf-8")
    print(repr(found))


def _draw(found: Benchmark, output: Path) -> dict[str, Path]:
    """The figures beside the page, by name."""
    return {
        name: figure.save(output.with_name(f"{output.stem}-{name}.svg"))
        for name, figure in found.figures().items()
    }


def _read(output: Path) -> Benchmark:
    """What was measured, from the rows beside the page."""
    with output.with_name(f"{output.stem}-rows.csv").open(newline="", encoding="utf-8") as file:
        rows = [
            {key: text if key in TEXTS else float(text or nan) for key, text in row.items()}
            for row in csv.DictReader(file)
        ]
    return Benchmark({}, tuple(rows))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("-o", "--output", type=Path, required=True, help="the page (.md)")
    parser.add_argument("--quick", action="store_true", help="few models and methods, one seed")
    parser.add_argument("--methods", nargs="*", help="default: the table of budgets")
    parser.add_argument("--models", nargs="*", help="default: all")
    parser.add_argument("--cells", type=Path, help="where finished cells are kept")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--threads", type=int, default=1, help="of each process")
    parser.add_argument("--redraw", action="store_true", help="only the figures, from the tables")
    return parser.parse_args()


def _heading(found: Benchmark, options: argparse.Namespace) -> str:
    about = found.about
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    alone = sum(row.get("cpu_seconds") or 0.0 for row in found.rows) / 60
    told = [
        f"{len(found.rows):,} cells of {len(found.options('method'))} methods on "
        f"{len(found.options('model'))} models under {', '.join(found.options('corruption'))}, by "
        f"{about['metric']}, on at most {about['examples']} prompts.",
        f"{about['seconds'] / 60:.1f} minutes in {options.jobs} process(es) of {options.threads} "
        f"thread(s) on a machine of {os.cpu_count()} cores, {about['cpu_seconds'] / 60:.1f} CPU "
        f"minutes, {about['earlier']:,} cells taken from an earlier run; the methods alone take "
        f"{alone:.1f} CPU minutes. {platform.machine()}, {versions}.",
    ]
    return "\n\n".join(["# Which methods find known circuits", f"`{_command(options)}`", *told]) + (
        "\n"
    )


def _command(options: argparse.Namespace) -> str:
    """What makes these tables, wherever they and the finished cells were put."""
    words = ["python benchmarks/recover.py", *(["--quick"] if options.quick else [])]
    for name in ("methods", "models"):
        if getattr(options, name):
            words += [f"--{name}", *getattr(options, name)]
    jobs = [f"--jobs {options.jobs}"] if options.jobs != 1 else []
    return " ".join([*words, *jobs, f"-o benchmarks/{options.output.name}"])


if __name__ == "__main__":
    main()
