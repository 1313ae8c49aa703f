"""The browser that prints and photographs the site, and tests it."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from qlinear.errors import UnusableInput

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def chromium() -> str | None:
    """Path of a Chromium or Chrome on this machine."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


@contextmanager
def opened(path: Path, fragment: str = "", **context) -> Iterator[Page]:
    """A built page in headless Chromium, in the light theme.

    Args:
        fragment: what follows the file in the address, with its "#".
        **context: as Playwright's ``new_page`` takes them, such as ``viewport``.

    Raises:
        UnusableInput: there is no Chromium.
    """
    browser = chromium()
    if browser is None:
        raise UnusableInput(f"no {' or '.join(NAMES)} found on the PATH; install one")
    with sync_playwright() as tools:
        chrome = tools.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        page = chrome.new_page(color_scheme="light", **context)
        page.goto(path.resolve().as_uri() + fragment)
        yield page
