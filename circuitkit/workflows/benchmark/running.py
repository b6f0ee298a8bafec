"""The cross product of methods, models, corruptions and seeds, in one run that can be resumed."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import re
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Annotated

import numpy as np
import torch

from circuitkit.engine.checkpoints import Journal, Shard, digest
from circuitkit.engine.dealing import Block, Task, dealt
from circuitkit.engine.processes import team
from circuitkit.errors import ArgumentError, CircuitkitError, EvaluationError
from circuitkit.registry import resolve
from circuitkit.util.json_values import Json
from circuitkit.util.options import Bounds, Seed, checked
from circuitkit.util.progress import counting
from circuitkit.util.versions import versions
from circuitkit.workflows.benchmark.budgets import (
    CORRUPTIONS,
    METHODS,
    Budgets,
    Run,
    absent,
    chosen_models,
    plan,
    seeds_of,
)
from circuitkit.workflows.benchmark.cells import Numbers, from_block, measured, to_block
from circuitkit.workflows.benchmark.labels import LABELS, TrueEdges
from circuitkit.workflows.benchmark.records import Row
from circuitkit.workflows.benchmark.results import Benchmark
from circuitkit.workflows.benchmark.subjects import BLOCKS, Source, Subject, seeded, source

__all__ = ["bench"]

VERSION = 2  # of the cells on disk


@checked
def bench(
    methods: Sequence[str] | Mapping[int, Mapping[str, int]] = METHODS,
    models: Sequence[str] | None = None,
    corruptions: Sequence[str] = CORRUPTIONS,
    *,
    metric: str = "logit_diff",
    seeds: Annotated[int, Bounds(1, 1_000)] | Sequence[Seed] | None = None,
    examples: Annotated[int, Bounds(1, 1_000_000)] = 32,
    device: str | None = None,
    device_map: str | None = None,
    jobs: Annotated[int, Bounds(1, 1_000)] = 1,
    resume: str | os.PathLike[str] | None = None,
) -> Benchmark:
    """How well methods find circuits that are known, and what each costs.

    Args:
        methods: Discovery methods by name, with settings (``"eap_ig(steps=10)"``) or by path; or a
            table of the methods for each budget in sequence-backwards, each with its number of
            prompts; methods that this version lacks are left out.
        models: Compiled programs (``"reverse"``), variants of them (``"reverse+rotate"``), models
            that were trained to a truth (``"trained:NAME"``, or a file), and loadable models with a
            task (``"mini:ioi"``), by name; None for all of these kinds.
        corruptions: Corruptions by name.
        metric: The metric by name.
        seeds: How many seeds, or which; a seed draws the prompts, the variant where it is random,
            and what a method draws. None for 2 of compiled models, and 1 of trained and real ones.
        examples: The prompts on which a circuit is found, at most; it is measured on as many
            others.
        device: Where models are loaded; None for the CPU.
        device_map: How loadable models are spread over several devices, as in ``load``; those that
            are compiled or trained to a truth are small, and on the CPU.
        jobs: Processes, each of which takes one model after another; under torchrun the models are
            divided among its processes instead.
        resume: A directory for finished cells. Cells are identified by names, by the contents of
            the files that are named, and by the digest of a model's weights.

    Returns:
        A ``Benchmark``; a method that refuses a cell leaves its reason there, and a model that
        cannot be loaded is skipped by name.

    Raises:
        UnknownNameError: for a name that does not exist.
        EvaluationError: where there is nothing to do, or something twice.

    Source: the measures are those of MIB (Mueller et al. 2025, arXiv:2504.13151).

    Example:
        >>> found = ck.bench(["random", "eap"], ["reverse"], ["counterfactual"], seeds=1)
        >>> sorted(found.to_frame()["method"])
        ['eap', 'random']
    """
    names = tuple(models) if models is not None else chosen_models()
    drawn = None if seeds is None else tuple(range(seeds) if isinstance(seeds, int) else seeds)
    for what, own in (("methods", methods), ("models", names), ("corruptions", corruptions),
                      ("seeds", drawn)):  # fmt: skip
        if own is not None and (not own or len(set(own)) < len(own)):
            raise EvaluationError(f"the {what} are {list(own)}; give at least one, each once")
    missing = absent(methods) if isinstance(methods, Mapping) else {}
    present = _present(methods, missing)
    for kind, listed in (("discovery", _listed(present)), ("corruptions", corruptions),
                         ("metrics", [metric])):  # fmt: skip
        for name in listed:
            resolve(kind, name)
    settings = _Settings(
        present, tuple(corruptions), metric, drawn, examples, device, device_map, resume
    )
    start = time.perf_counter()
    done = _all(settings, names, jobs)
    skipped = {one.name: one.skipped for one in done if one.skipped}
    if len(skipped) == len(names):
        raise EvaluationError(f"no model can be tried: {next(iter(skipped.values()))}")
    about = {
        "metric": metric, "examples": examples, "versions": versions(), "jobs": jobs,
        "seconds": time.perf_counter() - start, "cpu_seconds": sum(one.seconds for one in done),
        "earlier": sum(one.earlier for one in done), "absent": missing, "skipped": skipped,
    }  # fmt: skip
    rows = tuple(row for one in done for row in one.rows)
    return Benchmark(about, rows, tuple(row for one in done for row in one.truths))


@dataclass(frozen=True)
class _Settings:
    """What all models share."""

    methods: Budgets | Sequence[str]
    corruptions: tuple[str, ...]
    metric: str
    seeds: tuple[int, ...] | None
    examples: int
    device: str | None
    device_map: str | None
    resume: str | os.PathLike[str] | None


@dataclass
class _Done:
    """What has been measured on one model: its cells, and what is known of its truth."""

    name: str
    rows: list[Row] = field(default_factory=list)
    truths: list[Row] = field(default_factory=list)
    earlier: int = 0
    seconds: float = 0.0
    skipped: str = ""


def _present(
    methods: Budgets | Sequence[str], missing: Mapping[str, str]
) -> Budgets | tuple[str, ...]:
    """The methods without those that are missing."""
    if not isinstance(methods, Mapping):
        return tuple(methods)
    return {
        budget: {name: prompts for name, prompts in own.items() if name not in missing}
        for budget, own in methods.items()
    }


def _listed(methods: Budgets | Sequence[str]) -> list[str]:
    """All methods by name."""
    if not isinstance(methods, Mapping):
        return list(methods)
    return [name for own in methods.values() for name in own]


def _all(settings: _Settings, names: Sequence[str], jobs: int) -> list[_Done]:
    """What is measured on every model, in the order of the models; the slow ones begin first, and a
    wrong name is noticed before the work."""
    sources = [source(name, examples=settings.examples) for name in names]
    order = [one.name for one in sorted(sources, key=lambda one: -BLOCKS.index(one.block))]
    journal = _models_journal(settings)
    if jobs > 1 and (team().size > 1 or journal.shard is not None):
        raise ArgumentError(
            "jobs are processes of one run; with torchrun, or shards, leave them out"
        )
    with ExitStack() as stack:
        count = stack.enter_context(counting(len(names), "bench", "model"))
        found = {}
        if jobs > 1:
            for one in stack.enter_context(_pool(jobs)).map(_one, [settings] * len(order), order):
                count(1)
                found[one.name] = one
        else:
            tasks = [Task(digest([name]), partial(_block, settings, name)) for name in order]
            done = map(_from_block, dealt(tasks, journal, count))
            found = {one.name: one for one in done}
    return [found[name] for name in names]


def _models_journal(settings: _Settings) -> Journal:
    """Where shards leave what they have measured on each model; a run of its own keeps cells
    alone."""
    place = settings.resume if isinstance(settings.resume, Shard) else None
    about = {name: value for name, value in vars(settings).items() if name != "resume"}
    plain: dict[str, Json] = json.loads(json.dumps(about, default=list))
    return Journal(place, {"format": "circuitkit.bench.models", "version": VERSION, **plain})


def _block(settings: _Settings, name: str) -> Block:
    """What has been measured on one model, as JSON: nothing in a block is executed."""
    text = json.dumps(vars(_one(settings, name)), default=float)
    return {"json": np.frombuffer(text.encode(), np.uint8)}


def _from_block(block: Block) -> _Done:
    return _Done(**json.loads(block["json"].tobytes()))


def _pool(jobs: int) -> ProcessPoolExecutor:
    """Processes that share the processor's threads, and end with this one."""
    threads = max(1, torch.get_num_threads() // jobs)
    return ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _begin, (threads,))


def _begin(threads: int) -> None:
    """Begin a process of so many threads that does not outlive the one that started it, which may
    be killed."""
    torch.set_num_threads(threads)
    threading.Thread(target=_end_with, args=[multiprocessing.parent_process()], daemon=True).start()


def _end_with(parent: BaseProcess) -> None:
    """Wait for the end of that process, and end this one."""
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


# -- one model -------------------------------------------------------------------------------------
def _one(settings: _Settings, name: str) -> _Done:
    """Everything on one model."""
    start = time.process_time()
    where = source(
        name, examples=settings.examples, device=settings.device, device_map=settings.device_map
    )
    done = _Done(name)
    try:
        weights = where.weights
    except CircuitkitError as error:
        done.skipped = str(error)
        return done
    work = _Work(settings, where, weights, done)
    for seed in settings.seeds or range(seeds_of(where)):
        for corruption in settings.corruptions:
            work.cells(corruption, seed)
    done.seconds = time.process_time() - start
    return done


class _Work:
    """The cells of one model."""

    def __init__(
        self, settings: _Settings, where: Source, weights: tuple[str, ...], done: _Done
    ) -> None:
        about: dict[str, Json] = {
            "format": "circuitkit.bench", "version": VERSION, "examples": settings.examples,
            "metric": settings.metric + _contents(settings.metric),
        }  # fmt: skip
        self.settings, self.where, self.weights, self.done = settings, where, weights, done
        self.metric = resolve("metrics", settings.metric)
        self.journal = Journal(settings.resume, about)
        self.truths: dict[tuple[str, int | None], TrueEdges | None] = {}
        self.subjects: dict[int, Subject] = {}
        self.told: set[tuple[str, str, int | None]] = set()

    def cells(self, corruption: str, seed: int) -> None:
        """The cell of each method, from an earlier run or done now, or why there is none."""
        where, done = self.where, self.done
        runs = plan(self.settings.methods, where, corruption, self.settings.examples)
        tried: dict[tuple[str, int], Numbers | str] = {}
        for run in runs:
            key = run.method, run.prompts
            if key not in tried:
                tried[key] = self.cell(run, corruption, seed)
            numbers = tried[key]
            done.rows.append({
                "block": where.block, "program": where.program, "model": where.name,
                "corruption": corruption, "seed": seed, "budget": run.budget,
                "method": run.method, "prompts": run.prompts,
                **({} if isinstance(numbers, str) else numbers),
                "failed": numbers if isinstance(numbers, str) else "",
            })  # fmt: skip
        self.describe(corruption, seed)

    def cell(self, run: Run, corruption: str, seed: int) -> Numbers | str:
        """The numbers of one method, or why it refused."""
        how, method = resolve("corruptions", corruption), resolve("discovery", run.method)
        place = self.place(run.method, corruption, seed, run.prompts)
        kept = from_block(self.journal.get(place))
        if kept is not None:
            self.done.earlier += 1
            return kept
        try:
            subject = self.subject(seed).batched(how)
            truth = self.truth(corruption, seed)
            drawn = {"seed": seed} if seeded(method) else {}
            numbers = measured(subject, method, run.prompts, self.metric, how, truth, **drawn)
        except CircuitkitError as error:
            return str(error)
        self.journal.put(place, to_block(numbers))
        return numbers

    def subject(self, seed: int) -> Subject:
        """The model and the prompts of a seed, made once."""
        if seed not in self.subjects:
            self.subjects[seed] = self.where(seed)
        return self.subjects[seed]

    def truth(self, corruption: str, seed: int) -> TrueEdges | None:
        """The true edges, found once for all seeds that share a model, and kept."""
        own = seed if self.where.random else None
        if (corruption, own) not in self.truths:
            find = self.subject(seed).find_truth
            place = self.place("truth", corruption, own)
            found = TrueEdges.from_block(self.journal.get(place))
            if found is None and find is not None:
                found = find(resolve("corruptions", corruption))
                self.journal.put(place, found.to_block())
            self.truths[corruption, own] = found
        return self.truths[corruption, own]

    def describe(self, corruption: str, seed: int) -> None:
        """What is known of the truth, in a row of its own."""
        truth, where = self.truth(corruption, seed), self.where
        key = where.name, corruption, seed if where.random else None
        if truth is None or key in self.told:
            return
        self.told.add(key)
        sizes = {name: int(mask.sum()) for name, mask in truth.labels.items()}
        self.done.truths.append({
            "block": where.block, "program": where.program, "model": where.name,
            "corruption": corruption, "seed": key[2], "edges": truth.edges, "main": truth.main,
            **{name: sizes.get(name) for name in LABELS}, "unmapped": truth.unmapped,
            "leak": truth.leak,
        })  # fmt: skip

    def place(self, what: str, corruption: str, *more: int | None) -> str:
        """Where something is kept."""
        names = what, self.where.name, corruption
        return digest([*names, *more, *map(_contents, names), *self.weights])


def _contents(name: str) -> str:
    """A hash of the files that an expression names; empty where it names none."""
    files = [Path(path) for path in re.findall(r"[^\s+:('\"]+\.(?:py|csv|jsonl)", name)]
    whole = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files if file.is_file()]
    return digest(whole) if whole else ""
