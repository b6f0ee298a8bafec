"""``circuitkit draw``: a circuit as a picture, or as a file of another format."""

from __future__ import annotations

import argparse

from circuitkit import registry
from circuitkit.cli._opening import called, open_circuit
from circuitkit.cli._options import Commands, add_force, add_output, common, positive, saved
from circuitkit.cli._printing import print_json
from circuitkit.errors import OutputError

__all__ = ["add", "draw"]


def add(commands: Commands) -> None:
    """Add the command ``draw`` and its options."""
    p = commands.add_parser("draw", parents=[common()], help="a circuit as a picture or a file")
    p.add_argument(
        "circuit", metavar="CIRCUIT", type=saved, help="a saved circuit, or a published one"
    )
    suffixes = ", ".join(registry.names("formats"))
    add_output(p, "FILE", f"the file, whose suffix is its format: {suffixes}", required=True)
    p.add_argument(
        "--format", metavar="F", help="a format other than the suffix: svg, mine.py:name"
    )
    p.add_argument(
        "--edges", type=_edges, metavar="N", help="draw the N strongest, or all (default: 40)"
    )
    p.add_argument(
        "--width", type=float, metavar="INCHES",
        help="for a paper's column (3.3, or 7 for two), in letters of 7 points or more (default: "
             "its own width)",
    )  # fmt: skip
    p.add_argument(
        "--beside", metavar="OTHER", type=saved,
        help="another circuit, saved or published, drawn over it: what both have, and what only "
             "one has (default: none)",
    )  # fmt: skip
    p.add_argument("--title", help="a line of text above the picture (default: what it is)")
    add_force(p)
    p.set_defaults(run=draw)


def _edges(text: str) -> int | str:
    return text if text == "all" else positive(text)


def draw(options: argparse.Namespace) -> None:
    """Write a circuit as a picture or a file."""
    asked = {"edges": options.edges, "title": options.title, "width": options.width,
             "beside": options.beside}  # fmt: skip
    style = {name: value for name, value in asked.items() if value is not None}
    place = options.output
    name = options.format or place.suffix.removeprefix(".").lower()
    saves = name in registry.names("formats") and registry.folder_of("formats", name) == "formats"
    if saves and style:
        raise OutputError(
            f".{name} files contain all of a circuit; leave out --edges, --title, --width and "
            "--beside, or draw it as .svg"
        )
    from circuitkit.workflows.folders import output_file

    with output_file(place, options.overwrite):
        circuit = open_circuit(options.circuit, options.force)
        if options.beside:
            style["beside"] = other = open_circuit(options.beside, options.force)
            circuit.graph["label"], other.graph["label"] = called(options.circuit, options.beside)
        write = circuit.save if saves else circuit.draw
        path = write(place, format=options.format, **style)
    print_json({"file": str(path)}) if options.json else print(path)
