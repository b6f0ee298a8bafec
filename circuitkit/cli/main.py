"""The command line: the parser of every command, and what it returns to the shell.

Results go to stdout, progress to stderr. A user's mistake is one sentence on stderr and exit code
2. What needs torch is imported by the commands that need it, so ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence

from circuitkit import __version__
from circuitkit.cli import (
    benching,
    checking,
    comparing,
    cutting,
    discovering,
    drawing,
    evaluating,
    fetching,
    listing,
    prompting,
    studying,
)
from circuitkit.errors import CircuitkitError
from circuitkit.util.neighbour import NeighbourWarning, neighbour

__all__ = ["main"]

COMMANDS = (  # in the order of --help
    discovering, evaluating, cutting, studying, benching, comparing, drawing, listing, prompting,
    checking, fetching,
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    # threads that spin while they wait slow a shared machine down several times
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        options = _parser().parse_args(arguments)
        if options.quiet:
            os.environ["TQDM_DISABLE"] = "1"
        _run(options)
    except CircuitkitError as error:
        print(f"circuitkit: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("circuitkit: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of a pipe went away: `circuitkit list | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _run(options: argparse.Namespace) -> None:
    """Run the command, and say first where another project's package lies beside ours."""
    found = neighbour()
    if found:
        print(f"circuitkit: {found}", file=sys.stderr)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NeighbourWarning)  # said already
        options.run(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="circuitkit",
        description="Find, measure and draw the circuit by which a language model does a task.",
        epilog="Names take settings: --method 'eap_ig(steps=10)', "
        "--corruption \"noise(spans=('S2',), draws=4)\"; own functions: --metric mine.py:name.",
    )
    parser.add_argument("--version", action="version", version=f"circuitkit {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add(commands)
    return parser
