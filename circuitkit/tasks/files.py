"""Prompts of your own, in a file."""

from __future__ import annotations

import random
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from circuitkit.data.lint import PromptCheck, PromptWarning, check_prompts
from circuitkit.data.prompts import Prompt, Task
from circuitkit.data.reading import spelt
from circuitkit.data.tokens import Tokenizing
from circuitkit.errors import DataError
from circuitkit.util.options import Count, Seed, checked

__all__ = ["from_file"]


@checked
def from_file(
    words: Tokenizing,
    n: Count | None = None,
    seed: Seed = 0,
    *,
    path: str | Path,
    metric: str = "logit_diff",
    columns: Mapping[str, str] | None = None,
    misfits: Literal["refuse", "drop"] = "refuse",
    answers: Literal["single", "first", "sequence"] = "single",
    align: str | None = None,
) -> Task:
    """Your own prompts, from a file with the columns clean, corrupt, correct and wrong.

    The file is CSV (separated by commas, semicolons or tabs), TSV, JSON (a list of objects), JSONL
    or Parquet, in UTF-8 or UTF-16; ``-`` is standard input. ``wrong`` may be empty, and ``corrupt``
    empty or missing: ``zero``, ``mean``, ``noise`` and ``resample`` need no corrupted text. Several
    answers are separated by ``|`` in tables, and are a list in JSON.

    A column ``span_subject`` names a span of the clean text: the words that stand there once, or
    the range of their characters (``15:22``), with the space before the first word. In JSON an
    object ``spans`` does the same, ``{"subject": [15, 22]}``, and an object ``corruptions`` holds
    further corrupted texts, ``{"verb": "The cat eats"}``. The spans of the corrupted text are
    ``corrupt_span_subject`` and ``corrupt_spans``; they are needed where it is aligned with the
    clean one by spans and has another number of tokens.

    Files of other tools are read as they are: EAP-IG's and MIB's (``corrupted``, and
    ``correct_idx`` and ``incorrect_idx``, which are token ids), agreement sets (``clean_prefix``,
    ``patch_prefix``, ``clean_answer``, ``patch_answer``), and the records of CounterFact, which
    have no corrupted text.

    Args:
        words: The model, or a view of its tokenizer.
        n: The number of prompts, drawn with the seed; None for all, in the order of the file.
        seed: The seed of the draw.
        path: The file; ``make_task("mine.csv", model)`` is the same.
        metric: The name of the metric that suits the prompts.
        columns: The columns of the file by our names, where it calls them otherwise:
            ``{"clean": "my_column"}``.
        misfits: What is done with rows that do not fit the tokenizer: they are refused
            (``refuse``), or left out (``drop``), which the task's source says.
        answers: What an answer of several tokens is: a misfit (``single``), its ``first`` token, or
            the whole ``sequence``: metrics are then of the log probability of all its tokens.
        align: By what clean and corrupted texts of different lengths are aligned: all ``spans``
            that they name, or some (names with commas between); without it they are misfits.

    Returns:
        A ``Task`` named after the file.

    Raises:
        ArgumentError: for an unknown choice.
        DataError: with the line, if the file cannot be read or is empty, if rows do not fit, or if
            it has fewer than ``n`` prompts.

    Example:
        >>> from pathlib import Path
        >>> text = "clean,corrupt,correct,wrong\\nThe cat is,The dog is, he, she"
        >>> _ = Path("mine.csv").write_text(text)
        >>> print(ck.make_task("mine.csv", model))
        from_file(path='mine.csv'): 1 prompt, metric logit_diff (mine.csv)
    """
    found = check_prompts(path, words, columns=columns, answers=answers, align=align)
    prompts, source = _kept(found, misfits == "drop")
    name = spelt(path)
    if n is not None and not 1 <= n <= len(prompts):
        raise DataError(
            f"{name} contains {len(prompts)} prompts, not {n}; give n from 1 to {len(prompts)}"
        )
    if n is not None:
        random.Random(seed).shuffle(prompts)
    chosen = {
        "misfits": misfits,
        "answers": answers,
        **({"columns": dict(columns)} if columns else {}),
        **({"align": align} if align else {}),
    }
    usual = {"misfits": "refuse", "answers": "single"}
    own = {key: value for key, value in chosen.items() if value != usual.get(key)}
    settings = {"n": n, "seed": seed, "path": str(path), "metric": metric, **own}
    return Task(Path(name).stem, tuple(prompts[:n]), metric, source, settings)


def _kept(checked: PromptCheck, drop: bool) -> tuple[list[Prompt], str]:
    """The prompts that fit, and what the source is called; says what looks like a mistake."""
    if not drop:
        checked.require(remedy="; misfits='drop', or --misfits drop, leaves them out")
    prompts, all_, source = [*checked.prompts], len(checked.rows), checked.source
    if not prompts:
        checked.require()
    said = checked.warnings[:1]
    if len(checked.warnings) > 1:
        said = [f"{said[0]} ({len(checked.warnings)} warnings; check_prompts lists them)"]
    if len(prompts) < all_:
        source = f"{source}, {all_ - len(prompts)} of {all_} rows left out"
        said = [f"{all_ - len(prompts)} of {all_} rows do not fit and are left out", *said]
    for text in said:
        warnings.warn(f"{checked.source}: {text}", PromptWarning, stacklevel=3)
    return prompts, source
