"""The nodes of an attribution graph, and their names."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["GraphNode"]


class GraphNode(NamedTuple):
    """A node of an attribution graph.

    ``kind`` is ``token`` (the embedding at a position), ``feature``, ``error`` (what an MLP writes
    beyond its features), ``rest`` (features that are not nodes of their own), ``bias`` (what is
    written whatever is read) or ``logit``. ``number`` is that of the feature or the token, and
    ``value`` an activation, or a logit. ``weight`` is what a logit counts in the target.
    """

    kind: str
    layer: int = -1
    position: int = -1
    number: int = -1
    value: float = 0.0
    weight: float = 0.0
    label: str = ""
    stage: str = ""  # of a bias, the letter of what writes it: a or m

    @property
    def name(self) -> str:
        """The name: ``m3.f417@12``, ``m3.error@12``, ``input@5``, ``a2.bias``, ``logits.42``."""
        if self.kind == "feature":
            return f"m{self.layer}.f{self.number}@{self.position}"
        if self.kind in ("error", "rest"):
            return f"m{self.layer}.{self.kind}@{self.position}"
        if self.kind == "token":
            return f"input@{self.position}"
        if self.kind == "bias":
            return f"{self.stage}{self.layer}.bias" if self.stage else "bias"
        return "logits" if self.number < 0 else f"logits.{self.number}"
