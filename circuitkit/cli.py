"""The command line: what it reads, prints and returns.

Results go to stdout, progress to stderr. A user's mistake is one sentence on stderr and exit code
2. What needs torch is imported by the commands that need it, so ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from itertools import product
from math import isnan
from pathlib import Path
from typing import Any

from circuitkit import catalogue
from circuitkit.errors import CircuitkitError, OutputError, ScoresError

__all__ = ["main"]

DATA = (".json", ".graphml", ".csv")  # file formats that hold every edge, and draw none
MOST_DRAWN = 300  # edges: above, a picture of equal lines says nothing


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    options = _parser().parse_args(arguments)
    if options.quiet:
        os.environ["TQDM_DISABLE"] = "1"
    # threads that spin while they wait slow a shared machine down several times
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        options.run(options)
    except CircuitkitError as error:
        print(f"circuitkit: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("circuitkit: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of a pipe went away: `circuitkit list | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


# -- what there is to type -------------------------------------------------------------------------
def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="circuitkit",
        description="Find, measure and draw the circuit by which a language model does a task.",
        epilog="Names take settings: --method 'eap_ig(steps=10)', "
        "--corruption \"noise(spans=('S2',), draws=4)\"; own functions: --metric mine.py:name.",
    )
    from circuitkit import __version__

    parser.add_argument("--version", action="version", version=f"circuitkit {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--quiet", action="store_true", help="no progress bars")
    common.add_argument("--json", action="store_true", help="print JSON, for machines")
    machine = argparse.ArgumentParser(add_help=False, parents=[common])
    machine.add_argument("--device", help="cpu, cuda, cuda:1, mps (default: cpu)")
    machine.add_argument("--dtype", help="float32, bfloat16, ... (default: the checkpoint's)")
    machine.add_argument("--threads", type=_positive, help="processor threads")
    machine.add_argument("--memory", type=_bytes, help="8GiB, ... (default: what the machine has)")
    machine.add_argument("--batch-size", type=_positive, metavar="N", help="default: what fits")
    _discover(commands, machine)
    _evaluate(commands, machine)
    _knockout(commands, machine)
    _study(commands, machine)
    _rest(commands, common, machine)
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no positive whole number")
    return int(text)


def _bytes(text: str) -> int:
    from circuitkit.units import parse

    return parse(text)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number; 0 skips it")
    return int(text)


def _discover(commands: Any, machine: argparse.ArgumentParser) -> None:
    p = commands.add_parser(
        "discover", parents=[machine], help="find the circuit of a task, measure it and draw it"
    )
    p.add_argument("task", metavar="TASK", help="ioi, greater_than, ... or a CSV or JSONL file")
    p.add_argument("--model", default="mini", help="mini, smollm2-135m, a directory or a hub name")
    p.add_argument("--method", default="eap_ig", help="how edges are scored (default: eap_ig)")
    p.add_argument("--metric", help="what a run is judged by (default: the task's)")
    p.add_argument("--corruption", default="counterfactual", help="what a cut edge carries")
    size = p.add_mutually_exclusive_group()
    size.add_argument("--edges", type=_positive, metavar="N", help="the size of the circuit")
    size.add_argument(
        "--faithfulness",
        type=float,
        metavar="F",
        help="the smallest circuit that reaches this (default: 0.85)",
    )
    p.add_argument("--rule", default="abs", choices=("abs", "signed", "greedy"))
    p.add_argument(
        "--examples", type=_positive, default=64, metavar="N", help="prompts of each half"
    )
    p.add_argument("--verify", type=_positive, metavar="N", help="measure N edges exactly as well")
    p.add_argument("--orders", type=_positive, metavar="N", help="repeat acdc in N random orders")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--force", action="store_true", help="even if the model cannot do the task")
    p.add_argument("-o", "--output", type=Path, metavar="DIR", help="default: circuits/TASK-MODEL")
    p.set_defaults(run=discover)


def _evaluate(commands: Any, machine: argparse.ArgumentParser) -> None:
    p = commands.add_parser(
        "evaluate", parents=[machine], help="measure a saved circuit, under any metric × corruption"
    )
    _of_a_circuit(p)
    p.add_argument("--metric", action="append", metavar="M", help="may be given several times")
    p.add_argument("--corruption", action="append", metavar="C", help="may be given several times")
    p.add_argument("--curve", action="store_true", help="over sizes: its strongest edges alone")
    p.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="the curves as svg, pdf or png"
    )
    p.set_defaults(run=evaluate)


def _knockout(commands: Any, machine: argparse.ArgumentParser) -> None:
    p = commands.add_parser(
        "knockout", parents=[machine], help="cut a saved circuit's edges: one, two, many at a time"
    )
    _of_a_circuit(p)
    p.add_argument("--metric", metavar="M")
    p.add_argument("--corruption", metavar="C")
    p.add_argument(
        "--pairs",
        type=_count,
        default=12,
        metavar="N",
        help="pairs of the strongest N edges (default: 12; 0: no pairs)",
    )
    p.add_argument(
        "--within",
        default="model",
        choices=("model", "circuit"),
        help="what pairs are cut in (default: model)",
    )
    p.add_argument(
        "--subsets",
        type=_count,
        default=20,
        metavar="N",
        help="random sets cut in circuit and model (default: 20; 0: none)",
    )
    p.add_argument("--seed", type=int, default=0, help="of the random subsets")
    p.set_defaults(run=knockout)


def _study(commands: Any, machine: argparse.ArgumentParser) -> None:
    p = commands.add_parser(
        "study",
        parents=[machine],
        help="activation patching under every corruption × metric, and what depends on the choice",
    )
    p.add_argument("task", metavar="TASK", help="ioi, facts, ... or a CSV or JSONL file")
    p.add_argument("--model", default="mini", help="mini, smollm2-135m, a directory or a hub name")
    several = "may be given several times; default: "
    p.add_argument("--metric", action="append", metavar="M", help=several + "three")
    p.add_argument(
        "--corruption", action="append", metavar="C", help=several + "tokens replaced, and noise"
    )
    p.add_argument(
        "--windows", type=_sizes_of_windows, metavar="N,N", help="layers (1,3,5,10; 0: none)"
    )
    p.add_argument("--reference", metavar="R", help="ioi:wang2022, or a circuit's file")
    p.add_argument("--group", action="append", default=[], type=_group, metavar="NAME=a9.h9,a9.h6")
    p.add_argument(
        "--circuits", action="append", metavar="C",
        help=several + "as --corruption; 'none': no circuits",
    )  # fmt: skip
    p.add_argument("--direction", default="denoise", choices=("denoise", "noise"))
    p.add_argument("--threshold", type=float, default=2.0, metavar="SD", help="default: 2")
    p.add_argument("--examples", type=_positive, default=64, metavar="N", help="prompts")
    p.add_argument(
        "--only", default="accuracy", metavar="M",
        help="study prompts with this metric above 1/2 (accuracy, top1; 'none': all)",
    )  # fmt: skip
    p.add_argument("--both-ways", action="store_true", help="each pair's swap as well")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("-o", "--output", type=Path, metavar="DIR", help="default: studies/TASK-MODEL")
    p.set_defaults(run=study)


def _sizes_of_windows(text: str) -> tuple[int, ...]:
    sizes = tuple(_count(part) for part in text.split(","))
    return tuple(size for size in sizes if size)


def _group(text: str) -> tuple[str, tuple[str, ...]]:
    name, equals, nodes = text.partition("=")
    if not (name and equals and nodes):
        raise argparse.ArgumentTypeError(f"{text!r} is no group; write NAME=a9.h9,a9.h6")
    return name, tuple(nodes.split(","))


def _of_a_circuit(p: argparse.ArgumentParser) -> None:
    p.add_argument("circuit", metavar="CIRCUIT.json")
    p.add_argument("--model", help="default: the circuit's own; so task, metric and corruption")
    p.add_argument("--task")
    p.add_argument(
        "--examples", type=_positive, default=64, metavar="N", help="unseen prompts (default: 64)"
    )


def _rest(commands: Any, common: argparse.ArgumentParser, machine: argparse.ArgumentParser) -> None:
    p = commands.add_parser("compare", parents=[common], help="the overlap of two circuits")
    p.add_argument("left", metavar="A", help="a saved circuit, or a published one: ioi:acdc")
    p.add_argument("right", metavar="B", help="the same; precision is of A against B")
    p.set_defaults(run=compare)
    p = commands.add_parser("draw", parents=[common], help="a circuit as a picture or a file")
    p.add_argument("circuit", metavar="CIRCUIT", help="a saved circuit, or a published one")
    suffixes = ", ".join(catalogue.names("export"))
    p.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help=suffixes)
    p.add_argument("--edges", type=_positive, metavar="N", help="draw the strongest N (200)")
    p.add_argument("--title")
    p.set_defaults(run=draw)
    p = commands.add_parser("list", parents=[common], help="what there is by name")
    p.add_argument("kind", nargs="?", choices=(*catalogue.KINDS, "references"))
    p.set_defaults(run=list_names)
    p = commands.add_parser(
        "task", help="look at a task's prompts, and at how well a model does it"
    )
    show = p.add_subparsers(required=True, metavar="show").add_parser("show", parents=[machine])
    show.add_argument("task", metavar="TASK")
    show.add_argument("--model", default="mini")
    show.add_argument("--examples", type=_positive, default=64, metavar="N")
    show.add_argument("--seed", type=int, default=0)
    show.set_defaults(run=task_show)
    p = commands.add_parser("check", parents=[machine], help="prove that a model is its graph")
    p.add_argument("model", metavar="MODEL")
    p.set_defaults(run=check)
    p = commands.add_parser("fetch", parents=[common], help="store a real model in the cache")
    p.add_argument("model", metavar="MODEL", help="smollm2-135m")
    p.set_defaults(run=fetch)


# -- what the commands do --------------------------------------------------------------------------
def discover(options: argparse.Namespace) -> None:
    """Find a circuit, write its files, print its summary."""
    _known("tasks", options.task)
    _known("discovery", options.method)
    _known("metrics", options.metric)
    _known("corruptions", options.corruption)
    model = _load(options)
    from circuitkit.circuit import write_whole
    from circuitkit.export import write
    from circuitkit.find import find_circuit

    place = options.output or _default_place(options)
    unfinished = place / ".unfinished"
    found = find_circuit(
        model, options.task, method=options.method, metric=options.metric,
        corruption=options.corruption, edges=options.edges, faithfulness=options.faithfulness,
        rule=options.rule, examples=options.examples, seed=options.seed,
        batch_size=options.batch_size, memory=options.memory, verify=options.verify,
        orders=options.orders, resume=unfinished, force=options.force,
    )  # fmt: skip
    written = [
        write(found.circuit, place / "circuit.json"),
        found.scores.save(place / "scores.safetensors"),
        write(found.circuit, place / "circuit.svg"),
    ]
    if found.verification:
        written.append(write_whole(place / "verification.csv", found.verification.to_csv()))
    shutil.rmtree(unfinished, ignore_errors=True)
    if options.json:
        _print_json({**found.to_dict(), "files": [str(path) for path in written]})
    else:
        print(found)
        print("\nwritten:", *written)


def evaluate(options: argparse.Namespace) -> None:
    """Print a circuit's faithfulness under each metric × corruption, on unseen prompts."""
    circuit = _read(options)
    metrics = options.metric or [_recorded(circuit.graph, "metric")]
    corruptions = options.corruption or [_recorded(circuit.graph, "corruption")]
    if options.output and not options.curve:
        raise OutputError(f"{str(options.output)!r} would hold a curve; give --curve as well")
    model, data, title = _unseen(options, circuit, metrics, corruptions)
    rows: list[dict[str, Any]] = []
    curves = {}
    for name, corruption in product(metrics, corruptions):
        how = catalogue.resolve("metrics", name), catalogue.resolve("corruptions", corruption)
        labels = {"metric": name, "corruption": corruption}
        if options.curve:
            found = curves[f"{name}, {corruption}"] = _sizes(model, circuit, data, *how)
            rows += [{**labels, **row} for row in _points(found)]
        else:
            rows.append({**labels, **_beside(model, circuit, data, *how)})
    _table(rows, options.json, title)
    if options.output:
        from circuitkit.faithfulness import draw_curves

        draw_curves(curves).save(options.output)


def knockout(options: argparse.Namespace) -> None:
    """Print what a circuit's edges do inside it, on unseen prompts; each result as it comes."""
    circuit = _read(options)
    metric = options.metric or _recorded(circuit.graph, "metric")
    corruption = options.corruption or _recorded(circuit.graph, "corruption")
    model, data, title = _unseen(options, circuit, [metric], [corruption])
    how = catalogue.resolve("metrics", metric), catalogue.resolve("corruptions", corruption)
    found: dict[str, Any] = {}
    for name, result in _knocked_out(options, model, circuit, data, *how):
        if not options.json:
            heading = "" if found else f"{title}\n{result.evaluation}\n"
            print(f"{heading}\n{result.table()}")
        found[name] = result.to_dict()
    if options.json:
        _print_json(found)


def _knocked_out(options: argparse.Namespace, *given: Any) -> Iterator[tuple[str, Any]]:
    """What is lost without one edge, two and many of them, each by its function's name."""
    from circuitkit.knockouts.completeness import incompleteness
    from circuitkit.knockouts.effects import marginal_effects
    from circuitkit.knockouts.pairs import interactions
    from circuitkit.knockouts.redundancy import minimality

    seed = options.seed
    yield "marginal_effects", marginal_effects(*given)
    if options.pairs:
        yield "interactions", interactions(*given, edges=options.pairs, within=options.within)
    if options.subsets:
        yield "incompleteness", incompleteness(*given, sets=options.subsets, seed=seed)
    yield "minimality", minimality(*given, seed=seed)


def study(options: argparse.Namespace) -> None:
    """Run the study of a task, write its page, tables and figures, print its summary."""
    _known("tasks", options.task)
    for kind, given in (("metrics", options.metric), ("corruptions", options.corruption)):
        for name in given or ():
            _known(kind, name)
    roles = _reference(options.reference)
    model = _load(options)
    from circuitkit.studies import running

    chosen: dict[str, Any] = {"metrics": options.metric} if options.metric else {}
    place = options.output or _default_place(options, "studies")
    unfinished = place / ".unfinished"
    found = running.study(
        model, options.task, **chosen, corruptions=options.corruption, windows=options.windows,
        groups=dict(options.group) or None, roles=roles,
        circuits=() if options.circuits == ["none"] else options.circuits,
        direction=options.direction, threshold=options.threshold, examples=options.examples,
        only=None if options.only == "none" else options.only, both_ways=options.both_ways,
        seed=options.seed, batch_size=options.batch_size, memory=options.memory,
        resume=unfinished,
    )  # fmt: skip
    written = found.save(place)
    shutil.rmtree(unfinished, ignore_errors=True)
    if options.json:
        _print_json({"about": dict(found.about), "tables": found.tables(),
                     "verdicts": [vars(verdict) for verdict in found.verdicts()],
                     "files": [str(path) for path in written]})  # fmt: skip
    else:
        print(found)
        print(f"\nwritten: {written[0]}, and {len(written) - 1} tables and figures beside it")


def _reference(name: str | None) -> dict[str, str] | None:
    """Each component's role in a published circuit, or in a circuit's file."""
    if name is None:
        return None
    if name.endswith(".json"):
        from circuitkit.circuit import read
        from circuitkit.detection import roles_of

        return roles_of(read(name))
    from circuitkit.references.published import named

    return dict(named(name).roles)


def _opened(name: str) -> Any:
    """The circuit of that file, or the published one of that name."""
    from circuitkit.circuit import read
    from circuitkit.references.published import named

    published = ":" in name and not name.endswith(".json")
    return named(name).circuit if published else read(name)


def _beside(model: Any, circuit: Any, data: Any, metric: Any, corruption: Any) -> Any:
    """The circuit's faithfulness, beside that of all other edges and of random circuits."""
    from circuitkit.circuit import mask
    from circuitkit.faithfulness import evaluate, random_masks

    keep = mask(circuit, model.wiring)
    masks = [keep, model.wiring.legal & ~keep, *random_masks(model.wiring, int(keep.sum()), 3)]
    found, complement, *null = evaluate(model, masks, data, metric, corruption)
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


def _sizes(model: Any, circuit: Any, data: Any, metric: Any, corruption: Any) -> Any:
    """The faithfulness of the circuit's strongest edges, more and more of them."""
    from circuitkit.circuit import edges, weight_matrix
    from circuitkit.faithfulness import curve
    from circuitkit.scores import Scores

    total = len(list(edges(circuit)))
    sizes = sorted({max(1, round(total / 2**k)) for k in range(8)})
    scores = Scores(model.wiring, weight_matrix(circuit))
    return curve(model, scores, data, metric, corruption, sizes=sizes)


def _points(found: Any) -> Iterator[dict[str, Any]]:
    """A row for every size of a curve."""
    for size, point in zip(found.edges, found.evaluations, strict=True):
        low, high = point.interval()
        yield {"edges": size, "faithfulness": point.faithfulness, "low": low, "high": high}


def compare(options: argparse.Namespace) -> None:
    """Print the overlap of two circuits, and of the roles of the right one."""
    from circuitkit.overlap import compare, compare_members, lists_members

    left, right = _opened(options.left), _opened(options.right)
    members = compare_members(left, right)
    if lists_members(left) or lists_members(right):
        _print_json(members.to_dict()) if options.json else print(members)
        return
    found = compare(left, right)
    if options.json:
        _print_json({**found.to_dict(), "roles": members.shares()})
    else:
        print(*filter(None, (repr(found), members.table())), sep="\n")


def draw(options: argparse.Namespace) -> None:
    """Write a circuit as a picture or a file."""
    from circuitkit.export import write

    asked = {"edges": options.edges, "title": options.title}
    style = {name: value for name, value in asked.items() if value is not None}
    circuit = _opened(options.circuit)
    if circuit.graph.get("unweighted") and options.output.suffix.lower() not in DATA:
        circuit, style = _pictured(circuit, style)
    path = write(circuit, options.output, **style)
    _print_json({"file": str(path)}) if options.json else print(path)


def _pictured(circuit: Any, style: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """What to draw of a circuit without weights, and how: whole if so many edges are asked for,
    else those between components with roles, and none of them left out, for they have no order."""
    from circuitkit.circuit import edges
    from circuitkit.references.published import skeleton

    name, asked = circuit.graph.get("reference", "the circuit"), style.get("edges", 0)
    total, small = len(list(edges(circuit))), skeleton(circuit)
    if not total:
        raise OutputError(f"{name} has components and no edges to draw; write it as .json")
    if asked >= total:
        return circuit, {"title": name, **style}
    shown = len(list(edges(small)))
    if shown > (asked or MOST_DRAWN):
        raise OutputError(
            f"{name} has {shown:,} edges between components with roles, none of them stronger than "
            f"another; give --edges {shown} to draw them"
        )
    part = "" if shown == total else f": {shown:,} of {total:,} edges, those between roles"
    return small, {"title": f"{name}{part}", **style, "edges": max(1, shown)}


def list_names(options: argparse.Namespace) -> None:
    """Print what there is by name."""
    from circuitkit.references import published

    kinds = [options.kind] if options.kind else (*catalogue.KINDS, "references")
    listed = {
        kind: published.describe() if kind == "references" else catalogue.describe(kind)
        for kind in kinds
    }
    if options.json:
        _print_json(listed)
        return
    for kind, functions in listed.items():
        print(kind)
        width = max(18, *map(len, functions))
        for name, line in functions.items():
            print(f"  {name:{width}s} {line}")


def task_show(options: argparse.Namespace) -> None:
    """Print prompts of a task, their token positions, and how well the model does it."""
    _known("tasks", options.task)
    model = _load(options)
    from circuitkit.data import Dataset
    from circuitkit.faithfulness import ability
    from circuitkit.find import make_task

    task = make_task(options.task, model, n=options.examples, seed=options.seed)
    data = _batched(Dataset.of(task, model, memory=options.memory), model, options)
    able = ability(model, data, catalogue.resolve("metrics", task.metric))
    if options.json:
        _print_json({"task": task.name, "model": model.name, **vars(able),
                     "prompts": [vars(p) for p in task.prompts]})  # fmt: skip
        return
    print(f"{task.name} on {model.name}: {able}\n")
    for prompt, example in list(zip(task.prompts, data.examples, strict=True))[:5]:
        print(f"  clean    {prompt.clean!r} -> {', '.join(map(repr, prompt.correct[:5]))}")
        print(f"  corrupt  {prompt.corrupt!r} -> {', '.join(map(repr, prompt.wrong[:5]))}")
        where = sorted(example.spans.items(), key=lambda item: item[1])
        print("  tokens  ", ", ".join(f"{name} {_range(span)}" for name, span in where), "\n")


def check(options: argparse.Namespace) -> None:
    """Print the proof that a model is its graph; raises where it is not."""
    from circuitkit.models import open_model
    from circuitkit.proof import check

    _set_threads(options.threads)
    proof = check(open_model(options.model, device=options.device, dtype=options.dtype))
    if options.json:
        rows = [{**vars(row), "holds": row.holds} for row in proof.rows]
        _print_json({"model": proof.model, "holds": proof.holds, "statements": rows})
    else:
        print(proof)
    proof.require()


def fetch(options: argparse.Namespace) -> None:
    """Store a real model in the user's cache."""
    from circuitkit.cache import fetch

    say = (lambda _: None) if options.quiet else (lambda line: print(line, file=sys.stderr))
    path = fetch(options.model, say=say)
    _print_json({"directory": str(path)}) if options.json else print(path)


# -- helpers ---------------------------------------------------------------------------------------
def _known(kind: str, name: str | None) -> None:
    """Raise UnknownNameError for a name that is not catalogued, before anything slow is loaded."""
    plain = (name or "").partition("(")[0].strip()
    from_elsewhere = ":" in plain or plain.endswith((".csv", ".jsonl"))
    if name and not from_elsewhere and plain not in catalogue.names(kind):
        catalogue.lookup(kind, plain)


def _read(options: argparse.Namespace) -> Any:
    from circuitkit.circuit import read

    return read(options.circuit)


def _unseen(
    options: argparse.Namespace, circuit: Any, metrics: Sequence[str], corruptions: Sequence[str]
) -> tuple[Any, Any, str]:
    """The model, prompts that the circuit's discovery did not see, and what to call them; raises
    before anything slow is loaded where a name is not known."""
    about = circuit.graph
    task = options.task or _recorded(about, "task")
    for kind, chosen in (("metrics", metrics), ("corruptions", corruptions), ("tasks", [task])):
        for name in chosen:
            _known(kind, name)
    options.model = options.model or _recorded(about, "model")
    model = _load(options)
    from circuitkit.data import Dataset
    from circuitkit.find import held_out

    seen = int(about.get("examples", 0)) if task == about.get("task") else 0
    prompts = held_out(task, model, options.examples, int(about.get("seed", 0)), seen)
    whole = Dataset.of(prompts, model, memory=options.memory)
    data = _batched(whole, model, options, corruptions)
    return model, data, f"{circuit!r}; {len(data)} prompts of {task} on {model.name}"


def _batched(
    data: Any, model: Any, options: argparse.Namespace, corruptions: Sequence[str] = ()
) -> Any:
    """The data in batches that fit under each of the corruptions, or as asked."""
    from circuitkit.find import batched

    for corruption in corruptions or ["counterfactual"]:
        how = catalogue.resolve("corruptions", corruption)
        data = batched(data, model, how, options.batch_size)
    return data


def _load(options: argparse.Namespace) -> Any:
    from circuitkit.models import load

    _set_threads(options.threads)
    return load(options.model, device=options.device, dtype=options.dtype)


def _set_threads(threads: int | None) -> None:
    if threads:
        import torch

        torch.set_num_threads(threads)


def _default_place(options: argparse.Namespace, folder: str = "circuits") -> Path:
    task = Path(options.task.partition("(")[0]).stem
    return Path(folder) / f"{task}-{Path(options.model).name}"


def _recorded(about: dict[str, Any], key: str) -> str:
    if key not in about:
        raise ScoresError(f"the circuit does not say its {key}; give --{key}")
    return str(about[key])


def _range(span: tuple[int, int]) -> str:
    start, stop = span
    return str(start) if stop - start == 1 else f"{start}–{stop - 1}"


def _print_json(value: Any) -> None:
    print(json.dumps(_defined(value), indent=1, ensure_ascii=False, default=list))


def _defined(value: Any) -> Any:
    """The value with None for every nan, which JSON lacks."""
    if isinstance(value, dict):
        return {key: _defined(own) for key, own in value.items()}
    if isinstance(value, (list, tuple)):
        return [_defined(own) for own in value]
    return None if isinstance(value, float) and isnan(value) else value


def _table(rows: list[dict[str, Any]], as_json: bool, title: str) -> None:
    """Rows with the same keys as a table, numbers to three decimals."""
    if as_json:
        _print_json(rows)
        return
    cells = [[k.replace("_", " ") for k in rows[0]]]
    cells += [[f"{v:.3f}" if isinstance(v, float) else str(v) for v in r.values()] for r in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    print(title)
    for line in cells:
        padded = (
            text.ljust(w) if i < 2 else text.rjust(w)
            for i, (text, w) in enumerate(zip(line, widths, strict=True))
        )
        print("  ".join(padded))
