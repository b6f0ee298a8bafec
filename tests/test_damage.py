"""Damaged input: refused in one sentence, or read as what it says; never anything else."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
from damage import Reader, outcome
from hypothesis import HealthCheck, Phase, given, settings
from readers import PARTS, READERS

CASES = 24  # of a reader whose share is 1; benchmarks/fuzz.py tries ten thousand
ELSEWHERE = {make.__name__ for make in PARTS["models"]}  # in tests/test_weights.py
NAMES = [name for name in READERS if name not in ELSEWHERE]


@functools.cache
def made(name: str) -> Reader:
    return READERS[name]()


@pytest.mark.parametrize("name", NAMES)
def test_a_sound_file_is_read(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    reader = made(name)
    assert outcome(reader, reader.sound, tmp_path) == "accepted"


@pytest.mark.unchecked
@pytest.mark.filterwarnings("ignore:the scores of mask_gradient sum")
@pytest.mark.parametrize("name", NAMES)
def test_damaged_input_is_refused_or_read_as_what_it_says(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    reader = made(name)

    @settings(
        max_examples=max(8, round(CASES * reader.share)), derandomize=True, deadline=None,
        database=None, phases=(Phase.generate,), suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(reader.contents)
    def case(content: bytes) -> None:
        outcome(reader, content, tmp_path)

    case()
