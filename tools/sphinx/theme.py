"""Sphinx extension: what the theme leaves to us (its mode, accessibility, previews of links)."""

import os
import re
from pathlib import Path

from tools.sphinx import is_built, rewrite_pages

# what the theme's templates get wrong for screen readers: (pattern, replacement)
MENDED = (
    # the accessible name must contain the visible text
    (r'<summary aria-label="Toggle hidden content">', "<summary>"),
    (r'(search-button__button[^>]*?) aria-label="Search"', r"\1"),
    (
        r'(<button class="btn search-button-field[^>]*?)\s+title="Search"\s+aria-label="Search"',
        r"\1",
    ),
    # a list role without list items
    (r'<div role="list" class="citation-list">', '<div class="citation-list">'),
)


def configure(app, config) -> None:
    """One search field; a theme mode; source and launch buttons for the publishing repository."""
    config.html_theme_options["navbar_persistent"] = []
    # without it the theme's script writes an error to the console
    config.html_context["default_mode"] = "auto"
    repository = os.environ.get("GITHUB_REPOSITORY")
    if repository:
        config.html_theme_options["repository_url"] = f"https://github.com/{repository}"


def preview(app, pagename, templatename, context, doctree) -> None:
    """What other sites show of a link; the picture has to be named with the site's address."""
    owner, name = app.config.html_theme_options["repository_url"].split("/")[-2:]
    title = f"{context.get('title', '')}: {app.config.html_title}".replace('"', "&quot;")
    tags = [("og:type", "article"), ("og:title", re.sub(r"<[^>]+>", "", title))]
    tags += [("og:description", "What ONNX Runtime computes for an INT8 network, to the bit.")]
    picture = f"https://{owner.lower()}.github.io/{name}/_static/explorer.png"
    tags += [("og:image", picture), ("twitter:card", "summary_large_image")]
    context["metatags"] = context.get("metatags", "") + "".join(
        f'<meta property="{key}" content="{value}">\n' for key, value in tags
    )


def mended(page: str) -> str:
    """The page with the templates' faults for screen readers mended."""
    for pattern, replacement in MENDED:
        page = re.sub(pattern, replacement, page)
    return page


def finish(app, exception: Exception | None) -> None:
    if is_built(app, exception):
        rewrite_pages(Path(app.outdir), mended)


def setup(app) -> dict:
    app.connect("config-inited", configure)
    app.connect("html-page-context", preview)
    app.connect("build-finished", finish)
    return {"version": "1", "parallel_read_safe": True}
