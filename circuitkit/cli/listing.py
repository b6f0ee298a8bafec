"""``circuitkit list``: what there is by name."""

from __future__ import annotations

import argparse

from circuitkit import registry
from circuitkit.cli._options import Commands, common
from circuitkit.cli._printing import print_json

__all__ = ["add", "list_names"]


def add(commands: Commands) -> None:
    """Add the command ``list`` and its options."""
    p = commands.add_parser("list", parents=[common()], help="what there is by name")
    p.add_argument("kind", nargs="?", choices=(*registry.KINDS, "references"))
    p.set_defaults(run=list_names)


def list_names(options: argparse.Namespace) -> None:
    """Print what there is by name."""
    from circuitkit.references import published

    kinds = [options.kind] if options.kind else (*registry.KINDS, "references")
    listed = {
        kind: published.describe() if kind == "references" else registry.describe(kind)
        for kind in kinds
    }
    if options.json:
        print_json(listed)
        return
    for kind, functions in listed.items():
        print(kind)
        width = max(18, *map(len, functions))
        for name, line in functions.items():
            print(f"  {name:{width}s} {line}")
