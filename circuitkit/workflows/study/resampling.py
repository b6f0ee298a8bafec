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

__all__ = ["components", "resampled", "sampled"]

Found: TypeAlias = Mapping[tuple[str, str, str], Effects]


def sampled(
    context: StudyContext,
    drawn: Dataset,
    samples: Sequence[Dataset],
    admit: Callable[[Dataset], Dataset],
    resume: str | os.PathLike[str] | None,
) -> list[StudyContext]:
    """The same choices on every sample; on ``drawn`` it is the ``context`` itself. ``admit``
    chooses prompts of a sample, which is left out where it chooses none."""
    each: list[StudyContext] = []
    for sample in samples:
        if sample is drawn:
            each.append(context)
            continue
        try:
            data = replace(admit(sample), batch_size=context.data.batch_size)
        except EvaluationError:
            continue
        each.append(context.on(data, resume))
    return each


def components(parts: Sequence[Part]) -> list[Part]:
    """Those of the parts that are patched on every sample."""
    return [part for part in parts if part.name in COMPONENTS]


def resampled(
    contexts: Sequence[StudyContext], parts: Sequence[Part], effects: Found
) -> dict[tuple[str, str, str], tuple[Effects, ...]]:
    """The effects of the components on every sample, by part, corruption and metric."""
    own = components(parts)
    each = [context.effects(own) for context in contexts] if own else []
    keys = [key for key in effects if key[0] in COMPONENTS]
    return {key: tuple(found[key] for found in each) for key in keys if each}
