"""The components of a study, patched on other samples of the prompts under the same choices."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

from circuitkit.data.batches import Dataset
from circuitkit.errors import EvaluationError
from circuitkit.patching.effects import Effects
from circuitkit.workflows.study.cells import StudyContext
from circuitkit.workflows.study.records import COMPONENTS, Part

__all__ = ["resampled"]

Found: TypeAlias = Mapping[tuple[str, str, str], Effects]


def resampled(
    context: StudyContext,
    parts: Sequence[Part],
    effects: Found,
    drawn: Dataset,
    samples: Sequence[Dataset],
    admit: Callable[[Dataset], Dataset],
    resume: str | os.PathLike[str] | None,
) -> dict[tuple[str, str, str], tuple[Effects, ...]]:
    """The effects of the components on every sample, by part, corruption and metric; those of
    ``drawn`` are known. ``admit`` chooses prompts of a sample, which is left out where it chooses
    none."""
    own = [part for part in parts if part.name in COMPONENTS]
    each: list[Found] = []
    for number, sample in enumerate(samples if own else (), start=1):
        if sample is drawn:
            each.append(effects)
            continue
        try:
            data = replace(admit(sample), batch_size=context.data.batch_size)
        except EvaluationError:
            continue
        label = f"sample {number} of {len(samples)}"
        each.append(context.on(data, label, resume).effects(own))
    keys = [key for key in effects if key[0] in COMPONENTS]
    return {key: tuple(found[key] for found in each) for key in keys if each}
