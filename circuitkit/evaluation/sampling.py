"""Disjoint samples of the prompts, on which the same choice is made again."""

from __future__ import annotations

import os
from dataclasses import replace

from circuitkit.data.batches import Dataset
from circuitkit.data.examples import Example
from circuitkit.data.prompts import file_of
from circuitkit.engine.inputs import Data, as_data
from circuitkit.engine.model import Model
from circuitkit.errors import CircuitkitError

__all__ = ["parts", "samples"]

LEAST = 2  # different prompts of a sample


def samples(
    model: Model, data: Data, own: Dataset, number: int, *, seed: int, memory: int | None = None
) -> tuple[Dataset, ...]:
    """So many disjoint samples of what ``own`` was drawn from: ``own`` and others of its size where
    there are as many prompts, else equal parts of all prompts that there are; none where these are
    too few, or one sample is asked for.

    Only a task's name, and a file of which ``own`` does not hold all, have more prompts than
    ``own``. Examples with the same clean tokens are in one sample.
    """
    if number < 2:
        return ()
    known = {example.clean for example in own.examples}
    drawn = _drawn(model, data, own, number, seed, memory)
    rest = tuple(example for example in drawn if example.clean not in known)
    size = len(own)
    if len(rest) >= (number - 1) * size:
        cuts = range(0, (number - 1) * size, size)
        return own, *(replace(own, examples=rest[cut : cut + size]) for cut in cuts)
    return parts(replace(own, examples=own.examples + rest), number)


def parts(data: Dataset, number: int) -> tuple[Dataset, ...]:
    """The examples in so many parts of about one size, those with the same clean tokens together;
    none where there are fewer than two different prompts for each part."""
    groups: dict[tuple[int, ...], list[Example]] = {}
    for example in data.examples:
        groups.setdefault(example.clean, []).append(example)
    if len(groups) < LEAST * number:
        return ()
    dealt: list[list[Example]] = [[] for _ in range(number)]
    for group in groups.values():
        min(dealt, key=len).extend(group)
    return tuple(replace(data, examples=tuple(own)) for own in dealt)


def _drawn(
    model: Model, data: Data, own: Dataset, number: int, seed: int, memory: int | None
) -> tuple[Example, ...]:
    """So many times as many prompts as ``own`` has, of a task that makes fewer half as many, and so
    on: to find out how many it makes takes long."""
    while isinstance(data, str | os.PathLike) and number > 1:
        try:
            wanted = number * len(own)
            return as_data(model, data, examples=wanted, seed=seed, memory=memory).examples
        except CircuitkitError:
            number = 1 if file_of(os.fspath(data)) else number // 2
    return ()
