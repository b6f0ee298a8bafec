"""``circuitkit features``: what features of a dictionary are, and how sparse an MLP is between two
dictionaries."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from circuitkit.cli._opening import load_model
from circuitkit.cli._options import Commands, add_framing, machine, place, positive
from circuitkit.cli._printing import print_json, print_text

if TYPE_CHECKING:
    from circuitkit.engine.model import Model
    from circuitkit.features.dictionaries import Dictionary
    from circuitkit.features.texts import Tokens

__all__ = ["add", "features"]


def add(commands: Commands) -> None:
    """Add the command ``features`` and its options."""
    p = commands.add_parser(
        "features", parents=[machine()],
        help="what features of a dictionary are: their prompts and logits",
    )  # fmt: skip
    p.add_argument(
        "action", choices=("show", "jacobian"), metavar="show|jacobian",
        help="show what features are; how sparsely those that an MLP writes depend on those that "
        "it reads (jacobian)",
    )  # fmt: skip
    p.add_argument(
        "features", metavar="FEATURE", nargs="+",
        help="m3.f417: feature 417 of the MLP of layer 3; a3.f417 of its attention, r3.f417 of the "
        "residual stream there; with jacobian m3, the MLP",
    )  # fmt: skip
    p.add_argument(
        "--model", default="mini",
        help="mini, smollm2-135m, a directory or a hub name (default: mini)",
    )  # fmt: skip
    p.add_argument(
        "--dictionaries", default="mini", metavar="DIR",
        help="a file or folder of dictionaries (default: mini, the transcoders of the model mini); "
        "with jacobian autoencoders of mlp_in",
    )  # fmt: skip
    p.add_argument(
        "--outputs", metavar="DIR",
        help="with jacobian: a file or folder of autoencoders of mlp_out (default: none)",
    )  # fmt: skip
    p.add_argument(
        "--tokens", type=positive, default=512, metavar="N",
        help="with jacobian: on how many tokens it is measured (default: 512)",
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
    """Print what each feature is, or how sparse each MLP is."""
    if options.action == "jacobian":
        _jacobians(options)
    else:
        _show(options)


def _show(options: argparse.Namespace) -> None:
    """Print what each feature is."""
    from circuitkit.features import describing

    asked: dict[str, list[int]] = {}
    for name in options.features:
        prefix, number = describing.parse_feature(name)
        asked.setdefault(prefix, []).append(number)
    labels = describing.read_labels(options.labels) if options.labels else {}
    held = _held(options.dictionaries, asked)
    model = load_model(options.model, options)
    texts, sources = _texts(model, options)
    found = describing.describe_several(
        model, [(held[prefix], numbers) for prefix, numbers in asked.items()], texts,
        top=options.top, labels=labels, name=sources, batch_size=options.batch_size or 32,
    )  # fmt: skip
    if options.json:
        print_json({"features": [one.to_dict() for one in found]})
    else:
        print_text("\n\n\n".join(map(repr, found)))


def _jacobians(options: argparse.Namespace) -> None:
    """Print how sparse each MLP is between two dictionaries."""
    from circuitkit.errors import DictionaryError
    from circuitkit.features.jacobian import jacobian_sparsity

    wrong = next((x for x in options.features if not (x[:1] == "m" and x[1:].isdecimal())), None)
    if wrong is not None or options.outputs is None:
        raise DictionaryError(
            "give --outputs, autoencoders of mlp_out" if wrong is None
            else f"{wrong!r} is not an MLP; write m3"
        )  # fmt: skip
    asked = dict.fromkeys(options.features)
    ends = [_held(place, asked) for place in (options.dictionaries, options.outputs)]
    model = load_model(options.model, options)
    texts, sources = _texts(model, options)
    found = [
        jacobian_sparsity(
            model, ends[0][name], ends[1][name], texts, tokens=options.tokens, name=sources,
            seed=options.seed, batch_size=options.batch_size or 32,
        ) for name in asked
    ]  # fmt: skip
    if options.json:
        print_json({"jacobians": [one.to_dict() for one in found]})
    else:
        print_text("\n\n".join(map(repr, found)))


def _held(place: str, asked: Iterable[str]) -> dict[str, Dictionary]:
    """The dictionaries at a place, by component; raises DictionaryError where one is missing."""
    from circuitkit.errors import DictionaryError
    from circuitkit.features.loading import load

    wanted = [*asked]
    held = {own.prefix: own for own in load(place, layers={int(name[1:]) for name in wanted})}
    missing = next((name for name in wanted if name not in held), None)
    if missing is not None:
        raise DictionaryError(f"{place!r} has no dictionary of {missing}; it has {', '.join(held)}")
    return held


def _texts(model: Model, options: argparse.Namespace) -> tuple[list[Tokens], str]:
    """The texts of all sources in tokens, and what they are called."""
    from circuitkit.features.texts import read_texts

    sources, texts = options.texts or ["ioi"], []
    for source in sources:
        own = read_texts(model, source, examples=options.examples, seed=options.seed)
        texts += [*own.seen, *own.held]
    return texts, " and ".join(Path(source).name for source in sources)
