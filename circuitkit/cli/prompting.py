"""``circuitkit task show``: the prompts of a task, and how well a model does it."""

from __future__ import annotations

import argparse

from circuitkit.cli._opening import check_names, load_model
from circuitkit.cli._options import Commands, machine, positive
from circuitkit.cli._printing import print_json

__all__ = ["add", "task_show"]


def add(commands: Commands) -> None:
    """Add the command ``task show`` and its options."""
    p = commands.add_parser("task", help="show the prompts of a task, and how well a model does it")
    show = p.add_subparsers(required=True, metavar="show").add_parser("show", parents=[machine()])
    show.add_argument("task", metavar="TASK")
    show.add_argument("--model", default="mini")
    show.add_argument("--examples", type=positive, default=64, metavar="N")
    show.add_argument("--seed", type=int, default=0)
    show.set_defaults(run=task_show)


def task_show(options: argparse.Namespace) -> None:
    """Print some prompts of a task with their token positions, and how well the model does it."""
    check_names("tasks", options.task)
    model = load_model(options.model, options)
    from circuitkit.data.tasks import make_task
    from circuitkit.engine.inputs import prepare
    from circuitkit.evaluation.ability import ability

    task = make_task(options.task, model, n=options.examples, seed=options.seed)
    inputs = prepare(model, task, batch_size=options.batch_size, memory=options.memory)
    able = ability(*inputs[:3])
    if options.json:
        print_json({"task": task.name, "model": model.name, **vars(able),
                    "prompts": [vars(p) for p in task.prompts]})  # fmt: skip
        return
    print(f"{task.name} on {model.name}: {able}\n")
    for prompt, example in list(zip(task.prompts, inputs.data.examples, strict=True))[:5]:
        print(f"  clean    {prompt.clean!r} -> {', '.join(map(repr, prompt.correct[:5]))}")
        print(f"  corrupt  {prompt.corrupt!r} -> {', '.join(map(repr, prompt.wrong[:5]))}")
        where = sorted(example.spans.items(), key=lambda item: item[1])
        print("  tokens  ", ", ".join(f"{name} {_range(span)}" for name, span in where), "\n")


def _range(span: tuple[int, int]) -> str:
    """The first and the last position of a span."""
    start, stop = span
    return str(start) if stop - start == 1 else f"{start}–{stop - 1}"
