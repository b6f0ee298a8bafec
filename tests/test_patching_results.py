"""What patching gives, as tables, pictures and words: they say the numbers that were measured."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_docstrings import docstring, examples, methods, run

import circuitkit as ck
from circuitkit.errors import ArgumentError, CircuitError, CircuitkitError, DataError
from circuitkit.patching import detection
from circuitkit.patching.attention import Attention
from circuitkit.patching.detection import Detection, detect
from circuitkit.patching.effects import Effects, full_name
from circuitkit.patching.paths import Senders
from circuitkit.patching.windows import Windows
from circuitkit.viz.figures import Bars, Heatmap, Lines, Panels

SPANS = ["S2", "IO", "end"]
GROUPS = {"movers": ["3.0", "a3.h3"], "one": "2.2", "mlps": ["m1", "m2"]}


@cache
def mini() -> Any:
    return ck.load("mini")


@cache
def data() -> ck.Dataset:
    return ck.Dataset.of(ck.make_task("ioi", mini(), n=6), mini())


@cache
def made(kind: str) -> Any:
    m, d = mini(), data()
    makers: dict[str, Any] = {
        "heads": lambda: ck.patch_heads(m, d),
        "heads at spans": lambda: ck.patch_heads(m, d, at=SPANS),
        "residual": lambda: ck.patch_residual(m, d),
        "keys": lambda: ck.patch_nodes(m, "k", d, direction="noise"),
        "mlps": lambda: ck.patch_nodes(m, "mlp_out", d),
        "neurons": lambda: ck.patch_nodes(m, "neurons", d, layers=1),
        "edges": lambda: ck.patch_edges(m, ["2.2->logits", "0.2->2.2<v>", "m0->m3"], d),
        "path": lambda: ck.patch_path(m, "2.2 -> 3.0.q -> logits", d),
        "paths": lambda: ck.patch_paths(m, [["m0", "logits"], "2.2->3.0<q>->logits"], d),
        "groups": lambda: ck.patch_together(m, GROUPS, d),
        "senders": lambda: ck.patch_senders(m, "3.0.q", d),
        "windows": lambda: ck.patch_windows(m, "mlp_out", d, sizes=[1, 2]),
        "windows at spans": lambda: ck.patch_windows(m, "attn_out", d, sizes=2, at=SPANS),
        "attention": lambda: ck.attention_to(m, ["2.2", "3.2"], d, "counterfactual", at=SPANS),
        "detection": lambda: detect(made("heads"), 1.5),
        "detected mlps": lambda: detect(made("mlps"), 1.0),
        "detected at spans": lambda: detect(made("heads at spans"), 1.5),
    }
    return makers[kind]()


EFFECTS = ("heads", "heads at spans", "residual", "keys", "mlps", "neurons", "edges", "path",
           "paths", "groups")  # fmt: skip
OTHERS = ("senders", "windows", "windows at spans", "attention", "detection", "detected mlps",
          "detected at spans")  # fmt: skip
every_result = pytest.mark.parametrize("kind", [*EFFECTS, *OTHERS])


# -- tables ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", EFFECTS)
def test_a_table_of_effects_has_a_row_for_each_name_with_its_mean(kind: str) -> None:
    found, frame = made(kind), made(kind).to_frame()
    assert list(frame["name"]) == list(found.names)
    assert len(frame) == len(found) == found.mean.size
    for i, name in enumerate(found.names):
        own = found[name]
        own = own[~np.isnan(own)]
        gap = found.gap[~np.isnan(found[name])].mean()
        row = frame.iloc[i]
        assert row["effect"] == pytest.approx(own.mean(), rel=1e-6, abs=1e-9)
        assert row["share"] == pytest.approx(own.mean() / gap, rel=1e-6, abs=1e-9)
        if len(own) > 1:
            error = own.std(ddof=1) / len(own) ** 0.5
            assert row["error"] == pytest.approx(error, rel=1e-4, abs=1e-9)


@pytest.mark.parametrize(
    ("kind", "columns"),
    [
        ("heads", ["layer", "head"]),
        ("heads at spans", ["layer", "head", "span"]),
        ("residual", ["layer", "position"]),
        ("mlps", ["layer"]),
        ("neurons", ["layer", "neuron"]),
        ("edges", ["writer", "reader"]),
        ("path", []),
        ("paths", []),
        ("groups", ["group"]),
        ("senders", ["layer", "head"]),
    ],
)
def test_the_columns_of_a_table_are_the_axes(kind: str, columns: list[str]) -> None:
    assert list(made(kind).to_frame()) == ["name", *columns, "effect", "error", "share"]


def test_layers_are_counted_so_that_a_table_can_be_turned_into_the_map() -> None:
    found = made("heads")
    table = found.to_frame().pivot(index="layer", columns="head", values="effect")
    np.testing.assert_array_equal(table.to_numpy(), found.mean)


def test_a_share_of_no_gap_is_not_defined() -> None:
    found = Effects(np.ones((2, 2)), {"layer": ("0", "1")}, np.array([1.0, -1.0]), "mlp_out",
                    "m", "c", "denoise")  # fmt: skip
    assert np.isnan(found.share).all()
    assert found.to_frame()["share"].isna().all()


def test_the_table_of_senders_and_windows_has_their_means() -> None:
    senders, frame = made("senders"), made("senders").to_frame()
    assert frame["effect"].tolist() == pytest.approx(senders.effects.mean(1).tolist())
    assert frame["name"].tolist() == list(senders.names)
    assert frame["layer"].isna().tolist() == [name == "input" for name in senders.names]
    windows, frame = made("windows at spans"), made("windows at spans").to_frame()
    assert frame["effect"].tolist() == pytest.approx(windows.joint[2].mean.ravel().tolist())
    assert frame["summed"].tolist() == pytest.approx(windows.summed[2].mean.ravel().tolist())
    assert list(frame)[:4] == ["name", "size", "window", "span"]


def test_the_table_of_attention_has_its_means() -> None:
    found = made("attention")
    frame = found.to_frame().pivot(index="name", columns="span", values="attention")
    np.testing.assert_array_equal(frame.loc[[*found.heads], SPANS], found.values.mean(-1))
    assert np.array_equal(np.asarray(found), found.values)
    assert np.array_equal(found["3.2"], found.values[1])


def test_the_table_of_a_detection_says_what_is_found() -> None:
    found = made("detection")
    frame = found.to_frame()
    assert frame["found"].tolist() == found.signs.tolist()
    assert frame["effect"].tolist() == found.effects.tolist()


# -- pictures --------------------------------------------------------------------------------------
@every_result
def test_every_result_is_a_picture_a_file_and_what_a_notebook_shows(
    kind: str, tmp_path: Path
) -> None:
    found = made(kind)
    assert isinstance(found.plot(), Heatmap | Lines | Bars | Panels)
    written = found.draw(tmp_path / "x.svg").read_text(encoding="utf-8")
    assert found._repr_svg_() == written
    if kind == "heads":  # the other kinds are written by the same code
        assert written == found.plot().svg()
        for suffix in ("pdf", "png"):
            assert found.draw(tmp_path / f"x.{suffix}").stat().st_size > 500


@pytest.mark.parametrize("share", [False, True])
def test_the_cells_of_a_map_are_the_means(share: bool) -> None:
    for kind in ("heads", "residual", "keys"):
        found = made(kind)
        drawn = found.plot(share=share)
        np.testing.assert_array_equal(drawn.table, found.share if share else found.mean)
    found = made("heads at spans")
    drawn = found.plot(share=share)
    assert [own.title for own in drawn.figures] == SPANS
    for span, own in zip(SPANS, drawn.figures, strict=True):
        alone = found.at(span)
        np.testing.assert_array_equal(own.table, alone.share if share else alone.mean)


def test_the_bars_are_the_strongest_with_their_errors() -> None:
    for kind in ("edges", "paths", "groups", "neurons"):
        found, drawn = made(kind), made(kind).plot(n=2)
        frame = found.to_frame().set_index("name")
        best = frame["effect"].abs().sort_values(ascending=False).index[:2]
        assert list(drawn.labels) == list(best)
        assert list(drawn.values) == frame["effect"][best].tolist()
        assert list(drawn.errors) == frame["error"][best].tolist()
    alone = made("path")
    np.testing.assert_array_equal(alone.plot().points, [alone.values])


def test_the_curve_of_layers_is_their_means_between_their_errors() -> None:
    found = made("mlps")
    drawn = found.plot()
    np.testing.assert_array_equal(drawn.curves[""], found.mean)
    low, high = (np.array(edge) for edge in drawn.bands[""])
    np.testing.assert_allclose(high - low, 2 * found.standard_error)
    half = found.plot(share=True)
    np.testing.assert_allclose(half.curves[""], found.mean / found.gap.mean())


def test_the_map_of_senders_has_the_heads_and_the_mlps_beside_them() -> None:
    found = made("senders")
    heads, mlps = found.plot().figures
    np.testing.assert_array_equal(heads.table, found.heads)
    np.testing.assert_array_equal(mlps.table[:, 0], found.mlps)
    assert found.heads[2, 2] == pytest.approx(found["2.2"].mean())
    assert np.isnan(heads.table[3]).all()


def test_the_curves_of_windows_stand_at_their_middle_layers() -> None:
    found = made("windows")
    drawn = found.plot()
    np.testing.assert_array_equal(drawn.curves["single"], found.joint[1].mean)
    np.testing.assert_array_equal(drawn.curves["2 joint"][:3], found.joint[2].mean)
    np.testing.assert_array_equal(drawn.curves["2 summed"][:3], found.summed[2].mean)
    assert len(made("windows at spans").plot().figures) == 3


def test_what_is_found_is_outlined_wherever_it_is_drawn() -> None:
    for kind in ("detection", "detected at spans"):
        found = made(kind)
        drawn = found.plot()
        panels = drawn.figures if isinstance(drawn, Panels) else [drawn]
        assert sum(own.marked.sum() for own in panels) == len(found.found) > 0
    found = made("detected mlps")
    drawn = found.plot()
    marked = {name for name, flag in zip(drawn.labels, drawn.marks, strict=True) if flag}
    assert marked == {*found.found}


def test_of_many_positions_the_strongest_are_drawn() -> None:
    found = ck.patch_heads(mini(), data(), at="positions")
    drawn = found.plot()
    assert isinstance(drawn, Panels)
    assert len(drawn.figures) == 12 < len(found.axes["position"])
    peak = np.nanmax(np.abs(found.mean))
    assert max(np.nanmax(np.abs(own.table)) for own in drawn.figures) == peak
    assert "the 12 strongest of" in drawn.title


# -- words -----------------------------------------------------------------------------------------
@every_result
def test_every_result_says_its_direction_in_a_line_and_in_full(kind: str) -> None:
    found = made(kind)
    short, full = str(found), repr(found)
    assert "\n" not in short
    assert full.startswith(short)
    assert "6 examples" in short
    assert "counterfactual" in short
    if not isinstance(found, Attention):
        noised = kind in ("keys", "edges", "path", "paths", "senders")
        assert (" denoise, " in short, " noise, " in short) == (not noised, noised)
        assert "logit_diff" in short


# -- names -----------------------------------------------------------------------------------------
def test_short_names_are_the_long_ones() -> None:
    for short, name in {
        "9.9": "a9.h9", "10.7.q": "a10.h7.q", "9.9->10.7<q>": "a9.h9->a10.h7<q>",
        "3.7@S2": "a3.h7@S2", "a3.h7@4": "a3.h7@4", "m0->9.9<k>": "m0->a9.h9<k>",
        "9.9 -> 10.7.q -> logits": "a9.h9 -> a10.h7.q -> logits", "m3.n17": "m3.n17",
    }.items():  # fmt: skip
        assert full_name(short) == name
        assert full_name(name) == name
    for kind, short, name in (
        ("heads", "2.2", "a2.h2"), ("heads at spans", "2.2@end", "a2.h2@end"),
        ("edges", "2.2->logits", "a2.h2->logits"), ("senders", "2.2", "a2.h2"),
        ("attention", "2.2", "a2.h2"),
    ):  # fmt: skip
        np.testing.assert_array_equal(made(kind)[short], made(kind)[name])
    assert made("detection").sign("2.2") == made("detection").sign("a2.h2")
    assert made("detection").counts({"2.2": "x"}) == made("detection").counts({"a2.h2": "x"})
    for kind in ("heads", "senders", "attention"):
        with pytest.raises(DataError, match=r"'9\.9' "):
            made(kind)["9.9"]


def test_a_path_in_words_is_the_path_in_a_list() -> None:
    m, d = mini(), data()
    path = ["a2.h2", "a3.h0.q", "logits"]
    np.testing.assert_array_equal(made("path").values, ck.patch_path(m, path, d).values)
    np.testing.assert_array_equal(made("paths").values[1], made("path").values)
    assert made("paths").names[1] == made("path").nodes == " -> ".join(path)


# -- files -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", EFFECTS)
def test_saved_effects_are_the_same_effects(kind: str, tmp_path: Path) -> None:
    found = made(kind)
    again = Effects.load(found.save(tmp_path / "effects.npz"))
    for name, own in vars(found).items():
        np.testing.assert_array_equal(getattr(again, name), own)
    assert repr(again) == repr(found)


def test_a_file_that_holds_no_effects_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", values=np.ones(3))
    np.save(tmp_path / "pickle.npy", np.array([{}], dtype=object), allow_pickle=True)
    (tmp_path / "text.npz").write_text("no")
    for name in ("other.npz", "pickle.npy", "text.npz", "missing.npz"):
        with pytest.raises(DataError, match="holds no effects"):
            Effects.load(tmp_path / name)


# -- wrong calls -----------------------------------------------------------------------------------
TAKES = {
    "patch_edges": "edges", "patch_nodes": "nodes", "patch_windows": "nodes",
    "patch_together": "groups", "patch_path": "path", "patch_paths": "paths",
    "patch_senders": "receiver", "attention_to": "heads",
}  # fmt: skip


@pytest.mark.unchecked
@pytest.mark.parametrize("name", TAKES)
def test_what_stands_in_the_wrong_place_is_refused(name: str) -> None:
    patch, options = getattr(ck, name), {"at": "S2"} if name == "attention_to" else {}
    for wrong in (data(), len, 3, {3}, ck.make_task("ioi", mini(), n=2)):
        with pytest.raises(ArgumentError, match=f"^{TAKES[name]} is .*the order is model"):
            patch(mini(), wrong, data(), **options)
    if name != "patch_edges":  # of which a mask names some
        with pytest.raises(ArgumentError, match=rf"{TAKES[name]} is an array.*give"):
            patch(mini(), mini().wiring.legal, data(), **options)
    with pytest.raises(ArgumentError, match="first argument is a Dataset"):
        patch(data(), mini(), data(), **options)
    with pytest.raises(CircuitkitError, match=r"give|no heads|begin with"):
        patch(mini(), [], data(), **options)


def test_one_node_is_not_a_kind_of_nodes() -> None:
    with pytest.raises(CircuitError, match=r"'2\.2' is one node.*patch_together.*'a2\.h2'"):
        ck.patch_nodes(mini(), "2.2", data())
    with pytest.raises(DataError, match=r"'where'.*choose from all, positions, S1, IO"):
        ck.patch_heads(mini(), data(), at="where")
    with pytest.raises(DataError, match="'positions' is not possible here; choose from all, S1"):
        ck.patch_path(mini(), ["m0", "logits"], data(), at="positions")
    with pytest.raises(DataError, match="beside other names"):
        ck.patch_heads(mini(), data(), at=["positions", "S2"])
    with pytest.raises(DataError, match="two; use plot"):
        made("edges").heatmap()


# -- docstrings ------------------------------------------------------------------------------------
CLASSES = (Effects, Windows, Senders, Detection, Attention)
SHOWN = {
    **{kind.__name__: kind for kind in CLASSES},
    **{name: own for kind in CLASSES for name, own in methods(kind.__name__, kind)},
    **{name: getattr(detection, name) for name in detection.__all__},
}


@pytest.mark.parametrize("name", SHOWN)
def test_the_examples_of_results_show_what_happens(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    value = SHOWN[name]
    assert docstring(value)
    called = callable(value) and not name.endswith((".rows", ".marked"))
    assert examples(value) or not called
    wrong = run(name, value)
    assert not wrong, wrong
