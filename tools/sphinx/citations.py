"""Sphinx extension: one label for a source, in the text and in the bibliography.

A label is what a reader would say: "Jacob et al. 2018". A source with a name of its own, such as a
standard, says it in the field ``shorthand`` of ``book/references.bib``.
"""

import re
from collections import Counter
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
    """The label of a source of ``book/references.bib``.

    Raises:
        KeyError: there is no such source.
    """
    return labels()[key]


@cache
def labels() -> dict[str, str]:
    """Every source's label, by its key."""
    entries = parse_file(SOURCES).entries
    return {key: named(entry) for key, entry in entries.items()}


def named(entry: Entry) -> str:
    """A label from the names and the year: one name, two, or the first "et al."."""
    if "shorthand" in entry.fields:
        return plain(entry.fields["shorthand"])
    people = entry.persons["author"]
    names = [plain(" ".join(who.prelast_names + who.last_names)) for who in people]
    who = names[0] if len(names) == 1 else " and ".join(names)
    return f"{who if len(names) < 3 else f'{names[0]} et al.'} {entry.fields['year']}"


def plain(tex: str) -> str:
    return str(Text.from_latex(tex))


class Labels(BaseLabelStyle):
    def format_labels(self, sorted_entries: list[Entry]) -> list[str]:
        found = [named(entry) for entry in sorted_entries]
        twice = [name for name, times in Counter(found).items() if times > 1]
        if twice:
            raise ValueError(f"{SOURCES.name}: two sources are {twice[0]}; give one a shorthand")
        return found


class Sorting(BaseSortingStyle):
    def sorting_key(self, entry: Entry) -> str:
        return re.sub(r"[^a-z0-9 ]", "", named(entry).lower())


class Style(PlainStyle):
    default_label_style = Labels
    default_sorting_style = Sorting


def setup(app) -> dict:
    register_plugin("pybtex.style.formatting", "book", Style)
    return {"version": "1", "parallel_read_safe": True}
