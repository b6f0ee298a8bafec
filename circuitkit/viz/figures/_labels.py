"""What figures say: labels of tokens, numbers, and which of many labels are shown."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from itertools import pairwise
from math import ceil, floor, isnan, log10
from typing import TYPE_CHECKING

from circuitkit.viz import style

if TYPE_CHECKING:
    from matplotlib.axis import Axis

FAR = 300.0  # the ratio from which powers of ten are enough labels
LINE = 13.0  # from the foot of a label to that of the next


def readable(label: object, longest: int = 40) -> str:
    """The label on one line: without the space that a token begins with, other spaces at its ends
    as dots, and what cannot be printed as its escape; cut where it is too long."""
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(label))
    bare = text.strip(" ")
    before, after = len(text) - len(text.lstrip(" ")), len(text) - len(text.rstrip(" "))
    if not bare:
        return "·" * len(text)
    text = "·" * (before if before > 1 else 0) + bare + "·" * after
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def exact(label: object) -> str:
    """The label as it is, in quotes where that would not be seen otherwise."""
    text = str(label)
    return text if text == readable(text, len(text)) else repr(text)


def decimals(values: Iterable[float], significant: int) -> int:
    """The decimal places that show so many digits of the largest of the values."""
    largest = max((abs(v) for v in values if not isnan(v)), default=0.0)
    return max(significant - 1 - floor(log10(largest)), 0) if largest else 0


def written(value: float, places: int) -> str:
    """The number with so many decimal places (of one that is very small or large, its digits and a
    power of ten), and a true minus sign."""
    extreme = places > 6 or abs(value) >= 1e9
    text = f"{value:.4g}" if extreme else f"{value:,.{places}f}"
    if not text.strip("-0.,"):
        text = text.removeprefix("-")
    return text.replace("-", "−")


def short(value: float) -> str:
    """The number as written at a logarithmic axis: 0.01, 100, 10k, 2M."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def wrapped(text: str, width: float, size: float) -> str:
    """The text in lines that fit the width."""
    signs = max(int(width / style.text_width("m", size)), 8)
    return "\n".join(textwrap.wrap(style.plain(text, 1000), signs))


def measured(text: str) -> float:
    """The width of the text beside an axis."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextToPath

    font = FontProperties(size=style.SMALL)
    return float(TextToPath().get_text_width_height_descent(text, font, ismath=False)[0])


def multiples(low: float, high: float, width: float) -> tuple[int, ...]:
    """Which multiples of powers of ten are labelled between two numbers on a logarithmic axis that
    is so many points wide: as many as fit; only the powers where the numbers are far apart."""
    decades = range(floor(log10(low)), ceil(log10(high)) + 1)
    for found in ((1, 2, 5), (1, 3)):
        ticks = [n * 10.0**power for power in decades for n in found]
        ticks = [tick for tick in ticks if low <= tick <= high]
        unit = width / max(log10(high / low), 1e-9)
        if high / low < FAR and all(
            (measured(short(a)) + measured(short(b))) / 2 + 5 < unit * log10(b / a)
            for a, b in pairwise(ticks)
        ):
            return found
    return (1,)


def thinned(count: int, apart: float) -> list[int]:
    """Which of so many cells are labelled, if labels must be ``apart`` cells from each other: every
    k-th, for a round k, and the last."""
    sizes = (factor * 10**power for power in range(9) for factor in (1, 2, 5))
    step = next(size for size in sizes if size >= apart)
    last = count - 1
    return [i for i in range(0, last, step) if last - i >= apart] + [last] if last else [0]


def put(axis: Axis, labels: Sequence[str], pitch: float) -> None:
    """Label an axis of matplotlib at 0, 1, ...: as many as fit where places are ``pitch`` points
    apart. Along x, labels that are wider than that are turned, unless they are counted."""
    widest = max(map(measured, labels))
    level = axis is axis.axes.xaxis
    turned = level and widest + 6 > pitch and not all(label.isdecimal() for label in labels)
    need = widest + 6 if level and not turned else LINE
    shown = thinned(len(labels), need / pitch)
    axis.set_ticks(shown, [labels[i] for i in shown], rotation=90 if turned else 0)
