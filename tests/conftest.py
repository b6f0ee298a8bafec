"""What every test runs under: no network, one thread, a part of the families; and where
CIRCUITKIT_CHECK_TYPES=1 is set, the annotations of the package checked whenever one of its
functions is called."""

from __future__ import annotations

import gc
import os
from collections import defaultdict
from collections.abc import Iterator
from typing import Any
from zlib import crc32

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis  # noqa: F401  # before the collector freezes: it looks for what holds a generator
import jaxtyping
import pytest
import torch

torch.set_num_threads(1)
if os.environ.get("CIRCUITKIT_CHECK_TYPES", "0") != "0":
    jaxtyping.install_import_hook("circuitkit", "typecheck.check")


# A law on as many families leaves some to .ci/weekly; but not those that prove the family itself.
MANY = 10
ON_ALL = {"test_every_statement_holds_for_every_family", "test_the_check_holds_for_relatives_too"}


@pytest.hookimpl(tryfirst=True)  # before weekly tests are left out
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A law on every family runs on those of OFTEN and on a third of the others; its name and its
    other parameters decide on which, so that each family is put to a third. The rest is weekly."""
    from families import FAMILIES, OFTEN, RELATIVES  # not before the annotations are checked

    families = (*FAMILIES, *RELATIVES)
    others = [family for family in families if family not in OFTEN]
    laws = defaultdict(list)
    for item in items:
        given = item.callspec.params.values() if hasattr(item, "callspec") else ()
        for family in (value for value in given if isinstance(value, str) and value in families):
            laws[item.path, item.originalname].append((item, family))
    for (_, name), cases in laws.items():
        if name in ON_ALL or len({family for _, family in cases}) < MANY:
            continue
        for item, family in cases:
            turn = crc32(item.name.replace(family, "").encode())
            if family in others and (others.index(family) + turn) % 3:
                item.add_marker(pytest.mark.weekly)


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
