"""Sphinx extension: docstrings on the API page, with what our sources say in their own way.

A record's fields are explained by the comment at the end of each line, and a module's formulas are
indented; autodoc sees neither.
"""

import inspect
import re
from dataclasses import is_dataclass

# name: type = default  # what it is
FIELD = re.compile(r"^    (\w+): [^#\n]+  # (.+)$", re.M)


def described(kind: str, thing: object, lines: list[str]) -> list[str]:
    """A docstring's lines as autodoc should read them.

    Args:
        kind: autodoc's word for the thing, such as "class".
    """
    if kind == "class" and is_dataclass(thing):
        fields = FIELD.findall(inspect.getsource(thing))
        rows = [f"    {name}: {text}" for name, text in fields]
        return [*lines, "", "Attributes:", *rows, ""] if rows else lines
    if kind == "module":
        return re.sub(r"\n\n(?=    )", "\n\n::\n\n", "\n".join(lines)).split("\n")
    return lines


def setup(app) -> dict[str, bool]:
    def process(app, kind, name, thing, options, lines) -> None:
        lines[:] = described(kind, thing, lines)

    app.connect("autodoc-process-docstring", process, priority=100)  # before napoleon
    return {"parallel_read_safe": True}
