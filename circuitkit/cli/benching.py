"""``circuitkit bench``: how well methods find known circuits, and what they cost."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from circuitkit.cli._opening import check_names, legal_name, set_threads
from circuitkit.cli._options import Commands, add_output, common, positive
from circuitkit.cli._printing import print_json, print_text

__all__ = ["add", "bench"]


def add(commands: Commands) -> None:
    """Add the command ``bench`` and its options."""
    p = commands.add_parser(
        "bench",
        parents=[common()],
        help="discovery methods × models with known circuits × corruptions, in one table",
    )
    p.add_argument("methods", nargs="*", metavar="METHOD", help="eap, mine.py:name (default: ten)")
    several = "can be given several times; default: "
    p.add_argument(
        "--model", action="append", metavar="M",
        help=f"a compiled program (reverse), a variant (reverse+rotate+distract) or MODEL:TASK "
        f"(mini:ioi); {several}45",
    )  # fmt: skip
    p.add_argument(
        "--corruption", action="append", metavar="C",
        help=several + "counterfactual, zero and mean_by_position",
    )  # fmt: skip
    p.add_argument(
        "--metric", default="logit_diff", metavar="M", help="how outputs are measured "
        "(default: logit_diff)",
    )  # fmt: skip
    p.add_argument("--seeds", type=positive, metavar="N", help="how many seeds (default: 5)")
    p.add_argument(
        "--examples", type=positive, metavar="N", help="prompts of a discovery (default: 32)"
    )
    p.add_argument("--quick", action="store_true", help="eight models, two seeds, 16 prompts")
    p.add_argument("--device", help="cpu, cuda, cuda:1, mps (default: cpu)")
    p.add_argument("--threads", type=positive, help="processor threads")
    add_output(p, "DIR", "default: bench, and the settings that you change")
    p.set_defaults(run=bench, parser=p)


def bench(options: argparse.Namespace) -> None:
    """Run the benchmark, write its tables and figures, and print its summary."""
    check_names("discovery", *options.methods)
    check_names("corruptions", *options.corruption or ())
    check_names("metrics", options.metric)
    set_threads(options.threads)
    from circuitkit.workflows.benchmark import running
    from circuitkit.workflows.folders import claimed

    asked = {
        "methods": options.methods, "models": options.model, "corruptions": options.corruption,
        "seeds": options.seeds, "examples": options.examples,
    }  # fmt: skip
    usual = {"methods": running.METHODS, "models": running.MODELS,
             "corruptions": running.CORRUPTIONS, "seeds": 5, "examples": 32}  # fmt: skip
    chosen = (running.QUICK if options.quick else {}) | {k: v for k, v in asked.items() if v}
    whole: dict[str, Any] = usual | chosen
    settings = whole | {"seeds": [*range(whole["seeds"])], "metric": options.metric}
    place = options.output or Path(legal_name(options, "bench"))
    with claimed(place, "benchmark", options.overwrite, settings) as folder:
        found = running.bench(
            **chosen, metric=options.metric, device=options.device, resume=folder.pieces
        )
        written = found.save(folder)
    if options.json:
        print_json({"about": dict(found.about), "summary": found.summary(),
                    "files": [str(path) for path in written]})  # fmt: skip
    else:
        more = f"and {len(written) - 1} tables and figures in its folder"
        print_text(f"{found!r}\n\nwritten: {written[0]}, {more}")
