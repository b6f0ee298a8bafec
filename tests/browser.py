"""Debian's Chromium, driven by Selenium; tests that need it are skipped by name where it is not."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["MISSING", "Page", "chromium"]

PROGRAMS = ("chromium", "chromedriver")


def _missing() -> str:
    lacking = [name for name in PROGRAMS if shutil.which(name) is None]
    lacking += [] if importlib.util.find_spec("selenium") else ["selenium"]
    return ", ".join(lacking)


MISSING = _missing()  # what is not here of what a browser needs


class Page:
    """A page in the browser, and what a test asks of it."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, file: Path, state: str = "") -> None:
        """Open the file, with this state in its address, and forget what was logged before."""
        self.driver.get("about:blank")
        self.log()
        self.requests()
        self.driver.get(f"{file.as_uri()}{state}")

    def js(self, script: str, *given: Any) -> Any:
        """What the script returns."""
        return self.driver.execute_script(script, *given)

    def text(self, css: str) -> str:
        """The text of the first such element."""
        return str(self.js("return document.querySelector(arguments[0]).textContent.trim()", css))

    def click(self, css: str) -> None:
        """Click the first such element."""
        self.js(
            "document.querySelector(arguments[0])"
            ".dispatchEvent(new MouseEvent('click', {bubbles: true}))", css,
        )  # fmt: skip

    def put(self, css: str, value: object, event: str = "input") -> None:
        """Put a value into a control, as a user does."""
        self.js(
            "const own = document.querySelector(arguments[0]); own.value = arguments[1];"
            "own.dispatchEvent(new Event(arguments[2], {bubbles: true}))", css, value, event,
        )  # fmt: skip

    def keys(self, *keys: str) -> None:
        """Press keys, on what has the focus."""
        from selenium.webdriver import ActionChains

        for key in keys:
            ActionChains(self.driver, duration=0).send_keys(key).perform()

    def lines(self, more: str = "") -> set[int]:
        """The numbers of the edges that are shown; ``more`` restricts them further by CSS."""
        found = self.js(
            "return [...document.querySelectorAll('.e:not(.off, .off *)' + arguments[0])]"
            ".map((line) => +line.dataset.i)", more,
        )  # fmt: skip
        return set(found)

    def boxes(self, more: str = "") -> set[str]:
        """The names of the boxes that are shown."""
        found = self.js(
            "return [...document.querySelectorAll('.n:not(.off)' + arguments[0])]"
            ".map((box) => box.dataset.n)", more,
        )  # fmt: skip
        return set(found)

    def size(self, width: int, height: int) -> None:
        """The size of the window's inside."""
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
            "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600,
        })  # fmt: skip

    def prefer(self, scheme: str, media: str = "") -> None:
        """Light or dark, as the system asks for it; and ``print`` as on paper."""
        wanted = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"features": wanted, "media": media}
        )

    def log(self) -> list[str]:
        """What the console holds since it was asked last."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self) -> list[str]:
        """The addresses that were asked for since this was asked last."""
        events = [json.loads(e["message"])["message"] for e in self.driver.get_log("performance")]
        asked = (e for e in events if e["method"] == "Network.requestWillBeSent")
        return [event["params"]["request"]["url"] for event in asked]


@contextmanager
def chromium(downloads: Path) -> Iterator[Page]:
    """A headless Chromium, whose downloads go into this folder."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(str(shutil.which("chromedriver")))
    driver = webdriver.Chrome(options=options, service=service)
    try:
        driver.execute_cdp_cmd(
            "Browser.setDownloadBehavior",
            {"behavior": "allow", "downloadPath": str(downloads)},
        )
        page = Page(driver)
        page.size(1280, 860)
        yield page
    finally:
        driver.quit()
