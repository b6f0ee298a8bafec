"""``circuitkit task``: the prompts of a task or a file, and which of them fit a model."""

from __future__ import annotations

import argparse

from circuitkit.cli._opening import check_names, load_model, task_of
from circuitkit.cli._options import Commands, add_file, machine, positive
from circuitkit.cli._printing import print_json, print_text

__all__ = ["add", "task_check", "task_show"]


def add(commands: Commands) -> None:
    """Add the commands ``task show`` and ``task check``, and their options."""
    p = commands.add_parser(
        "task", help="show the prompts of a task or a file, or check which fit a model"
    )
    both = p.add_subparsers(required=True, metavar="show|check")
    show = both.add_parser(
        "show", parents=[machine()], help="the prompts, and how well a model does them"
    )
    show.add_argument("task", metavar="TASK", help="ioi, ... or a file of prompts")
    show.add_argument(
        "--examples", type=positive, metavar="N", help="prompts (default: 64, or all of a file)"
    )
    show.add_argument("--seed", type=int, default=0, help="seed of the prompts (default: 0)")
    add_file(show)
    show.set_defaults(run=task_show)
    check = both.add_parser(
        "check", parents=[machine()],
        help="the rows of a file that do not fit a model, and what looks like a mistake",
    )  # fmt: skip
    check.add_argument("task", metavar="FILE", help="a file of prompts (- is standard input)")
    add_file(check, misfits=False)
    check.set_defaults(run=task_check)
    for one in (show, check):
        one.add_argument(
            "--model", default="mini", help="mini, a directory or a hub name (default: mini)"
        )


def task_check(options: argparse.Namespace) -> None:
    """Print the rows of a file that do not fit, and warnings; raise DataError if any do not."""
    check_names("tasks", options.task)
    model = load_model(options.model, options)
    from circuitkit.data.lint import check_prompts
    from circuitkit.data.prompts import is_file
    from circuitkit.data.tasks import make_task

    if is_file(options.task):
        answers = options.answers or "single"
        found = check_prompts(
            options.task, model, columns=options.columns, answers=answers, align=options.align
        )
    else:
        found = check_prompts(make_task(task_of(options, options.task), model), model)
    print_json(found.to_dict()) if options.json else print_text(repr(found))
    found.require()


def task_show(options: argparse.Namespace) -> None:
    """Print some prompts of a task with their token positions, and how well the model does it."""
    name = task_of(options, options.task)
    check_names("tasks", options.task)
    model = load_model(options.model, options)
    from circuitkit.data.framing import framing
    from circuitkit.data.prompts import file_of
    from circuitkit.data.tasks import draw, make_task
    from circuitkit.data.tokens import view
    from circuitkit.engine.inputs import EXAMPLES, prepare
    from circuitkit.evaluation.ability import ability

    if options.examples is None and file_of(name):
        task = make_task(name, model, seed=options.seed)
    else:
        task = draw(name, model, options.examples or EXAMPLES, options.seed)
    inputs = prepare(
        model, task, None, "zero", batch_size=options.batch_size, memory=options.memory
    )  # zero: no corrupted text is needed to show prompts
    able = ability(*inputs[:3])
    if options.json:
        print_json({"task": task.name, "model": model.name, **framing(model.tokenizer),
                    **able.to_dict(),
                    "prompts": [vars(p) for p in task.prompts]})  # fmt: skip
        return
    print_text(f"{task.name} on {model.name}: {able!r}\n")
    words = view(model)
    if words.chat is not None:
        print_text("\n".join(f"  {line}" for line in words.chat.said()) + "\n")
    for prompt, example in list(zip(task.prompts, inputs.data.examples, strict=True))[:5]:
        print_text(f"  clean    {prompt.clean!r} -> {', '.join(map(repr, prompt.correct[:5]))}")
        wrong = ", ".join(map(repr, prompt.wrong[:5])) or "–"
        if prompt.corrupt is None:
            print_text(f"  wrong    {wrong}")
        else:
            print_text(f"  corrupt  {prompt.corrupt!r} -> {wrong}")
        where = sorted(example.spans.items(), key=lambda item: item[1])
        tokens = ", ".join(f"{name} {_range(span)}" for name, span in where)
        print_text(f"  tokens   {tokens}\n")


def _range(span: tuple[int, int]) -> str:
    """The first and the last position of a span."""
    start, stop = span
    return str(start) if stop - start == 1 else f"{start}–{stop - 1}"
