"""The pictures of the gallery that are not in examples/ (three minutes; pages need a chromium):

python docs/pictures.py [NAME ...]
"""

from __future__ import annotations

import io
import os
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import circuitkit as ck
from circuitkit.cli.main import main

PLACE = Path(__file__).parent / "pages" / "assets" / "gallery"
EXAMPLES = Path(__file__).parent.parent / "examples"
WIDE = 1180  # pixels
COLOURS = 64  # of a screenshot


def run(line: str) -> None:
    """Run a command as the gallery prints it; real models' circuits are those of examples/."""
    line = line.replace("circuits/ioi-smollm2-135m", os.fspath(EXAMPLES / "smollm2-ioi"))
    if main([*shlex.split(line)[1:], "--quiet"]):
        raise SystemExit(line)


def mini() -> None:
    """The circuit of ``circuitkit discover ioi``, if it is not there yet."""
    if not Path("circuits/ioi-mini").exists():
        run("circuitkit discover ioi")


def shot(page: str, name: str, height: int, state: str = "") -> None:
    """A page in a browser as a picture of few colours."""
    from PIL import Image
    from selenium.webdriver import Chrome, ChromeOptions
    from selenium.webdriver.chrome.service import Service

    options = ChromeOptions()
    for option in ("headless=new", "no-sandbox", "hide-scrollbars", "force-device-scale-factor=1"):
        options.add_argument(f"--{option}")
    driver = Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        size = {"width": WIDE, "height": height, "deviceScaleFactor": 1, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        driver.get(f"{Path(page).resolve().as_uri()}{state}")
        time.sleep(1)
        seen = Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB")
    finally:
        driver.quit()
    seen.quantize(COLOURS, dither=Image.Dither.NONE).save(PLACE / f"{name}.png", optimize=True)


def column() -> None:
    """A circuit for one column of a paper."""
    run(f"circuitkit draw circuits/ioi-smollm2-135m --width 3.3 -o {PLACE}/column.svg")


def columns() -> None:
    """A circuit for two columns."""
    run(f"circuitkit draw circuits/ioi-smollm2-135m --width 7 -o {PLACE}/columns.svg")


def published() -> None:
    """A published circuit, with the roles of its heads."""
    run(f"circuitkit draw docstring:acdc -o {PLACE}/published.svg")


def members() -> None:
    """A published circuit that names heads and no edges."""
    run(f"circuitkit draw ioi:wang2022 -o {PLACE}/members.svg")


def beside() -> None:
    """Two published circuits, one over the other."""
    run(f"circuitkit draw ioi:eap_ig --beside ioi:acdc --width 7 -o {PLACE}/beside.svg")


def view() -> None:
    """The page of a circuit."""
    run("circuitkit view circuits/ioi-smollm2-135m -o circuit.html")
    shot("circuit.html", "view", 820, "#n=50&node=a23.h0&theme=light")


def overlay() -> None:
    """Two circuits, one over the other."""
    mini()
    run("circuitkit discover ioi --method acdc")
    run("circuitkit compare circuits/ioi-mini circuits/ioi-mini-acdc -o both.html")
    shot("both.html", "overlay", 900, "#theme=light")


def attention() -> None:
    """What a head attends to."""
    mini()
    prompt = "When Mary and John went to the store, John gave a drink to"
    run(f"circuitkit view circuits/ioi-mini --prompt '{prompt}' -o page.html")
    shot("page.html", "attention", 900, "#node=a2.h2&theme=light")


def curve() -> None:
    """Faithfulness over sizes."""
    mini()
    run(f"circuitkit evaluate circuits/ioi-mini --curve -o {PLACE}/curve.svg")


def senders() -> None:
    """Path patching."""
    model = ck.load("mini")
    ck.patch_senders(model, "logits", "ioi").plot().save(PLACE / "senders.svg")


def verification() -> None:
    """Estimates beside exact effects."""
    found = ck.discover(ck.load("mini"), "ioi", verify=479)
    if found.verification:
        found.verification.plot().save(PLACE / "verification.svg")


def study() -> None:
    """The page of a study."""
    run("circuitkit study ioi --examples 32 --circuits none -o study")
    shot("study/report.html", "study", 1000)


def bench() -> None:
    """The page of a benchmark."""
    run("circuitkit bench eap eap_ig mask_gradient --model indirect_object --model dyck "
        "--model mini:ioi --seeds 2 -o bench")  # fmt: skip
    shot("bench/summary.html", "bench", 1000)


PICTURES: Mapping[str, Callable[[], None]] = {
    one.__name__: one
    for one in (column, columns, published, members, beside, view, overlay, attention, curve,
                senders, verification, study, bench)
}  # fmt: skip

if __name__ == "__main__":
    PLACE.mkdir(exist_ok=True)
    chosen = sys.argv[1:] or [*PICTURES]
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for name in chosen:
            PICTURES[name]()
