"""Take the picture of the pixel explorer that README.md and links to the site show.

    make book && python -m tools.photograph

Needs Chromium or Chrome on the PATH.
"""

import argparse
from pathlib import Path

from qlinear.errors import UnusableInput, run_command
from tools.browser import opened

PIXEL = "#image=3&layer=block2_conv1&channel=4&y=10&x=11&mac=90"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--site", type=Path, default=Path("_build/html"))
    parser.add_argument("--out", type=Path, default=Path("book/static/explorer.png"))
    args = parser.parse_args(argv)
    built = args.site / "book" / "explorer.html"
    if not built.exists():
        raise UnusableInput(f"{built} does not exist; make book builds it")
    with opened(built, PIXEL, viewport={"width": 1280, "height": 1000}) as page:
        page.wait_for_selector(".explorer-steps tr.equal")
        page.locator(".explorer").screenshot(path=args.out)
    print(f"wrote {args.out}")


if __name__ == "__main__":
    run_command(main)
