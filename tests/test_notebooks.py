"""What nbval does not see in the committed chapters; ``make check`` runs this beside nbval."""

import ast
import itertools
import json
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import nbformat
import numpy as np
import pytest
import yaml
from conftest import ROOT
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat.v4 import new_code_cell, new_notebook

from tools import drawing
from tools.chapter import paired_error, with_paired_error
from tools.execute import FOLDED, metadata
from tools.new_chapter import COLAB

CHAPTERS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LONGEST, MEDIAN = 20, 8  # lines of a cell
# results; calibration.json is what models are made of, and marked where it is read with record()
RECORDED = re.compile(
    r"(accuracy|analog|benchmark|conventions|depthwise|hardware|layer_noise|portability|rtl|runtimes)\.json"
)
ADDING = ("add", "append", "extend", "setdefault", "update")  # methods that change their object
SITE = "https://int8-reference.github.io/int8-reference/book/explorer.html"
MARK = "Recorded, not computed on this page"

each_chapter = pytest.mark.parametrize("path", CHAPTERS, ids=lambda p: p.stem)


def source(cell: dict) -> str:
    return "".join(cell["source"])


def lines(cell: dict) -> int:
    return len(source(cell).splitlines())


def code_cells(path: Path) -> list[dict]:
    return [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"]


def folded(cell: dict) -> bool:
    return bool(FOLDED & set(cell["metadata"].get("tags", [])))


def tree(cell: dict) -> ast.Module:
    """A cell's code; a shell line becomes ``pass``."""
    return ast.parse(re.sub(r"^(\s*)!.*", r"\1pass", source(cell), flags=re.M))


@each_chapter
def test_every_cell_was_run_in_order(path):
    # nbval passes a notebook that was never run
    counts = [cell["execution_count"] for cell in code_cells(path)]
    assert counts == list(range(1, len(counts) + 1))
    for cell in code_cells(path):
        assert not {"nbval-skip", "raises-exception"} & set(cell["metadata"].get("tags", []))
        assert cell["metadata"] == metadata(cell["metadata"].get("tags", []))
        for output in cell["outputs"]:
            assert output["output_type"] != "error" and output.get("name") != "stderr"


@each_chapter
def test_cells_are_short_and_introduced(path):
    cells = json.loads(path.read_text())["cells"]
    for before, cell in pairwise(cells):
        if cell["cell_type"] == "code":
            assert lines(cell) <= LONGEST, source(cell)
            if not folded(cell):
                assert before["cell_type"] == "markdown", source(cell)


def test_half_of_the_books_cells_are_very_short():
    shown = [lines(c) for path in CHAPTERS for c in code_cells(path) if not folded(c)]
    assert statistics.median(shown) <= MEDIAN


@each_chapter
def test_a_line_asserts_one_thing(path):
    for cell in code_cells(path):
        for node in ast.walk(tree(cell)):
            if isinstance(node, ast.Assert):
                joined = isinstance(node.test, ast.BoolOp) and isinstance(node.test.op, ast.And)
                assert not joined, ast.unparse(node)


@each_chapter
def test_chapters_start_with_the_same_lines(path):
    assert source(code_cells(path)[0]) == COLAB
    assert "google.colab" not in "".join(source(cell) for cell in code_cells(path)[1:])


# --- computed or recorded


@each_chapter
def test_what_was_recorded_says_so(path):
    tainted: set[str] = set()
    for cell in code_cells(path):
        if follow(tree(cell).body, tainted) and cell["outputs"]:
            assert MARK in json.dumps(cell["outputs"]), source(cell)


@each_chapter
def test_a_section_says_once_where_its_recorded_numbers_come_from(path):
    """The first mark of a file is whole, the others in the section refer to it."""
    said: set[str] = set()
    for cell in json.loads(path.read_text())["cells"]:
        if cell["cell_type"] == "markdown":
            said = set() if re.search(r"^## ", source(cell), re.M) else said
            continue
        texts = ["".join(o.get("data", {}).get("text/markdown", "")) for o in cell["outputs"]]
        for text in (text for text in texts if text.startswith(f"*{MARK}")):
            (file,) = re.findall(r"^\*.*?:\* `models/([^`]+)`", text)
            whole = ", made by " in text
            assert whole == (file not in said), text
            assert whole or text.endswith("`, as above."), text
            said.add(file)


def follow(body: list[ast.stmt], tainted: set[str]) -> bool:
    """Whether statements use recorded numbers; ``tainted``, the names that hold them, is updated.

    A name holds them from the statement that makes it of them until one that makes it of others.
    """
    used = [follow_one(statement, tainted) for statement in body]
    return any(used)


def follow_one(statement: ast.stmt, tainted: set[str]) -> bool:
    if isinstance(statement, ast.FunctionDef):
        outer = tainted - {argument.arg for argument in statement.args.args}
        used = follow(statement.body, outer)
        (tainted.add if used else tainted.discard)(statement.name)
        return used
    names = ("body", "orelse", "finalbody")
    blocks = [block for name in names if isinstance(block := getattr(statement, name, None), list)]
    # of a loop or a condition: its head alone, then what is inside
    heads = [n for n in ast.iter_child_nodes(statement) if isinstance(n, ast.expr | ast.withitem)]
    parts = heads if blocks else [statement]
    used = any(reads(part, tainted) for part in parts)
    for part in parts:
        for name, whole in written(part):
            if used:
                tainted.add(name)
            elif whole:
                tainted.discard(name)
    inside = [follow(block, tainted) for block in blocks]
    return used or any(inside)


def inner_names(node: ast.AST) -> set[str]:
    """Names that only comprehensions and lambdas bind."""
    targets = [part.target for part in ast.walk(node) if isinstance(part, ast.comprehension)]
    inner = {n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name)}
    return inner | {part.arg for part in ast.walk(node) if isinstance(part, ast.arg)}


def reads(node: ast.AST, tainted: set[str]) -> bool:
    """Whether code reads a recorded file, or a name that holds what came from one."""
    names = tainted - inner_names(node)
    for part in ast.walk(node):
        if isinstance(part, ast.Constant) and RECORDED.search(str(part.value)):
            return True
        if isinstance(part, ast.Call) and getattr(part.func, "id", "") == "record":
            return True
        if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Load) and part.id in names:
            return True
    return False


def written(node: ast.AST) -> Iterator[tuple[str, bool]]:
    """Names that code assigns, and whether anew or in part, as by an index or a method."""
    inner = inner_names(node)
    for part in ast.walk(node):
        stores = isinstance(getattr(part, "ctx", None), ast.Store)
        method = part.func if isinstance(part, ast.Call) else None
        if isinstance(part, ast.Name) and stores and part.id not in inner:
            yield part.id, not isinstance(node, ast.AugAssign)
        elif isinstance(part, ast.Subscript) and stores and isinstance(part.value, ast.Name):
            yield part.value.id, False
        elif getattr(method, "attr", "") in ADDING and isinstance(method.value, ast.Name):
            yield method.value.id, False


@pytest.mark.parametrize(
    ("cells", "marked"),
    [
        (["a, mark = record('hardware.json')", "b = 1", "rows = {}\nrows['x'] = a"], [1, 0, 1]),
        (["d = json.loads((MODELS / 'accuracy.json').read_text())", "d = 1", "d"], [1, 0, 0]),
        (["a = record('layer_noise.json')\nfor x in a:\n    y = x", "y", "z"], [1, 1, 0]),
        (["a = record('hardware.json')\ndef f():\n    return a", "f()"], [1, 1]),
        (["r = []\na = record('hardware.json')\nr.append(a)", "[v for v in r]"], [1, 1]),
        (["a = record('hardware.json')", "[a for a in range(3)]", "a"], [1, 0, 1]),
    ],
)
def test_recorded_numbers_are_followed(cells, marked):
    tainted: set[str] = set()
    assert [follow(ast.parse(cell).body, tainted) for cell in cells] == [bool(m) for m in marked]


def test_a_difference_on_the_same_images_has_a_paired_error():
    each = np.array([-1] * 30 + [1] * 10 + [0] * 360)
    assert paired_error(30, 10, 400) == pytest.approx(each.std() / 20)
    assert paired_error(0, 0, 400) == 0  # the same answers: nothing can be by chance
    assert with_paired_error(30, 10, 400) == "−5.00 ± 1.56"
    assert with_paired_error(float("nan"), 0, 400) == ""


# --- assertions


def test_assertions_off_are_refused():
    command = [sys.executable, "-m", "pytest", "-q", "tests/test_notebooks.py", "-k", "executed"]
    for options, setting in (([], {"PYTHONOPTIMIZE": "1"}), (["-O"], {})):
        run = [command[0], *options, *command[1:]]
        env = os.environ | setting
        done = subprocess.run(run, cwd=ROOT, env=env, capture_output=True, text=True)
        assert done.returncode != 0 and "assertions are off" in done.stdout + done.stderr


def test_a_kernel_keeps_its_assertions():
    client = NotebookClient(new_notebook(cells=[new_code_cell("assert False")]))
    with pytest.raises(CellExecutionError, match="AssertionError"):
        client.execute()


# --- what the pages show


@each_chapter
def test_no_machine_shows_in_the_outputs(path):
    for cell in code_cells(path):
        outputs = json.dumps(cell["outputs"])
        assert not re.search(r"/home/|/root/|/work/|/tmp/|0x[0-9a-f]{8}", outputs)


@each_chapter
def test_figures_have_a_picture_a_number_a_caption_and_a_text(path):
    number, figures = int(path.stem[:2]), 0
    for cell in code_cells(path):
        assert "<svg" not in json.dumps(
            [o.get("data", {}).get("text/html") for o in cell["outputs"]]
        )
        for picture, text in pairwise([*cell["outputs"], {}]):
            data = picture.get("data", {})
            if "image/svg+xml" not in data and "image/png" not in data:
                continue
            assert {"image/svg+xml", "image/png", "text/plain"} == set(data)
            figures += 1
            caption = "".join(text["data"]["text/markdown"])
            assert caption.startswith(f"**Figure {number}.{figures}.** ")
            assert len(caption) > 80 and "TODO" not in caption
            assert len("".join(data["text/plain"])) > 60
            assert folded(cell)
    assert figures


# --- the form of a chapter

LESSONS = [path for path in CHAPTERS if not path.stem.startswith("00-")]
each_lesson = pytest.mark.parametrize("path", LESSONS, ids=lambda p: p.stem)


def prose(path: Path) -> str:
    cells = json.loads(path.read_text())["cells"]
    return "\n\n".join(source(cell) for cell in cells if cell["cell_type"] == "markdown")


@each_lesson
def test_a_chapter_opens_with_what_a_reader_asks_first(path):
    cells = json.loads(path.read_text())["cells"]
    opening = source(cells[0])
    parts = (
        rf"^# {int(path.stem[:2])}\. ", r"^\*\*Result\.\*\* ", r"^> \*\*For implementers\*\*$",
        r"^\*\*What you will learn\.\*\* ", r"^\*\*What you need\.\*\* ",
    )  # fmt: skip
    places = [re.search(part, opening, re.M).start() for part in parts]
    assert places == sorted(places)
    # a figure before the first heading
    before = itertools.takewhile(lambda cell: "\n## " not in "\n" + source(cell), cells)
    assert any("image/svg+xml" in json.dumps(cell.get("outputs", [])) for cell in before)


@each_lesson
def test_a_chapter_holds_the_five_things(path):
    text, code = prose(path), "\n".join(source(cell) for cell in code_cells(path))
    outputs = json.dumps([cell["outputs"] for cell in code_cells(path)])
    assert "load(MODELS" in code
    assert re.search(r"<table>.*?scale", outputs) or "scale" in WITHOUT.get(path.stem, ())
    assert re.search(r"^##+ .*by hand", text, re.M)
    assert "INT16" in outputs or "growth" in WITHOUT.get(path.stem, ())
    assert "assert" in code


# what a chapter has no use for
WITHOUT = {
    "01-boundary": ("growth",),  # QuantizeLinear sums nothing
    "13-my-subject": ("growth",),  # the frame of a new chapter
}


@each_lesson
def test_a_chapter_ends_with_summary_exercises_and_a_way_on(path):
    cells = json.loads(path.read_text())["cells"]
    headings = re.findall(r"^## (.+)$", prose(path), re.M)
    assert headings[-3:] == ["Summary", "Exercises", "Where to go next"]
    tasks = []
    for task, solution in pairwise(cells):
        found = re.search(r"^\*\*Exercise (\d+)\.(\d+)\.\*\* ", source(task), re.M)
        if task["cell_type"] == "markdown" and found:
            tasks.append((int(found[1]), int(found[2])))
            assert solution["metadata"]["tags"] == ["hide-cell"]
            assert source(solution).startswith(f"# solution of exercise {found[1]}.{found[2]}\n")
            assert "assert" in source(solution)
    assert tasks == [(int(path.stem[:2]), n) for n in (1, 2, 3)]


@each_chapter
def test_prose_reads_well_without_the_site(path):
    text = prose(path)
    # what only the site's parser knows: roles, directives, labels, links without a text
    assert not re.search(r"\{[a-z:]+\}`|^:::|^```\{|\$\$ \(|^\(.*\)=$|\[\]\(", text, re.M)
    assert "explorer.html" not in text.replace(SITE, "")
    for chapter, section, own in re.findall(r"\bfigure (\d+)\.(\d+)\]\(([^)]*)\)", text):
        assert own.endswith(f"#figure-{chapter}-{section}")


PAGES = [
    page for folder in ("", "book", "data", "examples", "models", "tests")
    for page in sorted((ROOT / folder).glob("*.md"))
]  # fmt: skip


@pytest.mark.parametrize("path", [*CHAPTERS, *PAGES], ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_a_percent_sign_follows_its_number_at_once(path):
    text = path.read_text()
    if path.suffix == ".ipynb":
        # what is read: prose, texts in code, results; not the code's remainders
        cells = code_cells(path)
        said = [n.value for c in cells for n in ast.walk(tree(c)) if isinstance(n, ast.Constant)]
        shown = [
            json.dumps(o.get("data", o), ensure_ascii=False) for c in cells for o in c["outputs"]
        ]
        text = "\n".join([prose(path), *map(str, said), *shown])
    assert not re.findall(r".{,20}\d[ \u00a0\u2009\u202f]%.{,20}", text)


def test_links_into_the_explorer_name_an_element_that_is_there(model, values):
    # as inference.js lays out a tensor: its last axis is x, those before it y and channel
    shapes = {drawing.layer(n): values[n.outputs[0]].shape[1:] for n in model.nodes}
    links = re.findall(rf"{re.escape(SITE)}#([^)]+)\)", "".join(map(prose, CHAPTERS)))
    assert len(links) > 10
    for link in links:
        at = dict(pair.split("=") for pair in link.split("&"))
        assert int(at["image"]) < 20
        shape = (1, 1, *shapes[at["layer"]])[-3:]
        for axis, size in zip(("channel", "y", "x"), shape, strict=True):
            # an axis of several elements is named
            assert int(at.get(axis, 0 if size == 1 else size)) < size, link


# --- the glossary, and the questions


# a term that not every reader knows, by its entry in the glossary
TERMS = {
    "adc": "ADCs?",
    "crossbar": "[Cc]rossbars?",
    "equalization": "[Ee]qualiz(?:ation|ed)",
    "fma": "FMA",
    "golden-vectors": "[Gg]olden vectors?",
    "linear-bottleneck": "[Ll]inear bottlenecks?",
    "mac": "MACs?",
    "qdq": "QDQ",
    "qoperator": "QOperator",
    "sqnr": "SQNR",
    "vnni": "VNNI",
}


@each_chapter
def test_terms_are_linked_from_their_first_use(path):
    whole = prose(path)
    # not in code, in headings, nor (there it may be) in the result, to be read at a glance
    for left_out in (r"^```.*?^```", r"`[^`\n]*`", r"^#+ .*?$"):
        whole = re.sub(left_out, "", whole, flags=re.M | re.S)
    text = re.sub(r"^\*\*Result\.\*\* .*?\n\n", "", whole, count=1, flags=re.M | re.S)
    for entry, term in TERMS.items():
        first = re.search(rf"(?<![\w-])(?:{term})(?![\w-])", text)
        link = re.search(rf"\[[^\]]*\]\(\.\./book/notation\.md#{entry}\)", whole)
        if first:
            assert link, f"{first[0]} is not linked"
            at = first.start() + len(whole) - len(text)
            assert link.start() <= at, f"{first[0]} is used before its link"


def test_the_glossary_has_an_entry_for_each_term():
    text = (ROOT / "book" / "notation.md").read_text()
    entries = [title.lower().replace(" ", "-") for title in re.findall(r"^### (.+)$", text, re.M)]
    assert set(TERMS) <= set(entries)
    assert entries == sorted(entries)


def everything(path: Path) -> str:
    """All of a chapter that can be read: prose, code, and outputs without their pictures."""
    parts = []
    for cell in json.loads(path.read_text())["cells"]:
        parts.append(source(cell))
        for output in cell.get("outputs", []):
            shown = {"text": output.get("text", "")} | output.get("data", {})
            parts += ["".join(text) for kind, text in shown.items() if kind.startswith("text")]
    return "\n".join(parts)


def digits(text: str) -> str:
    """Text on one line, with a hyphen for a minus sign, and nothing between thousands."""
    text = " ".join(text.replace("\N{MINUS SIGN}", "-").replace("*", "").split())
    return re.sub(r"(?<=\d)[,_](?=\d{3})", "", text)


# a small number is found anywhere, so it is taken with the end of its range and with its unit
NUMBER = r"-?\d+(?:\.\d+)?"
QUANTITY = re.compile(rf"(?<![\w.-]){NUMBER}(?: to {NUMBER})?(?: bits| dB)?")


@pytest.mark.parametrize("page", ["questions", "notation"])
def test_numbers_of_the_answers_are_in_the_chapters_that_they_name(page):
    chapters = {path.stem: digits(everything(path)) for path in CHAPTERS}
    text = (ROOT / "book" / f"{page}.md").read_text()
    numbers = 0
    for answer in re.split(r"\n\n(?=\*\*|### )", text)[1:]:
        named = "".join(chapters[name] for name in re.findall(r"notebooks/([\w-]+)\.ipynb", answer))
        words = re.sub(r"\]\([^)]*\)|`[^`]*`", "", answer)
        for found in QUANTITY.findall(digits(words)):
            numbers += 1
            assert re.search(rf"(?<![\d.]){re.escape(found)}(?!\d)", named), (found, answer)
    assert numbers > 30


def test_tables_and_figures_are_made_in_folded_cells():
    for path in LESSONS:
        for cell in code_cells(path):
            if not folded(cell):
                assert "<table" not in json.dumps(cell["outputs"]) or "steps(" in source(cell), (
                    source(cell)
                )


def test_one_repository_is_named():
    url = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]["url"]
    assert f"{url} " in COLAB
    for path in CHAPTERS:
        for found in re.findall(r"https://github\.com/[\w-]+/[\w-]+", path.read_text()):
            assert found in (url, "https://github.com/microsoft/onnxruntime")


def test_every_chapter_is_in_the_contents():
    toc = (ROOT / "_toc.yml").read_text()
    assert all(f"notebooks/{path.stem}" in toc for path in CHAPTERS)


def test_a_new_chapter_already_passes(tmp_path):
    (tmp_path / "_toc.yml").write_text((ROOT / "_toc.yml").read_text())
    command = [sys.executable, "-m", "tools.new_chapter", "13-my-subject", "My subject"]
    command += ["--root", tmp_path]
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
    path = tmp_path / "notebooks" / "13-my-subject.ipynb"
    for check in (
        test_every_cell_was_run_in_order, test_cells_are_short_and_introduced,
        test_a_line_asserts_one_thing, test_chapters_start_with_the_same_lines,
        test_what_was_recorded_says_so, test_no_machine_shows_in_the_outputs,
        test_figures_have_a_picture_a_number_a_caption_and_a_text,
        test_a_chapter_opens_with_what_a_reader_asks_first, test_a_chapter_holds_the_five_things,
        test_a_chapter_ends_with_summary_exercises_and_a_way_on,
        test_prose_reads_well_without_the_site, test_terms_are_linked_from_their_first_use,
    ):  # fmt: skip
        check(path)
    nbformat.validate(nbformat.read(path, as_version=4))
    assert "notebooks/13-my-subject" in (tmp_path / "_toc.yml").read_text()
    again = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert again.returncode == 2 and "exists already" in again.stderr
