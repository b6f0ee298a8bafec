"""How often as many clusters are found as there are mechanisms: compiled models, and trained tasks.

    python benchmarks/clusters.py -o benchmarks/clusters.md

In compiled models it is known how many there are: two programs in one model, of which the first
word names the one that answers, are two; prompts for one of them are one. Of trained models it is
known which prompts are of one kind.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

import circuitkit as ck
from circuitkit.data.examples import Example
from circuitkit.workflows.clusters.grouping import Grouping, group

PROGRAMS = "shift", "first_occurrence"
SPLITS = {"24 of each": (24, 24), "40 and 8": (40, 8), "8 and 40": (8, 40),
          "48 of shift": (48, 0), "48 of first_occurrence": (0, 48)}  # fmt: skip
TASKS = "ioi", "greater_than", "induction", "docstring"
PROMPTS, KIND = 64, 32


def main() -> None:
    parser = argparse.ArgumentParser(description="Are as many clusters found as there are?")
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--samples", type=int, default=20)
    options = parser.parse_args()
    command = "python benchmarks/clusters.py -o benchmarks/clusters.md"
    parts = [
        "# As many clusters as mechanisms?",
        f"`{command}`: `eap_ig`, counterfactual; a split is one of two modes (5 %).",
        "## Two programs in one model, or prompts for one of them",
        f"`{PROGRAMS[0]}` or `{PROGRAMS[1]}`, rotated and with distractors, "
        f"{options.samples} samples of 48 prompts, each with another rotation.",
        table(("prompts", "clusters found", "right", "prompts in the right one"),
              compiled(options.samples)),
        "## Every program by itself",
        "Up to 64 prompts, plain and rotated with distractors. A program with several clusters is "
        "not an error here: where answers are of different kinds, different edges carry them.",
        table(("program", "plain", "varied"), programs()),
        "## A trained model: mini",
        f"One kind: {KIND} prompts of one template and order of names; a task: {PROMPTS} prompts; "
        f"two tasks: {PROMPTS // 2} of each.",
        table(("prompts", "clusters found", "p of the first split", "sizes"), trained()),
    ]  # fmt: skip
    report = "\n\n".join(parts) + "\n"
    print(report)
    if options.output:
        options.output.write_text(report, encoding="utf-8")


def table(names: Sequence[str], rows: Iterator[Sequence[object]]) -> str:
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def found(model: object, data: ck.Dataset, seed: int = 0) -> Grouping:
    scores = ck.discovery.eap_ig(model, data, groups="examples")
    return group(scores.groups, seed=seed)


# -- compiled --------------------------------------------------------------------------------------
def compiled(samples: int) -> Iterator[Sequence[object]]:
    program = ck.rasp.either(*map(ck.rasp.named, PROGRAMS))
    plain = ck.rasp.compile_program(program)
    whole = program.data().where(lambda e: e.clean[1] == e.corrupt[1])
    words = {w: i for i, w in enumerate(PROGRAMS)}
    kind = {e.clean: words[whole.tokenizer.decode([e.clean[1]]).strip()] for e in whole.examples}
    for name, counts in SPLITS.items():
        numbers, shares = [], []
        for seed in range(samples):
            model = varied(plain, seed)
            data = replace(whole, examples=drawn(whole.examples, kind, counts, seed))
            own = found(model, data, seed)
            truth = np.array([kind[e.clean] for e in data.examples])
            numbers.append(own.number)
            shares.append(max(np.mean((own.labels > 0) == (truth == k)) for k in (0, 1)))
        wanted = sum(count > 0 for count in counts)
        right = sum(number == wanted for number in numbers)
        share = f"{np.mean(shares):.3f}" if wanted > 1 else "–"
        yield name, said(numbers), f"{right} of {samples}", share


def drawn(
    every: Sequence[Example], kind: dict[tuple[int, ...], int], counts: Sequence[int], seed: int
) -> tuple[Example, ...]:
    draw, chosen = np.random.default_rng(seed), []
    for own, n in enumerate(counts):
        held = [e for e in every if kind[e.clean] == own]
        chosen += [held[i] for i in draw.permutation(len(held))[:n]]
    return tuple(chosen[i] for i in draw.permutation(len(chosen)))


def varied(model: ck.rasp.Decoder, seed: int = 0) -> ck.rasp.Decoder:
    return ck.rasp.rotate(ck.rasp.distract(model, leak=0.01, seed=seed), seed=seed)


def said(numbers: Sequence[int]) -> str:
    counts = sorted(Counter(numbers).items())
    return ", ".join(f"{number} in {times}" for number, times in counts)


def programs() -> Iterator[Sequence[object]]:
    for name in ck.rasp.programs():
        program = ck.rasp.named(name)
        model = ck.rasp.compile_program(program)
        data = program.data(min(PROMPTS, len(program.task())))
        yield f"`{name}`", found(model, data).number, found(varied(model), data).number


# -- trained ---------------------------------------------------------------------------------------
def trained() -> Iterator[Sequence[object]]:
    model = ck.load("mini")
    whole = ck.make_task("ioi", model, 16 * 60)
    kinds: dict[tuple[str, bool], list[ck.Prompt]] = {}
    for prompt in whole:
        first = prompt.spans["IO"] < prompt.spans["S1"]
        template = f"{prompt.clean.split()[0]} {'and' in prompt.clean.split()[-6:]}"
        kinds.setdefault((template, first), []).append(prompt)
    own = [found(model, ck.Dataset.of(each[:KIND], model)) for each in kinds.values()]
    yield f"ioi, one kind ({len(own)} of them)", said([one.number for one in own]), "–", "–"
    tasks = {name: ck.make_task(name, model, PROMPTS) for name in TASKS}
    for name, task in tasks.items():
        yield name, *row(found(model, ck.Dataset.of(task, model)))
    half = PROMPTS // 2
    for name in TASKS[1:]:
        mixed = [*tasks["ioi"].prompts[:half], *tasks[name].prompts[:half]]
        yield f"ioi and {name}", *row(found(model, ck.Dataset.of(mixed, model)))


def row(own: Grouping) -> Sequence[object]:
    sizes = ", ".join(map(str, np.bincount(own.labels)))
    return own.number, f"{own.splits[0].p:.3f}" if own.splits else "–", sizes


if __name__ == "__main__":
    main()
