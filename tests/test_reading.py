"""What the chapters write in plain Markdown, as the built site shows it (make book comes first)."""

import json
import re
from pathlib import Path

import pytest
from conftest import ROOT, needs

from tools.sphinx import reading

CHAPTERS = sorted((ROOT / "notebooks").glob("*.ipynb"))
HTML = ROOT / "_build" / "html"
each_chapter = pytest.mark.parametrize("path", CHAPTERS, ids=lambda p: p.stem)


def built(path: Path) -> str:
    page = HTML / "notebooks" / f"{path.stem}.html"
    needs(page.exists(), "the built site (make book)")
    return page.read_text()


@each_chapter
def test_figures_are_in_the_page_with_caption_and_address(path):
    page, notebook = built(path), path.read_text()
    named = re.findall(r"\*\*Figure (\d+)\.(\d+)\.\*\* ", notebook)
    shown = re.findall(r'<figure[^>]* id="figure-(\d+)-(\d+)">(.*?)</figure>', page, re.DOTALL)
    assert [numbers[:2] for numbers in shown] == named
    assert named
    for chapter, own, inside in shown:
        # the drawing itself, which takes the page's colours, not a picture of it
        assert "<svg" in inside and "currentColor" in inside and "<img" not in inside
        assert "background:white" not in inside  # which is for notebooks
        caption = re.search(r"<figcaption>(.*?)</figcaption>", inside, re.DOTALL)[1]
        text = re.sub(r"<[^>]+>", "", caption).strip()
        assert text.startswith(f"Figure {chapter}.{own}. ")
        assert f'href="#figure-{chapter}-{own}"' in caption


@each_chapter
def test_links_to_figures_lead_to_figures(path):
    for page, chapter, own in re.findall(r'href="([^"#]*)#figure-(\d+)-(\d+)"', built(path)):
        target = HTML / "notebooks" / page if page else HTML / "notebooks" / f"{path.stem}.html"
        assert f'id="figure-{chapter}-{own}"' in target.read_text()


@each_chapter
def test_boxes_are_boxes_and_citations_citations(path):
    page = built(path)
    cells = json.loads(path.read_text())["cells"]
    text = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    boxes = len(re.findall(r"^> \*\*(?:For implementers|Where this holds)\.?\*\*", text, re.M))
    assert page.count('<p class="admonition-title">') == boxes
    cited = re.findall(r"\[[^\]]+\]\(\.\./book/bibliography\.md#([\w-]+)\)", text)
    entries = set(re.findall(r'bibliography\.html#([\w-]+)"', page))
    assert len(entries) == len(set(cited))


@each_chapter
def test_links_to_the_published_site_stay_within_this_one(path):
    published = "https://int8-reference.github.io/int8-reference/"
    found = re.findall(r"<a [^>]*>", built(path))
    # the page's own address in its head is another thing
    assert not [link for link in found if published in link]


@each_chapter
def test_links_into_the_explorer_keep_their_pixel(path):
    links = re.findall(r'href="[^"]*explorer\.html#([^"]*)"', built(path))
    assert all(set(link.split("&amp;")) == set(re.split("&(?:amp;)*", link)) for link in links)
    assert links or "explorer.html#" not in path.read_text()


def test_the_front_page_holds_an_explorer_numbers_and_ways():
    page = built(ROOT / "notebooks" / "00-start.ipynb")
    explorer = re.search(r'<div data-explorer="small" data-start="([^"]*)">(.*?)</div>', page, re.S)
    assert "layer=block1_conv2&amp;channel=5" in explorer[1]
    # without scripts a link in words, and no picture to load
    assert "<a " in explorer[2]
    assert "<img" not in explorer[2]
    (script,) = re.findall(r'<script defer src="([^"]*/explorer/start\.js)"', page)
    assert (HTML / "notebooks" / script).exists()
    assert len(re.findall(r'<table class="numbers\b', page)) == 1
    assert len(re.findall(r'<table class="ways\b', page)) == 1


def test_a_figure_is_as_wide_as_its_smallest_text_needs():
    exponent = (
        '<text><tspan style="font: 10px x">10</tspan><tspan style="font: 7px x">3</tspan></text>'
    )
    small = '<text style="font: 8px x">a</text>'
    assert reading.readable_width(f'<svg viewBox="0 0 400 99">{small}{exponent}</svg>') == 450
    assert reading.readable_width(f'<svg viewBox="0 0 400 99">{exponent}</svg>') == 360
    assert reading.readable_width('<svg viewBox="0 0 400 99"></svg>') == 400
