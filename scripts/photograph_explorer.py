#!/usr/bin/env python3
"""Take the picture of the pixel explorer that README.md and links to the site show.

    make book && python scripts/photograph_explorer.py

Needs Chromium or Chrome on the PATH.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from qlinear.browser import opened
from qlinear.errors import UnusableInput, run_command

PIXEL = "#image=3&layer=block2_conv1&channel=4&y=10&x=11&mac=90"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--site", type=Path, default=Path("_build/html"))
    parser.add_argument("--out", type=Path, default=Path("book/static/explorer.png"))
    args = parser.parse_args()
    built = args.site / "book" / "explorer.html"
    if not built.exists():
        raise UnusableInput(f"{built} does not exist; make book builds it")
    with opened(built, PIXEL, viewport={"width": 1280, "height": 1000}) as page:
        page.wait_for_selector(".explorer-steps tr.equal")
        page.locator(".explorer").screenshot(path=args.out)
    print(f"wrote {args.out}")


if __name__ == "__main__":
    run_command(main)
