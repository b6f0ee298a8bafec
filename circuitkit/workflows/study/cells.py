"""The cells of a study: one sweep each, kept on disk when it is finished."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeAlias

import numpy as np
from jaxtyping import Float

from circuitkit.data.batches import Batch, Dataset
from circuitkit.engine.checkpoints import Journal, digest, identity
from circuitkit.engine.dealing import Task, dealt
from circuitkit.engine.metric import Corruption, Metric
from circuitkit.engine.model import Activations, Model
from circuitkit.errors import CircuitkitError
from circuitkit.evaluation.faithfulness import measure_all
from circuitkit.patching.attention import attention_to
from circuitkit.patching.effects import Effects, as_arrays, from_arrays
from circuitkit.patching.joint import patch_together
from circuitkit.patching.nodes import patch_nodes
from circuitkit.patching.windows import Windows, patch_windows
from circuitkit.registry import name_of
from circuitkit.util.progress import counting
from circuitkit.workflows.study.records import Part

__all__ = ["Cell", "StudyContext", "finish", "journal_of"]

VERSION = 2  # of the cells on disk
By: TypeAlias = tuple[str, str]  # the names of a corruption and a metric


@dataclass(frozen=True)
class StudyContext:
    """What all cells of a study share."""

    model: Model
    data: Dataset
    metrics: Sequence[Metric]
    corruptions: Sequence[Corruption]
    direction: str
    journal: Journal
    known: dict[str, list[list[Effects]]] = field(default_factory=dict)  # cells that are finished

    @property
    def names(self) -> tuple[str, ...]:
        """The corruptions' names."""
        return tuple(map(name_of, self.corruptions))

    @property
    def metric_names(self) -> tuple[str, ...]:
        """The metrics' names."""
        return tuple(map(name_of, self.metrics))

    def plain(
        self,
    ) -> tuple[dict[str, Float[np.ndarray, " examples"]], dict[By, Float[np.ndarray, " examples"]]]:
        """Each metric in the clean run, and by corruption in the corrupted one; raises OutputError
        where the journal has others."""
        clean, corrupted = {}, {}
        for name, corruption in zip(self.names, self.corruptions, strict=True):
            values = np.array(measure_all(self.model, [], self.data, self.metrics, corruption))
            self._recognise(digest(["plain", name]), values)
            for metric, (full, nothing) in zip(self.metric_names, values, strict=True):
                clean[metric], corrupted[name, metric] = full, nothing
        return clean, corrupted

    def _recognise(self, key: str, now: np.ndarray) -> None:
        kept = self.journal.get(key)
        if kept is None:
            self.journal.put(key, {"values": now})
        else:
            self.journal.recognise(self.model, kept["values"], now, least=1.0)

    def on(self, data: Dataset, resume: str | os.PathLike[str] | None) -> StudyContext:
        """The same choices on other prompts, with cells of their own."""
        journal = journal_of(self.model, data, self.direction, self.metric_names, resume)
        return replace(self, data=data, journal=journal, known={})

    # -- what is patched ---------------------------------------------------------------------------
    def first_cells(
        self, parts: Sequence[Part], sizes: Sequence[int] | None, at: str
    ) -> list[Cell]:
        """The cells of every part, of the first prompt and of the windows: all that depends on no
        other cell."""
        return [
            *self.part_cells(parts), *self._prompt_cells(),
            *(self._window_cells(sizes, at) if self._has_windows(sizes) else ()),
        ]  # fmt: skip

    def part_cells(self, parts: Sequence[Part]) -> list[Cell]:
        """The cells of every part."""
        return [cell for part in parts for cell in self._cells(part.name, self._nodes, part)]

    def effects(self, parts: Sequence[Part]) -> dict[tuple[str, str, str], Effects]:
        """The effects of every part, by corruption and metric."""
        finish(self.part_cells(parts))
        found = {}
        for part in parts:
            cells = self._cells(part.name, self._nodes, part)
            for (corruption, metric), own in self._each(cells).items():
                found[part.name, corruption, metric] = own[0]
        return found

    def _nodes(self, part: Part, corruption: Corruption) -> list[list[Effects]]:
        found = patch_nodes(
            self.model, part.nodes, self.data, self.metrics, corruption, at=part.at,
            direction=self.direction,
        )  # fmt: skip
        return [[effects] for effects in found]

    def windows(self, sizes: Sequence[int] | None, at: str) -> dict[By, Windows]:
        """The windows of MLPs; none where the model has no MLPs."""
        if not self._has_windows(sizes):
            return {}
        found = self._each(self._window_cells(sizes, at))
        return {by: _whole(flat) for by, flat in found.items()}

    def _has_windows(self, sizes: Sequence[int] | None) -> bool:
        return self.model.wiring.mlp and (sizes is None or bool(sizes))

    def _window_cells(self, sizes: Sequence[int] | None, at: str) -> list[Cell]:
        return self._cells(f"windows {sizes} at {at}", self._windows, sizes, at)

    def _windows(
        self, sizes: Sequence[int] | None, at: str, corruption: Corruption
    ) -> list[list[Effects]]:
        found = patch_windows(
            self.model, "mlp_out", self.data, self.metrics, corruption, sizes=sizes, at=at,
            direction=self.direction,
        )  # fmt: skip
        return [[*own.joint.values(), *own.summed.values()] for own in found]

    def restored(self, groups: Mapping[str, Sequence[str]]) -> dict[By, Effects]:
        """What each group does when it is patched together."""
        if not groups:
            return {}
        label = json.dumps(["together", {name: list(own) for name, own in groups.items()}])
        found = self._each(self._cells(label, self._together, groups))
        return {by: own[0] for by, own in found.items()}

    def _together(
        self, groups: Mapping[str, Sequence[str]], corruption: Corruption
    ) -> list[list[Effects]]:
        found = patch_together(
            self.model, groups, self.data, self.metrics, corruption, direction=self.direction
        )
        return [[effects] for effects in found]

    def prompt(self) -> tuple[dict[str, Effects], tuple[str, ...]]:
        """The residual stream of the first prompt at every token, by corruption, judged by the
        logit difference or else the first metric; and the tokens."""
        found = self._each(self._prompt_cells())
        tokens = tuple(map(self._spelt, self.data.examples[0].clean))
        return {c: own[0] for (c, _), own in found.items()}, tokens

    def _prompt_cells(self) -> list[Cell]:
        metrics = dict(zip(self.metric_names, self.metrics, strict=True))
        main = metrics.get("logit_diff", self.metrics[0])
        one = replace(self.data, examples=self.data.examples[:1])
        first = replace(self, data=one, metrics=[main])
        return first._cells("first prompt", first._stream(self.data))

    def _spelt(self, token: int) -> str:
        tokenizer = self.model.tokenizer
        return str(token) if tokenizer is None else tokenizer.decode([token])

    def _stream(self, everything: Dataset) -> Callable[[Corruption], list[list[Effects]]]:
        """The residual stream at every token; corruptions are prepared on all prompts (averages, σ,
        partners), whichever they are used on."""

        def work(corruption: Corruption) -> list[list[Effects]]:
            def prepared(model: Model, _: Dataset) -> Callable[[Batch], list[Activations]]:
                return corruption(model, everything)

            prepared.__name__ = name_of(corruption)
            return [
                patch_nodes(
                    self.model, "resid_pre", self.data, self.metrics, prepared, at="positions",
                    direction=self.direction,
                )
            ]  # fmt: skip

        return work

    def attention(
        self, heads: Sequence[str], spans: Sequence[str]
    ) -> dict[str, Float[np.ndarray, "heads spans examples"]]:
        """How much the heads look from the end to each span, in the clean run (``clean``) and under
        each corruption."""
        if not heads or not spans:
            return {}
        model, data = self.model, self.data
        under = {
            name_of(c): attention_to(model, heads, data, c, at=spans).values
            for c in self.corruptions
        }
        return {"clean": attention_to(model, heads, data, at=spans).values, **under}

    def _cells(
        self, label: str, work: Callable[..., list[list[Effects]]], *settings: object
    ) -> list[Cell]:
        """One cell for every corruption."""
        named = zip(self.names, self.corruptions, strict=True)
        return [
            Cell(self, digest([label, name]), name, partial(work, *settings, corruption))
            for name, corruption in named
        ]

    def _each(self, cells: Sequence[Cell]) -> dict[By, list[Effects]]:
        """What the cells find, by corruption and metric."""
        finish(cells)
        return {
            (cell.corruption, metric): found
            for cell in cells
            for metric, found in zip(cell.context.metric_names, self.known[cell.key], strict=True)
        }


@dataclass(frozen=True)
class Cell:
    """One sweep under one corruption, which finds the effects by every metric."""

    context: StudyContext
    key: str
    corruption: str
    work: Callable[[], list[list[Effects]]]

    def task(self) -> Task:
        """The cell as a block."""
        return Task(self.key, lambda: _packed(self.work()), journal=self.context.journal)


def finish(cells: Sequence[Cell]) -> None:
    """Do the cells that are not known yet, which are dealt to the processes; those that were
    finished earlier are taken up."""
    missing = [cell for cell in cells if cell.key not in cell.context.known]
    if not missing:
        return
    tasks = [cell.task() for cell in missing]
    with counting(len(missing), "study", "cell") as count:
        blocks = dealt(tasks, missing[0].context.journal, count)
        for cell, block in zip(missing, blocks, strict=True):
            found = _unpacked(block, len(cell.context.metrics))
            if found is None:  # what another version has kept
                found = cell.work()
                cell.context.journal.put(cell.key, _packed(found))
            cell.context.known[cell.key] = found


# -- cells on disk ---------------------------------------------------------------------------------
def journal_of(
    model: Model,
    data: Dataset,
    direction: str,
    metrics: Sequence[str],
    resume: str | os.PathLike[str] | None,
) -> Journal:
    """The finished cells of a study of these prompts in this directory."""
    work = {**identity(model, data), "format": "circuitkit.study", "version": VERSION}
    return Journal(resume, {**work, "direction": direction, "metrics": list(metrics)})


def _packed(found: Sequence[Sequence[Effects]]) -> dict[str, np.ndarray]:
    """What is found by each metric, as arrays."""
    return {
        f"{i}.{j}.{name}": array
        for i, own in enumerate(found)
        for j, one in enumerate(own)
        for name, array in as_arrays(one).items()
    }


def _unpacked(arrays: Mapping[str, np.ndarray], metrics: int) -> list[list[Effects]] | None:
    """What was packed of so many metrics; None where this is something else, such as a cell of
    another version."""
    parts: dict[str, dict[str, np.ndarray]] = {}
    for name, array in arrays.items():
        place, _, part = name.rpartition(".")
        parts.setdefault(place, {})[part] = array
    each, over = divmod(len(parts), metrics)
    places = [[f"{i}.{j}" for j in range(each)] for i in range(metrics)]
    if over or not each or parts.keys() != {one for own in places for one in own}:
        return None
    try:
        return [[from_arrays(parts[place]) for place in own] for own in places]
    except CircuitkitError:
        return None


def _whole(flat: Sequence[Effects]) -> Windows:
    """The windows of one metric, from the joint effects of each size and then the sums."""
    half = len(flat) // 2
    sizes = [_size(effects) for effects in flat[:half]]
    joint, summed = (dict(zip(sizes, own, strict=True)) for own in (flat[:half], flat[half:]))
    return Windows(joint, summed)


def _size(effects: Effects) -> int:
    """How many layers the windows hold: ``3-5`` are three."""
    first, _, last = effects.axes["window"][0].partition("-")
    return int(last or first) - int(first) + 1
