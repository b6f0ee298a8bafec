"""What other projects cost at the same work, each in an environment of its own.

A peer's environment is made once, in a cache directory. Where a peer cannot be installed or run,
its table says why.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import venv
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _edges import Patching
from _inputs import GPT2_SMALL, SMALL, difference_of_logits, first, gpt2, pairs
from _measure import Cell, Table, Timer, largest_difference

from circuitkit.corruptions.replacement import counterfactual
from circuitkit.data.batches import Dataset
from circuitkit.discovery.attribution import eap
from circuitkit.engine.record import record
from circuitkit.engine.run import run
from circuitkit.evaluation.masks import random_masks
from circuitkit.metrics.answers import logit_diff
from circuitkit.models.transformer_lens import Transformer

__all__ = ["PEERS", "auto_circuit", "default_cache"]

HERE = Path(__file__).resolve().parent
# the last TransformerLens before HookedTransformer was removed; attrs is imported, not declared
AUTO_CIRCUIT = ("auto-circuit==1.0.1", "transformer-lens==3.9.0", "attrs", "torch", "transformers")
EVERY = 10  # of the small model's edges it is timed on one in so many
INSTALL_SECONDS, RUN_SECONDS = 1800, 1800
HEAD = ("what", "seconds", "F of its own", "F of ours", "times ours", "difference")
Row = tuple[Cell, ...]


class PeerError(Exception):
    """Why a peer gives no numbers."""


def auto_circuit(model: Transformer, timer: Timer, cache: Path) -> Table:
    """auto-circuit's attribution, circuit and exact edges beside ours, on the same weights."""
    title = "Peer: auto-circuit"
    try:
        if timer.device != "cpu":
            raise PeerError("it is timed on the CPU alone; leave --device out")
        small = gpt2(timer, SMALL)
        mask = random_masks(model.wiring, 500, 1, timer.seed)[0]
        job = _job(model, small, mask, timer)
        found = _result(_environment(cache / "auto-circuit", AUTO_CIRCUIT),
                        HERE / "_peer_auto_circuit.py", job)  # fmt: skip
    except PeerError as error:
        return Table(title, "", HEAD, [(f"cannot run: {error}", "", "", "", "", "")])
    note = (
        f"{found['versions']}; {timer.threads} thread(s), the same weights and 8 × 16 tokens. "
        f"Exact patching, which it does not offer alone, is the loop inside its ACDC, timed once "
        f"on {len(found['edges']['values'])} edges of {small.wiring.n_edges:,} and extrapolated; "
        "the others are the least of 2. A circuit includes its corrupted run. The difference is "
        "of the largest magnitude."
    )
    rows = [*_large(model, mask, found, timer), *_small(small, found, timer)]
    return Table(title, note, HEAD, rows)


PEERS = {"auto-circuit": auto_circuit}


# -- the two sides ---------------------------------------------------------------------------------
def _job(model: Transformer, small: Transformer, mask: np.ndarray, timer: Timer) -> dict[str, Any]:
    w = model.wiring
    return {
        "threads": timer.threads,
        "seed": timer.seed,
        "every": EVERY,
        "gpt2": {"shape": GPT2_SMALL, **_prompts(pairs(model, 8))},
        "small": {"shape": SMALL, **_prompts(pairs(small, 8))},
        "circuit": [f"{w.writers[row]}->{w.readers[column]}" for row, column in np.argwhere(mask)],
    }


def _prompts(data: Dataset) -> dict[str, Any]:
    return {
        "clean": [e.clean for e in data.examples],
        "corrupt": [e.corrupt for e in data.examples],
        "correct": [e.correct[0] for e in data.examples],
        "wrong": [e.wrong[0] for e in data.examples],
    }


def _large(
    model: Transformer, mask: np.ndarray, found: dict[str, Any], timer: Timer
) -> Iterator[Row]:
    data = pairs(model, 8)
    batch = first(data)
    plain = timer.plain(model, batch)
    yield _row("one plain forward, GPT-2 small", found["plain"], found["plain"], plain, plain, "")
    attribute = partial(eap, model, data, logit_diff, counterfactual)
    values = attribute().values
    theirs = [found["attribution"]["values"][name] for name in _names(model, model.wiring.legal)]
    error, _ = largest_difference(values[model.wiring.legal], theirs)
    yield _row(
        f"`mask_gradient_prune_scores` (`eap`), all {model.wiring.n_edges:,} edges",
        found["attribution"]["seconds"], found["plain"], plain, timer.seconds(attribute), error,
    )  # fmt: skip

    made: list[torch.Tensor] = []

    @torch.no_grad()
    def circuit() -> None:
        carried = record(model, model.start(batch.corrupt, batch.mask))
        made.append(run(model, batch, model.start(batch.clean, batch.mask), carried, mask))

    ours = timer.seconds(circuit)
    error, _ = largest_difference(
        difference_of_logits(made[-1], batch), found["circuit"]["values"]
    )  # fmt: skip
    yield _row(
        f"`run_circuits`, {int(mask.sum())} random edges", found["circuit"]["seconds"],
        found["plain"], plain, ours, error,
    )  # fmt: skip


def _small(model: Transformer, found: dict[str, Any], timer: Timer) -> Iterator[Row]:
    patching = Patching.of(model, first(pairs(model, 8)))
    plain = timer.plain(model, patching.batch)
    own, n = found["plain_small"], model.wiring.n_edges
    yield _row("one plain forward, the small model", own, own, plain, plain, "")
    chosen = [tuple(edge) for edge in np.argwhere(model.wiring.legal).tolist()]
    effects = {}

    def swept() -> None:
        start = patching.plain()
        for edge, values in patching.swept(chosen).items():
            effects[edge] = float((start - values).mean())

    ours = timer.seconds(swept, 3)
    names = dict(zip(_names(model, model.wiring.legal), chosen, strict=True))
    theirs = found["edges"]["values"]
    error, _ = largest_difference(
        [effects[names[name]] for name in theirs], list(theirs.values())
    )  # fmt: skip
    yield _row(f"exact, all {n:,} edges of the small model (extrapolated)",
               found["edges"]["seconds"] * n, own, plain, ours, error)  # fmt: skip


def _row(what: str, seconds: float, own: float, plain: float, ours: float, difference: Cell) -> Row:
    return what, seconds, seconds / own, seconds / plain, seconds / ours, difference


def _names(model: Transformer, mask: np.ndarray) -> list[str]:
    w = model.wiring
    return [f"{w.writers[row]}->{w.readers[column]}" for row, column in np.argwhere(mask)]


# -- the environment -------------------------------------------------------------------------------
def default_cache() -> Path:
    """Where the peers' environments are kept."""
    return Path(tempfile.gettempdir()) / "circuitkit-peers"


def _environment(place: Path, wanted: tuple[str, ...]) -> Path:
    """The Python of an environment that holds these packages; made where it is not there."""
    python = place / ("Scripts" if os.name == "nt" else "bin") / "python"
    done = place / "installed.txt"
    if done.exists() and done.read_text() == " ".join(wanted):
        return python
    venv.create(place, with_pip=True, clear=True)
    lines = (HERE.parent / "constraints.txt").read_text().splitlines(keepends=True)
    pins = place / "constraints.txt"  # ours pin a TransformerLens that the peer cannot use
    pins.write_text("".join(x for x in lines if not x.startswith("transformer_lens")))
    _call([str(python), "-m", "pip", "install", "-q", *wanted, "-c", str(pins)], INSTALL_SECONDS)
    done.write_text(" ".join(wanted))
    return python


def _result(python: Path, script: Path, job: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        given, made = Path(folder, "job.json"), Path(folder, "result.json")
        given.write_text(json.dumps(job))
        _call([str(python), "-W", "ignore", str(script), str(given), str(made)], RUN_SECONDS)
        found: dict[str, Any] = json.loads(made.read_text())
    return found


def _call(command: list[str], limit: float) -> None:
    """Run a command; raises PeerError with the last line that it wrote."""
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=limit)
    except subprocess.CalledProcessError as error:
        lines = [x for x in error.stderr.strip().splitlines() if "WARNING" not in x]
        raise PeerError(lines[-1][:300] if lines else f"exit {error.returncode}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PeerError(f"{type(error).__name__}: {error}"[:300]) from error
