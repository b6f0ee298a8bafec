"""What axes say and how colours tell values: ticks, labels thinned out, colour scales."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil, floor, isnan, log10

from circuitkit.viz import style

# After ColorBrewer's RdBu and Blues: told apart with every common form of colour blindness.
DIVERGING = ("#2166ac", "#67a9cf", "#d1e5f0", "#ffffff", "#fddbc7", "#ef8a62", "#b2182b")
SEQUENTIAL = ("#ffffff", "#deebf7", "#9ecae1", "#3182bd", "#08519c")
EMPTY = "#d4d4d4"  # a cell without a value


# -- words -----------------------------------------------------------------------------------------
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


def decimals(values: Iterable[float], significant: int = 2) -> int:
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
    """The number as it stands at a logarithmic axis: 0.01, 100, 10k, 2M."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def said(steps: Sequence[float]) -> list[str]:
    """The numbers of evenly spaced ticks, with the decimal places that tell them apart."""
    places = decimals([steps[1] - steps[0]] if len(steps) > 1 else steps, 1)
    return [written(step, places) for step in steps]


# -- ticks -----------------------------------------------------------------------------------------
def ticks(low: float, high: float, most: int, whole: bool = False) -> list[float]:
    """Round numbers from ``low`` to ``high``, in steps of 1, 2 or 5 times a power of ten, at most
    about so many; ``whole``: integers alone."""
    rough = (high - low) / max(most, 1)
    size = 10.0 ** floor(log10(rough))
    step = next(size * s for s in (1, 2, 5, 10) if size * s >= rough * (1 - 1e-9))
    step = max(step, 1.0) if whole else step
    first, last = ceil(low / step - 1e-9), floor(high / step + 1e-9)
    return [round(n * step, 12) for n in range(first, last + 1)]


def decades(low: float, high: float) -> list[float]:
    """Powers of ten from ``low`` to ``high``; their doubles and fivefolds where they are few."""
    powers = range(floor(log10(low)), ceil(log10(high)) + 1)
    factors = (1, 2, 5) if log10(high / low) < 2.5 else (1,)
    values = (f * 10.0**n for n in powers for f in factors)
    return [v for v in values if low * (1 - 1e-9) <= v <= high * (1 + 1e-9)]


def thinned(count: int, apart: float) -> list[int]:
    """Which of so many cells are labelled, if labels must be ``apart`` cells from each other: every
    so-manieth in a round step, and the last."""
    sizes = (factor * 10**power for power in range(9) for factor in (1, 2, 5))
    step = next(size for size in sizes if size >= apart)
    last = count - 1
    return [i for i in range(0, last, step) if last - i >= apart] + [last] if last else [0]


def spaced(places: Sequence[float], widths: Sequence[float]) -> list[int]:
    """Which of the labels that are centred at these places stand clear of the one kept before."""
    kept: list[int] = []
    for i, (place, width) in enumerate(zip(places, widths, strict=True)):
        before = places[kept[-1]] + widths[kept[-1]] / 2 + 4 if kept else -float("inf")
        if place - width / 2 >= before:
            kept.append(i)
    return kept


# -- colours ---------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Scale:
    """Colours from ``low`` to ``high``; beyond them, the colours of the ends."""

    low: float
    high: float
    stops: tuple[str, ...]

    def colour(self, value: float) -> str:
        """The colour of a value, as #rrggbb; nan has its own."""
        if isnan(value):
            return EMPTY
        share = min(max((value - self.low) / (self.high - self.low), 0.0), 1.0)
        place = share * (len(self.stops) - 1)
        below = min(int(place), len(self.stops) - 2)
        pairs = zip(_channels(self.stops[below]), _channels(self.stops[below + 1]), strict=True)
        mixed = (round(a + (b - a) * (place - below)) for a, b in pairs)
        return "#" + "".join(f"{channel:02x}" for channel in mixed)


def ink(fill: str) -> str:
    """The colour of letters on this ground."""
    red, green, blue = _channels(fill)
    return style.PAPER if 0.299 * red + 0.587 * green + 0.114 * blue < 140 else style.INK


def round_up(value: float) -> float:
    """The value with two digits, no nearer to zero."""
    if not value:
        return value
    size = 10.0 ** (floor(log10(abs(value))) - 1)
    return float(f"{ceil(abs(value) / size - 1e-9) * size:.2g}") * (1 if value > 0 else -1)


def _channels(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)
