"""``circuitkit features show``: what features of a dictionary are."""

from __future__ import annotations

import argparse
from pathlib import Path

from circuitkit.cli._opening import load_model
from circuitkit.cli._options import Commands, add_framing, machine, place, positive
from circuitkit.cli._printing import print_json, print_text

__all__ = ["add", "features"]


def add(commands: Commands) -> None:
    """Add the command ``features`` and its options."""
    p = commands.add_parser(
        "features", parents=[machine()],
        help="what features of a dictionary are: their prompts and logits",
    )  # fmt: skip
    p.add_argument("action", choices=("show",), metavar="show", help="show what features are")
    p.add_argument(
        "features", metavar="FEATURE", nargs="+",
        help="m3.f417: feature 417 of the MLP of layer 3; a3.f417 of its attention, r3.f417 of the "
        "residual stream there",
    )  # fmt: skip
    p.add_argument(
        "--model", default="mini",
        help="mini, smollm2-135m, a directory or a hub name (default: mini)",
    )  # fmt: skip
    p.add_argument(
        "--dictionaries", default="mini", metavar="DIR",
        help="a file or folder of dictionaries (default: mini, the transcoders of the model mini)",
    )  # fmt: skip
    p.add_argument(
        "--texts", action="append", metavar="TEXTS",
        help="a task, a file of prompts or of plain text, hub:NAME; can be given several times "
        "(default: ioi)",
    )  # fmt: skip
    p.add_argument(
        "--examples", type=positive, default=200, metavar="N",
        help="prompts of each, or stretches of a text (default: 200)",
    )  # fmt: skip
    p.add_argument(
        "--top", type=positive, default=8, metavar="N", help="texts and tokens shown (default: 8)"
    )
    p.add_argument(
        "--labels", type=place, metavar="CSV", help="a table with the columns feature and label"
    )
    p.add_argument("--seed", type=int, default=0, help="seed of the prompts (default: 0)")
    add_framing(p)
    p.set_defaults(run=features)


def features(options: argparse.Namespace) -> None:
    """Print what each feature is."""
    from circuitkit.features import describing
    from circuitkit.features.loading import load

    asked: dict[str, list[int]] = {}
    for name in options.features:
        prefix, number = describing.parse_feature(name)
        asked.setdefault(prefix, []).append(number)
    labels = describing.read_labels(options.labels) if options.labels else {}
    layers = {int(prefix[1:]) for prefix in asked}
    held = {own.prefix: own for own in load(options.dictionaries, layers=layers)}
    missing = next((prefix for prefix in asked if prefix not in held), None)
    if missing is not None:
        from circuitkit.errors import DictionaryError

        raise DictionaryError(
            f"{options.dictionaries!r} has no dictionary of {missing}; it has {', '.join(held)}"
        )
    model = load_model(options.model, options)
    from circuitkit.features.texts import read_texts

    sources = options.texts or ["ioi"]
    texts = []
    for source in sources:
        own = read_texts(model, source, examples=options.examples, seed=options.seed)
        texts += [*own.seen, *own.held]
    found = describing.describe_several(
        model, [(held[prefix], numbers) for prefix, numbers in asked.items()], texts,
        top=options.top, labels=labels, name=" and ".join(Path(own).name for own in sources),
        batch_size=options.batch_size or 32,
    )  # fmt: skip
    if options.json:
        print_json({"features": [one.to_dict() for one in found]})
    else:
        print_text("\n\n\n".join(map(repr, found)))
