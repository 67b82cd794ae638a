"""A headless Chromium for the pages that people look at."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from selenium.common.exceptions import (
    ElementClickInterceptedException,
    InvalidElementStateException,
    StaleElementReferenceException,
)
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from evoflask.dev.process import wait_for
from tests.conftest import missing

T = TypeVar("T")

SIZE = "1340,800"


class Browser:
    """A person at a page. Everything waits for what it asks for, half a minute at most."""

    def __init__(self, driver: Chrome) -> None:
        self.driver = driver

    def open(self, url: str) -> None:
        self.driver.get(url)

    def read(self, selector: str, text: str = "") -> str:
        """What one reads in the first that fits the CSS selector, can be seen, and has the text."""
        return str(self._with(selector, text, lambda found: found.text or " "))

    def click(self, selector: str, text: str = "") -> None:
        """The same, clicked."""
        self._with(selector, text, lambda found: found.click() or True)

    def write(self, selector: str, words: str) -> None:
        """Words into a field, and Enter."""
        self._with(selector, "", lambda found: found.send_keys(words + Keys.ENTER) or True)

    def shows(self, selector: str) -> bool:
        """Whether something that fits can be seen now."""
        fitting = self.driver.find_elements(By.CSS_SELECTOR, selector)
        return bool(_patiently(lambda: any(each.is_displayed() for each in fitting)))

    def _with(self, selector: str, text: str, do: Callable[[WebElement], object]) -> object:
        def look() -> object:
            for each in self.driver.find_elements(By.CSS_SELECTOR, selector):
                if each.is_displayed() and text in each.text:
                    return do(each)
            return None

        what = f"{selector} {text!r} in {self.driver.current_url}"
        return wait_for(lambda: _patiently(look), 30, what, 0.1)

    def text(self) -> str:
        """What one reads of the page."""
        return _patiently(lambda: self.driver.find_element(By.TAG_NAME, "body").text) or ""

    def shoot(self, path: Path) -> None:
        """A picture of what can be seen."""
        self.driver.save_screenshot(str(path))

    def complaints(self) -> list[str]:
        """What the browser's console has of errors, since the last question."""
        return [
            each["message"] for each in self.driver.get_log("browser") if each["level"] == "SEVERE"
        ]


def _patiently(look: Callable[[], T]) -> T | None:
    """None where the page was drawn anew meanwhile, or something moves in front."""
    try:
        return look()
    except (
        ElementClickInterceptedException,
        InvalidElementStateException,
        StaleElementReferenceException,
    ):
        return None


@contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """Opens one, its profile in that folder."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    driver = shutil.which("chromedriver")
    if program is None or driver is None:
        missing("there is no chromium with its driver on PATH")
    options = ChromeOptions()
    options.binary_location = str(program)
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--disable-gpu",
        "--no-proxy-server",
        # Bootstrap ignores an answer to a question that is still being faded in.
        "--force-prefers-reduced-motion",
        f"--window-size={SIZE}",
        f"--user-data-dir={folder / 'profile'}",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "SEVERE"})
    opened = Chrome(options, Service(str(driver)))
    opened.set_page_load_timeout(60)
    try:
        yield Browser(opened)
    finally:
        opened.quit()
