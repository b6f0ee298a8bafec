"""``circuitkit compare``: the overlap of two circuits, whether their difference matters, and a
picture of both."""

from __future__ import annotations

import argparse
import contextlib
from typing import Any

from circuitkit.cli._opening import (
    called,
    check_names,
    load_model,
    open_circuit,
    recorded,
    resumed,
)
from circuitkit.cli._options import (
    Commands,
    add_force,
    add_output,
    add_shard,
    machine,
    place,
    positive,
    saved,
)
from circuitkit.cli._printing import print_json, print_text
from circuitkit.cli._processes import leads, require_folder
from circuitkit.errors import ArgumentError

__all__ = ["add", "compare"]

OF_TRANSFER = ("model", "task", "metric", "corruption", "examples", "resume", "shard")


def add(commands: Commands) -> None:
    """Add the command ``compare`` and its options."""
    p = commands.add_parser(
        "compare", parents=[machine()],
        help="the overlap of two circuits, and whether their difference matters",
    )  # fmt: skip
    p.add_argument(
        "left", metavar="A", type=saved,
        help="a saved circuit, or a published one such as ioi:acdc",
    )  # fmt: skip
    p.add_argument("right", metavar="B", type=saved, help="the same; precision is of A against B")
    p.add_argument(
        "--transfer", action="store_true",
        help="does the difference matter? put edges of one into the other, and measure both on "
        "the models of both; the next seven options are for that",
    )  # fmt: skip
    own = "default: the circuits' own"
    p.add_argument("--model", action="append", help=f"twice: A's and B's ({own})")
    p.add_argument("--task", help=f"a task, or a file of prompts ({own})")
    p.add_argument("--metric", metavar="M", help=f"how outputs are measured ({own})")
    p.add_argument("--corruption", metavar="C", help=f"what cut edges carry ({own})")
    p.add_argument(
        "--examples", type=positive, metavar="N",
        help="prompts that neither has seen (default: 64, or all of a file)",
    )  # fmt: skip
    p.add_argument(
        "--resume", type=place, metavar="DIR",
        help="keep finished batches there, to resume after a kill (default: nowhere)",
    )  # fmt: skip
    add_shard(p)
    add_force(p)
    add_output(p, "FILE", "also a page or a picture of both: html, svg, pdf, png (default: none)")
    p.set_defaults(run=compare)


def compare(options: argparse.Namespace) -> None:
    """Print the overlap of two circuits, also by the roles of the right one; whether their
    difference matters, and draw them over each other, where that is asked for."""
    from circuitkit.graph import compare as overlap

    for name in OF_TRANSFER:
        if getattr(options, name) and not options.transfer:
            raise ArgumentError(f"--{name} is for --transfer, which runs models; give both")
    require_folder(options)
    left, right = (open_circuit(name, options.force) for name in (options.left, options.right))
    found = overlap.compare(left, right)
    said, text = found.to_dict(), repr(found)
    with _picture(options) as file:
        if options.transfer:
            moved = _transferred(options, left, right)
            said["transfer"] = moved.to_dict()
            text = f"{text}\n\n{moved!r}"
        if not leads():
            return
        if file:
            left.graph["label"], right.graph["label"] = called(options.left, options.right)
            said["file"] = str(left.draw(file, beside=right))
            text = f"{text}\n\nwritten: {said['file']}"
    print_json(said) if options.json else print_text(text)


def _picture(options: argparse.Namespace) -> Any:
    """The place of the picture, tried before the work; None where none is asked for, and for all
    processes but the first."""
    from circuitkit.workflows.folders import output_file

    if options.output and leads():
        return output_file(options.output, options.overwrite)
    return contextlib.nullcontext()


def _transferred(options: argparse.Namespace, left: Any, right: Any) -> Any:
    """What the difference does on the models of both circuits, or on those that are named."""
    check_names("metrics", options.metric)
    check_names("corruptions", options.corruption)
    task = options.task or _one_task(left, right)
    check_names("tasks", task)
    names = options.model or [recorded(circuit, "model") for circuit in (left, right)]
    if len(names) > 2:
        raise ArgumentError(f"there are {len(names)} models; name one, or A's and then B's")
    models = [load_model(name, options, left.graph) for name in dict.fromkeys(names)]
    from circuitkit.evaluation.transferring import transfer

    return transfer(
        models[0], left, right, task, options.metric, options.corruption,
        other=models[1] if models[1:] else None, examples=options.examples,
        batch_size=options.batch_size, memory=options.memory, resume=resumed(options, "compare"),
    )  # fmt: skip


def _one_task(left: Any, right: Any) -> str:
    """The task on which both circuits were found."""
    tasks = dict.fromkeys(recorded(circuit, "task") for circuit in (left, right))
    if len(tasks) > 1:
        raise ArgumentError(
            f"the circuits were found on different tasks ({', '.join(tasks)}); name one (--task), "
            "or measure both on both (circuitkit cross)"
        )
    return next(iter(tasks))
