"""``circuitkit view``: a circuit as an interactive page."""

from __future__ import annotations

import argparse
from typing import Any

from circuitkit.cli._opening import called, load_model, open_circuit, recorded
from circuitkit.cli._options import (
    Commands,
    add_force,
    add_framing,
    add_output,
    machine,
    positive,
    saved,
)
from circuitkit.cli._printing import print_json

__all__ = ["add", "view"]


def add(commands: Commands) -> None:
    """Add the command ``view`` and its options."""
    p = commands.add_parser(
        "view", parents=[machine()], help="a circuit as one interactive page, offline"
    )
    p.add_argument(
        "circuit", metavar="CIRCUIT", type=saved, help="a saved circuit, or a published one"
    )
    add_output(p, "FILE", "the page, such as circuit.html", required=True)
    p.add_argument(
        "--beside",
        metavar="B",
        type=saved,
        help="a second circuit, with which it is overlaid (default: none)",
    )
    p.add_argument(
        "--edges", type=positive, metavar="N", help="hold the N strongest (default: 5000)"
    )
    p.add_argument("--title", help="the heading (default: task and model)")
    p.add_argument(
        "--prompt", metavar="TEXT",
        help="show what the heads attend to in it, by the model (default: no prompt)",
    )  # fmt: skip
    p.add_argument("--model", help="mini, a directory, a hub name (default: the circuit's own)")
    add_framing(p)
    add_force(p)
    p.set_defaults(run=view)


def view(options: argparse.Namespace) -> None:
    """Write the page of a circuit."""
    from circuitkit.workflows.folders import output_file

    with output_file(options.output, options.overwrite) as place:
        circuit = open_circuit(options.circuit, options.force)
        asked: dict[str, Any] = {"edges": options.edges, "title": options.title}
        if options.beside:
            asked["beside"] = other = open_circuit(options.beside, options.force)
            circuit.graph["label"], other.graph["label"] = called(options.circuit, options.beside)
        if options.prompt:
            asked["attention"] = _attention(circuit, options)
        path = circuit.draw(place, format="html", **asked)
    print_json({"file": str(path)}) if options.json else print(path)


def _attention(circuit: Any, options: argparse.Namespace) -> Any:
    """What the circuit's heads attend to in the prompt of the options."""
    model = load_model(options.model or recorded(circuit, "model"), options)
    from circuitkit.patching.patterns import patterns

    return patterns(model, circuit.heads, options.prompt)
