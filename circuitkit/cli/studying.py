"""``circuitkit study``: what activation patching finds, and how it depends on the choices."""

from __future__ import annotations

import argparse
from typing import Any

from circuitkit.cli._opening import (
    check_names,
    default_place,
    load_model,
    settings_of,
    task_of,
)
from circuitkit.cli._options import (
    Commands,
    add_file,
    add_force,
    add_output,
    add_shard,
    count,
    machine,
    positive,
)
from circuitkit.cli._printing import print_json, print_text
from circuitkit.cli._processes import folder_of, is_shard, leads, pieces_of

__all__ = ["add", "study"]

KNOWN = "study the prompts that the model answers (the default)"


def add(commands: Commands) -> None:
    """Add the command ``study`` and its options."""
    p = commands.add_parser(
        "study",
        parents=[machine()],
        help="activation patching under every corruption × metric, and how choices change it",
    )
    p.add_argument(
        "task", metavar="TASK", help="ioi, facts, ... or a file of prompts (- is standard input)"
    )
    p.add_argument(
        "--model", default="mini",
        help="mini, smollm2-135m, a directory or a hub name (default: mini)",
    )  # fmt: skip
    several = "can be given several times; default: "
    p.add_argument(
        "--metric", action="append", metavar="M",
        help=several + "logit_diff, probability and kl",
    )  # fmt: skip
    p.add_argument(
        "--corruption", action="append", metavar="C", help=several + "replaced tokens, and noise"
    )
    p.add_argument(
        "--windows", type=_sizes_of_windows, metavar="N,N",
        help="how many adjacent layers are patched together (default: 1,3,5,10; 0: none)",
    )  # fmt: skip
    p.add_argument("--reference", metavar="R", help="ioi:wang2022, or the file of a circuit")
    p.add_argument(
        "--group", action="append", default=[], type=_group, metavar="NAME=a9.h9,a9.h6",
        help=several + "the roles of the reference, or the strongest heads",
    )  # fmt: skip
    p.add_argument(
        "--circuits", action="append", metavar="C",
        help=several + "as --corruption; 'none': no circuits",
    )  # fmt: skip
    p.add_argument(
        "--direction", default="denoise", choices=("denoise", "noise"),
        help="clean values into corrupted runs (default: denoise), or the other way round",
    )  # fmt: skip
    p.add_argument(
        "--threshold", type=float, default=2.0, metavar="SD",
        help="standard deviations from which on a component is found (default: 2)",
    )  # fmt: skip
    _add_prompts(p)
    add_force(p)
    add_shard(p)
    add_output(p, "DIR", "default: studies/TASK-MODEL, and the settings that you change")
    p.set_defaults(run=study, parser=p)


def _add_prompts(p: argparse.ArgumentParser) -> None:
    """The options that choose the prompts."""
    p.add_argument(
        "--examples", type=positive, metavar="N", help="prompts (default: 64, or all of a file)"
    )
    add_file(p)
    p.add_argument(
        "--only", default="accuracy", metavar="M",
        help="study prompts with this metric above 1/2 (default: accuracy; 'none': all)",
    )  # fmt: skip
    p.add_argument("--known", dest="only", action="store_const", const="accuracy", help=KNOWN)
    p.add_argument("--both-ways", action="store_true", help="also the swap of each pair")
    p.add_argument(
        "--samples", type=positive, default=5, metavar="N",
        help="disjoint samples of prompts for the noise floor (default: 5; 1: none)",
    )  # fmt: skip
    p.add_argument("--seed", type=int, default=0, help="seed of the prompts (default: 0)")


def study(options: argparse.Namespace) -> None:
    """Run the study of a task, write its page, tables and figures, and print its summary."""
    check_names("tasks", options.task)
    check_names("metrics", *options.metric or ())
    check_names("corruptions", *options.corruption or ())
    roles = _reference(options.reference, options.force)
    place = options.output or default_place(options, "studies")
    with folder_of(options, place, "study", settings_of(options)) as folder:
        found = _studied(options, roles, pieces_of(options, folder.pieces))
        if is_shard(options) or not leads():
            return
        written = found.save(folder)
    if options.json:
        print_json({"about": dict(found.about), "tables": found.tables(),
                    "verdicts": [vars(verdict) for verdict in found.verdicts()],
                    "files": [str(path) for path in written]})  # fmt: skip
    else:
        more = f"and {len(written) - 1} tables and figures in its folder"
        print_text(f"{found!r}\n\nwritten: {written[0]}, {more}")


def _studied(options: argparse.Namespace, roles: dict[str, str] | None, pieces: Any) -> Any:
    """The study that the options ask for, which keeps its finished cells among the pieces."""
    model = load_model(options.model, options)
    from circuitkit.workflows.study import running

    chosen: dict[str, Any] = {"metrics": options.metric} if options.metric else {}
    return running.study(
        model, task_of(options, options.task), **chosen,
        corruptions=options.corruption, windows=options.windows,
        groups=dict(options.group) or None, roles=roles,
        circuits=() if options.circuits == ["none"] else options.circuits,
        direction=options.direction, threshold=options.threshold, examples=options.examples,
        only=None if options.only == "none" else options.only, both_ways=options.both_ways,
        samples=options.samples, seed=options.seed, batch_size=options.batch_size,
        memory=options.memory, resume=pieces,
    )  # fmt: skip


def _reference(name: str | None, force: bool) -> dict[str, str] | None:
    """The role of each component in a published circuit, or in the file of a circuit."""
    if name is None:
        return None
    if name.endswith(".json"):
        from circuitkit.graph.circuit import Circuit
        from circuitkit.patching.detection import roles_of

        return roles_of(Circuit.load(name, force=force))
    from circuitkit.graph.published import named

    return dict(named(name).roles)


def _sizes_of_windows(text: str) -> tuple[int, ...]:
    """The sizes in ``1,3,5``, without 0."""
    sizes = tuple(count(part) for part in text.split(","))
    return tuple(size for size in sizes if size)


def _group(text: str) -> tuple[str, tuple[str, ...]]:
    """The name and the nodes of ``NAME=a9.h9,a9.h6``."""
    name, equals, nodes = text.partition("=")
    if not (name and equals and nodes):
        raise argparse.ArgumentTypeError(f"{text!r} is not a group; write NAME=a9.h9,a9.h6")
    return name, tuple(nodes.split(","))
