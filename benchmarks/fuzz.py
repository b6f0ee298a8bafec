"""Damaged input by the thousand: every reader refuses it in one sentence, or reads what it says.

    python benchmarks/fuzz.py                                 # 10,000 cases in this process
    python benchmarks/fuzz.py --shell 200                     # through the command line
    python benchmarks/fuzz.py --only prompts --cases 1000 --seed 1
    python benchmarks/fuzz.py --cases 10000 --shell 200 -o benchmarks/fuzz.md

The generators are those of the suite: a reader is a function in READERS of tests/readers.py.
Counted is how many cases were tried, refused and rightly accepted, and each fault is printed: a
traceback, more than one line, other numbers than the input says, more than 20 s, more than 1 GiB.
Exit code 1 if there is one.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import accumulate, pairwise
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from damage import Reader, outcome, require_sentence, wanted
from readers import PARTS, READERS

SLOWEST, MOST = 20, 2**20  # seconds and KiB
SHELL = 3.0  # how many times as long a process may take that has to import torch first
SPACE = 16 * 2**30  # bytes of addresses that a process may ask for: a larger request fails
Try = Callable[[Reader, bytes, Path], str]
Counts = list[tuple[str, str, "Counter[str]"]]


class Slow(BaseException):
    """A case took too long; no reader catches this."""


def main() -> int:
    options = _options()
    chosen = {name: READERS[name] for name in READERS if _is_chosen(name, options.only)}
    resource.setrlimit(resource.RLIMIT_AS, (SPACE, resource.getrlimit(resource.RLIMIT_AS)[1]))
    own = Path.cwd()
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)  # what a reader writes goes there
        readers = [make() for make in chosen.values()]
        found = _counted({reader: reader.share for reader in readers}, options, in_process)
        by_command = {reader: reader.by_shell for reader in readers if reader.command}
        found += _counted(by_command, options, through_the_shell)
        os.chdir(own)
    total = sum((counts for _, _, counts in found), Counter())
    print(_line("together", total))
    if options.output:
        options.output.write_text(_page(found, total), encoding="utf-8")
    return 1 if total["fault"] else 0


def _is_chosen(name: str, only: list[str] | None) -> bool:
    parts = {part for part, own in PARTS.items() if name in {make.__name__ for make in own}}
    return not only or bool({name, *parts} & {*only})


def _counted(shares: dict[Reader, float], options: argparse.Namespace, attempt: Try) -> Counts:
    """What became of the cases of each reader."""
    found: Counts = []
    where = attempt.__name__.replace("_", " ")
    cases = options.shell if attempt is through_the_shell else options.cases
    for reader, own in zip(shares, _parts([*shares.values()], cases), strict=True):
        if own:
            counts = _tried(reader, own, options.seed, attempt)
            print(_line(f"{reader.name}, {where}", counts), flush=True)
            found.append((where, reader.name, counts))
    return found


def in_process(reader: Reader, content: bytes, folder: Path) -> str:
    """What becomes of a case here; raises AssertionError for a fault."""
    before = _peak(resource.RUSAGE_SELF)
    with _limit(SLOWEST):
        found = outcome(reader, content, folder)
    grown = _peak(resource.RUSAGE_SELF) - before
    assert grown < MOST, f"it took {grown >> 10} MiB"
    return found


@contextmanager
def _limit(seconds: int) -> Iterator[None]:
    """Raise AssertionError where this takes longer."""

    def stop(*_: object) -> None:
        raise Slow

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    except Slow:
        raise AssertionError(f"it took more than {seconds} s") from None
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def through_the_shell(reader: Reader, content: bytes, folder: Path) -> str:
    """The same by its command: exit code 2 and one sentence, or 0 and the right numbers."""
    if "by shell" not in reader.known:
        reader.known["by shell"] = _by_command(reader, reader.sound, folder)
    assert reader.known["by shell"] == "accepted", "the sound input is refused"
    before = _peak(resource.RUSAGE_CHILDREN)
    found = _by_command(reader, content, folder)
    grown = _peak(resource.RUSAGE_CHILDREN) - before
    assert grown < MOST, f"it took {grown >> 10} MiB more than sound input"
    return found


def _by_command(reader: Reader, content: bytes, folder: Path) -> str:
    """What becomes of a content on the command line; raises AssertionError for a fault."""
    path = reader.place(folder, content)
    started = time.monotonic()
    done = _run(reader, path, content)
    seconds = time.monotonic() - started
    assert seconds < SLOWEST * SHELL, f"it took {seconds:.0f} s"
    if done.returncode == 2:
        require_sentence(done.stderr.removesuffix("\n"), folder)
        return "refused"
    assert done.returncode == 0, f"exit code {done.returncode}: {done.stderr[-300:]}"
    if reader.shown:
        reader.shown(done.stdout, path, wanted(reader, content, folder))
    return "accepted"


def _run(reader: Reader, path: Path, content: bytes) -> subprocess.CompletedProcess[str]:
    assert reader.command is not None
    arguments = reader.command(path)
    taken = content if "-" in arguments else b""
    done = subprocess.run(
        [sys.executable, "-m", "circuitkit", *arguments],
        input=taken, capture_output=True, timeout=SLOWEST * SHELL, check=False,
    )  # fmt: skip
    out, err = (text.decode("utf-8", "replace") for text in (done.stdout, done.stderr))
    return subprocess.CompletedProcess(arguments, done.returncode, out, err)


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
                said = " ".join(str(fault).split())[:300]
                kept = Path(tempfile.gettempdir()) / f"fault-{reader.name}-{found['fault']}"
                kept.write_bytes(content)
                print(f"  FAULT {reader.name}: {said} ({kept})", flush=True)

        case()
    return found


# -- what is said ----------------------------------------------------------------------------------
COLUMNS = ("tried", "refused", "rightly accepted", "faults")


def _numbers(found: Counter[str]) -> tuple[int, ...]:
    return found.total(), found["refused"], found["accepted"], found["fault"]


def _line(name: str, found: Counter[str]) -> str:
    said = (f"{n:,} {column}" for n, column in zip(_numbers(found), COLUMNS, strict=True))
    return f"{name}: {', '.join(said)}"


def _page(found: Counts, total: Counter[str]) -> str:
    """The counts as a page."""
    import torch
    import transformers

    import circuitkit

    arguments = shlex.join(["python", "benchmarks/fuzz.py", *sys.argv[1:]])
    rows = [(f"{name}, {where}", counts) for where, name, counts in found]
    table = [
        f"| {name} | {' | '.join(f'{n:,}' for n in _numbers(counts))} |"
        for name, counts in [*rows, ("**together**", total)]
    ]
    return "\n".join([
        "# What becomes of damaged input", "", f"`{arguments}`", "",
        "Cases that hypothesis draws from the generators of tests/readers.py: flipped bits, cut "
        "and repeated bytes, other encodings, values exchanged, dropped, doubled, renamed, nested. "
        "*Refused*: one sentence, exit code 2 on the command line; a journal's block: computed "
        "again. *Rightly accepted*: the numbers are those that other means find in the damaged "
        "input (json, csv, numpy, safetensors, pyarrow or transformers by themselves), or those of "
        "the sound one. *Faults*: a traceback, more than one line, other numbers, more than "
        f"{SLOWEST} s, more than {MOST >> 20} GiB. The same seed draws the same cases.", "",
        f"{platform.machine()}, python {platform.python_version()}, circuitkit-graph "
        f"{circuitkit.__version__}, torch {torch.__version__}, transformers "
        f"{transformers.__version__}.", "",
        f"| input, tried | {' | '.join(COLUMNS)} |", "|---|---:|---:|---:|---:|", *table, "",
    ])  # fmt: skip


def _peak(who: int) -> int:
    """The most memory that this process, or one of its children, has held, in KiB."""
    peak = resource.getrusage(who).ru_maxrss
    return peak >> 10 if sys.platform == "darwin" else peak


def _parts(shares: list[float], cases: int) -> list[int]:
    """How many of the cases each share is."""
    ends = [0.0, *accumulate(shares)]
    whole = [round(end / (ends[-1] or 1) * cases) for end in ends]
    return [end - start for start, end in pairwise(whole)]


def _options() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--cases", type=int, default=0, help="of all readers together, in this process")
    p.add_argument("--shell", type=int, default=0, help="the same, each in a process of its own")
    p.add_argument(
        "--only", action="append", choices=[*PARTS, *READERS], metavar="PART",
        help=f"a part ({', '.join(PARTS)}) or a reader ({', '.join(READERS)}); default: all",
    )  # fmt: skip
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("-o", "--output", type=Path, help="write the counts there, as Markdown")
    options = p.parse_args()
    if not options.cases and not options.shell:
        options.cases = 10_000
    return options


if __name__ == "__main__":
    sys.exit(main())
