"""Features of a model: dictionaries that take what a component reads or writes apart, and how they
are read from files and trained."""

from __future__ import annotations

from circuitkit.features.describing import Feature, describe, read_labels
from circuitkit.features.dictionaries import Active, Dictionary
from circuitkit.features.jacobian import JacobianSparsity, jacobian_sparsity
from circuitkit.features.loading import load, save
from circuitkit.features.quality import Carried, carried_by_features
from circuitkit.features.splitting import split_as, split_into_features, split_into_neurons
from circuitkit.features.texts import Texts, read_texts

__all__ = [
    "Active",
    "Carried",
    "Dictionary",
    "Feature",
    "JacobianSparsity",
    "Texts",
    "carried_by_features",
    "describe",
    "jacobian_sparsity",
    "load",
    "read_labels",
    "read_texts",
    "save",
    "split_as",
    "split_into_features",
    "split_into_neurons",
]


def __dir__() -> list[str]:
    return list(__all__)
