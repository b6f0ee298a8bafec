"""``circuitkit replay``: a saved circuit found once more, and what differs."""

from __future__ import annotations

import argparse
from typing import Any

from circuitkit.cli._opening import check_asked, set_threads
from circuitkit.cli._options import Commands, add_force, add_framing, machine, saved
from circuitkit.cli._printing import print_json, print_text

__all__ = ["add", "replay"]


def add(commands: Commands) -> None:
    """Add the command ``replay`` and its options."""
    p = commands.add_parser(
        "replay",
        parents=[machine()],
        help="find a saved circuit once more, and report what differs",
        description="Find a circuit once more, as its file says that it was found, and report what "
        "differs. Exit code 0: the results agree; 1: they differ; 2: it cannot be replayed.",
    )
    p.add_argument(
        "circuit", metavar="CIRCUIT.json", type=saved,
        help="what circuitkit discover has written: the file, or its folder",
    )  # fmt: skip
    own = "default: what the file says"
    code = f"{own}, but code of your own runs only if it is named here"
    p.add_argument("--model", help=f"mini, a directory, a hub name ({own})")
    p.add_argument("--task", metavar="TASK", help=f"a task, or a file of prompts ({own})")
    p.add_argument("--method", metavar="M", help=f"how edges are scored ({code})")
    p.add_argument("--metric", metavar="M", help=f"how outputs are measured ({own})")
    p.add_argument("--corruption", metavar="C", help=f"what a cut edge carries ({own})")
    add_framing(p)
    add_force(p)
    p.set_defaults(run=replay, dealt=True)


def replay(options: argparse.Namespace) -> int:
    """Replay a circuit and print what differs; the exit code is 1 where its results do."""
    check_asked(options)
    set_threads(options.threads)
    from circuitkit.graph.circuit import Circuit
    from circuitkit.workflows import replay as workflow

    circuit = Circuit.load(options.circuit, force=options.force)
    again: Any = workflow.replay(
        circuit, model=options.model, data=options.task, metric=options.metric,
        corruption=options.corruption, method=options.method, device=options.device,
        device_map=options.device_map, dtype=options.dtype, experts=options.experts,
        bos=options.bos, chat=options.chat,
        batch_size=options.batch_size,
        memory=options.memory,
    )  # fmt: skip
    print_json(again.to_dict()) if options.json else print_text(repr(again))
    return 0 if again.same else 1
