"""``circuitkit draw``: a circuit as a picture, or as a file of another format."""

from __future__ import annotations

import argparse
import inspect
from pathlib import Path
from typing import Any

from circuitkit import registry
from circuitkit.cli._opening import open_circuit
from circuitkit.cli._options import Commands, common, positive
from circuitkit.cli._printing import print_json
from circuitkit.errors import OutputError

__all__ = ["add", "draw"]

MOST_DRAWN = 300  # edges: above, a picture of equal lines says nothing


def add(commands: Commands) -> None:
    """Add the command ``draw`` and its options."""
    p = commands.add_parser("draw", parents=[common()], help="a circuit as a picture or a file")
    p.add_argument("circuit", metavar="CIRCUIT", help="a saved circuit, or a published one")
    suffixes = ", ".join(registry.names("formats"))
    p.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help=suffixes)
    p.add_argument(
        "--format", metavar="F", help="another format than the suffix: svg, mine.py:name"
    )
    p.add_argument("--edges", type=positive, metavar="N", help="draw the strongest N (200)")
    p.add_argument("--title")
    p.set_defaults(run=draw)


def draw(options: argparse.Namespace) -> None:
    """Write a circuit as a picture or a file."""
    from circuitkit.graph.circuit import write

    asked = {"edges": options.edges, "title": options.title}
    style = {name: value for name, value in asked.items() if value is not None}
    circuit = open_circuit(options.circuit)
    suffix = options.output.suffix.removeprefix(".").lower()
    if circuit.graph.get("unweighted") and _draws(options.format or suffix):
        circuit, style = _pictured(circuit, style)
    path = write(circuit, options.output, format=options.format, **style)
    print_json({"file": str(path)}) if options.json else print(path)


def _draws(format: str) -> bool:
    """Whether a format is a picture, which shows so many edges, and no file that holds them all."""
    if ":" not in format and format not in registry.names("formats"):
        return False
    return "edges" in inspect.signature(registry.lookup("formats", format)).parameters


def _pictured(circuit: Any, style: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """What to draw of a circuit without weights, and how: whole if so many edges are asked for,
    else those between components with roles, and none of them left out, for they have no order."""
    from circuitkit.graph.circuit import edges
    from circuitkit.graph.published import skeleton

    name, asked = circuit.graph.get("reference", "the circuit"), style.get("edges", 0)
    total, small = len(list(edges(circuit))), skeleton(circuit)
    if not total:
        raise OutputError(f"{name} has components and no edges to draw; write it as .json")
    if asked >= total:
        return circuit, {"title": name, **style}
    shown = len(list(edges(small)))
    if shown > (asked or MOST_DRAWN):
        raise OutputError(
            f"{name} has {shown:,} edges between components with roles, none of them stronger than "
            f"another; give --edges {shown} to draw them"
        )
    part = "" if shown == total else f": {shown:,} of {total:,} edges, those between roles"
    return small, {"title": f"{name}{part}", **style, "edges": max(1, shown)}
