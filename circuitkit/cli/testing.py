"""``circuitkit test``: claims about a saved circuit as statistical hypotheses."""

from __future__ import annotations

import argparse
from typing import Any

from circuitkit.cli._opening import open_circuit, recorded, resumed, unseen
from circuitkit.cli._options import (
    Commands,
    add_circuit,
    add_shard,
    count,
    machine,
    place,
    positive,
)
from circuitkit.cli._printing import print_json, print_text
from circuitkit.cli._processes import leads, require_folder

__all__ = ["add", "test"]

TESTS = ("equivalence", "minimality", "sufficiency", "partial_necessity", "independence")
PROMPTS = 96  # unless others are asked for: fewer have little power


def add(commands: Commands) -> None:
    """Add the command ``test`` and its options."""
    p = commands.add_parser(
        "test",
        parents=[machine()],
        help="test claims about a saved circuit: equivalent, minimal, ...",
        description="Test claims about a saved circuit as hypotheses (Shi et al. 2024): is it "
        "equivalent to the model, minimal, better than random circuits?",
    )
    add_circuit(p, PROMPTS)
    own = "default: the circuit's own"
    p.add_argument("--metric", metavar="M", help=f"how outputs are measured ({own})")
    p.add_argument("--corruption", metavar="C", help=f"what a cut edge carries ({own})")
    p.add_argument(
        "--only", action="append", choices=TESTS, metavar="TEST",
        help="equivalence, minimality, sufficiency, partial_necessity or independence; can be "
        "given several times (default: all)",
    )  # fmt: skip
    p.add_argument(
        "--by", default="order", choices=("order", "template", "length", "none"),
        help="also of groups of prompts: by the order of the answers in them (default: order), "
        "template, length, or none",
    )  # fmt: skip
    _add_numbers(p)
    p.add_argument(
        "--resume", type=place, metavar="DIR",
        help="keep finished batches there, from which a killed run goes on (default: nowhere)",
    )  # fmt: skip
    add_shard(p)
    p.set_defaults(run=test)


def _add_numbers(p: argparse.ArgumentParser) -> None:
    """Add the numbers of the tests."""
    p.add_argument(
        "--epsilon", type=float, default=0.1, metavar="E",
        help="how far from one half the share of prompts may be on which an equivalent circuit is "
        "above the model (default: 0.1)",
    )  # fmt: skip
    p.add_argument(
        "--quantile", type=float, default=0.9, metavar="Q",
        help="the share of random circuits and edges to be better than (default: 0.9)",
    )  # fmt: skip
    p.add_argument(
        "--alpha", type=float, default=0.05, metavar="A",
        help="the level of all tests together (default: 0.05)",
    )  # fmt: skip
    p.add_argument(
        "--random", type=positive, default=100, metavar="N",
        help="random circuits of each size (default: 100)",
    )  # fmt: skip
    p.add_argument(
        "--sizes", type=_sizes, metavar="N,N",
        help="edges of larger random circuits, tried until sufficiency stops; 0 for none (default: "
        "10, 25, 50, 75 and 90%% of the model)",
    )  # fmt: skip
    p.add_argument(
        "--inflations", type=positive, default=100, metavar="N",
        help="times that a random path is added, for minimality (default: 100)",
    )  # fmt: skip
    p.add_argument(
        "--edges", type=positive, metavar="N",
        help="test minimality of N edges, drawn by chance (default: all)",
    )  # fmt: skip
    p.add_argument("--seed", type=int, default=0, help="seed of what is random (default: 0)")


def _sizes(text: str) -> list[int]:
    """The numbers in ``500,1000``; raises ArgumentTypeError for any other text."""
    return [n for n in map(count, text.split(",")) if n]


def test(options: argparse.Namespace) -> None:
    """Print what is found of each claim, on unseen prompts."""
    from circuitkit.data.prompts import is_file

    require_folder(options)
    circuit = open_circuit(options.circuit, options.force)
    metric = options.metric or recorded(circuit, "metric")
    corruption = options.corruption or recorded(circuit, "corruption")
    if options.examples is None and not is_file(options.task or recorded(circuit, "task")):
        options.examples = PROMPTS
    cells, title = unseen(options, circuit, [metric], [corruption])
    model, *inputs = cells[metric, corruption]
    from circuitkit.evaluation.hypotheses.everything import hypothesis_tests

    chosen: Any = options.only or TESTS
    found = hypothesis_tests(
        model, circuit, *inputs, tests=chosen, epsilon=options.epsilon,
        quantile=options.quantile, alpha=options.alpha, random=options.random,
        inflations=options.inflations, edges=options.edges, sizes=options.sizes,
        by=None if options.by == "none" else options.by, seed=options.seed,
        resume=resumed(options, "test"),
    )  # fmt: skip
    if not leads():
        return
    print_json(found.to_dict()) if options.json else print_text(f"{title}\n{found!r}")
