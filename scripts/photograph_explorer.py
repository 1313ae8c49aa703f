#!/usr/bin/env python3
"""Take the picture of the pixel explorer that README.md and links to the site show.

    make book && python scripts/photograph_explorer.py

Needs Chromium or Chrome on the PATH.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from playwright.sync_api import sync_playwright

from qlinear.browser import needed_chromium
from qlinear.errors import UnusableInput, run_command

PIXEL = "#image=3&layer=block2_conv1&channel=4&y=10&x=11&mac=90"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--site", type=Path, default=Path("_build/html"))
    parser.add_argument("--out", type=Path, default=Path("book/static/explorer.png"))
    args = parser.parse_args()
    built, browser = args.site / "book" / "explorer.html", needed_chromium()
    if not built.exists():
        raise UnusableInput(f"{built} does not exist; make book builds it")
    with sync_playwright() as tools:
        window = {"width": 1280, "height": 1000}
        chrome = tools.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        page = chrome.new_page(viewport=window, color_scheme="light")
        page.goto(built.resolve().as_uri() + PIXEL)
        page.wait_for_selector(".explorer-steps tr.equal")
        page.locator(".explorer").screenshot(path=args.out)
    print(f"wrote {args.out}")


if __name__ == "__main__":
    run_command(main)
