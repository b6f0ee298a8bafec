"""Transcoders of some layers of SmolLM2-135M, plain and with a skip: what they cost, and how good
they are, from text that every machine with Python has.

    python benchmarks/train_smollm2.py -o dictionaries/smollm2  # killed, it goes on from there

The text is the manual and the docstrings of Python's standard library; prompts of `ioi` are trained
on, too. Both are measured on texts that were held out. The tables are printed, and (of the default
settings) written into train_smollm2.md beside this file; the weights, which do not come with the
package, into a folder for each kind. At 380 tokens and 2,500 rows a CPU second the default settings
should take some 16 CPU minutes.
"""

from __future__ import annotations

import argparse
import ast
import json
import platform
import random
import sysconfig
import time
from dataclasses import replace
from pathlib import Path
from pydoc_data import topics
from typing import Any

import torch

import circuitkit as ck
from circuitkit.engine.inputs import prepare
from circuitkit.engine.model import Model
from circuitkit.features.dictionaries import Dictionary
from circuitkit.features.quality import carried_by_features
from circuitkit.util.json_values import Json
from circuitkit.util.tables import as_text

HERE = Path(__file__).parent
KINDS = {"transcoder": "plain", "skip_transcoder": "skip"}
LAYERS = (5, 15, 25)
STEPS, EXAMPLES = 240, 500
UNSEEN = 1000  # the seed of the prompts on which behaviour is measured
LETTERS = 4_000  # at least, of what a file or a topic gives
SHARES = ".3f"
FORMATS = {"unexplained": SHARES, "new": SHARES, "active": ".1f", "loss_recovered": SHARES,
           "seconds": ",.0f", "features": SHARES, "no MLP": SHARES, "skips": SHARES,
           "features, skips": SHARES}  # fmt: skip


def prose() -> str:
    """Python's manual (as `help()` has it) and the docstrings of its library, shuffled by topic and
    by file."""
    parts = list(topics.topics.values())
    for file in sorted(Path(sysconfig.get_paths()["stdlib"]).rglob("*.py")):
        if {"site-packages", "test", "tests", "idlelib", "lib2to3"} & set(file.parts):
            continue
        try:
            tree = ast.parse(file.read_bytes())
        except (SyntaxError, ValueError):
            continue
        kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
        own = (ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, kinds))
        parts.append("\n\n".join(text for text in own if text))
    kept = [" ".join(part.split()) for part in parts if len(part) > LETTERS]
    random.Random(0).shuffle(kept)
    return "\n\n".join(kept)


def carried(model: Model, own: list[Dictionary]) -> dict[str, Json]:
    """What these layers' features, skips and both carry of `ioi`."""
    _, data, metric, _ = prepare(model, "ioi", examples=16, seed=UNSEEN)
    found = carried_by_features(model, own, data, metric)
    return {"features": found.features, "skips": found.skip, "features, skips": found.both,
            "no MLP": found.nothing}  # fmt: skip


def report(done: list[dict[str, Any]], whole: bool) -> None:
    """Print what is known so far; and write it, where nothing was left out."""
    rows, kept = [row for one in done for row in one["rows"]], [one["kept"] for one in done]
    columns = ("kind", "layer", "texts", "rows", "unexplained", "new", "active", "dead",
               "loss_recovered", "seconds")  # fmt: skip
    table = as_text([{name: row.get(name) for name in columns} for row in rows], formats=FORMATS)
    said = "\n\n".join([
        "\n".join(one["said"] for one in done),
        f"Python {platform.python_version()}; 'seconds': CPU seconds of a training, killed or not.",
        "On texts that were held out:", table,
        "Faithfulness on 16 prompts of another seed of ioi, everything else of the three MLPs held "
        "at the\ncorrupted run:", as_text(kept, formats=FORMATS),
    ])  # fmt: skip
    print(said, flush=True)
    if whole:
        (HERE / "train_smollm2.md").write_text(
            "# Transcoders of three layers of SmolLM2-135M\n\nWritten by `python "
            f"benchmarks/train_smollm2.py -o DIR`.\n\n```\n{said}\n```\n"
        )


def main() -> None:
    p = argparse.ArgumentParser()
    p.add_argument("--steps", type=int, default=STEPS)
    p.add_argument("--examples", type=int, default=EXAMPLES)
    p.add_argument("-o", "--output", type=Path, required=True)
    options = p.parse_args()
    torch.set_num_threads(1)
    options.output.mkdir(parents=True, exist_ok=True)
    text = options.output / "library.txt"
    if not text.exists():
        text.write_text(prose(), "utf-8")
    done = []
    for kind in KINDS:
        kept = options.output / f"{kind}.json"
        if not kept.exists():
            found = of_kind(kind, text, options)
            kept.write_text(json.dumps(found), "utf-8")
        done.append(json.loads(kept.read_text("utf-8")))
        report(done, (options.steps, options.examples) == (STEPS, EXAMPLES))


def of_kind(kind: str, text: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Train the dictionaries of a kind, write them, and say how good they are."""
    start = time.process_time()
    model = ck.load("smollm2-135m")
    found = ck.train_dictionaries(
        model, [str(text), "ioi"], layers=LAYERS, kind=kind, features=4608, k=32,
        steps=options.steps, batch=1024, rows=200_000, examples=options.examples, batch_size=8,
        resume=options.output / "pieces",
    )  # fmt: skip
    rounded = tuple(own.to(torch.float16) for own in found.dictionaries)
    replace(found, dictionaries=rounded).save(options.output / kind, overwrite=True)
    rows = [
        {"kind": KINDS[kind], **row, "texts": Path(row["texts"]).stem} for row in found.measured
    ]
    seconds = time.process_time() - start
    return {
        "said": f"{found}: k 32, {options.steps:,} steps of 1,024 rows, {found.about['rows']:,} "
        f"rows; {seconds:,.0f} CPU seconds since it was last killed.",
        "rows": rows, "kept": {"kind": KINDS[kind], **carried(model, list(found.dictionaries))},
    }  # fmt: skip


if __name__ == "__main__":
    main()
