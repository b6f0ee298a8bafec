"""``circuitkit bench``: how well methods find known circuits, and what they cost."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from circuitkit.cli._opening import check_names, legal_name, set_threads
from circuitkit.cli._options import (
    Commands,
    add_device,
    add_output,
    add_shard,
    common,
    positive,
)
from circuitkit.cli._printing import print_json, print_text
from circuitkit.cli._processes import folder_of, is_shard, leads, pieces_of

__all__ = ["add", "bench"]


def add(commands: Commands) -> None:
    """Add the command ``bench`` and its options."""
    p = commands.add_parser(
        "bench",
        parents=[common()],
        help="discovery methods × models with known circuits × corruptions, in one table",
    )
    p.add_argument(
        "methods", nargs="*", metavar="METHOD",
        help="eap, mine.py:name (default: a table of methods for 10, 50, 200 and 1,000 "
        "sequence-backwards)",
    )  # fmt: skip
    several = "can be given several times; default: "
    p.add_argument(
        "--model", action="append", metavar="M",
        help=f"a compiled program (reverse), a variant (reverse+rotate+distract), one that was "
        f"trained to a truth (trained:NAME, a file) or MODEL:TASK (mini:ioi); {several}"
        "all programs, their variants, trained models, mini and smollm2-135m",
    )  # fmt: skip
    p.add_argument(
        "--corruption", action="append", metavar="C",
        help=several + "counterfactual, mean_by_position and zero",
    )  # fmt: skip
    p.add_argument(
        "--metric", default="logit_diff", metavar="M", help="how outputs are measured "
        "(default: logit_diff)",
    )  # fmt: skip
    p.add_argument(
        "--seeds", type=positive, metavar="N",
        help="how many seeds (default: 2 of compiled models, 1 of others)",
    )  # fmt: skip
    p.add_argument(
        "--examples", type=positive, metavar="N",
        help="prompts of a discovery, at most (default: 32)",
    )  # fmt: skip
    p.add_argument(
        "--quick", action="store_true",
        help="few models and methods, one seed, 16 prompts: three minutes",
    )  # fmt: skip
    p.add_argument("--jobs", type=positive, metavar="N", default=1, help="processes (default: 1)")
    add_device(p)
    p.add_argument("--threads", type=positive, help="processor threads")
    add_shard(p)
    add_output(p, "DIR", "default: bench, and the settings that you change")
    p.set_defaults(run=bench, parser=p)


def bench(options: argparse.Namespace) -> None:
    """Run the benchmark, write its tables and figures, and print its summary."""
    check_names("discovery", *options.methods)
    check_names("corruptions", *options.corruption or ())
    check_names("metrics", options.metric)
    set_threads(options.threads)
    from circuitkit.workflows.benchmark import budgets, running

    asked = {
        "methods": options.methods, "models": options.model, "corruptions": options.corruption,
        "seeds": options.seeds, "examples": options.examples,
    }  # fmt: skip
    chosen = (budgets.QUICK if options.quick else {}) | {k: v for k, v in asked.items() if v}
    usual = {"methods": budgets.METHODS, "models": budgets.chosen_models(),
             "corruptions": budgets.CORRUPTIONS, "examples": 32}  # fmt: skip
    settings: dict[str, Any] = {**usual, **chosen, "metric": options.metric}
    settings["seeds"] = [*range(chosen["seeds"])] if "seeds" in chosen else None
    place = options.output or Path(legal_name(options, "bench"))
    with folder_of(options, place, "benchmark", settings) as folder:
        found = running.bench(
            **chosen,
            metric=options.metric,
            device=options.device,
            device_map=options.device_map,
            jobs=options.jobs,
            resume=pieces_of(options, folder.pieces),
        )
        if is_shard(options) or not leads():
            return
        written = found.save(folder)
    if options.json:
        print_json({"about": dict(found.about), "summary": found.summary(),
                    "files": [str(path) for path in written]})  # fmt: skip
    else:
        more = f"{written[1].name}, and {len(written) - 2} tables and figures in its folder"
        print_text(f"{found!r}\n\nwritten: {written[0]}, {more}")
