"""``circuitkit cite``: what a paper says of a run."""

from __future__ import annotations

import argparse

from circuitkit.cli._options import Commands, add_force, common, saved
from circuitkit.cli._printing import print_json, print_text

__all__ = ["add", "cite"]


def add(commands: Commands) -> None:
    """Add the command ``cite`` and its options."""
    p = commands.add_parser(
        "cite", parents=[common()], help="a paragraph of methods and BibTeX for a run",
        description="Print a paragraph of methods for a paper, which cites sources as "
        "[@hanna2024], and BibTeX of what was used.",
    )  # fmt: skip
    p.add_argument(
        "circuit", metavar="RUN", type=saved, help="a folder of discover, or its circuit.json"
    )
    add_force(p)
    p.set_defaults(run=cite)


def cite(options: argparse.Namespace) -> None:
    """Print a paragraph, and BibTeX."""
    from circuitkit.graph.circuit import Circuit
    from circuitkit.workflows.citing import cite as said_of

    said = said_of(Circuit.load(options.circuit, force=options.force))
    if options.json:
        print_json(said.to_dict())
    else:
        print_text(said.text)
        print_text("")
        print_text(said.bibtex)
