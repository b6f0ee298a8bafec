"""The pages of studies and benchmarks: what every page promises, and what it does in a browser."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from browser import MISSING, chromium
from browser import Page as Browser
from pages import HOSTILE, Page, bench_page, benchmark, few, study_page

from circuitkit.viz.figures import Heatmap, Lines, Panels
from circuitkit.workflows.reports import Cell, Picture, Report, Said, Section, Table, written

PAGES = {"study": study_page, "bench": bench_page}
each_page = pytest.mark.parametrize("made", PAGES.values(), ids=PAGES)


# -- what every page promises ----------------------------------------------------------------------
@each_page
def test_contents_lead_to_every_section_and_figure_and_no_link_leads_nowhere(
    made: Callable[[], str],
) -> None:
    page = Page(made())
    assert not page.open
    assert len(page.ids) == len(set(page.ids))
    assert all(link.startswith("#") for link in page.links)
    assert {link[1:] for link in page.links} <= set(page.ids)
    sections = [str(own["id"]) for tag, own in page.attributes if tag == "section"]
    figures = [str(own["id"]) for tag, own in page.attributes if tag == "figure"]
    assert sections[0] == "summary"
    assert len(sections) > 4
    assert sorted(page.contents) == sorted(f"#{one}" for one in sections + figures)


@each_page
def test_figures_and_tables_are_numbered_captioned_and_referred_to(made: Callable[[], str]) -> None:
    page = Page(made())
    for kind in ("Figure", "Table"):
        own = [name for name in page.captions if name.startswith(kind)]
        assert own == [f"{kind} {number}" for number in range(1, len(own) + 1)]
        for number in range(2 if kind == "Table" else 1, len(own) + 1):
            assert f"#{kind.lower()}-{number}" in set(page.links) - {page.contents[0]}
    assert page.seen.count("svg") == sum(name.startswith("Figure") for name in page.captions)
    for name, said in page.captions.items():
        assert len(said) > 40, name
    drawn = [said for name, said in page.captions.items() if name.startswith("Figure")]
    for said in drawn:  # what is drawn, with its unit and its sign, or which end is better
        assert re.search(r"unit|share|[Hh]ow many", said), said
        assert re.search(r"[Pp]ositive|[Rr]ed|better|worse|1: |[Hh]ow many", said), said


@each_page
def test_the_summary_is_first_and_short_and_figures_come_before_boxes_and_tables(
    made: Callable[[], str],
) -> None:
    text = made()
    order = [text.index(part) for part in ('id="summary"', "<nav", "<main>", "<figure")]
    assert order == sorted(order)
    summary = text[order[0] : order[1]]
    assert 4 <= summary.count("<li>") <= 8
    assert len(re.sub(r"<[^>]*>", "", summary.partition('<div class="table"')[0]).split()) < 300
    for section in re.findall(r"<section id=.*?</section>", text[order[2] :], re.DOTALL):
        kinds = re.findall(r'<figure |<div class="box|<div class="table"', section)
        ranks = [("<figure ", '<div class="box', '<div class="table"').index(k) for k in kinds]
        assert ranks == sorted(ranks)


@each_page
def test_a_page_asks_for_nothing_and_fits_a_phone(made: Callable[[], str]) -> None:
    text = made()
    page = Page(text)
    named = {own.get("name"): own["content"] for tag, own in page.attributes if tag == "meta"
             and "content" in own}  # fmt: skip
    assert named["viewport"] == "width=device-width, initial-scale=1"
    assert named["color-scheme"] == "light dark"
    assert str(named[None]).startswith("default-src 'none'; style-src 'unsafe-inline'")
    assert not {"script", "link", "iframe", "object"} & set(page.seen)
    addresses = {one for one in re.findall(r"https?://[^\s\"'<)]+", text) if "w3.org" not in one}
    assert not addresses
    assert "@import" not in text
    assert "url(" not in text


def test_a_figure_has_one_colour_scale() -> None:
    """Panels of one heat map are comparable: they share a unit, its ends and the colour bar."""
    scales = {}
    for name, figure in few().figures().items():
        parts = figure.sheet().panels
        assert isinstance(figure, Panels | Heatmap | Lines)
        if any(isinstance(part, Heatmap) for part in parts):
            scales[name] = {part.colours for part in parts}
            assert all(isinstance(part, Heatmap) for part in parts)
    assert set(scales) == {"heads", "agreement", "ranks", "stream", "prompt", "circuits"}
    assert all(len(own) == 1 for own in scales.values()), scales
    drawn = few().figures()["heads"].plot()
    assert len(drawn.axes) == 4 + 1


def test_names_are_text_and_nothing_else() -> None:
    """A benchmark's methods and reasons may come from files."""
    text = benchmark(name=f"x|{HOSTILE}", failed=f"{{{{ 7 * 7 }}}} **{HOSTILE}**").report()
    page = Page(text)
    assert not page.open
    assert not {"script", "img"} & set(page.seen)
    assert all(link.startswith("#") for link in page.links)
    assert html.unescape(text).count(HOSTILE) > 4
    assert "{{ 7 * 7 }}" in text


def test_the_best_of_a_benchmark_says_how_sure_it_is() -> None:
    """The means by hand: 0.8 + 0.03 + 0.05 of four programs, 0.1 more than the reference."""
    text = html.unescape(bench_page())
    summary = text[text.index('id="summary"') : text.index("<nav")]
    assert "3 methods at budgets of 10 and 50 sequence-backwards on 6 models" in summary
    plain = r"<td>plain</td><td>zero</td><td>mine</td><td[^>]*>AP 0\.880 ± 0\.0\d\d</td>"
    assert re.search(rf"{plain}<td[^>]*><strong>\+0\.100 ", summary)
    assert re.search(r"<td>mini</td>.*<td[^>]*>CMD 0\.140 ± ", summary)
    assert ">0.280</td>" in summary, "random scores, by chance"
    assert "large:ioi" in summary


# -- in a browser ----------------------------------------------------------------------------------
def extreme() -> str:
    """A page with a wide figure, a wide table, long words and hostile names."""
    word = "counterfactual" * 12
    wide = '<svg xmlns="http://www.w3.org/2000/svg" width="1900" height="40"></svg>'
    heads = [Cell(word, number) for number in (False, True) * 8]
    row = [Cell(word if not n else "-0.123456 [-0.2, 0.1]", n) for n in (False, True) * 8]
    table = Table("wide", heads, [row] * 3, word)
    many = Table("many", heads, [row] * 40, word, "many.csv")
    picture = Picture("wide", word, wide, word)
    section = Section("all", word, [word], [picture], [], [table, many], [word, HOSTILE])
    return written(Report(word, word, [Said(word, ("wide",))], [section], word, table))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("downloads")) as found:
        yield found


BRIGHTNESS = """
const seen = (c) => {
  const [r, g, b, a = 1] = c.match(/[\\d.]+/g).map(Number); return [r, g, b, a]; };
const light = (c) => { const [r, g, b] = seen(c).slice(0, 3).map((v) => v / 255)
  .map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
const behind = (e) => {
  while (e && !seen(getComputedStyle(e).backgroundColor)[3]) e = e.parentElement;
  return getComputedStyle(e || document.body).backgroundColor; };
return Math.min(...[...document.querySelectorAll('body *:not(svg):not(svg *)')]
  .filter((e) => [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()))
  .map((e) => [light(getComputedStyle(e).color), light(behind(e))].sort((a, b) => b - a))
  .map(([a, b]) => (a + 0.05) / (b + 0.05)));
"""  # the least contrast of text with what is behind it, as WCAG defines it


@pytest.mark.skipif(bool(MISSING), reason=f"no browser: {MISSING} not installed")
def test_a_phone_dark_and_paper(browser: Browser, tmp_path: Path) -> None:
    pages = {"study": study_page(), "bench": bench_page(), "extreme": extreme()}
    for name, text in pages.items():
        file = tmp_path / f"{name}.html"
        file.write_text(text, encoding="utf-8")
        grounds = set()
        for scheme in ("light", "dark"):
            browser.prefer(scheme)
            browser.size(390, 844)
            browser.open(file)
            browser.js("document.querySelectorAll('details').forEach((one) => { one.open = true })")
            assert browser.js("return document.documentElement.scrollWidth") <= 390, name
            assert browser.js(BRIGHTNESS) >= 4.5, f"{name}, {scheme}"
            grounds.add(browser.js("return getComputedStyle(document.body).backgroundColor"))
        assert len(grounds) == 2, "dark is not light"
        card = "return getComputedStyle(document.querySelector('.picture')).backgroundColor"
        assert browser.js(card) == "rgb(255, 255, 255)", "pictures are drawn for a light ground"
        browser.prefer("dark", "print")
        ground = browser.js("return getComputedStyle(document.body).backgroundColor")
        assert ground == "rgb(255, 255, 255)"
        browser.prefer("light")
        browser.size(1280, 860)
        assert browser.js("return document.documentElement.scrollWidth") <= 1280
        assert browser.js("return document.scripts.length + document.images.length") == 0
        assert browser.log() == []
        asked = {url for url in browser.requests() if not url.startswith(("data:", "about:"))}
        assert asked == {file.as_uri()}
