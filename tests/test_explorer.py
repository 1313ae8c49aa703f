"""The explorer's data, and its arithmetic in an engine without a page, against the reference."""

import base64
import json
import shlex
from collections import Counter
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from conftest import MODELS
from fuzz_verdict import inputs
from py_mini_racer import MiniRacer
from random_graphs import qdq, qoperator

from qlinear import explain, explore, oracle, ort
from qlinear.errors import UnusableInput
from qlinear.fuse import Network
from qlinear.hardware import accumulators
from qlinear.inputs import load_samples
from qlinear.onnx_model import from_proto, load
from qlinear.operators import arithmetic as ar
from qlinear.operators import qlinear_conv as qc
from qlinear.operators.qgemm import as_conv
from qlinear.operators.qlinear_add import a_is_constant, factors, fma, qlinear_add
from tools import explorer_data

IMAGES = [0, 7, 13]
FLOAT = np.finfo(np.float32)

# what the tests call: values go in and come out as JSON, float32 as its bits where -0 counts
HARNESS = """
const Q = qlinearInference, pages = {};
const floats = (words) => new Float32Array(new Uint32Array(words).buffer);
const words = (values) => Array.from(new Uint32Array(new Float32Array(values).buffer));
const rints = (values) => values.map(Q.rint);
function fmas(a, b, c) {
  [a, b, c] = [a, b, c].map(floats);
  return words(a.map((_, i) => Q.fma(a[i], b[i], c[i])));
}
const unpack = (stored) => Array.from(Q.unpacked(stored)).map(String);
function open(name, data) { pages[name] = Q.network(JSON.parse(data)); return name; }
function layer(name, run, node) {
  const page = pages[name];
  return Q.layer(page, page.data.runs[run], page.byName[node]);
}
function whole(name, run, node, what) {
  const swept = Q.sweep(layer(name, run, node), what ?? {});
  while (!swept.step(1000));
  return JSON.stringify({ ...swept, values: Array.from(swept.values) });
}
const elements = (name, choices, what) => JSON.stringify(choices.map(([run, node, i]) =>
  Q.element(layer(name, run, node), i, what ?? {})));
const switches = (name, node) => Q.switches(layer(name, 0, node));
function field(name, node, box) {
  const page = pages[name];
  return Q.field(page, page.data.runs[0], page.byName[node].tensor, box);
}
"""


class Engine(MiniRacer):
    """An engine that holds inference.js, and pages by name."""

    def __init__(self):
        super().__init__()
        self.eval((explore.FOLDER / "inference.js").read_text(encoding="utf-8"))
        self.eval(HARNESS)

    def open(self, name: str, data: dict) -> None:
        self.call("open", name, json.dumps(data))

    def whole(self, name: str, run: int, node: str, what: dict | None = None) -> dict:
        return json.loads(self.call("whole", name, run, node, what))

    def elements(self, name: str, choices: list, what: dict | None = None) -> list[dict]:
        return json.loads(self.call("elements", name, choices, what))


@pytest.fixture(scope="module")
def site() -> dict:
    return explorer_data.site_data()


@pytest.fixture(scope="module")
def engine(site) -> Engine:
    """An engine that holds the site's network as the page ``book``."""
    engine = Engine()
    engine.open("book", site)
    return engine


@pytest.fixture(scope="module")
def network() -> Network:
    model = load(MODELS / "resnet8_int8.onnx")
    return oracle.settle(model, {"image": load_samples()[0][:1].astype(np.float32)})


@pytest.fixture(scope="module")
def values(network) -> list[dict[str, np.ndarray]]:
    """Every tensor of IMAGES, by ONNX Runtime."""
    images = load_samples()[0].astype(np.float32)
    return [explore.ort_values(network, {"image": images[i : i + 1]}) for i in IMAGES]


def alone(op_type: str, inputs: dict, y: np.ndarray, *, domain: str = "", **attributes):
    """A network of one operator that ran, as far as the explorer reads it."""
    proto = ort.operator_model(op_type, inputs, domain=domain, **attributes)
    model = from_proto(proto)
    network = Network(model, model, ort.Settings(), ())
    (name,) = model.inputs
    return network, {name: np.asarray(inputs[name]), "y": y}


def page(network: Network, *values: dict[str, np.ndarray]) -> dict:
    return explore.page_data(network, [explore.Run(v, "run") for v in values])


def bits(values: np.ndarray) -> list[int]:
    return np.asarray(values, np.float32).view(np.uint32).tolist()


# --- float32


def test_there_is_no_page_in_the_engine(engine):
    for name in ("window", "document", "atob"):
        assert engine.eval(f"typeof {name}") == "undefined"


def test_rint_takes_ties_to_even(engine):
    ties = np.arange(-2000, 2001) / 2
    near = np.concatenate([np.nextafter(ties, -np.inf), ties, np.nextafter(ties, np.inf)])
    large = np.float64([2**23 - 0.5, 2**23 + 1, -(2**23) + 0.5, 2**31 + 0.5, -(2**31) - 1.5])
    values = np.concatenate([near, near.astype(np.float32), large])
    assert engine.call("rints", values.tolist()) == np.rint(values).tolist()
    assert engine.call("rints", [-2.5, -1.5, -0.5, 0.5, 1.5, 2.5]) == [-2, -2, 0, 0, 2, 2]


def random_triples(rng: np.random.Generator) -> np.ndarray:
    """Finite float32 of every exponent, zeros and subnormal numbers among them: (3, n)."""
    triples = rng.integers(0, 2**32, (3, 20_000), dtype=np.uint32).view(np.float32)
    triples = triples[:, np.isfinite(triples).all(axis=0)]
    triples[:, :50] *= rng.integers(0, 2, (3, 50))
    return triples


def cancelling_triples(rng: np.random.Generator) -> np.ndarray:
    """c near -a * b, where most of the product cancels: (3, n)."""
    a, b = rng.normal(size=(2, 20_000)).astype(np.float32)
    c = (-a * b) * (1 + rng.integers(-4, 5, a.size) * FLOAT.eps)
    return np.stack([a, b, c.astype(np.float32)])


def tying_triples(rng: np.random.Generator) -> np.ndarray:
    """a * b half way between two float32, c near or below float64's resolution of it: (3, n)."""
    a = rng.integers(2**12, 2**13, 20_000) | 1
    b = rng.integers(2**12, 2**13, 20_000) | 1
    ties = a * b >= 2**24
    ties &= a * b < 2**25  # an odd integer of 25 bits lies half way between two float32
    a, b = a[ties], b[ties]
    tiny = np.ldexp(rng.uniform(0.5, 1, a.size), rng.integers(-60, -26, a.size))
    signs = rng.choice([-1, 1], (2, a.size))
    shift = np.ldexp(1.0, rng.integers(-20, 21, (2, a.size)))
    return np.stack(
        [signs[0] * a * shift[0], b * shift[1], signs[1] * tiny * shift[0] * shift[1]]
    ).astype(np.float32)


def near_ties(rng: np.random.Generator) -> np.ndarray:
    """c + a * b beside the middle of two float32, by less than float64 keeps: (3, n)."""
    e = np.ldexp(1.0, -rng.integers(9, 12, 20_000))
    d = e / 2**7
    above, below = [1 + e, 1 - e + e * e], [1 + d, 1 - d]  # products 1 + e**3 and 1 - d**2
    a, b = np.where(rng.choice([True, False], e.size), above, below)
    c = rng.integers(2**23, 2**24, e.size) * rng.choice([-1, 1], e.size)
    return np.stack([a * rng.choice([-0.5, 0.5], e.size), b, c]).astype(np.float32)


def test_fma_rounds_once(engine):
    rng = np.random.default_rng(0)
    kinds = (random_triples, cancelling_triples, tying_triples, near_ties)
    triples = np.hstack([kind(rng) for kind in kinds])
    with np.errstate(over="ignore"):
        wanted = fma(*triples)
        twice = (triples[0].astype(np.float64) * triples[1] + triples[2]).astype(np.float32)
        plain = triples[0] * triples[1] + triples[2]
    assert engine.call("fmas", *map(bits, triples)) == bits(wanted)
    # the triples tell a single rounding from rounding the float64 sum, and from float32 throughout
    assert (wanted != twice).sum() > 1000 and (wanted != plain).sum() > 1000


# --- the data


def unpacked(pair: list) -> np.ndarray:
    kind, data = pair
    return np.frombuffer(base64.b64decode(data), np.dtype(kind).newbyteorder("<"))


@pytest.mark.parametrize(
    ("array", "kind"),
    [
        (np.arange(-128, 128, dtype=np.int8), "int8"),
        (np.arange(256, dtype=np.uint8), "uint8"),
        (np.int64([0, 255]), "uint8"),
        (np.int64([-1, 255]), "int16"),
        (np.int32([-(2**31), 2**31 - 1]), "int32"),
        (np.uint32([2**32 - 1]), "float64"),
        (np.int64([-(2**53), 2**53]), "float64"),
        (np.int64([2**53 + 1]), "text"),
        (np.float32([0, 1, 255]), "uint8"),
        (np.float32([-0.0, 1]), "float32"),
        (np.float32([0.1, np.nan, np.inf]), "float32"),
        (np.float64([0.1]), "float64"),
        (np.float16([0.1]), "float32"),
        (np.array([0.1], ml_dtypes.bfloat16), "float32"),
        (np.array([-8, 7], ml_dtypes.int4), "int8"),
        (np.array([True, False]), "int8"),
        (np.array(["a", "b"], object), "text"),
        (np.complex64([1j]), "text"),
        (np.zeros((0, 3), np.float32), "int8"),
        (np.array(5, np.int8), "int8"),
    ],
)
def test_values_are_stored_exactly_in_the_narrowest_type(engine, array, kind):
    pair = explore.stored(array)
    assert pair[0] == kind
    quoted = sum(len(text) + 3 for text in pair[1]) if kind == "text" else len(pair[1])
    assert explore.stored_size(array) == quoted
    texts = engine.call("unpack", pair)
    if kind == "text":
        assert texts == pair[1] == [str(v) for v in array.ravel()]
        return
    wide = array.astype(np.float64).ravel()
    assert unpacked(pair).astype(np.float64).tobytes() == wide.tobytes()
    read = np.float64([text.replace("Infinity", "inf") for text in texts])
    assert np.array_equal(read, wide, equal_nan=True)


@pytest.mark.parametrize("count", range(7))
def test_base64_of_any_length_is_read(engine, count):
    array = np.arange(200, 200 + count, dtype=np.uint8)
    assert engine.call("unpack", explore.stored(array)) == [str(v) for v in array]
    assert explore.stored_size(array) == len(explore.stored(array)[1])


def test_a_page_is_one_file_and_no_name_breaks_it(site):
    data = {**site, "model": "</script><!--<script>"}
    html = explore.html(data, title="<b> & more")
    assert "<title>&lt;b&gt; &amp; more</title>" in html
    assert html.count("</script>") == html.count("<script>") == len(explore.SCRIPTS) + 3
    assert "http:" not in html and "https:" not in html and "<!--" not in html
    found = html.split("window.QLINEAR_EXPLORER = ")[1].split(";\n</script>")[0]
    assert json.loads(found) == json.loads(json.dumps(data))


def test_pictures():
    pixels = np.arange(2 * 5 * 3, dtype=np.float32).reshape(1, 2, 5, 3)
    assert (explore.picture(pixels) == pixels[0]).all()
    assert (explore.picture(pixels.transpose(0, 3, 1, 2)) == pixels[0]).all()
    assert explore.picture(pixels[..., :1]).shape == (2, 5)
    real = np.float32([[[[-2, 0], [1, 3]]]])
    assert explore.picture(real).tolist() == [[0, 102], [153, 255]]
    assert explore.picture(pixels[0]) is None and explore.picture(pixels[:, :, :, :2]) is None
    assert explore.picture(np.full((1, 3, 4, 4), np.nan, np.float32)) is None


def test_nodes_have_names_of_their_own_and_those_that_commands_take(site):
    names = [node["name"] for node in site["nodes"]]
    assert names[:4] == ["image", "stem", "block1_conv1", "block1_conv2"]
    assert len(set(names)) == len(names) == 17
    network, values = alone("Identity", {"x": np.float32([1])}, np.float32([1]))
    (node,) = network.graph.nodes
    twins = tuple(replace(node, outputs=(f"y{i}",)) for i in range(2))
    network = replace(network, graph=replace(network.graph, nodes=twins))
    made = explore.page_data(network, [explore.Run(values, "run")], named=lambda name: "same")
    assert [n["name"] for n in made["nodes"]] == [n["argument"] for n in made["nodes"]]
    assert [n["argument"] for n in made["nodes"]] == ["y0", "y1"]


def test_what_is_not_wanted_is_listed_without_values(network, values):
    node = network.graph.node("stem_quant")
    data = explore.page_data(network, [explore.Run(values[0], "run")], only=[node])
    assert {n["name"] for n in data["nodes"] if n["steps"]} == {"stem_quant"}
    assert set(data["runs"][0]["values"]) == {"image_quantized", "stem_out_quantized"}
    assert set(data["constants"]) == {n for n in node.inputs if n in network.graph.constants}
    with pytest.raises(UnusableInput, match="no run"):
        explore.page_data(network, [])


# --- every node


def test_every_tensor_of_the_book_equals_ort(engine, site, values):
    for node in site["nodes"]:
        for index, image in enumerate(IMAGES):
            found = engine.whole("book", image, node["name"])
            wanted = values[index][node["outputs"][0]]
            assert found["values"] == wanted.ravel().tolist(), node["name"]
            assert (found["differing"], found["first"]) == (0, -1)


def choices(shape: tuple, rng: np.random.Generator, count: int = 40) -> np.ndarray:
    """Positions: opposite corners, others at random."""
    ends = np.int64([[0] * len(shape), [n - 1 for n in shape]])
    return np.concatenate([ends, rng.integers(0, shape, (count, len(shape)))])


def check_element(found: dict, x: np.ndarray, conv: qc.Conv, at: np.ndarray) -> int:
    """Hold an element to qlinear.explain; returns how many taps lie in the padding."""
    n, m, *position = map(int, at)
    worked = explain.work(x, conv, n, m, tuple(position))
    taps, stages = found["taps"], {s["key"]: s["value"] for s in found["stages"]}
    wanted = {
        "sum": worked.running[-1], "bias": worked.bias, "acc": worked.acc, "factor": worked.factor,
        "scaled": worked.scaled, "rounded": worked.rounded, "shifted": worked.shifted,
        "y": worked.y,
    }  # fmt: skip
    if conv.B is None:
        del wanted["bias"], wanted["acc"]
    assert stages == {k: float(v) for k, v in wanted.items()}
    assert found["y"] == worked.y
    for key, array in (
        ("x", worked.patch), ("a", worked.x_terms), ("w", worked.kernel), ("b", worked.w_terms),
        ("product", worked.products), ("sum", worked.running),
    ):  # fmt: skip
        assert [tap[key] for tap in taps] == array.ravel().tolist()
    inside = [tap for tap in taps if tap["inside"]]
    assert [x.ravel()[tap["at"]] for tap in inside] == [tap["x"] for tap in inside]
    assert [conv.w.ravel()[tap["weight"]] for tap in taps] == worked.kernel.ravel().tolist()
    return len(taps) - len(inside)


def test_every_step_of_an_element_equals_the_reference(engine, network, values):
    rng, padded = np.random.default_rng(0), 0
    for node in network.graph.of_type("QLinearConv"):
        conv, name = network.graph.conv(node), explorer_data.short(node.name)
        x, y = values[1][node.inputs[0]], values[1][node.outputs[0]]
        positions = choices(y.shape, rng)
        asked = [[IMAGES[1], name, int(np.ravel_multi_index(at, y.shape))] for at in positions]
        for at, found in zip(positions, engine.elements("book", asked), strict=True):
            padded += check_element(found, x, conv, at)
    assert padded > 100


def test_every_node_of_random_graphs_equals_ort(engine):
    seen = Counter()
    for seed in range(160):
        proto, _ = (qdq if seed % 2 else qoperator)(seed)
        model, rng = from_proto(proto), np.random.default_rng(seed)
        feeds = inputs(model, rng)
        try:
            network = oracle.settle(model, feeds)
        except UnusableInput:
            continue  # ONNX Runtime refuses it
        values = explore.ort_values(network, feeds)
        data = page(network, values)
        engine.open("random", data)
        assert len({node["name"] for node in data["nodes"]}) == len(data["nodes"])
        for shown, node in zip(data["nodes"], network.graph.nodes, strict=True):
            assert network.node(*shlex.split(shown["argument"])) is node
            if not shown["steps"]:
                assert shown["why"]
                continue
            y = values[node.outputs[0]]
            found = engine.whole("random", 0, shown["name"])
            assert np.array_equal(found["values"], y.ravel()), (seed, shown)
            assert found["differing"] == 0 and found["done"] == y.size
            seen[shown["steps"]["kind"]] += 1
            if node.op_type == "QLinearConv":
                conv, x = network.graph.conv(node), values[node.inputs[0]]
                at = choices(y.shape, rng, 2)[-1]
                asked = [[0, shown["name"], int(np.ravel_multi_index(at, y.shape))]]
                check_element(engine.elements("random", asked)[0], x, conv, at)
                seen.update(features(conv, x))
            seen["swapped"] += bool(shown["steps"].get("swapped"))
    kinds = "conv dense add pool quantize dequantize copy".split()
    kinds += "uint8 w_zero_point group strides padding no_bias swapped".split()
    assert min(seen[kind] for kind in kinds) >= 5, seen


def features(conv: qc.Conv, x: np.ndarray) -> list[str]:
    geo = conv.geometry(x.shape)
    found = {
        "uint8": x.dtype == np.uint8, "w_zero_point": np.any(conv.w_zero_point),
        "group": geo.group > 1,
 "strides": max(geo.strides) > 1,
        "padding": max(geo.begin) > 0, "no_bias": conv.B is None,
    }  # fmt: skip
    return [name for name, is_so in found.items() if is_so]


# --- layers made up


def made_up(
    rng: np.random.Generator, scales: list, w_max: int, b_max: int
) -> tuple[np.ndarray, qc.Conv]:
    """A small convolution and its input.

    ``scales`` are w_scale (M,), x_scale and y_scale; weights and biases reach the given sizes.
    """
    w_scale, x_scale, y_scale = (np.float32(scale) for scale in scales)
    M, C, kernel = len(w_scale), int(rng.integers(1, 4)), rng.integers(1, 4, 2).tolist()
    zeros = rng.integers(-128, 128, 2, np.int8)
    conv = qc.Conv(
        x_scale=x_scale, x_zero_point=zeros[0],
        w=rng.integers(-w_max, w_max + 1, (M, C, *kernel), np.int8),
        w_scale=w_scale, w_zero_point=rng.integers(-9, 10, M, np.int8) * (w_max > 1),
        y_scale=y_scale, y_zero_point=zeros[1], B=rng.integers(-b_max, b_max + 1, M, np.int32),
        attributes={
            "strides": rng.integers(1, 3, 2).tolist(), "dilations": rng.integers(1, 3, 2).tolist(),
            "pads": rng.integers(0, kernel * 2).tolist(),
        },
    )  # fmt: skip
    return rng.integers(-128, 128, (1, C, *rng.integers(5, 9, 2)), np.int8), conv


def conv_page(x: np.ndarray, conv: qc.Conv) -> dict:
    names = "x_scale x_zero_point w w_scale w_zero_point y_scale y_zero_point B".split()
    inputs = {"x": x, **{name: getattr(conv, name) for name in names}}
    y = qc.stages(x, conv).y
    return page(*alone("QLinearConv", inputs, y, **conv.attributes))


def compared(engine: Engine, rng: np.random.Generator, x: np.ndarray, conv: qc.Conv) -> qc.Stages:
    """The stages by the reference, after the engine's outputs were found equal to them."""
    engine.open("made", conv_page(x, conv))
    stages = qc.stages(x, conv)
    assert engine.whole("made", 0, "node")["values"] == stages.y.ravel().tolist()
    at = rng.integers(0, stages.y.shape)
    asked = [[0, "node", int(np.ravel_multi_index(at, stages.y.shape))]]
    check_element(engine.elements("made", asked)[0], x, conv, at)
    return stages


def test_convolutions_whose_outputs_lie_on_ties(engine):
    rng, ties, shifted = np.random.default_rng(0), set(), set()
    for _ in range(200):
        # halves, quarters, …: products of the accumulator that float32 holds
        w_scale = np.ldexp(1.0, -rng.integers(1, 13, int(rng.integers(1, 5))))
        largest = int(rng.choice([1, 127]))  # small weights put outputs on every tie near 0
        stages = compared(engine, rng, *made_up(rng, [w_scale, 1, 1], largest, largest))
        kept = stages.scaled[stages.rounded == stages.y]
        ties |= set(kept[kept % 1 == 0.5].tolist())
        shifted |= set(stages.rounded.ravel().tolist())
    # on these ties half up, half down and half away from zero each go another way
    assert {-2.5, -1.5, -0.5, 0.5, 1.5, 2.5} <= ties
    assert min(shifted) < -128 and max(shifted) > 127


def test_convolutions_whose_accumulators_pass_float32(engine):
    rng, rounded = np.random.default_rng(0), 0
    for _ in range(120):
        w_scale = rng.uniform(0.5, 2, int(rng.integers(1, 5)))
        scales = [w_scale, rng.uniform(2**-24, 2**-22), rng.uniform(0.5, 2)]
        acc = compared(engine, rng, *made_up(rng, scales, 127, 2**30)).acc
        rounded += int((acc != acc.astype(np.float32).astype(np.int64)).sum())
    assert rounded > 1000


def scales_for_ties(rng: np.random.Generator) -> np.ndarray:
    """A_scale, B_scale and C_scale whose sums come to lie on and beside ties: float32 (3,)."""
    c = np.float32(rng.uniform(0.01, 1))
    a, b = rng.integers(1, 8, 2) / rng.choice([4, 6, 7], 2)
    return np.float32([c * np.float32(a), c * np.float32(b), c])


def add_inputs(A: np.ndarray, B: np.ndarray, scales: np.ndarray, zeros: np.ndarray) -> dict:
    return {
        "A": A, "A_scale": scales[0], "A_zero_point": zeros[0],
        "B": B, "B_scale": scales[1], "B_zero_point": zeros[1],
        "C_scale": scales[2], "C_zero_point": zeros[2],
    }  # fmt: skip


def test_additions_whose_sums_lie_on_ties(engine):
    every = np.arange(-128, 128, dtype=np.int8)
    A, B = (part.ravel() for part in np.meshgrid(every, every))
    rng, ties = np.random.default_rng(0), 0
    for _ in range(12):
        inputs = add_inputs(A, B, scales_for_ties(rng), rng.integers(-128, 128, 3, np.int8))
        wanted = qlinear_add(*inputs.values())
        engine.open("add", page(*alone("QLinearAdd", inputs, wanted, domain="com.microsoft")))
        assert engine.whole("add", 0, "node")["values"] == wanted.tolist(), inputs
        ra, rb, fixed = factors(*(v for k, v in inputs.items() if k not in "AB"))
        real = fma(ra, A.astype(np.float32), fma(rb, B.astype(np.float32), fixed))
        ties += int((np.abs(real % 1) == 0.5).sum())
    assert ties > 1000


# --- what if, against NumPy


def round_otherwise(values: np.ndarray, what: dict) -> np.ndarray:
    if what.get("round") == "floor":
        return np.floor(values)
    if what.get("round") == "up":
        whole = np.floor(values)
        return whole + (values - whole >= 0.5)
    return np.rint(values)


def finish(scaled: np.ndarray, zero: np.ndarray, what: dict) -> np.ndarray:
    """From the real numbers on; ``scaled`` is float32, or float64 where that is what if."""
    zero_point = scaled.dtype.type(zero)
    before = what.get("zero") == "before"
    y = round_otherwise(scaled + zero_point, what) if before else (
        round_otherwise(scaled, what) + zero_point
    )  # fmt: skip
    return ar.saturate(y, np.asarray(zero).dtype)


def conv_otherwise(x: np.ndarray, conv: qc.Conv, what: dict) -> np.ndarray:
    geo = conv.geometry(x.shape)
    zero = np.zeros_like(conv.x_zero_point) if what.get("pad") == "0" else conv.x_zero_point
    padded = qc.pad(x, zero, geo)
    sums = qc.accumulate(padded, conv.x_zero_point, conv.w, conv.w_zero_point, geo)
    acc = qc.add_bias(sums, conv.B)
    if what.get("acc") == "wrap":
        acc = accumulators.wrap(acc, 16)
    if what.get("acc") == "saturate":
        columns = qc.patches(ar.centred(padded, conv.x_zero_point), geo)[:, 0]
        rows = ar.centred(conv.w, conv.w_zero_point).reshape(len(conv.w), -1)
        acc = accumulators.saturating_sum(columns, rows, conv.bias, 16).reshape(acc.shape)
    scaled = ar.rescale(acc, conv.factor)
    if what.get("factor") == "float64":
        wide = [np.asarray(s, np.float64) for s in (conv.x_scale, conv.w_scale, conv.y_scale)]
        scaled = acc * ar.per_channel(wide[0] * wide[1] / wide[2], acc.ndim)
    return finish(scaled, conv.y_zero_point, what)


def add_otherwise(inputs: dict, what: dict) -> np.ndarray:
    A, sa, za, B, sb, zb, sc, zc = inputs.values()
    if a_is_constant(A.shape, B.shape):
        A, sa, za, B, sb, zb = B, sb, zb, A, sa, za
    after = what.get("added") == "after"
    inside, outside = (zc * 0, zc) if after else (zc, zc * 0)
    if what.get("factor") == "float64":
        ra, rb = float(sa) / float(sc), float(sb) / float(sc)
        fixed = float(inside) - (ra * float(za) + rb * float(zb))
        real = ra * A.astype(np.float64) + (rb * B.astype(np.float64) + fixed)
    else:
        ra, rb, fixed = factors(sa, za, sb, zb, sc, inside)
        real = fma(ra, A.astype(np.float32), fma(rb, B.astype(np.float32), fixed))
    return ar.saturate(round_otherwise(real, what) + np.float64(outside), zc.dtype)


CHOICES = {
    "pad": "0", "acc": ("wrap", "saturate"), "factor": "float64", "round": ("up", "floor"),
    "zero": "before", "added": "after", "scale": "multiply",
}  # fmt: skip


def single_and_mixed(rng: np.random.Generator, keys: list[str], mixed: int) -> list[dict]:
    """Every choice alone, and some of them together."""
    every = {k: [v] if isinstance(v, str) else list(v) for k, v in CHOICES.items() if k in keys}
    found = [{key: value} for key, values in every.items() for value in values]
    for _ in range(mixed):
        some = [key for key in every if rng.random() < 0.6]
        found.append({key: str(rng.choice(every[key])) for key in some})
    return found


def check_what(engine: Engine, name: str, run: int, node: str, what: dict, wanted, ort) -> int:
    """Hold a layer otherwise computed to NumPy's; returns how many elements differ from ORT's."""
    found = engine.whole(name, run, node, what)
    wanted, ort = wanted.ravel().astype(np.int64), ort.ravel().astype(np.int64)
    assert found["values"] == wanted.tolist(), (node, what)
    assert found["differing"] == (wanted != ort).sum()
    assert found["largest"] == np.abs(wanted - ort).max()
    # the element on its own is the layer's
    index = max(found["first"], 0)
    assert engine.elements(name, [[run, node, index]], what)[0]["y"] == wanted[index]
    return found["differing"]


def test_what_if_on_the_books_layers_equals_numpy(engine, network, values):
    rng, changed = np.random.default_rng(0), Counter()
    graph, v, run = network.graph, values[0], IMAGES[0]
    for node in graph.nodes:
        name, y = explorer_data.short(node.name), v[node.outputs[0]]
        keys = engine.call("switches", "book", name)
        if not keys:
            assert node.op_type in ("Flatten", "DequantizeLinear")
            continue
        arguments = graph.arguments(node)
        for what in single_and_mixed(rng, keys, 1):
            if node.op_type == "QLinearConv":
                wanted = conv_otherwise(v[node.inputs[0]], graph.conv(node), what)
            elif node.op_type == "QGemm":
                conv = as_conv(*(arguments[k] for k in graph.names(node) if k != "A"), transB=1)
                x = v[node.inputs[0]][:, :, None, None]
                wanted = conv_otherwise(x, conv, what)
            elif node.op_type == "QLinearAdd":
                given = {k: arguments.get(k, v.get(n)) for k, n in graph.names(node).items()}
                wanted = add_otherwise(given, what)
            elif node.op_type == "QLinearGlobalAveragePool":
                wanted = pool_otherwise(v[node.inputs[0]], arguments, what)
            else:
                assert node.op_type == "QuantizeLinear"
                wanted = quantize_otherwise(v[node.inputs[0]], arguments, what)
            for key in what if len(what) == 1 else ():
                changed[key] += check_what(engine, "book", run, name, what, wanted, y)
            if len(what) != 1:
                check_what(engine, "book", run, name, what, wanted, y)
    # padding, rounding and a narrow accumulator change this network; where the rest does not, the
    # layers made up below do
    assert min(changed[key] for key in ("pad", "acc", "round")) > 0, changed


def pool_otherwise(x: np.ndarray, arguments: dict, what: dict) -> np.ndarray:
    """As a convolution of each channel by ones."""
    scale, below = arguments["x_scale"], arguments["y_scale"]
    pixels = x[0, 0].size
    terms = ar.centred(x, arguments["x_zero_point"]).reshape(-1, 1, pixels)
    acc = terms.sum(axis=2)
    if what.get("acc") == "wrap":
        acc = accumulators.wrap(acc, 16)
    if what.get("acc") == "saturate":
        rows = np.ones((1, pixels), np.int32)
        acc = accumulators.saturating_sum(
            terms.transpose(0, 2, 1), rows, np.zeros(1, np.int32), 16
        )[:, :, 0]
    scaled = acc.astype(np.float32) * np.float32(scale / (below * np.float32(pixels)))
    if what.get("factor") == "float64":
        scaled = acc * (np.float64(scale) / (np.float64(below) * pixels))
    return finish(scaled, arguments["y_zero_point"], what)


def quantize_otherwise(x: np.ndarray, arguments: dict, what: dict) -> np.ndarray:
    scale = arguments["y_scale"]
    scaled = x * (np.float32(1) / scale) if what.get("scale") else x / scale
    return finish(scaled, arguments["y_zero_point"], what)


def test_what_if_on_layers_made_up_equals_numpy(engine):
    rng, changed = np.random.default_rng(0), Counter()
    for trial in range(40):
        scales = [np.ldexp(1.0, -rng.integers(1, 13, 3)), 1, 1]  # outputs on ties
        if trial % 2:  # on ties in float32 only: the factor of the first channel is a power of two
            w_scale, x_scale = rng.uniform(0.5, 1, (2, 3)).astype(np.float32)
            scales = [w_scale, x_scale[0], w_scale[0] * x_scale[0] * np.float32(2**10)]
        x, conv = made_up(rng, scales, 127, int(rng.choice([100, 30_000])))
        data, y = conv_page(x, conv), qc.stages(x, conv).y
        engine.open("made", data)
        keys = engine.call("switches", "made", "node")
        assert ("pad" in keys) == any(has_padding(x, conv))
        for what in single_and_mixed(rng, keys, 4):
            wanted = conv_otherwise(x, conv, what)
            count = check_what(engine, "made", 0, "node", what, wanted, y)
            changed.update(dict.fromkeys(what.items(), count) if len(what) == 1 else {})
    for _ in range(20):
        A, B = rng.integers(-128, 128, (2, 500), np.int8)
        inputs = add_inputs(A, B, scales_for_ties(rng), rng.integers(-128, 128, 3, np.int8))
        y = qlinear_add(*inputs.values())
        engine.open("add", page(*alone("QLinearAdd", inputs, y, domain="com.microsoft")))
        for what in single_and_mixed(rng, ["factor", "round", "added"], 4):
            count = check_what(engine, "add", 0, "node", what, add_otherwise(inputs, what), y)
            changed.update({("add", *item): count for item in what.items()})
        x = (rng.integers(-256, 256, 500) / np.float32(2) * inputs["A_scale"]).astype(np.float32)
        parts = {"x": x, "y_scale": inputs["A_scale"], "y_zero_point": inputs["A_zero_point"]}
        y = ar.saturate(np.rint(x / parts["y_scale"]) + np.float32(parts["y_zero_point"]), np.int8)
        engine.open("quantize", page(*alone("QuantizeLinear", parts, y)))
        for what in single_and_mixed(rng, ["round", "zero", "scale"], 4):
            wanted = quantize_otherwise(x, parts, what)
            count = check_what(engine, "quantize", 0, "node", what, wanted, y)
            changed.update({("quantize", *item): count for item in what.items()})
    assert changed and min(changed.values()) > 0, changed


def has_padding(x: np.ndarray, conv: qc.Conv) -> list[bool]:
    """Whether a window reaches past the input, at the begin and at the end of each axis."""
    geo = conv.geometry(x.shape)
    last = [(o - 1) * s + k for o, s, k in zip(geo.out, geo.strides, geo.spans, strict=True)]
    ends = [e - b > n for e, b, n in zip(last, geo.begin, x.shape[2:], strict=True)]
    return [*(b > 0 for b in geo.begin), *ends]


# --- where an element looks


def test_what_an_element_does_not_see_does_not_change_it(engine, network):
    rng, image = np.random.default_rng(0), load_samples()[0][:1].astype(np.float32)
    names = [n for n in network.graph.nodes if n.op_type in ("QLinearConv", "QLinearAdd")]
    before = explore.ort_values(network, {"image": image})
    smaller = 0
    for node in names:
        y = before[node.outputs[0]]
        for at in choices(y.shape, rng, 2):
            _, m, row, column = map(int, at)
            box = {"top": row, "bottom": row, "left": column, "right": column}
            seen = engine.call("field", "book", explorer_data.short(node.name), box)
            inside = np.zeros((32, 32), bool)
            inside[seen["top"] : seen["bottom"] + 1, seen["left"] : seen["right"] + 1] = True
            other = np.where(inside, image, rng.integers(0, 256, image.shape)).astype(np.float32)
            after = explore.ort_values(network, {"image": other})[node.outputs[0]]
            assert (after[0, m, row, column] == y[0, m, row, column]).all()
            smaller += not inside.all()
    assert smaller > 20
    stem = engine.call("field", "book", "stem", {"top": 9, "bottom": 9, "left": 0, "right": 0})
    assert stem == {"tensor": "image", "top": 8, "bottom": 10, "left": 0, "right": 1}
    assert engine.call("field", "book", "flatten", box) is None


def test_lines_of_the_scripts_are_as_short_as_pythons():
    for path in explore.FOLDER.glob("*.js"):
        lines = path.read_text(encoding="utf-8").splitlines()
        long = [number for number, line in enumerate(lines, 1) if len(line) > 100]
        assert not long, (path.name, long)
