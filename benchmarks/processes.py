"""Two processes beside one: how much sooner they end, and whether a kill changes the result.

    python benchmarks/processes.py -o benchmarks/processes.md
    python benchmarks/processes.py --kills 10

Each job is run under torchrun with one process and with two, each of one thread, and timed by
itself from when the model is loaded. The result has to be equal bit by bit. The job is also run
twice at once, as two runs that share nothing: what the machine lets two processes do at most.
``--kills`` ends one of two processes with SIGKILL at random moments of a run, while the other is
slowed down, and compares the files of the run that torchrun starts again with those of one process.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil

SIZES = {"exact": 1152, "evaluate": 1536, "study": 192}  # prompts: a minute of one process
CIRCUITS = 100
RUN = [
    "discover", "ioi", "--method", "exact", "--examples", "48", "--batch-size", "8", "--seed", "3",
    "--threads", "1", "--quiet",
]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description="Two processes beside one.")
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--jobs", nargs="*", default=[*SIZES], choices=SIZES)
    parser.add_argument(
        "--kills", type=int, help="compare so many runs of which a process is killed"
    )
    parser.add_argument("--share", type=float, default=1.0, help="of the prompts (default: all)")
    parser.add_argument("--job", help=argparse.SUPPRESS)  # what a process of a run does
    options = parser.parse_args()
    if options.job:
        work(options.job, options.share)
        return
    if options.kills:
        print(killed(options.kills))
        return
    rows = [row(job, options.share) for job in options.jobs]
    report = text(rows)
    print(report)
    if options.output:
        options.output.write_text(report, encoding="utf-8")


# -- speed -----------------------------------------------------------------------------------------
def work(job: str, share: float) -> None:
    """Time a job in this process, among those of its run."""
    import torch
    from torch import distributed

    import circuitkit as ck

    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    model = ck.load("mini")
    does: dict[str, Callable[[Any, int], np.ndarray]] = {
        "exact": exact, "evaluate": evaluate, "study": study,
    }  # fmt: skip
    does[job](model, 16)  # what is imported on the way
    distributed.barrier()
    start = time.perf_counter()
    found = does[job](model, round(SIZES[job] * share))
    seconds = time.perf_counter() - start
    if distributed.get_rank() == 0:
        digest = hashlib.sha256(np.ascontiguousarray(found).tobytes()).hexdigest()
        print(json.dumps({"seconds": seconds, "digest": digest}))
    distributed.destroy_process_group()


def prompts(model: Any, n: int) -> Any:
    import circuitkit as ck

    return ck.Dataset.of(ck.make_task("ioi", model, n=n), model, batch_size=32)


def exact(model: Any, n: int) -> np.ndarray:
    """The exact effect of every edge."""
    import circuitkit as ck

    found: np.ndarray = ck.discovery.exact(model, prompts(model, n)).values
    return found


def evaluate(model: Any, n: int) -> np.ndarray:
    """Many circuits, which share what they compute alike."""
    import circuitkit as ck
    from circuitkit.evaluation.masks import drawn_masks

    masks = drawn_masks(model.wiring, 150, CIRCUITS, 0)
    return np.stack([own.circuit for own in ck.evaluate(model, masks, prompts(model, n), "kl")])


def study(model: Any, n: int) -> np.ndarray:
    """Every cell of a study, without circuits."""
    import circuitkit as ck

    found = ck.study(model, "ioi", examples=n, circuits=(), batch_size=32)
    return np.concatenate([own.values.ravel() for own in found.effects.values()])


def row(job: str, share: float) -> dict[str, Any]:
    """A job with one process, with two, and twice at once."""
    one, two = (timed(job, share, n) for n in (1, 2))
    with ThreadPoolExecutor() as pool:
        apart = max(own["seconds"] for own in pool.map(lambda n: timed(job, share, n), (1, 1)))
    equal = one["digest"] == two["digest"]
    found = {"job": job, "one": one["seconds"], "two": two["seconds"], "apart": apart,
             "equal": equal}  # fmt: skip
    print(found, file=sys.stderr)
    return found


def timed(job: str, share: float, processes: int) -> dict[str, Any]:
    """A job with so many processes."""
    done = subprocess.run(
        [*torchrun(processes), __file__, "--job", job, "--share", str(share)],
        check=True, capture_output=True, text=True, env=environment(),
    )  # fmt: skip
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def torchrun(processes: int, *more: str) -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", "--standalone",
            "--nproc-per-node", str(processes), *more]  # fmt: skip


def environment() -> dict[str, str]:
    return {**os.environ, "TQDM_DISABLE": "1", "OMP_NUM_THREADS": "1"}


def text(rows: list[dict[str, Any]]) -> str:
    """The table as Markdown."""
    lines = [
        "# Two processes beside one",
        "",
        "`python benchmarks/processes.py -o benchmarks/processes.md`",
        "",
        f"The embedded model, batches of 32 prompts, one thread a process, {psutil.cpu_count()} "
        "cores; seconds from when the model is loaded, by torchrun and gloo. The results of one "
        "process and of two are compared bit by bit. The last column is what the machine allows: "
        "two runs of one process at once, which share nothing.",
        "",
        "| job | prompts | one process, s | two, s | times as fast | equal | two runs apart |",
        "|---|---:|---:|---:|---:|---|---:|",
    ]
    names = {"evaluate": f"`evaluate` of {CIRCUITS} circuits", "study": "`study`, without circuits"}
    for own in rows:
        name = names.get(own["job"], f"`{own['job']}`")
        lines.append(
            f"| {name} | {SIZES[own['job']]:,} | {own['one']:.1f} | {own['two']:.1f} | "
            f"{own['one'] / own['two']:.2f} | {'yes' if own['equal'] else 'NO'} | "
            f"{2 * own['one'] / own['apart']:.2f} |"
        )
    return "\n".join(lines) + "\n"


# -- kills -----------------------------------------------------------------------------------------
def killed(times: int) -> str:
    """What came of runs in which a process was killed."""
    rng, same, began = random.Random(0), 0, time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        command = [sys.executable, "-m", "circuitkit", *RUN, "-o", str(place / "alone")]
        subprocess.run(command, check=True, capture_output=True, env=environment())
        whole = contents(place / "alone")
        start = time.perf_counter()
        once(place / "calm", None, rng)
        usual = time.perf_counter() - start
        same += contents(place / "calm") == whole
        for number in range(times):
            at = rng.uniform(0.3 * usual, usual)  # from when the processes have begun to import
            ended = once(place / str(number), at, rng)
            equal = contents(place / str(number)) == whole
            same += equal
            print(f"killed after {at:.1f} of {usual:.1f} s: equal {equal}, process killed {ended}",
                  file=sys.stderr)  # fmt: skip
    seconds = time.perf_counter() - began
    return f"{same} of {times + 1} runs equal that of one process ({seconds:.0f} s)"


def once(place: Path, at: float | None, rng: random.Random) -> bool:
    """Run with two processes, one of which is killed after so many seconds, while the other is
    stopped for half of the time; returns whether torchrun has seen one killed."""
    command = [*torchrun(2, "--max-restarts", "3"), "-m", "circuitkit", *RUN, "-o", str(place)]
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                           env=environment())  # fmt: skip
    start = time.perf_counter()
    while run.poll() is None:
        workers = psutil.Process(run.pid).children()
        due = at is not None and time.perf_counter() - start > at and len(workers) == 2
        if due:
            rng.shuffle(workers)
            workers[0].send_signal(signal.SIGKILL)
            at = None
        if len(workers) == 2 and at is not None:
            slowed(workers[1])
        time.sleep(0.05)
    said = run.stderr.read() if run.stderr else ""
    if run.returncode:
        raise SystemExit(f"the run has ended with {run.returncode}:\n{said}")
    return "exitcode: -9" in said


def slowed(worker: psutil.Process) -> None:
    """Stop a process for a moment."""
    try:
        worker.suspend()
        time.sleep(0.05)
        worker.resume()
    except psutil.NoSuchProcess:
        pass


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


if __name__ == "__main__":
    main()
