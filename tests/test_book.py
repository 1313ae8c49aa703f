"""The chapters as committed, and the site as built (make book comes first)."""

import functools
import http.server
import json
import re
import threading
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, chromium, needs

CHAPTERS = sorted((ROOT / "notebooks").glob("*.ipynb"))
HTML = ROOT / "_build" / "html"
FOLDED = {"hide-cell", "hide-input", "remove-cell", "remove-input"}


def code_cells(path: Path) -> list[dict]:
    return [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"]


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda p: p.stem)
def test_every_cell_was_run_in_order(path):
    # nbval passes a notebook that was never run
    counts = [cell["execution_count"] for cell in code_cells(path)]
    assert counts == list(range(1, len(counts) + 1))
    for cell in code_cells(path):
        assert not {"nbval-skip", "raises-exception"} & set(cell["metadata"].get("tags", []))
        assert set(cell["metadata"]) <= {"tags"}
        for output in cell["outputs"]:
            assert output["output_type"] != "error" and output.get("name") != "stderr"


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda p: p.stem)
def test_cells_are_short_and_introduced(path):
    cells = json.loads(path.read_text())["cells"]
    for before, cell in pairwise(cells):
        if cell["cell_type"] == "code" and not FOLDED & set(cell["metadata"].get("tags", [])):
            assert len("".join(cell["source"]).splitlines()) <= 25
            assert before["cell_type"] == "markdown", "".join(cell["source"])[:60]


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda p: p.stem)
def test_no_machine_shows_in_the_outputs(path):
    for cell in code_cells(path):
        outputs = json.dumps(cell["outputs"])
        assert not re.search(r"/home/|/root/|/work/|/tmp/|0x[0-9a-f]{8}", outputs)


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda p: p.stem)
def test_figures_have_alternative_text(path):
    for cell in code_cells(path):
        for output in cell["outputs"]:
            html = "".join(output.get("data", {}).get("text/html", ""))
            assert "image/png" not in output.get("data", {})
            if "<svg" in html:
                assert len(re.search(r'aria-label="([^"]+)"', html)[1]) > 60


def test_one_repository_is_named():
    url = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]["url"]
    for path in CHAPTERS:
        for found in re.findall(r"https://github\.com/[\w-]+/[\w-]+", path.read_text()):
            assert found in (url, "https://github.com/microsoft/onnxruntime")


def test_every_chapter_is_in_the_contents():
    toc = (ROOT / "_toc.yml").read_text()
    assert all(f"notebooks/{path.stem}" in toc for path in CHAPTERS)


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


@pytest.fixture(scope="module")
def browser():
    needs(chromium() is not None, "Chromium")
    from playwright.sync_api import sync_playwright

    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_playwright() as tools:
        instance = tools.chromium.launch(executable_path=chromium(), args=flags)
        yield instance
        instance.close()


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
        loads += re.findall(r"<link[^>]*\bhref=[\"'](https?:[^\"']*)", html)
        assert not loads and "unpkg.com" not in html and "jsdelivr" not in html, page


@pytest.mark.parametrize("width", [1280, 390])
def test_pages_load_nothing_from_outside_and_fit_the_width(site, browser, width):
    context = browser.new_context(viewport={"width": width, "height": 800})
    page, outside, errors = context.new_page(), [], []
    page.on("request", lambda r: outside.append(r.url) if site not in r.url else None)
    page.on("pageerror", lambda e: errors.append(str(e)))
    page.on("requestfailed", lambda r: errors.append(f"failed: {r.url}"))
    for name in pages():
        page.goto(f"{site}/{name}")
        page.wait_for_load_state("load")
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
    assert not [url for url in outside if not url.startswith("data:")]
    assert not errors
    context.close()


def test_equations_are_set_and_search_finds(site, browser):
    page = browser.new_page()
    page.goto(f"{site}/notebooks/02-qlinearconv.html")
    page.wait_for_selector(".katex-display .katex-html")
    assert page.locator(".katex-error").count() == 0
    page.goto(f"{site}/search.html?q=padding")
    page.wait_for_selector("ul.search li a")
    assert "qlinearconv" in page.locator("ul.search").inner_html()
    page.close()


def test_launch_and_download_buttons_are_there(site, browser):
    page = browser.new_page()
    page.goto(f"{site}/notebooks/02-qlinearconv.html")
    html = page.content()
    assert "colab.research.google.com" in html and "mybinder.org" in html
    assert 'href="../_sources/notebooks/02-qlinearconv.ipynb"' in html
    page.close()
