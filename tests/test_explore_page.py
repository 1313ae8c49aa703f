"""The explorer of one's own model: the command's page, what is in it, and in a browser."""

import html
import json
import re
import shutil

import numpy as np
import onnx
import pytest
from conftest import MODELS, QUANTIZED, quantizes
from fuzz_verdict import inputs
from onnx import TensorProto, helper
from random_graphs import qdq, qoperator
from test_cli import BOOK, qlinear, refused
from test_explorer import Engine, unpacked
from test_verdict import made

from qlinear import explore_page, oracle, ort
from qlinear.cli import main
from qlinear.errors import Refused, UnusableInput
from qlinear.inputs import Feed, load_samples, read_feeds
from qlinear.onnx_model import Model, from_proto, load


def data_of(page: str) -> dict:
    found = page.split("window.QLINEAR_EXPLORER = ")[1].split(";\n</script>")[0]
    return json.loads(found) if found[0] == "{" else json.loads(json.loads(found[11:-1]))


def page_of(model: Model, feeds: dict, **options) -> explore_page.Page:
    return explore_page.page(model, [Feed(feeds, "given")], [None], **options)


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine()


def check_values(engine: Engine, page: explore_page.Page, model: Model, feeds: dict) -> int:
    """Every value is ONNX Runtime's, and what the page computes equals it; returns how many nodes.

    Tensors are asked for one by one, each in a session of its own.
    """
    data = data_of(page.text)
    (run,) = data["runs"]
    network = oracle.settle(model, feeds)
    for node in network.graph.nodes:
        for name in filter(None, node.outputs):
            session = oracle.open_graph(network, [name])
            theirs = oracle.outputs(network.file, session, feeds, [name])[name]
            found = unpacked(run["values"][name]).reshape(data["tensors"][name]["shape"])
            nan = theirs.dtype.kind == "f"
            assert np.array_equal(found, theirs.astype(found.dtype), equal_nan=nan)
    engine.open("page", data)
    stepped = [node["name"] for node in data["nodes"] if node["steps"]]
    for name in stepped:
        assert engine.whole("page", 0, name)["differing"] == 0
    return len(stepped)


# --- what is in a page


@pytest.mark.parametrize("name", QUANTIZED)
def test_the_command_writes_one_small_page(name, tmp_path, engine, capsys):
    out = tmp_path / "page.html"
    assert main(["explore", str(MODELS / f"{name}.onnx"), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "17 of 17 nodes, 17 of them step by step; from sample image 0" in said
    text = out.read_text()
    assert len(text) < 1_000_000 and [p.name for p in tmp_path.iterdir()] == ["page.html"]
    (run,) = data_of(text)["runs"]
    assert run["name"] == "sample image 0" and run["picture"].startswith("data:image/png")
    model = load(MODELS / f"{name}.onnx")
    page = explore_page.show(model)
    assert page.computed == check_values(engine, page, model, read_feeds(model)[0].values) == 17


@quantizes
def test_a_qdq_file_shows_the_network_that_runs(qdq, engine):
    model = load(qdq)
    feeds = read_feeds(model)[0].values
    page = page_of(model, feeds)
    assert check_values(engine, page, model, feeds) == page.computed >= 15


@pytest.mark.parametrize("make", [qdq, qoperator])
def test_any_graph_makes_a_page_with_onnxruntimes_values(make, engine):
    stepped = 0
    for seed in range(6):
        model = from_proto(make(seed)[0])
        feeds = inputs(model, np.random.default_rng(seed))
        try:
            oracle.settle(model, feeds)
        except Refused:
            continue
        page = page_of(model, feeds)
        assert page.with_values == page.nodes
        stepped += check_values(engine, page, model, feeds)
    assert stepped > 10


def test_a_float_model_shows_values_only(capsys, tmp_path):
    out = tmp_path / "page.html"
    assert main(["explore", str(MODELS / "resnet8.onnx"), "--out", str(out)]) == 0
    nodes = data_of(out.read_text())["nodes"]
    assert {n["steps"]["kind"] for n in nodes if n["steps"]} == {"copy"}
    assert "no steps of Conv" in {n["op"]: n["why"] for n in nodes}["Conv"]


def test_several_images_are_several_runs(tmp_path, engine):
    out = tmp_path / "page.html"
    assert main(["explore", str(BOOK), "--images", "3", "--out", str(out)]) == 0
    data = data_of(out.read_text())
    assert [run["name"] for run in data["runs"]] == [f"sample image {i}" for i in range(3)]
    # a command makes the first one by itself; none has the others
    assert [run["arguments"] for run in data["runs"]] == ["", None, None]
    values = ort.tensors(load(BOOK), load_samples()[0][:3].astype(np.float32))
    for name in ("logits_quantized", "stem_out_quantized"):
        for i, run in enumerate(data["runs"]):
            assert (unpacked(run["values"][name]) == values[name][i].ravel()).all()


def test_inputs_by_name_and_in_the_command_that_the_page_gives(tmp_path):
    model = made(
        [helper.make_node("QLinearAdd", ["a", "s", "z", "b", "s", "z", "s", "z"], ["y"],
                          domain="com.microsoft")],
        {"a": (TensorProto.UINT8, [1, 4]), "b": (TensorProto.UINT8, [1, 4])},
        {"y": (TensorProto.UINT8, None)},
        {"s": np.float32(0.5), "z": np.uint8(3)},
    )  # fmt: skip
    path, out = tmp_path / "two inputs.onnx", tmp_path / "page.html"
    onnx.save(onnx.load_from_string(model.source), path)
    np.save(tmp_path / "a.npy", np.uint8([[1, 2, 3, 250]]))
    given = ["--input", f"a={tmp_path / 'a.npy'}"]
    assert main(["explore", str(path), *given, "--out", str(out)]) == 0
    data = data_of(out.read_text())
    (run,) = data["runs"]
    assert run["arguments"] == f"--input a={tmp_path / 'a.npy'}" and run["picture"] == ""
    assert "a from" in run["name"] and "random values with seed 0 for b" in run["name"]
    assert unpacked(run["values"]["a"]).tolist() == [1, 2, 3, 250]
    assert data["model"] == f"'{path}'"  # quoted for a shell


# --- what is not in it


def test_what_does_not_fit_is_named_and_can_be_had(tmp_path, capsys):
    out = tmp_path / "page.html"
    assert main(["explore", str(BOOK), "--limit", "0.05", "--out", str(out)]) == 0
    said, text = capsys.readouterr().out, out.read_text()
    note = re.search(r"^note: (.+)$", said, re.M)[1]
    assert re.match(r"\d+ of 17 nodes have no values in this page", note)
    assert "--node NAME" in note and html.escape(note) in text
    data = data_of(text)
    empty = [n for n in data["nodes"] if n["outputs"][0] not in data["runs"][0]["values"]]
    assert 0 < len(empty) < 17
    assert all(n["steps"] is None and "not in this page" in n["why"] for n in empty)
    assert len(json.dumps(data["runs"]).encode()) < 60_000
    node = empty[0]["argument"]
    assert main(["explore", str(BOOK), "--limit", "0.05", "--node", node, "--out", str(out)]) == 0
    (shown,) = [n for n in data_of(out.read_text())["nodes"] if n["steps"]]
    assert shown["argument"] == node


def test_a_tensor_that_onnxruntime_changes_when_asked_is_left_out(monkeypatch):
    """Such a session would show what the file does not compute."""
    model, true = load(BOOK), oracle.outputs
    bad = "block1_conv1_out_quantized"

    def outputs(model, session, feeds, names=None):
        found = true(model, session, feeds, names)
        if bad in found:
            found = {k: v + (k == "logits") for k, v in found.items()}
        return found

    monkeypatch.setattr(oracle, "outputs", outputs)
    page = explore_page.show(model)
    (note,) = page.notes
    assert bad in note and "not unchanged" in note and note in html.unescape(page.text)
    data = data_of(page.text)
    (run,) = data["runs"]
    assert bad not in run["values"] and "stem_out_quantized" in run["values"]
    around = [n for n in data["nodes"] if bad in (*n["outputs"], *n["inputs"].values())]
    assert len(around) == 2 and not any(n["steps"] for n in around)


def test_what_is_not_repeated_is_refused():
    model = made(
        [helper.make_node("RandomNormalLike", ["x"], ["y"])],
        {"x": (TensorProto.FLOAT, [8])}, {"y": (TensorProto.FLOAT, None)}, {},
    )  # fmt: skip
    with pytest.raises(UnusableInput, match="computes another y every time"):
        explore_page.show(model)


@pytest.mark.parametrize("alpha", [float("nan"), float("inf"), -0.3])
def test_a_factor_that_is_no_number_is_no_step(alpha, engine):
    model = made(
        [helper.make_node("QGemm", ["x", "s", "z", "w", "s", "z", "", "s", "z"], ["y"],
                          domain="com.microsoft", alpha=alpha)],
        {"x": (TensorProto.UINT8, [2, 3])}, {"y": (TensorProto.UINT8, None)},
        {"s": np.float32(0.5), "z": np.uint8(3), "w": np.arange(6, dtype=np.uint8).reshape(3, 2)},
    )  # fmt: skip
    feeds = {"x": np.arange(6, dtype=np.uint8).reshape(2, 3)}
    page = page_of(model, feeds)
    (node,) = data_of(page.text)["nodes"]
    assert ("alpha is" in node["why"]) == (not np.isfinite(alpha))
    assert page.computed == check_values(engine, page, model, feeds) == int(np.isfinite(alpha))


def pair(op_type: str, a_scale: float, y_scale: float) -> Model:
    """An operator of com.microsoft or ONNX on two 8-bit tensors, the second a constant."""
    names = ["x", "s", "z", "w", "s", "z", "t", "z"]
    domain = "" if op_type == "QLinearMatMul" else "com.microsoft"
    constants = {"s": np.float32(a_scale), "t": np.float32(y_scale), "z": np.uint8(3)}
    return made(
        [helper.make_node(op_type, names, ["y"], domain=domain)],
        {"x": (TensorProto.UINT8, [3, 3])}, {"y": (TensorProto.UINT8, None)},
        constants | {"w": np.arange(9, dtype=np.uint8).reshape(3, 3)},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("op_type", "scales", "why"),
    [
        ("QLinearMatMul", (3e38, 1), "its factor is no finite float32"),
        ("QLinearMatMul", (0.5, 1), ""),
        ("QLinearAdd", (1, 1e-9), "may pass an int32"),
        ("QLinearAdd", (1, 1e-6), ""),
    ],
)
def test_scales_too_far_apart_for_the_page(op_type, scales, why, engine):
    model = pair(op_type, *scales)
    feeds = {"x": np.arange(9, dtype=np.uint8).reshape(3, 3)}
    page = page_of(model, feeds)
    (node,) = data_of(page.text)["nodes"]
    assert why in node["why"]
    assert page.computed == check_values(engine, page, model, feeds) == (not why)


def test_a_node_that_is_asked_for_twice_is_there_once():
    page = page_of(load(BOOK), read_feeds(load(BOOK))[0].values, nodes=["stem_quant"] * 2)
    assert (page.with_values, page.nodes) == (1, 17) and "16 of 17 nodes" in page.notes[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--out", BOOK], "would replace"),
        (["--out", "no/such/folder/page.html"], "nothing was written"),
        (["--out", "x.html", "--limit", "0"], "more than 0"),
        (["--out", "x.html", "--limit", "nan"], "more than 0"),
        (["--out", "x.html", "--node", "nobody"], "nobody"),
        (["--out", "x.html", "--images", "99"], "99 images"),
    ],
)
def test_what_cannot_be_used_gets_one_line(options, message):
    before = BOOK.read_bytes()
    assert message in refused("explore", BOOK, *options)
    assert BOOK.read_bytes() == before


# --- in a browser

NASTY = "</script><img src=x onerror=document.title='taken'>\u2028\"'`${1}&lt;\n--><!--"


def nasty(path):
    """The book's model, with names that break out of a page that does not escape them."""
    proto = onnx.load(BOOK)
    proto.graph.node[1].name = NASTY
    old = proto.graph.node[1].output[0]
    for node in proto.graph.node:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                if name == old:
                    names[i] = NASTY
    del proto.graph.value_info[:]
    onnx.save(proto, path)


def test_the_page_works_alone_and_offline(tmp_path, browser, model):
    path, out = tmp_path / "<b>model.onnx", tmp_path / "page.html"
    nasty(path)
    done = qlinear("explore", path, "--out", out)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1
    shutil.move(out, tmp_path / "elsewhere.html")
    context = browser.new_context(offline=True)
    tab = context.new_page()
    asked, errors = [], []
    tab.on("request", lambda request: asked.append(request.url))
    tab.on("pageerror", lambda error: errors.append(str(error)))
    address = (tmp_path / "elsewhere.html").as_uri()
    tab.goto(f"{address}#image=0&layer=block1_conv1_quant&channel=5&y=10&x=12")
    equal = tab.locator(".explorer-verdict-row.equal .verdict")
    equal.wait_for()
    y = ort.tensors(model, load_samples()[0][:1].astype(np.float32))["block1_conv1_out_quantized"]
    shown = str(y[0, 5, 10, 12]).replace("-", "−")
    assert equal.inner_text().split()[0] == shown and "equal" in equal.inner_text()
    option = tab.locator("option", has_text="onerror")
    tab.locator("select", has=option).select_option(value=option.get_attribute("value"))
    tab.wait_for_function("location.hash.includes('onerror')")
    equal.wait_for()
    assert "<b>model.onnx" in tab.title() and "<b>" in tab.locator("h1").inner_text()
    assert tab.locator("img[src=x]").count() == 0
    assert asked == [address] and errors == []


def opened(browser, page: explore_page.Page, path):
    path.write_text(page.text, encoding="utf-8")
    tab = browser.new_page()
    tab.errors = []
    tab.on("pageerror", lambda error: tab.errors.append(str(error)))
    tab.goto(path.as_uri())
    return tab


COLOURS = """() => {
  const inside = getComputedStyle(document.querySelector(".explorer"));
  const names = ["ink", "ground", "more"].map((name) => `--explorer-${name}`);
  const page = getComputedStyle(document.body);
  return [...names.map((name) => inside.getPropertyValue(name).trim()), page.backgroundColor];
}"""
LIGHT = ["#23282f", "#fff", "#1f6aa5", "rgb(255, 255, 255)"]
DARK = ["#ced6dd", "#14181e", "#6fb7ee", "rgb(20, 24, 30)"]


def test_the_page_is_as_dark_as_the_system(browser, tmp_path):
    page = page_of(load(BOOK), read_feeds(load(BOOK))[0].values, nodes=["stem_quant"])
    tab = opened(browser, page, tmp_path / "page.html")
    tab.locator(".explorer-verdict-row").first.wait_for()
    for scheme, colours in (("dark", DARK), ("light", LIGHT), ("dark", DARK)):
        tab.emulate_media(color_scheme=scheme)
        tab.wait_for_function(f"document.documentElement.dataset.theme === '{scheme}'")
        assert tab.evaluate(COLOURS) == colours
    tab.reload()  # from the first paint
    tab.locator(".explorer-verdict-row").first.wait_for()
    assert tab.evaluate(COLOURS) == DARK
    tab.close()


def test_tensors_may_have_the_names_of_javascripts_own(browser, tmp_path, engine):
    x, y = "__proto__", "constructor"
    model = made(
        [helper.make_node("QLinearAdd", [a, "s", "z", x, "s", "z", "s", "z"], [b], name=a,
                          domain="com.microsoft") for a, b in ((x, y), (y, "toString"))],
        {x: (TensorProto.UINT8, [3])}, {"toString": (TensorProto.UINT8, None)},
        {"s": np.float32(0.5), "z": np.uint8(3)},
    )  # fmt: skip
    feeds = {x: np.uint8([4, 5, 6])}
    page = page_of(model, feeds)
    assert check_values(engine, page, model, feeds) == 2
    tab = opened(browser, page, tmp_path / "page.html")
    for name, shown in ((x, "7 = equal"), (y, "9 = equal")):
        tab.locator(".explorer-nodes select").select_option(name)
        tab.wait_for_function(f"location.hash.includes('layer={name}')")
        assert tab.locator(".explorer-verdict-row .verdict").inner_text() == shown
    assert tab.errors == []
    tab.close()


def test_what_has_no_values_or_no_elements_says_so(browser, tmp_path):
    """A sequence, and tensors without elements, beside each other: both can be walked to."""
    nodes = [
        ("SplitToSequence", ["x"], "q"),
        ("SequenceLength", ["q"], "n"),
        ("Slice", ["x", "two", "two"], "e"),
        ("QuantizeLinear", ["e", "s", "z"], "y"),
    ]
    model = made(
        [helper.make_node(op, ins, [out]) for op, ins, out in nodes],
        {"x": (TensorProto.FLOAT, [4, 3])},
        {
            n: (getattr(TensorProto, kind), None)
            for n, kind in (("n", "INT64"), ("y", "UINT8"), ("e", "FLOAT"))
        },
        {"two": np.int64([2]), "s": np.float32(0.5), "z": np.uint8(3)},
    )
    page = page_of(model, {"x": np.ones((4, 3), np.float32)})
    assert (page.with_values, page.computed) == (4, 0)
    tab = opened(browser, page, tmp_path / "page.html")
    for start, end, why in (("n", "q", "no values in this page"), ("y", "e", "no elements")):
        tab.locator(".explorer-nodes select").select_option(start)
        tab.locator(".explorer-tables button").click()
        assert tab.locator(".explorer-nodes select").input_value() == end
        assert tab.locator(".explorer-out figcaption").inner_text() == f"{end}: {why}"
        assert tab.locator(".explorer-steps").inner_text() == ""
        assert tab.locator(".explorer-note[role=status]").inner_text() == ""
    assert tab.errors == []
    tab.close()


def test_a_notebook_shows_it_in_a_frame(browser, model):
    x = load_samples()[0][:1].astype(np.float32)
    start = "layer=block1_conv1_quant&channel=5&y=10&x=12"
    frame = explore_page.show(model, x, start=start)._repr_html_()
    assert frame.startswith("<iframe") and frame.count("<") == 2
    tab = browser.new_context(offline=True).new_page()
    errors = []
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.set_content(frame)
    inside = tab.frame_locator("iframe")
    equal = inside.locator(".explorer-verdict-row.equal .verdict")
    equal.wait_for()
    y = ort.tensors(model, x)["block1_conv1_out_quantized"]
    assert equal.inner_text().split()[0] == str(y[0, 5, 10, 12]).replace("-", "−")
    assert inside.locator("h1").inner_text() == "resnet8_int8.onnx" and errors == []
