"""What ``evaluate`` says of the other edges: the circuit beside some of them, and made of them."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from circuitkit.cli._options import place
from circuitkit.errors import ArgumentError

__all__ = ["FORMATS", "add_others", "measured", "require_fitting", "scores_of", "tables"]

FORMATS = {"edges": ",d", "shared": ",d", **dict.fromkeys(
    ("faithfulness", "low", "high", "lowest", "where_chosen", "jaccard", "by_chance"), ".3f"
)}  # fmt: skip


def add_others(p: argparse.ArgumentParser) -> None:
    """Add the options that ask for it."""
    p.add_argument(
        "--complement", action="append", choices=("random", "worst", "best"),
        help="with random halves of all other edges kept, or those that hurt or help most; can be "
        "given several times",
    )  # fmt: skip
    p.add_argument(
        "--alternative", action="store_true",
        help="also a second circuit as faithful that shares little with it, from the --scores",
    )  # fmt: skip
    p.add_argument(
        "--scores", type=place, metavar="FILE",
        help="of every edge (default: scores.safetensors beside the circuit's file)",
    )  # fmt: skip


def require_fitting(options: argparse.Namespace) -> None:
    """Raise ArgumentError for options of which one says nothing about the other."""
    if options.curve and (options.complement or options.alternative):
        name = "complement" if options.complement else "alternative"
        raise ArgumentError(f"--curve is of other sizes, and not of --{name}; give one of the two")
    if options.scores and not options.alternative:
        raise ArgumentError(f"{str(options.scores)!r} is for --alternative; give that as well")


def scores_of(options: argparse.Namespace, circuit: Any) -> Any:
    """The scores from which an alternative is to be chosen; None where none is asked for."""
    from circuitkit.graph.circuit import is_placed
    from circuitkit.graph.placed_scores import PlacedScores
    from circuitkit.graph.scores import Scores

    if not options.alternative:
        return None
    beside = Path(options.circuit).parent / "scores.safetensors"
    own: Any = PlacedScores if is_placed(circuit) else Scores
    return own.load(options.scores or beside, force=options.force)


def measured(
    options: argparse.Namespace, circuit: Any, scores: Any, model: Any, *inputs: Any
) -> dict[str, Any]:
    """The results that were asked for, by name."""
    from circuitkit.evaluation.alternatives import alternative
    from circuitkit.evaluation.complements import complements

    kinds = dict.fromkeys(options.complement or ())
    if not kinds and scores is None:
        return {}
    found = {kind: complements(model, circuit, *inputs, kind=kind) for kind in kinds}
    if scores is not None:
        found["alternative"] = alternative(model, circuit, scores, *inputs)
    return found


def tables(
    cells: Mapping[tuple[str, str], Mapping[str, Any]],
) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A title and the rows of each kind of result, of all metrics and corruptions."""
    for name in dict.fromkeys(name for own in cells.values() for name in own):
        rows = [
            {"metric": metric, "corruption": corruption, **row}
            for (metric, corruption), own in cells.items()
            for row in own[name].rows()
        ]
        if len(cells) == 1:
            rows = [{k: v for k, v in row.items() if k not in ("metric", "corruption")}
                    for row in rows]  # fmt: skip
        yield _title(name, next(iter(cells.values()))[name]), rows


def _title(name: str, found: Any) -> str:
    """What a table shows."""
    if name == "random":
        draws = len(found.draws)
        return f"with random halves of the {found.others:,} other edges kept, {draws} draws"
    one = found.evaluations[0] if name == "alternative" else found.evaluation
    half = "the same" if found.in_sample else "the other"
    where = f"on half of the prompts, measured on {half} {len(one.circuit)}"
    if name == "alternative":
        return f"a second circuit, chosen {where}"
    does = "hurt" if name == "worst" else "help"
    return f"with the other edges kept that {does} most, found {where}"
