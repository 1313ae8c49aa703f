"""Sphinx extensions that finish the built site: no page loads anything from another host."""

from collections.abc import Callable
from pathlib import Path


def is_built(app, exception: Exception | None) -> bool:
    """Whether ``build-finished`` means a whole HTML site, not a failure and not another format."""
    return exception is None and app.builder.format == "html"


def site_address(config) -> str:
    """Where the repository's pages are published, with the slash at the end."""
    owner, name = config.html_theme_options["repository_url"].split("/")[-2:]
    return f"https://{owner.lower()}.github.io/{name}/"


def rewrite_pages(site: Path, change: Callable[[str], str]) -> None:
    """Put ``change(page)`` in the place of every page of the site."""
    for path in site.rglob("*.html"):
        if "_static" not in path.parts:
            path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")
