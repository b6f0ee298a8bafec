"""What every test runs under: no network, one thread, a part of the families; and where
CIRCUITKIT_CHECK_TYPES=1 is set, the annotations of the package checked whenever one of its
functions is called."""

from __future__ import annotations

import functools
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


# A law on as many cases leaves some to .ci/weekly; but not those that prove a family itself, and
# not where each case is a text, a page or a file of its own.
MANY = 10
ON_ALL = {"test_every_statement_holds_for_every_family", "test_the_check_holds_for_relatives_too"}
EACH = {"test_cli_output", "test_docs", "test_docstrings", "test_first_guesses", "test_json",
        "test_layers", "test_public", "test_references", "test_settings"}  # fmt: skip


@pytest.hookimpl(tryfirst=True)  # before weekly tests are left out
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A law on many families runs on those of OFTEN and on a fifth of the others, any other law on
    many cases on a third of these. Its name and its parameters decide on which, so that each family
    and each value is put to its share of the laws. The rest is weekly."""
    from families import FAMILIES, OFTEN, RELATIVES  # not before the annotations are checked

    families = (*FAMILIES, *RELATIVES)
    others = [family for family in families if family not in OFTEN]
    laws = defaultdict(list)
    for item in items:
        if hasattr(item, "callspec"):
            given = item.callspec.params.values()
            of = next((own for own in given if isinstance(own, str) and own in families), None)
            laws[item.path, item.originalname].append((item, of))
    for (path, name), cases in laws.items():
        many = name not in ON_ALL and len({family for _, family in cases if family}) >= MANY
        each = path.stem in EACH or len(cases) < MANY
        for item, family in cases:
            turn = crc32(item.name.replace(family or "", "").encode())
            if family is None:
                left = 0 if each else turn % 3
            else:
                left = (others.index(family) + turn) % 5 if many and family in others else 0
            if left:
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


class Lent:
    """What loads models in tests: whoever loads mini as it is gets one that was loaded once, and
    leaves it as it is; in a module marked ``own_mini`` each gets its own."""

    def __init__(self) -> None:
        from circuitkit.models import loading

        self.load, self.held, self.before = loading.load, None, {}
        self.own = False

    def __call__(self, source: Any = None, *args: Any, **options: Any) -> Any:
        asked = any(value is not None for value in options.values())
        if self.own or args or asked or source != "mini":
            return self.load(source, *args, **options)
        if self.held is None:
            self.held = self.load("mini")
            self.before = {name: own.clone() for name, own in self.held.tensors().items()}
            self.words = self.held.tokenizer
        return self.held

    def check(self) -> None:
        """Whether it is as it was."""
        held, self.held = self.held, None  # the next module is lent another, unless this is sound
        if held is not None:
            after = held.tensors()
            assert held.tokenizer is self.words
            assert all(torch.equal(own, after[name]) for name, own in self.before.items())
            self.held = held


LENT = Lent()


def pytest_configure() -> None:
    """Before any test module takes ``load`` from where it stands."""
    from circuitkit.models import loading

    loading.load = functools.wraps(LENT.load)(lambda *args, **options: LENT(*args, **options))


@pytest.fixture(scope="module", autouse=True)
def _one_mini(request: pytest.FixtureRequest) -> Iterator[None]:
    LENT.own = request.node.get_closest_marker("own_mini") is not None
    yield
    LENT.check()


@pytest.fixture(scope="module")
def blank_figures() -> Iterator[None]:
    """Charts are empty files, for tests of where they go; what they show is asked elsewhere."""
    from circuitkit.viz.figures._figure import Figure

    with pytest.MonkeyPatch.context() as patched:
        blank = b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"></svg>'
        patched.setattr(Figure, "_written", lambda figure, suffix: blank)
        yield


@pytest.fixture(scope="module", autouse=True)
def _quick_figures(request: pytest.FixtureRequest) -> Iterator[None]:
    """Charts are laid out once, not until their axes have the size that they ask for; except in a
    module marked ``laid_out``."""
    from circuitkit.viz.figures._sheet import Sheet

    def fit(sheet: Any, figure: Any, engine: Any, every: Any, whole: Any, tries: int) -> None:
        if tries > 2:  # the title and the legend are there
            engine.execute(figure)

    with pytest.MonkeyPatch.context() as patched:
        if request.node.get_closest_marker("laid_out") is None:
            patched.setattr(Sheet, "_fit", fit)
        yield
