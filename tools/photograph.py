"""Take the pictures of the site: README.md's of the pixel explorer, and what links to it show.

    make book && python -m tools.photograph

Needs Chromium or Chrome on the PATH.
"""

import argparse
import io
from pathlib import Path

from PIL import Image

from qlinear.errors import UnusableInput, run_command
from tools.browser import opened

PIXEL = "#image=3&layer=block2_conv1&channel=4&y=10&x=11&mac=90"
PREVIEW = {"width": 1200, "height": 630}
# the book's name over its explorer, and nothing else; runs in the page
FRAME = """(title) => {
    const explorer = document.querySelector("[data-explorer]");
    const name = Object.assign(document.createElement("p"), { textContent: title });
    name.style.cssText = "font-size: 46px; font-weight: 700; line-height: 1.2; margin: 0 0 24px";
    const frame = document.createElement("div");
    frame.style.cssText = "height: 630px; overflow: hidden; padding: 36px 48px 0; width: 1200px;"
        + "box-sizing: border-box; position: fixed; inset: 0; z-index: 9999; background: white";
    frame.className = "bd-article";
    frame.append(name, explorer);
    document.querySelector(".bd-main .bd-content .bd-article-container").append(frame);
}"""


def save_small(picture: bytes, out: Path) -> None:
    """Save a screenshot with at most 256 colours, which the site's pages hardly exceed."""
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    image.quantize(256, dither=Image.Dither.NONE).save(out, optimize=True)
    print(f"wrote {out}: {out.stat().st_size // 1024} KB")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--site", type=Path, default=Path("_build/html"))
    parser.add_argument("--out", type=Path, default=Path("book/static"))
    args = parser.parse_args(argv)
    built = args.site / "book" / "explorer.html"
    if not built.exists():
        raise UnusableInput(f"{built} does not exist; make book builds it")
    with opened(built, PIXEL, viewport={"width": 1280, "height": 1000}) as page:
        page.wait_for_selector(".explorer-steps tr.equal")
        explorer = page.locator("[data-explorer]").first
        explorer.screenshot(path=args.out / "explorer.png")
        page.evaluate(FRAME, "INT8 inference, to the bit")
        page.set_viewport_size(PREVIEW)
        save_small(page.screenshot(), args.out / "preview.png")


if __name__ == "__main__":
    run_command(main)
