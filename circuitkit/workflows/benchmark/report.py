"""A benchmark as one HTML page: a short summary, then the figures and the tables of each block of
models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import isnan
from types import MappingProxyType

from circuitkit.util.versions import versions
from circuitkit.workflows.benchmark.choosing import SEED, halves
from circuitkit.workflows.benchmark.findings import best, findings
from circuitkit.workflows.benchmark.fronts import figures
from circuitkit.workflows.benchmark.pages import (
    BLOCKS,
    chosen_table,
    left_out,
    place_table,
    refused,
    truth_rows,
)
from circuitkit.workflows.benchmark.records import Records, short
from circuitkit.workflows.reports import Cell, Picture, Report, Section, Table, written

__all__ = ["page"]

WORDS = ("method", "block", "corruption", "chosen by", "model", "models")  # columns
KINDS = MappingProxyType({
    "plain": "Programs that are compiled as they are: the model does nothing else.",
    "varied": "Compiled programs that are made harder to read: rotated, split over heads, "
    "compressed, or hidden among distractors.",
    "trained": "Models that were trained to do a program in a known way.",
})  # fmt: skip
MEASURES = MappingProxyType({
    "ap": "Average precision: how far the true edges come first in the order of a method's scores "
    "(without a unit; 1 is best, higher is better)",
    "cmd": "CMD: how far the faithfulness of a method's circuits is from that of the whole model, "
    "over all sizes (without a unit; 0 is best, lower is better)",
})  # fmt: skip
COST = (
    "against what one discovery costs. A line for each method through its budgets, of means over "
    "programs; the line without markers is the best that is to be had for so much. The scale of "
    "costs is logarithmic; intervals are in the tables."
)
READING = (
    "Plain programs, varied ones, trained and real models, and corruptions, are never averaged "
    "together. A mean (± half of its 95 % interval) is over the models and seeds of each program, "
    "then over programs; the interval is that of programs drawn again, and of models and seeds "
    "within each.",
    "Differences are from the first eap_ig of the same budget, taken in each model and seed before "
    "they are averaged, with the interval over programs and the p of flipping the signs of "
    "programs' differences; in bold where the method is better and the interval leaves 0 out.",
    "A budget is in sequence-backwards (sb, a forward and a backward of one prompt; a backward "
    "counts as two forwards) of one discovery; methods get as many prompts as it pays for. CPU "
    "seconds are of the machine on which the page was made.",
    "Average precision is by the label that counts: the edges that are mapped (by training, or by "
    "the program that a varied model hides); in plain models those of the label half. AP (one): "
    "against the edges that are necessary when one alone is cut; AP (half): alone, or within a "
    "random half of the other edges, which finds backups. AUROC is by the label that counts, 1/2 "
    "by chance.",
    "CPR (by the signed score; higher is better, without bound) and CMD (by the magnitude; 0 is "
    "best) as MIB defines them, on unseen prompts, over the share of edges, or (log) over its "
    "logarithm. Recalls: the share of the legs of an OR, of backups and of negative heads' edges "
    "among the best edges of the true size.",
    "† ranks edges by the definition of the label one, of which the label that counts in compiled "
    "models is made: it does not compete there.",
)


def page(found: Records, drawn: Mapping[str, str]) -> str:
    """The page, with the figures as they were drawn."""
    sections = [
        *_known(found, drawn), *_real(found, drawn), _chosen(found), _truths(found),
        *_missing(found),
        Section("reading", "How to read these numbers", [], points=READING),
    ]  # fmt: skip
    about = found.about
    parts = [
        f"by {about['metric']}" if about.get("metric") else "",
        f"at most {about['examples']} prompts" if about.get("examples") else "",
        f"under {', '.join(found.options('corruption'))}",
    ]
    made = about.get("versions") or versions()
    return written(
        Report(
            title="Which methods find known circuits",
            about=" · ".join(part for part in parts if part),
            summary=findings(found),
            sections=[section for section in sections if not section.empty],
            foot=", ".join(f"{name} {own}" for name, own in dict(made).items())
            + " · one file; it loads nothing",
            findings=_best(found),
        )
    )


# -- sections --------------------------------------------------------------------------------------
def _known(found: Records, drawn: Mapping[str, str]) -> Iterator[Section]:
    """Each block of models whose truth is known."""
    for block in found.blocks:
        if block not in found.real:
            title = BLOCKS.get(block, block)
            text = f"{KINDS.get(block, '')} {_size(found, [block], 'program')}".strip()
            shown = _pictures(found, drawn, [f"ap-{block}", f"cmd-{block}"], title.lower())
            tables = _tables(found, [block])
            yield Section(f"block-{found.blocks.index(block)}", title, [text], shown, (), tables)


def _real(found: Records, drawn: Mapping[str, str]) -> Iterator[Section]:
    """The real models, each averaged alone."""
    if found.real:
        text = f"Their true edges are not known. {_size(found, found.real, 'task')}"
        shown = _pictures(found, drawn, ["cmd-real"], "real models")
        yield Section("real", "Real models", [text], shown, (), _tables(found, found.real))


def _size(found: Records, blocks: Sequence[str], noun: str) -> str:
    rows = [row for place in found.cells if place.block in blocks for row in found.cells[place]]
    models, programs = (len({row[name] for row in rows}) for name in ("model", "program"))
    return (
        f"{models} model{'s' * (models != 1)} of {programs} {noun}{'s' * (programs != 1)}; each "
        "table has a row for each method and budget, under one corruption."
    )


def _pictures(
    found: Records, drawn: Mapping[str, str], names: Sequence[str], of: str
) -> list[Picture]:
    made = figures(found)
    each = "model and corruption" if "cmd-real" in names else "corruption and cost"
    return [
        Picture(
            name, made[name].title, drawn[name],
            f"{MEASURES[name.partition('-')[0]]}, on {of}, {COST} A panel for each {each}.",
        )
        for name in names if name in made
    ]  # fmt: skip


def _chosen(found: Records) -> Section:
    table = chosen_table(found)
    one, other = (", ".join(sorted(own)) for own in halves(found))
    text = (
        "A method that is chosen on the models by which it is judged is judged too well. For each "
        "budget the method with the best mean among those that cost at most 1.1 times as much is "
        f"chosen on the programs {one} (split by seed {SEED}), and reported on the others "
        f"({other}) and by CMD on the real models."
    )
    caption = (
        "What each choice is worth where it played no part, by the measure it was chosen by, and "
        "its difference from eap_ig at the budget with its 95 % interval and p. (of 10): listed "
        "for that smaller budget."
    )
    told = [_table("choices", table.heads, table.rows, caption, "choices.csv")]
    title = "Chosen on half of the programs, reported on the rest"
    return Section("choices", title, [text], tables=told if table.rows else ())


def _truths(found: Records) -> Section:
    heads = ["block", "model", "corruption", "edges", "mapped", "one", "half", "unmapped", "leak"]
    rows = list(truth_rows(found))
    caption = (
        "Edges by each label. Unmapped: the largest mean effect of cutting one edge that is not "
        "true, as a share of the gap between clean and corrupted answers. Leak: by what share of "
        "the gap everything that is not the program's changes the answer."
    )
    told = [_table("truths", heads, rows, caption, "truths.csv")] if rows else ()
    text = "How many edges are true in each model, and how far the truth is the whole of it."
    return Section("truths", "The models and their true edges", [text], tables=told)


def _missing(found: Records) -> Iterator[Section]:
    """What was left out, and what methods refused."""
    points = [f"{name}: {reason}" for name, reason in left_out(found)]
    yield Section("left-out", "Left out", [], points=points)
    points = [
        f"{one['method']}, {one['cells']} of {len(found.rows)} cells: {one['reason']}"
        + (f" (and {one['others']} other reasons)" if one["others"] else "")
        for one in refused(found)
    ]
    yield Section("refused", "Refused", [], points=points)


# -- tables ----------------------------------------------------------------------------------------
def _tables(found: Records, blocks: Sequence[str]) -> list[Table]:
    made = []
    for block in blocks:
        for how in found.options("corruption"):
            table = place_table(found, block, how)
            where = BLOCKS.get(block, block)
            caption = (
                f"{where} under {how}: means ± half of their 95 % intervals over programs, and "
                "differences from eap_ig of the same budget with their intervals and p; in bold "
                "where a method is better beyond chance."
            )
            if table.rows:
                made.append(_table(block, table.heads, table.rows, caption, "summary.csv"))
    return made


def _table(
    name: str, heads: Sequence[str], rows: Sequence[Sequence[str]], caption: str, file: str = ""
) -> Table:
    """A table of texts, of which all but a few columns are numbers; ``**text**`` is strong."""
    numbers = [head not in WORDS for head in heads]
    cells = [
        [_cell(text, number) for text, number in zip(row, numbers, strict=True)] for row in rows
    ]
    shown = [Cell(head, number) for head, number in zip(heads, numbers, strict=True)]
    return Table(name, shown, cells, caption, file)


def _cell(text: str, number: bool) -> Cell:
    bare = text.removeprefix("**").removesuffix("**")
    strong = number and len(text) == len(bare) + 4
    return Cell(bare if strong else text, number, strong)


def _best(found: Records) -> Table | None:
    """The best method of each block and corruption at the largest budget."""
    rows = list(best(found))
    if not rows:
        return None
    heads = ["models", "corruption", "method", "mean", "− eap_ig"]
    chance = any(not isnan(row.chance.mean) for row in rows)
    heads += ["by chance"] if chance else []
    texts = [
        [row.place.block, row.place.corruption, row.place.method,
         f"{row.title} {row.value}", row.apart] + ([short(row.chance.mean)] if chance else [])
        for row in rows
    ]  # fmt: skip
    budgets = sorted({row.place.budget for row in rows} - {0})
    at = f" ({', '.join(map(str, budgets))})" if budgets else ""
    caption = (
        f"The best method at the largest budget{at}, of each kind of models and corruption, by "
        "average precision (AP) or, where no truth is known, by CMD: its mean ± half of the 95 % "
        "interval over programs, and the difference from eap_ig of that budget with its interval "
        f"(bold: better beyond chance){'; by chance: random scores' if chance else ''}. It is "
        "chosen on the models by which it is judged, so it is judged too well."
    )
    return _table("best", heads, texts, caption)
