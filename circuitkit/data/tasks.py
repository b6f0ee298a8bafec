"""Tasks by name, or from a file."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

from circuitkit.data.batches import Tokenized
from circuitkit.data.prompts import Task, file_of, is_file
from circuitkit.data.tokens import TokenizerView, view
from circuitkit.errors import ArgumentError
from circuitkit.registry import bind, name_of, resolve, same_name
from circuitkit.util.options import Count, Seed, check

__all__ = ["draw", "make_task", "shuffled"]

T = TypeVar("T")

ORDER = "the order is make_task(name, model, n, seed)"


def make_task(
    name: str | os.PathLike[str],
    model: Tokenized,
    n: int | None = None,
    seed: int = 0,
    **settings: object,
) -> Task:
    """The prompts of a task, made of words that are single tokens of the model.

    Args:
        name: The name of a task, in upper or lower case (``ck.list_tasks()``), which may hold
            settings: ``"ioi(corrupt='names')"``; a CSV, TSV, JSON, JSONL or Parquet file (see
            ``ck.tasks.from_file``), or ``-`` for standard input; or ``path/to/mine.py:name``.
        model: The model whose tokenizer decides which words fit.
        n: The number of prompts; None for 100, or for all that a file has.
        seed: The seed with which prompts are drawn; the same seed gives the same prompts.
        **settings: The task's own settings, such as ``corrupt="names"`` of ``ioi``.

    Returns:
        A ``Task`` with ``n`` different prompts.

    Raises:
        ArgumentError: for arguments in another order, or of another kind, and for settings that the
            task does not allow.
        UnknownNameError: for an unknown task or setting, with the nearest one.
        TaskFitError: if the tokenizer splits the words that the task needs.
        DataError: if the model has no tokenizer, or if there are fewer than ``n`` prompts.

    Example:
        >>> task = ck.make_task("ioi", model, n=20)
        >>> print(task)
        ioi: 20 prompts, metric logit_diff (Wang et al. 2023, arXiv:2211.00593)
        >>> print(task[0])
        'Yesterday Lauren and Philip met at the library, where Lauren sold a cake to' -> ...
        >>> ck.make_task("ioi", model, n=20, corrupt="names").name
        "ioi(corrupt='names')"
    """
    called = _called(name)
    words = _words(model, called)
    check("n", n, Count | None, "make_task")
    check("seed", seed, Seed, "make_task")
    head = called.partition("(")[0]
    given = resolve("tasks", called)
    bound = bind(head, given, settings) if settings else given
    made: Task = bound(words, **({} if n is None else {"n": n}), seed=seed)
    name = _with_settings(head, bound) if settings else called
    return replace(made, name=name, settings={**made.settings, "seed": seed})


def draw(task: str, model: Tokenized, n: int | None, seed: int) -> Task:
    """n prompts of the task; of a file as many of its prompts, shuffled by the seed, all that it
    has if they are fewer or if n is None."""
    if file_of(task):
        made = make_task(task, model, n=None, seed=seed)
        settings = {**made.settings, "shuffled": True}
        return replace(made, prompts=shuffled(made.prompts, seed)[:n], settings=settings)
    return make_task(task, model, n=n, seed=seed)


def shuffled(items: Sequence[T], seed: int) -> tuple[T, ...]:
    """The items in an order that depends on the seed and on how many they are."""
    return tuple(random.Random(seed).sample(items, len(items)))


def _called(name: object) -> str:
    """The task's name with its settings, as results record it."""
    if not isinstance(name, str | os.PathLike):
        raise ArgumentError(
            f"the first argument is of type {type(name).__name__}, not a task's name; {ORDER}"
        )
    text = os.fspath(name)
    text = text if os.path.isfile(text) else text.strip()
    if isinstance(name, os.PathLike) or is_file(text):
        return f"from_file(path={text!r})"
    head, bracket, rest = text.partition("(")
    return f"{same_name('tasks', head)}{bracket}{rest}"


def _words(model: object, task: str) -> TokenizerView:
    """The model's tokenizer; raises for what is not a model, or has no tokenizer."""
    if not isinstance(model, Tokenized):
        what = repr(model) if isinstance(model, str) else f"of type {type(model).__name__}"
        raise ArgumentError(
            f"the second argument is {what}, not a loaded model; write "
            f"make_task({task.partition('(')[0]!r}, ck.load(...)): {ORDER}"
        )
    return view(model)


def _with_settings(head: str, bound: Callable[..., Task]) -> str:
    """The name by which ``resolve`` finds the function with all that is bound."""
    function = bound.func if isinstance(bound, partial) else bound
    return head + name_of(bound).removeprefix(name_of(function))
