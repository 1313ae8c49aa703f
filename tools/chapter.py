"""What the chapters share: paths, prose with computed numbers, listings of the library's code."""

import inspect
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
