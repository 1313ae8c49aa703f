"""Run the chapters from the top and store their outputs, without timings or machine names.

python -m tools.execute                      # all chapters
python -m tools.execute notebooks/NAME.ipynb
"""

import argparse
import os
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from qlinear.errors import UnusableInput, run_command

ROOT = Path(__file__).resolve().parents[1]

FOLDED = {"hide-cell", "hide-input", "remove-cell", "remove-input"}
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def metadata(tags: list[str]) -> dict:
    """A cell's tags, and what folds it in Jupyter, VS Code and Colab, which know no tags."""
    made = {"tags": tags} if tags else {}
    if FOLDED & set(tags):
        made |= {"jupyter": {"source_hidden": True}, "cellView": "form"}
    return made


def execute(path: Path) -> None:
    """Run one notebook in its folder and replace it; leave it alone if a cell fails."""
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata = METADATA
    client = NotebookClient(
        notebook,
        timeout=600,
        record_timing=False,
        resources={"metadata": {"path": path.parent}},
    )
    try:
        client.execute()
    except CellExecutionError as error:
        raise UnusableInput(f"{path}: a cell failed\n{error}") from None
    for cell in notebook.cells:
        cell.metadata = metadata(cell.metadata.get("tags", []))
    notebook.metadata = METADATA
    nbformat.write(notebook, path)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("notebooks", type=Path, nargs="*", help="default: every chapter")
    if os.environ.get("PYTHONOPTIMIZE"):  # the kernels would skip every assertion
        raise UnusableInput("PYTHONOPTIMIZE switches assertions off: unset it")
    paths = parser.parse_args(argv).notebooks or sorted((ROOT / "notebooks").glob("*.ipynb"))
    os.environ["PYTHONPATH"] = str(ROOT)
    for path in paths:
        print(f"running {path}", flush=True)
        execute(path)


if __name__ == "__main__":
    run_command(main)
