"""``circuitkit knockout``: what the edges of a saved circuit do inside it."""

from __future__ import annotations

import argparse
from typing import Any

from circuitkit.cli._opening import recorded, unseen
from circuitkit.cli._options import Commands, add_circuit, count, machine
from circuitkit.cli._printing import print_json, print_text

__all__ = ["add", "knockout"]


def add(commands: Commands) -> None:
    """Add the command ``knockout`` and its options."""
    p = commands.add_parser(
        "knockout",
        parents=[machine()],
        help="cut a saved circuit's edges: one, two, many at a time",
    )
    add_circuit(p)
    own = "default: the circuit's own"
    p.add_argument("--metric", metavar="M", help=f"how outputs are measured ({own})")
    p.add_argument("--corruption", metavar="C", help=f"what a cut edge carries ({own})")
    p.add_argument(
        "--pairs",
        type=count,
        default=12,
        metavar="N",
        help="pairs of the N strongest edges (default: 12; 0: no pairs)",
    )
    p.add_argument(
        "--within",
        default="model",
        choices=("model", "circuit"),
        help="whether pairs are cut in the model or in the circuit (default: model)",
    )
    p.add_argument(
        "--subsets",
        type=count,
        default=20,
        metavar="N",
        help="random sets cut in circuit and model (default: 20; 0: none)",
    )
    p.add_argument("--seed", type=int, default=0, help="seed of the random subsets (default: 0)")
    p.set_defaults(run=knockout, dealt=True)


def knockout(options: argparse.Namespace) -> None:
    """Print what a circuit's edges do inside it, on unseen prompts, each as it is computed."""
    from circuitkit.evaluation.knockouts.everything import knock_out
    from circuitkit.graph.circuit import Circuit

    circuit = Circuit.load(options.circuit, force=options.force)
    metric = options.metric or recorded(circuit, "metric")
    corruption = options.corruption or recorded(circuit, "corruption")
    cells, title = unseen(options, circuit, [metric], [corruption])
    model, *inputs = cells[metric, corruption]
    found: dict[str, Any] = {}
    settings = {name: getattr(options, name) for name in ("pairs", "within", "subsets", "seed")}
    for name, result in knock_out(model, circuit, *inputs, **settings):
        if not options.json:
            heading = "" if found else f"{title}\n{result.evaluation!r}\n"
            print_text(f"{heading}\n{result.table()}")
        found[name] = result.to_dict()
    if options.json:
        print_json(found)
