"""The browser that prints and photographs the site, and tests it."""

import shutil

from qlinear.errors import UnusableInput

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def chromium() -> str | None:
    """Path of a Chromium or Chrome on this machine."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


def needed_chromium() -> str:
    """The same.

    Raises:
        UnusableInput: there is none.
    """
    found = chromium()
    if found is None:
        raise UnusableInput(f"no {' or '.join(NAMES)} found on the PATH; install one")
    return found
