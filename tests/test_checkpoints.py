"""A journal gives back what was finished, bit by bit, and nothing else."""

from __future__ import annotations

import json
import os
from copy import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from families import build, dataset, double, model

from circuitkit.engine.checkpoints import Journal, digest, identity
from circuitkit.errors import OutputError
from circuitkit.graph import circuit
from circuitkit.models.experts import ROUTERS
from circuitkit.models.transformer_lens import from_module

ABOUT = {"model": "gpt2", "metric": "logit_diff", "sizes": [1, 2]}
BLOCK = {
    "effects": np.arange(6, dtype=np.float32).reshape(2, 3).T / 7,
    "plain": np.array([[np.nan, -0.0, np.inf]]),
    "none": np.zeros((0, 4), np.float32),
    "one": np.array(3),
}


def same(one: dict[str, np.ndarray] | None, two: dict[str, np.ndarray]) -> bool:
    """Bit by bit; a value that is nan is itself."""
    return one is not None and one.keys() == two.keys() and all(
        one[k].dtype == two[k].dtype
        and one[k].shape == two[k].shape
        and one[k].tobytes() == two[k].tobytes()
        for k in two
    )  # fmt: skip


def files(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file())


def block_file(directory: Path) -> Path:
    (found,) = directory.rglob("*.safetensors")
    return found


def test_a_block_comes_back_bit_by_bit_to_another_journal_about_the_same(tmp_path: Path) -> None:
    Journal(tmp_path, ABOUT).put("batch-0/edges-0", BLOCK)
    again = Journal(tmp_path, dict(reversed(ABOUT.items())))
    assert same(again.get("batch-0/edges-0"), BLOCK)
    assert again.get("batch-0/edges-1") is None
    assert not same({**BLOCK, "one": np.array(4)}, BLOCK)


def test_a_later_block_of_the_same_key_takes_the_place(tmp_path: Path) -> None:
    journal, later = Journal(tmp_path, ABOUT), {"effects": np.ones(2)}
    journal.put("key", BLOCK)
    journal.put("key", later)
    assert same(journal.get("key"), later)


def test_without_a_directory_nothing_is_kept_or_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    journal = Journal(None, ABOUT)
    journal.put("key", BLOCK)
    assert journal.get("key") is None
    assert journal.place is None
    assert not files(tmp_path)


@pytest.mark.parametrize("change", [{"metric": "prob_diff"}, {"sizes": [2, 1]}, {"more": None}])
def test_work_about_anything_else_has_its_own_place(
    tmp_path: Path, change: dict[str, object]
) -> None:
    one, other = Journal(tmp_path, ABOUT), Journal(tmp_path, {**ABOUT, **change})
    one.put("key", BLOCK)
    assert other.get("key") is None
    assert one.place != other.place
    said = json.loads((other.place or tmp_path).joinpath("about.json").read_text())
    dealt = {"processes": 1, "threads": torch.get_num_threads()}
    assert said == {**ABOUT, **change, "dealt": dealt}


def test_no_damage_passes_for_a_result(tmp_path: Path) -> None:
    journal = Journal(tmp_path, ABOUT)
    journal.put("key", BLOCK)
    path = block_file(tmp_path)
    whole = path.read_bytes()
    for at in range(len(whole)):
        for broken in (
            whole[:at],
            whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :],
            whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :],
            whole[:at] + bytes(len(whole) - at),
        ):
            path.write_bytes(broken)
            assert broken == whole or journal.get("key") is None, at
    path.write_bytes(whole + b"\0")
    assert journal.get("key") is None
    path.write_bytes(whole)
    assert same(journal.get("key"), BLOCK)


def test_another_block_or_another_runs_block_does_not_pass_for_one(tmp_path: Path) -> None:
    one, other = Journal(tmp_path, ABOUT), Journal(tmp_path, {**ABOUT, "seed": 1})
    one.put("a", BLOCK)
    path = block_file(tmp_path)
    path.with_stem("b").write_bytes(path.read_bytes())
    assert other.place is not None
    (other.place / path.name).write_bytes(path.read_bytes())
    assert one.get("b") is None
    assert other.get("a") is None
    assert same(one.get("a"), BLOCK)


def test_a_run_that_ends_while_it_writes_leaves_no_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path, ABOUT)

    def end(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(circuit.os, "replace", end)
        with pytest.raises(KeyboardInterrupt):
            journal.put("key", BLOCK)
    assert journal.get("key") is None
    journal.put("key", BLOCK)
    assert same(journal.get("key"), BLOCK)


def test_a_place_that_cannot_be_written_is_refused_before_any_work(tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.write_text("")
    with pytest.raises(OutputError, match="taken"):
        Journal(taken, ABOUT)


def test_what_plain_runs_gave_is_recognised_but_for_rounding(tmp_path: Path) -> None:
    journal, m, now = Journal(tmp_path, ABOUT), model("gpt2"), np.array([1.0, -2.0, np.nan])
    journal.recognise(m, now * (1 + 1e-6), now)
    with pytest.raises(OutputError, match="a different model"):
        journal.recognise(m, now * 1.01, now)
    small = now * 1e-6  # rounding, beside values that are compared as if they were 1
    journal.recognise(m, small * 2, small, least=1.0)
    with pytest.raises(OutputError, match="a different model"):
        journal.recognise(m, small * 2, small)


def test_work_on_another_model_or_data_is_other_work() -> None:
    data, m = dataset(), model("mixtral")
    plain = identity(m, data)
    assert identity(m, dataset()) == plain
    others = [identity(m, dataset(**{name: value})) for name, value in
              {"seed": 1, "batch_size": 2, "padding": "left"}.items()]  # fmt: skip
    others += [identity(from_module(build("mixtral"), name=m.name, experts=router), data)
               for router in ROUTERS]  # fmt: skip
    others.append(identity(double("mixtral"), data))
    smaller = copy(m)
    smaller.wiring = replace(m.wiring, layers=2)
    others.append(identity(smaller, data))
    assert len({digest(one) for one in (plain, *others)}) == 1 + len(others)


def test_a_hash_depends_on_values_and_not_on_the_order_of_keys() -> None:
    assert digest({"a": 1, "b": [1, np.int64(2)]}) == digest({"b": [1, 2], "a": 1})
    assert digest([1, 2]) != digest([2, 1])
    assert os.sep not in digest("a/b")
