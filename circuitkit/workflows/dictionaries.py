"""Train dictionaries of some layers on texts, and measure each on texts that were held out."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import torch

from circuitkit.engine.checkpoints import WEIGHTS, Journal, digest
from circuitkit.engine.memory import room_of
from circuitkit.engine.model import Model
from circuitkit.engine.weights import digest as weights
from circuitkit.errors import BudgetError
from circuitkit.evaluation.results import TableResult
from circuitkit.features.dictionaries import Dictionary
from circuitkit.features.loading import FILES, save
from circuitkit.features.quality import Losses, measure
from circuitkit.features.rows import Place, Rows, collect, fresh
from circuitkit.features.sites import width_of
from circuitkit.features.texts import Texts, Tokens, read_texts
from circuitkit.features.training import Progress, Recipe, train
from circuitkit.util.atomic import write_whole
from circuitkit.util.bytesize import spell
from circuitkit.util.json_values import Json
from circuitkit.util.options import Count, Seed, Size, checked
from circuitkit.util.progress import counting
from circuitkit.util.tables import as_text, to_csv, to_frame
from circuitkit.workflows.folders import filled

if TYPE_CHECKING:
    import pandas

__all__ = ["TrainedDictionaries", "train_dictionaries"]

Kind: TypeAlias = Literal["autoencoder", "transcoder", "skip_transcoder"]
Site: TypeAlias = Literal[
    "resid_pre", "resid_mid", "resid_post", "attn_z", "attn_out", "mlp_in", "mlp_out"
]
LOOKED = 5  # times that a training is looked at with the model
HELD = 20_000  # rows of each source on which a dictionary is measured
_NAME = re.compile(r"[mar]\d+")  # of a dictionary's folder
LOSS = 1024  # tokens on which the loss is measured, and in passing
GLANCE = 256
FORMATS = {"unexplained": ".3f", "new": ".3f", "active": ".1f", "loss_recovered": ".3f",
           "rows": ",", "silent": ","}  # fmt: skip


@dataclass(frozen=True, eq=False)
class TrainedDictionaries(TableResult):
    """Dictionaries with how they were trained, and how good they are on texts that were held out.

    ``measured`` has a row for each dictionary and source of texts, and one for all of them:
    ``unexplained`` is the share of the variance on held-out texts, ``new`` the same at tokens whose
    prefix no text of the training has, ``active`` how many features a token has, ``dead`` how many
    are active at none of the held-out tokens, and ``loss_recovered`` what is not lost of the
    next-token loss (0: the component writes nothing, 1: the model). ``steps`` says how each
    training went.

    Example:
        >>> found = ck.train_dictionaries(
        ...     model, "ioi", layers=[1], features=64, k=4, steps=5, examples=40, batch=64)
        >>> print(found)
        transcoders of mini (m1), 64 features each
    """

    dictionaries: tuple[Dictionary, ...]
    about: Mapping[str, Json]
    measured: tuple[dict[str, Json], ...]
    steps: tuple[dict[str, Json], ...]

    def __str__(self) -> str:
        own = self.dictionaries[0]
        layers = ", ".join(one.prefix for one in self.dictionaries)
        return f"{own.kind}s of {self.about['model']} ({layers}), {own.n_features:,} features each"

    def __repr__(self) -> str:
        return f"{self}\n\n{as_text(self.measured, formats=FORMATS)}"

    def to_frame(self) -> pandas.DataFrame:
        """How good each dictionary is on each source of texts."""
        return to_frame(self.measured)

    def to_dict(self) -> dict[str, Json]:
        """The settings and the numbers."""
        return {**self.about, "dictionaries": [*self.measured], "training": [*self.steps]}

    def save(self, folder: str | os.PathLike[str], *, overwrite: bool = False) -> list[Path]:
        """Write each dictionary in SAELens's format (``m3/cfg.json`` and its weights) and the
        tables (``dictionaries.csv``, ``training.csv``); returns the files and the folders.

        Raises OutputError where they cannot be written, or, without ``overwrite``, where the folder
        holds another run.

        Example:
            >>> found = ck.train_dictionaries(
            ...     model, "ioi", layers=[1], features=64, k=4, steps=5, examples=40, batch=64)
            >>> [path.name for path in found.save("mine")]
            ['dictionaries.csv', 'training.csv', 'm1']
        """
        place = Path(folder)
        tables = {"dictionaries.csv": self.measured, "training.csv": self.steps}
        with filled(folder, "dictionaries", overwrite) as new:
            folders = save(
                self.dictionaries, place
            )  # before the tables, which say that all is there
            for name, rows in tables.items():
                write_whole(new / name, to_csv(rows))
            earlier = _earlier(place)
        for old in earlier - {one.name for one in folders}:
            _remove(place / old)
        return [*(place / name for name in tables), *folders]


def _earlier(place: Path) -> set[str]:
    """The folders of dictionaries that an earlier run has left in a place, by its table."""
    if not (place / "dictionaries.csv").is_file():
        return set()
    return {cfg.parent.name for cfg in place.glob("*/cfg.json") if _NAME.fullmatch(cfg.parent.name)}


def _remove(folder: Path) -> None:
    """Remove a dictionary; whatever else is in its folder stays."""
    with contextlib.suppress(OSError):
        for name in FILES:
            (folder / name).unlink(missing_ok=True)
        folder.rmdir()


@checked
def train_dictionaries(
    model: Model,
    data: str | Sequence[str],
    *,
    layers: Sequence[int] | None = None,
    kind: Kind = "transcoder",
    site: Site = "resid_post",
    features: Count | None = None,
    k: Count = 16,
    steps: Count = 1500,
    rows: Count = 50_000,
    examples: Count = 3000,
    length: Count = 128,
    batch: Count = 2048,
    rate: float = 2e-3,
    seed: Seed = 0,
    batch_size: Count = 32,
    memory: Size | None = None,
    resume: str | os.PathLike[str] | None = None,
) -> TrainedDictionaries:
    """Train a TopK dictionary of each of some layers, and measure it on texts that were held out.

    Args:
        model: The model, from ``ck.load``.
        data: The texts, one source or several: a task's name, a file of prompts, a file of plain
            text (``.txt``), or ``hub:NAME`` of the Hugging Face hub.
        layers: The layers; all of them without.
        kind: ``transcoder`` (of MLPs, after their norm), the same with a linear ``skip``, or
            ``autoencoder``.
        site: What autoencoders take apart.
        features: How many each has; without, eight times the width of the model.
        k: How many of them may be active at a token.
        steps: How many steps of training.
        rows: How many different tokens in context of each source at most; a prefix that texts share
            counts once.
        examples: How many prompts of a task, or stretches of a text, at most.
        length: The tokens of a stretch of text.
        batch: Rows of a step.
        rate: The highest learning rate.
        seed: Of prompts, first weights and order.
        batch_size: How many texts run at once.
        memory: What the process may take in all; layers that do not fit together are done one
            after the other.
        resume: A folder for checkpoints, from which a killed training goes on.

    Returns:
        The dictionaries, with what was measured.

    Raises:
        DictionaryError: for a layer or a site that the model lacks, or too few rows.
        DataError: where a source cannot be read.
        BudgetError: where the rows of one layer do not fit the memory.

    Example:
        >>> found = ck.train_dictionaries(
        ...     model, "ioi", layers=[1], features=64, k=4, steps=5, examples=40, batch=64)
        >>> found.dictionaries[0]
        transcoder of m1: 64 features, topk 4, mlp_in to mlp_out, 128 to 128, float32 on cpu
    """
    sources = [data] if isinstance(data, str) else [*data]
    ends = (site, site) if kind == "autoencoder" else ("mlp_in", "mlp_out")
    wanted = range(model.wiring.layers) if layers is None else dict.fromkeys(layers)
    places: list[Place] = [(layer, *ends) for layer in wanted]
    recipe = Recipe(features or 8 * model.d_model, k, kind == "skip_transcoder", steps, batch, rate,
                    seed)  # fmt: skip
    widths = [sum(width_of(model, layer, end) for end in ends) for layer, *_ in places]
    read = [read_texts(model, own, examples=examples, length=length, seed=seed) for own in sources]
    corpus = _Corpus(model, read, rows, batch_size, resume)
    about: dict[str, Json] = {
        "model": model.name, "sources": sources, "kind": kind, "site": ends[-1], "k": k,
        "features": recipe.features, "steps": steps, "batch": batch, "rate": rate, "seed": seed,
        "rows": corpus.count, "examples": examples, "length": length,
        "held_out_texts": sum(len(own.held) for own in read),
    }  # fmt: skip
    work = {**about, "format": "circuitkit.dictionary", "dtype": str(model.dtype),
            "texts": corpus.digest, WEIGHTS: weights(model)}  # fmt: skip
    journal = Journal(resume, work)
    found = []
    for group in _groups(places, widths, corpus.total, room_of(model, memory)):
        found += _of_group(model, corpus, group, recipe, journal)
    dictionaries, measured, went = zip(*found, strict=True)
    return TrainedDictionaries(
        dictionaries, about, tuple(row for rows in measured for row in rows),
        tuple(row for rows in went for row in rows),
    )  # fmt: skip


class _Corpus:
    """The texts of all sources: which of their tokens are rows to train on and to measure on."""

    def __init__(
        self, model: Model, read: Sequence[Texts], most: int, batch_size: int,
        resume: str | os.PathLike[str] | None,
    ) -> None:  # fmt: skip
        known: set[int] = set()
        self.resume = resume
        self.read, self.batch_size, self.model = read, batch_size, model
        self.seen = [fresh(own.seen, known, most) for own in read]
        self.count = sum(count for _, count in self.seen)
        self.held = [fresh(own.held, set(), HELD) for own in read]  # every prefix once
        trained = set(known)
        self.new = [fresh(own.held, trained, None)[0] for own in read]
        self.total = self.count + sum(count for _, count in self.held)
        texts = [[own.seen, own.held] for own in read]
        self.digest = digest([texts, most])
        self.losses = Losses(model, self._some(LOSS), batch_size)
        self.glance = Losses(model, self._some(GLANCE), batch_size)

    def rows(self, places: Sequence[Place]) -> Mapping[Place, Rows]:
        """The rows to train on."""
        texts = [text for own in self.read for text in own.seen]
        marks = [mark for own, _ in self.seen for mark in own]
        work: dict[str, Json] = {
            "format": "circuitkit.rows", "model": self.model.name, "dtype": str(self.model.dtype),
            "texts": self.digest, "places": [[*place] for place in places],
            "batch_size": self.batch_size, WEIGHTS: weights(self.model),
        }  # fmt: skip
        journal = Journal(self.resume, work)
        return collect(self.model, texts, marks, places, self.batch_size, journal)

    def held_rows(
        self, places: Sequence[Place]
    ) -> Iterator[tuple[str, Mapping[Place, Rows], Mapping[Place, Rows]]]:
        """Of each source, the rows at held-out texts, and those of them that are new."""
        for own, (marks, _), new in zip(self.read, self.held, self.new, strict=True):
            both = [mark & fresh_here for mark, fresh_here in zip(marks, new, strict=True)]
            yield (
                own.name,
                collect(self.model, own.held, marks, places, self.batch_size),
                collect(self.model, own.held, both, places, self.batch_size) if any(
                    bool(mark.any()) for mark in both) else {},
            )  # fmt: skip

    def _some(self, tokens: int) -> list[Tokens]:
        """Held-out texts of every source, on which the loss is measured."""
        chosen: list[Tokens] = []
        for own in self.read:
            left = tokens // len(self.read)
            for text in own.held:
                chosen.append(text)
                left -= len(text)
                if left <= 0:
                    break
        return chosen


def _groups(
    places: Sequence[Place], widths: Sequence[int], rows: int, space: float
) -> Iterator[list[Place]]:
    """The places in groups whose rows fit the memory; raises BudgetError where one does not."""
    group: list[Place] = []
    taken = 0.0
    for place, width in zip(places, widths, strict=True):
        need = 1.5 * 4.0 * rows * width  # half as much again while they are put together
        if need > space:
            raise BudgetError(
                f"{rows:,} rows of layer {place[0]} take {spell(need)}, and {spell(space)} is "
                "available; give fewer rows, or more memory"
            )
        if group and taken + need > space:
            yield group
            group, taken = [], 0.0
        group.append(place)
        taken += need
    yield group


Trained: TypeAlias = tuple[Dictionary, list[dict[str, Json]], list[dict[str, Json]]]


def _of_group(
    model: Model, corpus: _Corpus, places: Sequence[Place], recipe: Recipe, journal: Journal
) -> list[Trained]:
    """The dictionaries of some places whose rows are there together."""
    rows, found = corpus.rows(places), []
    for place in places:
        with _watched(corpus, place, recipe) as (say, went):
            own = train(rows[place], place, recipe, model=model.name, journal=journal, say=say)
        found.append((own, went))
    held = [*corpus.held_rows(places)]
    return [
        (own, _measured(corpus, own, place, held, went[-1]["seconds"]), went)
        for place, (own, went) in zip(places, found, strict=True)
    ]


@contextmanager
def _watched(
    corpus: _Corpus, place: Place, recipe: Recipe
) -> Iterator[tuple[Callable[[Progress, Callable[[], Dictionary]], None], list[dict[str, Json]]]]:
    """What is told how far a training is, and the rows that it writes; a bar says it too."""
    went: list[dict[str, Json]] = []
    every = max(1, recipe.steps // LOOKED)
    with counting(recipe.steps, f"layer {place[0]}", "step") as count:
        at = 0

        def say(progress: Progress, current: Callable[[], Dictionary]) -> None:
            nonlocal at
            told = (
                f"{progress.unexplained:.3f} unexplained, {progress.active:.0f} active, "
                f"{progress.silent} silent"
            )
            if progress.step == recipe.steps or progress.step // every > at // every:
                recovered = corpus.glance.recovered(current())
                went.append({"layer": place[0], **asdict(progress), "loss_recovered": recovered})
                told += "" if recovered is None else f", {recovered:.3f} of the loss"
            count(progress.step - at, note=told)
            at = progress.step

        yield say, went


def _measured(
    corpus: _Corpus, own: Dictionary, place: Place,
    held: Sequence[tuple[str, Mapping[Place, Rows], Mapping[Place, Rows]]], seconds: float,
) -> list[dict[str, Json]]:  # fmt: skip
    """How good a dictionary is on each source, and on all of them."""
    rows: list[dict[str, Json]] = []
    for name, here, new in held:
        found = measure(own, here[place])
        unseen = measure(own, new[place]).unexplained if place in new else None
        rows.append({"layer": place[0], "texts": name, **found.to_dict(), "new": unseen})
    every = [Rows(torch.cat([one[place].x for _, one, _ in held]),
                  torch.cat([one[place].y for _, one, _ in held]))]  # fmt: skip
    fresh_rows = [one[place] for _, _, one in held if place in one]
    if fresh_rows:
        every.append(Rows(torch.cat([one.x for one in fresh_rows]),
                          torch.cat([one.y for one in fresh_rows])))  # fmt: skip
    whole = [measure(own, one) for one in every]
    recovered = corpus.losses.recovered(own)
    rows.append({
        "layer": place[0], "texts": "all", **whole[0].to_dict(),
        "new": whole[1].unexplained if fresh_rows else None, "loss_recovered": recovered,
        "seconds": seconds,
    })  # fmt: skip
    return rows
