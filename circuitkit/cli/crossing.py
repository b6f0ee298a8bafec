"""``circuitkit cross``: circuits, and the union of each pair, on each other's tasks."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from circuitkit.cli._opening import (
    check_names,
    legal_name,
    load_model,
    open_circuit,
    recorded,
    settings_of,
)
from circuitkit.cli._options import (
    Commands,
    add_force,
    add_output,
    add_shard,
    machine,
    positive,
    saved,
)
from circuitkit.cli._printing import print_run
from circuitkit.cli._processes import folder_of, is_shard, leads, pieces_of
from circuitkit.errors import ArgumentError, ScoresError

__all__ = ["add", "cross"]


def add(commands: Commands) -> None:
    """Add the command ``cross`` and its options."""
    p = commands.add_parser(
        "cross",
        parents=[machine()],
        help="circuits and the unions of pairs on each circuit's own task, as a heat map",
    )
    p.add_argument(
        "circuits", nargs="+", metavar="CIRCUIT.json", type=saved,
        help="two or more circuits of one model: files, or folders of discover",
    )  # fmt: skip
    add_force(p)
    own = "default: each circuit's own"
    p.add_argument("--model", help="mini, a directory, a hub name (default: the circuits' own)")
    p.add_argument("--metric", metavar="M", help=f"for all tasks ({own})")
    p.add_argument("--corruption", metavar="C", help=f"for all tasks ({own})")
    p.add_argument(
        "--examples", type=positive, metavar="N",
        help="prompts of each task that its circuits have not seen (default: 64)",
    )  # fmt: skip
    add_shard(p)
    add_output(p, "DIR", "default: cross/TASKS-MODEL, and the settings that you change")
    p.set_defaults(run=cross, parser=p)


def cross(options: argparse.Namespace) -> None:
    """Measure circuits on each other's tasks, write the table and the heat map, and print them."""
    check_names("metrics", options.metric)
    check_names("corruptions", options.corruption)
    circuits = [open_circuit(name, options.force) for name in options.circuits]
    tasks = [*map(_task, options.circuits, circuits)]
    names = tasks if len(set(tasks)) == len(tasks) else [*map(_called, options.circuits)]
    if len(set(names)) < len(names):
        raise ArgumentError(
            f"two circuits have one name ({', '.join(names)}); give each circuit once, in a folder "
            "or file of its own name"
        )
    model = options.model or _one_model(circuits)
    place = options.output or Path("cross", legal_name(
        options, *names, Path(model).name, without=("circuits", "model")
    ))  # fmt: skip
    with folder_of(options, place, "cross", settings_of(options)) as folder:
        named = dict(zip(names, circuits, strict=True))
        found = _crossed(options, model, named, pieces_of(options, folder.pieces))
        if is_shard(options) or not leads():
            return
        written = found.save(folder)
    print_run(options, found, written)


def _crossed(options: argparse.Namespace, name: str, circuits: dict[str, Any], resume: Any) -> Any:
    """What is found of the circuits, which keeps finished batches among the pieces."""
    model = load_model(name, options, next(iter(circuits.values())).graph)
    from circuitkit.workflows.crossing import cross as crossed

    return crossed(
        model, circuits, None, options.metric, options.corruption, examples=options.examples,
        batch_size=options.batch_size, memory=options.memory, resume=resume,
    )  # fmt: skip


def _task(name: str, circuit: Any) -> str:
    """The task on which a circuit was found; raises ArgumentError where it does not say it."""
    try:
        return recorded(circuit, "task")
    except ScoresError as error:
        why = str(error).removeprefix("the circuit ").partition(";")[0]
        raise ArgumentError(
            f"{name!r} {why}; cross circuits of tasks (their unions are measured too), or give "
            "prompts in Python: ck.cross(model, circuits, data)"
        ) from error


def _one_model(circuits: list[Any]) -> str:
    """The model on which all circuits were found; raises ArgumentError where there are several."""
    models = dict.fromkeys(recorded(circuit, "model") for circuit in circuits)
    if len(models) > 1:
        raise ArgumentError(
            f"the circuits were found on different models ({', '.join(models)}); name one "
            "(--model), or compare two of them (circuitkit compare --transfer)"
        )
    return next(iter(models))


def _called(name: str) -> str:
    """A circuit by its file, or by the folder of discover in which that is."""
    path = Path(name)
    return path.resolve().parent.name if path.name == "circuit.json" else path.stem
