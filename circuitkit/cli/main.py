"""The command line: the parser of all commands, and the exit code.

Results go to stdout, progress to stderr. A user's mistake gives one sentence on stderr and exit
code 2, an error that nobody foresaw a sentence that asks for a report and exit code 3; a replay
whose results differ has exit code 1. ``--debug`` shows where an error comes from, ``--log`` keeps
all of it in a file. Commands import torch only when they need it, so that ``--help`` is fast.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import Any

from circuitkit import __version__
from circuitkit.cli import (
    benching,
    checking,
    citing,
    clustering,
    comparing,
    crossing,
    cutting,
    dictionaries,
    discovering,
    drawing,
    evaluating,
    featuring,
    fetching,
    listing,
    merging,
    prompting,
    replaying,
    studying,
    testing,
    tracing,
    tracking,
    viewing,
)
from circuitkit.cli._parsing import Parser
from circuitkit.cli._processes import Company, is_shard, leads
from circuitkit.cli._streams import Log, Stream, streams
from circuitkit.errors import CircuitkitError, UnfinishedError
from circuitkit.util.neighbour import NeighbourWarning, neighbour

__all__ = ["build_parser", "main"]

COMMANDS = (  # in the order of --help
    discovering, evaluating, testing, replaying, cutting, clustering, studying, tracking, crossing,
    dictionaries, featuring, tracing, benching, merging, comparing, drawing, viewing, listing,
    prompting, checking, citing, fetching,
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    # threads that spin while they wait slow down a shared machine
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    given = sys.argv[1:] if arguments is None else arguments
    company = Company()
    with streams(silent=company.rank > 0) as logs:
        code = 2
        try:
            code = _attempt(given, logs, company)
        finally:
            for log in logs:
                log.close(code)
    return code


def _attempt(arguments: Sequence[str], logs: list[Log], company: Company) -> int:
    """Run the command and say what goes wrong, once for all of its processes; returns the exit
    code."""
    options = argparse.Namespace(debug=False)
    try:
        try:
            build_parser().parse_args(arguments, options)
            options.arguments = [*arguments]
            if options.log and leads():
                logs.append(Log(options.log, arguments))
            if options.quiet:
                os.environ["TQDM_DISABLE"] = "1"
            with company.joined(options) as works:
                return _run(options) if works else 0
        except Exception as error:
            if company.speaks(error) or isinstance(error, BrokenPipeError):
                raise
            return 2
        finally:
            sys.stdout.flush()
    except CircuitkitError as error:
        if isinstance(error, UnfinishedError) and is_shard(options):
            print(f"circuitkit: {error}; when all shards have ended, circuitkit merge puts them "
                  "together", file=sys.stderr)  # fmt: skip
            return 0
        return _said(str(error), 2, options.debug, logs)
    except KeyboardInterrupt:
        if leads():
            print("circuitkit: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of a pipe has gone: `circuitkit list | head -1`
        if isinstance(sys.stdout, Stream):
            sys.stdout.drop()
    except Exception as error:  # what nobody foresaw
        name = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        again = "report it" if options.debug else "run it again with --debug, and report it"
        sentence = f"unexpected error ({name}); {again} with what is printed"
        return _said(sentence, 3, options.debug, logs)
    return 0


def _said(sentence: str, code: int, debug: bool, logs: list[Log]) -> int:
    """Print the sentence of the error at hand, below its traceback where that is asked for; the log
    has both. Returns the exit code."""
    if debug:
        traceback.print_exc()
    else:
        for log in logs:
            log.error()
    print(f"circuitkit: {sentence}", file=sys.stderr)
    return code


def _run(options: argparse.Namespace) -> int:
    """Run the command, and return its exit code (0 where it has none of its own); warn first if the
    package of another project is beside ours."""
    found = neighbour()
    if found and leads():
        print(f"circuitkit: {found}", file=sys.stderr)
    from circuitkit.data.lint import PromptWarning

    shown = warnings.showwarning

    def say(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        """Our own warnings as one line, like errors; of several processes the first one's."""
        if not leads():
            return
        if category.__module__.startswith("circuitkit."):
            print(f"circuitkit: {message}", file=sys.stderr)
        else:
            shown(message, category, *place, **more)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NeighbourWarning)  # said already
        warnings.simplefilter("always", PromptWarning)
        warnings.showwarning = say  # until the end of this block
        return options.run(options) or 0


def build_parser() -> Parser:
    """The parser of all commands."""
    parser = Parser(
        prog="circuitkit",
        description="Find, measure and draw the circuit that a language model uses for a task.",
        epilog="Names can have settings: --method 'eap_ig(steps=10)', "
        "--corruption \"noise(at='S2', draws=4)\"; own functions: --metric mine.py:name.",
    )
    parser.add_argument("--version", action="version", version=f"circuitkit {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add(commands)
    return parser
