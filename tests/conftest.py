"""What every test runs under: no network, one thread; and where CIRCUITKIT_CHECK_TYPES=1 is set,
the annotations of the package checked whenever one of its functions is called."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from typing import Any

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


@pytest.fixture(scope="module")
def one_mini() -> Iterator[None]:
    """Whoever loads mini as it is gets one that was loaded once, and leaves it as it is."""
    import circuitkit
    from circuitkit.models import loading

    load = loading.load
    held: Any = load("mini")
    words = held.tokenizer
    before = {name: weight.clone() for name, weight in held.tensors().items()}

    def lent(source: Any, **options: Any) -> Any:
        asked = any(value is not None for value in options.values())
        return load(source, **options) if asked or source != "mini" else held

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(circuitkit, "load", lent)  # first, for it takes what it serves from there
        patched.setattr(loading, "load", lent)
        yield
    after = held.tensors()
    assert held.tokenizer is words
    assert all(torch.equal(weight, after[name]) for name, weight in before.items())


@pytest.fixture(scope="module")
def blank_figures() -> Iterator[None]:
    """Charts are empty files, for tests of where they go; what they show is asked elsewhere."""
    from circuitkit.viz.figures._figure import Figure

    with pytest.MonkeyPatch.context() as patched:
        blank = b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"></svg>'
        patched.setattr(Figure, "_written", lambda figure, suffix: blank)
        yield


@pytest.fixture(scope="module")
def quick_figures() -> Iterator[None]:
    """Charts are laid out once, not until their axes have the size that they ask for."""
    from circuitkit.viz.figures._sheet import Sheet

    def fit(sheet: Any, figure: Any, engine: Any, every: Any, whole: Any, tries: int) -> None:
        if tries > 2:  # the title and the legend are there
            engine.execute(figure)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Sheet, "_fit", fit)
        yield
