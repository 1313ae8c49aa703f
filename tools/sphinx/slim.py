"""Sphinx extension: pages load no script, style rule or icon that they do not need."""

import io
import os
import re
from pathlib import Path

import tinycss2
from fontTools import subset
from fontTools.ttLib import TTFont

from tools.sphinx import is_built, rewrite_pages


def forget_thebe(app, pagename, templatename, context, doctree) -> None:
    """Drop the live-code loader, which names a content network even where it is switched off."""
    context["script_files"] = [
        script
        for script in context.get("script_files", [])
        if "thebe" not in f"{script} {getattr(script, 'attributes', '')}".lower()
    ]


# scripts that no page of ours needs: the icons are in the style sheet and the fonts (the script, of
# 1.5 MB, draws them again), the search is our own, and there are neither tabs nor shortcuts
UNUSED = "fontawesome|doctools|sphinx_highlight|design-tabs"
SHEET = re.compile(r'\s*<link [^>]*href="(?:\.\./)*_static/([^"?]+\.css)[^"]*"[^>]*>')
SITE, KATEX = "site.css", "katex.min"


def without_waiting(page: str) -> str:
    """The page with the scripts it needs, and none of them holding up its first paint."""
    page = re.sub(rf"\s*<script[^>]*(?:{UNUSED})\.js[^>]*></script>", "", page)
    page = re.sub(r"\s*<script>DOCUMENTATION_OPTIONS\.[^<]*</script>", "", page)
    page = re.sub(r'\s*<link rel="preload" as="script"[^>]*>', "", page)
    head, end, body = page.partition("</head>")
    return re.sub(r"<script (?=src=)", "<script defer ", head) + end + body


def join_styles(site: Path) -> None:
    """Put the theme's and our style sheets into one, for every page; KaTeX's stays alone."""
    names: list[str] = []
    for path in site.rglob("*.html"):
        page = path.read_text(encoding="utf-8")
        found = [name for name in SHEET.findall(page) if KATEX not in name and name != SITE]
        if not found:
            continue  # not written anew since
        names = max(names, found, key=len)
        up = "../" * (len(path.relative_to(site).parts) - 1)
        first = SHEET.search(page).start()
        page = SHEET.sub(lambda link: link[0] if KATEX in link[1] else "", page)
        link = f'\n<link rel="stylesheet" href="{up}_static/{SITE}">'
        path.write_text(page[:first] + link + page[first:], encoding="utf-8")
    if names:
        sheets = [rebased(site / "_static" / name, site / "_static") for name in names]
        (site / "_static" / SITE).write_text("\n".join(sheets), encoding="utf-8")


def rebased(sheet: Path, folder: Path) -> str:
    """A style sheet as it reads in a file of ``folder``, with the files that it names."""

    def name(found: re.Match) -> str:
        return f"url({os.path.relpath(sheet.parent / found[1], folder)})"

    css = re.sub(r"@charset[^;]*;", "", sheet.read_text(encoding="utf-8"))
    imported = re.compile(r"""@import (?:url\()?["']?([^"')]+)["']?\)?;""")
    css = imported.sub(lambda found: rebased(sheet.parent / found[1], sheet.parent), css)
    return re.sub(r"""url\(["']?(?!data:|#|https?:)([^"')]+)["']?\)""", name, css)


def without_plain_spans(page: str) -> str:
    """Code without the marks of names, punctuation and blanks: they have the colour of all code."""
    return re.sub(r'<span class="[npw]">([^<]*)</span>', r"\1", page)


def used_rules(css: str, names: set[str]) -> str:
    """The style sheet without the rules whose every selector asks for a class nobody has."""
    return "".join(kept(rule, names) for rule in tinycss2.parse_stylesheet(css, True, True))


def kept(rule: tinycss2.ast.Node, names: set[str]) -> str:
    """One rule as text, cut to the selectors that can match; empty if there are none."""
    if rule.type == "at-rule" and rule.lower_at_keyword in ("media", "supports"):
        rules = tinycss2.parse_rule_list(rule.content, True, True)
        inner = "".join(kept(one, names) for one in rules)
        head = f"@{rule.at_keyword}{tinycss2.serialize(rule.prelude)}"
        return f"{head}{{{inner}}}" if inner else ""
    if rule.type != "qualified-rule":
        return rule.serialize()
    some = [tinycss2.serialize(s).strip() for s in selectors(rule) if wanted(s, names)]
    return f"{','.join(some)}{{{tinycss2.serialize(rule.content)}}}" if some else ""


def selectors(rule: tinycss2.ast.QualifiedRule) -> list[list]:
    """The rule's selectors, which commas divide, as lists of tokens."""
    found: list[list] = [[]]
    for token in rule.prelude:
        if token == ",":
            found.append([])
        else:
            found[-1].append(token)
    return found


def wanted(selector: list, names: set[str]) -> bool:
    """Whether every class that the selector asks for is among ``names``."""
    # what stands inside :not(...) and its like is left alone: only plain .class counts
    text = "".join(token.serialize() for token in selector if token.type != "function")
    return set(re.findall(r"\.(-?[A-Za-z_][\w-]*)", text)) <= names


def words(site: Path) -> set[str]:
    """Every class of the site's pages, and every word of its scripts, which may be one."""
    pages = [path.read_text(encoding="utf-8") for path in site.rglob("*.html")]
    classes = re.findall(r'\bclass="([^"]*)"', "\n".join(pages))
    scripts = [path for path in (site / "_static").rglob("*.js") if path.name != "fontawesome.js"]
    texts = [path.read_text(encoding="utf-8") for path in scripts]
    names = re.findall(r"-?[A-Za-z_][\w-]*", "\n".join(texts))
    return {*" ".join(classes).split(), *names}


def slim_styles(site: Path) -> set[int]:
    """Drop the rules that no page uses; returns the code points of the icons that remain."""
    names, icons = words(site), set()
    for path in (site / "_static").rglob("*.css"):
        css = used_rules(path.read_text(encoding="utf-8"), names)
        # both formats of the icon fonts lie beside each other; only the plain one is cut
        css = re.sub(r"url\([^)]*/fa-[^)]*\.woff2\) format\([^)]*\),", "", css)
        icons |= {ord(letter) for letter in css if "\ue000" <= letter <= "\uf8ff"}
        path.write_text(css, encoding="utf-8")
    return icons


def slim_fonts(site: Path, icons: set[int]) -> None:
    """Cut the icon fonts to the icons that the style sheets show."""
    for path in (site / "_static" / "vendor" / "fontawesome").rglob("*.ttf"):
        font, cut = TTFont(io.BytesIO(path.read_bytes())), subset.Subsetter()
        cut.populate(unicodes=icons)
        cut.subset(font)
        font.save(path)


def finish(app, exception: Exception | None) -> None:
    if is_built(app, exception):
        site = Path(app.outdir)
        rewrite_pages(site, lambda page: without_plain_spans(without_waiting(page)))
        join_styles(site)
        slim_fonts(site, slim_styles(site))


def setup(app) -> dict:
    app.connect("html-page-context", forget_thebe, priority=900)
    # last, because the equations that others set in the pages use style rules too
    app.connect("build-finished", finish, priority=900)
    return {"version": "1", "parallel_read_safe": True}
