"""Start a chapter that already passes: the frame that every chapter has, run once, and listed.

python -m tools.new_chapter 11-my-subject "My subject"
"""

import argparse
import re
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from qlinear.errors import UnusableInput, run_command
from tools.execute import execute

ROOT = Path(__file__).resolve().parents[1]
# how every chapter's first code cell starts; a test holds all chapters to it
COLAB = """\
import sys

if "google.colab" in sys.modules:  # Colab starts without the book's files
    !git clone -q --depth 1 https://github.com/int8-reference/int8-reference book \
&& pip install -q onnx onnxruntime threadpoolctl
    sys.path.insert(0, "book")
"""
SETUP = """
import numpy as np

from qlinear.engine import compare
from qlinear.inputs import load_samples
from qlinear.onnx_model import load
from tools.chapter import MODELS, say"""
OPENING = """# {title}

**Result.** One sentence that says what this page proves.

:::{{admonition}} For implementers
:class: tip
1. The exact rule, in one line.
:::

## Overview

The first cell, folded away, loads what the page needs."""
LOAD = """model = load(MODELS / "resnet8_int8.onnx")
x = load_samples()[0].astype(np.float32)
checks = compare(model, x)
assert all(check.equal for check in checks)
say(f"{len(checks)} tensors of {sum(c.elements for c in checks):,} elements: all equal.")"""


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", help="NN-words, the file's name without its ending")
    parser.add_argument("title", help="the chapter's heading")
    parser.add_argument("--root", type=Path, default=ROOT, help="the book's folder")
    args = parser.parse_args(argv)
    if not re.fullmatch(r"\d\d-[a-z0-9-]+", args.name):
        raise UnusableInput(f"{args.name}: a chapter's name is like 11-my-subject")
    path, toc = args.root / "notebooks" / f"{args.name}.ipynb", args.root / "_toc.yml"
    if path.exists():
        raise UnusableInput(f"{path}: exists already")
    text = toc.read_text()
    last = re.findall(r"      - file: notebooks/\S+\n", text)[-1]

    folded = new_code_cell(COLAB + SETUP, metadata={"tags": ["hide-cell"]})
    cells = [
        new_markdown_cell(OPENING.format(title=args.title)),
        folded,
        new_markdown_cell("We run the whole network by the reference and by ONNX Runtime."),
        new_code_cell(LOAD),
    ]
    notebook = new_notebook(cells=cells)
    for index, cell in enumerate(notebook.cells):
        cell["id"] = f"{args.name[:2]}-{index}"  # stable, so that a diff shows what changed
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
