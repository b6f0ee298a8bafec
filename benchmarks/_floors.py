"""The arithmetic of exact patching on a GPT-2: what runs from the patched place on multiply.

It is counted in plain forwards; a method that makes these runs, each by itself, needs no less.
"""

from __future__ import annotations

from circuitkit.models.transformer_lens import Transformer

__all__ = ["Floor"]


class Floor:
    """The multiplications of runs of ``tokens`` tokens of which those before ``start`` never change
    and only the last one is read; each method gives F, the multiplications of a plain forward with
    all logits being 1."""

    def __init__(self, model: Transformer, tokens: int, start: int) -> None:
        wiring, d = model.wiring, model.d_model
        self.layers, self.heads = wiring.layers, wiring.heads
        self.attention, self.mlp, self.port = 4 * d * d, 8 * d * d, d * d
        self.tokens, self.late = tokens, tokens - start
        self.plain = tokens * (self.layers * (self.attention + self.mlp) + d * model.d_vocab)

    def edge(self) -> float:
        """An edge, the mean of all: into heads by the output projection of their layer."""
        whole, number = 0.0, 0
        for layer in range(self.layers):
            n = self._read(layer)
            after, mlp = self._from(layer + 1, self.late), self.mlp * n
            for edges, own in (
                ((1 + layer * (self.heads + 1)) * 3 * self.heads, self.port * n + mlp),
                (1 + layer * (self.heads + 1) + self.heads, mlp),
            ):
                whole, number = whole + edges * (own + after), number + edges
        return whole / (number + 1 + self.layers * (self.heads + 1)) / self.plain

    def every_head(self) -> float:
        """All heads, and two plain runs."""
        whole = sum(
            self.heads * (self.port / self.heads + self.mlp) * self._read(layer)
            + self.heads * self._from(layer + 1, self.late)
            for layer in range(self.layers)
        )
        return (whole + self._two()) / self.plain

    def every_cell(self) -> float:
        """The residual stream at every layer and position, and two plain runs; from its own
        position on."""
        whole = sum(self._from(layer, n) for layer in range(self.layers)
                    for n in range(1, self.late + 1))  # fmt: skip
        return (whole + self._two()) / self.plain

    def _read(self, layer: int) -> int:
        """At how many positions a layer's output is run on."""
        return self.late if layer < self.layers - 1 else 1

    def _from(self, layer: int, n: int) -> float:
        """The layers from this one on, at n positions; of the last one keys and values there, and
        all else at the answer."""
        if layer >= self.layers:
            return 0.0
        last = 2 * self.port * n + 2 * self.port + self.mlp
        return (self.attention + self.mlp) * n * (self.layers - 1 - layer) + last

    def _two(self) -> float:
        return 2 * self.tokens * self.layers * (self.attention + self.mlp)
