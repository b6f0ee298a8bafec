"""Models taken apart into features, each a writer beside heads: MLPs, what heads write, and the
residual stream.

Which stage a dictionary takes apart follows from where it reads and writes; ``features.blocks``
says what the parts write.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import torch
from torch import Tensor

from circuitkit.engine.inspection import Inspectable
from circuitkit.engine.model import Kind, Model
from circuitkit.engine.weights import Weights
from circuitkit.errors import DictionaryError
from circuitkit.features.blocks import (
    AttentionBlock,
    Block,
    FeatureBlock,
    HeadParts,
    NeuronBlock,
    Parts,
)
from circuitkit.features.dictionaries import Dictionary
from circuitkit.features.loading import load
from circuitkit.features.pulls import require_traceable, require_whole
from circuitkit.features.replacing import READS
from circuitkit.features.sites import fitted
from circuitkit.graph.stages import (
    ATTENTION_FEATURES,
    FEATURES,
    STREAM_FEATURES,
    Split,
)
from circuitkit.graph.wiring import Wiring
from circuitkit.util.json_values import Json

__all__ = ["Chosen", "apart", "split_as", "split_into_features", "split_into_neurons"]

AUTOENCODERS = ("mlp_out", "attn_out", "attn_z", "resid_pre", "resid_mid", "resid_post")
Chosen: TypeAlias = Mapping[int, Sequence[int]] | Mapping[str, Sequence[int]]  # 3 is m3


def split_into_features(
    model: Model, dictionaries: Sequence[Dictionary], chosen: Chosen
) -> Inspectable:
    """The model with what the dictionaries are of taken apart, and of each dictionary the
    ``chosen`` features as writers of their own. The model itself stays as it is.

    A transcoder, or an autoencoder of ``mlp_out``, takes apart an MLP (``m3``; 3 in short), one of
    ``attn_out`` or ``attn_z`` what the heads of a layer write (``a3``), and one of the residual
    stream that (``r3``): readers behind it hear its parts, and nobody who wrote before.

    Raises DictionaryError for what does not fit the model or takes nothing apart, for two
    dictionaries of one place, and for features that a dictionary does not have, and
    UnsupportedModelError for a model that cannot be taken apart, or is already.

    Example:
        >>> transcoders = ck.features.load("mini")
        >>> split = ck.features.split_into_features(model, transcoders, {"m3": [417]})
        >>> [writer for writer in split.wiring.writers if writer.startswith("m3")]
        ['m3.f417', 'm3.rest', 'm3.error']
    """
    whole, numbers = require_whole(model), _named(chosen)
    blocks, places = _Blocks(), set[tuple[int, str]]()
    for given in dictionaries:
        one, site = apart(given, whole)
        place = (one.layer + 1, "resid_pre") if site == "resid_post" else (one.layer, site)
        if one.prefix in blocks.splits or place in places:
            raise DictionaryError(
                f"two dictionaries of {one.prefix} ({site}) take the same apart; give one of it"
            )
        places.add(place)
        blocks.add(whole, one, _known(one, numbers.pop(one.prefix, ())), site)
    if numbers:
        raise DictionaryError(
            f"features of {min(numbers)} are chosen without a dictionary of it; there are those of "
            f"{', '.join(blocks.splits) or 'nothing'}"
        )
    return _taken_apart(whole, blocks)


def split_into_neurons(model: Model, chosen: Chosen) -> Inspectable:
    """The model with the MLPs of these layers taken apart into the chosen neurons and the rest;
    raises UnsupportedModelError for a model whose MLPs cannot be taken apart."""
    own, blocks = require_traceable(model), _Blocks()
    for name, numbers in _named(chosen).items():
        block = NeuronBlock(own, int(name[1:]), numbers)
        blocks.mlps[block.layer] = block
        blocks.splits[name] = block.split
    return _taken_apart(own, blocks)


def split_as(model: Model, about: Mapping[str, Json], path: str | None = None) -> Model:
    """The model taken apart as it was where a circuit was found, of which ``about`` are the
    attributes: with the dictionaries that it names, or those at ``path``. A model that was whole,
    or is taken apart already, stays as it is.

    Raises DictionaryError where the dictionaries are not there, or are others than those of the
    circuit.
    """
    wiring = Wiring.from_dict(about["wiring"]) if isinstance(about.get("wiring"), dict) else None
    if wiring is None or not wiring.splits or model.wiring.splits:
        return model
    splits = {own.stem(i): own for i, layer in enumerate(wiring.of_layers) for own in layer}
    chosen = {name: own.chosen for name, own in splits.items()}
    if any(own.letter == "n" for own in splits.values()):
        return split_into_neurons(model, chosen)
    source = path or about.get("dictionaries")
    if not isinstance(source, str):
        raise DictionaryError("the circuit does not say of which dictionaries its features are")
    layers = {int(name[1:]) for name in chosen}
    own = [one for one in load(source, layers=layers) if one.prefix in chosen]
    split = split_into_features(model, own, chosen)
    if split.wiring.splits != wiring.splits:
        raise DictionaryError(
            f"the dictionaries {source!r} are not those of the circuit: they split it otherwise"
        )
    return split


def apart(given: Dictionary, model: Inspectable) -> tuple[Dictionary, str]:
    """A dictionary where the model is, and the site of the split that it makes (see ``Split``);
    raises DictionaryError for one that takes nothing apart."""
    one = fitted(given, model)
    what = f"the {one.kind.replace('_', ' ')} {one.prefix}"
    if one.decoder.ndim != 2:
        raise DictionaryError(
            f"{what} writes in several layers, another vector in each, and a writer writes in one; "
            "give transcoders of one layer"
        )
    if one.reads in READS and one.writes == "mlp_out":
        return one.to(model.device, model.dtype), "mlp"
    if one.reads != one.writes or one.reads not in AUTOENCODERS:
        raise DictionaryError(
            f"{what} reads {one.reads!r} and writes {one.writes!r}; models are taken apart by "
            "transcoders of one layer, which read 'mlp_in' or 'resid_mid' and write 'mlp_out', and "
            f"by autoencoders of {', '.join(AUTOENCODERS[:-1])} and {AUTOENCODERS[-1]}"
        )
    if one.reads == "resid_mid" and model.wiring.parallel:
        raise DictionaryError(
            f"{what} is of 'resid_mid', and in {model.name!r} an MLP reads what the attention of "
            "its layer reads; use one of 'resid_pre'"
        )
    one = one.to(model.device, model.dtype)
    if one.reads != "attn_z":
        return one, one.reads
    return _by_way_of_the_projection(one, model), "attn_out"


def _by_way_of_the_projection(one: Dictionary, model: Inspectable) -> Dictionary:
    """An autoencoder of ``attn_z``, with what its features write into the residual stream."""
    if model.post_norm:
        raise DictionaryError(
            f"the autoencoder {one.prefix} is of 'attn_z', and in {model.name!r} a norm follows "
            "the attention, so that what features write does not add up; use one of 'attn_out'"
        )

    def written(z: Tensor) -> Tensor:
        heads = z.view(*z.shape[:-1], model.wiring.heads, model.d_head)
        with torch.no_grad():
            return model.write(one.layer, None, heads).sum(0)

    return replace(one, decoder=written(one.decoder), bias=written(one.bias), writes="attn_out")


@dataclass
class _Blocks:
    """Stages taken apart, by their layers, and all splits by their names (``m3``)."""

    mlps: dict[int, Block] = field(default_factory=dict)
    heads: dict[int, AttentionBlock] = field(default_factory=dict)
    stream: dict[int, Block] = field(default_factory=dict)
    splits: dict[str, Split] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)  # of the dictionaries

    def add(self, model: Inspectable, one: Dictionary, numbers: Sequence[int], site: str) -> None:
        """Take a stage apart by a dictionary."""
        if site == "attn_out":
            heads = self.heads[one.layer] = AttentionBlock(one, numbers)
            self.splits[one.prefix] = heads.split
        else:
            block = FeatureBlock(model, one, numbers, site)
            (self.mlps if one.prefix.startswith("m") else self.stream)[one.layer] = block
            self.splits[one.prefix] = block.split
        where = "" if site == "mlp" else f".{site}"
        self.tensors |= {f"{one.prefix}{where}.{key}": x for key, x in one.tensors().items()}

    def kinds(self) -> dict[str, Kind]:
        """Who computes them."""
        found: dict[str, Kind] = {}
        if self.mlps:
            found[FEATURES] = Parts(self.mlps)
        if self.heads:
            found[ATTENTION_FEATURES] = HeadParts(self.heads)
        if self.stream:
            found[STREAM_FEATURES] = Parts(self.stream)
        return found


def _taken_apart(model: Inspectable, blocks: _Blocks) -> Inspectable:
    split = copy.copy(model)
    wiring = model.wiring
    each = [
        tuple(own for name, own in blocks.splits.items() if int(name[1:]) == layer)
        for layer in range(wiring.layers)
    ]
    split.wiring = replace(wiring, splits=(*each,))
    split.kinds = {**model.kinds, **blocks.kinds()}
    kept = getattr(model, "weights", None)
    if isinstance(kept, Weights):  # so that work with other dictionaries is told from this
        split.weights = Weights({**kept.tensors, **blocks.tensors})  # type: ignore[attr-defined]
    return split


def _named(chosen: Chosen) -> dict[str, Sequence[int]]:
    """The choice by the names of what is taken apart: 3 is m3."""
    return {name if isinstance(name, str) else f"m{name}": own for name, own in chosen.items()}


def _known(dictionary: Dictionary, chosen: Sequence[int]) -> Sequence[int]:
    for number in chosen:
        if not 0 <= number < dictionary.n_features:
            raise DictionaryError(
                f"the dictionary {dictionary.prefix} has no feature {number}; it has "
                f"{dictionary.n_features:,}"
            )
    return chosen
