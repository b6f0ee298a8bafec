"""``circuitkit fetch``: a real model, stored in the user's cache."""

from __future__ import annotations

import argparse
import sys

from circuitkit.cli._options import Commands, common
from circuitkit.cli._printing import print_json

__all__ = ["add", "fetch"]


def add(commands: Commands) -> None:
    """Add the command ``fetch`` and its options."""
    p = commands.add_parser("fetch", parents=[common()], help="store a real model in the cache")
    p.add_argument("model", metavar="MODEL", help="smollm2-135m")
    p.set_defaults(run=fetch)


def fetch(options: argparse.Namespace) -> None:
    """Store a real model in the user's cache."""
    from circuitkit.models import fetching as cache

    say = (lambda _: None) if options.quiet else (lambda line: print(line, file=sys.stderr))
    path = cache.fetch(options.model, say=say)
    print_json({"directory": str(path)}) if options.json else print(path)
