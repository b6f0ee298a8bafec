"""What a discovery is asked for: checked before any work, and recorded with the circuit."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

from circuitkit.data.batches import Dataset
from circuitkit.data.prompts import file_of
from circuitkit.engine.inputs import Data, Inputs
from circuitkit.engine.model import Model
from circuitkit.errors import ScoresError, UnknownNameError
from circuitkit.evaluation.hypotheses.equivalence import PROMPTS
from circuitkit.graph.scores import OF_NODES, RULES
from circuitkit.registry import unknown
from circuitkit.util.json_values import Json
from circuitkit.util.options import Bounds

__all__ = [
    "HALVES",
    "IN_SAMPLE",
    "METHOD",
    "OF_BUDGET",
    "OTHERS",
    "Asked",
    "Level",
    "Orders",
    "RULE",
    "Share",
    "fingerprint",
    "found_by",
    "is_in_sample",
    "prompts_for",
]

Level: TypeAlias = Literal["edge", "node"]
Share: TypeAlias = Annotated[float, Bounds(0, 1, above=True)]  # the whole model has 1
Orders: TypeAlias = Annotated[int, Bounds(2, 1_000)]  # one cannot agree or differ

METHOD = "eap_ig"  # where neither a method nor a budget is given
OF_BUDGET = "auto"  # where a budget is given, and no method
# How edges are ranked where no rule is given, under every corruption: under mean ablation ranking
# by magnitude is clearly better than by value, and under the others there is little between them.
RULE = "abs"

# On which prompts a circuit is measured.
HALVES = "the other half"
IN_SAMPLE = "in sample"
OTHERS = "other prompts"


@dataclass(frozen=True)
class Asked:
    """The settings of a discovery that are numbers, its rule and its level; None where nothing is
    asked for.

    Raises ScoresError where both a size and a faithfulness are asked for, and where edges are asked
    for of nodes, or nodes of edges, and UnknownNameError for an unknown rule; the functions that
    take the settings check each of them.
    """

    rule: str
    examples: int | None
    seed: int
    edges: int | None = None
    faithfulness: float | None = None
    verify: int | None = None
    orders: int | None = None
    batch_size: int | None = None
    memory: int | None = None
    agreement: float | None = None
    refine: int | None = None
    level: str = "edge"
    nodes: int | None = None
    test: bool = False

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise UnknownNameError(unknown("rule", self.rule, RULES))
        if self.size is not None and self.faithfulness is not None:
            raise ScoresError(
                f"give the number of {self.level}s or the faithfulness to reach, not both"
            )
        if self.level == "node":
            self._require_of_nodes()
        elif self.nodes is not None:
            raise ScoresError(
                "nodes are counted where circuits are made of nodes: give level='node' too "
                "(--level node)"
            )

    @property
    def size(self) -> int | None:
        """The number of edges, or of nodes, that the circuit is to have."""
        return self.nodes if self.level == "node" else self.edges

    def _require_of_nodes(self) -> None:
        """Raise ScoresError for what only edges can be asked."""
        if self.edges is not None:
            raise ScoresError("circuits of nodes are counted in nodes; give nodes= (--nodes)")
        if self.rule not in OF_NODES:
            raise ScoresError(
                f"the rule {self.rule} ranks edges; rank nodes by {' or '.join(OF_NODES)}"
            )
        for name in ("verify", "refine", "agreement"):
            if getattr(self, name) is not None:
                raise ScoresError(
                    f"{name} is of edges, and the level is node; leave it out (the method exact "
                    "measures every node)"
                )

    def require(self, model: Model) -> None:
        """Raise ScoresError where more edges or nodes are asked for than the model has."""
        wiring, noun = model.wiring, f"{self.level}s"
        total = wiring.n_edges if self.level == "edge" else len(wiring.writers) - 1
        if self.size is not None and self.size > total:
            raise ScoresError(
                f"{noun} is {self.size:,}, and {model.name} has {total:,} {noun}; give at most as "
                "many"
            )

    def record(self, seen: Inputs, measured: Inputs, given: bool) -> dict[str, Json]:
        """What a circuit says was asked for, and on what it was run, so that it can be replayed;
        ``given``: the prompts of the measurement were given apart."""
        model, data = seen.model, seen.data
        where = OTHERS if given else IN_SAMPLE if is_in_sample(seen, measured) else HALVES
        values = {
            key: getattr(self, key)
            for key in ("seed", "edges", "nodes", "verify", "refine", "orders")
        }
        numbers = {key: int(value) for key, value in values.items() if value is not None}
        shares = {key: getattr(self, key) for key in ("faithfulness", "agreement")}
        target = {key: float(value) for key, value in shares.items() if value is not None}
        return {
            **numbers, **target, **({"test": True} if self.test else {}),
            "measured_on": where, "measured": len(measured.data),
            "prompts": fingerprint(data, measured.data), "batch_size": data.batch_size,
            "dtype": str(model.dtype).removeprefix("torch."), "device": model.device.type,
        }  # fmt: skip


def found_by(
    seen: Inputs, measured: Inputs, method: str, asked: Asked, given: bool
) -> dict[str, Json]:
    """What a circuit says of how it was found; ``given``: the prompts of its measurement were."""
    return {
        "task": "own data", **seen.metadata(), "method": method, "rule": asked.rule,
        **({"level": "node"} if asked.level == "node" else {}),
        "asked": asked.record(seen, measured, given),
        **({"in_sample": True} if is_in_sample(seen, measured) else {}),
    }  # fmt: skip


def prompts_for(test: bool, examples: int | None, data: Data) -> int | None:
    """How many prompts each half has: where equivalence is tested and nothing else is asked for,
    as many as that needs; None for all of a file."""
    of_file = isinstance(data, str | os.PathLike) and file_of(os.fspath(data))
    return PROMPTS if test and examples is None and not of_file else examples


def is_in_sample(seen: Inputs, measured: Inputs) -> bool:
    """Whether the circuit is measured on prompts with which it was found, and no others."""
    found, new = (
        {example.fingerprint for example in inputs.data.examples} for inputs in (seen, measured)
    )
    return new <= found


def fingerprint(*data: Dataset) -> str:
    """A short hash of the examples: of their clean and corrupted tokens and their answers."""
    found = hashlib.sha256()
    for one in data:
        for example in one.examples:
            told: tuple[Json, ...]
            told = (example.clean, example.corrupt, example.correct, example.wrong)
            told += () if example.sequences is None else (example.sequences,)
            found.update(repr(told).encode())
    return found.hexdigest()[:16]
