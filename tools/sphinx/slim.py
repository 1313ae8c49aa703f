"""Sphinx extension: pages load no script, style rule or icon that they do not need."""

import io
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


def without_icon_script(page: str) -> str:
    """The icons are in the theme's style sheet and fonts; the script (1.5 MB) draws them again."""
    return re.sub(r"\s*<script[^>]*fontawesome\.js[^>]*></script>", "", page)


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
    """Every word of the site's pages and scripts: no class that is used has another name."""
    scripts = [path for path in (site / "_static").rglob("*.js") if path.name != "fontawesome.js"]
    paths = [*site.rglob("*.html"), *scripts]
    text = "\n".join(path.read_text(encoding="utf-8") for path in paths)
    return set(re.findall(r"-?[A-Za-z_][\w-]*", text))


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
        rewrite_pages(site, lambda page: without_plain_spans(without_icon_script(page)))
        slim_fonts(site, slim_styles(site))


def setup(app) -> dict:
    app.connect("html-page-context", forget_thebe, priority=900)
    # last, because the equations that others set in the pages use style rules too
    app.connect("build-finished", finish, priority=900)
    return {"version": "1", "parallel_read_safe": True}
