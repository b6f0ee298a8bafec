"""Figures for papers: what they show, that nothing in them collides, and what they become."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from test_export import BYTES, HOSTILE, SVG, needs_graphviz, no_graphviz, texts

import circuitkit
from circuitkit.errors import OutputError
from circuitkit.viz import style
from circuitkit.viz.figures import Heatmap, Lines, Panels, _axes
from circuitkit.viz.figures._figure import Figure
from circuitkit.viz.figures.curves import COLOURS
from circuitkit.viz.render import graphviz_drawn
from circuitkit.viz.shapes import Line, Polygon, Rect, Scene, Shape, Text
from circuitkit.viz.xdot import placed

__all__ = ["no_graphviz"]

TOKENS = ("<|endoftext|>", "When", " Mary", " and", " John", "\n", " ", " A&B", "  two", "x\u202ey")
LONG = tuple(f"noise(text='S1+IO') · {name}" for name in ("logit_diff", "kl", "log_prob"))


def values(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, columns))


def heads() -> Heatmap:
    """A heat map with everything: marks, an empty cell, names and a title."""
    table = values(4, 5)
    table[3, 4] = np.nan
    return Heatmap(
        table, row_name="layer", column_name="head", title="Heads of a <model> & more",
        unit="logit difference", marks=table > 1, mark_name="detected",
    )  # fmt: skip


def curves(x: Any = (0, 1, 2, 3), **style: Any) -> Lines:
    """Two series over four places, one with a gap, one with a band."""
    rising, falling = [0.0, 1.0, 2.0, 4.0], [3.0, np.nan, 1.5, -1.0]
    band = {"rising": ([-0.5, 0.5, 1.5, 3.5], [0.5, 1.5, 2.5, 4.5])}
    style = {"title": "A title", "x_name": "layer", "y_name": "effect", "bands": band, **style}
    return Lines(x, {"rising": rising, "falling": falling}, **style)


def many(count: int, places: int = 30) -> Lines:
    series = {f"size {i}, summed": values(1, places, i)[0] for i in range(count)}
    return Lines(
        range(places), series, title="Windows " * 12, x_name="first layer", y_name="effect"
    )


FIGURES: dict[str, Figure] = {
    "everything": heads(),
    "one cell": Heatmap([[2.0]]),
    "12 x 12": Heatmap(values(12, 12), row_name="layer", column_name="head", unit="KL"),
    "30 x 9": Heatmap(values(30, 9), row_name="layer", column_name="head"),
    "48 x 64": Heatmap(values(48, 64), row_name="layer", column_name="head"),
    "positions": Heatmap(values(30, 140), column_name="position " * 30, row_name="long name " * 9),
    "tall": Heatmap(values(150, 2), [f"row {i}" for i in range(150)]),
    "tokens": Heatmap(values(30, 10), column_labels=TOKENS, row_name="layer"),
    "many tokens": Heatmap(values(6, 120), column_labels=TOKENS * 12, title="tokens " * 40),
    "agreement": Heatmap(np.eye(3), LONG, LONG, numbers=True, diverging=False, limit=(0, 1)),
    "large numbers": Heatmap(values(3, 12) * 1e5, numbers=True, unit="u" * 300),
    "lines": curves(),
    "log": curves((1, 10, 1000, 32491), log_x=True),
    "narrow log": curves((3, 4, 5, 6), log_x=True),
    "wide band": Lines([0, 1], {"a": [1, 2]}, {"a": ([-90, -90], [1, 90])}),
    "labels": curves(["attn", "mlp", "a long label of a place", " x"]),
    "8 series": many(8),
    "one point": Lines([3], {"": [2.0]}),
    "years": Lines([1900, 1950.5, 2000], {"a": [1e6, 2e6, 3e6]}, y_name="y" * 80),
    "tiny": Lines([0, 1], {"a": [1e-7, 2e-7]}, zero=False),
    "flat": Lines([0, 1], {"a": [5, 5]}, zero=False),
    "panels": Panels([heads(), curves(), heads(), many(3)], title="Two by two", columns=2),
    "3 x 3": Panels([Heatmap(values(12, 12), title="t " * 30)] * 9, captions=["caption " * 9] * 9),
    "long names in panels": Panels(
        [curves(x_name="places " * 9, y_name="effects " * 9), many(8, 3), Heatmap(
            values(3, 3), None, [f"{i}00000" for i in range(3)], "rows " * 12, "columns " * 12
        )]
    ),
    "tokens in panels": Panels([Heatmap(values(30, 10), column_labels=TOKENS)] * 3),
}  # fmt: skip
every_figure = pytest.mark.parametrize("name", FIGURES)


def tips(figure: Figure) -> dict[str, ElementTree.Element]:
    """What shows when the pointer rests on a shape, and the shape."""
    root = ElementTree.fromstring(figure.svg())
    found = {}
    for shape in root.iter():
        said = shape.findtext(f"{SVG}title")
        if said:
            found[said] = shape
    return found


def fills(figure: Figure) -> dict[str, str]:
    return {said: shape.get("fill", "") for said, shape in tips(figure).items()}


def extent(shape: Shape) -> tuple[float, float, float, float]:
    """Left, top, right and bottom."""
    if isinstance(shape, Text):
        width, height = style.text_width(shape.text, shape.size), shape.size
        start = {"start": 0.0, "middle": 0.5, "end": 1.0}[shape.anchor] * width
        if shape.turned:  # it starts below
            left, bottom = shape.x - height / 2, shape.y + start
            return left, bottom - width, left + height, bottom
        left, top = shape.x - start, shape.y - height / 2
        return left, top, left + width, top + height
    if isinstance(shape, Rect):
        wide, tall = shape.width / 2, shape.height / 2
        return shape.x - wide, shape.y - tall, shape.x + wide, shape.y + tall
    xs, ys = zip(*shape.points, strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def channels(colour: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(colour[1:]))


# -- laws of every figure --------------------------------------------------------------------------
@every_figure
def test_no_two_texts_overlap(name: str) -> None:
    written = [shape for shape in FIGURES[name].scene().shapes if isinstance(shape, Text)]
    assert len(written) >= 3
    for one, other in combinations(written, 2):
        a, b = extent(one), extent(other)
        apart = a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
        assert apart, (one, other)


@every_figure
def test_everything_lies_on_the_page(name: str) -> None:
    scene = FIGURES[name].scene()
    for shape in scene.shapes:
        left, top, right, bottom = extent(shape)
        assert left >= 0, shape
        assert top >= 0, shape
        assert right <= scene.width, shape
        assert bottom <= scene.height, shape


@every_figure
def test_a_figure_is_the_same_bytes_every_time_and_in_a_notebook(name: str) -> None:
    figure = FIGURES[name]
    again: Any = replace(figure)  # type: ignore[type-var]
    assert again is not figure
    assert again.svg() == figure.svg() == figure._repr_svg_()
    assert ElementTree.fromstring(figure.svg()).tag == f"{SVG}svg"
    assert len(repr(figure)) < 600


@every_figure
def test_texts_bear_no_spaces_of_tokens_and_nothing_that_cannot_be_printed(name: str) -> None:
    for text in texts(FIGURES[name].svg()):
        assert text.strip()
        assert text.isprintable()


@pytest.mark.parametrize("figure", [
    Heatmap(values(1, 1), [HOSTILE], [HOSTILE], HOSTILE, HOSTILE, HOSTILE, HOSTILE,
            np.array([[True]]), HOSTILE, numbers=True),
    Lines([HOSTILE, "b"], {HOSTILE: [1, 2]}, {}, HOSTILE, HOSTILE, HOSTILE),
    Panels([curves()], title=HOSTILE, captions=[HOSTILE]),
])  # fmt: skip
def test_hostile_words_break_nothing(figure: Figure, tmp_path: Path) -> None:
    said = "".join(ElementTree.fromstring(figure.svg()).itertext())
    assert "</svg>&amp;<script>" in said
    assert figure.save(tmp_path / "x.svg").read_text(encoding="utf-8") == figure.svg()


def test_figures_change_nothing_that_they_are_given() -> None:
    table = values(3, 3)
    before = table.copy()
    Heatmap(table, numbers=True).svg()
    np.testing.assert_array_equal(table, before)


# -- heat maps -------------------------------------------------------------------------------------
def test_every_cell_says_where_it_is_and_its_value() -> None:
    figure = heads()
    said = tips(figure)
    assert len(said) == 20
    for row, column in np.ndindex(4, 5):
        value = figure.values[row, column]
        words = f"layer {row}, head {column}: "
        words += "no value" if np.isnan(value) else f"{value:+.3g}"
        assert words + (" (detected)" if value > 1 else "") in said
    assert sum("(detected)" in one for one in said) == int((figure.values > 1).sum()) > 0


def test_a_cell_stands_where_its_indices_say() -> None:
    at = {}
    for said, cell in tips(Heatmap(values(3, 4))).items():
        row, column = map(int, said.split(":")[0].split(", "))
        at[row, column] = (float(cell.get("x", "")), float(cell.get("y", "")))
    assert all(at[r, 0][1] < at[r + 1, 0][1] and at[r, 0][0] == at[r + 1, 0][0] for r in range(2))
    assert all(at[0, c][0] < at[0, c + 1][0] and at[0, c][1] == at[0, c + 1][1] for c in range(3))


def test_blue_is_negative_white_zero_and_red_positive() -> None:
    found = fills(Heatmap([[-2.0, -1.0, 0.0, 1.0, 2.0, np.nan]], column_name="c"))
    colours = [channels(found[f"0, c {i}: {v:+.3g}"]) for i, v in enumerate(range(-2, 3))]
    blue, pale, white, rose, red = colours
    assert blue == channels(_axes.DIVERGING[0])
    assert red == channels(_axes.DIVERGING[-1])
    assert white == (255, 255, 255)
    assert blue[2] > blue[0]
    assert pale[2] > pale[0]
    assert red[0] > red[2]
    assert rose[0] > rose[2]
    empty = channels(found["0, c 5: no value"])
    assert len(set(empty)) == 1
    assert empty[0] < 255


@pytest.mark.parametrize("diverging", [True, False])
def test_the_further_from_zero_the_darker(diverging: bool) -> None:
    steps = np.linspace(0, 1, 41)
    for sign in (1, -1) if diverging else (1,):
        scale = Heatmap([sign * steps], diverging=diverging).scale
        light = [sum(channels(scale.colour(sign * step))) for step in steps]
        assert all(after < before for before, after in pairwise(light))


def test_limits_are_symmetric_and_values_beyond_them_are_said() -> None:
    figure = Heatmap([[0.31, -0.1]])
    assert (figure.scale.low, figure.scale.high) == (-0.31, 0.31)
    assert {"−0.31", "0.31"} <= set(texts(figure.svg()))
    narrow = Heatmap([[0.31, -0.1]], limit=0.2)
    said = texts(narrow.svg())
    assert "≥ 0.20" in said
    assert "−0.20" in said
    assert fills(narrow)["0, 0: +0.31"] == _axes.DIVERGING[-1]
    assert fills(narrow)["0, 1: -0.1"] != _axes.DIVERGING[0]


@pytest.mark.parametrize("largest", [0.0304, 0.999, 1.01, 17.3, 5321.0])
def test_the_colours_reach_all_values_and_not_much_further(largest: float) -> None:
    for scale in (Heatmap([[largest, 0.0]]).scale, Heatmap([[-largest, 0.0]]).scale):
        assert largest <= scale.high == -scale.low <= 1.11 * largest


def test_one_colour_from_a_lower_to_an_upper_limit() -> None:
    found = fills(Heatmap([[0.0, 0.5, 1.0]], diverging=False, limit=(0, 1)))
    assert found["0, 0: 0"] == "#ffffff"
    assert found["0, 2: 1"] == _axes.SEQUENTIAL[-1]
    assert sum(channels("#ffffff")) > sum(channels(found["0, 1: 0.5"])) > sum(channels("#08519c"))
    scale = Heatmap([[-3.0, -1.0]], diverging=False).scale
    assert (scale.low, scale.high) == (-3.0, 0.0)


def test_without_values_or_without_differences_there_still_is_a_picture() -> None:
    assert "no value" in texts(Heatmap([[np.nan]]).svg())
    assert set(fills(Heatmap([[0.0, 0.0]])).values()) == {"#ffffff"}
    assert "no value" not in texts(Heatmap([[1.0]]).svg())


def test_marked_cells_are_outlined_and_the_legend_says_why() -> None:
    marks = np.zeros((4, 5), bool)
    plain = replace(heads(), marks=marks)
    marks = marks.copy()
    marks[1, 2] = True
    marked = replace(heads(), marks=marks)

    def outlines(figure: Figure) -> list[Rect]:
        rects = [shape for shape in figure.scene().shapes if isinstance(shape, Rect)]
        return [rect for rect in rects if rect.stroke == style.INK and not rect.fill]

    assert not outlines(plain)
    assert "detected" not in texts(plain.svg())
    assert "detected" in texts(marked.svg())
    cell = tips(marked)[marked.tip(1, 2)]
    middle = float(cell.get("x", "")) + float(cell.get("width", "")) / 2
    first, *legend = outlines(marked)
    assert first.x == pytest.approx(middle, abs=0.1)
    assert len(legend) == 1


def test_numbers_stand_in_their_cells_in_ink_that_shows() -> None:
    table = np.array([[1.0, -0.004], [0.5, -1.0]])
    figure = Heatmap(table, numbers=True)
    shapes = figure.scene().shapes
    said = {s.text: s for s in shapes if isinstance(s, Text) and s.size == 9.0}
    assert set(said) == {"1.00", "0.00", "0.50", "−1.00"}
    assert said["1.00"].colour == style.PAPER
    assert said["0.00"].colour == style.INK
    cells = [s for s in shapes if isinstance(s, Rect) and s.title]
    for text in said.values():
        box = extent(text)
        assert any(
            c[0] <= box[0] and box[2] <= c[2] and c[1] <= box[1] and box[3] <= c[3]
            for c in map(extent, cells)
        )


@pytest.mark.parametrize("shape", [(12, 12), (30, 9), (48, 64), (30, 140), (1, 1), (2, 2)])
def test_labels_are_thinned_out_from_the_first_to_the_last(shape: tuple[int, int]) -> None:
    names = ([f"r{i}" for i in range(shape[0])], [str(i) for i in range(shape[1])])
    said = texts(Heatmap(values(*shape), *names).svg())
    for own in names:
        shown = [own.index(text) for text in said if text in own]
        assert {shown[0], shown[-1]} == {0, len(own) - 1}
        steps = {b - a for a, b in pairwise(shown)}
        assert len(steps - {max(steps)}) <= 1 if steps else len(own) == 1


@pytest.mark.parametrize("count", [1, 2, 3, 12, 64, 100, 1001])
@pytest.mark.parametrize("apart", [0.5, 1, 2, 3, 7, 40])
def test_thinned_labels_keep_their_distance(count: int, apart: float) -> None:
    kept = _axes.thinned(count, apart)
    assert kept[-1] == count - 1
    assert all(b - a >= apart for a, b in pairwise(kept))
    assert len(kept) >= min(count, count / (2.5 * max(apart, 1)))


def test_tokens_are_readable() -> None:
    assert "layer 0, 1: +1" in tips(Heatmap([[0, 1]], row_name="layer"))
    assert "0, position ' Mary': +1" in tips(Heatmap([[1]], None, [" Mary"], "", "position"))
    assert "a, '\\n': 2" in tips(Lines(["\n"], {"a": [2]}))
    assert [_axes.readable(token) for token in (" Mary", "\n", " ", "  two", "a\tb", "end ")] == [
        "Mary", "\\n", "·", "··two", "a\\tb", "end·",
    ]  # fmt: skip
    assert _axes.readable("x" * 100).endswith("x…")
    shapes = FIGURES["tokens"].scene().shapes
    turned = [s.text for s in shapes if isinstance(s, Text) and s.turned]
    assert turned == [_axes.readable(token) for token in TOKENS]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"values": np.zeros((0, 3))}, r"\(0, 3\)"),
        ({"values": [1.0, 2.0]}, r"\(2,\)"),
        ({"values": [[np.inf]]}, "infinite"),
        ({"row_labels": ["a"]}, "1 row labels for 2 rows"),
        ({"column_labels": "abc"}, "3 column labels for 2 columns"),
        ({"marks": np.zeros((3, 2), bool)}, r"marks.*\(3, 2\)"),
        ({"limit": 0.0}, "limit=0.0"),
        ({"limit": (1.0, 1.0), "diverging": False}, "limit="),
    ],
)
def test_a_heat_map_that_cannot_be_drawn_is_refused(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(OutputError, match=words):
        Heatmap(**{"values": values(2, 2), **arguments})


# -- lines -----------------------------------------------------------------------------------------
def test_every_point_says_its_value() -> None:
    said = tips(curves())
    assert {"rising, layer 3: 4", "falling, layer 0: 3", "falling, layer 3: -1"} <= set(said)
    assert len(said) == 7
    assert len(tips(many(3, 100))) == 300


def points(figure: Lines) -> dict[str, tuple[float, float]]:
    """The middle of the shape of each point."""
    found = {}
    for shape in figure.scene().shapes:
        if isinstance(shape, Polygon | Rect) and shape.title:
            left, top, right, bottom = extent(shape)
            found[shape.title] = ((left + right) / 2, (top + bottom) / 2)
    return found


def test_points_stand_where_their_numbers_say() -> None:
    x = [1.0, 2.0, 4.0, 8.0]
    for log in (False, True):
        at = points(Lines(x, {"": [3.0, 1.0, 2.0, -1.0]}, log_x=log))
        xs, ys = np.array(list(at.values())).T
        expected = np.log(x) if log else np.array(x)
        assert np.corrcoef(xs, expected)[0, 1] == pytest.approx(1, abs=1e-6)
        assert np.corrcoef(ys, [3.0, 1.0, 2.0, -1.0])[0, 1] == pytest.approx(-1, abs=1e-6)
        assert np.ptp(xs) > 100 < np.ptp(ys)


def test_a_gap_parts_a_line() -> None:
    lines = [s for s in curves().scene().shapes if isinstance(s, Line) and s.width == 1.5]
    lengths = sorted(len(line.points) for line in lines)
    assert lengths == [2, 2, 2, 4]  # two samples of the legend, a line after a gap, a whole one


def test_series_differ_in_colour_and_without_it() -> None:
    shapes = many(8).scene().shapes
    lines = [s for s in shapes if isinstance(s, Line) and s.width == 1.5][:8]
    markers = [s for s in shapes if isinstance(s, Polygon)]
    forms = {}
    for marker in markers:
        if marker.title:
            left, top, *_ = extent(marker)
            form = tuple((round(x - left, 3), round(y - top, 3)) for x, y in marker.points)
            forms[marker.fill] = form
    assert len({line.colour for line in lines}) == 8
    assert len({(line.dash, forms[line.colour]) for line in lines}) == 8
    legend = texts(many(8).svg())
    assert all(f"size {i}, summed" in legend for i in range(8))


def test_a_band_is_shaded_between_its_edges() -> None:
    band = next(s for s in curves().scene().shapes if isinstance(s, Polygon) and s.opacity < 1)
    at = points(curves())
    for i, (x, low) in enumerate(band.points[:4]):
        middle = at[f"rising, layer {i}: {[0, 1, 2, 4][i]}"]
        assert x == pytest.approx(middle[0], abs=0.5)
        assert low > middle[1] > band.points[7 - i][1]


def test_the_axes_are_labelled_at_round_numbers_within_them() -> None:
    for low, high in ((0.0, 1.0), (-0.37, 0.91), (1e-7, 3e-7), (-4e5, 2e6), (99.9, 100.1)):
        found = _axes.ticks(low, high, 6)
        assert 2 <= len(found) <= 13
        assert all(
            low - 1e-6 * (high - low) <= tick <= high + 1e-6 * (high - low) for tick in found
        )
        assert len(set(_axes.said(found))) == len(found)
    assert _axes.decades(1, 32491) == [1, 10, 100, 1000, 10000]
    assert _axes.decades(3, 60) == [5, 10, 20, 50]
    assert {"1", "10", "100", "1k", "10k"} <= set(texts(FIGURES["log"].svg()))
    assert all(tick.is_integer() for tick in _axes.ticks(0, 3, 20, whole=True))


def test_the_values_reach_to_zero_only_when_asked() -> None:
    def said(zero: bool) -> list[str]:
        return texts(Lines([0, 1], {"a": [100.0, 101.0]}, zero=zero).svg())

    assert "0" in said(True)
    assert "100.0" not in said(True)
    assert "100.0" in said(False)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"series": {}}, "no series"),
        ({"x": []}, r"\(2,\), and there are 0 places"),
        ({"series": {"a": [1.0]}}, r"'a'.*\(1,\)"),
        ({"series": {"a": [np.nan, np.nan]}}, "no values"),
        ({"series": {"a": [np.inf, 1]}}, "infinite"),
        ({"bands": {"b": ([0, 0], [1, 1])}}, "'b', which is no series"),
        ({"bands": {"a": ([0], [1])}}, r"'a'.*\(1,\)"),
        ({"x": [0, 1], "log_x": True}, "x holds 0; give finite positive"),
        ({"x": [np.nan, 1]}, "x holds nan"),
        ({"x": ["a", "b"], "log_x": True}, "labels"),
    ],
)
def test_lines_that_cannot_be_drawn_are_refused(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(OutputError, match=words):
        Lines(**{"x": [0, 1], "series": {"a": [1.0, 2.0]}, **arguments})


# -- panels ----------------------------------------------------------------------------------------
def test_panels_stand_in_rows_and_show_all_of_each() -> None:
    figure = Panels([heads(), curves(), replace(heads(), row_name="z")], columns=2,
                    captions=["one", "two", "three"], title="All")  # fmt: skip
    said = tips(figure)
    assert set(said) == set(tips(heads())) | set(tips(curves())) | set(tips(figure.figures[2]))
    words = texts(figure.svg())
    assert {"(a) one", "(b) two", "(c) three", "All"} <= set(words)
    one, two, three = (
        next(s for s in figure.scene().shapes if isinstance(s, Text) and s.text.startswith(start))
        for start in ("(a)", "(b)", "(c)")
    )
    assert one.x < two.x
    assert three.x == pytest.approx(one.x)
    assert three.y > max(one.y, two.y)


def test_plain_series_have_no_markers_and_single_places_no_line_in_the_legend() -> None:
    figure = Lines([1, 2, 3], {"line": [1, 2, 3], "point": [np.nan, 2, np.nan]})
    plain = replace(figure, plain=["line"])

    def drawn(one: Lines, colour: str) -> list[type]:
        own = [s for s in one.scene().shapes if isinstance(s, Line | Polygon)]
        return [
            type(s) for s in own if colour in (getattr(s, "colour", ""), getattr(s, "fill", ""))
        ]

    blue, red = (COLOURS[number] for number in (0, 1))
    assert drawn(figure, blue).count(Polygon) == 4  # three places, and the legend
    assert drawn(plain, blue).count(Polygon) == 0
    assert drawn(plain, blue).count(Line) == 2
    assert drawn(figure, red) == [Polygon, Polygon]


def test_curves_of_the_same_series_share_one_legend() -> None:
    names = list(curves().series)
    for panels, times in (
        ([curves(), curves()], 1),
        ([curves()], 1),
        ([curves(), replace(curves(), series={"other": next(iter(curves().series.values()))},
                            bands={})], 1),
        ([curves(), curves(), heads()], 2),
    ):  # fmt: skip
        words = texts(Panels(panels).svg())
        assert [words.count(name) for name in names] == [times] * len(names)
        assert names


def test_panels_keep_to_a_page() -> None:
    assert FIGURES["3 x 3"].scene().width <= 780
    assert FIGURES["12 x 12"].scene().width <= 520


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"figures": []}, "no figures"),
        ({"figures": [Panels([curves()])]}, "no panel"),
        ({"captions": ["a", "b"]}, "2 captions for 1 figures"),
        ({"columns": 0}, "columns=0"),
    ],
)
def test_panels_that_cannot_be_drawn_are_refused(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(OutputError, match=words):
        Panels(**{"figures": [curves()], **arguments})


# -- files -----------------------------------------------------------------------------------------
@needs_graphviz
@pytest.mark.parametrize("suffix", BYTES)
@pytest.mark.parametrize("name", ["everything", "48 x 64", "lines"])
def test_png_and_pdf_are_drawn_by_graphviz(name: str, suffix: str, tmp_path: Path) -> None:
    path = FIGURES[name].save(tmp_path / "deep" / f"figure.{suffix.upper()}")
    content = path.read_bytes()
    assert content.startswith(BYTES[suffix])
    if suffix == "png":
        _is_as_large_as(content, FIGURES[name].scene())


@needs_graphviz
def test_graphviz_is_told_every_word() -> None:
    words = ["plain", "ü 漢 — −", 'a "quote"', "<b> & &amp; {|}", "{}%\\N", 'end\\"', "long " * 20]
    lines = tuple(Text(10.0, 10.0 * i, word) for i, word in enumerate(words * 60))
    drawn = graphviz_drawn(placed(Scene(500, 5000, lines), 72), "svg", "builtin").decode()
    shown = [text.replace("\xa0", " ").rstrip() for text in texts(drawn)]
    assert shown == [word.replace("\\", "∖").rstrip() for word in words * 60]


@pytest.mark.parametrize("suffix", BYTES)
def test_turned_labels_are_drawn_by_matplotlib(suffix: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    content = FIGURES["tokens"].save(tmp_path / f"figure.{suffix}").read_bytes()
    assert content.startswith(BYTES[suffix])
    assert FIGURES["tokens"].save(tmp_path / f"again.{suffix}").read_bytes() == content
    if suffix == "png":
        _is_as_large_as(content, FIGURES["tokens"].scene())


def _is_as_large_as(png: bytes, scene: Scene) -> None:
    for number, side in enumerate((scene.width, scene.height)):
        pixels = int.from_bytes(png[16 + 4 * number : 20 + 4 * number], "big")
        assert pixels == pytest.approx(side * 200 / 72, abs=4)


def test_without_graphviz_or_matplotlib_the_remedy_is_named(
    no_graphviz: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(OutputError, match="install graphviz"):
        heads().save(tmp_path / "x.png")
    with pytest.raises(OutputError, match="pip install matplotlib"):
        FIGURES["tokens"].save(tmp_path / "x.pdf")
    with pytest.raises(OutputError, match="pip install matplotlib"):
        heads().matplotlib()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["x.gif", "x", "x.svgz"])
def test_another_suffix_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"\.pdf, \.png, \.svg"):
        heads().save(tmp_path / name)


def test_figures_are_served_and_need_neither_torch_nor_matplotlib() -> None:
    assert circuitkit.figures.Heatmap is Heatmap
    code = (
        "import sys\nfrom circuitkit.viz.figures import Heatmap\nHeatmap([[1.0]]).svg()\n"
        "print(*[name for name in ('torch', 'matplotlib') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


# -- matplotlib ------------------------------------------------------------------------------------
def test_matplotlib_shows_the_same_matrix() -> None:
    pytest.importorskip("matplotlib")
    figure = heads()
    axes, bar = figure.matplotlib().axes
    image = axes.images[0]
    np.testing.assert_array_equal(image.get_array().filled(np.nan), figure.values)
    assert image.get_clim() == (figure.scale.low, figure.scale.high)
    for value in (*figure.values.flat, 0.0):
        shown = image.cmap(image.norm(value), bytes=True)[:3]
        drawn = channels(figure.scale.colour(value))
        assert np.abs(np.array(shown, int) - drawn).max() <= 3 or np.isnan(value)
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # downwards
    assert (axes.get_xlabel(), axes.get_ylabel(), bar.get_ylabel()) == (
        "head", "layer", "logit difference",
    )  # fmt: skip
    assert len(axes.lines) == int((figure.values > 1).sum()) > 0
    numbered = replace(figure, numbers=True).matplotlib().axes[0]
    assert len(numbered.texts) == 19


def test_matplotlib_shows_the_same_lines() -> None:
    pytest.importorskip("matplotlib")
    figure = curves((1, 10, 100, 1000), log_x=True)
    (axes,) = figure.matplotlib().axes
    for line, (name, own) in zip(axes.lines, figure.series.items(), strict=False):
        assert line.get_label() == name
        np.testing.assert_array_equal(line.get_xdata(), figure.x)
        np.testing.assert_array_equal(line.get_ydata(), own)
    assert axes.get_xscale() == "log"
    assert len(axes.collections) == 1
    assert [text.get_text() for text in axes.get_legend().get_texts()] == list(figure.series)


def test_matplotlib_shows_every_panel() -> None:
    pytest.importorskip("matplotlib")
    figure = Panels([curves(), curves(), curves()], columns=2, captions="xyz", title="All")
    shown = figure.matplotlib()
    assert shown._suptitle.get_text() == "All"
    assert [bool(axes.lines) for axes in shown.axes] == [True, True, True, False]
    assert shown.axes[2].get_xlabel() == "layer\n(c) z"
