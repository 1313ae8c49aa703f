"""Sphinx extension: the site is found: front page at its root, descriptions, addresses, sitemap."""

import html
import posixpath
import re
from pathlib import Path

from docutils import nodes

from tools.sphinx import is_built, rewrite_pages, site_address

LONGEST = 160  # characters that a search engine shows of a description
LINK = re.compile(r'(\b(?:href|src|action)=")([^"]*)(")')
# pages that no search engine should offer
UNLISTED = {"404.html", "search.html"}


def configure(app, config) -> None:
    config.html_baseurl = site_address(config)  # Sphinx makes the canonical links of it


def description(doctree: nodes.document) -> str:
    """A page in at most 160 letters: the start of its **Result**, or else of its first text."""
    found = [flat(paragraph.astext()) for paragraph in doctree.findall(nodes.paragraph)]
    result = next((text for text in found if text.startswith("Result.")), None)
    text = (result or next(iter(found), "")).removeprefix("Result.").strip()
    whole = ""
    for sentence in re.split(r"(?<=[.!?]) ", text):
        if len(f"{whole} {sentence}") > LONGEST:
            break
        whole = f"{whole} {sentence}".strip()
    return whole or text[: LONGEST - 1].rpartition(" ")[0].rstrip(",:;") + "…"


def flat(text: str) -> str:
    return " ".join(text.split())


def describe(app, pagename, templatename, context, doctree) -> None:
    """Say what search engines and other sites show of a page."""
    root = site_address(app.config)
    front = pagename == app.config.root_doc
    if front:
        context["pageurl"] = root
    title, book = re.sub(r"<[^>]+>", "", context.get("title", "")), app.config.html_title
    about = description(doctree) if doctree else f"{book}: {title.lower()}."
    tags = [("name", "description", about), ("property", "og:description", about)]
    tags += [("property", "og:title", book if front else f"{html.unescape(title)} — {book}")]
    tags += [("property", "og:type", "website" if front else "article")]
    tags += [("property", "og:url", context.get("pageurl") or root)]
    tags += [("property", "og:site_name", book)]
    tags += [("property", "og:image", f"{root}_static/preview.png")]
    tags += [("property", "og:image:width", "1200"), ("property", "og:image:height", "630")]
    tags += [("name", "twitter:card", "summary_large_image")]
    context["metatags"] = context.get("metatags", "") + "".join(
        f'<meta {kind}="{key}" content="{html.escape(value)}">\n' for kind, key, value in tags
    )


def moved(page: str, folder: str) -> str:
    """A page from ``folder`` as it reads at the root of the site."""

    def link(found: re.Match) -> str:
        opening, target, closing = found.groups()
        if re.match(r"[a-z]+:|[/#]|$", target):
            return found[0]
        path, mark, rest = re.match(r"([^?#]*)([?#]?)(.*)", target, re.S).groups()
        return f"{opening}{posixpath.normpath(f'{folder}/{path}')}{mark}{rest}{closing}"

    return LINK.sub(link, page).replace('data-content_root="../"', 'data-content_root="./"')


def put_at_root(site: Path, front: str, title: str) -> None:
    """Make ``index.html`` the front page, and lead every link to it.

    Args:
        front: the front page's name in the book, without suffix; it stays there, for old links.
    """
    folder, name = posixpath.split(front)
    page = (site / f"{front}.html").read_text(encoding="utf-8")
    page = re.sub(r"<title>.*?</title>", lambda _: f"<title>{title}</title>", page, flags=re.S)
    (site / f"{front}.html").write_text(page, encoding="utf-8")
    (site / "index.html").write_text(moved(page, folder), encoding="utf-8")
    here = re.compile(rf'href="(\.\./)?(?:{folder}/)?{name}\.html')
    for path in site.rglob("*.html"):
        up = "../" * (len(path.relative_to(site).parts) - 1)
        page = path.read_text(encoding="utf-8")
        path.write_text(here.sub(f'href="{up}index.html', page), encoding="utf-8")


def one_viewport(page: str) -> str:
    """Sphinx, docutils and the theme each write the same line."""
    line = re.compile(r'\s*<meta name="viewport"[^>]*>')
    first = line.search(page)
    return page[: first.end()] + line.sub("", page[first.end() :]) if first else page


def offer_pdf(site: Path) -> None:
    """List the book's PDF below the pages, if it was made (make pdf)."""
    if not (site / "book.pdf").exists():
        return
    end = re.compile(r"(</ul>\s*)(</div>\s*</nav>)")
    for path in site.rglob("*.html"):
        page = path.read_text(encoding="utf-8")
        file = "../" * (len(path.relative_to(site).parts) - 1) + "book.pdf"
        link = f'<li class="toctree-l1"><a href="{file}">The book as a PDF</a></li>'
        if "book.pdf" not in page:
            path.write_text(end.sub(rf"{link}\1\2", page, count=1), encoding="utf-8")


def write_sitemap(site: Path, root: str, front: str) -> None:
    """For search engines: every page, by its canonical address."""
    names = {str(path.relative_to(site)) for path in site.rglob("*.html")}
    names = {name for name in names if not name.startswith("_static/")} - UNLISTED
    names = sorted(names - {"index.html", f"{front}.html"})
    rows = "".join(f"  <url><loc>{root}{name}</loc></url>\n" for name in ["", *names])
    (site / "sitemap.xml").write_text(
        '<?xml version="1.0" encoding="utf-8"?>\n'
        f'<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">\n{rows}</urlset>\n'
    )
    (site / "robots.txt").write_text(f"User-agent: *\nAllow: /\nSitemap: {root}sitemap.xml\n")


def finish(app, exception: Exception | None) -> None:
    if is_built(app, exception) and app.builder.name == "html":
        site, front = Path(app.outdir), app.config.root_doc
        rewrite_pages(site, one_viewport)
        put_at_root(site, front, app.config.html_title)
        write_sitemap(site, site_address(app.config), front)
        offer_pdf(site)


def setup(app) -> dict:
    app.connect("config-inited", configure, priority=900)  # after the theme's extension
    app.connect("html-page-context", describe)
    app.connect("build-finished", finish, priority=100)  # what others do to pages is done to index
    return {"version": "1", "parallel_read_safe": True}
