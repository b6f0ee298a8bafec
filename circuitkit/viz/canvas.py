"""matplotlib as we use it: no pyplot, our own settings for the time of drawing, and files that are
the same bytes every time.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING

from circuitkit.viz import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox

__all__ = ["DPI", "INCH", "rendered", "styled"]

INCH = 72.0  # points
DPI = 200  # of a picture in pixels
# DejaVu Sans comes with matplotlib, so that everything stands at the same place on every machine.
# The text of an SVG stays text, which can be searched and edited: what a viewer sets it in instead
# is no wider. In a PDF it is embedded as TrueType, which journals ask for.
SETTINGS = MappingProxyType({
    "svg.hashsalt": "circuitkit", "svg.fonttype": "none", "pdf.fonttype": 42,
    "text.parse_math": False, "figure.dpi": INCH, "font.size": style.SMALL,
    "font.sans-serif": ["DejaVu Sans", "Helvetica", "Arial", "sans-serif"],
    "text.color": style.INK, "axes.labelcolor": style.INK, "axes.edgecolor": style.FAINT,
    "xtick.color": style.FAINT, "xtick.labelcolor": style.PLAIN,
    "ytick.color": style.FAINT, "ytick.labelcolor": style.PLAIN,
    "axes.linewidth": 0.7, "xtick.major.width": 0.7, "ytick.major.width": 0.7,
    "axes.titlesize": style.LABEL, "axes.titlelocation": "left",
    "figure.titlesize": style.HEADING, "figure.titleweight": "bold",
    "legend.frameon": False, "lines.linewidth": 1.5, "lines.markersize": 5.0,
})  # fmt: skip
UNDATED = MappingProxyType({
    "svg": dict.fromkeys(("Date", "Creator", "Format", "Type")),
    "pdf": dict.fromkeys(("CreationDate", "Creator", "Producer")),
    "png": {"Software": None},
})  # fmt: skip


@contextmanager
def styled() -> Iterator[None]:
    """matplotlib's own defaults and our settings, whatever the user has set; what was set comes
    back at the end. A letter that the font lacks is a box, without a warning."""
    from matplotlib import style as sheets

    with sheets.context(["default", dict(SETTINGS)]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph .* missing from", UserWarning)
        yield


def rendered(figure: Figure, suffix: str, box: Bbox | None = None) -> bytes:
    """The matplotlib figure as ``svg``, ``png`` (200 dots an inch) or ``pdf``: of its page, or of a
    box in inches. An SVG begins at its element and may stand in a page beside others."""
    file = io.BytesIO()
    with styled():
        figure.savefig(
            file, format=suffix, dpi=DPI, bbox_inches=box, metadata=UNDATED[suffix]
        )  # fmt: skip
    return _bare(file.getvalue().decode()).encode() if suffix == "svg" else file.getvalue()


def _bare(document: str) -> str:
    """The SVG from its element on, of the size that circuits have in a page (a point is a pixel),
    in hundredths of it, without clipping (all that we draw lies within its axes) and names that
    nothing in it refers to, and with its rule of style where that touches nothing else in a page.
    """
    document = document[document.index("<svg") :]
    document = re.sub(r"\s*<clipPath.*?</clipPath>", "", document, flags=re.DOTALL)
    document = re.sub(r'(<[^>]*?) clip-path="[^"]*"', r"\1", document)
    used = set(re.findall(r'(?:url\(|href=")#([\w.-]+)', document))
    document = re.sub(r'(<[^>]*?) id="([^"]+)"', lambda m: m[m[2] not in used], document)
    document = re.sub(r'\s*<style type="text/css">.*?</style>', "", document, flags=re.DOTALL)
    document = re.sub(r' d="[^"]*"', lambda m: re.sub(r"(\.\d\d)\d+", r"\1", m[0]), document)
    document = re.sub(r'(width|height)="([\d.]+)pt"', r'\1="\2"', document, count=2)
    return document.replace("<svg ", '<svg style="stroke-linejoin:round;stroke-linecap:butt" ', 1)
