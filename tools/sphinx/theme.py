"""Sphinx extension: what the theme leaves to us (its mode, accessibility)."""

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
    # what is read belongs to a landmark
    (r'<div id="pst-primary-sidebar" ', r'<div id="pst-primary-sidebar" role="complementary" '),
    # a second table of contents with a second <h1>, for print alone
    (r'(?s)<div id="jb-print-docs-body".*?(?=<div id="searchbox">)', ""),
    # dark from the first paint where the system is dark
    (
        r"document\.documentElement\.dataset\.theme = localStorage[^;]*;",
        "{ const root = document.documentElement.dataset; root.theme = root.mode !== 'auto' ? "
        "root.mode : matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light'; }",
    ),
)


def configure(app, config) -> None:
    """One search field; a theme mode; source and launch buttons for the publishing repository."""
    config.html_theme_options["navbar_persistent"] = []
    config.html_theme_options["primary_sidebar_end"] = []
    # without it the theme's script writes an error to the console
    config.html_context["default_mode"] = "auto"
    repository = os.environ.get("GITHUB_REPOSITORY")
    if repository:
        config.html_theme_options["repository_url"] = f"https://github.com/{repository}"


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
    app.connect("build-finished", finish)
    return {"version": "1", "parallel_read_safe": True}
