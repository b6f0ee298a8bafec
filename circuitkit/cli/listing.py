"""``circuitkit list``: what there is, by name: metrics, methods, tasks, models and so on."""

from __future__ import annotations

import argparse
import shutil
import sys
import textwrap
from typing import TypeAlias

from circuitkit import registry
from circuitkit.cli._options import Commands, common
from circuitkit.cli._printing import print_json
from circuitkit.models.listing import describe_models
from circuitkit.util.tables import WIDTH

__all__ = ["add", "list_names"]

KINDS = (*registry.KINDS, "models")
NARROWEST = 30  # signs of a description beside its name; below a name that leaves fewer
Entry: TypeAlias = tuple[str, dict[str, str]]  # a description, and settings with their defaults


def add(commands: Commands) -> None:
    """Add the command ``list`` and its options."""
    p = commands.add_parser(
        "list",
        parents=[common()],
        help="list metrics, corruptions, methods, tasks, circuits, formats and models",
        description="List what is available, with settings and their defaults: a setting is given "
        "with the name, as in --method 'eap_ig(steps=10)'.",
    )
    p.add_argument(
        "kind", nargs="?", choices=KINDS, metavar="KIND",
        help=f"only {', '.join(KINDS[:-1])} or {KINDS[-1]} (default: all)",
    )  # fmt: skip
    p.set_defaults(run=list_names)


def list_names(options: argparse.Namespace) -> None:
    """Print each name with its description and settings, folded to the width of the terminal."""
    listed = {kind: _listed(kind) for kind in ([options.kind] if options.kind else KINDS)}
    if options.json:
        plain = {
            kind: {name: {"description": text, "settings": own} for name, (text, own) in held}
            for kind, held in ((kind, entries.items()) for kind, entries in listed.items())
        }
        print_json(plain)
        return
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else WIDTH
    for kind, entries in listed.items():
        print(kind)
        longest = max((len(name) for name in entries), default=0)
        for name, entry in entries.items():
            print(_shown(name, entry, longest, width))


def _listed(kind: str) -> dict[str, Entry]:
    if kind == "models":
        return {name: (text, {}) for name, text in describe_models().items()}
    return {
        name: (
            text.replace("``", ""),
            {own.name: own.default for own in registry.settings_of(kind, name)},
        )
        for name, text in registry.describe(kind).items()
    }


def _shown(name: str, entry: Entry, longest: int, width: int) -> str:
    """The name, its description, and below that its settings."""
    text, settings = entry
    at = longest + 4 if width - longest - 4 >= NARROWEST else 6
    head = f"  {name:{longest}s}  "
    lines = [head.rstrip()] if at < len(head) else []
    given = [f"{key}={value}" if value else f"{key}=..." for key, value in settings.items()]
    for one in (text, f"settings: {', '.join(given)}") if given else (text,):
        first = " " * at if lines else head
        lines += textwrap.wrap(
            one, max(width, at + NARROWEST), initial_indent=first, subsequent_indent=" " * at,
            break_on_hyphens=False, break_long_words=False,
        )  # fmt: skip
    return "\n".join(lines)
