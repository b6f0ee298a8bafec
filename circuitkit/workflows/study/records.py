"""What a study has measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType

import numpy as np
from jaxtyping import Float

from circuitkit.evaluation.robustness import Robustness
from circuitkit.patching.detection import Detection, detect
from circuitkit.patching.effects import Effects
from circuitkit.patching.windows import Windows
from circuitkit.util.json_values import Json

__all__ = ["COMPONENTS", "KINDS", "Part", "Records"]

KINDS = MappingProxyType({"z": "heads", "mlp_out": "MLPs"})
COMPONENTS = tuple(KINDS)  # the nodes among which components are detected


@dataclass(frozen=True)
class Part:
    """A kind of nodes, each patched alone, and the tokens at which: see ``patch_nodes``."""

    nodes: str
    at: str | tuple[str, ...] = "all"

    @property
    def name(self) -> str:
        """``z``, ``mlp_out@subject_last``, ``resid_pre@S1,S2``."""
        where = self.at if isinstance(self.at, str) else ",".join(self.at)
        return self.nodes if where == "all" else f"{self.nodes}@{where}"


@dataclass(frozen=True)
class Records:
    """What activation patching finds in one model and task, by corruption and metric.

    ``effects`` are those of every part, corruption and metric, by their names; ``clean`` and
    ``corrupted`` the metrics of every example in the runs between which is patched; ``windows`` by
    corruption and metric; ``prompt`` the residual stream of the first prompt at every token, by
    corruption; ``attention`` of ``watched`` heads to ``spans``, in the clean run (``clean``) and
    under each corruption; ``restored`` what groups of heads do when they are patched together;
    ``circuits`` how circuits change with the same choices. ``roles`` is the reference, if there is
    one. ``again`` are the effects of components on disjoint samples of the prompts, in which the
    shown one may be.
    """

    about: Mapping[str, Json]
    metrics: tuple[str, ...]
    corruptions: tuple[str, ...]
    parts: tuple[Part, ...]
    clean: Mapping[str, Float[np.ndarray, " examples"]]
    corrupted: Mapping[tuple[str, str], Float[np.ndarray, " examples"]]
    effects: Mapping[tuple[str, str, str], Effects]
    windows: Mapping[tuple[str, str], Windows] = field(default_factory=dict)
    prompt: Mapping[str, Effects] = field(default_factory=dict)
    tokens: tuple[str, ...] = ()
    watched: tuple[str, ...] = ()
    spans: tuple[str, ...] = ()
    attention: Mapping[str, Float[np.ndarray, "heads spans examples"]] = field(default_factory=dict)
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    restored: Mapping[tuple[str, str], Effects] = field(default_factory=dict)
    circuits: Robustness | None = None
    roles: Mapping[str, str] = field(default_factory=dict)
    threshold: float = 2.0
    again: Mapping[tuple[str, str, str], tuple[Effects, ...]] = field(default_factory=dict)

    @cached_property
    def detections(self) -> dict[tuple[str, str, str], Detection]:
        """What each corruption and metric finds, of each kind of components (heads and MLPs apart,
        for their effects differ in size)."""
        return {
            key: detect(found, self.threshold)
            for key, found in self.effects.items()
            if key[0] in self.kinds
        }

    @cached_property
    def redetections(self) -> dict[tuple[str, str, str], tuple[Detection, ...]]:
        """What each choice finds on each sample; empty where there is none."""
        return {
            key: tuple(detect(found, self.threshold) for found in self.again.get(key, ()))
            for key in self.detections
        }

    @property
    def kinds(self) -> tuple[str, ...]:
        """The parts in which components are detected."""
        return tuple(p.name for p in self.parts if p.name in COMPONENTS and p.name not in self.few)

    @property
    def few(self) -> dict[str, int]:
        """The parts with too few components for any to be found, each with their number: of n, none
        lies further than √(n − 1) standard deviations from the mean."""
        sizes = {
            key[0]: found.mean.size for key, found in self.effects.items() if key[0] in COMPONENTS
        }
        return {part: n for part, n in sizes.items() if (n - 1) ** 0.5 < self.threshold}

    @property
    def main(self) -> str:
        """The logit difference where it is among the metrics, else the first."""
        return "logit_diff" if "logit_diff" in self.metrics else self.metrics[0]
