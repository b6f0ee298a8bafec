"""Figures for papers: what they show, that nothing in them collides, and what they become."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.text import Text
from test_export import BYTES, HOSTILE, SVG, texts

import circuitkit
from circuitkit.errors import OutputError
from circuitkit.viz import style
from circuitkit.viz.figures import Bars, Heatmap, Lines, Panels, Points, _labels
from circuitkit.viz.figures._figure import Figure
from circuitkit.viz.figures._sheet import Sheet
from circuitkit.viz.figures.heatmaps import DIVERGING, EMPTY, SEQUENTIAL

pytestmark = pytest.mark.laid_out

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
    "30 x 9": Heatmap(values(30, 9), row_name="layer", column_name="head", limit=1.0),
    "positions": Heatmap(values(9, 140), column_name="position " * 30, row_name="long name " * 9),
    "tall": Heatmap(values(150, 2), [f"row {i}" for i in range(150)]),
    "tokens": Heatmap(values(30, 10), column_labels=TOKENS, row_name="layer"),
    "many tokens": Heatmap(values(6, 120), column_labels=TOKENS * 12, title="tokens " * 40),
    "agreement": Heatmap(np.eye(3), LONG, LONG, numbers=True, diverging=False, limit=(0, 1)),
    "large numbers": Heatmap(values(3, 12) * 1e5, numbers=True, unit="u" * 300),
    "lines": curves(),
    "log": curves((1, 10, 1000, 32491), log_x=True),
    "narrow log": curves((3, 4, 5, 6), log_x=True),
    "nothing on a line": Lines(range(2), {"a": [1.0, 2.0], "b": [np.nan] * 2}, bridged=True),
    "labels": curves(["attn", "mlp", "a long label of a place", " x"]),
    "many labels": Lines(["a long label of a place"] * 60, {"a": values(1, 60)[0]}),
    "8 series": many(8),
    "one point": Lines([3], {"": [2.0]}),
    "years": Lines([1900, 1950.5, 2000], {"a": [1e6, 2e6, 3e6]}, y_name="y" * 80),
    "tiny": Lines([0, 1], {"a": [1e-7, 2e-7]}, zero=False),
    "bars": Bars(
        [2.0, -1.0, np.nan], ["a0.h1->a5.h5<q>", "a long name " * 9, "x"], [0.1, np.nan, 0.2],
        values(3, 40), "Effects " * 20, "effect " * 30, [True, False, False], line=0.4,
        line_name="a line",
    ),
    "one bar": Bars([0.5], ["m0 -> logits"]),
    "many bars": Bars(values(1, 60)[0], [f"a{i}.h0->m{i}" for i in range(60)], x_name="effect"),
    "points": Points({"one": ([0, 1, 2.5], [0.2, 1, 2]), "two": ([-1], [1e-3])},
                     {"two": ["a point"]}, "Points", "x " * 60, "y", equal=True),
    "one dot": Points({"": ([3.0], [4.0])}),
    "panels of all kinds": Panels([Bars([1], ["a"]), Points({"b": ([0], [1])}), curves(), heads()]),
    "panels": Panels([heads(), curves(), heads(), many(3)], title="Two by two", columns=2),
    "2 x 3": Panels([Heatmap(values(5, 5), title="t " * 30)] * 6, captions=["caption " * 9] * 6),
    "long names in panels": Panels(
        [curves((0.004, 0.01, 0.1, 0.7), log_x=True, x_name="costs " * 9, y_name="effects " * 9),
         many(8, 3), Heatmap(
            values(3, 3), None, [f"{i}00000" for i in range(3)], "rows " * 12, "columns " * 12
        )]
    ),
}  # fmt: skip
every_figure = pytest.mark.parametrize("name", FIGURES)


@cache
def made(name: str) -> tuple[str, Any]:
    """The SVG of a figure, and the matplotlib figure of which it was written."""
    lay_out, seen = Sheet.drawn, []

    def kept(sheet: Sheet) -> Any:
        seen.append(lay_out(sheet))
        return seen[-1]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Sheet, "drawn", kept)
        text = FIGURES[name].svg()
    ((figure, _),) = seen
    figure.draw_without_rendering()  # again in points, not in the dots of a picture
    return text, figure


def svg_of(name: str) -> str:
    return made(name)[0]


def drawn(name: str) -> Any:
    return made(name)[1]


def test_a_figure_that_is_plotted_is_laid_out_as_the_one_that_is_written() -> None:
    plotted, written = FIGURES["panels"].plot(), drawn("panels")
    plotted.draw_without_rendering()
    assert plotted.get_size_inches() == pytest.approx(written.get_size_inches())
    for one, other in zip(plotted.axes, written.axes, strict=True):
        assert one.get_position().bounds == pytest.approx(other.get_position().bounds, abs=1e-3)


def shown(figure: Any) -> Iterator[Text]:
    """The texts of a matplotlib figure, but for ticks outside the axes, which are not drawn."""
    hidden = {
        id(text)
        for axes in figure.axes
        for axis in (axes.xaxis, axes.yaxis)
        for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks())
        for text in (tick.label1, tick.label2)
        if not min(axis.get_view_interval()) <= tick.get_loc() <= max(axis.get_view_interval())
    }
    for text in figure.findobj(Text):
        if text.get_visible() and text.get_text().strip() and id(text) not in hidden:
            yield text


def labels(axis: Any) -> list[str]:
    return [text.get_text() for text in axis.get_ticklabels()]


def legend(figure: Any) -> list[str]:
    """What the legends of a matplotlib figure say."""
    every = [*figure.legends, *(axes.get_legend() for axes in figure.axes)]
    return [text.get_text() for one in every if one for text in one.get_texts()]


def tips(figure: Figure) -> dict[str, tuple[float, float, float, float]]:
    """What shows where the pointer rests in an SVG: on left, top, right, bottom."""
    found = {}
    for rect in ElementTree.fromstring(figure.svg()).iter(f"{SVG}rect"):
        said = rect.findtext(f"{SVG}title")
        if said:
            x, y, width, height = (float(rect.get(k, "")) for k in ("x", "y", "width", "height"))
            found[said] = (x, y, x + width, y + height)
    return found


def colours(figure: Heatmap) -> np.ndarray:
    """The colour of every cell, as red, green and blue from 0 to 255."""
    cells = figure.plot().axes[0].collections[0]
    return np.round(255 * cells.to_rgba(cells.get_array())[..., :3]).astype(int)


# -- laws of every figure --------------------------------------------------------------------------
@every_figure
def test_no_text_lies_on_another_or_on_other_axes(name: str) -> None:
    figure = drawn(name)
    written = [(text, text.get_window_extent()) for text in shown(figure)]
    assert len(written) >= 3
    for (one, a), (other, b) in combinations(written, 2):
        assert not a.overlaps(b), (one, other)
    for text, box in written:
        for axes in figure.axes:
            inside = text.axes is axes and text in axes.texts
            # A label may reach a pixel into the frame of its own axes.
            assert inside or not box.padded(-1.5).overlaps(axes.get_window_extent()), text


@every_figure
def test_axes_have_the_size_that_was_asked_for(name: str) -> None:
    sheet = FIGURES[name].sheet()
    figure = drawn(name)
    for i, panel in enumerate(sheet.panels):
        box = figure.axes[i].get_window_extent()
        width, height = panel.size(sheet.page / sheet.across)
        assert box.width > width - 2
        assert box.height > height - 2
        if len(sheet.panels) == 1:
            assert box.width < width + 2
            assert box.height < height + 2


@every_figure
def test_a_figure_is_an_svg_that_may_stand_in_any_page(name: str) -> None:
    root = ElementTree.fromstring(svg_of(name))
    assert root.tag == f"{SVG}svg"
    assert svg_of(name).startswith("<svg ")
    assert "<style" not in svg_of(name)
    assert "url(" not in svg_of(name)
    used = {value for one in root.iter() for value in one.attrib.values() if "#" in value}
    named = [one.get("id", "") for one in root.iter() if one.get("id")]
    assert all(any(f"#{own}" in value for value in used) for own in named)
    for text in texts(svg_of(name)):
        assert text.strip()
        assert text.isprintable()
    assert len(repr(FIGURES[name])) < 600


def test_a_figure_is_the_same_bytes_every_time_whatever_the_user_has_set(tmp_path: Path) -> None:
    figure = Panels([heads(), curves()], title="Two", captions=["one", "two"])
    first = {s: figure.save(tmp_path / f"1.{s}").read_bytes() for s in ("svg", *BYTES)}
    assert b"CreationDate" not in first["pdf"]
    assert b"tEXt" not in first["png"]
    theirs = {
        "font.size": 31.0,
        "lines.linewidth": 9.0,
        "svg.fonttype": "path",
        "font.family": ["serif"],
    }
    with matplotlib.rc_context(theirs):
        for suffix, content in first.items():
            assert figure.save(tmp_path / f"2.{suffix}").read_bytes() == content
        assert {name: matplotlib.rcParams[name] for name in theirs} == theirs
    assert figure._repr_svg_().encode() == first["svg"]


def test_another_process_draws_the_same_without_torch_or_pyplot() -> None:
    code = (
        "import sys, hashlib\n"
        "from circuitkit.viz.figures import Heatmap, Lines\n"
        "early = [name for name in ('torch', 'matplotlib') if name in sys.modules]\n"
        "text = Heatmap([[1.0, 2.0]], title='t').svg() + Lines([1, 2], {'a': [1, 2]}).svg()\n"
        "late = [name for name in ('torch', 'matplotlib.pyplot') if name in sys.modules]\n"
        "print(early, late, hashlib.sha256(text.encode()).hexdigest())"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    here = Heatmap([[1.0, 2.0]], title="t").svg() + Lines([1, 2], {"a": [1, 2]}).svg()
    assert run.stdout.strip() == f"[] [] {hashlib.sha256(here.encode()).hexdigest()}"
    assert circuitkit.figures.Heatmap is Heatmap


@pytest.mark.parametrize(("figure", "suffixes"), [
    (Heatmap(values(1, 1), [HOSTILE], [HOSTILE], HOSTILE, HOSTILE, HOSTILE, HOSTILE,
             np.array([[True]]), HOSTILE, numbers=True), [*BYTES]),
    (Lines([HOSTILE, "b"], {HOSTILE: [1, 2]}, {}, HOSTILE, HOSTILE, HOSTILE), ["pdf"]),
    (Panels([curves()], title=HOSTILE, captions=[HOSTILE]), ["png"]),
], ids=["heat map", "lines", "panels"])  # fmt: skip
def test_hostile_words_break_nothing(figure: Figure, suffixes: list[str], tmp_path: Path) -> None:
    root = ElementTree.fromstring(figure.svg())
    assert not list(root.iter(f"{SVG}script"))
    assert "".join(root.itertext()).count("</svg>&amp;<script>") >= 1
    for suffix in suffixes:
        written = figure.save(tmp_path / f"x.{suffix}").read_bytes()
        assert written.startswith(BYTES[suffix])


def test_dollars_and_names_in_words_stay_words() -> None:
    words = ['$x_1$ id="b"', 'url(#a) href="#b"', "_hidden"]
    said = texts(Lines([0, 1], {word: [0, 1] for word in words}, title=words[0]).svg())
    assert said.count(words[0]) == 2
    assert set(words) <= set(said)


def test_figures_change_nothing_that_they_are_given() -> None:
    table = values(3, 3)
    before = table.copy()
    Heatmap(table, numbers=True).svg()
    np.testing.assert_array_equal(table, before)


# -- heat maps -------------------------------------------------------------------------------------
def test_the_matrix_is_shown_from_the_top_left() -> None:
    axes, bar = drawn("everything").axes
    cells = axes.collections[0]
    np.testing.assert_array_equal(cells.get_array().filled(np.nan), heads().values)
    np.testing.assert_array_equal(cells.get_coordinates()[2, 3], (2.5, 1.5))
    assert cells.get_clim() == heads().scale
    assert axes.get_xlim() == (-0.5, 4.5)
    assert axes.get_ylim() == (3.5, -0.5)
    assert (labels(axes.xaxis), labels(axes.yaxis)) == (list("01234"), list("0123"))
    assert (axes.get_xlabel(), axes.get_ylabel(), bar.get_ylabel()) == (
        "head", "layer", "logit difference",
    )  # fmt: skip
    assert drawn("everything").get_suptitle() == "Heads of a <model> & more"


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


def test_a_cell_says_so_where_it_is_drawn() -> None:
    figure = Heatmap([[-1.0, 0.5], [0.25, 1.0]])
    root = ElementTree.fromstring(figure.svg())
    at = tips(figure)
    for (row, column), value in np.ndenumerate(figure.table):
        fill = to_hex(colours(figure)[row, column] / 255)
        (path,) = (p for p in root.iter(f"{SVG}path") if f"fill: {fill}" in p.get("style", ""))
        numbers = [float(n) for n in path.get("d", "").replace("z", "").split() if n not in "ML"]
        xs, ys = numbers[::2], numbers[1::2]
        assert at[f"{row}, {column}: {value:+.3g}"] == pytest.approx(
            (min(xs), min(ys), max(xs), max(ys)), abs=0.2
        )


def test_blue_is_negative_white_zero_and_red_positive() -> None:
    blue, pale, white, rose, red, empty = colours(Heatmap([[-2.0, -1.0, 0.0, 1.0, 2.0, np.nan]]))[0]
    assert to_hex(blue / 255) == DIVERGING[0]
    assert to_hex(red / 255) == DIVERGING[-1]
    assert min(white) >= 254
    assert blue[2] > blue[0]
    assert pale[2] > pale[0]
    assert red[0] > red[2]
    assert rose[0] > rose[2]
    assert to_hex(empty / 255) == EMPTY


@pytest.mark.parametrize("diverging", [True, False])
def test_the_further_from_zero_the_darker(diverging: bool) -> None:
    steps = np.linspace(0, 1, 41)
    for sign in (1, -1) if diverging else (1,):
        light = colours(Heatmap([sign * steps], diverging=diverging))[0].sum(-1)
        assert (np.diff(light) < 0).all()


def test_limits_are_symmetric_and_the_colour_bar_points_to_values_beyond_them() -> None:
    figure = Heatmap([[0.31, -0.1]])
    assert figure.scale == (-0.31, 0.31)
    assert _bars(figure.plot()) == ["neither"]
    narrow = replace(figure, limit=0.2)
    assert narrow.scale == (-0.2, 0.2)
    assert _bars(narrow.plot()) == ["max"]
    assert _bars(replace(figure, limit=0.01).plot()) == ["both"]
    assert to_hex(colours(narrow)[0, 0] / 255) == DIVERGING[-1]
    assert to_hex(colours(narrow)[0, 1] / 255) != DIVERGING[0]


def _bars(figure: Any) -> list[str]:
    """Where the colour bars of a matplotlib figure are pointed."""
    found = {cells.colorbar for axes in figure.axes for cells in axes.collections if cells.colorbar}
    return [bar.extend for bar in found]


@pytest.mark.parametrize("largest", [0.0304, 0.999, 1.01, 17.3, 5321.0])
def test_the_colours_reach_all_values_and_not_much_further(largest: float) -> None:
    for low, high in (Heatmap([[largest, 0.0]]).scale, Heatmap([[-largest, 0.0]]).scale):
        assert largest <= high == -low <= 1.11 * largest


def test_one_colour_from_a_lower_to_an_upper_limit() -> None:
    white, middle, blue = colours(Heatmap([[0.0, 0.5, 1.0]], diverging=False, limit=(0, 1)))[0]
    assert to_hex(white / 255) == SEQUENTIAL[0] == "#ffffff"
    assert to_hex(blue / 255) == SEQUENTIAL[-1]
    assert sum(white) > sum(middle) > sum(blue)
    assert Heatmap([[-3.0, -1.0]], diverging=False).scale == (-3.0, 0.0)


def test_without_values_or_without_differences_there_still_is_a_picture() -> None:
    assert legend(Heatmap([[np.nan]]).plot()) == ["no value"]
    assert legend(Heatmap([[1.0]]).plot()) == []
    assert colours(Heatmap([[0.0, 0.0]])).min() >= 254


def test_marked_cells_are_outlined_and_the_legend_says_why() -> None:
    marks = np.zeros((4, 5), bool)
    plain = replace(heads(), marks=marks).plot()
    assert not plain.axes[0].patches
    assert legend(plain) == ["no value"]
    marks = marks.copy()
    marks[1, 2] = marks[3, 0] = True
    marked = replace(heads(), marks=marks).plot()
    middles = [tuple(np.mean(patch.get_corners(), 0)) for patch in marked.axes[0].patches]
    assert middles == [pytest.approx((2, 1)), pytest.approx((0, 3))]
    assert all(not patch.get_fill() for patch in marked.axes[0].patches)
    assert legend(marked) == ["detected", "no value"]


def test_numbers_stand_in_their_cells_in_ink_that_shows() -> None:
    figure = Heatmap(np.array([[1.0, -0.004], [0.5, -1.0], [np.nan, 0.0]]), numbers=True).plot()
    figure.draw_without_rendering()
    axes = figure.axes[0]
    said = {text.get_position(): text for text in axes.texts}
    assert {place: text.get_text() for place, text in said.items()} == {
        (0, 0): "1.00", (1, 0): "0.00", (0, 1): "0.50", (1, 1): "−1.00", (1, 2): "0.00",
    }  # fmt: skip
    assert said[0, 0].get_color() == style.PAPER
    assert said[1, 0].get_color() == style.INK
    for (x, y), text in said.items():
        cell = axes.transData.transform([(x - 0.5, y + 0.5), (x + 0.5, y - 0.5)])
        box = text.get_window_extent()
        assert (cell[0] <= box.min).all()
        assert (box.max <= cell[1]).all()


@pytest.mark.parametrize("shape", [(12, 12), (48, 64), (9, 140), (1, 1), (2, 2)])
def test_labels_are_every_kth_from_the_first_to_the_last(shape: tuple[int, int]) -> None:
    names = ([f"r{i}" for i in range(shape[0])], [str(i) for i in range(shape[1])])
    axes = Heatmap(np.zeros(shape), *names).plot().axes[0]
    for own, axis in zip(names, (axes.yaxis, axes.xaxis), strict=True):
        places = [int(place) for place in axis.get_ticklocs()]
        assert labels(axis) == [own[i] for i in places]
        assert {places[0], places[-1]} == {0, len(own) - 1}
        steps = {b - a for a, b in pairwise(places)}
        assert len(steps - {max(steps)}) <= 1 if steps else len(own) == 1


@pytest.mark.parametrize("count", [1, 2, 3, 12, 64, 100, 1001])
@pytest.mark.parametrize("apart", [0.5, 1, 2, 3, 7, 40])
def test_thinned_labels_keep_their_distance(count: int, apart: float) -> None:
    kept = _labels.thinned(count, apart)
    assert kept[-1] == count - 1
    assert all(b - a >= apart for a, b in pairwise(kept))
    assert len(kept) >= min(count, count / (2.5 * max(apart, 1)))


def test_tokens_are_readable() -> None:
    assert Heatmap([[0, 1]], row_name="layer").tip(0, 1) == "layer 0, 1: +1"
    assert Heatmap([[1]], None, [" Mary"], "", "position").tip(0, 0) == "0, position ' Mary': +1"
    assert Lines(["\n"], {"a": [2]}).tip("a", 0) == "a, '\\n': 2"
    assert [_labels.readable(token) for token in (" Mary", "\n", " ", "  two", "a\tb", "end ")] == [
        "Mary", "\\n", "·", "··two", "a\\tb", "end·",
    ]  # fmt: skip
    assert _labels.readable("x" * 100).endswith("x…")
    across = drawn("tokens").axes[0].xaxis
    assert labels(across) == [_labels.readable(token) for token in TOKENS]
    assert {text.get_rotation() for text in across.get_ticklabels()} == {90}


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
def test_curves_and_bands_are_those_given() -> None:
    figure = curves((1, 10, 100, 1000), log_x=True)
    (axes,) = figure.plot().axes
    zero, *lines = axes.lines
    assert zero.get_ydata() == [0, 0]
    for line, (name, own) in zip(lines, figure.series.items(), strict=True):
        assert line.get_label() == name
        np.testing.assert_array_equal(line.get_xdata(), figure.x)
        np.testing.assert_array_equal(line.get_ydata(), own)  # nan parts a line
    (band,) = axes.collections
    assert to_hex(band.get_facecolor()[0]) == to_hex(lines[0].get_color())
    corners = {tuple(point) for point in band.get_paths()[0].vertices}
    low, high = figure.bands["rising"]
    assert set(zip(figure.x, low, strict=True)) | set(zip(figure.x, high, strict=True)) <= corners
    assert axes.get_xscale() == "log"
    assert axes.get_xlabel() == "layer"
    assert axes.get_ylabel() == "effect"


def test_every_point_says_its_value_where_it_stands() -> None:
    at = tips(curves())
    assert {"rising, layer 3: 4", "falling, layer 0: 3", "falling, layer 3: -1"} <= set(at)
    assert len(at) == 7
    middles = {said: ((a + c) / 2, (b + d) / 2) for said, (a, b, c, d) in at.items()}
    xs, ys = np.array([middles[f"rising, layer {i}: {v}"] for i, v in enumerate((0, 1, 2, 4))]).T
    assert np.corrcoef(xs, range(4))[0, 1] == pytest.approx(1, abs=1e-4)
    assert np.corrcoef(ys, (0, 1, 2, 4))[0, 1] == pytest.approx(-1, abs=1e-4)
    assert len(tips(many(3, 100))) == 300


def test_series_differ_in_colour_and_without_it() -> None:
    lines = drawn("8 series").axes[0].lines[1:]
    assert len({line.get_color() for line in lines}) == 8
    assert len({(line.get_linestyle(), line.get_marker()) for line in lines}) == 8
    assert legend(drawn("8 series")) == [f"size {i}, summed" for i in range(8)]
    (key,) = drawn("8 series").legends
    looks = [
        (line.get_color(), line.get_linestyle(), line.get_marker()) for line in key.get_lines()
    ]
    assert looks == [(one.get_color(), one.get_linestyle(), one.get_marker()) for one in lines]


def test_plain_series_have_no_markers_and_points_alone_no_line() -> None:
    nan = np.nan
    figure = Lines([1, 2, 3, 4], {"line": [1, 2, 3, 4], "point": [nan, 2, nan, nan],
                                  "parts": [1, nan, 3, 4]})  # fmt: skip
    line, point, parts = figure.plot().axes[0].lines[1:]
    assert line.get_markevery() == [True] * 4
    assert (point.get_linestyle(), point.get_marker()) == ("None", "s")
    plain = replace(figure, plain=["line", "parts"]).plot()
    line, point, parts = plain.axes[0].lines[1:]
    assert line.get_marker() == ""
    assert parts.get_markevery() == [True, False, False, False]  # else it would not be seen
    assert [key.get_linestyle() for key in plain.legends[0].get_lines()] == ["-", "None", ":"]


def test_long_lines_have_a_marker_at_every_kth_place() -> None:
    marked = many(1, 100).plot().axes[0].lines[1].get_markevery()
    assert [i for i, there in enumerate(marked) if there] == list(range(0, 100, 5))


def test_one_series_without_a_name_needs_no_legend() -> None:
    assert legend(Lines([0, 1], {"": [1, 2]}).plot()) == []
    assert legend(Lines([0, 1], {"a": [1, 2]}).plot()) == ["a"]


def test_ticks_of_places() -> None:
    def ticks(figure: Lines) -> list[str]:
        made = figure.plot()
        made.draw_without_rendering()
        own = set(map(id, made.axes[0].get_xticklabels()))
        return [text.get_text() for text in shown(made) if id(text) in own]

    assert ticks(curves((1, 10, 1000, 32491), log_x=True)) == ["1", "10", "100", "1k", "10k"]
    assert {"5", "10", "20", "50"} <= set(ticks(curves((4, 8, 16, 60), log_x=True)))
    assert ticks(curves((0, 1, 2, 3))) == ["0", "1", "2", "3"]
    assert ticks(curves(["attn", "mlp", " x", "y"])) == ["attn", "mlp", "x", "y"]


def test_the_values_reach_to_zero_only_when_asked() -> None:
    for zero in (True, False):
        low, high = Lines([0, 1], {"a": [100.0, 101.0]}, zero=zero).plot().axes[0].get_ylim()
        assert (low <= 0) == zero
        assert high > 101


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"series": {}}, "no series"),
        ({"x": []}, r"\(2,\), and there are 0 places"),
        ({"series": {"a": [1.0]}}, r"'a'.*\(1,\)"),
        ({"series": {"a": [np.nan, np.nan]}}, "no values"),
        ({"series": {"a": [np.inf, 1]}}, "infinite"),
        ({"bands": {"b": ([0, 0], [1, 1])}}, "'b', which is not a series"),
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
def test_panels_stand_in_rows_with_their_titles_and_captions() -> None:
    figure = Panels([heads(), curves(), replace(heads(), row_name="z")], columns=2,
                    captions=["one", "two", "three"], title="All")  # fmt: skip
    made = figure.plot()
    made.draw_without_rendering()
    one, two, three = (axes.get_window_extent() for axes in made.axes[:3])
    assert one.x1 < two.x0
    assert one.y1 == pytest.approx(two.y1)
    assert one.x0 == pytest.approx(three.x0)
    assert three.y1 < one.y0
    assert made.get_suptitle() == "All"
    assert [axes.get_title("left") for axes in made.axes[:3]] == [
        heads().title, curves().title, heads().title,
    ]  # fmt: skip
    assert [axes.get_xlabel() for axes in made.axes[:3]] == [
        "head\n(a) one", "layer\n(b) two", "head\n(c) three",
    ]  # fmt: skip
    assert set(tips(figure)) == {said for one in figure.figures for said in tips(one)}


def test_heat_maps_of_one_unit_share_their_colours_and_the_bar() -> None:
    small, large = Heatmap([[0.1]], unit="KL"), Heatmap([[-4.0]], unit="KL")
    other, limited = Heatmap([[9.0]], unit="P"), Heatmap([[9.0]], unit="KL", limit=1.0)

    def scales(*figures: Heatmap, columns: int | None = None) -> tuple[list[Any], int]:
        made = Panels(figures, columns).plot()
        panels, bars = made.axes[: len(figures)], made.axes[len(figures) :]
        return [axes.collections[0].get_clim() for axes in panels], len(bars)

    assert scales(small, large) == ([(-4, 4), (-4, 4)], 1)
    assert scales(small, other, large, other, columns=2) == ([(-4, 4), (-9, 9)] * 2, 2)
    assert scales(small, other, large) == ([(-4, 4), (-9, 9), (-4, 4)], 3)
    assert scales(small, limited) == ([(-0.1, 0.1), (-1, 1)], 2)
    assert scales(limited, limited) == ([(-1, 1), (-1, 1)], 1)


def test_curves_of_the_same_series_share_one_legend() -> None:
    names = list(curves().series)
    other = replace(curves(), series={"other": [0, 1, 2, 3]}, bands={})
    for panels, said in (
        ([curves(), curves()], names),
        ([curves(), curves(), heads()], [*names, "detected", "no value"]),
        ([curves(), other, curves()], [*names, "other", *names]),
    ):
        assert legend(Panels(panels).plot()) == said


def test_panels_keep_to_a_page() -> None:
    assert drawn("2 x 3").get_figwidth() * 72 <= 780


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"figures": []}, "no figures"),
        ({"figures": [Panels([curves()])]}, "not a panel"),
        ({"captions": ["a", "b"]}, "2 captions for 1 figures"),
        ({"columns": 0}, "columns=0"),
    ],
)
def test_panels_that_cannot_be_drawn_are_refused(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(OutputError, match=words):
        Panels(**{"figures": [curves()], **arguments})


# -- files -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["everything", "lines"])
def test_png_is_as_large_as_svg(name: str, tmp_path: Path) -> None:
    root = ElementTree.fromstring(svg_of(name))
    head = FIGURES[name].save(tmp_path / "deep" / "figure.PNG").read_bytes()[16:24]
    for number, side in enumerate(("width", "height")):
        pixels = int.from_bytes(head[4 * number : 4 * number + 4], "big")
        assert pixels == pytest.approx(float(root.get(side, "")) * 200 / 72, abs=2)


def test_a_pdf_has_its_fonts_within_as_truetype(tmp_path: Path) -> None:
    content = FIGURES["lines"].save(tmp_path / "figure.pdf").read_bytes()
    assert b"/FontFile2" in content
    assert b"/Type3" not in content


def test_everything_lies_on_the_page(tmp_path: Path) -> None:
    for name in ("one cell", "long names in panels"):
        root = ElementTree.fromstring(svg_of(name))
        figure = drawn(name)
        inches = figure.get_tightbbox()
        assert float(root.get("width", "")) >= 72 * inches.width
        assert float(root.get("height", "")) >= 72 * inches.height


@pytest.mark.parametrize("name", ["x.gif", "x", "x.svgz"])
def test_another_suffix_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"\.pdf, \.png, \.svg"):
        heads().save(tmp_path / name)
    assert not list(tmp_path.iterdir())


# -- bars ------------------------------------------------------------------------------------------
def test_bars_are_as_long_as_the_values_from_the_top() -> None:
    given = [2.0, -1.0, np.nan]
    figure = Bars(given, ["a", "b", "c"], errors=[0.5, np.nan, 1.0], marks=[False, True, False])
    axes = figure.plot().axes[0]
    assert [bar.get_width() for bar in axes.patches] == [2, -1, 0]
    assert labels(axes.yaxis) == ["a", "b", "c"]
    assert axes.yaxis_inverted()
    assert [bar.get_linewidth() > 0 for bar in axes.patches] == [False, True, False]
    assert legend(figure.plot()) == ["marked"]
    assert list(tips(figure)) == ["a: +2 ± 0.5", "b: -1"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (([], []), "row of numbers"),
        (([np.inf], ["a"]), "infinite"),
        (([1.0, 2.0], ["a"]), "2 values for 1 labels"),
        (([1.0], ["a"], [1.0, 2.0]), "2 errors for 1 labels"),
    ],
)
def test_bars_that_cannot_be_drawn_are_refused(arguments: tuple[Any, ...], words: str) -> None:
    with pytest.raises(OutputError, match=words):
        Bars(*arguments)
