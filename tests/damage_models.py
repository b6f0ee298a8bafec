"""Damaged model directories, one or two damages of tests/damaged.py together: a case is a list of a
seed and the damages' numbers."""

from __future__ import annotations

import contextlib
import json
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import damaged
import torch
from damage import Reader
from hypothesis import strategies as st

import circuitkit
from circuitkit.errors import ModelError
from circuitkit.util.quiet import quiet

KINDS, SEEDS = 219, 1000
CLOSE = 0.02  # of the largest logit: half precision


class Logits:
    """Logits that are equal where they are close."""

    def __init__(self, values: torch.Tensor) -> None:
        assert torch.isfinite(values).all(), "numbers that are not finite are accepted"
        self.values = values.double()

    def __eq__(self, other: object) -> bool:
        theirs = getattr(other, "values", None)
        if not isinstance(theirs, torch.Tensor) or theirs.shape != self.values.shape:
            return False
        return bool((theirs - self.values).abs().max() <= CLOSE * theirs.abs().max())

    __hash__ = None  # type: ignore[assignment]


@lru_cache(4)
def _cases(seed: int) -> list[damaged.Damaged]:
    return list(damaged.damaged_models(seed))


def _chosen(content: bytes) -> list[damaged.Damaged]:
    seed, *numbers = json.loads(content)
    own = _cases(seed)
    return [own[number % len(own)] for number in numbers]


def _place(folder: Path, content: bytes) -> Path:
    (folder / "case").write_bytes(content)
    first, *others = _chosen(content)
    directory = first.write(folder)
    for one in others:  # what the first has left to be damaged
        with contextlib.suppress(Exception):
            one.damage(directory)
    return directory


def _read(path: Path) -> Any:
    """The logits of two loads, after a look at what the damage alone is to come to."""
    cases = _chosen((path.parent / "case").read_bytes())
    told = cases[0].expected if len(cases) == 1 else None
    try:
        one, two = (circuitkit.load(path).native(PROBE, ALL).logits[0] for _ in range(2))
    except ModelError as error:
        if told == damaged.TAKEN:
            raise AssertionError(f"it is refused: {error}") from error
        raise
    finally:
        assert not Path("was-executed").exists(), "code in a file was executed"
    assert told != damaged.REFUSED, "it is accepted"
    assert torch.equal(one, two), "two loads give different numbers"
    return Logits(one)


def _expected(content: bytes) -> Any:
    from transformers import AutoModelForCausalLM

    with tempfile.TemporaryDirectory() as folder, quiet(), torch.no_grad():
        path = _place(Path(folder), content)
        plain = AutoModelForCausalLM.from_pretrained(path, attn_implementation="eager")
        return Logits(plain(PROBE, use_cache=False).logits[0])


PROBE = torch.tensor([[3, 1, 4, 1, 5, 9]])
ALL = torch.ones_like(PROBE).bool()


def models() -> Reader:
    """A saved model: the numbers that Hugging Face gives for its files."""
    numbers = st.lists(st.integers(0, KINDS - 1), min_size=1, max_size=2)
    drawn = st.tuples(st.integers(0, SEEDS), numbers).map(lambda own: [own[0], *own[1]])

    def show(out: str, _: Path, __: Any) -> None:
        assert json.loads(out)["holds"] is True, "it does not hold"

    return Reader("model directory", json.dumps([0, KINDS - 1]).encode(),
                  drawn.map(json.dumps).map(str.encode), _read, _place, _expected,
                  lambda path: ["check", str(path), "--json"], show, share=1)  # fmt: skip
