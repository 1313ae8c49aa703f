"""Collect the chapters' "For implementers" boxes into one printable page: make book runs this.

python -m tools.cheatsheet --out book/cheatsheet.md
"""

import argparse
import json
import re
from pathlib import Path

from qlinear.errors import UnusableInput, run_command

ROOT = Path(__file__).resolve().parents[1]
HEAD = """# Cheat sheet

The rules of every chapter on one page, collected from the chapters themselves. Print it from the
browser.
"""


def rules(path: Path) -> tuple[str, str]:
    """A chapter's title and the text of its "For implementers" box.

    Raises:
        UnusableInput: it has no such box.
    """
    cells = json.loads(path.read_text())["cells"]
    text = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    title = re.search(r"^# (.+)$", text, re.M)
    box = re.search(r"^> \*\*For implementers\*\*\n((?:>.*\n?)+)", text, re.M)
    if not title or not box:
        raise UnusableInput(f"{path}: no title or no 'For implementers' box")
    return title[1], re.sub(r"^> ?", "", box[1], flags=re.M).strip()


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="Markdown file to write")
    out = parser.parse_args(argv).out
    parts = [HEAD]
    for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb")):
        if path.stem.startswith("00-"):
            continue
        title, box = rules(path)
        parts.append(f"## {title}\n\n{box}\n\n[The chapter](../notebooks/{path.name})\n")
    out.write_text("\n".join(parts))
    print(f"wrote {out}: {len(parts) - 1} chapters")


if __name__ == "__main__":
    run_command(main)
