"""What every test runs under: no network, one thread; and where CIRCUITKIT_CHECK_TYPES=1 is set,
the annotations of the package checked whenever one of its functions is called."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import jaxtyping
import pytest
import torch

torch.set_num_threads(1)
if os.environ.get("CIRCUITKIT_CHECK_TYPES", "0") != "0":
    jaxtyping.install_import_hook("circuitkit", "typecheck.check")


def pytest_collection_finish() -> None:
    """What is imported stays: the collector need not look through it again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


@pytest.fixture(autouse=True)
def _checking(request: pytest.FixtureRequest) -> Iterator[None]:
    """No checks in a test that gives wrong types to see our own errors (or Python's random numbers,
    of which the checker draws some)."""
    given = request.node.get_closest_marker("unchecked") is not None
    jaxtyping.config.update("jaxtyping_disable", given)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
