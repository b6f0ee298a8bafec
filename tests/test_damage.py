"""Damaged files: refused in one sentence, or read as what they say; never anything else."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
from damage import READERS, Reader, outcome
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

CASES = 120  # of each reader; benchmarks/fuzz.py tries ten thousand


@functools.cache
def made(name: str) -> Reader:
    return READERS[name]()


@pytest.mark.parametrize("name", READERS)
def test_a_sound_file_is_read(name: str, tmp_path: Path) -> None:
    reader = made(name)
    assert outcome(reader, reader.sound, tmp_path) == "accepted"


@pytest.mark.unchecked
@pytest.mark.parametrize("name", READERS)
@settings(
    max_examples=CASES, derandomize=True, deadline=None, database=None, phases=(Phase.generate,),
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
@given(data=st.data())
def test_a_damaged_file_is_refused_or_read_as_what_it_says(
    name: str, tmp_path: Path, data: st.DataObject
) -> None:
    reader = made(name)
    outcome(reader, data.draw(reader.contents), tmp_path)
