"""Programs in a small RASP, compiled to transformers whose true circuit is known exactly.

``compile_program(named("reverse"))`` is a model, ``named("reverse").data()`` are its prompts, and
``true_edges(model, data)`` is its truth; ``rotate``, ``distract``, ... make harder models of it.
"""

from __future__ import annotations

from circuitkit.models.decoder import Decoder
from circuitkit.truth.rasp.compiler import compile_program
from circuitkit.truth.rasp.language import (
    Aggregate,
    Map,
    Otherwise,
    Select,
    SelectorWidth,
    SequenceMap,
    evaluate,
    indices,
    tokens,
)
from circuitkit.truth.rasp.library import either, named, programs
from circuitkit.truth.rasp.program import Program
from circuitkit.truth.rasp.truth import Truth, redundant_edges, structural_edges, true_edges
from circuitkit.truth.rasp.variants import compress, distract, rotate, soften, split

__all__ = [
    "Aggregate",
    "Decoder",
    "Map",
    "Otherwise",
    "Program",
    "Select",
    "SelectorWidth",
    "SequenceMap",
    "Truth",
    "compile_program",
    "compress",
    "distract",
    "either",
    "evaluate",
    "indices",
    "named",
    "programs",
    "redundant_edges",
    "rotate",
    "soften",
    "split",
    "structural_edges",
    "tokens",
    "true_edges",
]


def __dir__() -> list[str]:
    return list(__all__)
