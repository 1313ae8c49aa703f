"""The chapters away from the site: in a real JupyterLab, in a viewer that cleans HTML, in Colab,
alone, and with the packages that Binder installs."""

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from importlib.metadata import version
from pathlib import Path

import nbformat
import pytest
from conftest import ROOT, needs

from tools.browser import chromium
from tools.new_chapter import COLAB

CHAPTERS = sorted((ROOT / "notebooks").glob("*.ipynb"))
each_chapter = pytest.mark.parametrize("path", CHAPTERS, ids=lambda p: p.stem)
BOOK = ("Makefile", ".jupyter", "book", "data", "models", "notebooks", "qlinear", "study", "tools")


def copy_of_the_book(folder: Path) -> Path:
    """What a chapter, run, opens: a clone of this tree."""
    folder.mkdir()
    for name in BOOK:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=lambda *_: {"__pycache__"})
        else:
            shutil.copy(ROOT / name, folder)
    return folder


def count(path: Path, of: str) -> int:
    """How many outputs of a type a committed chapter has."""
    cells = nbformat.read(path, as_version=4).cells
    return sum(of in o.get("data", {}) for cell in cells for o in cell.get("outputs", []))


def title(path: Path) -> str:
    return nbformat.read(path, as_version=4).cells[0].source.splitlines()[0].removeprefix("# ")


def folded(path: Path) -> int:
    cells = nbformat.read(path, as_version=4).cells
    return sum(cell.metadata.get("jupyter", {}).get("source_hidden", False) for cell in cells)


# --- JupyterLab


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Address of what ``make lab`` starts in a clone, for a reader who never had a Jupyter."""
    needs(bool(shutil.which("make")), "make")
    needs((Path(sys.executable).parent / "jupyter-lab").exists(), "JupyterLab")
    folder = tmp_path_factory.mktemp("lab")
    clone = copy_of_the_book(folder / "clone")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = (
        f"--no-browser --allow-root --ServerApp.port={port} --IdentityProvider.token="
        " --expose-app-in-browser"
    )
    command = ["make", "-o", ".venv/.ready", "lab", f"BIN={Path(sys.executable).parent}"]
    env = {k: v for k, v in os.environ.items() if not k.startswith(("JUPYTER", "XDG", "MAKE"))}
    env |= {"HOME": str(folder / "home"), "PYTHONPATH": str(clone)}
    # all cells at once, instead of those that are in sight
    settings = folder / "home/.jupyter/lab/user-settings/@jupyterlab/notebook-extension"
    settings.mkdir(parents=True)
    (settings / "tracker.jupyterlab-settings").write_text('{"windowingMode": "none"}')
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            [*command, f"LAB={options}"], cwd=clone, env=env, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            assert server.poll() is None, (folder / "log").read_text()
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{address}/api").close()
                break
            time.sleep(0.25)
        yield address
    finally:
        os.killpg(server.pid, 15)
        server.wait()


@pytest.fixture(scope="module")
def page(lab):
    """JupyterLab in Chromium, as ``make lab`` opens it."""
    needs(chromium() is not None, "Chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1300, "height": 1000})
        page.goto(lab)
        page.wait_for_selector(".jp-Notebook .jp-Cell")
        yield page
        browser.close()


def command(page, name: str, **args) -> None:
    """Run one of JupyterLab's commands, as its menus do."""
    page.evaluate("([name, args]) => void jupyterapp.commands.execute(name, args)", [name, args])


def opened(page, path: Path):
    """A chapter, opened in a tab of its own, when all of its cells are there."""
    command(page, "docmanager:open", path=f"notebooks/{path.name}")
    panel = page.locator(f".jp-NotebookPanel:not(.lm-mod-hidden):has(h1:has-text('{title(path)}'))")
    panel.wait_for()
    return panel


def shown(panel, path: Path) -> None:
    """Every figure is a picture that is seen, every table a table; nothing is raw."""
    from playwright.sync_api import expect

    figures = panel.locator(":is(.jp-RenderedImage, .jp-RenderedSVG) img")
    expect(figures).to_have_count(count(path, "image/png"))
    expect(panel.locator(".jp-RenderedHTML table")).to_have_count(count(path, "text/html"))
    sizes = figures.evaluate_all(
        "(all) => Promise.all(all.map(async (i) => (await i.decode(), [i.width, i.height])))"
    )
    assert all(min(size) > 60 for size in sizes)
    text = panel.evaluate("(e) => e.textContent")
    assert not re.search(r"<svg|<table|:::|\{[a-z:]+\}`", text)


@each_chapter
def test_an_untrusted_chapter_shows_in_jupyterlab(path, page):
    panel = opened(page, path)
    shown(panel, path)
    assert panel.locator(".jp-InputPlaceholder").count() == folded(path)
