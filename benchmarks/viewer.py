"""How fast a page of a circuit is, in headless Chromium: to open, to filter and to isolate.

Circuits are drawn at random on the wiring of a model of 30 layers of 9 heads (SmolLM2-135M's). CPU
is the time that the page's main thread computes, which other work on the machine does not change:
parsing, the script, styles, layout and the recording of the paint. Wall is what passes: from the
start of the navigation to the end of the script and to the first paint; from an input to the frame
after its paint. There is no graphics card.

    python benchmarks/viewer.py -o benchmarks/viewer.md

needs Debian's chromium and chromium-driver, and selenium.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from circuitkit.graph.scores import Scores
from circuitkit.graph.wiring import Wiring

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from browser import MISSING, Page, chromium

WIRING = Wiring(30, 9, 3)
SIZES = (200, 1000, 5000)
MEASURE = """
const done = arguments[arguments.length - 1], [act, given] = arguments;
const slider = document.getElementById("size");
const box = document.querySelector(`.n[data-n="${given}"]`);
requestAnimationFrame(() => {
  const start = performance.now();
  if (act === "filter") {
    slider.value = given;
    slider.dispatchEvent(new Event("input"));
  } else box.dispatchEvent(new MouseEvent("click", {bubbles: true}));
  requestAnimationFrame(() => setTimeout(() => done(performance.now() - start), 0));
});
"""
OPENED = """
const done = arguments[0], ask = () => {
  const own = performance.getEntriesByType("navigation")[0];
  const paint = performance.getEntriesByName("first-contentful-paint")[0];
  if (own.loadEventEnd && paint) done([own.loadEventEnd, paint.startTime]);
  else setTimeout(ask, 20);
};
ask();
"""


def main() -> None:
    """Measure pages of each size, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, help="a file for the table")
    parser.add_argument("--repeat", type=int, default=5, help="how often (default: 5)")
    options = parser.parse_args()
    if MISSING:
        sys.exit(f"not here: {MISSING}")
    with tempfile.TemporaryDirectory() as folder, chromium(Path(folder)) as page:
        version = page.driver.capabilities["browserVersion"]
        rows = [row(page, Path(folder), n, options.repeat) for n in SIZES]
    text = report(rows, version, options.repeat)
    if options.output:
        options.output.write_text(text, encoding="utf-8")
    print(text)


def row(page: Page, folder: Path, n: int, repeat: int) -> dict[str, Any]:
    """The measurements of a page with so many edges."""
    values = np.random.default_rng(0).standard_normal(WIRING.shape) ** 3
    circuit = Scores(WIRING, values).top(n)
    start = time.perf_counter()
    path = circuit.draw(folder / f"{n}.html")
    made = time.perf_counter() - start
    page.open(path)
    page.driver.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})
    opened = []
    for _ in range(repeat):
        page.driver.refresh()  # from which on the thread is counted anew
        walls = page.driver.execute_async_script(OPENED)
        opened.append((cpu(page), *walls))
    most = int(page.js("return document.getElementById('size').max"))
    steps = [measured(page, "filter", most - k % 40) for k in range(4 * repeat)]
    jumps = [
        measured(page, "filter", to) for _ in range(repeat) for to in (0, most, most // 3, most)
    ]
    measured(page, "filter", most)
    boxes = page.js("return [...document.querySelectorAll('.n')].map((box) => box.dataset.n)")
    chosen = [boxes[len(boxes) * k // (repeat + 1)] for k in range(1, repeat + 1)]
    shown = [measured(page, "isolate", name) for name in chosen]
    return {"n": n, "made": made, "size": path.stat().st_size, "open": opened, "step": steps,
            "jump": jumps, "isolate": shown}  # fmt: skip


def measured(page: Page, act: str, given: object) -> tuple[float, float]:
    """Milliseconds of the main thread, and until after the paint."""
    before = cpu(page)
    wall = page.driver.execute_async_script(MEASURE, act, given)
    return cpu(page) - before, wall


def cpu(page: Page) -> float:
    """Milliseconds that the main thread has computed."""
    found = page.driver.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
    return 1000 * next(own["value"] for own in found if own["name"] == "TaskDuration")


def report(rows: list[dict[str, Any]], version: str, repeat: int) -> str:
    """The table in Markdown."""
    load = os.getloadavg()[0]
    lines = [
        "# Pages of circuits in a browser", "",
        f"`python benchmarks/viewer.py -o benchmarks/viewer.md`: Chromium {version}, headless, "
        f"without a graphics card, {os.cpu_count()} cores ({platform.machine()}), load average "
        f"{load:.1f} at the end (above the number of cores wall times are too long). Milliseconds, "
        f"medians of {repeat} or more, in brackets the largest: *CPU* of the page's main thread, "
        "*wall* until after the paint. A step of the slider adds or removes up to 6% of the edges; "
        "a jump goes from one edge to all of them, to few and back; isolating shows what leads to "
        "a box and from it.",
        "",
        "| edges | file | made in | open: CPU | script done: wall | first paint: wall "
        "| step: CPU | wall | jump: CPU | wall | isolate: CPU | wall |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]  # fmt: skip
    for own in rows:
        cells = [f"{own['n']:,}", f"{own['size'] / 1e6:.2f} MB", f"{own['made']:.1f} s"]
        for key in ("open", "step", "jump", "isolate"):
            cells += [spread(list(values)) for values in zip(*own[key], strict=True)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def spread(values: list[float]) -> str:
    """The median and the largest."""
    return f"{median(values):.0f} ({max(values):.0f})"


if __name__ == "__main__":
    main()
