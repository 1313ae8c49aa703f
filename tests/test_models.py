"""The committed models: remade byte for byte, described truly, and of the promised topology."""

import hashlib
import json
import re
import shutil
import subprocess
import sys

import jsonschema
import numpy as np
import pytest
from conftest import MODELS, QUANTIZED, ROOT, main_of, needs, quantizes

from qlinear.onnx_model import load
from study import quantize


@quantizes
def test_quantized_models_are_remade_byte_for_byte(tmp_path):
    for name in ("resnet8.onnx", "calibration.json", "layer_noise.json"):
        (tmp_path / name).write_bytes((MODELS / name).read_bytes())
    main_of("quantize_onnx.py")(["--models", str(tmp_path)])
    for name in QUANTIZED:
        made = (tmp_path / f"{name}.onnx").read_bytes()
        assert made == (MODELS / f"{name}.onnx").read_bytes(), name


def test_the_documented_names_of_the_arguments_work(tmp_path):
    for name in ("resnet8.onnx", "calibration.json", "layer_noise.json"):
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


def test_input_is_the_pixel_minus_128(model):
    stem = model.conv(model.node("stem_quant"))
    assert stem.x_scale == 1 and stem.x_zero_point == -128


def test_accuracy_is_as_promised():
    rows = json.loads((MODELS / "accuracy.json").read_text())
    accuracy = {row["model"]: row["accuracy"] for row in rows["models"]}
    assert rows["images"] == 10_000
    assert accuracy["resnet8.onnx"] >= 0.865
    assert accuracy["resnet8_int8.onnx"] >= accuracy["resnet8.onnx"] - 0.005


@pytest.mark.parametrize("name", ["resnet8", *QUANTIZED])
def test_model_card_tells_the_truth(name):
    card = (MODELS / "README.md").read_text()
    row = next(line for line in card.splitlines() if line.startswith(f"| `{name}.onnx`"))
    digest = hashlib.sha256((MODELS / f"{name}.onnx").read_bytes()).hexdigest()
    rows = json.loads((MODELS / "accuracy.json").read_text())["models"]
    (accuracy,) = (r["accuracy"] for r in rows if r["model"] == f"{name}.onnx")
    assert re.search(r"`([0-9a-f]{64})`", row)[1] == digest
    assert re.search(r"([\d.]+)%", row)[1] == f"{accuracy:.2%}".rstrip("%")


def test_readme_quotes_the_measured_accuracy():
    readme = (ROOT / "README.md").read_text()
    rows = json.loads((MODELS / "accuracy.json").read_text())["models"]
    quoted = re.findall(r"\| ([\d.]+%) \|", readme)
    order = ["resnet8", *QUANTIZED]
    accuracy = {row["model"].removesuffix(".onnx"): f"{row['accuracy']:.2%}" for row in rows}
    assert quoted == [accuracy[name] for name in order]
    assert all(row["differing"] == 0 for row in rows)
    book = next(row for row in rows if row["model"] == "resnet8_int8.onnx")
    numbers = f"{book['elements']:,}", "0", f"{book['accuracy']:.2%}"
    assert "| " + " | ".join(f"**{number}**" for number in numbers) + " |" in readme


def test_an_emulated_processor_without_vnni_computes_what_is_stored(tmp_path):
    needs(shutil.which("qemu-x86_64") is not None, "qemu-x86_64")
    out = tmp_path / "portability.json"
    command = [sys.executable, ROOT / "scripts" / "portability.py", "--out", out]
    subprocess.run(command, check=True)
    assert out.read_text() == (MODELS / "portability.json").read_text()
