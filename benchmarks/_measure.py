"""How work is timed and weighed: CPU seconds in one thread, or wall seconds on a GPU."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from circuitkit.data.batches import Batch
from circuitkit.models.transformer_lens import Transformer

__all__ = ["Timer", "Cell", "Table", "largest_difference"]

Cell = str | float | int


@dataclass(frozen=True)
class Table:
    """One section of the report; ``note`` says what was measured how often, and extrapolated."""

    title: str
    note: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]

    def markdown(self) -> str:
        """The table with its title and note."""
        lines = [f"## {self.title}", "", self.note, ""] if self.note else [f"## {self.title}", ""]
        right = [any(not isinstance(row[i], str) for row in self.rows)
                 for i in range(len(self.head))]  # fmt: skip
        lines += [
            f"| {' | '.join(self.head)} |",
            f"|{'|'.join('---:' if number else '---' for number in right)}|",
            *(f"| {' | '.join(map(_shown, row))} |" for row in self.rows),
            "",
        ]
        return "\n".join(lines)


def _shown(cell: Cell) -> str:
    if isinstance(cell, str):
        return cell
    if isinstance(cell, int) or abs(cell) >= 1000:
        return f"{cell:,.0f}"
    return f"{cell:.3g}"


@dataclass(frozen=True)
class Timer:
    """Where and how often work is timed; ``repeat`` is for work that takes about a second."""

    device: str
    dtype: torch.dtype
    threads: int
    repeat: int
    seed: int
    transformer_lens: bool

    @property
    def unit(self) -> str:
        """What ``seconds`` gives."""
        return "CPU s" if self.device == "cpu" else "wall s"

    def seconds(self, work: Callable[[], Any], repeat: int | None = None) -> float:
        """The least seconds of several runs: process CPU time, and on a GPU wall time."""
        best = float("inf")
        for _ in range(repeat or self.repeat):
            start = self._now()
            work()
            best = min(best, self._now() - start)
        return best

    def _now(self) -> float:
        if self.device == "cpu":
            return time.process_time()
        torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def plain(self, model: Transformer, batch: Batch) -> float:
        """F: the seconds of one plain forward of the batch, with all logits."""

        def forward() -> None:
            with torch.no_grad():
                model.bridge(batch.clean)

        forward()
        return self.seconds(forward, max(5, self.repeat))

    def held(self) -> float:
        """The MiB that are held now: resident memory (Linux), or the GPU's."""
        if self.device != "cpu":
            return torch.cuda.memory_allocated(self.device) / 2**20
        return _resident("VmRSS")

    def memory(self, work: Callable[[], Any], held: float) -> float:
        """The peak MiB of the work above what was held before."""
        if self.device != "cpu":
            torch.cuda.reset_peak_memory_stats(self.device)
            work()
            return torch.cuda.max_memory_allocated(self.device) / 2**20 - held
        try:
            Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
        except OSError:
            return float("nan")
        work()
        return _resident("VmHWM") - held


def _resident(key: str) -> float:
    """A line of Linux's memory account in MiB; nan elsewhere."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(x.split()[1]) / 1024 for x in lines if x.startswith(key)), float("nan"))


def largest_difference(found: Any, expected: Any) -> tuple[float, float]:
    """The largest difference as a part of the largest expected magnitude, and that magnitude."""
    found = torch.as_tensor(found).double().cpu()
    expected = torch.as_tensor(expected).double().cpu()
    largest = float(expected.abs().max())
    return float((found - expected).abs().max()) / largest, largest
