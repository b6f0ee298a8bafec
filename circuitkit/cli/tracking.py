"""``circuitkit track``: a task's circuit over checkpoints, fine-tunes or revisions of a model."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from circuitkit.cli._opening import check_asked, legal_name, load_model, settings_of, task_of
from circuitkit.cli._options import Commands, add_file, add_output, add_shard, machine, positive
from circuitkit.cli._printing import print_run
from circuitkit.cli._processes import folder_of, is_shard, leads, pieces_of
from circuitkit.errors import ArgumentError

__all__ = ["add", "track"]


def add(commands: Commands) -> None:
    """Add the command ``track`` and its options."""
    p = commands.add_parser(
        "track",
        parents=[machine()],
        help="follow a task's circuit over checkpoints, fine-tunes or revisions",
    )
    p.add_argument("task", metavar="TASK", help="ioi, greater_than, ... or a file of prompts")
    p.add_argument(
        "--models", nargs="+", required=True, metavar="M",
        help="two or more in their order: names (a revision: NAME@REVISION) or directories, each "
             "with a label if you like: LABEL=DIRECTORY",
    )  # fmt: skip
    p.add_argument("--method", help="how edges are scored (default: eap_ig)")
    p.add_argument("--metric", help="how outputs are measured (default: the task's metric)")
    p.add_argument(
        "--corruption", default="counterfactual",
        help="what a cut edge carries (default: counterfactual)",
    )  # fmt: skip
    size = p.add_mutually_exclusive_group()
    size.add_argument("--edges", type=positive, metavar="N", help="the size of every circuit")
    size.add_argument(
        "--faithfulness", type=float, metavar="F",
        help="the smallest circuit of each model that reaches this (default: 0.85)",
    )  # fmt: skip
    p.add_argument(
        "--rule", choices=("abs", "signed", "greedy", "mib"),
        help="how edges are ranked, as in discover (default: abs)",
    )  # fmt: skip
    p.add_argument(
        "--examples", type=positive, metavar="N",
        help="prompts in each half (default: 64, or half of a file)",
    )  # fmt: skip
    add_file(p)
    p.add_argument(
        "--samples", type=positive, default=2, metavar="N",
        help="disjoint samples of prompts for the noise floor, which from 4 on are a test "
             "(default: 2; 1: none)",
    )  # fmt: skip
    p.add_argument(
        "--seed", type=int, default=0, help="seed of prompts and random circuits (default: 0)"
    )
    p.add_argument(
        "--force", action="store_true",
        help="look for circuits of models too that answer under 75%% of the prompts",
    )  # fmt: skip
    add_shard(p)
    add_output(p, "DIR", "default: tracks/TASK-FIRST-LAST, and the settings that you change")
    p.set_defaults(run=track, parser=p)


def track(options: argparse.Namespace) -> None:
    """Follow the circuit, write its table and figure, and print its summary."""
    check_asked(options)
    models = _labelled(options.models)
    place = options.output or _default_place(options, [*models])
    with folder_of(options, place, "track", settings_of(options)) as folder:
        from circuitkit.workflows.track import running

        found = running.track(
            models, task_of(options, options.task), options.metric, options.corruption,
            method=options.method, edges=options.edges, faithfulness=options.faithfulness,
            rule=options.rule, examples=options.examples, samples=options.samples,
            seed=options.seed, batch_size=options.batch_size, memory=options.memory,
            load=partial(load_model, options=options), resume=pieces_of(options, folder.pieces),
            force=options.force,
        )  # fmt: skip
        if is_shard(options) or not leads():
            return
        written = found.save(folder)
    print_run(options, found, written)


def _labelled(models: Sequence[str]) -> dict[str, str]:
    """The names or directories by their labels: those of ``LABEL=DIRECTORY``, else the last part of
    the name."""
    found: dict[str, str] = {}
    for text in models:
        label, equals, name = text.partition("=")
        if not (equals and label and name) or os.sep in label or os.path.exists(text):
            label, name = Path(text).name or text, text
        if label in found:
            raise ArgumentError(f"two models are called {label!r}; write LABEL={name}")
        found[label] = name
    return found


def _default_place(options: argparse.Namespace, labels: Sequence[str]) -> Path:
    """``tracks/TASK-FIRST-LAST``, and the settings that differ from the defaults."""
    from circuitkit.data.prompts import file_of

    file = file_of(options.task)
    parts = (Path(file).stem if file else options.task, labels[0], labels[-1])
    return Path("tracks") / legal_name(options, *parts, without=("task", "models"))
