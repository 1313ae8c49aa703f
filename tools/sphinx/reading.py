"""Sphinx extension: plain Markdown of the chapters, which reads well in every viewer of notebooks,
becomes what the site has for it.

- A block quote that starts with a bold title becomes a box.
- A picture with "Figure 2.3." below it becomes a figure with a caption, an address, and its SVG in
  the page.
- Folded cells in a row, of which only the last shows something, fold as one.
- A link to an entry of the bibliography becomes a citation.
- A picture that links to the explorer, alone in its paragraph, becomes a small explorer.
- A table whose head holds numbers alone shows them large; one with a link in every head, buttons.
- A link to the published site becomes a link within this one.
"""

import html
import math
import re
from pathlib import Path

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.transforms import SphinxTransform

from tools.sphinx import site_address

# the first bold words of a block quote, and the kind of its box
BOXES = {
    "For implementers": "tip",
    "Where this holds": "note",
}
CITATION = re.compile(r"\[[^\]\[]+\]\((?:\.\./book/)?bibliography\.md#([\w-]+)\)")
FIGURE = re.compile(r"Figure (\d+)\.(\d+)\.")
READABLE = 9  # pixels
SIZE = re.compile(r"font(?:-size)?: ([\d.]+)px")
NUMBER = re.compile(r"[\d,.]+%?")


def cited(app, docname: str, source: list[str]) -> None:
    """Links to entries of the bibliography become citations; two in a row become one bracket."""
    source[0] = CITATION.sub(r"{cite}`\1`", source[0])


def in_page(path: Path) -> nodes.raw:
    """An SVG file as a part of the page, which gives it its colours."""
    svg = path.read_text(encoding="utf-8")
    width = re.search(r'width="(\d+)" height="\d+" (?:style="background:white" )?', svg)
    # the page's style gives the height; a page narrower than the figure makes it smaller, but not
    # so small that its text cannot be read: then it is moved aside (figures.js, book.css)
    least = min(int(width[1]), readable_width(svg))
    style = f'style="width:100%;min-width:{least}px;max-width:{width[1]}px;height:auto" '
    svg = svg[svg.index("<svg") :].replace(width[0], style, 1)
    return nodes.raw("", f'<div class="picture">{svg}</div>', format="html")


def readable_width(svg: str) -> int:
    """The width in pixels at which a figure's smallest text is :data:`READABLE` pixels high."""
    across = float(re.search(r'viewBox="0 0 ([\d.]+)', svg)[1])
    # of a text in parts the largest: an exponent is smaller
    texts = re.findall(r"<text.*?</text>", svg, re.S)
    sizes = [max(map(float, SIZE.findall(text)), default=READABLE) for text in texts]
    return math.ceil(READABLE / min(sizes, default=READABLE) * across)


class Boxes(SphinxTransform):
    default_priority = 200

    def apply(self) -> None:
        for quote in list(self.document.findall(nodes.block_quote)):
            first = [part for part in quote[0] if part.astext()]  # MyST leaves empty texts
            name = first[0].astext().rstrip(".") if first else ""
            if name not in BOXES or not isinstance(first[0], nodes.strong):
                continue
            kind = ["admonition-" + name.lower().replace(" ", "-"), BOXES[name]]
            box = nodes.admonition("", nodes.title(name, name), classes=kind)
            if first[1:]:
                box += nodes.paragraph("", "", *first[1:])
            box += quote[1:]
            quote.replace_self(box)


class Figures(SphinxTransform):
    default_priority = 210  # before links within the page are resolved

    def apply(self) -> None:
        for output in list(self.document.findall(nodes.container)):
            if output.get("nb_element") != "cell_code_output":
                continue
            for bundle in list(output.children):
                picture = self.of_type(bundle, "image/svg+xml")
                if picture is not None:
                    self.frame(output, bundle, picture)

    @staticmethod
    def of_type(bundle: nodes.Node, mime_type: str) -> nodes.Element | None:
        if not isinstance(bundle, nodes.container) or bundle.get("nb_element") != "mime_bundle":
            return None
        return next((part for part in bundle if part.get("mime_type") == mime_type), None)

    def frame(self, output: nodes.Element, bundle: nodes.Element, picture: nodes.Element) -> None:
        image = next(iter(picture.findall(nodes.image)))
        raw = in_page(Path(self.env.relfn2path(image["uri"])[1]))
        at = output.index(bundle)
        text = self.of_type(output[at + 1], "text/markdown") if at + 1 < len(output) else None
        found = FIGURE.match(text.astext()) if text is not None else None
        if not found:
            bundle.replace_self(raw)
            return
        name = f"figure-{found[1]}-{found[2]}"
        figure = nodes.figure("", raw, ids=[name], names=[name], align="center")
        paragraph = next(iter(text.findall(nodes.paragraph)))
        figure += nodes.caption("", "", *paragraph.children)
        output.remove(output[at + 1])
        bundle.replace_self(figure)
        self.document.note_explicit_target(figure)
        # where links from other pages look
        slugs = self.env.metadata[self.env.docname].setdefault("myst_slugs", {})
        slugs[name] = (figure.line or 1, name, found[0].rstrip("."))


class Explorers(SphinxTransform):
    default_priority = 215  # before the link loses its address

    def apply(self) -> None:
        up = "../" * self.env.docname.count("/")
        for link in list(self.document.findall(nodes.reference)):
            page, _, start = link.get("refuri", "").partition("#")
            alone = isinstance(link.parent, nodes.paragraph) and len(link.parent) == 1
            shows = isinstance(next(iter(link), None), nodes.image)
            if not page.endswith("/book/explorer.html") or not alone or not shows:
                continue
            # without scripts, the link in words
            words = nodes.reference("", link[0]["alt"], **link.attributes)
            head = f'<div data-explorer="small" data-start="{start}">'
            tail = f'</div>\n<script defer src="{up}_static/explorer/start.js"></script>'
            link.parent.replace_self(
                [
                    nodes.raw("", head, format="html"),
                    nodes.paragraph("", "", words),
                    nodes.raw("", tail, format="html"),
                ]
            )


def is_link(node: nodes.Node) -> bool:
    """Whether a node is a link, to a page of this site too, which is resolved later."""
    return isinstance(node, nodes.reference | pending_xref)


class Heads(SphinxTransform):
    default_priority = 210

    def apply(self) -> None:
        for head in self.document.findall(nodes.thead):
            entries = list(head.findall(nodes.entry))
            if all(NUMBER.fullmatch(entry.astext()) for entry in entries):
                head.parent.parent["classes"].append("numbers")
            elif all(any(entry.findall(is_link)) for entry in entries):
                head.parent.parent["classes"].append("ways")


class Folds(SphinxTransform):
    default_priority = 230

    def apply(self) -> None:
        for cell in list(self.document.findall(nodes.container)):
            at = cell.parent.index(cell) if cell.parent else 0
            before = cell.parent[at - 1] if at else None
            if self.folded(cell) and self.folded(before) and len(before) == 1:
                same = cell["hide_mode"] == before["hide_mode"]
                if same or before["hide_mode"] == "input":
                    cell[0].insert(0, before[0].children)
                    cell.parent.remove(before)

    @staticmethod
    def folded(node: nodes.Node | None) -> bool:
        """Whether a node is a cell whose code is folded."""
        is_cell = isinstance(node, nodes.container) and node.get("nb_element") == "cell_code"
        return is_cell and node.get("hide_mode") in ("input", "all") and len(node) > 0


class SiteLinks(SphinxTransform):
    default_priority = 220

    def apply(self) -> None:
        site = site_address(self.config)
        up = "../" * self.env.docname.count("/")
        for link in self.document.findall(nodes.reference):
            if link.get("refuri", "").startswith(site):
                # MyST escapes an address, and so does the writer of HTML
                link["refuri"] = up + html.unescape(link["refuri"].removeprefix(site))
                link["classes"] = [*link.get("classes", []), "internal"]


def keep_numbers(app, config) -> None:
    """No second number beside a figure's own; another extension switches numbering on."""
    config.numfig = False


def setup(app) -> dict[str, bool]:
    app.connect("config-inited", keep_numbers, priority=900)
    app.connect("source-read", cited)
    for transform in (Boxes, Figures, Explorers, Heads, Folds, SiteLinks):
        app.add_transform(transform)
    return {"parallel_read_safe": True}
