"""Sphinx extension: one label for a source, "Jacob et al. 2018", in the text and in the list."""

import string
from functools import cache
from pathlib import Path

from pybtex.database import Entry, parse_file
from pybtex.plugin import register_plugin
from pybtex.richtext import Text
from pybtex.style.formatting.plain import Style as PlainStyle
from pybtex.style.labels import BaseLabelStyle
from pybtex.style.sorting import BaseSortingStyle

SOURCES = Path(__file__).resolve().parents[2] / "book" / "references.bib"


def label(key: str) -> str:
    """The label of a source, which is the text of every link to it.

    Raises:
        KeyError: it is not in ``book/references.bib``.
    """
    return labels()[key]


@cache
def labels() -> dict[str, str]:
    """Every source's label, by its key; a letter tells those of one author and year apart."""
    entries = sorted(parse_file(SOURCES).entries.items(), key=lambda item: item[1].fields["title"])
    found: dict[str, list[str]] = {}
    for key, entry in entries:
        found.setdefault(named(entry), []).append(key)
    return {
        key: name + (letter if len(keys) > 1 else "")
        for name, keys in found.items()
        for key, letter in zip(keys, string.ascii_lowercase, strict=False)
    }


def named(entry: Entry) -> str:
    """The authors and the year: one name, two, or the first "et al."."""
    people = [" ".join(who.prelast_names + who.last_names) for who in entry.persons["author"]]
    names = [str(Text.from_latex(name)) for name in people]
    who = " and ".join(names) if len(names) < 3 else f"{names[0]} et al."
    return f"{who} {entry.fields['year']}"


class Labels(BaseLabelStyle):
    def format_labels(self, sorted_entries: list[Entry]) -> list[str]:
        return [label(entry.key) for entry in sorted_entries]


class Sorting(BaseSortingStyle):
    def sorting_key(self, entry: Entry) -> str:
        return label(entry.key).lower()


class Style(PlainStyle):
    default_label_style = Labels
    default_sorting_style = Sorting


def setup(app) -> dict[str, str | bool]:
    register_plugin("pybtex.style.formatting", "book", Style)
    return {"version": "1", "parallel_read_safe": True}
