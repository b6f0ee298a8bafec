"""Tasks by name: their prompts for discovery, and those that a discovery did not see."""

from __future__ import annotations

from dataclasses import replace

from circuitkit.data.batches import Tokenized
from circuitkit.data.prompts import Task
from circuitkit.data.tokens import TokenizerView
from circuitkit.errors import DataError
from circuitkit.registry import resolve

__all__ = ["draw", "held_out", "make_task"]


def make_task(
    name: str, model: Tokenized, n: int | None = 100, seed: int = 0, **settings: object
) -> Task:
    """The task of that name (with settings: ``ioi(corrupt='names')``, or a CSV or JSONL file), made
    of words that fit the model's tokenizer. Raises TaskFitError where they do not."""
    if model.tokenizer is None:
        raise DataError("the model has no tokenizer, so no task can be put to it; load one")
    if name.endswith((".csv", ".jsonl")):
        name = f"from_file(path={name!r})"
    made: Task = resolve("tasks", name)(TokenizerView(model.tokenizer), n=n, seed=seed, **settings)
    return replace(made, name=name)


def draw(task: str, model: Tokenized, n: int, seed: int) -> Task:
    """n prompts of the task, or all that a file has where it has fewer."""
    if task.endswith((".csv", ".jsonl")) or task.startswith("from_file"):
        made = make_task(task, model, n=None, seed=seed)
        return replace(made, prompts=made.prompts[:n])
    return make_task(task, model, n=n, seed=seed)


def held_out(task: str, model: Tokenized, n: int, seed: int, seen: int) -> Task:
    """n prompts of the task that a discovery on ``seen`` prompts with this seed did not see."""
    known = {p.clean for p in draw(task, model, max(1, 2 * seen), seed).prompts[:seen]}
    made = draw(task, model, n + seen, seed)
    fresh = [p for p in made.prompts if p.clean not in known]
    if not fresh:
        raise DataError(f"{task} has no prompts beyond the {seen} of the discovery; give more")
    return replace(made, prompts=tuple(fresh[:n]))
