"""What a study says of itself: its name, what was run, and with what."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from circuitkit.graph.separation import smallest_p
from circuitkit.workflows.study.records import Records
from circuitkit.workflows.study.verdicts import Verdict

__all__ = ["advice", "described", "least", "runs", "samples", "title", "versions"]


def title(study: Records) -> str:
    """``ioi on mini``."""
    return f"{study.about['task']} on {study.about['model']}"


def described(study: Records) -> str:
    """What was studied."""
    about = study.about
    direction = {"denoise": "clean into corrupted runs", "noise": "corrupted into clean runs"}
    parts = [
        f"{about['examples']} of {about['prompts']} prompts",
        f"those with {about['only']} above 1/2" if about["only"] else "all",
        "each pair in both directions" if about["both_ways"] else "",
        direction[about["direction"]],
        f"seed {about['seed']}",
        _sampled(study),
        "positive effects help the clean behaviour",
        _unpaired(about),
        "circuits are measured in sample" if about.get("in_sample") else "",
    ]
    return " · ".join(part for part in parts if part)


def samples(study: Records) -> int:
    """On how many samples of the prompts components were found."""
    return max(map(len, study.again.values()), default=0)


def least(study: Records) -> str:
    """The smallest p that so many samples can give; empty where there are none."""
    return "" if samples(study) < 2 else f"{smallest_p(samples(study)):.2g}"


def _sampled(study: Records) -> str:
    """How many samples of which size give the noise floor."""
    sizes = study.about.get("samples", ())
    if len(sizes) < 2:
        return ""
    low, high = min(sizes), max(sizes)
    of = f"{low}" if low == high else f"{low} to {high}"
    return f"noise floor from {len(sizes)} disjoint samples of {of}"


def _unpaired(about: Mapping[str, object]) -> str:
    """How many prompts have no corrupted text, and so which corruptions are the usual ones."""
    n = about.get("unpaired")
    return f"{n} without a corrupted text, so by default under mean and noise" if n else ""


def versions(study: Records) -> str:
    """With what it was made."""
    return ", ".join(f"{name} {version}" for name, version in study.about["versions"].items())


def runs(study: Records) -> list[dict[str, object]]:
    """Each metric in the clean and the corrupted runs."""
    rows: list[dict[str, object]] = [
        {"run": "clean", **{m: float(study.clean[m].mean()) for m in study.metrics}}
    ]
    for corruption in study.corruptions:
        values = {m: float(study.corrupted[corruption, m].mean()) for m in study.metrics}
        rows.append({"run": corruption, **values})
    return rows


def advice(found: Iterable[Verdict]) -> list[str]:
    """The recommendations that apply, each once."""
    return list(dict.fromkeys(verdict.advice for verdict in found if verdict.advice))
