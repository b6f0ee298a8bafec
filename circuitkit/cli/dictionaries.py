"""``circuitkit train-dictionary``: dictionaries of features of some layers, trained on texts."""

from __future__ import annotations

import argparse
from pathlib import Path

from circuitkit.cli._opening import legal_name, load_model, settings_of
from circuitkit.cli._options import (
    Commands,
    add_framing,
    add_output,
    machine,
    positive,
)
from circuitkit.cli._printing import print_run
from circuitkit.cli._processes import folder_of

__all__ = ["add", "train_dictionary"]


def add(commands: Commands) -> None:
    """Add the command ``train-dictionary`` and its options."""
    p = commands.add_parser(
        "train-dictionary", parents=[machine()],
        help="train transcoders or autoencoders of some layers",
    )  # fmt: skip
    p.add_argument(
        "data", metavar="TEXTS", nargs="+",
        help="a task, a file of prompts or of plain text (.txt), or hub:NAME:SPLIT:COLUMN",
    )  # fmt: skip
    p.add_argument(
        "--model", default="mini",
        help="mini, smollm2-135m, a directory or a hub name (default: mini)",
    )  # fmt: skip
    p.add_argument(
        "--layers", type=_layers, metavar="0,2-3", help="which layers (default: all of them)"
    )
    p.add_argument(
        "--kind", default="transcoder", choices=("transcoder", "skip_transcoder", "autoencoder"),
        metavar="KIND", help="transcoder, skip_transcoder (with a linear map beside the features) "
        "or autoencoder (default: transcoder)",
    )  # fmt: skip
    p.add_argument(
        "--site", default="resid_post",
        choices=("resid_pre", "resid_mid", "resid_post", "attn_z", "attn_out", "mlp_in",
                 "mlp_out"),
        metavar="SITE", help="what autoencoders take apart: resid_pre, resid_mid, resid_post, "
        "attn_z, attn_out, mlp_in or mlp_out (default: resid_post)",
    )  # fmt: skip
    _add_numbers(p)
    add_framing(p)
    add_output(p, "DIR", "default: dictionaries/MODEL-KIND, and the settings that you change")
    p.set_defaults(run=train_dictionary, parser=p)


def _add_numbers(p: argparse.ArgumentParser) -> None:
    """Add the numbers of a training."""
    p.add_argument(
        "--features", type=positive, metavar="F",
        help="features of each dictionary (default: 8 times the model's width)",
    )  # fmt: skip
    p.add_argument(
        "--k", type=positive, default=16, metavar="K",
        help="features that may be active at a token (default: 16)",
    )  # fmt: skip
    p.add_argument(
        "--steps", type=positive, default=1500, metavar="N", help="steps (default: 1500)"
    )
    p.add_argument(
        "--rows", type=positive, default=50_000, metavar="N",
        help="different tokens in context of each of TEXTS at most (default: 50000)",
    )  # fmt: skip
    p.add_argument(
        "--examples", type=positive, default=3000, metavar="N",
        help="prompts of a task, or stretches of a text, at most (default: 3000)",
    )  # fmt: skip
    p.add_argument(
        "--length", type=positive, default=128, metavar="N",
        help="tokens of a stretch of text (default: 128)",
    )  # fmt: skip
    p.add_argument(
        "--batch", type=positive, default=2048, metavar="N", help="rows a step (default: 2048)"
    )
    p.add_argument(
        "--rate", type=float, default=2e-3, metavar="R", help="highest rate (default: 0.002)"
    )
    p.add_argument("--seed", type=int, default=0, help="seed of all that is drawn (default: 0)")


def _layers(text: str) -> list[int]:
    """The numbers in ``0,2-3``; raises ArgumentTypeError for any other text."""
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise argparse.ArgumentTypeError(f"{text!r} names no layers; write 0,2-3")
        found += range(int(first), int(last or first) + 1)
    return found


def train_dictionary(options: argparse.Namespace) -> None:
    """Train the dictionaries, write them, and print how good they are."""
    name = Path(options.model).name
    place = options.output or Path("dictionaries") / legal_name(
        options, name, options.kind, without=("model", "kind", "data")
    )
    with folder_of(options, place, "dictionaries", settings_of(options)) as folder:
        model = load_model(options.model, options)
        from circuitkit.workflows.dictionaries import train_dictionaries

        found = train_dictionaries(
            model, options.data, layers=options.layers, kind=options.kind, site=options.site,
            features=options.features, k=options.k, steps=options.steps, rows=options.rows,
            examples=options.examples, length=options.length, batch=options.batch,
            rate=options.rate, seed=options.seed, batch_size=options.batch_size or 32,
            memory=options.memory, resume=folder.pieces,
        )  # fmt: skip
        written = found.save(folder)
    print_run(options, found, written)
