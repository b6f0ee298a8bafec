"""``circuitkit list``: the names of metrics, corruptions, methods, tasks, circuits and formats."""

from __future__ import annotations

import argparse
import shutil
import sys
import textwrap

from circuitkit import registry
from circuitkit.cli._options import Commands, common
from circuitkit.cli._printing import print_json

__all__ = ["add", "list_names"]


def add(commands: Commands) -> None:
    """Add the command ``list`` and its options."""
    p = commands.add_parser(
        "list",
        parents=[common()],
        help="list metrics, corruptions, methods, tasks, circuits and formats",
    )
    p.add_argument("kind", nargs="?", choices=registry.KINDS)
    p.set_defaults(run=list_names)


def list_names(options: argparse.Namespace) -> None:
    """Print each name with its description: on one line, or folded to the width of a terminal."""
    kinds = [options.kind] if options.kind else registry.KINDS
    listed = {kind: registry.describe(kind) for kind in kinds}
    if options.json:
        print_json(listed)
        return
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for kind, functions in listed.items():
        print(kind)
        longest = max(map(len, functions), default=0)
        for name, text in functions.items():
            print(_entry(f"  {name:{longest}s}  ", text.replace("``", ""), width))


def _entry(name: str, text: str, width: int | None) -> str:
    """The name and its description, on one line, or folded to that width."""
    if width is None:
        return name + text
    beside = " " * len(name)
    return textwrap.fill(
        text, max(width, len(name) + 30), initial_indent=name, subsequent_indent=beside,
        break_on_hyphens=False,
    )  # fmt: skip
