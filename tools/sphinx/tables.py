"""Sphinx extension: pandas' tables have one header row, words left, and numbers in one format."""

import re
from pathlib import Path

from bs4 import BeautifulSoup, Tag

from tools.sphinx import is_built, rewrite_pages

TABLE = re.compile(r'<table border="1" class="dataframe">.*?</table>', re.S)
NUMBER = re.compile(r"[+−-]?[\d,]*\.?\d+(e[+−-]?\d+)?( ?(%|×|dB|bits?|KB))?")
NOTHING = re.compile(r"|[—–…-]|none|nan", re.I)


def mended(html: str) -> str:
    """One table, its index named in the corner and its cells with their scope and side."""
    soup = BeautifulSoup(html, "html.parser")
    table = soup.table
    head, body = table.thead.find_all("tr"), table.tbody.find_all("tr")
    levels = max(len(row.find_all("th")) for row in body)  # 0 without an index
    name_the_index(head, levels)
    head = table.thead.find_all("tr")
    for row in head:
        for cell in row.find_all("th"):
            if cell.get_text(strip=True):
                cell["scope"] = "colgroup" if cell.get("colspan", "1") != "1" else "col"
            else:
                cell.name = "td"
    for row in body:
        for cell in row.find_all("th"):
            cell["scope"] = "rowgroup" if cell.get("rowspan", "1") != "1" else "row"
    for cell in table.find_all(["th", "td"]):
        if cell.string:
            cell.string.replace_with(number(cell.string))
    set_sides(head, body, levels)
    for tag in (table, *table.find_all("tr")):
        tag.attrs.pop("border", None)
        tag.attrs.pop("style", None)
    return str(table)


def name_the_index(head: list[Tag], levels: int) -> None:
    """Put the names of the index, which pandas writes in a row of their own, beside the others."""
    if len(head) < 2 or any(cell.get_text(strip=True) for cell in cells(head[-1])[levels:]):
        return
    names = [cell.get_text(strip=True) for cell in cells(head[-1])[:levels]]
    corner = cells(head[-2])[:levels]
    for cell, name in zip(corner, names, strict=True):
        columns = cell.get_text(strip=True)  # the columns' own name stands there already
        cell.string = f"{name} \\ {columns}" if columns and name else name or columns
    head[-1].decompose()


def set_sides(head: list[Tag], body: list[Tag], levels: int) -> None:
    """Mark the cells of columns that hold words: they stand left, numbers right."""
    rows = [cells(row) for row in body]
    width = max(map(len, rows))
    for back in range(1, width - levels + 1):  # from the right: rowspans take cells from the left
        column = [row[-back] for row in rows if len(row) >= back]
        texts = [cell.get_text(strip=True) for cell in column]
        numbers = all(NUMBER.fullmatch(text) or NOTHING.fullmatch(text) for text in texts)
        if not numbers:
            for cell in column + [cells(row)[-back] for row in head[-1:]]:
                cell["class"] = "words"


def cells(row: Tag) -> list[Tag]:
    return row.find_all(["th", "td"])


def number(text: str) -> str:
    """A cell that is a number alone, with commas between thousands and a true minus sign."""
    if not NUMBER.fullmatch(text.strip()):
        return text
    if re.fullmatch(r"[+−-]?\d{4,}", text.strip()):
        text = re.sub(r"\B(?=(\d{3})+$)", ",", text.strip())
    return text.replace("-", "−")


def finish(app, exception: Exception | None) -> None:
    if is_built(app, exception):
        mend = lambda page: TABLE.sub(lambda found: mended(found[0]), page)  # noqa: E731
        rewrite_pages(Path(app.outdir), mend)


def setup(app) -> dict:
    app.connect("build-finished", finish)
    return {"version": "1", "parallel_read_safe": True}
