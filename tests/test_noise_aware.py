"""Training with the noise of arrays: a small run of it, and what was recorded of the large one."""

import json
import sys
from dataclasses import asdict

import numpy as np
import onnx
import pytest
from conftest import MODELS

from qlinear.errors import UnusableInput
from qlinear.hardware.devices import INDEPENDENT, Device
from qlinear.inputs import load_samples
from qlinear.onnx_model import from_proto, load
from qlinear.ort import tensors
from study import noise_aware
from study.noise_aware import BOOK, CONTROL, Recipe
from study.provenance import sha256

IMAGES = load_samples()[0]
FLOAT = MODELS / "resnet8.onnx"
RANDOM = np.random.default_rng(0).integers(0, 256, (64, 3, 32, 32)).astype(np.uint8)
LABELS = np.arange(64) % 10
SETTINGS = noise_aware.TRAINING | {"epochs": 2, "batch": 32, **asdict(Recipe(0.05, 2.5))}


@pytest.fixture
def training():
    pytest.importorskip("torch", reason="torch is missing: requirements-train.txt")
    from study import noise_training

    return noise_training


# --- training ---------------------------------------------------------------------------------


def test_the_file_becomes_the_same_network_in_torch(training):
    import torch

    net = training.torch_of(FLOAT).eval()
    pixels = IMAGES.astype(np.float32)
    with torch.no_grad():
        ours = net(torch.from_numpy(pixels)).numpy()
    assert np.allclose(ours, tensors(load(FLOAT), pixels)["logits"], atol=1e-3)
    made = from_proto(training.to_onnx(training.plain(net)), FLOAT).constants
    wanted = load(FLOAT).constants
    assert made.keys() == wanted.keys()
    for name, value in wanted.items():
        assert np.allclose(made[name], value, rtol=1e-6, atol=0), name
    assert {name for name in wanted if (made[name] != wanted[name]).any()} <= {"stem_w"}


@pytest.mark.parametrize("per_channel", [False, True])
def test_noise_is_a_share_of_the_largest_weight_that_shares_a_scale(training, per_channel):
    import torch

    torch.manual_seed(0)
    w = torch.randn(4, 5000) * torch.tensor([[0.1], [1.0], [10.0], [100.0]])
    w.requires_grad_()
    noise = training.Noise(0.05, per_channel)
    first, second = noise(w) - w, noise(w) - w
    most = w.abs().amax(1) if per_channel else w.abs().max().expand(4)
    assert torch.allclose(first.std(1), 0.05 * most, rtol=0.05)
    assert (first.mean(1).abs() < 0.05 * most / 10).all()
    assert (first != second).all()
    noise(w).sum().backward()
    assert (w.grad == 1).all()
    assert noise.eval()(w) is w


@pytest.mark.parametrize("per_channel", [False, True])
def test_weights_are_clipped_at_their_own_deviations(training, per_channel):
    import torch

    torch.manual_seed(0)
    w = torch.randn(4, 500) * torch.tensor([[0.1], [1.0], [10.0], [100.0]])
    before = w.clone()
    noise = training.Noise(0.05, per_channel)
    noise.clip(w, None)
    assert (w == before).all()
    noise.clip(w, 2.0)
    bound = 2 * (before.std(1, keepdim=True) if per_channel else before.std())
    assert (w == before.clamp(-bound, bound)).all()
    assert (w != before).any()


def retrained(training, folder, settings=SETTINGS):
    sets = (RANDOM, LABELS), (RANDOM[:8], LABELS[:8])
    path = folder / "checkpoint.pt"
    return from_proto(training.retrain(FLOAT, {"stem"}, *sets, path, settings), path)


def test_a_run_that_was_stopped_goes_on_as_an_unbroken_one(training, tmp_path, monkeypatch):
    (tmp_path / "whole").mkdir()
    whole = retrained(training, tmp_path / "whole")
    real, calls = training.fit.__globals__["save"], []

    def stopping(*args):
        real(*args)
        calls.append(1)
        if len(calls) == 1:
            raise KeyboardInterrupt

    monkeypatch.setitem(training.fit.__globals__, "save", stopping)
    with pytest.raises(KeyboardInterrupt):
        retrained(training, tmp_path)
    resumed = retrained(training, tmp_path)
    assert len(calls) == 2
    assert all((resumed.constants[k] == v).all() for k, v in whole.constants.items())
    # and it did learn something, within the bounds
    before, after = (m.constants["block3_conv2_w"] for m in (load(FLOAT), whole))
    assert (before != after).any()
    assert abs(after).max() <= 2.5 * after.std() * 1.05 < abs(before).max()
    with pytest.raises(UnusableInput, match="made with"):
        retrained(training, tmp_path, SETTINGS | {"eta": 0.1})


# --- the script -------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path, monkeypatch):
    """The script with few of everything; returns its arguments."""
    monkeypatch.setattr(noise_aware, "load_cifar10", lambda *_: (RANDOM, LABELS))
    monkeypatch.setattr(noise_aware, "calibration_images", lambda _: RANDOM[:10])
    monkeypatch.setattr(noise_aware, "CHIPS", 2)
    some = {"pair, 1 cell a side": [("independent", Device(INDEPENDENT, sigma=0.02))]}
    monkeypatch.setattr(noise_aware, "ERRORS", some)
    monkeypatch.setattr(noise_aware, "RECIPES", {"noise 5%": Recipe(0.05, 2.5), CONTROL: Recipe()})
    monkeypatch.setattr(noise_aware, "TRAINING", noise_aware.TRAINING | {"epochs": 1})
    out, folder = tmp_path / "noise.json", tmp_path / "retrained"
    return ["--data-dir", "x", "--models", MODELS, "--out", out, "--retrained", folder,
            "--images", "4"]  # fmt: skip


def test_a_small_run(training, small, tmp_path, monkeypatch):
    argv = [str(a) for a in small]
    noise_aware.main([*argv, "--only", CONTROL])
    assert not (tmp_path / "noise.json").exists()
    noise_aware.main(argv)
    record = json.loads((tmp_path / "noise.json").read_text())
    held(record, noise_aware.settings())
    networks = {row["network"]: row for row in record["networks"]}
    assert list(networks) == ["noise 5%", CONTROL, BOOK]
    # what is there is used again, and must be what is asked for
    monkeypatch.setattr(training, "retrain", None)
    noise_aware.main(argv)
    assert json.loads((tmp_path / "noise.json").read_text()) == record
    monkeypatch.setattr(noise_aware, "TRAINING", noise_aware.TRAINING | {"epochs": 3})
    with pytest.raises(UnusableInput, match=r"noise_5.onnx: made with .*; delete it"):
        noise_aware.main(argv)


def test_without_torch_one_line_says_so(small, monkeypatch):
    monkeypatch.delitem(sys.modules, "study.noise_training", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UnusableInput, match=r"noise_5.onnx: no such file, and no torch .*pip"):
        noise_aware.main([str(a) for a in small])


def test_a_network_of_another_make_is_refused(small, tmp_path):
    (tmp_path / "retrained").mkdir()
    (tmp_path / "retrained" / "noise_5.onnx").write_bytes(FLOAT.read_bytes())
    with pytest.raises(UnusableInput, match="made with None"):
        noise_aware.main([str(a) for a in small])


def test_a_single_image_is_refused(small):
    with pytest.raises(UnusableInput, match="at least 2"):
        noise_aware.main([*map(str, small[:-1]), "1"])


def test_hits_are_stored_with_what_they_are_of(small, tmp_path, monkeypatch):
    path, stored = MODELS / noise_aware.MIXED, tmp_path / "book.npz"
    arguments = path, stored, RANDOM[:4], LABELS[:4]
    found = noise_aware.measured(*arguments)
    assert found.shape == (1, 2, 4)
    monkeypatch.setattr(noise_aware, "hits", lambda *_, **__: ~found[0])
    assert (noise_aware.measured(*arguments) == found).all()
    assert (noise_aware.measured(path, stored, RANDOM[4:8], LABELS[:4]) != found).all()
    assert (noise_aware.measured(*arguments) != found).all()  # the others took their place


def test_labels_are_part_of_what_is_stored(small, tmp_path):
    path, stored = MODELS / noise_aware.MIXED, tmp_path / "book.npz"
    first = noise_aware.measured(path, stored, IMAGES, np.zeros(20, int))
    second = noise_aware.measured(path, stored, IMAGES, load_samples()[1])
    assert (first != second).any()


def test_the_root_mean_square_of_the_weights():
    model = load(MODELS / noise_aware.MIXED)
    total = count = 0
    for tensor in model.proto.graph.initializer:
        # all weights are int8 and no bias is; zero points are scalars, or a row of zeros
        if tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) > 1:
            values = onnx.numpy_helper.to_array(tensor).astype(int).ravel().tolist()
            total, count = total + sum(v * v for v in values), count + len(values)
    assert count == 77_360
    assert noise_aware.weight_rms(model) == round((total / count) ** 0.5 / 127, 4)


def test_the_standard_error_is_that_of_repeated_experiments():
    rng = np.random.default_rng(0)

    def network(level: float, ease: np.ndarray) -> np.ndarray:
        """Five chips of different quality on images of different difficulty."""
        chips = level + 0.05 * rng.standard_normal((5, 1))
        return rng.random((5, 200)) < np.clip(chips + ease, 0, 1)

    single, differences, errors, of_differences = [], [], [], []
    for _ in range(300):
        ease = rng.normal(0, 0.3, 200)
        a, b = network(0.6, ease), network(0.5, ease)
        single.append(a.mean())
        differences.append(a.mean() - b.mean())
        errors.append(noise_aware.standard_error(a))
        of_differences.append(noise_aware.standard_error(a, b))
    assert 0.9 < np.mean(errors) / np.std(single) < 1.3
    assert 0.9 < np.mean(of_differences) / np.std(differences) < 1.3


# --- the record -------------------------------------------------------------------------------


def held(record: dict, settings: list) -> None:
    """Whether a record agrees with itself."""
    networks = [row["network"] for row in record["networks"]]
    rows = record["on_arrays"]
    kinds = [(s.mapping, s.error, s.device.sigma) for s in settings]
    assert [(r["network"], r["mapping"], r["error"], r["sigma"]) for r in rows] == [
        (name, *kind) for name in networks for kind in kinds
    ]
    mean = {(r["network"], r["mapping"], r["error"], r["sigma"]): r["accuracy"] for r in rows}
    for row in rows:
        assert len(row["accuracy"]) == record["chips"]
        for share in row["accuracy"]:
            assert abs(share * record["images"] - round(share * record["images"])) < 0.06
        chips = np.std(row["accuracy"], ddof=1) / np.sqrt(record["chips"])
        assert row["standard_error"] >= chips - 1e-4
        control = mean[CONTROL, row["mapping"], row["error"], row["sigma"]]
        if row["network"] == CONTROL:
            assert "ahead" not in row
        else:
            assert abs(np.mean(row["accuracy"]) - np.mean(control) - row["ahead"]) < 2e-4


def test_the_record_agrees_with_itself_and_with_the_files():
    record = json.loads((MODELS / "noise_aware.json").read_text())
    held(record, noise_aware.settings())
    models = record["recorded"]["models"]
    for name in ("resnet8.onnx", noise_aware.MIXED):
        assert models[name] == sha256((MODELS / name).read_bytes())
    assert len(models) == 2 + len(noise_aware.RECIPES)
    assert record["training"] == noise_aware.TRAINING
    networks = {row["network"]: row for row in record["networks"]}
    for name, recipe in noise_aware.RECIPES.items():
        assert {k: networks[name][k] for k in asdict(recipe)} == asdict(recipe)
    accuracies = json.loads((MODELS / "accuracy.json").read_text())["models"]
    wanted = {row["model"]: row["accuracy"] for row in accuracies}
    assert networks[BOOK]["all_test_images"] == wanted[noise_aware.MIXED]
    assert networks[BOOK]["weight_rms"] == noise_aware.weight_rms(load(MODELS / noise_aware.MIXED))
    assert networks[BOOK]["float_sha256"] == models["resnet8.onnx"]
    digests = {row["float_sha256"] for row in record["networks"]}
    assert len(digests) == len(record["networks"])
