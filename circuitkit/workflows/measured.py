"""What every discovery says of its circuit: on which prompts it was measured, and how faithful it
is beside random ones."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np

from circuitkit.evaluation.faithfulness import Evaluation
from circuitkit.graph.circuit import Circuit

__all__ = ["Measured"]


class Measured(ABC):
    """A circuit with its faithfulness, and that of random circuits."""

    circuit: Circuit
    evaluation: Evaluation
    null: tuple[Evaluation, ...]

    @property
    def in_sample(self) -> bool:
        """Whether the faithfulness was measured on the prompts of the discovery themselves."""
        return bool(self.circuit.graph.get("in_sample"))

    @property
    def random(self) -> float:
        """The mean faithfulness of the random circuits."""
        return float(np.mean([each.faithfulness for each in self.null]))

    @abstractmethod
    def save(self, folder: str | os.PathLike[str], *, overwrite: bool = False) -> list[Path]:
        """Write the files of the discovery into a folder; returns the files."""

    def draw(
        self, path: str | os.PathLike[str], *, format: str | None = None, **style: object
    ) -> Path:
        """Draw the circuit under a title that says how faithful it is, as ``.svg``, ``.pdf`` or
        ``.png``, or as an interactive page (``.html``); one between places along the words of a
        prompt. Returns the path. ``style`` and the errors are those of ``Circuit.draw``."""
        return self.circuit.draw(path, format=format, **{"title": self._title(), **style})

    def _title(self) -> str:
        """What a picture of the circuit is called."""
        about, value = self.circuit.graph, self.evaluation.faithfulness
        sample = ", in sample" if self.in_sample else ""
        return f"{about['task']} on {about['model']}: faithfulness {value:.2f}{sample}"

    def _prompts(self) -> str:
        """On which prompts the faithfulness was measured."""
        n = len(self.evaluation.circuit)
        noun = "prompt" if n == 1 else "prompts"
        return f"{n} {noun}, in sample" if self.in_sample else f"{n} unseen {noun}"
