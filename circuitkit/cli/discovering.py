"""``circuitkit discover``: the circuit of a task, its faithfulness and its files."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from circuitkit.cli._opening import (
    check_asked,
    default_place,
    load_model,
    settings_of,
    task_of,
)
from circuitkit.cli._options import (
    Commands,
    Several,
    Usual,
    add_file,
    add_known,
    add_output,
    add_shard,
    as_several,
    machine,
    positive,
)
from circuitkit.cli._printing import print_json, print_run, print_text
from circuitkit.cli._processes import folder_of, is_shard, leads, pieces_of
from circuitkit.errors import ArgumentError, UnfinishedError
from circuitkit.workflows.folders import legal

__all__ = ["add", "discover"]


def add(commands: Commands) -> None:
    """Add the command ``discover`` and its options."""
    p = commands.add_parser(
        "discover", parents=[machine()], help="find the circuit of a task, measure it and draw it"
    )
    p.add_argument(
        "task",
        metavar="TASK",
        help="ioi, greater_than, ... or a file of prompts (- is standard input)",
    )
    p.add_argument(
        "--model", default="mini",
        help="mini, smollm2-135m, a directory or a hub name (default: mini)",
    )  # fmt: skip
    p.add_argument("--method", help="how edges are scored (default: eap_ig, or auto with --budget)")
    p.add_argument(
        "--budget", type=positive, metavar="N",
        help="let scores cost N forwards with backwards of a prompt in all, for which auto chooses "
             "the method (default: the method's own cost; of auto 6 per prompt)",
    )  # fmt: skip
    p.add_argument("--metric", help="how outputs are measured (default: the task's metric)")
    p.add_argument(
        "--corruption", default=Usual("counterfactual"), action=Several, metavar="C",
        help="what a cut edge carries (default: counterfactual); given several times, a circuit "
             "for each, side by side",
    )  # fmt: skip
    _add_size(p)
    p.add_argument(
        "--examples", type=positive, metavar="N",
        help="prompts in each half (default: 64, or half of a file)",
    )  # fmt: skip
    add_file(p)
    add_known(p)
    _add_further(p)
    _add_places(p)
    _add_features(p)
    p.add_argument(
        "--seed", type=int, default=0, help="seed of prompts and random circuits (default: 0)"
    )
    p.add_argument(
        "--force", action="store_true", help="continue if the model answers under 75%% of them too"
    )
    p.add_argument(
        "--plan", action="store_true",
        help="print the forwards, minutes, memory and files that it takes; run nothing",
    )  # fmt: skip
    add_shard(p)
    add_output(p, "DIR", "default: circuits/TASK-MODEL, and the settings that you change")
    p.set_defaults(run=discover, parser=p)


def _add_size(p: argparse.ArgumentParser) -> None:
    """Add the options that say which circuit is chosen from the scores."""
    size = p.add_mutually_exclusive_group()
    size.add_argument("--edges", type=positive, metavar="N", help="the size of the circuit")
    size.add_argument(
        "--nodes", type=positive, metavar="N", help="the same in nodes, with --level node"
    )
    size.add_argument(
        "--faithfulness",
        type=float,
        metavar="F",
        help="the smallest circuit that reaches this (default: 0.85)",
    )
    p.add_argument(
        "--level", default="edge", choices=("edge", "node"),
        help="what circuits are made of: single edges (default: edge), or heads and MLPs with all "
             "edges between them",
    )  # fmt: skip
    p.add_argument(
        "--rule", choices=("abs", "signed", "greedy", "mib"),
        help="by magnitude (default: abs under every corruption), by value, grown from the logits, "
             "or top N, then pruned",
    )  # fmt: skip


def _add_further(p: argparse.ArgumentParser) -> None:
    """Add the options that ask for more work, and more certainty."""
    p.add_argument("--verify", type=positive, metavar="N", help="also measure N edges exactly")
    p.add_argument(
        "--refine", type=positive, metavar="N",
        help="swap edges at the cut, of N candidates, while that helps (default: no swaps)",
    )  # fmt: skip
    p.add_argument("--orders", type=positive, metavar="N", help="repeat acdc in N random orders")
    p.add_argument(
        "--agreement", type=float, metavar="J",
        help="draw more prompts until circuits of two samples should agree this well "
             "(Jaccard; default: none)",
    )  # fmt: skip
    p.add_argument(
        "--test", action="store_true",
        help="grow the circuit until equivalence with the model is not rejected on 96 unseen "
             "prompts or more (Shi et al. 2024)",
    )  # fmt: skip


def _add_places(p: argparse.ArgumentParser) -> None:
    """Add the options for a circuit between places of the prompt."""
    p.add_argument(
        "--positions", action="store_true",
        help="find where in the prompt: edges in spans of words, and attention between them",
    )  # fmt: skip
    p.add_argument(
        "--spans", type=_spans, metavar="NAME,...",
        help="the same between these spans (default: named, all that the prompts name), or tokens: "
             "each position by itself",
    )  # fmt: skip


def _add_features(p: argparse.ArgumentParser) -> None:
    """Add the options for a circuit of features."""
    p.add_argument(
        "--features", type=positive, metavar="N",
        help="take the model apart: the N features that matter most are nodes (default: none)",
    )  # fmt: skip
    p.add_argument(
        "--dictionaries", metavar="DIR",
        help="the transcoders and autoencoders of these features (default: mini's own)",
    )  # fmt: skip


def _spans(text: str) -> str | tuple[str, ...]:
    """``named``, ``tokens``, or the names of spans."""
    if text in ("named", "tokens"):
        return text
    names = tuple(name.strip() for name in text.split(","))
    if not all(names):
        raise argparse.ArgumentTypeError(f"{text!r} names no spans; write IO,S2 or tokens")
    return names


def discover(options: argparse.Namespace) -> None:
    """Find a circuit, write its files, and print its summary; or print what that would cost."""
    check_asked(options)
    _require_one_corruption(options)
    _forget_what_is_usual(options)
    if options.positions or options.spans:
        _between_places(options)
        return
    if options.features or options.dictionaries:
        _of_features(options)
        return
    place = options.output or default_place(options, "circuits")
    asked = {
        "method": options.method, "budget": options.budget,
        "edges": options.edges, "faithfulness": options.faithfulness,
        "level": options.level, "nodes": options.nodes,
        "rule": options.rule, "examples": options.examples, "seed": options.seed,
        "batch_size": options.batch_size, "memory": options.memory, "verify": options.verify,
        "refine": options.refine, "orders": options.orders, "agreement": options.agreement,
        "test": options.test, "known": options.known,
    }  # fmt: skip
    inputs = task_of(options, options.task), options.metric
    if options.plan:
        _plan(inputs, asked, options, place)
        return

    def find(model: Any, corruption: str, **how: Any) -> Any:
        from circuitkit.workflows import discover as workflow

        return workflow.discover(model, *inputs, corruption, **(asked | how))

    _finish(options, place, find)


def _finish(options: argparse.Namespace, place: Path, find: Callable[..., Any]) -> None:
    """Find a circuit, or one under each of several corruptions, write the files into the place, and
    print a summary."""
    several = as_several(options.corruption)
    kind = "discovery" if len(several) == 1 else "comparison"
    with folder_of(options, place, kind, settings_of(options)) as folder:
        model = load_model(options.model, options)
        if kind == "discovery":
            pieces = pieces_of(options, folder.pieces)
            found = find(model, several[0], resume=pieces, force=options.force)
        else:
            found = _under_each(options, folder.pieces, partial(find, model), several)
        if is_shard(options) or not leads():
            return
        written = found.save(folder, overwrite=options.overwrite)
    print_run(options, found, written)


def _under_each(
    options: argparse.Namespace, pieces: Path, find: Callable[..., Any], several: tuple[str, ...]
) -> Any:
    """The circuits under each corruption, side by side; a shard makes its part of every one."""
    from circuitkit.workflows.side_by_side import folder_name, side_by_side

    found, left = {}, []
    for name in several:
        own = pieces_of(options, pieces / folder_name(name))
        try:
            found[name] = find(name, resume=own, force=options.force)
        except UnfinishedError as error:
            left.append(error)
    if left:
        raise left[-1]
    return side_by_side(found) if leads() and not is_shard(options) else None


def _require_one_corruption(options: argparse.Namespace) -> None:
    """Raise ArgumentError where several are given, and two are one or something takes only one."""
    several = as_several(options.corruption)
    if len(several) == 1:
        return
    names = [*map(legal, several)]
    twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if twice is not None:
        raise ArgumentError(
            f"--corruption {several[names.index(twice)]!r} is given twice; give each of them once"
        )
    if options.plan:
        raise ArgumentError(
            f"--plan is of one corruption, and {len(several)} are given; leave all but one out "
            f"(they cost {len(several)} times as much)"
        )
    if options.features or options.dictionaries:
        raise ArgumentError(
            f"--features is of one corruption, and {len(several)} are given: each would choose "
            "features of its own; give one --corruption"
        )


# What asks for more than a circuit between places gives, and why it does not.
_NOT_OF_PLACES = {
    "budget": "auto, which it is for, gives no scores between places",
    "nodes": "circuits between places are made of edges",
    "rule": "edges between places are ranked by magnitude",
    "verify": "ck.patch_edges measures edges between places exactly",
    "refine": "ck.refine swaps edges of the circuit that is found",
    "orders": "acdc gives no scores between places",
    "agreement": "prompts are not drawn until circuits agree; give more --examples",
    "test": "the circuit is not grown; circuitkit test tests it when it is saved",
    "features": "features act wherever they are active",
    "dictionaries": "features act wherever they are active",
}
# The same of a circuit of features.
_NOT_OF_FEATURES = {
    "budget": "the method is the same for the circuits beside it; give --method",
    "nodes": "circuits of features are made of edges",
    "refine": "the circuit is measured with its edges cut in other ways",
    "orders": "acdc in random orders takes no features",
    "agreement": "the features are chosen on one sample; give more --examples",
    "test": "the circuit is not grown; circuitkit test tests it when it is saved",
    "plan": "the cost is not estimated; try few --examples",
}


def _require_without(options: argparse.Namespace, what: str, reasons: Mapping[str, str]) -> None:
    """Raise ArgumentError where an option is given that does not go together with another."""
    for name, why in reasons.items():
        if getattr(options, name):
            raise ArgumentError(
                f"{what} and --{name} do not go together ({why}); leave one of them out"
            )
    if options.level != "edge":
        raise ArgumentError(
            f"circuits with {what} are made of edges; leave out --level node (ck.node_level gives "
            "the circuit of its components)"
        )


def _of_features(options: argparse.Namespace) -> None:
    """Find a circuit of features, write its files, and print its summary."""
    _require_without(options, "--features", _NOT_OF_FEATURES)
    if options.features is None:
        raise ArgumentError("say how many features are nodes (--features N)")
    place = options.output or default_place(options, "circuits")
    asked = {
        name: getattr(options, name) for name in (
            "dictionaries", "features", "method", "edges", "faithfulness", "rule", "examples",
            "seed", "batch_size", "memory", "verify", "known",
        )
    }  # fmt: skip
    inputs = task_of(options, options.task), options.metric

    def find(model: Any, corruption: str, **how: Any) -> Any:
        from circuitkit.workflows.features import discover_features

        return discover_features(model, *inputs, corruption, **(asked | how))

    _finish(options, place, find)


def _between_places(options: argparse.Namespace) -> None:
    """Find a circuit between places of the prompt, write its files, and print its summary."""
    _require_without(options, "--positions", _NOT_OF_PLACES)
    options.positions = True
    if options.spans == "named":
        options.spans = None  # which is taken anyway: it is not in the name of the folder
    place = options.output or default_place(options, "circuits")
    asked = {
        "spans": options.spans or "named", "method": options.method, "edges": options.edges,
        "faithfulness": options.faithfulness, "examples": options.examples, "seed": options.seed,
        "batch_size": options.batch_size, "memory": options.memory, "known": options.known,
    }  # fmt: skip
    inputs = task_of(options, options.task), options.metric
    if options.plan:
        _plan(inputs, asked, options, place)
        return

    def find(model: Any, corruption: str, **how: Any) -> Any:
        from circuitkit.workflows.positions import discover_positions

        return discover_positions(model, *inputs, corruption, **(asked | how))

    _finish(options, place, find)


def _plan(inputs: Any, asked: dict[str, Any], options: argparse.Namespace, place: Path) -> None:
    """Print what the discovery would cost, and the files that it would write."""
    from circuitkit.workflows import plan as workflow

    model = load_model(options.model, options, proved=False)
    task, metric = inputs
    found = workflow.plan(model, task, metric, options.corruption, **asked)
    found = replace(found, files=tuple(str(place / name) for name in found.files))
    print_json(found.to_dict()) if options.json else print_text(repr(found))


def _forget_what_is_usual(options: argparse.Namespace) -> None:
    """A method and a rule that are taken anyway are not settings of their own: they are not in the
    name of the folder."""
    from circuitkit.workflows.asking import METHOD, RULE

    if options.method == METHOD and options.budget is None:
        options.method = None
    if options.rule == RULE:
        options.rule = None
