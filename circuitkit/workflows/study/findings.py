"""The short summary of a study: what was run and what was found, with uncertainty and noise
floor."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import isnan, nan

import numpy as np

from circuitkit.graph.separation import alike
from circuitkit.workflows.reports import Said
from circuitkit.workflows.study.about import samples
from circuitkit.workflows.study.floor import Bounded, bounded, chosen_again, divided, means
from circuitkit.workflows.study.records import KINDS, Records
from circuitkit.workflows.study.verdicts import Verdict

__all__ = ["findings"]

NAMED = 4  # components that are named; of more, how many
INTERVAL = "brackets are 95 % bootstrap intervals over the prompts"


def findings(study: Records, found: Sequence[tuple[Verdict, str]]) -> list[Said]:
    """At most eight sentences; of each verdict its section is given."""
    return [
        _run(study), _gap(study), *_strongest(study), *_found(study), *_floor(study),
        *_circuits(study), *_depends(found),
    ]  # fmt: skip


def _run(study: Records) -> Said:
    about = study.about
    taken = {"denoise": ("clean", "corrupted"), "noise": ("corrupted", "clean")}
    source, into = taken[str(about["direction"])]
    which = f", those with {about['only']} above 1/2" if about["only"] else ""
    text = (
        f"Each component's output was taken alone from the {source} into the {into} run, on "
        f"{about['examples']} of {about['prompts']} prompts of {about['task']}{which}, under "
        f"{_count(len(study.corruptions), 'corruption')} and by "
        f"{_count(len(study.metrics), 'metric')} ({_and(study.metrics)})."
    )
    return Said(text, (), ("runs",))


def _gap(study: Records) -> Said:
    main = study.main
    clean = bounded(means(study.clean[main]))
    left = [float(study.corrupted[c, main].mean()) for c in study.corruptions]
    text = (
        f"{main} is {_bounded(clean)} on the clean "
        f"prompts, and {_between(left)} on the corrupted ones; {INTERVAL}."
    )
    return Said(text, (), ("runs",))


def _strongest(study: Records) -> Iterator[Said]:
    """The component that gives back (or takes away) most of the gap of the main metric."""
    name, under, most = "", "", Bounded(0.0, nan, nan)
    for part in study.kinds[:1]:
        for corruption in study.corruptions:
            effects = study.effects[part, corruption, study.main]
            shares = np.ravel(effects.share)
            if np.isnan(shares).all():
                continue
            at = int(np.nanargmax(np.abs(shares)))
            if abs(shares[at]) > abs(most.value):
                values = effects.values.reshape(len(effects), -1)[at]
                most = bounded(divided(means(values), means(effects.gap)))
                name, under = effects.names[at], corruption
        if name:
            gives = "gives back" if study.about["direction"] == "denoise" else "takes away"
            text = (
                f"Of all {KINDS[part]} {name} {gives} most: {_bounded(most)} of the gap in "
                f"{study.main}, under {under}."
            )
            yield Said(text, ({"z": "heads", "mlp_out": "mlps"}[part],))


def _found(study: Records) -> Iterator[Said]:
    """How many components one choice finds, and which all choices find."""
    for part in study.kinds[:1]:
        sets = [set(d.found) for key, d in study.detections.items() if key[0] == part]
        sizes = [len(own) for own in sets]
        most, kind = max(sizes), KINDS[part].removesuffix("s")
        ends = f"{min(sizes)} to " if min(sizes) < most else ""
        text = f"One choice of corruption and metric finds {ends}{_count(most, kind)}"
        if len(sets) > 1:
            every = sorted(set.intersection(*sets))
            shown = f" ({', '.join(every)})" if 0 < len(every) <= NAMED else ""
            text += (
                f"; {len(set.union(*sets))} are found by any of the {len(sets)} choices, "
                f"{len(every) or 'none'}{shown} by all of them"
            )
        yield Said(f"{text}.", ("heads" if part == "z" else "mlps",), ("found",))


def _floor(study: Records) -> Iterator[Said]:
    """How alike the finds of one choice are on other prompts, and those of two choices."""
    for part in study.kinds[:1]:
        keys = [key for key in study.detections if key[0] == part]
        if samples(study) < 2:
            text = "The noise floor is not known: components were found on one sample alone."
            yield Said(text, (), ("judged",))
            continue
        own = [chosen_again(study, key) for key in keys]
        sets = [[d.found for d in study.redetections[key]] for key in keys]
        pairs = [alike(a, b) for i, a in enumerate(sets) for b in sets[:i]]
        text = (
            f"The noise floor: on two of {samples(study)} disjoint samples of the prompts one "
            f"choice finds {KINDS[part]} with a mean Jaccard index of {np.mean(own):.2f} "
            f"({_between(own)})"
        )
        if pairs:
            text += f"; two choices, of {np.mean(pairs):.2f} ({_between(pairs)})"
        yield Said(f"{text}.", ("agreement",), ("judged",))


def _circuits(study: Records) -> Iterator[Said]:
    if study.circuits is None:
        return
    rows = [row for row in study.circuits.spread() if not isnan(row["lowest"])]
    if not rows:
        return
    ends = _between([row[end] for row in rows for end in ("lowest", "highest")])
    floor = [row["jaccard"] for row in study.circuits.floor()]
    again = "" if np.isnan(floor).all() else (
        f"; one choice finds edges with a mean Jaccard index of {np.nanmean(floor):.2f} on two "
        "samples"
    )  # fmt: skip
    where = "in sample, too high" if study.circuits.in_sample else "on unseen prompts"
    text = (
        f"The faithfulness of {_count(len(rows), 'circuit')} is {ends}, by the "
        f"way it is measured ({where}){again}."
    )
    yield Said(text, ("circuits",))


def _depends(found: Sequence[tuple[Verdict, str]]) -> Iterator[Said]:
    """How many conclusions depend on the choice, and where they are."""
    where = [section for verdict, section in found if verdict.depends]
    if where:
        text = (
            f"{len(where)} of {len(found)} conclusions depend on the choice, beyond what other "
            "prompts change; of the others that is not shown, which does not say that the choices "
            "are the same."
        )
    else:
        text = (
            f"None of {len(found)} conclusions is shown to depend on the choice, which does not "
            "say that the choices are the same."
        )
    yield Said(text, (), tuple(dict.fromkeys(where)))


def _written(value: float) -> str:
    """The number with two digits and a true minus sign."""
    return f"{value:.2f}".replace("-", "−")


def _between(values: Sequence[float]) -> str:
    """From the least to the largest; one number where they are written alike."""
    ends = dict.fromkeys(_written(value) for value in (min(values), max(values)))
    return " to ".join(ends)


def _bounded(number: Bounded) -> str:
    """With its interval, where that is known."""
    ends = f" [{_written(number.low)}, {_written(number.high)}]" if number.known else ""
    return f"{_written(number.value)}{ends}"


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}{'s' * (n != 1)}"


def _and(names: Sequence[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last
