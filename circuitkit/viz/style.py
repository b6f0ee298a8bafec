"""The colours, the lettering and the sizes of every picture, in one place (sizes in points)."""

from __future__ import annotations

import re
from types import MappingProxyType

__all__ = [
    "BAND",
    "ENDS",
    "FAINT",
    "FAR",
    "FONT",
    "FONTS",
    "INK",
    "KINDS",
    "LINE",
    "PAPER",
    "PALE",
    "PLAIN",
    "PORTS",
    "ROLES",
    "SIDES",
    "line_width",
    "opacity",
    "plain",
    "shaded",
    "text_width",
]

FONT = "Helvetica"
FONTS = "Helvetica, Arial, 'Liberation Sans', 'DejaVu Sans', sans-serif"
LABEL, SMALL, HEADING = 12.0, 10.0, 14.0  # font sizes: in boxes; legend and caption; title

INK = "#222222"
FAINT = "#808080"  # the names of the layers
PAPER = "#ffffff"
BAND = "#f4f4f4"  # behind every second layer
# Okabe and Ito's palette: told apart with every common form of colour blindness, and in print.
PORTS = MappingProxyType({"q": "#0072b2", "k": "#e69f00", "v": "#009e73"})
PLAIN = "#5a5a5a"  # edges into MLPs and the logits
# Of two circuits one over the other: only the first, both, only the second; lines, and boxes.
SIDES = (("#0072b2", "#c9e4f5"), ("#222222", "#e2e2e2"), ("#d55e00", "#fbdcc8"))
KINDS = MappingProxyType({"input": "#444444", "logits": "#444444", "mlp": "#e2e2e2"})
# After Tol's light palette, made to lie behind black letters.
ROLES = (
    "#99ddff", "#eedd88", "#ffaabb", "#bbcc33", "#ee8866", "#77aadd", "#44bb99", "#d5c3e8",
)  # fmt: skip

WIDTH, HEIGHT = 38.0, 21.0  # of a box
ENDS = (58.0, 3.0, 300.0)  # width of input and logits; more for each edge; at most
MARGIN, GAP, CLEAR = 14.0, 18.0, 7.0  # around the picture; box to box; box to passing edge
LANE, LANES = (4.0, 12.0), 420.0  # width of a passing edge's lane; what a row spends on lanes
PITCH, TALL = (31.0, 58.0), 900.0  # from row to row; the height that a picture aims at
FAR = (0.07, 32.0)  # more room between rows, for each point that an edge runs sideways; at most
LINE = (0.7, 4.2)  # the thinnest and the thickest
PALE = (0.3, 0.75)  # how solid lines are that are not of the core: of frequency 0; of nearly 1


def line_width(weight: float, largest: float) -> float:
    """The width of a line: it grows with the root of |weight|, since few weights are near the
    largest, and is never invisible."""
    thin, thick = LINE
    share: float = (abs(weight) / largest if largest else 0.0) ** 0.5
    return round(thin + (thick - thin) * share, 2)


def opacity(ends: int, frequency: float | None = None) -> float:
    """How solid a line is: an edge that fans out to several heads is drawn lighter, and one that
    is not sure the lighter, the smaller its frequency; it is never invisible."""
    whole = 0.9 if ends == 1 else 0.5
    if frequency is None:
        return whole
    palest, seldom = PALE
    return round(max(palest, whole * (palest + (seldom - palest) * frequency)), 3)


def shaded(colour: str, solid: float) -> str:
    """The colour as Graphviz writes one that lets the ground through."""
    return f"{colour}{round(255 * solid):02x}"


def text_width(text: str, size: float) -> float:
    """About how wide the text stands: no narrower than common sans-serif fonts set it."""
    return sum(1.0 if ord(sign) > 0x2E80 else 0.56 for sign in text) * size


# the name of a task that is a file, with settings
_OF_FILE = re.compile(r"""from_file\(path=(['"])([^'"]*)\1(?:[^()]|\([^()]*\))*\)""")


def plain(text: object, longest: int = 70) -> str:
    """The text in one line, without signs that XML or DOT forbid, and cut where it is too long; a
    task that is a file is called by its file."""
    line = " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
    line = _OF_FILE.sub(lambda found: found[2].rpartition("/")[2], line)
    return line if len(line) <= longest else f"{line[: longest - 1]}…"
