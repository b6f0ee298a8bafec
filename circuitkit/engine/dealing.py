"""How work is divided among processes: block i goes to process i mod N, and blocks come back in
order.

There is no scheduler: who does what follows from the number of a block alone. Blocks are arrays;
whoever called ``dealt`` adds them in their order, by the same code whether there is one process or
many, so that the result is the same bit by bit. With a journal the blocks are kept on disk as they
are finished, and shards, which share nothing but a disk, leave them there for a later merge.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np

from circuitkit.data.batches import Batch, Dataset
from circuitkit.engine.checkpoints import Journal, Shard
from circuitkit.engine.processes import Failure, Team, attempted, gathered, team
from circuitkit.errors import UnfinishedError
from circuitkit.util.progress import counting

__all__ = ["Block", "Check", "Task", "by_batch", "dealt", "joined"]

Block: TypeAlias = dict[str, np.ndarray]
# Raises where a block that is on disk is of other work than the one at hand.
Check: TypeAlias = Callable[[Mapping[str, np.ndarray]], None]
AT_ONCE = 2**26  # bytes of a process's blocks that are exchanged at once
ROUNDS = 64  # of blocks between two exchanges: an error is known to all at the next one
SHOWN = 3  # missing blocks that are named


@dataclass(frozen=True)
class Task:
    """A block of work: its name, what computes it, what checks one that is on disk, and where it is
    kept if not with all others."""

    key: str
    work: Callable[[], Block]
    check: Check | None = None
    journal: Journal | None = None


def dealt(
    tasks: Iterable[Task], journal: Journal | None = None, count: Callable[[int], object] = id
) -> Iterator[Block]:
    """The blocks of these tasks, in their order, on every process.

    Every process lists all tasks and computes its own; ``count`` is told of finished blocks.
    Raises, on every process, the error of the first block that fails, and UnfinishedError where a
    shard, or a merge, lacks blocks.
    """
    journal, own = journal or Journal(None, {}), team()
    if journal.shard is not None and journal.shard.index is None:
        yield from _merged(tasks, journal, journal.shard)
    elif journal.shard is not None:
        yield from _sharded(tasks, journal, journal.shard, count)
    elif own.size > 1:
        yield from _exchanged(tasks, journal, own, count)
    else:
        for task in tasks:
            yield _made(task, journal)
            count(1)


def by_batch(
    data: Dataset,
    label: str,
    work: Callable[[Batch, int], Block],
    journal: Journal | None = None,
    check: Callable[[Batch, int, Mapping[str, np.ndarray]], None] | None = None,
) -> Iterator[Block]:
    """What is found of each batch, which is given with the number of its first example."""

    def tasks() -> Iterator[Task]:
        first = 0
        for number, batch in enumerate(data):
            seen = None if check is None else partial(check, batch, first)
            yield Task(f"batch-{number:04}", partial(work, batch, first), seen)
            first += batch.examples

    with counting(-(-len(data) // data.batch_size), label, "batch") as counted:
        yield from dealt(tasks(), journal, counted)


def joined(blocks: Iterable[Block]) -> Block:
    """The arrays of all blocks, one behind the other along the last axis, that of examples."""
    every = list(blocks)
    return {name: np.concatenate([own[name] for own in every], axis=-1) for name in every[0]}


def _made(task: Task, journal: Journal) -> Block:
    """The block, from disk or made now."""
    journal = task.journal or journal
    found = journal.get(task.key)
    if found is None:
        found = task.work()
        if journal.place is not None:
            journal.put(task.key, found)
    elif task.check is not None:
        task.check(found)
    return found


# -- many processes --------------------------------------------------------------------------------
def _exchanged(
    tasks: Iterable[Task], journal: Journal, own: Team, count: Callable[[int], object]
) -> Iterator[Block]:
    """The blocks, of which each process makes its own; after the first round as many are exchanged
    at once as are small."""
    mine: dict[int, Block | Failure] = {}
    start = number = 0
    most, failed = own.size, False
    for number, task in enumerate(tasks, start=1):
        if (number - 1) % own.size == own.rank and not failed:
            mine[number - 1] = found = attempted(partial(_made, task, journal))
            failed = isinstance(found, Failure)
            count(own.size)
        if number - start == most:
            blocks = _together(mine, range(start, number))
            yield from blocks
            start, mine = number, {}
            largest = max(sum(x.nbytes for x in block.values()) for block in blocks)
            most = own.size * min(ROUNDS, max(1, AT_ONCE // max(1, largest)))
            del blocks
    if number > start:
        yield from _together(mine, range(start, number))


def _together(mine: Mapping[int, Block | Failure], numbers: range) -> list[Block]:
    """The blocks of these numbers from all processes; raises the error of the first that failed."""
    every = {number: block for own in gathered(mine) for number, block in own.items()}
    every |= mine
    for number in numbers:
        if isinstance(block := every.get(number), Failure):
            raise block.error
    return [every[number] for number in numbers]  # type: ignore[misc]  # no failure is left


# -- shards ----------------------------------------------------------------------------------------
def _sharded(
    tasks: Iterable[Task], journal: Journal, shard: Shard, count: Callable[[int], object]
) -> Iterator[Block]:
    """The blocks, if all are there; else this shard's own are made, and the rest is not done."""
    blocks: list[Block] = []
    made = missing = total = 0
    for number, task in enumerate(tasks):
        total += 1
        found, mine = (task.journal or journal).get(task.key), number % shard.of == shard.index
        if found is not None and task.check is not None:
            task.check(found)
        if found is None and mine:
            found = _made(task, journal)
            made += 1
            count(1)
        missing += found is None
        if missing or made:
            blocks.clear()
        elif found is not None:
            blocks.append(found)
    if made or missing:
        raise UnfinishedError(
            f"shard {shard.index}/{shard.of} has made {made} of {total} blocks of {journal.title}, "
            f"and {missing} are still missing"
        )
    shard.complete.append(journal.title)
    yield from blocks


def _merged(tasks: Iterable[Task], journal: Journal, shard: Shard) -> Iterator[Block]:
    """The blocks that shards have made; what comes after the last of them is done now. Raises
    UnfinishedError, and names what is missing, where some blocks of a work are not there."""
    blocks, missing = list[Block](), dict[int, str]()
    total = 0
    for number, task in enumerate(tasks):
        total += 1
        found = (task.journal or journal).get(task.key)
        if found is not None:
            if task.check is not None:
                task.check(found)
            blocks.append(found)
            continue
        missing[number] = task.key
        if shard.complete and len(missing) == total:  # no shard has come so far
            blocks.append(task.work())
    if missing and not (shard.complete and len(missing) == total):
        raise UnfinishedError(_lacking(journal, missing, total))
    if not missing:
        shard.complete.append(journal.title)
    yield from blocks


def _lacking(journal: Journal, missing: Mapping[int, str], total: int) -> str:
    """Which blocks are missing, and who makes them."""
    names: Sequence[str] = [*missing.values()]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    of = journal.dealt.get("shards")
    who = "run the shards again"
    if isinstance(of, int) and of > 0:
        shards = sorted({number % of for number in missing})
        who = "run again " + ", ".join(f"--shard {index}/{of}" for index in shards)
    return (
        f"{len(names)} of {total} blocks of {journal.title} are missing "
        f"({', '.join(names[:SHOWN])}{more}); {who}"
    )
