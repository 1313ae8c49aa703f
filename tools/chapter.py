"""What the chapters share: paths, prose with computed numbers, listings of the library's code."""

import html
import inspect
import json
import re
import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
from IPython import get_ipython
from IPython.display import Markdown

ROOT = Path(__file__).resolve().parents[1]
MODELS = ROOT / "models"


def say(text: str) -> Markdown:
    """Prose whose numbers the cell computed: Markdown from an f-string."""
    return Markdown(textwrap.dedent(text).strip())


def listing(*functions) -> Markdown:
    """The source code of library functions, as it runs."""
    code = "\n\n".join(inspect.getsource(function).strip() for function in functions)
    return Markdown(f"```python\n{code}\n```")


def steps(rows: list[tuple]) -> pd.DataFrame:
    """A worked example as a table of step, value and type; the type is read off the value."""
    table = [(name, exact(value), np.asarray(value).dtype.name) for name, value in rows]
    return pd.DataFrame(table, columns=["step", "value", "dtype"]).set_index("step")


def exact(value) -> str:
    """A number as text that reads back as the same number: float32 with 9 significant digits."""
    value = np.asarray(value)
    if value.dtype == np.float32:
        return f"{value.item():,.9g}"
    return f"{value.item():,}" if value.dtype.kind in "iu" else str(value.item())


def record(name: str, beside: str = "", within: str = "") -> tuple[dict, Markdown]:
    """A file of recorded numbers in ``models/``, and the mark that every output from it carries.

    Args:
        beside: for a file in another's format, which has no room for it: the file that the same run
            made, and that says where both come from.
        within: a part of the file, measured by itself, as "network.samples"; it is returned.
    """
    data = json.loads((MODELS / name).read_text())
    for key in filter(None, within.split(".")):
        data = data[key]
    source = json.loads((MODELS / beside).read_text())["recorded"] if beside else data["recorded"]
    models = ", ".join(f"`{file}` ({digest[:8]})" for file, digest in source["models"].items())
    versions = ", ".join(f"{module} {version}" for module, version in source["versions"].items())
    images = source.get("data")
    on = (
        f", on {images['images']:,} images ({images['note']}, {images['sha256'][:8]})"
        if images
        else ""
    )
    mark = (
        f"*Recorded, not computed on this page:* `models/{name}`, made by `{source['script']}`{on} "
        f"{f'from {models} ' if models else ''}with {versions}."
    )
    return data, Markdown(mark)


def again(mark: Markdown) -> Markdown:
    """The mark of one more output of a section in which the whole mark stands already."""
    file = re.search(r"`models/[^`]*`", mark.data)[0]
    return Markdown(f"*Recorded, not computed on this page:* {file}, as above.")


# --- recorded accuracies


def paired_error(lost, gained, images: int):
    """Of the difference of two accuracies (shares of 1) on the same images.

    An image that only one has right counts -1 (``lost`` of them) or 1 (``gained``), any other 0;
    the difference is the mean of these, and this their standard deviation by the root of n.
    """
    return np.sqrt(lost + gained - (lost - gained) ** 2 / images) / images


def with_paired_error(lost: float, gained: float, images: int, places: int = 2) -> str:
    """What an accuracy is above another on the same images, and its standard error, in points."""
    apart, error = 100 * (gained - lost) / images, 100 * paired_error(lost, gained, images)
    shown = f"{apart:+.{places}f} ± {error:.{places}f}".replace("-", "−")
    return "" if np.isnan(apart) else shown


# --- tables


def cell_text(value) -> str:
    """A table's entry as text: thousands apart, a true minus sign, nothing for what is missing."""
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, int | np.integer):
        return f"{value:,}".replace("-", "−")
    if isinstance(value, float | np.floating):
        return "" if np.isnan(value) else f"{value:.6g}".replace("-", "−")
    text = str(value)
    return f"−{text[1:]}" if text.startswith("-") and is_number(text) else text


def is_number(text: str) -> bool:
    """Whether an entry reads as a number, perhaps with a unit sign: it is set to the right."""
    return bool(text) and text.lstrip("−-+≤≥<>±").replace(",", "")[:1].isdigit()


def html_table(frame: pd.DataFrame) -> str:
    """A data frame as an HTML table: one header row, numbers to the right, text to the left.

    pandas' own has a second, empty header row where the index has a name, and sets text right.
    An index without a name that counts 0, 1, 2, … is left out.
    """
    names = frame.index.names
    named = list(names) != [None]
    if named or list(frame.index) != list(range(len(frame))):
        frame = frame.reset_index(names=None if named else "")
        labels = frame.columns[: len(names)]
    else:
        labels = frame.columns[:0]
    texts = [[cell_text(value) for value in frame.iloc[:, i]] for i in range(frame.shape[1])]
    sides = ["right" if all(not t or is_number(t) for t in column) else "left" for column in texts]
    sides[: len(labels)] = ["left"] * len(labels)

    def entry(tag: str, text: str, side: str) -> str:
        return f'<{tag} style="text-align:{side}">{html.escape(text)}</{tag.split()[0]}>'

    tags = ['th scope="row"' if i < len(labels) else "td" for i in range(len(texts))]
    head = [
        entry('th scope="col"' if str(name) else "td", str(name), side)
        for name, side in zip(frame.columns, sides, strict=True)
    ]
    body = [
        "<tr>" + "".join(entry(*parts) for parts in zip(tags, row, sides, strict=True)) + "</tr>"
        for row in zip(*texts, strict=True)
    ]
    return (
        f"<table>\n<thead><tr>{''.join(head)}</tr></thead>\n<tbody>\n"
        + "\n".join(body)
        + "\n</tbody></table>"
    )


shell = get_ipython()
if shell:  # every table of a chapter is shown so
    shell.display_formatter.formatters["text/html"].for_type(pd.DataFrame, html_table)
