"""``circuitkit clusters``: whether a task's prompts have one circuit, or several."""

from __future__ import annotations

import argparse

from circuitkit.cli._opening import (
    check_asked,
    default_place,
    load_model,
    settings_of,
    task_of,
)
from circuitkit.cli._options import (
    Commands,
    add_file,
    add_known,
    add_output,
    add_shard,
    machine,
    positive,
)
from circuitkit.cli._printing import print_run
from circuitkit.cli._processes import folder_of, is_shard, leads, pieces_of

__all__ = ["add", "clusters"]


def add(commands: Commands) -> None:
    """Add the command ``clusters`` and its options."""
    p = commands.add_parser(
        "clusters", parents=[machine()],
        help="is it one circuit? clusters of prompts, and the circuit of each",
    )  # fmt: skip
    p.add_argument(
        "task",
        metavar="TASK",
        help="ioi, docstring, ... or a file of prompts (- is standard input)",
    )
    p.add_argument(
        "--model", default="mini",
        help="mini, smollm2-135m, a directory or a hub name (default: mini)",
    )  # fmt: skip
    p.add_argument(
        "--method", default="eap_ig", help="how the edges of each prompt are scored "
        "(default: eap_ig)",
    )  # fmt: skip
    p.add_argument("--metric", help="how outputs are measured (default: the task's metric)")
    p.add_argument(
        "--corruption", default="counterfactual",
        help="what a cut edge carries (default: counterfactual)",
    )  # fmt: skip
    p.add_argument(
        "--number", type=positive, metavar="K",
        help="clusters (default: as many as can be told apart)",
    )  # fmt: skip
    p.add_argument(
        "--assign", default="residual", choices=("residual", "scores"),
        help="by what unseen prompts are given to clusters: the clean final residual (default: "
             "residual), or the scores of the token that the model puts first",
    )  # fmt: skip
    size = p.add_mutually_exclusive_group()
    size.add_argument("--edges", type=positive, metavar="N", help="the size of each circuit")
    size.add_argument(
        "--faithfulness", type=float, metavar="F",
        help="that of the smallest single circuit that reaches this (default: 0.85)",
    )  # fmt: skip
    p.add_argument(
        "--examples", type=positive, metavar="N",
        help="prompts in each half (default: 64, or half of a file)",
    )  # fmt: skip
    add_file(p)
    add_known(p)
    p.add_argument(
        "--seed", type=int, default=0, help="seed of prompts and of all that is drawn (default: 0)"
    )
    p.add_argument(
        "--force", action="store_true", help="continue if the model answers under 75%% of them too"
    )
    add_shard(p)
    add_output(p, "DIR", "default: clusters/TASK-MODEL, and the settings that you change")
    p.set_defaults(run=clusters, parser=p)


def clusters(options: argparse.Namespace) -> None:
    """Cluster a task's prompts, measure the circuits, write the files, and print what was found."""
    check_asked(options)
    place = options.output or default_place(options, "clusters")
    with folder_of(options, place, "clusters", settings_of(options)) as folder:
        model = load_model(options.model, options)
        from circuitkit.workflows.clusters import running

        pieces = pieces_of(options, folder.pieces)
        found = running.clusters(
            model, task_of(options, options.task), options.metric, options.corruption,
            method=options.method, number=options.number, assign=options.assign,
            edges=options.edges, faithfulness=options.faithfulness, examples=options.examples,
            seed=options.seed, batch_size=options.batch_size, memory=options.memory,
            resume=pieces, known=options.known, force=options.force,
        )  # fmt: skip
        if is_shard(options) or not leads():
            return
        written = found.save(folder)
    print_run(options, found, written)
