"""``circuitkit merge``: the result of a run whose blocks were made in parts."""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

from circuitkit.cli._options import Commands, Part, common, place
from circuitkit.workflows.folders import recorded_command

__all__ = ["add", "merge"]


def add(commands: Commands) -> None:
    """Add the command ``merge`` and its options."""
    p = commands.add_parser(
        "merge",
        parents=[common()],
        help="put together what runs with --shard have made, or name what is missing",
        description="Run the command of the shards once more, with their blocks; what comes after "
        "the last of them is computed now. Missing blocks are named, with exit code 2.",
    )
    p.add_argument("folder", type=place, metavar="DIR", help="where the shards have written")
    p.set_defaults(run=partial(merge, commands))


def merge(commands: Commands, options: argparse.Namespace) -> Any:
    """Run the command that the folder says, with the blocks that are in it."""
    name, *arguments = recorded_command(options.folder)
    again = commands.choices[name].parse_args(arguments)
    again.shard, again.arguments = Part(None), [name, *arguments]
    if hasattr(again, "resume"):
        again.resume = options.folder
    else:
        again.output = options.folder
    again.json |= options.json
    return again.run(again)
