"""Damaged input by the thousand: every reader refuses it in one sentence, or reads what it says.

    python benchmarks/fuzz.py --cases 10000            # in this process
    python benchmarks/fuzz.py --shell 200              # through the command line
    python benchmarks/fuzz.py --reader circuits --cases 1000 --seed 1

The generators are those of the suite: a reader is a function in READERS of tests/damage.py. Printed
is how many cases were tried, refused and rightly accepted, and each fault: a traceback, more than
one line, other numbers than the input says, more than 20 s, more than 1 GiB. Exit code 1 if any.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from damage import READERS, Reader, outcome

SLOWEST, MOST = 20.0, 2**20  # seconds and KiB
Try = Callable[[Reader, bytes, Path], str]


def main() -> int:
    options = _options()
    readers = [READERS[name]() for name in options.reader or READERS]
    by_command = [reader for reader in readers if reader.command]
    total: Counter[str] = Counter()
    for count, attempt, own in (
        (options.cases, in_process, readers), (options.shell, through_the_shell, by_command)
    ):  # fmt: skip
        for reader, cases in zip(own, _shares(count, len(own)), strict=True):
            found = _tried(reader, cases, options.seed, attempt) if cases else Counter()
            if cases:
                where = attempt.__name__.replace("_", " ")
                print(_line(f"{reader.name}, {where}", found), flush=True)
            total += found
    print(_line("together", total))
    return 1 if total["fault"] else 0


def in_process(reader: Reader, content: bytes, folder: Path) -> str:
    """What becomes of a case here; raises AssertionError for a fault."""
    start, before = time.perf_counter(), _peak()
    found = outcome(reader, content, folder)
    seconds, grown = time.perf_counter() - start, _peak() - before
    assert seconds < SLOWEST, f"it took {seconds:.0f} s"
    assert grown < MOST, f"it took {grown >> 10} MiB"
    return found


def through_the_shell(reader: Reader, content: bytes, folder: Path) -> str:
    """The same by the reader's command: exit code 0, or 2 and one line."""
    assert reader.command is not None
    arguments = reader.command(reader.place(folder, content))
    done = subprocess.run(
        [sys.executable, "-m", "circuitkit", *arguments],
        capture_output=True, text=True, timeout=SLOWEST * 3, check=False,
    )  # fmt: skip
    if done.returncode == 0:
        return "accepted"
    assert done.returncode == 2, f"exit code {done.returncode}: {done.stderr[-300:]}"
    assert done.stderr.count("\n") == 1, f"not one line: {done.stderr[:300]!r}"
    return "refused"


def _tried(reader: Reader, cases: int, number: int, attempt: Try) -> Counter[str]:
    """How many cases of the reader were refused, accepted, and at fault; faults are printed."""
    found: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as place:

        @seed(number)
        @settings(
            max_examples=cases, deadline=None, database=None, phases=(Phase.generate,),
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(reader.contents)
        def case(content: bytes) -> None:
            try:
                found[attempt(reader, content, Path(place))] += 1
            except (AssertionError, subprocess.TimeoutExpired) as fault:
                found["fault"] += 1
                kept = Path(tempfile.gettempdir()) / f"fault-{reader.name}-{found['fault']}"
                kept.write_bytes(content)
                print(f"  FAULT {reader.name}: {str(fault)[:300]} ({kept})", flush=True)

        case()
    return found


def _line(name: str, found: Counter[str]) -> str:
    return (
        f"{name}: {found.total():,} tried, {found['refused']:,} refused, {found['accepted']:,} "
        f"rightly accepted, {found['fault']:,} faults"
    )


def _peak() -> int:
    """The most memory that this process has held, in KiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak >> 10 if sys.platform == "darwin" else peak


def _shares(count: int, parts: int) -> list[int]:
    return [count // parts + (number < count % parts) for number in range(parts)]


def _options() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--cases", type=int, default=0, help="of all readers together, in this process")
    p.add_argument("--shell", type=int, default=0, help="the same, each in a process of its own")
    p.add_argument("--reader", action="append", choices=list(READERS), help="default: all")
    p.add_argument("--seed", type=int, default=0)
    options = p.parse_args()
    return options if options.cases or options.shell else p.parse_args(["--cases", "10000"])


if __name__ == "__main__":
    sys.exit(main())
