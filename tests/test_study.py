"""How the models were measured: labels, differences between sessions, and each layer's noise."""

import json

import numpy as np
import pytest
from conftest import MODELS, main_of
from test_scripts import write_batches

from qlinear.errors import UnusableInput
from qlinear.inputs import load_samples
from qlinear.onnx_model import from_proto, load
from qlinear.operators import OPERATORS
from qlinear.operators import qlinear_conv as qc
from qlinear.operators.dequantize_linear import dequantize_linear
from qlinear.operators.qgemm import qgemm
from qlinear.operators.quantize_linear import quantize_linear
from qlinear.ort import tensors
from study import depthwise, evaluate, quantize

IMAGES, LABELS = load_samples()


def greatest(row) -> int:
    return max(range(len(row)), key=row.__getitem__)


@pytest.mark.parametrize("name", ["resnet8.onnx", "resnet8_int8.onnx"])
def test_the_label_is_the_class_of_the_greatest_logit(name):
    model = load(MODELS / name)
    logits = tensors(model, IMAGES.astype(np.float32))["logits"]
    found = np.array([greatest(row) for row in logits.tolist()])
    *_, score = evaluate.evaluate(model, IMAGES, found, batch=8)
    assert score.images == 20 and score.correct.tolist() == score.seen.tolist()
    assert score.seen.tolist() == [int((found == c).sum()) for c in range(10)]
    assert score.as_json()["accuracy"] == 1 and score.differing == 0
    assert score.elements == (0 if name == "resnet8.onnx" else 2_358_160)
    # another class is never counted as right
    *_, score = evaluate.evaluate(model, IMAGES, (found + 1) % 10, batch=20)
    assert score.as_json()["accuracy"] == 0
    # of the samples' own labels, as many as agree
    *_, score = evaluate.evaluate(model, IMAGES, LABELS, batch=7)
    assert score.as_json()["accuracy"] == round(float((found == LABELS).mean()), 4)


def test_no_images_are_refused():
    with pytest.raises(UnusableInput, match="no images"):
        list(evaluate.evaluate(load(MODELS / "resnet8.onnx"), IMAGES[:0], LABELS[:0]))


def test_an_element_that_differs_is_counted(monkeypatch):
    real = OPERATORS["com.microsoft", "QGemm"]

    def wrong(*inputs, **attributes):
        y = real(*inputs, **attributes).copy()
        y[0, :3] ^= 1
        return y

    monkeypatch.setitem(OPERATORS, ("com.microsoft", "QGemm"), wrong)
    *_, score = evaluate.evaluate(load(MODELS / "resnet8_int8.onnx"), IMAGES[:2], LABELS[:2])
    assert 3 <= score.differing <= 6  # and the logits that are dequantized from them


class Session:
    """As if ONNX Runtime computed these logits."""

    def __init__(self, logits):
        self.logits = np.float32(logits)

    def run(self, _names, feeds):
        (x,) = feeds.values()
        return [self.logits[: len(x)]]


def test_a_label_changes_with_the_greatest_logit(monkeypatch):
    wanted = [[0, 1, 2], [5, 4, 3]]
    # the least logit moves in the first form, the greatest in the second; the third is the same
    answers = iter([wanted, [[1, 0, 2], [5, 3, 4]], [[2, 1, 0], [5, 4, 3]], wanted])
    monkeypatch.setattr(evaluate, "open_session", lambda *_: Session(next(answers)))
    found = evaluate.compare_forms(MODELS, IMAGES[:2])
    assert [f.form for f in found] == list(evaluate.FORMS)
    assert [f.logits for f in found] == [6, 6, 6]
    assert [f.differing for f in found] == [4, 2, 0]
    assert [f.labels_changed for f in found] == [0, 1, 0]


def test_a_layers_noise_is_that_of_the_reference_on_the_float_input():
    """Its float input quantized, the layer in integers, and its output's power over the error's."""
    models = [load(MODELS / name) for name in ("resnet8.onnx", *PAIR)]
    x = IMAGES[:3].astype(np.float32)
    found = {row.layer: row for row in quantize.layer_noise(*models, IMAGES[:3])}
    assert len(found) == 10
    reference = tensors(models[0], x)
    for name in ("block2_conv1_quant", "dense_quant"):
        for model, ours in zip(models[1:], ("per_tensor_db", "per_channel_db"), strict=True):
            node = model.node(name)
            values = model.arguments(node)
            of_x = (
                ("x_scale", "x_zero_point") if "x_scale" in values else ("a_scale", "a_zero_point")
            )
            into = reference[quantize.float_name(models[0], node.inputs[0])]
            q = quantize_linear(into, *(values[k] for k in of_x))
            if node.op_type == "QGemm":
                y = qgemm(q, **values, **node.attributes)
            else:
                y = qc.stages(q, model.conv(node)).y
            out = dequantize_linear(y, values["y_scale"], values["y_zero_point"])
            wanted = reference[quantize.float_name(models[0], node.outputs[0])].astype(float)
            error = wanted - out
            ratio = (wanted**2).sum() / (error**2).sum()
            assert getattr(found[name], ours) == pytest.approx(10 * np.log10(ratio), abs=1e-3)
            assert 15 < getattr(found[name], ours) < 50


PAIR = (quantize.PER_TENSOR, quantize.PER_CHANNEL)


def test_a_layer_is_per_channel_from_1_db_on():
    def row(gain):
        return quantize.LayerNoise("layer", 20.0, 20.0 + gain)

    assert row(1.0).per_channel and not row(0.9375).per_channel and row(3).gain_db == 3


def test_the_evaluation_writes_what_it_found(tmp_path, capsys):
    main = main_of("evaluate.py")
    write_batches(tmp_path / "cifar-10-batches-py")
    out = tmp_path / "accuracy.json"
    argv = ["--data-dir", str(tmp_path), "--models", str(MODELS), "--out", str(out)]
    assert main([*argv, "--images", "3", "--data-note", "noise"]) == 0
    found = json.loads(out.read_text())
    assert found["images"] == 3 and len(found["models"]) == 5 and len(found["qdq"]) == 3
    assert [m["differing"] for m in found["models"]] == [0] * 5
    assert [m["elements"] for m in found["models"]] == [0] + [3 * 117_908] * 4
    assert all(form["logits"] == 30 for form in found["qdq"])
    assert "noise" in json.dumps(found["recorded"])
    assert f"wrote {out}" in capsys.readouterr().out
    with pytest.raises(UnusableInput, match="--images is 0: at least 1 needed"):
        main([*argv, "--images", "0"])


def test_mobilenets_evaluation_says_which_network_it_is(tmp_path):
    main = main_of("evaluate.py")
    write_batches(tmp_path / "cifar-10-batches-py")
    out = tmp_path / "accuracy.json"
    argv = ["--data-dir", str(tmp_path), "--models", str(MODELS), "--out", str(out)]
    assert main([*argv, "--images", "2", "--network", "mobilenet"]) == 0
    found = json.loads(out.read_text())
    assert found["recorded"]["script"] == "scripts/evaluate.py --network mobilenet"
    assert "qdq" not in found and len(found["models"]) == 5
    assert found["models"][-1]["model"] == "mobilenet.onnx, with ReLU for ReLU6"
    assert [m["elements"] > 0 for m in found["models"]] == [False, True, True, True, False]


# --- what one scale costs MobileNet


def test_eight_bits_are_the_committed_models():
    plain, equal = depthwise.sources(MODELS)
    for source, per_channel, file in (
        (plain, False, quantize.MOBILE_PER_TENSOR),
        (plain, True, quantize.MOBILE_PER_CHANNEL),
        (equal, False, quantize.MOBILE_EQUALIZED),
    ):
        made = from_proto(source.narrowed(8, per_channel)).constants
        stored = load(MODELS / file).constants
        assert made.keys() == stored.keys()
        for name, value in stored.items():
            assert made[name].shape == value.shape and (made[name] == value).all(), (file, name)


def test_only_the_named_layers_are_per_channel():
    plain, _ = depthwise.sources(MODELS)
    names = depthwise.depthwise_layers(plain)
    assert names == {f"block{i}_depthwise_quant" for i in range(1, 8)}
    model = from_proto(plain.narrowed(4, names))
    for node in quantize.layers(model):
        conv = quantize.layer(model, node)
        assert (conv.w_scale.ndim == 1) == (node.name in names)
        assert np.abs(conv.w.astype(int)).max() == 7


def test_every_setting_is_measured_once():
    work = list(depthwise.settings(MODELS, IMAGES))
    counts: dict[str, int] = {}
    for section, _, _ in work:
        counts[section] = counts.get(section, 0) + 1
    assert counts == {"weight_bits": 6 * 4, "one_layer": 23 * 2, "spread": 9 * 3}
    assert len({json.dumps([section, entry]) for section, entry, _ in work}) == len(work)
    made = {json.dumps(entry): make for section, entry, make in work if section == "one_layer"}
    for alone, others in (("per-channel", "per-tensor"), ("per-tensor", "per-channel")):
        entry = {"bits": 4, "layer": "block2_project_quant", "alone": alone}
        model = from_proto(made[json.dumps(entry)]())
        kinds = {n.name: quantize.layer(model, n).w_scale.ndim for n in quantize.layers(model)}
        assert kinds.pop("block2_project_quant") == (alone == "per-channel")
        assert set(kinds.values()) == {int(others == "per-channel")}


def test_the_study_of_depthwise_layers_writes_what_it_found(tmp_path, monkeypatch, capsys):
    plain, _ = depthwise.sources(MODELS)
    logits = tensors(plain.form, IMAGES.astype(np.float32))["logits"]
    labels = np.array([greatest(row) for row in logits.tolist()])
    monkeypatch.setattr(depthwise, "load_cifar10", lambda *_: (IMAGES, labels))
    monkeypatch.setattr(depthwise.quantize, "calibration_images", lambda _: IMAGES)
    monkeypatch.setattr(depthwise, "BITS", (8,))
    monkeypatch.setattr(depthwise, "ALONE", ())
    monkeypatch.setattr(depthwise, "SPREADS", (2,))
    out = tmp_path / "depthwise.json"
    argv = ["--data-dir", str(tmp_path), "--models", str(MODELS), "--out", str(out)]
    depthwise.main([*argv, "--images", "20"])
    found = json.loads(out.read_text())
    assert found["weight_bits"][0] == {"bits": 8, "scheme": "per-tensor", "accuracy": 1.0}
    assert len(found["weight_bits"]) == 4 and "one_layer" not in found
    schemes = [row["scheme"] for row in found["spread"]]
    assert schemes == ["per-tensor", "per-channel", "equalized, per-tensor"]
    assert all(0.5 < row["accuracy"] <= 1 for row in found["spread"])
    assert found["images"] == 20 and len(found["recorded"]["models"]) == 3
    assert f"wrote {out}" in capsys.readouterr().out
    with pytest.raises(UnusableInput, match="--images is 0: at least 1 needed"):
        depthwise.main([*argv, "--images", "0"])
