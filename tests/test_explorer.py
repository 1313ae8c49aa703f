"""The explorer's arithmetic, run in an engine without a page, against the reference."""

import json

import numpy as np
import pytest
from conftest import MODELS, ROOT
from py_mini_racer import JSEvalException, MiniRacer

from qlinear.engine import run
from qlinear.inputs import load_samples
from qlinear.onnx_model import load
from qlinear.operators import qlinear_conv as qc
from qlinear.operators.qlinear_add import factors, fma, qlinear_add
from tools import explorer_data

SCRIPTS = ROOT / "book" / "static" / "explorer"
IMAGES = [0, 7, 13]
FLOAT = np.finfo(np.float32)

# what the tests call: values go in and come out as JSON, float32 as its bits where -0 counts
HARNESS = """
const { rint, saturate, fma, conv, add, element, tensor } = qlinearInference;
const floats = (words) => new Float32Array(new Uint32Array(words).buffer);
const words = (values) => Array.from(new Uint32Array(new Float32Array(values).buffer));
function rints(values) { return values.map(rint); }
function fmas(a, b, c) {
  [a, b, c] = [a, b, c].map(floats);
  return words(a.map((_, i) => fma(a[i], b[i], c[i])));
}
const whole = (image, name) => Array.from(tensor(book, image, name));
const elements = (choices) => JSON.stringify(choices.map(([image, name, ...at]) =>
  element(book, image, book.byName[name], ...at)));
const only = (data) => qlinearInference.network({ ...data, images: "" });
const oneConv = (data, x) => Array.from(conv(only(data).convs[0], x));
const oneAdd = (node, a, b) => Array.from(add(node, a, b));
function oneElement(data, x, at) {
  const network = only(data);
  network.cache.set("0/x", x);
  return element(network, 0, network.convs[0], ...at);
}
"""


@pytest.fixture(scope="module")
def engine(tmp_path_factory) -> MiniRacer:
    """An engine that holds inference.js and, as ``book``, the network that the site shows."""
    out = tmp_path_factory.mktemp("explorer")
    explorer_data.main(["--out", str(out)])
    engine = MiniRacer()
    engine.eval((SCRIPTS / "inference.js").read_text(encoding="utf-8"))  # before there is a window
    engine.eval("globalThis.window = {};")
    engine.eval((out / "explorer-data.js").read_text())
    engine.eval("const book = qlinearInference.network(window.QLINEAR_EXPLORER);")
    engine.eval(HARNESS)
    return engine


@pytest.fixture(scope="module")
def reference() -> tuple:
    """The book's model and every tensor of the sample images, by the reference."""
    model = load(MODELS / "resnet8_int8.onnx")
    return model, run(model, load_samples()[0].astype(np.float32))


def bits(values: np.ndarray) -> list[int]:
    return np.asarray(values, np.float32).view(np.uint32).tolist()


# --- float32


def test_there_is_no_page_in_the_engine(engine):
    for name in ("document", "atob", "window.document"):
        assert engine.eval(f"typeof {name}") == "undefined"
    with pytest.raises(JSEvalException):  # so that the view cannot have been loaded
        engine.eval((SCRIPTS / "view.js").read_text(encoding="utf-8"))


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


# --- the network of the book


def test_every_tensor_equals_the_reference(engine, reference):
    model, values = reference
    nodes = [node for node in model.nodes if node.op_type in ("QLinearConv", "QLinearAdd")]
    names = json.loads(engine.eval("JSON.stringify(Object.keys(book.byName))"))
    assert len(nodes) == len(names) == 12
    for image in IMAGES:
        x = values[nodes[0].inputs[0]][image]
        assert engine.call("whole", image, "image") == x.ravel().tolist()
        for node, name in zip(nodes, names, strict=True):
            wanted = values[node.outputs[0]][image].ravel().tolist()
            assert engine.call("whole", image, name) == wanted, name


def choices(model, values: dict, rng: np.random.Generator) -> dict[str, list]:
    """Elements of each convolution, (image, m, y, x): opposite corners, others at random."""
    found = {}
    for node in model.of_type("QLinearConv"):
        shape = values[node.outputs[0]].shape[1:]
        corners = [[0, 0, 0], [n - 1 for n in shape]]
        positions = corners + rng.integers(0, shape, (40, 3)).tolist()
        found[node.name] = [[int(rng.choice(IMAGES)), *position] for position in positions]
    return found


def wanted_element(stages: qc.Stages, conv: qc.Conv, at: list) -> dict:
    image, m, y, x = at
    whole, bias = (image, m, y, x), int(conv.bias[m])
    return {
        "sum": int(stages.sums[whole]), "bias": bias, "acc": int(stages.acc[whole]),
        "scale": float(conv.factor[m]),
        "scaled": float(stages.scaled[whole]), "rounded": float(np.rint(stages.scaled[whole])),
        "shifted": float(stages.rounded[whole]), "y": int(stages.y[whole]),
    }  # fmt: skip


def test_every_step_of_an_element_equals_the_reference(engine, reference):
    model, values = reference
    names = json.loads(engine.eval("JSON.stringify(book.convs.map((node) => node.name))"))
    drawn, padded_taps = choices(model, values, np.random.default_rng(0)), 0
    for node, name in zip(model.of_type("QLinearConv"), names, strict=True):
        conv, x = model.conv(node), values[node.inputs[0]]
        stages, geo = qc.stages(x, conv), conv.geometry(x.shape)
        asked = [[image, name, *at] for image, *at in drawn[node.name]]
        for at, found in zip(
            drawn[node.name], json.loads(engine.call("elements", asked)), strict=True
        ):
            taps = found.pop("taps")
            assert found == wanted_element(stages, conv, at), (name, at)
            image, m, *position = at
            running = qc.accumulate_loops(
                stages.padded, conv.x_zero_point, conv.w, conv.w_zero_point, geo, *at[:2],
                tuple(position),
            )  # fmt: skip
            assert [tap["sum"] for tap in taps] == running
            assert [tap["w"] for tap in taps] == conv.w[m].ravel().tolist()
            window = qc.windows(stages.padded[image : image + 1], geo)[0, :, *position]
            assert [tap["x"] for tap in taps] == window.ravel().tolist()
            padded_taps += sum(not tap["inside"] for tap in taps)
    assert padded_taps > 100


# --- layers made up


def made_up(
    rng: np.random.Generator, scales: list, w_max: int, b_max: int
) -> tuple[dict, np.ndarray, qc.Conv]:
    """A small convolution as the page's data, and as the reference's input and record.

    ``scales`` are w_scale (M,), x_scale and y_scale; weights and biases reach the given sizes.
    """
    w_scale, x_scale, y_scale = (np.float32(scale) for scale in scales)
    M, C, kernel = len(w_scale), int(rng.integers(1, 4)), rng.integers(1, 4, 2).tolist()
    zeros = rng.integers(-128, 128, 2, np.int8)
    pads = rng.integers(0, kernel * 2).tolist()
    attributes = {"strides": rng.integers(1, 3, 2).tolist(), "pads": pads}
    args = {
        "x": rng.integers(-128, 128, (1, C, *rng.integers(4, 8, 2)), np.int8),
        "x_scale": x_scale, "x_zero_point": zeros[0],
        "w": rng.integers(-w_max, w_max + 1, (M, C, *kernel), np.int8),
        "w_scale": w_scale, "w_zero_point": np.zeros(M, np.int8),
        "y_scale": y_scale, "y_zero_point": zeros[1],
        "B": rng.integers(-b_max, b_max + 1, M, np.int32),
    }  # fmt: skip
    out = qc.geometry(args["x"].shape, args["w"].shape, **attributes).out
    node = {
        "kind": "conv", "name": "made", "input": "x", "shape": args["w"].shape,
        "w": explorer_data.packed(args["w"]), "B": explorer_data.packed(args["B"]),
        "w_scale": w_scale.tolist(), "x_scale": x_scale.item(), "y_scale": y_scale.item(),
        "x_zero": int(zeros[0]), "y_zero": int(zeros[1]), **attributes,
        "in": args["x"].shape[1:], "out": [M, *out],
    }  # fmt: skip
    x = args.pop("x")
    return {"nodes": [node]}, x, qc.Conv(**args, attributes=attributes)


def compared(
    engine: MiniRacer, rng: np.random.Generator, data: dict, inputs: np.ndarray, conv: qc.Conv
) -> qc.Stages:
    """The stages by the reference, after the engine's outputs were found equal to them."""
    stages, x = qc.stages(inputs, conv), inputs.ravel().tolist()
    assert engine.call("oneConv", data, x) == stages.y.ravel().tolist()
    at = [0, *map(int, rng.integers(0, stages.y.shape[1:]))]
    found = engine.call("oneElement", data, x, at[1:])
    del found["taps"]
    assert found == wanted_element(stages, conv, at)
    return stages


def test_convolutions_whose_outputs_lie_on_ties(engine):
    rng, ties, shifted = np.random.default_rng(0), set(), set()
    for _ in range(300):
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
    for _ in range(200):
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


def test_additions_whose_sums_lie_on_ties(engine):
    every = np.arange(-128, 128, dtype=np.int8)
    A, B = (part.ravel() for part in np.meshgrid(every, every))
    rng, ties = np.random.default_rng(0), 0
    for _ in range(40):
        scales, zeros = scales_for_ties(rng), rng.integers(-128, 128, 3, np.int8)
        parts = [part for pair in zip(scales, zeros, strict=True) for part in pair]
        node = dict(zip("a_scale a_zero b_scale b_zero c_scale c_zero".split(), parts, strict=True))
        node = {name: value.item() for name, value in node.items()}
        wanted = qlinear_add(A, *parts[:2], B, *parts[2:4], *parts[4:])
        assert engine.call("oneAdd", node, A.tolist(), B.tolist()) == wanted.tolist(), node
        ra, rb, fixed = factors(*parts)
        real = fma(ra, A.astype(np.float32), fma(rb, B.astype(np.float32), fixed))
        ties += int((np.abs(real % 1) == 0.5).sum())
    assert ties > 1000


def test_lines_of_the_scripts_are_as_short_as_pythons():
    for name in ("inference.js", "view.js"):
        lines = (SCRIPTS / name).read_text(encoding="utf-8").splitlines()
        assert max(map(len, lines)) <= 100, name
