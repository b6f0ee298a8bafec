"""The pages of runs: a small study's, a benchmark's by hand, and what is asked of every page."""

from __future__ import annotations

import html
import html.parser
import re
from functools import cache, partial
from math import nan
from typing import Any

from families import able, model

from circuitkit.corruptions.gaussian import noise
from circuitkit.corruptions.replacement import counterfactual
from circuitkit.metrics.answers import logit_diff, probability
from circuitkit.workflows.benchmark.records import COLUMNS
from circuitkit.workflows.benchmark.results import Benchmark
from circuitkit.workflows.study.records import Part
from circuitkit.workflows.study.results import Study
from circuitkit.workflows.study.running import study

__all__ = ["HOSTILE", "Page", "bench_page", "benchmark", "few", "study_page"]

HOSTILE = "</title></script><script>alert(1)</script><img src=x onerror='alert(2)'>\"&"
PARTS = (Part("z"), Part("mlp_out", ("subject", "end")), Part("resid_pre", ("subject", "end")))
VOID = ("meta", "br")


@cache
def few() -> Study:
    """Two corruptions × two metrics: every kind of table and figure, with less in each."""
    return study(
        model("llama"), able("llama"), metrics=(logit_diff, probability),
        corruptions=(counterfactual, partial(noise, seed=1)), parts=PARTS, windows=(2,),
        groups={"two": ("a0.h1", "a2.h3")}, only=None, circuits=(counterfactual,),
    )  # fmt: skip


@cache
def study_page() -> str:
    """Its page."""
    return few().report()


def benchmark(*, name: str = "mine", failed: str = "") -> Benchmark:
    """Three methods at two budgets on plain programs and on a real model, by hand; ``name`` is that
    of one method, and ``failed`` why it was refused once more."""
    rows: list[dict[str, Any]] = []
    worth = {"random": 0.2, "eap_ig": 0.7, name: 0.8}
    for block, programs in (("plain", ("one", "two", "three", "four")), ("real", ("ioi", "facts"))):
        for k, program in enumerate(programs):
            for budget in (10, 50):
                for method, own in worth.items():
                    value = own + 0.02 * k + budget / 1000
                    rows.append({
                        **dict.fromkeys(COLUMNS, nan), "block": block, "program": program,
                        "model": program if block == "plain" else f"mini:{program}",
                        "corruption": "zero", "seed": 0, "budget": budget, "method": method,
                        "prompts": 8, "failed": "", "cmd": 1 - value, "true": 5, "edges": 20,
                        "sequence_backwards": 0 if method == "random" else budget,
                        "cpu_seconds": budget / 100,
                        "average_precision": value if block == "plain" else nan,
                    })  # fmt: skip
    if failed:
        rows.append({**rows[2], "seed": 1, "failed": failed, "cmd": nan, "average_precision": nan})
    truth = {"block": "plain", "program": "one", "model": "one", "corruption": "zero", "seed": None,
             "edges": 20, "main": "half", "mapped": None, "one": 5, "half": 5, "unmapped": 0.0,
             "leak": 0.0}  # fmt: skip
    about = {"metric": "logit_diff", "examples": 8, "skipped": {"large:ioi": "it is not here"}}
    return Benchmark(about, tuple(rows), (truth,))


@cache
def bench_page() -> str:
    """The benchmark's page."""
    return benchmark().report()


class Page(html.parser.HTMLParser):
    """What a page opens and closes, where it points, and what its figures and tables are called."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.contents: list[str] = []  # where the table of contents points
        self.seen: list[str] = []
        self.ids: list[str] = []
        self.attributes: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        captions = re.findall(r"<b>((?:Figure|Table)\s\d+)\.</b>\s*([^<]*)", text)
        self.captions = {name.replace("\xa0", " "): html.unescape(said) for name, said in captions}

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        own = dict(attrs)
        self.seen.append(tag)
        self.attributes.append((tag, own))
        if "svg" not in self.open:
            self.ids += [own["id"]] if "id" in own else []
            self.links += [str(own[key]) for key in ("src", "href") if key in own]
            if tag == "a" and "nav" in self.open:
                self.contents.append(own["href"])
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
