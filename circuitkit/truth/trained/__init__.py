"""Transformers that were trained to be a causal model, edge by edge: truth with headroom.

``trained.load(path)`` is one, with its prompts and the edges that are its truth;
``trained.train(causal, shape)`` makes one.
"""

from __future__ import annotations

from circuitkit.truth.trained.acceptance import ASKED
from circuitkit.truth.trained.causal import Causal, Link
from circuitkit.truth.trained.files import SUFFIX, Pairs, Trained, load
from circuitkit.truth.trained.library import causal_models
from circuitkit.truth.trained.shapes import FAMILIES, Shape
from circuitkit.truth.trained.training import Attempt, Recipe, train

__all__ = [
    "ASKED",
    "FAMILIES",
    "SUFFIX",
    "Attempt",
    "Causal",
    "Link",
    "Pairs",
    "Recipe",
    "Shape",
    "Trained",
    "causal_models",
    "load",
    "train",
]
