"""Sphinx extension: pages load nothing from another host, and no more than they need."""

import os
import re
from pathlib import Path

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


def forget_thebe(app, pagename, templatename, context, doctree) -> None:
    """Drop the live-code loader, which names a content network even where it is switched off."""
    context["script_files"] = [
        script
        for script in context.get("script_files", [])
        if "thebe" not in f"{script} {getattr(script, 'attributes', '')}".lower()
    ]


def slim(html: str) -> str:
    """Remove scripts that a page does not need, and mend what the templates get wrong."""
    # the icons are in the theme's style sheet and fonts; the script (1.5 MB) draws them again
    html = re.sub(r"\s*<script[^>]*fontawesome\.js[^>]*></script>", "", html)
    if 'class="math' not in html:
        html = re.sub(r"\s*<script[^>]*(?:katex|auto-render)[^>]*></script>", "", html)
        html = re.sub(r"\s*<link[^>]*katex[^>]*/>", "", html)
    for pattern, replacement in MENDED:
        html = re.sub(pattern, replacement, html)
    return html


def preview(app, pagename, templatename, context, doctree) -> None:
    """What other sites show of a link; the picture needs the site's own address."""
    repository = os.environ.get("GITHUB_REPOSITORY", "")
    title = f"{context.get('title', '')}: {app.config.html_title}".replace('"', "&quot;")
    tags = [("og:type", "article"), ("og:title", re.sub(r"<[^>]+>", "", title))]
    tags += [("og:description", "What ONNX Runtime computes for an INT8 network, to the bit.")]
    if repository:
        owner, name = repository.split("/")
        address = f"https://{owner.lower()}.github.io/{name}/_static/explorer.png"
        tags += [("og:image", address), ("twitter:card", "summary_large_image")]
    context["metatags"] = context.get("metatags", "") + "".join(
        f'<meta property="{key}" content="{value}">\n' for key, value in tags
    )


def slim_all(app, exception) -> None:
    if exception is None and app.builder.format == "html":
        for path in Path(app.outdir).rglob("*.html"):
            if "_static" not in path.parts:
                path.write_text(slim(path.read_text(encoding="utf-8")), encoding="utf-8")


def theme(app, config) -> None:
    """One search field; source and launch buttons for the repository that publishes."""
    config.html_theme_options["navbar_persistent"] = []
    repository = os.environ.get("GITHUB_REPOSITORY")
    if repository:
        config.html_theme_options["repository_url"] = f"https://github.com/{repository}"


def setup(app) -> dict:
    app.connect("config-inited", theme)
    app.connect("html-page-context", forget_thebe, priority=900)
    app.connect("html-page-context", preview)
    app.connect("build-finished", slim_all)
    return {"version": "1", "parallel_read_safe": True}
