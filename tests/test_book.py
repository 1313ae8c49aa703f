"""The site as built (make book comes first); the chapters are test_notebooks.py's."""

import functools
import gzip
import http.server
import importlib.util
import io
import json
import re
import subprocess
import sys
import threading
from html import unescape

import numpy as np
import pytest
from conftest import ROOT, needs
from fontTools.ttLib import TTFont
from PIL import Image
from pypdf import PdfReader

from qlinear.inputs import load_samples
from qlinear.onnx_model import load
from qlinear.ort import tensors
from tools.browser import chromium
from tools.sphinx.citations import label, labels

CHAPTERS = sorted((ROOT / "notebooks").glob("*.ipynb"))
HTML = ROOT / "_build" / "html"


def test_the_cheat_sheet_is_made_of_the_chapters_boxes(tmp_path):
    out = tmp_path / "cheatsheet.md"
    command = [sys.executable, "-m", "tools.cheatsheet", "--out", out]
    subprocess.run(command, check=True, cwd=ROOT)
    text = out.read_text()
    assert text.count("\n## ") == len(CHAPTERS) - 1
    assert "**Pad with `x_zero_point`**, not with 0." in text


@pytest.fixture(scope="module")
def site():
    """Address of the built site on a local server."""
    needs(HTML.is_dir(), "the built site (make book)")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    handler = functools.partial(Quiet, directory=HTML)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()


def pages() -> list[str]:
    return sorted(
        str(path.relative_to(HTML)) for path in HTML.rglob("*.html") if "_static" not in path.parts
    )


def test_no_page_names_a_script_or_style_of_another_host():
    needs(HTML.is_dir(), "the built site (make book)")
    assert pages()
    for page in pages():
        html = (HTML / page).read_text()
        loads = re.findall(r"<(?:script|img|iframe)[^>]*\bsrc=[\"'](https?:[^\"']*)", html)
        links = re.findall(r"<link\b[^>]*>", html)  # where the page itself is published is no load
        loads += [link for link in links if "https:" in link and 'rel="canonical"' not in link]
        assert not loads and "unpkg.com" not in html and "jsdelivr" not in html, page


@pytest.mark.parametrize("width", [1280, 390])
def test_pages_load_nothing_from_outside_and_fit_the_width(site, browser, width):
    context = browser.new_context(viewport={"width": width, "height": 800})
    page, outside, errors = context.new_page(), [], []
    page.on("request", lambda r: outside.append(r.url) if site not in r.url else None)
    page.on("pageerror", lambda e: errors.append(str(e)))
    page.on(
        "console", lambda m: errors.append(f"{m.text} {m.location}") if m.type == "error" else None
    )
    # a request that the next page cut short is no failure
    page.on(
        "requestfailed",
        lambda r: (
            None if r.failure == "net::ERR_ABORTED" else errors.append(f"{r.failure} {r.url}")
        ),
    )
    for name in pages():
        page.goto(f"{site}/{name}")
        page.wait_for_load_state("load")
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
    assert not [url for url in outside if not url.startswith("data:")]
    assert not errors
    context.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_no_serious_accessibility_violation(site, browser, theme):
    needs(importlib.util.find_spec("axe_playwright_python") is not None, "axe-playwright-python")
    from axe_playwright_python.sync_playwright import Axe

    context, found = browser.new_context(color_scheme=theme), {}
    page = context.new_page()
    for name in pages():
        page.goto(f"{site}/{name}")
        explores = page.locator("[data-explorer]").count()
        page.wait_for_load_state("networkidle" if explores else "load")  # dimmed while it loads
        for violation in Axe().run(page).response["violations"]:
            if violation["impact"] in ("serious", "critical"):
                found.setdefault(violation["id"], []).append(name)
    assert not found
    context.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_figures_stand_on_the_pages_own_ground(site, browser, theme):
    context = browser.new_context(color_scheme=theme)
    page = context.new_page()
    page.goto(f"{site}/notebooks/02-qlinearconv.html")
    page.wait_for_selector("figure .picture svg")
    grounds = """e => [e, e.closest('figure'), e.closest('.cell_output')].map(
        (part) => getComputedStyle(part).backgroundColor)"""
    assert set(page.locator(".picture").first.evaluate(grounds)) == {"rgba(0, 0, 0, 0)"}
    same = "e => getComputedStyle(e).color === getComputedStyle(document.body).color"
    assert page.locator(".picture svg").first.evaluate(same)
    context.close()


def test_no_page_transfers_more_than_500_kilobytes_or_waits_for_a_script(site, browser):
    for name in pages():
        page, weights = browser.new_page(), []
        page.on("response", lambda r, w=weights: w.append(len(gzip.compress(r.body()))))
        page.goto(f"{site}/{name}")
        page.wait_for_load_state("networkidle")
        assert sum(weights) <= 500_000, f"{name}: {sum(weights):,} bytes"
        page.close()
        head = (HTML / name).read_text().partition("</head>")[0]
        assert not re.findall(r"<script(?! defer)[^>]* src=", head), name
        # the site's style sheet, and KaTeX's where there are equations
        assert len(re.findall(r'rel="stylesheet"', head)) <= 2, name


def test_icons_and_equations_are_drawn_without_scripts(site, browser):
    page = browser.new_context(java_script_enabled=False).new_page()
    page.goto(f"{site}/notebooks/02-qlinearconv.html")
    assert page.locator(".katex-display .katex-html").count() == 3
    for name in pages():
        html = (HTML / name).read_text()
        assert not re.search(r"fontawesome\.js|katex\.min\.js|katex-error", html), name
        assert not re.search(r'class="math[^>]*>\s*\\[\[(]', html), name
    page.context.close()
    # the cut icon fonts hold every icon that a page shows
    fonts = [TTFont(path) for path in (HTML / "_static" / "vendor").rglob("*.ttf")]
    drawn = set().union(*(font.getBestCmap() for font in fonts))
    page = browser.new_page()
    shown = """[...document.querySelectorAll('[class*="fa-"]')].map(
        (e) => getComputedStyle(e, '::before').content.replaceAll('"', ''))"""
    for name in pages():
        page.goto(f"{site}/{name}")
        icons = page.evaluate(shown)
        assert {ord(icon) for icon in icons} <= drawn, name
        assert icons or name == "404.html"
    page.close()


SOUGHT = {
    "zero point": "02-qlinearconv",
    "accumulator width": "06-accumulators",
    "ties to even": "02-qlinearconv",
    "padding": "02-qlinearconv",
    "reciprocal": "01-boundary",
    "ADC": "09-analog",
}


def test_search_finds_the_chapter_and_shows_what_it_says(site, browser):
    page = browser.new_page()
    for query, chapter in SOUGHT.items():
        page.goto(f"{site}/search.html?q={query.replace(' ', '+')}")
        first = page.locator("#search-results section").first
        assert chapter in first.locator("h2 a").get_attribute("href"), query
        assert query.split()[0].lower()[:3] in first.locator("mark").first.inner_text().lower()
        for link in first.locator("h3 a").all():
            target, anchor = re.match(r"([^#]+)#([^:]+)", link.get_attribute("href")).groups()
            assert f'id="{anchor}"' in (HTML / target).read_text()
    shown = page.locator("#search-results").inner_text()
    assert "Show code" not in shown and "Launch" not in shown and ".ipynb" not in shown
    # opened from a folder too
    page.goto((HTML / "search.html").as_uri() + "?q=padding")
    page.locator("#search-results mark").first.wait_for()
    page.close()


def test_every_page_says_what_and_where_it_is():
    needs(HTML.is_dir(), "the built site (make book)")
    said, sitemap = {}, (HTML / "sitemap.xml").read_text()
    for name in pages():
        html = (HTML / name).read_text()
        assert '<html lang="en"' in html, name
        if name == "404.html":
            continue
        found = [
            re.search(pattern, html)[1]
            for pattern in (
                r"<title>([^<]+)</title>",
                r'<meta name="description" content="([^"]+)"',
                r'<link rel="canonical" href="([^"]+)"',
            )
        ]
        title, about, address = found
        assert len(unescape(about)) <= 160, name
        assert f'property="og:url" content="{address}"' in html
        assert f'property="og:description" content="{about}"' in html
        if name != "search.html":
            assert f"<loc>{address}</loc>" in sitemap, name
        said.setdefault((title, about, address), []).append(name)
    # no two pages say the same, but that the front page has its old place too
    assert [names for names in said.values() if len(names) > 1] == [
        ["index.html", "notebooks/00-start.html"]
    ]
    for part in zip(*said, strict=True):
        assert len(set(part)) == len(part)
    assert "sitemap.xml" in (HTML / "robots.txt").read_text()


def test_every_link_within_the_site_leads_somewhere():
    needs(HTML.is_dir(), "the built site (make book)")
    texts = {name: (HTML / name).read_text() for name in pages()}
    names = {page: set(re.findall(r'\bid="([^"]+)"', html)) for page, html in texts.items()}
    for page, html in texts.items():
        for link in re.findall(r'<a\b[^>]*\bhref="([^"]+)"', html):
            if re.match(r"[a-z]+:", link) or link == "/":
                continue
            path, _, anchor = unescape(link).partition("#")
            target = (HTML / page).parent / path if path else HTML / page
            assert target.exists(), f"{page}: {link}"
            inside = str(target.resolve().relative_to(HTML.resolve()))
            if anchor and inside in names and "=" not in anchor:  # "image=3…": the explorer's
                assert anchor in names[inside], f"{page}: {link}"


def test_citations_are_the_labels_of_the_bibliography():
    link = re.compile(r"\[([^\]\[]+)\]\((?:\.\./book/)?bibliography\.md#([\w-]+)\)")
    for path in [*CHAPTERS, *(ROOT / "book").glob("*.md")]:
        for text, key in link.findall(path.read_text()):
            assert text == label(key), path.name
    needs(HTML.is_dir(), "the built site (make book)")
    html = (HTML / "book" / "bibliography.html").read_text()
    listed = re.findall(r'class="label">.*?</span>([^<]+)<span', html)
    assert [*map(unescape, listed)] == sorted(labels().values(), key=str.lower)


def test_the_focus_is_seen_on_every_control(site, browser):
    page = browser.new_page()
    page.goto(f"{site}/notebooks/02-qlinearconv.html")
    seen = """() => { const e = document.activeElement, style = getComputedStyle(e);
        const hidden = e.closest("#pst-skip-link") || e.matches("body, #main-content");
        return [e.outerHTML.slice(0, 90), hidden || style.outlineStyle === "solid",
            e.classList.contains("headerlink")] }"""
    permalinks = 0
    for _ in range(60):
        page.keyboard.press("Tab")
        control, outlined, permalink = page.evaluate(seen)
        assert outlined, control
        permalinks += permalink
        if permalink:
            assert page.evaluate("getComputedStyle(document.activeElement).opacity") == "1"
    assert permalinks
    page.close()


# of each text the largest part, since exponents are smaller; in pixels of the screen
SMALLEST = """() => [...document.querySelectorAll(".picture svg")].map((svg) => {
  const scale = svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
  const size = (part) => parseFloat(getComputedStyle(part).fontSize);
  const texts = [...svg.querySelectorAll("text")];
  return scale * Math.min(...texts.map((text) => {
    const parts = text.querySelectorAll("tspan");
    return Math.max(...(parts.length ? [...parts].map(size) : [size(text)]));
  }));
})"""


def test_figures_can_be_read_on_a_phone(site, browser):
    page, seen = browser.new_page(viewport={"width": 390, "height": 844}), 0
    for name in pages():
        page.goto(f"{site}/{name}")
        sizes = page.evaluate(SMALLEST)
        seen += len(sizes)
        assert all(size > 8.9 for size in sizes), (name, sizes)
    assert seen > 40
    # what is too wide starts at its left end, and the keyboard reaches it
    page.goto(f"{site}/notebooks/08-bit-widths.html")
    wide = page.locator(".picture[tabindex='0']")
    assert wide.count() > 0
    place = "e => e.firstElementChild.getBoundingClientRect().left - e.getBoundingClientRect().left"
    assert all(abs(wide.nth(i).evaluate(place)) < 1 for i in range(wide.count()))
    page.set_viewport_size({"width": 1280, "height": 844})
    page.wait_for_function("!document.querySelector('.picture[tabindex]')")
    page.close()


@pytest.mark.parametrize("drawer", ["primary", "secondary"])
def test_the_drawer_closes_on_a_phone(site, browser, drawer):
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.goto(f"{site}/notebooks/02-qlinearconv.html")
    page.locator(f".{drawer}-toggle").click()
    opened = page.locator("dialog[open]")
    assert opened.count() == 1
    opened.locator('a[href^="#"]').last.click()
    assert opened.count() == 0
    page.close()


def test_prose_has_a_readable_measure(site, browser):
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    lengths = """() => [...document.querySelectorAll("section > p:not(:has(.katex))")].map((p) => {
        const lines = p.getBoundingClientRect().height / parseFloat(getComputedStyle(p).lineHeight);
        return [Math.round(lines), p.innerText.length / Math.round(lines)] })"""
    for name in pages():
        page.goto(f"{site}/{name}")
        for lines, letters in page.evaluate(lengths):
            assert lines < 4 or letters < 80, name
    page.close()


def test_launch_and_download_buttons_are_there(site, browser):
    page = browser.new_page()
    page.goto(f"{site}/notebooks/02-qlinearconv.html")
    html = page.content()
    assert "colab.research.google.com" in html and "mybinder.org" in html
    assert 'href="../_sources/notebooks/02-qlinearconv.ipynb"' in html
    assert re.search(r'property="og:image" content="https://[^"]+/_static/preview\.png"', html)
    with Image.open(HTML / "_static" / "preview.png") as picture:
        assert picture.size == (1200, 630)
    assert (HTML / "_static" / "preview.png").stat().st_size < 150_000
    page.close()


def test_the_pdf_holds_the_whole_book():
    needs(HTML.is_dir(), "the built site (make book)")
    needs(chromium() is not None, "Chromium")
    made = subprocess.run(["make", "pdf"], cwd=ROOT, capture_output=True, text=True)
    assert made.returncode == 0, made.stdout + made.stderr
    pdf = PdfReader(ROOT / "_build" / "book.pdf")
    marks = json.dumps([str(getattr(m, "title", m)) for m in flat(pdf.outline)])
    for path in CHAPTERS[1:]:
        cells = json.loads(path.read_text())["cells"]
        title = next(re.match(r"# (.*)", "".join(c["source"])) for c in cells)[1]
        assert title in marks
    links = [a.get_object() for page in pdf.pages for a in page.get("/Annots", [])]
    addresses = [str(link["/A"].get("/URI", "")) for link in links if "/A" in link]
    assert any("/Dest" in link for link in links)  # from chapter to chapter
    assert not [a for a in addresses if not a.startswith("https://") and a]
    texts = [page.extract_text() for page in pdf.pages]
    assert re.search(r"Version \d", texts[0]) and "CC BY 4.0" in texts[0]
    assert "Show code" not in "".join(texts)
    contents = "".join(texts[1:4])
    for path in CHAPTERS[1:]:
        number = int(path.stem[:2])
        listed = int(re.search(rf"^{number}\. .*?(\d+)$", contents, re.M)[1])
        assert re.search(rf"^{number}\. ", texts[listed - 1], re.M), path.stem
    # every page has something on it besides its number
    assert min(len(text.strip()) for text in texts) > 40
    assert any("pixel explorer: https://" in " ".join(text.lower().split()) for text in texts)
    # and the site offers it
    assert (HTML / "book.pdf").read_bytes() == (ROOT / "_build" / "book.pdf").read_bytes()
    assert all('book.pdf"' in (HTML / name).read_text() for name in pages() if name != "404.html")


def test_the_cheat_sheet_prints_on_one_page(site, browser):
    page = browser.new_page()
    page.goto(f"{site}/book/cheatsheet.html")
    pdf = PdfReader(io.BytesIO(page.pdf(format="A4")))
    assert len(pdf.pages) == 1 and "Your model, your design" in pdf.pages[0].extract_text()
    page.close()


def flat(outline: list) -> list:
    """A PDF's bookmarks without their nesting."""
    parts = (flat(one) if isinstance(one, list) else [one] for one in outline)
    return [mark for part in parts for mark in part]


# --- the pixel explorer on the site; the page itself is test_explorer_page.py's


def explorer(site, browser, fragment="", **context):
    page = browser.new_context(**context).new_page()
    errors = []
    page.on("pageerror", lambda e: errors.append(str(e)))
    page.on("console", lambda m: errors.append(m.text) if "xplorer" in m.text else None)
    page.goto(f"{site}/book/explorer.html{fragment}")
    page.wait_for_selector(".explorer-steps tr.equal, .explorer-steps tr.different")
    assert not errors
    return page


def test_explorer_equals_ort_on_every_element_of_two_images(site, browser):
    model = load(ROOT / "models" / "resnet8_int8.onnx")
    values = tensors(model, load_samples()[0].astype(np.float32))
    page = explorer(site, browser)
    whole = """async ([image, name]) => {
        await qlinearExplorer.ready(image);
        const Q = qlinearInference, { network } = qlinearExplorer;
        const layer = Q.layer(network, network.data.runs[image], network.byName[name]);
        return Array.from(layer.out.values, (_, i) => Q.value(layer, i));
    }"""
    for node in model.nodes:
        for image in (0, 7):
            wanted = values[node.outputs[0]][image].ravel().tolist()
            assert page.evaluate(whole, [image, node.outputs[0]]) == wanted, node.name
    page.context.close()


def test_explorer_loads_an_image_when_it_is_chosen(site, browser):
    page = explorer(site, browser)
    asked = []
    page.on("request", lambda r: asked.append(r.url.split("/")[-1]) if "explorer" in r.url else 0)
    page.get_by_label("image").select_option("7")
    page.wait_for_url("**image=7&**")
    assert asked == ["explorer-ort-07.js"]
    assert page.locator(".explorer-steps tr.equal").count() == 1
    page.route("**/explorer-ort-08.js", lambda route: route.abort())
    page.get_by_label("image").select_option("8")
    page.wait_for_function("document.querySelector('.explorer-note').textContent")
    assert "values of this image did not load" in page.locator(".explorer-note").inner_text()
    assert "equal" not in page.locator(".explorer").inner_text()  # of the image before
    page.context.close()


def test_explorer_says_that_its_data_are_missing(site, browser):
    page, errors = browser.new_page(), []
    page.on("pageerror", lambda e: errors.append(str(e)))
    page.route("**/explorer-data.js", lambda route: route.abort())
    page.goto(f"{site}/book/explorer.html")
    page.wait_for_function(
        "document.querySelector('[data-explorer]').textContent.includes('did not load')"
    )
    assert not errors
    page.close()


def test_what_to_try_lies_above_the_explorer_and_on_its_screen(site, browser):
    page = explorer(site, browser, viewport={"width": 1280, "height": 800})
    links = page.locator(".explorer-try a")
    box = page.locator(".explorer").bounding_box()
    for index in range(links.count()):
        fragment = links.nth(index).get_attribute("href")
        assert links.nth(index).bounding_box()["y"] < box["y"] < 400
        links.nth(index).click()
        page.wait_for_function("f => location.hash.startsWith(f)", arg=fragment)
        page.wait_for_selector(".explorer-steps tr.equal, .explorer-steps tr.different")
        assert page.locator(".explorer-note").inner_text() == ""
        assert page.evaluate("scrollY") == 0
    page.context.close()


def test_the_window_the_picture_the_sum_and_the_byte_are_on_one_screen(site, browser):
    page = explorer(site, browser, viewport={"width": 1280, "height": 800})
    page.locator(".explorer").evaluate("e => e.scrollIntoView()")
    parts = (".explorer-photo img", ".explorer-in canvas", ".explorer-out canvas")
    for part in (*parts, ".explorer-tables", ".explorer-chart", ".explorer-verdict-row"):
        box = page.locator(part).first.bounding_box()
        assert box["y"] >= 0 and box["y"] + box["height"] <= 800, part
    page.context.close()


def test_nothing_of_the_explorer_holds_up_the_page(site, browser):
    page, before = browser.new_page(), []
    page.on("request", lambda r: before.append(r.url) if "/explorer/" in r.url else None)
    page.goto(f"{site}/notebooks/02-qlinearconv.html")
    page.wait_for_load_state("networkidle")
    assert [url.split("/")[-1] for url in before] == ["start.js"]
    scripts = page.locator("script[src*='/explorer/']").evaluate_all("all => all.map(s => s.defer)")
    assert scripts == [True]
    page.locator("[data-explorer]").scroll_into_view_if_needed()
    page.wait_for_selector(".explorer-steps tr.equal")
    page.close()


def test_explorer_without_javascript(site, browser):
    page = browser.new_context(java_script_enabled=False).new_page()
    page.goto(f"{site}/book/explorer.html")
    assert "needs JavaScript" in page.locator("[data-explorer]").inner_text()
    page.context.close()


def test_pixels_that_the_chapters_cite_are_there(site, browser):
    cited = {
        fragment.replace("&amp;", "&")
        for name in pages()
        for fragment in re.findall(r'"[^"#]*(#image=[^"]+)"', (HTML / name).read_text())
    }
    assert cited
    for fragment in cited:
        page = explorer(site, browser, fragment)
        assert page.locator(".explorer-note").inner_text() == "", fragment
        # what if shows a difference, and all else none
        otherwise = re.search("&(pad|acc|factor|round|zero|added|scale)=", fragment)
        wanted = "tr.different" if otherwise else "tr.equal"
        assert page.locator(f".explorer-steps {wanted}").count() == 1, fragment
        assert page.url.split("#")[1].startswith(fragment[1:].split("&mac=")[0])
        page.context.close()
