"""Start a chapter that already passes: the frame that every chapter has, run once, and listed.

python -m tools.new_chapter 13-my-subject "My subject"
"""

import argparse
import re
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from qlinear.errors import UnusableInput, run_command
from tools.execute import execute, metadata

ROOT = Path(__file__).resolve().parents[1]
# every chapter's first code cell; a test holds all chapters to it
COLAB = """\
import sys

if "google.colab" in sys.modules:  # Colab starts without the book's files
    !test -d book || git clone -q --depth 1 https://github.com/int8-reference/int8-reference book
    !pip install -q onnx==1.23.2 onnxruntime==1.32.0 threadpoolctl==3.8.0
    sys.path.insert(0, "book")
try:
    import tools.chapter  # noqa: F401
except ModuleNotFoundError as missing:
    line = (
        f"No module {missing.name!r}: this page needs the book's files. Run: git clone "
        "https://github.com/int8-reference/int8-reference && cd int8-reference && make lab"
    )
    missing._render_traceback_ = lambda: [line]  # not a whole traceback
    raise"""
SETUP = """\
import numpy as np
import pandas as pd
from matplotlib import pyplot as plt

from qlinear.engine import compare
from qlinear.inputs import load_samples
from qlinear.onnx_model import load
from tools import plotting
from tools.chapter import MODELS, say"""
# the frame of a chapter; where it says what to write, write that
OPENING = """# {number}. {title}

**Result.** One sentence that says what this page proves.

> **For implementers**
>
> 1. The exact rule, in one line.

**What you will learn.** Two or three things that the reader can do afterwards.

**What you need.** [QLinearConv](02-qlinearconv.ipynb); symbols and terms are on the page
[Notation and glossary](../book/notation.md)."""
LOAD = """model = load(MODELS / "resnet8_int8.onnx")
x = load_samples()[0].astype(np.float32)
checks = compare(model, x)
assert all(check.equal for check in checks)"""
FIGURE = """fig, ax = plt.subplots()
ax.bar([c.tensor for c in checks], [c.elements for c in checks])
ax.set(ylabel="elements")
ax.tick_params(axis="x", rotation=90)
plotting.show(
    fig,
    figure="{number}.1",
    caption="What to see in the figure, for everybody: one sentence, or two, that say what it "
    "proves.",
    alt="What the figure shows, for readers who do not see it: its axes and its trend.",
)"""
SCALES = """convs = model.of_type("QLinearConv")
rows = [(node.name, model.arguments(node)["w_scale"].size) for node in convs]
pd.DataFrame(rows, columns=["layer", "scales of w"]).set_index("layer")"""
EXERCISE = """**Exercise {number}.{n}.** A question that the reader can answer with what the page
taught. The solution is folded."""
SOLUTION = """# solution of exercise {number}.{n}
assert 1 + 1 == 2"""


def frame(number: int, title: str) -> list[nbformat.NotebookNode]:
    """The cells of a chapter in the form that tests/test_notebooks.py holds all chapters to."""
    filled = {"number": number, "title": title}
    cells = [
        new_markdown_cell(OPENING.format(**filled)),
        new_code_cell(COLAB, metadata=metadata(["hide-cell"])),
        new_code_cell(SETUP, metadata=metadata(["hide-cell"])),
        new_markdown_cell("We run the whole network by the reference and by ONNX Runtime."),
        new_code_cell(LOAD),
        new_code_cell(FIGURE.format(**filled), metadata=metadata(["hide-input"])),
        new_markdown_cell("## Scales\n\nHow many scales each layer has: one, or one a channel."),
        new_code_cell(SCALES, metadata=metadata(["hide-input"])),
        new_markdown_cell("## One element, by hand\n\nEvery step, in the open."),
        new_code_cell('say(f"{sum(c.elements for c in checks):,} elements: all equal.")'),
        new_markdown_cell("## Summary\n\n- What to remember."),
        new_markdown_cell("## Exercises"),
    ]
    for n in (1, 2, 3):
        solution = SOLUTION.format(**filled, n=n)
        cells.append(new_markdown_cell(EXERCISE.format(**filled, n=n)))
        cells.append(new_code_cell(solution, metadata=metadata(["hide-cell"])))
    cells.append(new_markdown_cell("## Where to go next\n\nA link or two, and why."))
    for index, cell in enumerate(cells):
        cell["id"] = f"{number:02d}-{index}"  # stable, so that a diff shows what changed
    return cells


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", help="NN-words, the file's name without its ending")
    parser.add_argument("title", help="the chapter's heading")
    parser.add_argument("--root", type=Path, default=ROOT, help="the book's folder")
    args = parser.parse_args(argv)
    if not re.fullmatch(r"\d\d-[a-z0-9-]+", args.name):
        raise UnusableInput(f"{args.name}: a chapter's name is like 13-my-subject")
    path, toc = args.root / "notebooks" / f"{args.name}.ipynb", args.root / "_toc.yml"
    if path.exists():
        raise UnusableInput(f"{path}: exists already")
    text = toc.read_text()
    last = re.findall(r"      - file: notebooks/\S+\n", text)[-1]

    notebook = new_notebook(cells=frame(int(args.name[:2]), args.title))
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)
    try:
        execute(path)
    except UnusableInput:
        path.unlink()
        raise
    toc.write_text(text.replace(last, f"{last}      - file: notebooks/{args.name}\n"))
    print(f"wrote {path} and listed it in {toc}")


if __name__ == "__main__":
    run_command(main)
