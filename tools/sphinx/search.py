"""Sphinx extension: the search page knows every section, its heading and what one reads there.

Sphinx's own index knows pages only, and fetches them for its excerpts; this one is a script, so
that it also works on pages opened from a folder. ``book/static/search.js`` searches in it.
"""

import json
import re
from itertools import takewhile
from pathlib import Path

from bs4 import BeautifulSoup, Tag

from tools.sphinx import is_built
from tools.sphinx.pages import UNLISTED

# what a page holds beside what one reads: buttons, drawings, the second copy of each equation
UNREAD = (
    ".headerlink, .katex-html, annotation, script, style, svg, button, summary, .visually-hidden"
)
SPHINXS = re.compile(
    r'\s*<script src="[^"]*(?:searchtools|language_data|searchindex)\.js"[^>]*></script>'
)
OURS = ("_static/language_data.js", "search-index.js", "_static/search.js")


def sections(page: str) -> list[dict[str, str]]:
    """The sections of a page: anchor, heading, prose, and code with tables of values."""
    article = BeautifulSoup(page, "html.parser").find("article")
    for tag in article.select(UNREAD):
        tag.decompose()
    for power in article.select("sup, msup > mn:nth-child(2)"):
        power.insert_before("^")
    for tag in article.select("td, th, li, p, pre"):
        tag.append(" ")
    found = []
    for part in article.select("section[id], dl.py > dt[id]"):
        entry = part.find_next_sibling("dd") if part.name == "dt" else part
        heading = part["id"] if part.name == "dt" else text(part.find(re.compile("^h[1-4]$")))
        code = [text(taken) for taken in own(entry, "pre, .cell_output table")]
        found.append(
            {"anchor": part["id"], "heading": heading, "text": prose(entry), "code": " ".join(code)}
        )
    return found


def own(part: Tag, selector: str) -> list[Tag]:
    """What of a section's content matches, without the sections inside it."""
    inner = ["section", "dl"] if part.name == "section" else ["dl"]
    return [tag for tag in part.select(selector) if tag.find_parent(inner) in (part, part.parent)]


def prose(part: Tag) -> str:
    """A section's own sentences: neither the sections inside it, nor code, nor its heading."""
    skipped = {"section", "dl", "pre", "h1", "h2", "h3", "h4"}
    pieces = []
    for string in part.find_all(string=True):
        within = list(takewhile(lambda parent: parent is not part, string.parents))
        names = {parent.name for parent in within}
        computed = "table" in names and any("cell_output" in p.get("class", []) for p in within)
        if not names & skipped and not computed:
            pieces.append(string)
    return " ".join("".join(pieces).split())


def text(tag: Tag | None) -> str:
    return " ".join(tag.get_text().split()) if tag else ""


def write_index(site: Path, front: str) -> None:
    """Write the sections of all pages as a script that sets one variable."""
    pages = []
    for path in sorted(site.rglob("*.html")):
        name = str(path.relative_to(site))
        # the front page is listed at the root
        if name.startswith("_static/") or name in UNLISTED or name == f"{front}.html":
            continue
        found = sections(path.read_text(encoding="utf-8"))
        pages.append({"page": name, "title": found[0]["heading"], "sections": found})
    data = json.dumps(pages, ensure_ascii=False, separators=(",", ":"))
    (site / "search-index.js").write_text(f"const BOOK = {data};\n", encoding="utf-8")


def finish(app, exception: Exception | None) -> None:
    if not is_built(app, exception) or app.builder.name != "html":
        return
    site = Path(app.outdir)
    for path in site.rglob("*.html"):
        page = SPHINXS.sub("", path.read_text(encoding="utf-8"))
        if path == site / "search.html" and OURS[-1] not in page:
            scripts = "".join(f'<script defer src="{name}"></script>\n' for name in OURS)
            page = page.replace("</head>", f"{scripts}</head>")
        path.write_text(page, encoding="utf-8")
    write_index(site, app.config.root_doc)


def setup(app) -> dict:
    app.connect("build-finished", finish, priority=600)  # after equations are set
    return {"version": "1", "parallel_read_safe": True}
