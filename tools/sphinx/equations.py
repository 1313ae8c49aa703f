"""Sphinx extension: equations are set by KaTeX when the site is built, not in the page."""

import html
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

import sphinxcontrib.katex
from py_mini_racer import MiniRacer

from tools.sphinx import is_built, rewrite_pages

# an equation as sphinxcontrib.katex leaves it in the page: opening tag, TeX, closing tag
MATH = re.compile(
    r'(<(?:span|div) class="math[^>]*>(?:\s*<span class="eqno">.*?</a></span>)?)\s*'
    r"(\\\(.*?\\\)|\\\[.*?\\\])(</(?:span|div)>)",
    re.DOTALL,
)


def renderer() -> Callable[[str, bool], str]:
    """A function that sets TeX, in a line or displayed, as HTML: KaTeX in an engine of its own."""
    engine = MiniRacer()
    engine.eval(Path(sphinxcontrib.katex.__file__).with_name("katex.min.js").read_text())

    @cache
    def rendered(tex: str, display: bool) -> str:
        return engine.call("katex.renderToString", tex, {"displayMode": display})

    return rendered


def set_equations(page: str, rendered: Callable[[str, bool], str]) -> str:
    """The page with its equations set, and with KaTeX's style sheet only if it has any."""

    def one(found: re.Match) -> str:
        opening, tex, closing = found.groups()
        display = opening.startswith("<div")
        return opening + rendered(html.unescape(tex[2:-2]).strip(), display) + closing

    page = re.sub(r"\s*<script[^>]*(?:katex|auto-render)[^>]*></script>", "", page)
    page = MATH.sub(one, page)
    if 'class="katex' not in page:
        page = re.sub(r"\s*<link[^>]*katex\.min[^>]*/>", "", page)
    return page


def finish(app, exception: Exception | None) -> None:
    if is_built(app, exception):
        rendered = renderer()
        rewrite_pages(Path(app.outdir), lambda page: set_equations(page, rendered))


def setup(app) -> dict:
    app.connect("build-finished", finish)
    return {"version": "1", "parallel_read_safe": True}
