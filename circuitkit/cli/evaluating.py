"""``circuitkit evaluate``: how much of a model's behaviour a saved circuit keeps."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from typing import Any

from circuitkit.cli._opening import open_circuit, recorded, resumed, unseen
from circuitkit.cli._options import Commands, add_circuit, add_output, add_shard, machine, place
from circuitkit.cli._others import FORMATS, add_others, measured, require_fitting, scores_of, tables
from circuitkit.cli._printing import print_json, print_table, print_text
from circuitkit.cli._processes import leads, require_folder
from circuitkit.errors import OutputError, UnfinishedError

__all__ = ["add", "evaluate"]


def add(commands: Commands) -> None:
    """Add the command ``evaluate`` and its options."""
    p = commands.add_parser(
        "evaluate",
        parents=[machine()],
        help="measure a saved circuit, under any metric × corruption",
    )
    add_circuit(p)
    several = "can be given several times; default: the circuit's own"
    p.add_argument("--metric", action="append", metavar="M", help=several)
    p.add_argument("--corruption", action="append", metavar="C", help=several)
    p.add_argument("--curve", action="store_true", help="over sizes: only its strongest edges")
    add_others(p)
    p.add_argument(
        "--resume", type=place, metavar="DIR",
        help="keep finished batches there, to resume after a kill (default: nowhere)",
    )  # fmt: skip
    add_shard(p)
    add_output(p, "FILE", "the curves as svg, pdf or png")
    p.set_defaults(run=evaluate)


def evaluate(options: argparse.Namespace) -> None:
    """Print a circuit's faithfulness under each metric × corruption, on unseen prompts."""
    from circuitkit.workflows.folders import output_file

    require_fitting(options)
    require_folder(options)
    circuit = open_circuit(options.circuit, options.force)
    scores = scores_of(options, circuit)
    metrics = options.metric or [recorded(circuit, "metric")]
    corruptions = options.corruption or [recorded(circuit, "corruption")]
    if options.output and not options.curve:
        raise OutputError(f"{str(options.output)!r} is the file for a curve; give --curve as well")
    file = None
    if options.output:
        from circuitkit.viz.figures.suffixes import require_suffix

        require_suffix(options.output)
        file = output_file(options.output, options.overwrite) if leads() else None
    with file or contextlib.nullcontext():
        cells, title = unseen(options, circuit, metrics, corruptions)
        rows, curves = _rows(cells, circuit, options.curve, resumed(options, "evaluate"))
        if options.output and leads():
            first, *others = curves.values()
            first.plot(*others, names=list(curves)).save(options.output)
    found = {cell: measured(options, circuit, scores, *own) for cell, own in cells.items()}
    _print(rows, found, title, options.json)


def _print(
    rows: list[dict[str, Any]], found: dict[tuple[str, str], Any], title: str, as_json: bool
) -> None:
    """Print the rows, and what was found of the other edges: as tables of its own, or in the rows
    of its metric and corruption."""
    from circuitkit.util.tables import as_text

    if as_json and any(found.values()):
        print_json([row | _others(own) for row, own in zip(rows, found.values(), strict=True)])
        return
    print_table(rows, as_json, title)
    for heading, own in tables(found):
        print_text(f"\n{heading}\n{as_text(own, formats=FORMATS)}")


def _others(found: dict[str, Any]) -> dict[str, Any]:
    """What was found of the other edges, for machines: the ``complements`` by their kind, and the
    ``alternative``."""
    own = {name: each.to_dict() for name, each in found.items()}
    second = {"alternative": own.pop("alternative")} if "alternative" in own else {}
    return ({"complements": own} if own else {}) | second


def _rows(
    cells: dict[tuple[str, str], Any], circuit: Any, by_size: bool, resume: Any
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The rows of the table, and the curves where these are asked for."""
    rows: list[dict[str, Any]] = []
    curves = {}
    left: list[UnfinishedError] = []
    for (metric, corruption), (model, *inputs) in cells.items():
        labels = {"metric": metric, "corruption": corruption}
        try:
            if by_size:
                found = _by_size(model, circuit, *inputs, resume=resume)
                curves[f"{metric}, {corruption}"] = found
                rows += [{**labels, **row} for row in _points(found)]
            else:
                rows.append({**labels, **_beside(model, circuit, *inputs, resume=resume)})
        except UnfinishedError as error:  # a shard makes its part of every cell
            left.append(error)
    if left:
        raise left[-1]
    return rows, curves


def _beside(model: Any, circuit: Any, *inputs: Any, resume: Any) -> Any:
    """The circuit's faithfulness, with that of all other edges and of random circuits."""
    from circuitkit.evaluation.faithfulness import evaluate_beside
    from circuitkit.evaluation.masks import as_any_mask

    keep = as_any_mask(circuit, model.wiring)
    found, complement, null, *_ = evaluate_beside(model, keep, *inputs, random=3, resume=resume)
    low, high = found.interval()
    return {
        "faithfulness": found.faithfulness, "low": low, "high": high,
        "mean_of_ratios": found.mean_of_ratios,
        "without_it": complement.faithfulness,
        "random": sum(e.faithfulness for e in null) / len(null),
        "circuit": float(found.circuit.mean()),
        "everything": float(found.everything.mean()),
        "nothing": float(found.nothing.mean()),
    }  # fmt: skip


def _by_size(model: Any, circuit: Any, *inputs: Any, resume: Any) -> Any:
    """The faithfulness of the circuit's strongest edges, for more and more of them."""
    from circuitkit.evaluation.curves import curve
    from circuitkit.graph.circuit import edges, weight_matrix
    from circuitkit.graph.scores import Scores

    total = len(list(edges(circuit)))
    sizes = sorted({max(1, round(total / 2**k)) for k in range(8)})
    scores = Scores(model.wiring, weight_matrix(circuit))
    return curve(model, scores, *inputs, sizes=sizes, resume=resume)


def _points(found: Any) -> Iterator[dict[str, Any]]:
    """A row for each size of a curve."""
    for size, point in zip(found.edges, found.evaluations, strict=True):
        low, high = point.interval()
        yield {"edges": size, "faithfulness": point.faithfulness, "low": low, "high": high}
