"""``circuitkit trace``: how features of a prompt add up to its answer, and what they predict."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from circuitkit.cli._opening import check_names, legal_name, load_model, settings_of, task_of
from circuitkit.cli._options import Commands, add_file, add_output, count, machine, positive
from circuitkit.cli._printing import print_run
from circuitkit.cli._processes import folder_of
from circuitkit.errors import ArgumentError, CircuitkitError

__all__ = ["add", "trace"]

WORDS = 5  # of a prompt that name its folder


def add(commands: Commands) -> None:
    """Add the command ``trace`` and its options."""
    p = commands.add_parser(
        "trace", parents=[machine()],
        help="a prompt's attribution graph of features, and whether it predicts ablations",
    )  # fmt: skip
    p.add_argument("prompt", nargs="?", metavar="PROMPT", help="a text (or give --task)")
    p.add_argument("--task", help="trace the prompts of a task or a file (default: PROMPT)")
    p.add_argument(
        "--examples", type=positive, metavar="N",
        help="prompts of the task; the first one's graph is written (default: 8)",
    )  # fmt: skip
    p.add_argument("--seed", type=int, default=0, help="seed of the prompts (default: 0)")
    own = "default: the likeliest tokens"
    p.add_argument("--correct", action="append", metavar="WORD",
                   help=f"explain the logit of this answer, ' Mary' ({own})")  # fmt: skip
    p.add_argument("--wrong", action="append", metavar="WORD",
                   help="less that of this one (default: the mean of all tokens)")  # fmt: skip
    p.add_argument("--model", default="mini", help="mini, a directory, a hub name (default: mini)")
    p.add_argument("--dictionaries", metavar="DIR",
                   help="transcoders of the model (default: mini's own)")  # fmt: skip
    p.add_argument("--norms", choices=("frozen", "live"), default="frozen",
                   help="norms held, or answering to first order (default: frozen)")  # fmt: skip
    p.add_argument("--features", type=positive, metavar="N",
                   help="nodes for the N strongest features (default: all active)")  # fmt: skip
    p.add_argument("--nodes", type=_share, default=0.8, metavar="SHARE",
                   help="of the influence, kept by pruning nodes (default: 0.8)")  # fmt: skip
    p.add_argument("--edges", type=_share, default=0.98, metavar="SHARE",
                   help="of the influence, kept by pruning edges (default: 0.98)")  # fmt: skip
    p.add_argument("--changed", type=count, default=30, metavar="N",
                   help="features of a prompt that are changed (default: 30; 0: none)")  # fmt: skip
    p.add_argument("--labels", metavar="CSV",
                   help="what features are: feature, label, supernode (default: none)")  # fmt: skip
    p.add_argument("--alike", type=_share, default=0.9, metavar="COSINE",
                   help="of features that are proposed as a supernode (default: 0.9)")  # fmt: skip
    p.add_argument("--texts", metavar="TEXTS",
                   help="prompts that tell what features are (default: the task's, "
                   "or ioi)")  # fmt: skip
    add_file(p)
    add_output(p, "DIR", "default: trace/PROMPT-MODEL, and the settings that you change")
    p.set_defaults(run=trace, parser=p)


def _share(text: str) -> float:
    """The share, from 0 to 1; raises ArgumentTypeError for any other text."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share; give one from 0 to 1")
    return value


def trace(options: argparse.Namespace) -> None:
    """Trace a prompt, or those of a task; write the graph, and print what it says."""
    _require_one(options)
    if options.task:
        check_names("tasks", options.task)
    place = options.output or Path("trace", _name(options))
    with folder_of(options, place, "trace", settings_of(options)) as folder:
        model = load_model(options.model, options)
        from circuitkit.features.describing import read_labels
        from circuitkit.features.loading import load
        from circuitkit.workflows.traces import trace_prompts

        labels = read_labels(options.labels) if options.labels else {}
        coders = load(options.dictionaries or options.model)
        found = trace_prompts(
            model, _prompts(options, model), coders, nodes=options.nodes, edges=options.edges,
            changed=options.changed, norms=options.norms, features=options.features,
            labels=labels, alike=options.alike, memory=options.memory,
            texts=_texts(options, model),
        )  # fmt: skip
        written = found.save(folder)
    print_run(options, found, written)


def _require_one(options: argparse.Namespace) -> None:
    """Raise ArgumentError unless there is a prompt or a task, and answers only of a prompt."""
    if bool(options.prompt) == bool(options.task):
        raise ArgumentError("give a prompt to trace, or a task (--task), and not both")
    if options.task and (options.correct or options.wrong):
        raise ArgumentError("a task has its own answers; leave --correct and --wrong out")
    if options.wrong and not options.correct:
        raise ArgumentError("--wrong says nothing without --correct; give the correct answer too")
    if not options.dictionaries and options.model != "mini":
        raise ArgumentError(
            f"no transcoders of {options.model!r} come with the package; give theirs "
            "(--dictionaries DIR)"
        )


def _name(options: argparse.Namespace) -> str:
    """The default folder's name: the first words of the prompt, or the task, and the model."""
    first = " ".join(options.prompt.split()[:WORDS]) if options.prompt else options.task
    given = ("prompt", "task", "model")
    return legal_name(options, first, Path(options.model).name, without=given)


def _texts(options: argparse.Namespace, model: Any) -> str | None:
    """The prompts that tell what features are; none for a single prompt of a model that has no
    words for ``ioi``."""
    from circuitkit.data.tasks import make_task

    if options.texts or options.task:
        return str(options.texts or task_of(options, options.task))
    try:
        make_task("ioi", model, 1)
    except CircuitkitError:
        return None
    return "ioi"


def _prompts(options: argparse.Namespace, model: Any) -> list[Any]:
    """What is traced."""
    from circuitkit.data.prompts import Prompt
    from circuitkit.data.tasks import draw

    if options.prompt:
        correct, wrong = (tuple(own or ()) for own in (options.correct, options.wrong))
        return [Prompt(options.prompt, None, correct, wrong)]
    task = draw(task_of(options, options.task), model, options.examples or 8, options.seed)
    return list(task.prompts)
