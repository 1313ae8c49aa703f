"""The committed models: remade byte for byte, described truly, and of the promised topology."""

import hashlib
import json
import re

import jsonschema
import numpy as np
import pytest
from conftest import MOBILENETS, MODELS, QUANTIZED, ROOT, main_of, quantizes

from qlinear.errors import UnusableInput
from qlinear.inputs import read_feeds
from qlinear.onnx_model import load
from qlinear.validate import validate
from study import quantize

STORED = {
    "resnet8": ("resnet8.onnx", "calibration.json", "layer_noise.json"),
    "mobilenet": ("mobilenet.onnx", quantize.MOBILE_RANGES, quantize.MOBILE_EQUALIZED_RANGES),
}
# the JSON of each network's accuracies, by the start of its file's name
ACCURACY = {"resnet8": "accuracy.json", "mobilenet": "mobilenet_accuracy.json"}


def accuracies(name: str) -> list[dict]:
    """The rows of the file that has this model's accuracy."""
    return json.loads((MODELS / ACCURACY[name.split("_")[0]]).read_text())["models"]


@quantizes
@pytest.mark.parametrize(("network", "names"), [("resnet8", QUANTIZED), ("mobilenet", MOBILENETS)])
def test_quantized_models_are_remade_byte_for_byte(tmp_path, network, names):
    for name in STORED[network]:
        (tmp_path / name).write_bytes((MODELS / name).read_bytes())
    main_of("quantize_onnx.py")(["--models", str(tmp_path), "--network", network])
    for name in names:
        made = (tmp_path / f"{name}.onnx").read_bytes()
        assert made == (MODELS / f"{name}.onnx").read_bytes(), name


@pytest.mark.parametrize("missing", STORED["mobilenet"])
def test_what_a_mobilenet_is_made_of_is_asked_for(tmp_path, missing):
    for name in set(STORED["mobilenet"]) - {missing}:
        (tmp_path / name).write_bytes((MODELS / name).read_bytes())
    with pytest.raises(UnusableInput, match=missing):
        main_of("quantize_onnx.py")(["--models", str(tmp_path), "--network", "mobilenet"])
    assert not list(tmp_path.glob("*_int8_*"))
    with pytest.raises(UnusableInput, match="--output-int8 is for resnet8"):
        main_of("quantize_onnx.py")(["--network", "mobilenet", "--output-int8", "x.onnx"])


def test_the_documented_names_of_the_arguments_work(tmp_path):
    for name in STORED["resnet8"]:
        (tmp_path / name).write_bytes((MODELS / name).read_bytes())
    out = tmp_path / "mine.onnx"
    quantize_main = main_of("quantize_onnx.py")
    quantize_main(["--model", str(tmp_path / "resnet8.onnx"), "--output-int8", str(out)])
    assert out.read_bytes() == (MODELS / "resnet8_int8.onnx").read_bytes()
    listed = tmp_path / "mine.json"
    main_of("extract_operations.py")(["--model", str(out), "--output", str(listed)])
    found = json.loads(listed.read_text())
    assert found["scales"]["stem_quant"]["x_scale"] == 1.0
    assert found["zero_points"]["stem_quant"]["x_zero_point"] == -128
    kinds = found["quantization"]
    assert kinds["stem_quant"] == "per-channel" and kinds["block1_conv1_quant"] == "per-tensor"


def test_operations_json_is_remade_and_follows_its_schema(tmp_path):
    out = tmp_path / "operations.json"
    main_of("extract_operations.py")([str(MODELS / "resnet8_int8.onnx"), "--out", str(out)])
    committed = MODELS / "resnet8_int8_operations.json"
    assert out.read_bytes() == committed.read_bytes()
    schema = json.loads((MODELS / "operations.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    checker = jsonschema.Draft202012Validator(schema)
    document = json.loads(committed.read_text())
    checker.validate(document)
    del document["nodes"][1]["inputs"][1]["value"]  # a scale without its value
    assert not checker.is_valid(document)


def test_operations_json_holds_the_models_values(model):
    document = json.loads((MODELS / "resnet8_int8_operations.json").read_text())
    assert [n["name"] for n in document["nodes"]] == [n.name for n in model.nodes]
    for described in document["nodes"]:
        for entry in described["inputs"]:
            if "value" in entry:
                stored = model.constants[entry["name"]]
                assert (np.array(entry["value"], stored.dtype) == stored).all()
                assert entry["shape"] == list(stored.shape)


def test_the_rule_made_the_books_model(model):
    rows = json.loads((MODELS / "layer_noise.json").read_text())["layers"]
    chosen = {row["layer"]: quantize.LayerNoise(**row).per_channel for row in rows}
    kinds = []
    for node in quantize.layers(model):
        per_channel = quantize.layer(model, node).w_scale.ndim == 1
        assert per_channel == chosen[node.name]
        kinds.append(per_channel)
    assert 3 <= sum(kinds) <= len(kinds) - 3  # several on each side


def test_float_model_has_the_promised_topology():
    model = load(MODELS / "resnet8.onnx")
    assert model.inputs == {"image": (np.dtype(np.float32), ("N", 3, 32, 32))}
    found = [
        (
            n.name,
            model.arguments(n)["W"].shape,
            *(n.attributes[k] for k in ("strides", "pads")),
        )
        for n in model.of_type("Conv")
    ]
    one, same, down = [1, 1], [1, 1, 1, 1], [0, 0, 1, 1]
    assert found == [
        ("stem", (16, 3, 3, 3), one, same),
        ("block1_conv1", (16, 16, 3, 3), one, same),
        ("block1_conv2", (16, 16, 3, 3), one, same),
        ("block2_conv1", (32, 16, 3, 3), [2, 2], down),
        ("block2_conv2", (32, 32, 3, 3), one, same),
        ("block2_shortcut", (32, 16, 1, 1), [2, 2], [0, 0, 0, 0]),
        ("block3_conv1", (64, 32, 3, 3), [2, 2], down),
        ("block3_conv2", (64, 64, 3, 3), one, same),
        ("block3_shortcut", (64, 32, 1, 1), [2, 2], [0, 0, 0, 0]),
    ]
    (gemm,) = model.of_type("Gemm")
    assert model.arguments(gemm)["B"].shape == (10, 64)
    assert not model.of_type("BatchNormalization") and len(model.of_type("Relu")) == 7


def test_mobilenet_has_the_promised_topology():
    model = load(MODELS / "mobilenet.onnx")
    assert model.inputs == {"image": (np.dtype(np.float32), ("N", 3, 32, 32))}
    kinds = {"expand": [], "depthwise": [], "project": [], "stem": [], "head": []}
    for node in model.of_type("Conv"):
        shape = model.arguments(node)["W"].shape
        kinds[node.name.split("_")[-1]].append(
            (shape, node.attributes.get("group", 1), max(node.attributes["strides"]))
        )
    wide = [16, 64, 96, 96, 128, 128, 256]
    assert kinds["stem"] == [((16, 3, 3, 3), 1, 1)] and kinds["head"] == [((128, 64, 1, 1), 1, 1)]
    strides = [2, 1, 1, 2, 1, 2, 1]
    wanted = [((c, 1, 3, 3), c, s) for c, s in zip(wide, strides, strict=True)]
    assert kinds["depthwise"] == wanted
    ends = [16, 24, 24, 32, 32, 64, 64]
    assert [k[0] for k in kinds["project"]] == [
        (m, c, 1, 1) for m, c in zip(ends, wide, strict=True)
    ]
    pairs = zip(wide[1:], ends, strict=False)
    assert [k[0] for k in kinds["expand"]] == [(m, c, 1, 1) for m, c in pairs]
    assert len(model.of_type("Add")) == 3 and len(model.of_type("Clip")) == 15
    assert not model.of_type("BatchNormalization")


@pytest.mark.parametrize("name", MOBILENETS)
def test_a_quantized_mobilenet_passes(name):
    model = load(MODELS / f"{name}.onnx")
    assert validate(model, read_feeds(model)).status == "PASS"
    assert len(model.of_type("QLinearConv")) == 22 and not model.of_type("Clip")


@pytest.mark.parametrize("name", ["resnet8_int8", *MOBILENETS])
def test_input_is_the_pixel_minus_128(name):
    model = load(MODELS / f"{name}.onnx")
    stem = model.conv(model.node("stem_quant"))
    assert stem.x_scale == 1 and stem.x_zero_point == -128


def test_accuracy_is_as_promised():
    rows = json.loads((MODELS / "accuracy.json").read_text())
    accuracy = {row["model"]: row["accuracy"] for row in rows["models"]}
    assert rows["images"] == 10_000
    assert accuracy["resnet8.onnx"] >= 0.865
    assert accuracy["resnet8_int8.onnx"] >= accuracy["resnet8.onnx"] - 0.005


def test_what_was_measured_of_mobilenet_was_measured_of_these_files():
    for name in ("mobilenet_accuracy.json", "depthwise.json"):
        data = json.loads((MODELS / name).read_text())
        assert data["images"] == data["recorded"]["data"]["images"] >= 1_000
        assert data["recorded"]["script"].startswith("scripts/")
        assert "mobilenet.onnx" in data["recorded"]["models"]
        for file, digest in data["recorded"]["models"].items():
            assert hashlib.sha256((MODELS / file).read_bytes()).hexdigest() == digest, file
    rows = accuracies("mobilenet")
    assert json.loads((MODELS / ACCURACY["mobilenet"]).read_text())["images"] == 10_000
    assert all(row["differing"] == 0 for row in rows)
    assert [row["elements"] > 10**9 for row in rows] == [False, True, True, True, False]
    accuracy = {row["model"]: row["accuracy"] for row in rows}
    assert accuracy["mobilenet_int8_per_channel.onnx"] >= accuracy["mobilenet.onnx"] - 0.005


@pytest.mark.parametrize("name", ["resnet8", *QUANTIZED, "mobilenet", *MOBILENETS])
def test_model_card_tells_the_truth(name):
    card = (MODELS / "README.md").read_text()
    row = next(line for line in card.splitlines() if line.startswith(f"| `{name}.onnx`"))
    digest = hashlib.sha256((MODELS / f"{name}.onnx").read_bytes()).hexdigest()
    (accuracy,) = (r["accuracy"] for r in accuracies(name) if r["model"] == f"{name}.onnx")
    assert re.search(r"`([0-9a-f]{64})`", row)[1] == digest
    assert re.search(r"([\d.]+)%", row)[1] == f"{accuracy:.2%}".rstrip("%")


def test_readme_quotes_the_measured_accuracy():
    readme = (ROOT / "README.md").read_text()
    rows = accuracies("resnet8") + accuracies("mobilenet")
    quoted = re.findall(r"\| ([\d.]+%) \|", readme)
    order = ["resnet8", *QUANTIZED, "mobilenet", *MOBILENETS]
    accuracy = {row["model"].removesuffix(".onnx"): f"{row['accuracy']:.2%}" for row in rows}
    assert quoted == [accuracy[name] for name in order]
    assert all(row["differing"] == 0 for row in rows)
    book = next(row for row in rows if row["model"] == "resnet8_int8.onnx")
    numbers = f"{book['elements']:,}", "0", f"{book['accuracy']:.2%}"
    assert "| " + " | ".join(f"**{number}**" for number in numbers) + " |" in readme
