"""Print the whole book, built as one page, to a PDF with working links and bookmarks.

    make pdf

Needs Chromium or Chrome on the PATH.
"""

import argparse
from pathlib import Path

from pypdf import PdfWriter
from pypdf.generic import NameObject, TextStringObject

from qlinear.errors import UnusableInput, run_command
from tools.browser import opened

# a link to a file of this machine, such as a pixel of the explorer, leads nowhere from a PDF
DROP_FILE_LINKS = """() => {
    for (const link of document.querySelectorAll("a[href]"))
        if (link.protocol === "file:" && link.pathname !== location.pathname)
            link.removeAttribute("href");
}"""
NUMBER = '<div style="font-size:8px;width:100%;text-align:center" class="pageNumber"></div>'


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
    args = parser.parse_args(argv)
    built = args.site / "notebooks" / "00-start.html"
    if not built.exists():
        raise UnusableInput(f"{built} does not exist; make pdf builds it")
    # Sphinx writes the page into a folder but its links as if it lay at the top
    whole = args.site / "book.html"
    html = built.read_text(encoding="utf-8")
    whole.write_text(html.replace(f'href="notebooks/{built.name}#', 'href="#'), encoding="utf-8")
    with opened(whole) as page:
        page.evaluate(DROP_FILE_LINKS)
        page.pdf(
            path=args.out,
            format="A4",
            scale=0.8,
            margin={"top": "15mm", "bottom": "18mm", "left": "16mm", "right": "16mm"},
            display_header_footer=True,
            header_template="<span></span>",
            footer_template=NUMBER,
            outline=True,
            tagged=True,
            print_background=True,
        )
    mend_bookmarks(args.out)
    print(f"wrote {args.out}: {args.out.stat().st_size // 1024:,} KB")


if __name__ == "__main__":
    run_command(main)
