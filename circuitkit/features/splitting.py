"""MLPs taken apart into features, each a writer and a reader beside heads.

Where an MLP reads x, behind its norm y, it writes the sum of what its features write, of a skip and
of what these leave over:

    m(x) = Σ_f a_f(y) · d_f + bias + skip(y) + error(x)

A chosen feature is a writer ``m3.f417`` that reads by itself, so that its activation is a_f of its
own reading; ``m3.rest`` (all other features and the bias), ``m3.skip`` and ``m3.error`` read at the
MLP's port ``m3``. The error is what *all* features leave over there, the chosen ones at the port's
reading too: at their own, it would make up for whatever a circuit does to them. With everything
kept the parts add up to the MLP, however bad the dictionary is. With top k the threshold is that of
the port.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from circuitkit.engine.inspection import Inspectable
from circuitkit.engine.kinds import Writing
from circuitkit.engine.model import Context, Model, Ports, Pull
from circuitkit.engine.numerics import wide
from circuitkit.engine.weights import Weights
from circuitkit.errors import DictionaryError, UnsupportedModelError
from circuitkit.features.dictionaries import Dictionary
from circuitkit.features.loading import load
from circuitkit.features.pulls import require_traceable
from circuitkit.features.replacing import READS
from circuitkit.features.sites import fitted
from circuitkit.graph.stages import FEATURES, Split, Stage
from circuitkit.graph.wiring import Wiring
from circuitkit.util.json_values import Json

__all__ = [
    "Block", "FeatureBlock", "NeuronBlock", "Parts", "split_as", "split_into_features",
    "split_into_neurons", "transcoder", "written_per_unit",
]  # fmt: skip


@runtime_checkable
class Block(Protocol):
    """An MLP taken apart: what its parts write, in the order of the writers of its ``split``."""

    split: Split

    def own(self, x: Float[Tensor, "*t d"]) -> Float[Tensor, "*t k"]:
        """What decides what each chosen part writes, all reading the same residual."""

    def one(self, place: int, x: Float[Tensor, "*t d"]) -> Float[Tensor, "*t 1"]:
        """The same of one of them."""

    def parts(
        self, own: Float[Tensor, "*t k"], x: Float[Tensor, "*t d"]
    ) -> Float[Tensor, "*t n d"]:
        """What each part writes, the others where the port reads ``x``."""

    def pull(
        self, x: Float[Tensor, "t d"], grads: Float[Tensor, "t k"], *held: object
    ) -> Float[Tensor, "k t d"]:
        """The gradients in the residual that each chosen part reads."""


class Parts(Writing):
    """The parts of MLPs that are taken apart: those that are chosen give what decides what they
    write (one number), the port the residual itself."""

    def __init__(self, blocks: Mapping[int, Block]) -> None:
        self.blocks = blocks  # by layer

    def project(self, model: Model, stage: Stage, x: Tensor) -> Ports:
        """The number of each chosen part, if there are any, and the residual."""
        residual = x[..., None, :]
        if stage.reads == 1:
            return (residual,)
        return self.blocks[stage.layer].own(x)[..., None], residual

    def read(self, model: Model, stage: Stage, readers: Sequence[int], x: Tensor) -> Tensor:
        """The numbers, or at the port the residual."""
        block, port = self.blocks[stage.layer], stage.reads - 1
        if port in readers:
            return x
        residuals = x.expand(len(readers), *x.shape[1:])
        given = [block.one(place, own) for place, own in zip(readers, residuals, strict=True)]
        return torch.stack(given) if given else x.new_zeros(0, *x.shape[1:-1], 1)

    def compute(self, model: Model, stage: Stage, context: Context, ports: Ports) -> Tensor:
        """What each part writes."""
        block, x = self.blocks[stage.layer], ports[-1][..., 0, :]
        own = (
            block.own(x) if stage.reads == 1 else ports[0][..., 0]
        )  # of nothing, if none is chosen
        return block.parts(own, x)

    def pull(self, model: Model, stage: Stage) -> Pull:
        """Back through the norm of each chosen part; at the port the gradient is its own."""
        block = self.blocks[stage.layer]

        def pull(x: Tensor, grads: Ports, *held: object) -> Tensor:
            port = wide(grads[-1].movedim(-2, 0))
            if stage.reads == 1:
                return port
            return torch.cat([block.pull(x, grads[0][..., 0], *held), port])

        return pull


class FeatureBlock:
    """An MLP taken apart by a transcoder."""

    def __init__(self, model: Inspectable, dictionary: Dictionary, chosen: Sequence[int]) -> None:
        self.model, self.dictionary, self.layer = model, dictionary, dictionary.layer
        self.behind = dictionary.reads == "mlp_in"
        skips = () if dictionary.skip is None else ("skip",)
        self.split = Split(
            (*chosen,), ("rest", *skips, "error"), tied=dictionary.activation == "topk"
        )
        self.index = torch.tensor([*chosen], dtype=torch.long, device=dictionary.device)
        self.encoder = dictionary.encoder_rows(self.index)
        self.offset = dictionary.encoder_bias[self.index]
        self.decoder = dictionary.decoder_rows(self.index)
        self._back = model.mlp_pull(self.layer, wide(self.encoder)[..., None])

    def _reading(self, x: Tensor) -> Tensor:
        return self.model.mlp_in(self.layer, x) if self.behind else x

    def own(self, x: Tensor) -> Tensor:
        """The pre-activations of the chosen features."""
        return torch.nn.functional.linear(self._reading(x), self.encoder, self.offset)

    def one(self, place: int, x: Tensor) -> Tensor:
        """That of one of them."""
        row, offset = self.encoder[place : place + 1], self.offset[place : place + 1]
        return torch.nn.functional.linear(self._reading(x), row, offset)

    def parts(self, own: Tensor, x: Tensor) -> Tensor:
        """Features, rest, skip and error."""
        dictionary, y = self.dictionary, self._reading(x)
        pre = dictionary.pre(y)
        least = dictionary.thresholds(pre)  # one number a token with top k
        chosen = least if least.shape[-1] == 1 else least[..., self.index]
        active = torch.where(own > chosen, own, own.new_zeros(()))
        features = active[..., None] * self.decoder
        whole = torch.where(pre > least, pre, pre.new_zeros(()))
        there = whole[..., self.index]
        rest = dictionary.decode(whole.index_fill(-1, self.index, 0))
        parts, explained = [rest], rest + there @ self.decoder
        if dictionary.skip is not None:
            parts.append(dictionary.skipped(y))
            explained = explained + parts[-1]
        parts.append(self.model.mlp(self.layer, x) - explained)
        return torch.cat([features, torch.stack(parts, -2)], -2)

    def pull(self, x: Tensor, grads: Tensor, *held: object) -> Tensor:
        """Back through the encoder's rows and the norm."""
        steep = wide(grads).T[..., None]
        if self.behind:
            return self._back(x, steep, *held)
        return steep * wide(self.encoder)[:, None]


class NeuronBlock:
    """An MLP taken apart into its own neurons, which leave no error."""

    def __init__(self, model: Inspectable, layer: int, chosen: Sequence[int]) -> None:
        self.model, self.layer, self.split = model, layer, Split((*chosen,), ("rest",), "n")
        self.index = torch.tensor([*chosen], dtype=torch.long, device=model.device)
        self.rows = written_per_unit(model, layer)[self.index]

    def own(self, x: Tensor) -> Tensor:
        """The values of the chosen neurons."""
        return self.model.neurons(self.layer, x)[..., self.index]

    def one(self, place: int, x: Tensor) -> Tensor:
        """That of one of them."""
        number = self.split.chosen[place]
        return self.model.neurons(self.layer, x)[..., number : number + 1]

    def parts(self, own: Tensor, x: Tensor) -> Tensor:
        """Neurons, and the rest."""
        there = self.model.neurons(self.layer, x)
        rest = self.model.mlp_out(self.layer, there.index_fill(-1, self.index, 0))
        return torch.cat([own[..., None] * self.rows, rest[..., None, :]], -2)

    def pull(self, x: Tensor, grads: Tensor, *held: object) -> Tensor:
        """By the model's own backward, neuron by neuron."""
        with torch.enable_grad():
            start = x.detach()[None].requires_grad_()
            values = self.own(start)[0]
            found = [
                torch.autograd.grad(values[:, i], start, grads[:, i].to(values), retain_graph=True)
                for i in range(values.shape[-1])
            ]
        return torch.cat([own for (own,) in found]) if found else wide(x.new_zeros(0, *x.shape))


def split_into_features(
    model: Model, dictionaries: Sequence[Dictionary], chosen: Mapping[int, Sequence[int]]
) -> Inspectable:
    """The model with the MLPs that have a dictionary taken apart, and of each layer's dictionary
    the ``chosen`` features as writers of their own. The model itself stays as it is.

    Raises DictionaryError for what is not a transcoder that fits the model, for two of one layer,
    and for features that a dictionary does not have, and UnsupportedModelError for a model whose
    MLPs cannot be taken apart.

    Example:
        >>> transcoders = ck.features.load("mini")
        >>> split = ck.features.split_into_features(model, transcoders, {3: [417]})
        >>> [writer for writer in split.wiring.writers if writer.startswith("m3")]
        ['m3.f417', 'm3.rest', 'm3.error']
    """
    own = require_traceable(model)
    blocks: dict[int, Block] = {}
    for given in dictionaries:
        one = transcoder(given, own)
        if one.layer in blocks:
            raise DictionaryError(f"two dictionaries read in layer {one.layer}; give one a layer")
        blocks[one.layer] = FeatureBlock(own, one, _known(one, chosen.get(one.layer, ())))
    if missing := sorted(set(chosen) - set(blocks)):
        raise DictionaryError(
            f"features of layer {missing[0]} are chosen without a dictionary of it"
        )
    return _taken_apart(own, blocks)


def split_into_neurons(model: Model, chosen: Mapping[int, Sequence[int]]) -> Inspectable:
    """The model with the MLPs of these layers taken apart into the chosen neurons and the rest;
    raises UnsupportedModelError for a model whose MLPs cannot be taken apart."""
    own = require_traceable(model)
    return _taken_apart(own, {i: NeuronBlock(own, i, numbers) for i, numbers in chosen.items()})


@torch.no_grad()
def written_per_unit(model: Inspectable, layer: int) -> Float[Tensor, "f d"]:
    """What each neuron of an MLP writes per unit; raises UnsupportedModelError where a norm follows
    the MLP, so that what they write does not add up."""
    probe = torch.linspace(-1, 2, model.d_model, dtype=model.dtype, device=model.device)
    once, twice = (model.after_mlp(layer, x * probe[None, None]) for x in (1, 2))
    if not torch.allclose(twice, 2 * once):
        raise UnsupportedModelError(
            f"in layer {layer} of {model.name!r} a norm follows the MLP, so that what neurons "
            "write does not add up; use a dictionary that writes after it"
        )
    nothing = model.neurons(layer, torch.zeros_like(probe)[None, None])
    each = torch.eye(nothing.shape[-1] + 1, nothing.shape[-1]).to(nothing)  # the last is none
    out = model.mlp_out(layer, each[None])[0]
    return out[:-1] - out[-1]


def split_as(model: Model, about: Mapping[str, Json], path: str | None = None) -> Model:
    """The model taken apart as it was where a circuit was found, of which ``about`` are the
    attributes: with the dictionaries that it names, or those at ``path``. A model whose MLPs were
    whole, or that is taken apart already, stays as it is.

    Raises DictionaryError where the dictionaries are not there, or are others than those of the
    circuit.
    """
    wiring = Wiring.from_dict(about["wiring"]) if isinstance(about.get("wiring"), dict) else None
    if wiring is None or not wiring.splits or model.wiring.splits:
        return model
    chosen = {i: own.chosen for i, own in enumerate(wiring.splits) if own is not None}
    if any(own is not None and own.letter == "n" for own in wiring.splits):
        return split_into_neurons(model, chosen)
    source = path or about.get("dictionaries")
    if not isinstance(source, str):
        raise DictionaryError("the circuit does not say of which dictionaries its features are")
    split = split_into_features(model, load(source, layers=chosen), chosen)
    if split.wiring.splits != wiring.splits:
        raise DictionaryError(
            f"the dictionaries {source!r} are not those of the circuit: they split MLPs otherwise"
        )
    return split


def _taken_apart(model: Inspectable, blocks: Mapping[int, Block]) -> Inspectable:
    split = copy.copy(model)
    wiring = model.wiring
    each = (blocks[i].split if i in blocks else None for i in range(wiring.layers))
    split.wiring = replace(wiring, splits=(*each,))
    split.kinds = {**model.kinds, FEATURES: Parts(blocks)}
    kept = getattr(model, "weights", None)
    if isinstance(kept, Weights):  # so that work with other dictionaries is told from this
        split.weights = Weights({**kept.tensors, **_tensors(blocks)})  # type: ignore[attr-defined]
    return split


def _tensors(blocks: Mapping[int, Block]) -> dict[str, Tensor]:
    """The weights of the dictionaries, by name."""
    own = [block.dictionary for block in blocks.values() if isinstance(block, FeatureBlock)]
    return {f"{one.prefix}.{key}": value for one in own for key, value in one.tensors().items()}


def transcoder(given: Dictionary, model: Inspectable) -> Dictionary:
    """The dictionary where the model is, as one by which an MLP is taken apart; raises
    DictionaryError for any other."""
    one = fitted(given, model)
    if one.reads not in READS or one.writes != "mlp_out" or one.decoder.ndim != 2:
        raise DictionaryError(
            f"the {one.kind.replace('_', ' ')} {one.prefix} reads {one.reads!r} and writes "
            f"{one.writes!r}; MLPs are taken apart by transcoders of one layer, which read "
            "'mlp_in' or 'resid_mid' and write 'mlp_out'"
        )
    return one.to(model.device, model.dtype)


def _known(dictionary: Dictionary, chosen: Sequence[int]) -> Sequence[int]:
    for number in chosen:
        if not 0 <= number < dictionary.n_features:
            raise DictionaryError(
                f"the dictionary {dictionary.prefix} has no feature {number}; it has "
                f"{dictionary.n_features:,}"
            )
    return chosen
