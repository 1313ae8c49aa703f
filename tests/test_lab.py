"""The chapters away from the site: in a real JupyterLab, in a viewer that cleans HTML, in Colab,
alone, and with the packages that Binder installs."""

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import tomllib
import urllib.request
from importlib.util import find_spec
from pathlib import Path

import nbformat
import pytest
from conftest import ROOT, needs
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from playwright.sync_api import expect

from tools.new_chapter import COLAB

CHAPTERS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SOON = 180  # seconds; it is far less, unless the machine has much else to do
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
        for _ in range(4 * SOON):
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
def page(lab, browser):
    """JupyterLab in Chromium, as ``make lab`` opens it."""
    page = browser.new_page(viewport={"width": 1300, "height": 1000})
    page.set_default_timeout(SOON * 1000)
    expect.set_options(timeout=SOON * 1000)
    page.goto(lab)
    page.wait_for_selector(".jp-Notebook .jp-Cell")
    yield page
    page.close()
    expect.set_options(timeout=5000)


def command(page, name: str, **args) -> None:
    """Run one of JupyterLab's commands, as its menus do."""
    page.evaluate("([name, args]) => void jupyterapp.commands.execute(name, args)", [name, args])


def opened(page, path: Path):
    """A chapter, opened in a tab of its own, when all of its cells are there."""
    command(page, "docmanager:open", path=f"notebooks/{path.name}")
    panel = page.locator(f".jp-NotebookPanel:not(.lm-mod-hidden):has(h1:has-text('{title(path)}'))")
    panel.wait_for()
    page.evaluate("() => jupyterapp.shell.currentWidget.sessionContext.ready")
    return panel


FINISHED = """() => {
    const cells = Array.from(jupyterapp.shell.currentWidget.content.model.cells);
    return cells.every((cell) => cell.type !== "code" || cell.executionCount);
}"""


def shown(panel, path: Path) -> None:
    """Every figure is a picture that is seen, every table a table; nothing is raw."""
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


@pytest.mark.parametrize("path", CHAPTERS[:2], ids=lambda p: p.stem)
def test_a_chapter_runs_in_jupyterlab(path, page):
    panel = opened(page, path)
    command(page, "notebook:clear-all-cell-outputs")
    expect(panel.locator(".jp-RenderedImage")).to_have_count(0)
    command(page, "notebook:run-all-cells")
    page.wait_for_function(FINISHED)
    assert panel.locator("[data-mime-type*='stderr'], [data-mime-type*='error']").count() == 0
    shown(panel, path)
    # it is trusted now, and shows the drawing instead of its dots
    drawings = panel.locator(".jp-RenderedSVG img")
    assert drawings.count() == count(path, "image/png")
    # with a ground of its own, since its text is black in a dark theme too
    for address in drawings.evaluate_all("(all) => all.map((i) => decodeURIComponent(i.src))"):
        assert 'style="background:white"' in address.split(">")[0]


@pytest.mark.parametrize(
    ("chapter", "link"),
    [("00-start", "02-qlinearconv.ipynb"), ("02-qlinearconv", "../book/notation.md")],
)
def test_links_open_in_jupyterlab(chapter, link, page):
    panel = opened(page, ROOT / "notebooks" / f"{chapter}.ipynb")
    panel.locator(f"a[href*='{Path(link).name}']").first.click()
    tab = page.locator(".lm-DockPanel-tabBar .lm-TabBar-tab.jp-mod-current")
    expect(tab).to_contain_text(Path(link).name)
    # a page, not its source
    heading = page.locator(".jp-Document:not(.lm-mod-hidden) h1")
    assert heading.inner_text().strip() != ""


def test_a_chapter_can_show_ones_own_model(page):
    panel = opened(page, CHAPTERS[1])
    command(page, "notebook:insert-cell-below")
    code = "from qlinear import explore_page\nexplore_page.show('../models/resnet8_int8.onnx')"
    page.evaluate(
        "(code) => jupyterapp.shell.currentWidget.content.activeCell.model.sharedModel"
        ".setSource(code)",
        code,
    )
    command(page, "notebook:run-cell")
    equal = panel.frame_locator("iframe").locator(".explorer-verdict-row.equal")
    expect(equal).to_be_visible()


# --- a viewer that cleans what it shows


@each_chapter
def test_a_viewer_that_cleans_html_shows_figures_and_tables(path):
    needs(find_spec("nbconvert") is not None, "nbconvert, which comes with JupyterLab")
    from nbconvert import HTMLExporter

    body, _ = HTMLExporter(sanitize_html=True).from_filename(str(path))
    body = body[body.index("<main") :]
    pictures = re.findall(r'<img[^>]*src="data:image/svg\+xml;base64,', body)
    assert len(pictures) == count(path, "image/svg+xml")
    assert body.count("<table>") >= count(path, "text/html")
    assert not re.search(r"&lt;(svg|table|div|path)|:::", body)
    assert len(re.findall(r"<strong>Figure \d+\.\d+\.</strong>", body)) == len(pictures)


# --- a notebook without the repository


@pytest.fixture
def alone(tmp_path, monkeypatch):
    """A folder for one notebook, and kernels that find nothing of this tree."""
    stub = tmp_path / "stub"
    stub.mkdir()
    away = f"import sys\nsys.path = [p for p in sys.path if p != {str(ROOT)!r}]\n"
    (stub / "sitecustomize.py").write_text(away)
    monkeypatch.setenv("PYTHONPATH", str(stub))
    (tmp_path / "folder").mkdir()
    return tmp_path / "folder"


def run(notebook, folder: Path) -> None:
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": folder}}).execute()


@pytest.mark.parametrize("path", CHAPTERS[:2], ids=lambda p: p.stem)
def test_a_chapter_alone_runs_in_colab(path, alone, monkeypatch):
    """Colab, but for what it costs: its module is a stub, GitHub this clone, and pip notes."""
    needs((ROOT / ".git").exists() and bool(shutil.which("git")), "the repository")
    stub = alone.parent / "stub"
    with (stub / "sitecustomize.py").open("a") as code:
        code.write("import types\nsys.modules['google.colab'] = types.ModuleType('google.colab')\n")
    pip = stub / "pip"
    pip.write_text(f'#!/bin/sh\necho "$@" >> {stub}/asked\n')
    pip.chmod(0o755)
    monkeypatch.setenv("PATH", str(stub), prepend=os.pathsep)
    (url,) = re.findall(r"https://github\.com/\S+(?= book$)", COLAB, re.M)
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", f"url.{ROOT.as_uri()}.insteadOf")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", url)
    notebook = nbformat.read(path, as_version=4)
    code = "import qlinear\nprint(tools.__file__, qlinear.__file__)"
    notebook.cells.append(nbformat.v4.new_code_cell(code))
    notebook.cells.append(nbformat.v4.new_code_cell(COLAB))  # run again: no harm
    run(notebook, alone)
    found = notebook.cells[-2].outputs[0].text.split()
    assert [Path(name).resolve().is_relative_to(alone / "book") for name in found] == [True, True]
    assert notebook.cells[-1].outputs == []
    assert (stub / "asked").read_text().count("install -q onnx==") == 2


def test_a_chapter_alone_elsewhere_says_what_to_do(alone):
    notebook = nbformat.read(CHAPTERS[1], as_version=4)
    with pytest.raises(CellExecutionError):
        run(notebook, alone)
    first = next(cell for cell in notebook.cells if cell.cell_type == "code")
    (output,) = first.outputs
    assert output.output_type == "error"
    (line,) = output.traceback
    assert "\n" not in line and "make lab" in line and "git clone" in line


# --- the same packages everywhere


def pins(text: str) -> dict[str, str]:
    return dict(re.findall(r"([\w.-]+)==([\w.]+)", text))


def test_colab_and_binder_install_what_the_book_was_made_with():
    here = pins((ROOT / "requirements.txt").read_text())
    colab = pins(COLAB)
    binder = pins((ROOT / ".binder" / "requirements.txt").read_text())
    assert colab.keys() == {"onnx", "onnxruntime", "threadpoolctl"}
    assert colab.items() <= here.items()
    assert binder.items() <= here.items()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["chapters"]]
    assert {re.match(r"[\w-]+", line)[0] for line in wanted} <= binder.keys()
    assert not {"jupyter-book", "playwright", "pytest", "ruff"} & binder.keys()


def test_binder_has_a_python_that_the_library_supports():
    found = (ROOT / ".binder" / "runtime.txt").read_text().strip()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    supported = f"Programming Language :: Python :: {found.removeprefix('python-')}"
    assert supported in project["classifiers"]
    assert os.access(ROOT / ".binder" / "postBuild", os.X_OK)
