"""``circuitkit check``: the proof that a model computes what its graph says."""

from __future__ import annotations

import argparse

from circuitkit.cli._opening import load_model
from circuitkit.cli._options import Commands, machine
from circuitkit.cli._printing import print_json, print_text

__all__ = ["add", "check"]


def add(commands: Commands) -> None:
    """Add the command ``check`` and its options."""
    p = commands.add_parser(
        "check", parents=[machine()], help="prove that a model computes what its graph says"
    )
    p.add_argument("model", metavar="MODEL", help="mini, a directory, a hub name, a .decoder file")
    p.set_defaults(run=check)


def check(options: argparse.Namespace) -> None:
    """Print the proof that a model computes what its graph says; raise if it does not."""
    from circuitkit.models import checking as proof

    found = proof.check(load_model(options.model, options, proved=False))
    if options.json:
        rows = [{**vars(row), "holds": row.holds} for row in found.rows]
        print_json({"model": found.model, "holds": found.holds, "statements": rows})
    else:
        print_text(str(found))
    found.require()
