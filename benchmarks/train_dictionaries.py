"""The transcoders of `mini` that come with the package: trained, measured, and written in fp16.

    python benchmarks/train_dictionaries.py  # into circuitkit/assets/mini-transcoders
    python benchmarks/train_dictionaries.py --kind skip_transcoder -o dictionaries/mini-skip

The tables are printed, and written into train_dictionaries.md (train_skips.md of skip transcoders,
which do not come with the package) beside this file. What features and skips carry is measured on
prompts of another seed.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import torch

import circuitkit as ck
from circuitkit.engine.inputs import prepare
from circuitkit.engine.model import Model
from circuitkit.features.dictionaries import Dictionary
from circuitkit.features.quality import carried_by_features
from circuitkit.util.json_values import Json
from circuitkit.util.tables import as_text

HERE = Path(__file__).parent
SHIPPED = HERE.parent / "circuitkit" / "assets" / "mini-transcoders"
TASKS = ("ioi", "docstring", "gendered_pronoun", "induction", "greater_than")
WAYS = ("all features alone", "no MLP", "skips alone", "features and skips")
FORMATS = dict.fromkeys(WAYS, ".3f")
REPORTS = {
    "transcoder": ("The transcoders that come with the package", "train_dictionaries.md", ""),
    "skip_transcoder": ("Transcoders of mini with a skip", "train_skips.md",
                        " --kind skip_transcoder -o DIR"),
}  # fmt: skip
STEPS, EXAMPLES = 2000, 3000
UNSEEN = 1000  # the seed of the prompts on which behaviour is measured


def carried(model: Model, own: list[Dictionary]) -> list[dict[str, Json]]:
    """What all features alone carry of each task, what skips alone and both do, and what is left
    without any MLP."""
    skips = any(one.skip is not None for one in own)
    rows = []
    for task in TASKS:
        _, data, metric, _ = prepare(model, task, examples=64, seed=UNSEEN)
        found = carried_by_features(model, own, data, metric)
        rows.append({
            "task": task, "all features alone": found.features, "no MLP": found.nothing,
            **({"skips alone": found.skip, "features and skips": found.both} if skips else {}),
        })  # fmt: skip
    return rows


def main() -> None:
    p = argparse.ArgumentParser()
    p.add_argument("--kind", default="transcoder", choices=("transcoder", "skip_transcoder"))
    p.add_argument("--steps", type=int, default=STEPS)
    p.add_argument("--examples", type=int, default=EXAMPLES)
    p.add_argument("--resume", type=Path)
    p.add_argument("-o", "--output", type=Path, default=SHIPPED)
    options = p.parse_args()
    torch.set_num_threads(1)
    start, clock = time.process_time(), time.time()
    model = ck.load("mini")
    found = ck.train_dictionaries(
        model, TASKS, kind=options.kind, features=1024, k=16, steps=options.steps, rows=60_000,
        examples=options.examples, batch_size=128, resume=options.resume,
    )  # fmt: skip
    rounded = [own.to(torch.float16) for own in found.dictionaries]
    again = [own.to(torch.float32) for own in rounded]
    kept = carried(model, again)
    replace(found, dictionaries=tuple(rounded)).save(options.output, overwrite=True)
    size = sum(file.stat().st_size for file in options.output.rglob("*.safetensors"))
    columns = ("layer", "texts", "rows", "unexplained", "new", "active", "dead", "loss_recovered")
    table = as_text(
        [{name: row.get(name) for name in columns} for row in found.measured],
        formats={"unexplained": ".3f", "new": ".3f", "active": ".1f", "loss_recovered": ".3f"},
    )  # fmt: skip
    seconds = sum(row.get("seconds") or 0 for row in found.measured)
    text = (
        f"{found}: k 16, {options.steps:,} steps of 2,048 rows, {found.about['rows']:,} rows.\n"
        f"{seconds:,.0f} CPU seconds of training, {time.process_time() - start:,.0f} in all "
        f"({time.time() - clock:,.0f} s on the clock, one thread); {size / 1e6:.2f} MB in fp16.\n\n"
        f"On texts that were held out ('new': at tokens whose prefix no trained text has):\n\n"
        f"{table}\n\nFaithfulness on 64 prompts of another seed, in fp16, everything else of the "
        f"MLPs held at the corrupted run:\n\n{as_text(kept, formats=FORMATS)}\n"
    )
    print(text)
    title, name, how = REPORTS[options.kind]
    if (options.steps, options.examples) != (STEPS, EXAMPLES):
        how += f" --steps {options.steps} --examples {options.examples}"
    (HERE / name).write_text(
        f"# {title}\n\nWritten by `python benchmarks/train_dictionaries.py{how}`.\n\n"
        f"```\n{text}```\n"
    )


if __name__ == "__main__":
    main()
