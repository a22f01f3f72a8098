"""A headless Chromium that says what it asked for and what went wrong in it."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
MISSING = None if CHROMIUM and DRIVER else "no Chromium with its driver: apt-get install chromium chromium-driver"

_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--window-size=1400,1000",
)
_PATIENCE = 300.0


class Browser:
    """One window: `open` an address, ask it in JavaScript, read what it logged."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def open(self, address: str, *, charts: bool = False) -> None:
        """Load the page, anew even where it is shown already, and wait for its list, or for the charts in view too."""
        self.driver.get("about:blank")
        self.driver.get(address)
        states = ("charts",) if charts else ("list", "charts")
        self.wait(lambda: self.ask("return document.body.dataset.ready") in states)

    def ask(self, script: str, *arguments: object) -> object:
        """Run a function's body in the page and return its result."""
        return self.driver.execute_script(script, *arguments)

    def text(self, selector: str) -> str:
        """Return the text of the first such element, as it is in the document."""
        return self.ask("return document.querySelector(arguments[0]).textContent", selector)

    def number(self, selector: str) -> int:
        """Return how many such elements there are."""
        return self.ask("return document.querySelectorAll(arguments[0]).length", selector)

    def press(self, key: str) -> None:
        """Press a key, such as ArrowDown or j, as a person does."""
        keys = {"Enter": 13, "Escape": 27, "End": 35, "Home": 36, "ArrowUp": 38, "ArrowDown": 40}
        details = {"key": key, "windowsVirtualKeyCode": keys.get(key, ord(key[0].upper()))}
        if len(key) == 1:
            details["text"] = key
        for kind in ("keyDown", "keyUp"):
            self.driver.execute_cdp_cmd("Input.dispatchKeyEvent", {"type": kind, **details})

    def wait(self, holds: Callable[[], object]) -> None:
        """Return once it holds; fail when it does not for long."""
        end = time.monotonic() + _PATIENCE
        while not holds():
            assert time.monotonic() < end, f"the page did not come to it; it logged {self.complaints()}"
            time.sleep(0.02)

    def complaints(self) -> list[str]:
        """Return the errors and warnings of the console since the last question."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self) -> list[str]:
        """Return the addresses asked for since the last question, those refused by the page's policy aside."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        of_kind = {
            kind: [event["params"] for event in events if event["method"] == f"Network.{kind}"]
            for kind in ("requestWillBeSent", "loadingFailed")
        }
        refused = {failed["requestId"] for failed in of_kind["loadingFailed"] if failed.get("blockedReason") == "csp"}
        sent = [request for request in of_kind["requestWillBeSent"] if request["requestId"] not in refused]
        addresses = [request["request"]["url"] for request in sent]
        return [address for address in addresses if not address.startswith(("about:", "chrome", "data:"))]


@contextmanager
def chromium(profile: Path, *, phone: bool = False, flags: Sequence[str] = ()) -> Iterator[Browser]:
    """Start a browser with an empty profile; a phone's has a touch screen 390 pixels wide."""
    options = Options()
    options.binary_location = CHROMIUM
    for flag in (*_FLAGS, *flags, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    if phone:
        screen = {"width": 390, "height": 844, "pixelRatio": 2, "touch": True}
        options.add_experimental_option("mobileEmulation", {"deviceMetrics": screen})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    driver.set_script_timeout(_PATIENCE)
    driver.set_page_load_timeout(_PATIENCE)
    try:
        yield Browser(driver)
    finally:
        driver.quit()
