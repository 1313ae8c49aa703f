"""Sphinx extension: pages load nothing from another host, and no more than they need."""

import html
import io
import os
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

import sphinxcontrib.katex
import tinycss2
from fontTools import subset
from fontTools.ttLib import TTFont
from py_mini_racer import MiniRacer

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


def equations() -> Callable[[re.Match], str]:
    """A function that sets one equation with KaTeX, so that no page needs JavaScript for it."""
    engine = MiniRacer()
    engine.eval(Path(sphinxcontrib.katex.__file__).with_name("katex.min.js").read_text())

    @cache
    def rendered(tex: str, display: bool) -> str:
        return engine.call("katex.renderToString", tex, {"displayMode": display})

    def one(found: re.Match) -> str:
        opening, tex, closing = found.groups()
        display = opening.startswith("<div")
        return opening + rendered(html.unescape(tex[2:-2]).strip(), display) + closing

    return one


MATH = re.compile(
    r'(<(?:span|div) class="math[^>]*>(?:\s*<span class="eqno">.*?</a></span>)?)\s*'
    r"(\\\(.*?\\\)|\\\[.*?\\\])(</(?:span|div)>)",
    re.DOTALL,
)


def slim(page: str, equation: Callable[[re.Match], str]) -> str:
    """Set the equations, remove scripts that a page does not need, mend the templates."""
    # the icons are in the theme's style sheet and fonts; the script (1.5 MB) draws them again
    page = re.sub(r"\s*<script[^>]*fontawesome\.js[^>]*></script>", "", page)
    page = re.sub(r"\s*<script[^>]*(?:katex|auto-render)[^>]*></script>", "", page)
    page = MATH.sub(equation, page)
    if 'class="katex' not in page:
        page = re.sub(r"\s*<link[^>]*katex[^>]*/>", "", page)
    for pattern, replacement in MENDED:
        page = re.sub(pattern, replacement, page)
    return page


def used_rules(css: str, names: set[str]) -> str:
    """The style sheet without the rules whose every selector asks for a class nobody has."""

    def wanted(selector: list) -> bool:
        # what stands inside :not(...) and its like is left alone: only plain .class counts
        text = "".join(t.serialize() for t in selector if t.type != "function")
        return set(re.findall(r"\.(-?[A-Za-z_][\w-]*)", text)) <= names

    def kept(rule) -> str:
        if rule.type == "at-rule" and rule.lower_at_keyword in ("media", "supports"):
            inner = "".join(map(kept, tinycss2.parse_rule_list(rule.content, True, True)))
            return f"@{rule.at_keyword}{tinycss2.serialize(rule.prelude)}{{{inner}}}" * bool(inner)
        if rule.type != "qualified-rule":
            return rule.serialize()
        selectors: list[list] = [[]]
        for token in rule.prelude:
            if token == ",":
                selectors.append([])
            else:
                selectors[-1].append(token)
        some = [tinycss2.serialize(one).strip() for one in selectors if wanted(one)]
        return f"{','.join(some)}{{{tinycss2.serialize(rule.content)}}}" * bool(some)

    return "".join(map(kept, tinycss2.parse_stylesheet(css, True, True)))


def slim_styles(site: Path) -> None:
    """Drop the rules that no page uses, and from the icon fonts the icons that none shows."""
    static, icons = site / "_static", set()
    pages = [path.read_text(encoding="utf-8") for path in site.rglob("*.html")]
    scripts = [p.read_text() for p in static.rglob("*.js") if p.name != "fontawesome.js"]
    names = set(re.findall(r"-?[A-Za-z_][\w-]*", "\n".join(pages + scripts)))
    for path in static.rglob("*.css"):
        css = used_rules(path.read_text(encoding="utf-8"), names)
        # both formats of the icon fonts lie beside each other; only the plain one is cut below
        css = re.sub(r"url\([^)]*/fa-[^)]*\.woff2\) format\([^)]*\),", "", css)
        icons |= {ord(letter) for letter in css if "\ue000" <= letter <= "\uf8ff"}
        path.write_text(css, encoding="utf-8")
    for path in (static / "vendor" / "fontawesome").rglob("*.ttf"):
        font, cut = TTFont(io.BytesIO(path.read_bytes())), subset.Subsetter()
        cut.populate(unicodes=icons)
        cut.subset(font)
        font.save(path)


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


def slim_all(app, exception) -> None:
    if exception is None and app.builder.format == "html":
        site, equation = Path(app.outdir), equations()
        for path in site.rglob("*.html"):
            if "_static" not in path.parts:
                path.write_text(slim(path.read_text(encoding="utf-8"), equation), encoding="utf-8")
        slim_styles(site)


def theme(app, config) -> None:
    """One search field; a theme mode; source and launch buttons for the publishing repository."""
    config.html_theme_options["navbar_persistent"] = []
    # without it the theme's script writes an error to the console
    config.html_context["default_mode"] = "auto"
    repository = os.environ.get("GITHUB_REPOSITORY")
    if repository:
        config.html_theme_options["repository_url"] = f"https://github.com/{repository}"


def setup(app) -> dict:
    app.connect("config-inited", theme)
    app.connect("html-page-context", forget_thebe, priority=900)
    app.connect("html-page-context", preview)
    app.connect("build-finished", slim_all)
    return {"version": "1", "parallel_read_safe": True}
