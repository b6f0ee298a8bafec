"""A run in which features stand for what MLPs write: which are active, and what they leave over."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from circuitkit.engine.inspection import Inspectable
from circuitkit.engine.model import Context
from circuitkit.engine.numerics import wide
from circuitkit.errors import DictionaryError
from circuitkit.features.dictionaries import Active, Dictionary
from circuitkit.features.pulls import FrozenRun, Linear, Pulled
from circuitkit.features.sites import fitted

__all__ = ["READS", "Group", "Replaced"]

READS = ("mlp_in", "resid_mid")


@dataclass(frozen=True)
class Group:
    """The features of a layer that are active: sorted by their tokens. ``written`` is what each
    writes with its activation, by the layer in which it does."""

    dictionary: Dictionary
    active: Active
    written: Mapping[int, Float[Tensor, "n d"]]

    def some(self, kept: Tensor) -> Group:
        """Those features alone."""
        active = Active(*(own[kept] for own in self.active))
        return Group(
            self.dictionary, active, {layer: own[kept] for layer, own in self.written.items()}
        )


@dataclass(frozen=True)
class Replaced:
    """A frozen run whose MLPs are the sum of features, constants, errors and, where some features
    are not nodes of their own, what these write (``rest``, by layer)."""

    run: FrozenRun
    groups: Mapping[int, Group]
    constants: Mapping[int, Float[Tensor, "p d"]]  # by the number of the stage
    errors: Mapping[int, Float[Tensor, "p d"]]  # by layer
    rest: Mapping[int, Float[Tensor, "p d"]]
    unexplained: Mapping[int, float]

    @classmethod
    def of(
        cls, model: Inspectable, context: Context, dictionaries: Iterable[Dictionary], norms: str
    ) -> Replaced:
        """The run of a prompt; raises DictionaryError where a dictionary does not fit."""
        by_layer = _fitting(model, dictionaries)
        skips = {
            layer: Linear(own.skip, own.reads == "mlp_in")
            for layer, own in by_layer.items()
            if own.skip is not None
        }
        run = FrozenRun(model, context, skips, norms)
        with torch.no_grad():
            groups = {layer: _active(run, own) for layer, own in by_layer.items()}
            return cls._split(run, groups)

    @classmethod
    def _split(cls, run: FrozenRun, groups: Mapping[int, Group]) -> Replaced:
        constants, errors, unexplained = dict(run.constants), {}, {}
        for stage in run.mlps():
            layer, output = stage.layer, run.outputs[stage.layer]
            left, skipped = output.clone(), run.skipped(layer)
            left = left if skipped is None else left - skipped
            if layer in groups:
                bias = groups[layer].dictionary.bias
                constants[stage.index] = constants[stage.index] + bias
                left -= bias
            writing = [group for group in groups.values() if layer in group.written]
            for group in writing:
                left.index_add_(0, group.active.tokens, -group.written[layer])
            errors[layer] = left
            spread = wide(output - output.mean(0)).square().sum().clamp(min=1e-30)
            share = float(wide(left).square().sum() / spread)
            unexplained[layer] = share if writing else 1.0
        return cls(run, groups, constants, errors, {}, unexplained)

    def strongest(self, number: int, gradients: Pulled) -> Replaced:
        """The same, in which so many features, those with the largest |effect| by these gradients,
        are nodes of their own."""
        sizes = {layer: self.effects(layer, gradients).abs() for layer in self.groups}
        whole = torch.cat([own.cpu() for own in sizes.values()])
        if len(whole) <= number:
            return self
        least = whole.sort(descending=True).values[number - 1]
        rest = {layer: torch.zeros_like(own) for layer, own in self.errors.items()}
        kept = {}
        for layer, group in self.groups.items():
            stays = sizes[layer] >= least
            kept[layer], other = group.some(stays), group.some(~stays)
            for target, written in other.written.items():
                rest[target].index_add_(0, other.active.tokens, written)
        return Replaced(self.run, kept, self.constants, self.errors, rest, self.unexplained)

    def effects(self, layer: int, gradients: Pulled) -> Float[Tensor, " n"]:
        """What each feature of a layer adds to the target, by these gradients."""
        group = self.groups[layer]
        found = torch.zeros_like(wide(group.active.values))
        for stage in self.run.mlps():
            if stage.layer in group.written:
                steep = gradients[stage.index][0, group.active.tokens]
                found = found + (wide(steep) * wide(group.written[stage.layer])).sum(-1)
        return found


def _fitting(model: Inspectable, dictionaries: Iterable[Dictionary]) -> dict[int, Dictionary]:
    """The dictionaries by layer, where the model is; raises DictionaryError where one is not of an
    MLP, or two are of one."""
    found: dict[int, Dictionary] = {}
    for given in dictionaries:
        one = fitted(given, model)
        if one.reads not in READS or one.writes != "mlp_out":
            raise DictionaryError(
                f"the dictionary {one.prefix} reads {one.reads!r} and writes {one.writes!r}; a "
                "prompt is traced through transcoders, which read 'mlp_in' or 'resid_mid' and "
                "write 'mlp_out'"
            )
        if one.layer in found:
            raise DictionaryError(f"two dictionaries read in layer {one.layer}; give one a layer")
        found[one.layer] = one.to(model.device, model.dtype)
    if not found:
        raise DictionaryError("there are no dictionaries; give the transcoders of a model")
    return dict(sorted(found.items()))


def _active(run: FrozenRun, dictionary: Dictionary) -> Group:
    """A dictionary's features that are active in a run."""
    behind = dictionary.reads == "mlp_in"
    active = dictionary.active((run.readings if behind else run.residuals)[dictionary.layer])
    rows = dictionary.decoder_rows(active.features)
    rows = rows if rows.ndim == 3 else rows[:, None]
    written = {
        layer: active.values[:, None] * rows[:, i] for i, layer in enumerate(dictionary.targets)
    }
    return Group(dictionary, active, written)
