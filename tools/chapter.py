"""What the chapters share: paths, prose with computed numbers, listings of the library's code."""

import inspect
import json
import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
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
        return f"{value.item():.9g}"
    return f"{value.item():,}" if value.dtype.kind in "iu" else str(value.item())


def record(name: str, beside: str = "") -> tuple[dict, Markdown]:
    """A file of recorded numbers in ``models/``, and the mark that every output from it carries.

    Args:
        beside: for a file in another's format, which has no room for it: the file that the same run
            made, and that says where both come from.
    """
    data = json.loads((MODELS / name).read_text())
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
        f"from {models} with {versions}."
    )
    return data, Markdown(mark)
