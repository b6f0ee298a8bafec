"""The cells of a study: one sweep each, kept on disk when it is finished."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeAlias

import numpy as np
from jaxtyping import Float

from circuitkit.data.batches import Batch, Dataset
from circuitkit.engine.checkpoints import Journal, digest, identity
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
from circuitkit.util.progress import track
from circuitkit.workflows.study.records import Part

__all__ = ["StudyContext", "journal_of"]

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
    sample: str = ""  # which one it is, for the progress

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

    def on(self, data: Dataset, sample: str, resume: str | os.PathLike[str] | None) -> StudyContext:
        """The same choices on other prompts, with cells of their own."""
        journal = journal_of(self.model, data, self.direction, self.metric_names, resume)
        return replace(self, data=data, journal=journal, sample=sample)

    def effects(self, parts: Sequence[Part]) -> dict[tuple[str, str, str], Effects]:
        """The effects of every part, by corruption and metric."""
        found = {}
        for part in parts:
            work = partial(self._nodes, part)
            for (corruption, metric), own in self._each(part.name, work).items():
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
        if not self.model.wiring.mlp or (sizes is not None and not sizes):
            return {}
        found = self._each(f"windows {sizes} at {at}", partial(self._windows, sizes, at))
        return {by: _whole(flat) for by, flat in found.items()}

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
        found = self._each(label, partial(self._together, groups))
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
        metrics = dict(zip(self.metric_names, self.metrics, strict=True))
        main = metrics.get("logit_diff", self.metrics[0])
        one = replace(self.data, examples=self.data.examples[:1])
        first = replace(self, data=one, metrics=[main])
        found = first._each("first prompt", first._stream(self.data))
        tokens = tuple(map(self._spelt, one.examples[0].clean))
        return {c: own[0] for (c, _), own in found.items()}, tokens

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

    def _each(
        self, label: str, work: Callable[[Corruption], list[list[Effects]]]
    ) -> dict[By, list[Effects]]:
        """One cell for every corruption, with what it finds by each metric; cells that were
        finished earlier are taken up."""
        found: dict[By, list[Effects]] = {}
        title = f"{label}, {self.sample}" if self.sample else label
        for name, corruption in track(list(zip(self.names, self.corruptions, strict=True)), title):
            key = digest([label, name])
            kept = self.journal.get(key)
            own = None if kept is None else _unpacked(kept, len(self.metrics))
            if own is None:
                own = work(corruption)
                self.journal.put(key, _packed(own))
            found |= {(name, m): e for m, e in zip(self.metric_names, own, strict=True)}
        return found


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
