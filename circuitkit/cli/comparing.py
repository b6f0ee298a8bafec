"""``circuitkit compare``: the overlap of two circuits, also as a page that shows both."""

from __future__ import annotations

import argparse

from circuitkit.cli._opening import open_circuit
from circuitkit.cli._options import Commands, add_force, add_output, common, saved
from circuitkit.cli._printing import print_json, print_text

__all__ = ["add", "compare"]


def add(commands: Commands) -> None:
    """Add the command ``compare`` and its options."""
    p = commands.add_parser("compare", parents=[common()], help="the overlap of two circuits")
    p.add_argument(
        "left", metavar="A", type=saved,
        help="a saved circuit, or a published one such as ioi:acdc",
    )  # fmt: skip
    p.add_argument("right", metavar="B", type=saved, help="the same; precision is of A against B")
    add_force(p)
    add_output(p, "FILE", "also a page (.html) that shows both (default: none)")
    p.set_defaults(run=compare)


def compare(options: argparse.Namespace) -> None:
    """Print the overlap of two circuits, also by the roles of the right one; draw them over each
    other, where that is asked for."""
    from circuitkit.graph import compare as overlap

    left, right = (open_circuit(name, options.force) for name in (options.left, options.right))
    found = overlap.compare(left, right)
    said = found.to_dict()
    if options.output:
        from circuitkit.workflows.folders import output_file

        with output_file(options.output, options.overwrite) as place:
            said["file"] = str(left.draw(place, format="html", beside=right))
    written = f"\n\nwritten: {said['file']}" if options.output else ""
    print_json(said) if options.json else print_text(f"{found!r}{written}")
