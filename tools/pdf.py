"""Print the whole book, built as one page, to a PDF with a title page, contents and bookmarks.

    make pdf

Needs Chromium or Chrome on the PATH. The built site then offers the PDF.
"""

import argparse
import html
import json
import re
import shutil
import subprocess
from pathlib import Path

from playwright.sync_api import Page
from pypdf import PdfReader, PdfWriter
from pypdf.generic import NameObject, TextStringObject

from qlinear.errors import UnusableInput, run_command
from tools.browser import opened
from tools.sphinx.pages import offer_pdf

ROOT = Path(__file__).resolve().parents[1]
HERE = Path(__file__).parent
NUMBER = """(pages) => {
    for (const link of document.querySelectorAll(".paper-contents a"))
        link.querySelector(".page").textContent = pages[link.hash.slice(1)];
}"""


def edition() -> str:
    """Which version of the book this is, and when: of the release, or of the last change since."""
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    version, date = re.search(r"^## (\d\S*) \((.+)\)$", changes, re.M).groups()
    if re.search(r"^## (.*)$", changes, re.M)[1].startswith(version):
        return f"Version {version}, {date}"
    asked = subprocess.run(
        ["git", "log", "-1", "--format=%cs"], cwd=ROOT, capture_output=True, text=True
    )
    return f"Version {version} and what changed until {asked.stdout.strip() or 'now'}"


def title_page(title: str, address: str) -> str:
    """The title page, and the place for the contents."""
    where = html.escape(address)
    return f"""<div class="paper-title">
<p class="name">{html.escape(title)}</p>
<p>What ONNX Runtime computes for an INT8 network, and what hardware must decide</p>
<p>The qlinear authors</p>
<div class="notes"><p>{edition()}</p><p><a href="{where}">{where}</a></p>
<p>Text and figures: CC BY 4.0. Code: Apache License 2.0.</p>
<p>Code that the site folds away is left out here: it loads what a chapter needs, and draws its
figures and tables.</p></div></div>
<div class="paper-contents"><p class="name">Contents</p></div>
"""


def whole_book(site: Path) -> tuple[str, str]:
    """The book as one page, with the title page, and the address that it is published at.

    Raises:
        UnusableInput: it is not built.
    """
    built = site / "notebooks" / "00-start.html"
    if not built.exists():
        raise UnusableInput(f"{built} does not exist; make pdf builds it")
    page = built.read_text(encoding="utf-8")
    # Sphinx writes the page into a folder but its links as if it lay at the top
    page = page.replace(f'href="notebooks/{built.name}#', 'href="#').replace(
        '="../_static', '="_static'
    )
    address = re.search(r'property="og:url" content="([^"]+)"', page)[1]
    title = re.search(r'property="og:title" content="([^"]+)"', page)[1]
    parts = re.findall(r"caption: (.+)", (ROOT / "_toc.yml").read_text(encoding="utf-8"))
    style = (HERE / "pdf.css").read_text(encoding="utf-8")
    front = f"""<style>{style}</style>
<script type="application/json" id="paper-parts">{json.dumps(parts)}</script>
{title_page(html.unescape(title), address)}"""
    return re.sub(r'(<article class="bd-article">)', lambda m: m[0] + front, page), address


def printed(page: Page, out: Path) -> None:
    page.pdf(
        path=out,
        scale=0.8,
        prefer_css_page_size=True,
        outline=True,
        tagged=True,
        print_background=True,
    )


def pages_of_headings(path: Path) -> dict[str, int]:
    """On which page, counted from 1, each heading of the contents stands."""
    pdf = PdfReader(path)
    found = {
        name.lstrip("/"): pdf.get_destination_page_number(place) + 1
        for name, place in pdf.named_destinations.items()
    }
    return {name: number for name, number in found.items() if name.startswith("paper-")}


def mend_bookmarks(path: Path) -> None:
    """Chromium writes a heading that it moved to the next page twice into its bookmark."""
    pdf = PdfWriter(clone_from=path)

    def mend(mark) -> None:
        while mark is not None:
            mark = mark.get_object()
            title = mark["/Title"]
            half = title[: len(title) // 2]
            if title == half * 2:
                mark[NameObject("/Title")] = TextStringObject(half)
            mend(mark.get("/First"))
            mark = mark.get("/Next")

    mend(pdf.root_object["/Outlines"].get_object().get("/First"))
    pdf.write(path)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--site", type=Path, default=Path("_build/singlehtml"))
    parser.add_argument("--out", type=Path, default=Path("_build/book.pdf"))
    parser.add_argument("--offer-on", type=Path, default=Path("_build/html"), help="the built site")
    args = parser.parse_args(argv)
    page, address = whole_book(args.site)
    whole = args.site / "book.html"
    whole.write_text(page, encoding="utf-8")
    with opened(whole) as page:
        page.evaluate(
            (HERE / "pdf.js").read_text(encoding="utf-8"), ["_static/explorer.png", address]
        )
        # the contents have their length before they have their numbers
        printed(page, args.out)
        page.evaluate(NUMBER, pages_of_headings(args.out))
        printed(page, args.out)
    whole.unlink()
    mend_bookmarks(args.out)
    shutil.copyfile(args.out, args.offer_on / "book.pdf")
    offer_pdf(args.offer_on)
    print(f"wrote {args.out}: {args.out.stat().st_size // 1024:,} KB")


if __name__ == "__main__":
    run_command(main)
