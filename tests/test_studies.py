"""The hardware study of a reader's network: its settings, its counts, and who does the work."""

import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
import zlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from conftest import MODELS, ROOT, needs
from networks import NETWORKS, quantized

from qlinear import cli, engine, ort
from qlinear.errors import UnusableInput
from qlinear.hardware import accumulators, analog, cost, devices, draws, requantizers, variants
from qlinear.hardware.analog import Array
from qlinear.hardware.converters import Converter
from qlinear.hardware.designs import DESIGNS
from qlinear.hardware.devices import Device
from qlinear.hardware.draws import Reads
from qlinear.inputs import load_samples
from qlinear.onnx_model import load
from qlinear.operators import OPERATORS
from qlinear.operators import qlinear_conv as qc
from qlinear.studies import arithmetic, measure, page, report, settings, study, workers
from qlinear.studies.settings import ALL_BUT, ALONE, EVERY, EXACT, Setting

SMALL = """
[accumulators]
bits = [12, 18]
how = ["wrap", "saturate at the end", "saturate at every MAC"]
sensitivity = 8

[requantization]
multiplier_bits = [0, 8, 31]
rounding = ["half up", "truncate"]

[bit_widths]
weights = [4, 8]
activations = [5, 8]

[[analog]]
adc_bits = 7
adc_noise = 0.5
seed = [0, 1]
images = 10

[[analog]]
design = "PCM core"
calibrated = 4
images = 10
"""


def made(folder: Path, name: str, form: str, images: int = 24, labels: bool = True):
    """A small network's file, and a file of data for it."""
    path, data = folder / f"{name}.onnx", folder / "data.npz"
    onnx.save(quantized(name, form), path)
    rng = np.random.default_rng(3)
    x = rng.normal(0, 1, (images, *NETWORKS[name][1])).astype(np.float32)
    named = {"labels": rng.integers(0, 10, images)} if labels else {}
    np.savez(data, x=x, **named)
    return path, data


@pytest.fixture(scope="module")
def vgg(tmp_path_factory) -> tuple[Path, Path, Path]:
    folder = tmp_path_factory.mktemp("vgg")
    (folder / "small.toml").write_text(SMALL)
    return *made(folder, "vgg", "QOperator-int8-int8"), folder / "small.toml"


def planned(files, text: str | None = None, **options) -> study.Plan:
    model = load(files[0])
    if text is None:
        asked = settings.read(files[2])
    else:
        (files[1].parent / "other.toml").write_text(text)
        asked = settings.read(files[1].parent / "other.toml")
    return study.plan(model, study.read_data(model, files[1]), asked, **{"batch": 8, **options})


def outputs(plan: study.Plan, rows: list[study.Row]) -> tuple[str, str, str]:
    return report.as_json(plan, rows), report.as_csv(plan, rows), page.html(plan, rows)


@pytest.fixture(scope="module")
def alone(vgg, tmp_path_factory) -> tuple[study.Plan, list[study.Row]]:
    """The study of the small network in this process."""
    plan = planned(vgg)
    return plan, study.run(plan, tmp_path_factory.mktemp("alone") / "out")


def row_of(rows: list[study.Row], title: str, mode: str = "", layer: str = "") -> study.Row:
    (found,) = [
        r
        for r in rows
        if (r.setting.title, r.setting.mode, r.setting.layer) == (title, mode, layer)
    ]
    return found


# --- settings


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[accumulator]\nbits = 8", "no section 'accumulator' (there are: accumulators, "),
        ("[accumulators]\nbit = 8", "[accumulators] no key 'bit' (there are: bits, how, images"),
        ("[accumulators]\nbits = 1", "bits is 1: a whole number from 2 to 32 needed"),
        ("[accumulators]\nbits = true", "bits is True: a whole number from 2 to 32 needed"),
        ("[accumulators]\nbits = 8\nhow = 'up'", "how is 'up': one of 'wrap', 'saturate at"),
        ("[accumulators]\nbits = []", "bits: an empty list"),
        ("[accumulators]\nhow = 'wrap'", "bits is missing"),
        ("[accumulators]\nbits = 30", "bits is 30: 'saturate at every MAC' takes up to 24"),
        ("[requantization]\nmultiplier_bits = 32", "multiplier_bits is 32: a whole number from 0"),
        ("[bit_widths]\nper_channel = true", "weights or activations is missing"),
        ("[bit_widths]\nweights = 4\nimages = 0", "images is 0: a whole number from 1"),
        ("[bit_widths]\nweights = 4\nsensitivity = 'x'", "sensitivity is 'x'"),
        ("[analog]\nadc_bits = 99", "[analog] an ADC of 99 bits: 1 to 24 needed"),
        ("[analog]\nmapping = 'x'", "[analog] mapping is 'x': one of offset"),
        ("[analog]\nclip = true", "[analog] clip: steps of one count need adc_bits"),
        ("[analog]\nsigma = nan", "sigma is nan: a finite number needed"),
        ("[analog]\ndesign = 'x'", "design is 'x': one of 'ISAAC'"),
        ("[files]\nfile = 'none.onnx'", "none.onnx: no such file"),
        ("accumulators = 3", "accumulators: a table needed, [accumulators]"),
        ("", "no section; there are: accumulators"),
        ("[accumulators", "not TOML"),
        ("[files]\n[[files]]\n", "a section that is repeated is [[section]]"),
    ],
)
def test_a_wrong_setting_is_refused_in_one_line(text, said, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(UnusableInput, match=re.escape(said)) as refused:
        settings.read(path)
    assert "\n" not in str(refused.value)
    assert str(refused.value).startswith(str(path if "none" not in said else tmp_path))


def test_a_table_is_a_cross_product_and_a_setting_is_one(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        "[[accumulators]]\nbits = [12, 14]\nhow = ['wrap', 'saturate at the end']\nimages = 5\n"
        "[[accumulators]]\nbits = 12\nhow = 'wrap'\nimages = 7\nsensitivity = 3\n"
        "[bit_widths]\nweights = [4, 8]\nper_channel = [true, false]\nactivations = 8\n"
    )
    found = settings.read(path)
    assert [s.title for s in found] == [
        "12 bits, wrap",
        "12 bits, saturate at the end",
        "14 bits, wrap",
        "14 bits, saturate at the end",
        "weights 4 bits, per-channel",
        "weights 4 bits, per-tensor",
        "activations 8 bits",
        "weights 8 bits, per-tensor",
    ]
    assert (found[0].images, found[0].sensitivity, found[1].images) == (7, 3, 5)
    assert len({s.key for s in found}) == len(found)
    # what has its default says nothing, so that it has one key
    path.write_text("[analog]\nadc_bits = 8\nseed = 0\nclip = false\n")
    (said,) = settings.read(path)
    path.write_text("[analog]\nadc_bits = 8\n")
    assert settings.read(path)[0].key == said.key


def test_the_default_settings_are_legal_and_each_is_described():
    found = settings.read(settings.DEFAULT)
    titles = [(s.section, s.title) for s in found]
    assert len(set(titles)) == len(titles) > 60
    assert {s.section for s in found} == {"accumulators", "requantization", "bit_widths", "analog"}
    assert {s.section for s in found if s.sensitivity} == {s.section for s in found}


# --- counts, against the chapters' own operators


def test_counts_are_those_of_the_chapters_operators(vgg, alone):
    _, rows = alone
    model, data = load(vgg[0]), np.load(vgg[1])
    exact = [engine.run(model, data["x"][i : i + 8]) for i in (0, 8, 16)]
    output = next(iter(model.outputs))
    before = np.concatenate([e[output].argmax(1) for e in exact])
    assert row_of(rows, "exact").counts["right"] == (before == data["labels"]).sum()
    for bits, how, change in (
        (12, "wrap", dict(accumulator=lambda acc: accumulators.wrap(acc, 12))),
        (12, "saturate at the end", dict(accumulator=lambda acc: accumulators.clamp(acc, 12))),
        (12, EVERY, dict(summation=lambda *a: accumulators.saturating_sum(*a, bits=12))),
    ):
        table = variants.operators_with(**change)
        found = [engine.run(model, data["x"][i : i + 8], table)[output] for i in (0, 8, 16)]
        after = np.concatenate(found).argmax(1)
        counts = row_of(rows, f"{bits} bits, {how}").counts
        right, was = after == data["labels"], before == data["labels"]
        assert counts == {
            "images": 24,
            "same": (after == before).sum(),
            "right": right.sum(),
            "lost": (was & ~right).sum(),
            "gained": (right & ~was).sum(),
        }
        differing = row_of(rows, f"{bits} bits, {how}").differing
        for name, layer in arithmetic.layers_of(model)[0].items():
            wrong = total = 0
            for values in exact:
                y = engine.compute(model, layer.node, values, table)
                wrong += int((y != values[layer.y_name]).sum())
                total += y.size
            assert differing[name] == [wrong, total]
    assert row_of(rows, "18 bits, wrap").counts["images"] == 24


def test_one_layer_alone_and_all_but_it(vgg, alone):
    plan, rows = alone
    model, data = load(vgg[0]), np.load(vgg[1])
    x = data["x"][:8]
    output = next(iter(model.outputs))
    before = engine.run(model, x)
    for mode in (ALONE, ALL_BUT):
        for name in plan.facts["layers"]:
            values = {**engine.feeds_of(model, x)}
            table = variants.operators_with(accumulator=lambda acc: accumulators.wrap(acc, 12))
            for node in model.nodes:
                here = (node.name == name) == (mode == ALONE)
                chosen = table if here and node.name in plan.facts["layers"] else OPERATORS
                values[node.outputs[0]] = engine.compute(model, node, values, chosen)
            same = (values[output].argmax(1) == before[output].argmax(1)).sum()
            assert row_of(rows, "12 bits, wrap", mode, name).counts["same"] == same


def test_wide_enough_changes_nothing(vgg, alone):
    _, rows = alone
    for title in ("activations 8 bits",):
        counts = row_of(rows, title).counts
        assert counts["same"] == counts["images"] and not counts["lost"] + counts["gained"]
    proven = max(alone[0].facts["proven_bits"].values())
    plan = planned(vgg, f"[accumulators]\nbits = {proven}\n")
    at = measure.ready(plan.job)
    for setting in plan.settings:
        counts = measure.measure(at, setting, study.batch_of(plan, 0, 24))
        assert counts["same"] == 24
        assert not sum(wrong for wrong, _ in counts.get("differing", {}).values())


def test_labels_are_not_needed_and_agreement_is_said(vgg, tmp_path):
    model, toml = vgg[0], tmp_path / "few.toml"
    toml.write_text("[accumulators]\nbits = 12\nhow = 'wrap'\n")
    data = tmp_path / "unlabelled.npz"
    np.savez(data, x=np.load(vgg[1])["x"])
    plan = planned((model, data, toml))
    rows = study.run(plan, tmp_path / "out")
    assert report.measure_of(plan) == "agreement"
    found = json.loads(report.as_json(plan, rows))
    assert found["rows"][0]["agreement"] == 1 and "right" not in found["rows"][0]
    assert "no labels" in " ".join(report.summary(plan, rows))
    assert found["rows"][1]["agreement"] == round(found["rows"][1]["same"] / 24, 6) < 1


def test_standard_errors_are_binomial_and_paired():
    counts = {"images": 400, "same": 350, "right": 300, "lost": 30, "gained": 10}
    it = report.score(counts, labelled=True)
    assert it.share == 0.75 and it.error == pytest.approx((0.75 * 0.25 / 400) ** 0.5)
    each = np.array([-1] * 30 + [1] * 10 + [0] * 360)
    assert it.difference == pytest.approx(each.mean())
    assert it.difference_error == pytest.approx(each.std() / 20)
    it = report.score(counts, labelled=False)
    assert it.share == 0.875 and it.difference == -0.125 and it.changed == 50
    assert it.error == pytest.approx(it.difference_error)
    # 95 of 100 times at least one of n shows, where each shows with this probability
    assert (1 - report.unseen(1000)) ** 1000 == pytest.approx(0.05)


def test_a_loss_of_few_images_is_not_clear():
    for n in range(1, 6):  # whatever their standard error
        counts = {"images": n, "same": 0, "right": 0, "lost": n, "gained": 0}
        assert not report.score(counts, labelled=True).loses
        assert not report.score(counts, labelled=False).loses
    counts = {"images": 10, "same": 4, "right": 4, "lost": 6, "gained": 0}
    assert report.score(counts, labelled=True).loses
    assert report.by_chance(6, 0) == 1 / 64
    # and many ways at once as few: the tail of a binomial law
    tosses = np.random.default_rng(0).random((200_000, 50)) < 0.5
    assert report.by_chance(30, 20) == pytest.approx((tosses.sum(1) >= 30).mean(), abs=0.002)


def test_a_line_is_held_against_the_exact_network_on_its_own_images():
    """Of the first 4 images the exact network has all right, of 40 fewer."""

    def row(bits, images, right, lost):
        setting = Setting("accumulators", (("bits", bits), ("how", "wrap")), images)
        counts = dict(images=images, same=images - lost, right=right, lost=lost, gained=0)
        return study.Row(setting, counts, {}, {})

    few = report.series([row(12, 4, 0, 4), row(14, 4, 1, 3)], "accumulators", True)
    many = report.series([row(12, 40, 2, 31), row(14, 40, 32, 1)], "accumulators", True)
    assert report.exact_shares(few) == [1] and report.exact_shares(many) == [33 / 40]
    assert report.exact_shares(few + many) == [33 / 40, 1]
    assert "of 4 images no loss can be clear; at 12 bits" in report.reading(few[0], "accuracy")
    assert "down to 14 bits no loss is clear" in report.reading(many[0], "accuracy")


def test_few_layers_that_tie_are_named_and_many_are_counted():
    def rows(count):
        counts = dict(images=9, same=0, right=0, lost=9, gained=0)
        layers = [Setting("accumulators", (), 9, 0, ALONE, f"layer {k}") for k in range(count)]
        return {ALONE: [study.Row(layer, counts, {}, {}) for layer in layers]}

    few = report.most_sensitive(rows(report.NAMED), True)
    assert all(f"layer {k}" in few for k in range(report.NAMED))
    many = report.most_sensitive(rows(report.NAMED + 1), True)
    assert f"any of {report.NAMED + 1} layers (see the table) costs most" in many


def test_only_measured_ways_to_pass_an_accumulators_end_are_said():
    def row(bits, how, same):
        setting = Setting("accumulators", (("bits", bits), ("how", how)))
        return study.Row(setting, {"images": 9, "same": same}, {}, {})

    rows = [row(12, EVERY, 3), row(14, EVERY, 8), row(16, "wrap", 9), row(18, "wrap", 9)]
    assert report._unchanged(rows) == (16, ["wrap: at 16, 18 bits"])
    assert report._unchanged(rows[:2]) is None


def test_any_name_fits_into_the_page(vgg, tmp_path):
    proto = onnx.load(vgg[0])
    first, second = [n for n in proto.graph.node if n.op_type == "QLinearConv"][:2]
    first.name, second.name = "a" * 300, "</script><b>$x_1$"
    onnx.save(proto, tmp_path / "m.onnx")
    text = "[accumulators]\nbits = 8\nhow = 'wrap'\nsensitivity = true\n"
    plan = planned((tmp_path / "m.onnx", vgg[1]), text, images=4)
    shown = page.html(plan, study.run(plan, tmp_path / "out"))
    assert "<b>" not in shown and "&lt;b&gt;$x_1$" in shown
    drawn = re.findall(r"<text[^>]*>(.*?)</text>", shown, flags=re.S)
    assert not drawn or f"{'a' * 19}…{'a' * 20}" in " ".join(drawn)
    assert max(map(len, drawn), default=0) < 100


def test_layers_that_tie_are_all_named_and_those_that_stay_exact_are(tmp_path):
    files = made(tmp_path, "mobilenet_v2", "QOperator-uint8-uint8-channels", images=4)
    plan = planned(files, "[analog]\nadc_bits = 1\nclip = true\nsensitivity = true\n")
    rows = study.run(plan, tmp_path / "out")
    (modes,) = report.sensitivity(rows).values()
    text, shown = report.most_sensitive(modes, labelled=False), page.html(plan, rows)
    least = min(row.counts["same"] for row in modes[ALONE])
    most = [r.setting.layer for r in modes[ALONE] if r.counts["same"] == least]
    assert least < 4 and len(most) > 1
    if len(most) > report.NAMED:
        assert f"any of {len(most)} layers (see the table) costs most" in text
    else:
        assert all(layer in text for layer in most)
    wide = [r.setting.layer for r in modes[ALONE] if r.left]  # weights of 9 bits
    assert wide and all(f"{name} (exact in any case)" in shown for name in wide)
    for name, count in plan.facts["exact"].items():
        assert f"{count} {name}" in shown
    assert "com.microsoft.QLinearAdd" in plan.facts["exact"]


# --- groups on arrays


@pytest.fixture(scope="module")
def mobilenet():
    """A network of depthwise layers, and what ONNX Runtime computes of one image."""
    model = load(MODELS / "mobilenet_int8_per_channel.onnx")
    x = load_samples()[0][:1].astype(np.float32)
    return model, x, ort.tensors(model, x)


def grouped_layer(groups: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Columns, rows and bias of a layer, of which the first two groups have the same weights."""
    rng = np.random.default_rng(4)
    columns = rng.integers(0, 256, (2, groups, 25, 7)).astype(np.uint8)
    rows = rng.integers(-128, 128, (groups, 2, 25)).astype(np.int32)
    columns[:, 1], rows[1] = columns[:, 0], rows[0]
    return columns, rows, np.zeros((groups, 2), np.int32)


def test_depthwise_layers_on_ideal_arrays_are_onnx_runtimes(mobilenet):
    model, x, theirs = mobilenet
    groups = {n: layer.conv.attributes.get("group", 1)
              for n, layer in arithmetic.layers_of(model)[0].items()}  # fmt: skip
    assert sum(g > 1 for g in groups.values()) == 7 and max(groups.values()) == 256
    found = engine.run(
        model, x, variants.operators_on_arrays(model, dict.fromkeys(groups, Array()))
    )
    assert all((found[name] == theirs[name]).all() for name in theirs)
    # and in a study, with converters whose steps are one count, or too coarse for nine rows
    data = study.Data("samples", {"image": x}, None)
    asked = [Setting("analog", (("adc_bits", bits),)) for bits in (9, 3)]
    plan = study.plan(model, data, asked, batch=1)
    at = measure.ready(plan.job)
    reference = measure.exact(at, study.batch_of(plan, 0, 1)).values[0]
    for bits, setting in zip((9, 3), asked, strict=True):
        varied, left = measure.computes(at, setting)
        assert set(varied) == set(groups) and not left
        for name, group in groups.items():
            if group == 1:
                continue
            layer = at.layers[name]
            call = measure.layer_call(layer, varied[name], setting, 0)
            wrong = call(reference[layer.x_name]) != reference[layer.y_name]
            assert wrong.any() == (bits == 3)


@pytest.mark.parametrize("seed", [0, 7])
def test_a_layer_of_one_group_draws_what_it_always_did(seed):
    """Records rest on it: the seeds of cells and of conversions are the weights' CRC-32."""
    _, (rows, *_), _ = grouped_layer()
    array = Array(mapping=analog.PAIR, device=Device("proportional", sigma=0.1),
                  adc=Converter(8, noise=1), seed=seed)  # fmt: skip
    lines = analog.mapped(rows, array)
    crc = zlib.crc32(rows.tobytes())
    rng = np.random.default_rng([seed, crc])
    _, cells = devices.programmed(analog.sides(lines, array), lines.levels, array.device, rng)
    (tile,) = analog.programmed(rows, array)
    assert (tile.held == cells[0] - cells[1]).all()
    assert analog.key_of(rows, array, Reads(5)) == draws.key_of(Reads(5), crc)
    one, same = np.random.default_rng(3), np.random.default_rng(3)
    assert analog.key_of(rows, array, one) == draws.key_of(same, crc)


def test_groups_share_neither_cells_nor_draws():
    columns, rows, bias = grouped_layer()
    whole = DESIGNS | {
        "cells": Array(device=Device("proportional", sigma=0.05)),
        "conversions": Array(adc=Converter(8, noise=1)),
        "converters": Array(adc=Converter(8, offset=1, shared=4)),
        "wires": Array(device=Device(wire=1e-3, word_wire=1e-3), adc=Converter(8)),
    }
    drawn = {"cells", "conversions", "converters", "PCM core"}
    for name, array in whole.items():
        found = analog.array_sum(columns, rows, bias, array, Reads(1))
        # the first group is the layer of its weights; the second has the same weights and inputs
        alone = analog.array_sum(columns[:, 0], rows[0], bias[0], array, Reads(1))
        assert (found[:, :2] == alone).all()
        assert (found[:, 2:4] == alone).all() == (name not in drawn), name
        again = analog.array_sum(columns, rows, bias, array, Reads(1))
        plain = analog.array_sum(columns, rows, bias, array, Reads(1), fast=False)
        assert (found == again).all() and (found == plain).all()
    perfect = Array()
    each = [analog.observed(columns[:, g], rows[g], perfect) for g in range(3)]
    assert analog.observed(columns, rows, perfect) == max(each) > min(each)
    every = analog.array_sum(columns, rows, bias, perfect)
    assert (every.reshape(2, 3, 2, 7) == rows @ columns.astype(np.int32)).all()


def test_groups_cost_crossbars_of_their_own(mobilenet):
    model, _, theirs = mobilenet
    array = Array(adc=Converter(8, shared=4))
    costs = cost.network_cost(model, theirs, dict.fromkeys(variants.weighted(model), array))
    one = cost.layer_cost(9, 1, 16, array)
    every = costs["block7_depthwise_quant"]
    assert (every.crossbars, every.used, every.macs) == (256, 256 * 9 * 4, 256 * 9 * 16)
    assert every.joules == pytest.approx(256 * one.joules)
    assert (every.seconds, every.reads) == (one.seconds, one.reads)
    dense = cost.layer_cost(128, 10, 1, array)
    assert costs["dense_quant"] == dense


def test_sums_of_groups_are_summed_group_by_group(mobilenet):
    model, x, theirs = mobilenet

    def exactly(columns, rows, bias):
        return rows @ columns + bias[:, None]

    found = engine.run(model, x, variants.operators_with(summation=exactly))
    assert all((found[name] == theirs[name]).all() for name in theirs)
    layer = arithmetic.layers_of(model)[0]["block1_depthwise_quant"]
    with pytest.raises(UnusableInput, match="16 groups: one needed, or grouped_products"):
        variants.unsigned_products(theirs[layer.x_name], layer.conv)


def test_ranges_are_taken_of_the_layers_that_lie_on_arrays(tmp_path):
    """Others, of 9-bit weights, stay exact; they do not end the study."""
    files = made(tmp_path, "mobilenet_v2", "QOperator-uint8-uint8-channels", images=4)
    plan = planned(files, "[analog]\nadc_bits = 6\ncalibrated = 2\n")
    row = study.run(plan, tmp_path / "out")[1]
    assert row.left and all("cells take" in why for why in row.left.values())
    assert set(row.left) < set(plan.facts["layers"])


# --- fewer bits


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
@pytest.mark.parametrize("bits", range(2, 9))
def test_coarser_activations_have_as_many_values(dtype, bits):
    info = np.iinfo(dtype)
    every = np.arange(info.min, info.max + 1).astype(dtype)
    for zero in (info.min, info.min + 5, 0, 77, info.max):
        y = arithmetic.coarser(every, zero, bits)
        assert y.dtype == dtype and len(np.unique(y)) <= 2**bits
        assert y[every == zero] == zero  # real 0 is exact
        step = 2 ** (8 - bits)
        assert not ((y.astype(int) - zero) % step).any()
        near = np.abs(y.astype(int) - every.astype(int))
        assert near.max() < step
        assert (np.diff(y.astype(int)) >= 0).all()
    assert (arithmetic.coarser(every, 3, 8) == every).all()


@pytest.mark.parametrize("name", ["resnet8_int8", "mobilenet_int8_per_channel"])
def test_narrower_weights_are_the_nearest_of_their_grid(name):
    for layer in arithmetic.layers_of(load(MODELS / f"{name}.onnx"))[0].values():
        conv = layer.conv
        assert arithmetic.narrowed(conv, 8, True) is conv
        for bits, split in ((4, True), (5, False)):
            other = arithmetic.narrowed(conv, bits, split)
            top = 2 ** (bits - 1) - 1
            assert np.abs(other.w).max() <= top and not other.w_zero_point.any()
            old = np.broadcast_to(conv.w_scale, len(conv.w)).reshape(-1, *(1,) * (conv.w.ndim - 1))
            new = other.w_scale.reshape(old.shape)
            real, made = conv.w * old.astype(float), other.w * new.astype(float)
            assert (np.abs(real - made) <= new / 2 * (1 + 1e-6)).all()
            bias = conv.bias * old.ravel().astype(float) / new.ravel()
            assert np.abs(other.bias - bias).max() <= 0.5 + 1e-6
            assert split or len(np.unique(other.w_scale)) == 1


# --- other networks


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("mobilenet_v2", "QDQ-int8-int8"),
        ("mobilenet_v1", "QOperator-uint8-uint8-channels"),
        ("squeeze_excite", "QDQ-uint8-int8"),
        ("autoencoder", "QOperator-int8-int8"),
        ("wavenet", "QDQ-int8-int8-channels"),
        ("u_net", "QOperator-uint8-int8"),
        ("transformer", "QDQ-uint8-int8"),
    ],
)
def test_any_network_is_studied_and_what_stays_is_named(name, form, tmp_path):
    files = made(tmp_path, name, form, images=6, labels=False)
    text = (
        "[accumulators]\nbits = [10, 32]\nhow = ['wrap', 'saturate at the end']\n"
        "[requantization]\nmultiplier_bits = [0, 31]\n"
        "[bit_widths]\nweights = 3\nactivations = [3, 8]\n[analog]\nadc_bits = 4\n"
    )
    plan = planned(files, text)
    assert not plan.facts["checked"]["differing"]
    rows = study.run(plan, tmp_path / "out")
    assert row_of(rows, "exact").counts["same"] == 6
    assert row_of(rows, "32 bits, wrap").counts["same"] == 6
    assert not sum(wrong for wrong, _ in row_of(rows, "32 bits, wrap").differing.values())
    assert sum(wrong for wrong, _ in row_of(rows, "10 bits, wrap").differing.values())
    narrow = row_of(rows, "weights 3 bits, per-channel, activations 3 bits")
    assert sum(wrong for wrong, _ in narrow.differing.values())
    grouped = {n for n, layer in arithmetic.layers_of(plan.network.graph)[0].items()
               if layer.conv.attributes.get("group", 1) > 1}  # fmt: skip
    on_arrays = row_of(rows, "adc_bits 4")
    assert all("cells take" in why for why in on_arrays.left.values())  # weights of 9 bits
    assert not on_arrays.left or "uint8-uint8" in form
    assert (name in ("mobilenet_v1", "mobilenet_v2")) == bool(grouped)
    assert all(on_arrays.differing[layer][0] for layer in grouped - set(on_arrays.left))
    if name == "u_net":
        assert any("ConvTranspose" in why for why in plan.facts["left"].values())
    text = page.html(plan, rows)
    assert all(name in text for name in plan.facts["left"])


def test_a_fixed_batch_is_fed_as_it_is(tmp_path):
    proto = quantized("vgg", "QOperator-int8-int8")
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    onnx.save(proto, tmp_path / "four.onnx")
    _, data = made(tmp_path, "vgg", "QOperator-int8-int8", images=11)
    files = tmp_path / "four.onnx", data
    text = "[accumulators]\nbits = 14\nhow = 'wrap'\nimages = 5\n"
    with pytest.raises(UnusableInput, match=r"shape \(11, 3, 16, 16\) does not fit"):
        planned(files, text)
    held = np.load(data)
    np.savez(data, x=held["x"][:8], labels=held["labels"][:8])
    plan = planned(files, text)
    assert (plan.images, plan.job.runs) == (8, 4)
    assert [s.images for s in plan.settings] == [8, 4]
    rows = study.run(plan, tmp_path / "out")
    assert rows[1].counts["images"] == 4
    # the same as with any number at once
    free = planned((tmp_path / "vgg.onnx", data), text)
    other = study.run(free, tmp_path / "free")
    assert other[0].counts == rows[0].counts


def test_what_keeps_its_bits_is_said(tmp_path):
    """An 8-bit input, and a tensor whose range is that of its batch."""
    proto = quantized("vgg", "QOperator-int8-int8")
    quantize = proto.graph.node[0]
    assert quantize.op_type == "QuantizeLinear"
    proto.graph.node.remove(quantize)
    proto.graph.input[0].name = quantize.output[0]
    proto.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.INT8
    onnx.save(proto, tmp_path / "m.onnx")
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "d.npz", x=rng.integers(-128, 128, (4, 3, 16, 16)).astype(np.int8))
    files, text = (tmp_path / "m.onnx", tmp_path / "d.npz"), "[bit_widths]\nactivations = 3\n"
    plan = planned(files, text)
    assert plan.facts["activations_left"] == [f"input {quantize.output[0]}"]
    shown = page.html(plan, study.run(plan, tmp_path / "out"))
    assert f"keep their bits in every setting, of: input {quantize.output[0]}." in shown
    assert "--batch" not in shown
    proto = quantized("vgg", "QOperator-int8-int8")
    x = proto.graph.input[0].name
    for node in proto.graph.node:
        node.input[:] = ["again" if name == x else name for name in node.input]
    make = onnx.helper.make_node
    proto.graph.node.insert(0, make("DequantizeLinear", ["q", "s", "z"], ["again"], "back"))
    proto.graph.node.insert(0, make("DynamicQuantizeLinear", [x], ["q", "s", "z"], "dynamic"))
    onnx.save(proto, tmp_path / "m.onnx")
    np.savez(tmp_path / "d.npz", x=rng.normal(0, 1, (4, 3, 16, 16)).astype(np.float32))
    plan = planned(files, text)
    assert plan.facts["activations_left"] == ["dynamic"]
    shown = page.html(plan, study.run(plan, tmp_path / "two"))
    assert "range from all images of a run, up to 8: the numbers depend on --batch" in shown


def test_another_file_is_another_setting(vgg, tmp_path):
    for name, bits in (("same.onnx", ""), ("channels.onnx", "-channels")):
        onnx.save(quantized("vgg", f"QOperator-int8-int8{bits}"), tmp_path / name)
    toml = tmp_path / "files.toml"
    toml.write_text("[files]\nfile = ['same.onnx', 'channels.onnx']\nsaturate = [8, 4]\n")
    plan = planned((*vgg[:2], toml))
    rows = study.run(plan, tmp_path / "out")
    assert row_of(rows, "same.onnx").counts["same"] == 24
    assert row_of(rows, "same.onnx, saturated to 4 bits").counts["same"] < 24
    assert str(tmp_path) not in report.as_json(plan, rows)
    # as the chapter has it
    model = load(tmp_path / "channels.onnx")
    x, output = np.load(vgg[1])["x"], next(iter(model.outputs))
    found = ort.tensors(model, x)[output].argmax(1)
    labels = np.load(vgg[1])["labels"]
    assert row_of(rows, "channels.onnx").counts["right"] == (found == labels).sum()


# --- resuming


def test_a_study_that_was_stopped_goes_on(vgg, alone, tmp_path):
    plan = planned(vgg)
    total, out = len(study.tasks(plan)), tmp_path / "out"
    asked: list[tuple[int, int]] = []

    def stopping(results, title, count, done):
        asked.append((count, done))
        for i, result in enumerate(results):
            if len(asked) == 1 and i == 7:
                raise KeyboardInterrupt
            yield result

    with pytest.raises(KeyboardInterrupt):
        study.run(plan, out, progress=stopping)
    with (out / workers.JOURNAL).open("ab") as file:  # as if the machine had stopped in a line
        file.write(b'deadbeef {"setting": ')
    rows = study.run(plan, out, progress=stopping)
    assert asked == [(total, 0), (total, 7)]
    assert outputs(plan, rows) == outputs(alone[0], alone[1])
    assert study.run(plan, out, progress=stopping) == rows
    assert len(asked) == 2  # nothing was left to do
    # more settings: only those are computed
    more = planned(vgg, SMALL + "\n[[files]]\nfile = 'vgg.onnx'\n")
    study.run(more, out, progress=stopping)
    assert asked[-1] == (total + 3, total)


def test_results_of_different_studies_are_never_mixed(vgg, tmp_path):
    text = "[accumulators]\nbits = 12\nhow = 'wrap'\n"
    plan, out = planned(vgg, text), tmp_path / "out"
    study.run(plan, out)
    before = (out / workers.JOURNAL).read_bytes()
    for name, value in (
        ("model", "0"),
        ("data", "0"),
        ("batch", 9),
        ("images", 3),
        ("versions", {}),
    ):
        other = replace(plan, header={**plan.header, name: value})
        with pytest.raises(UnusableInput, match=f"holds a study with another {name}.*never mixed"):
            study.run(other, out)
    assert (out / workers.JOURNAL).read_bytes() == before
    for name, value, said in (
        ("versions", {**plan.header["versions"], "numpy": "0"}, "versions: numpy"),
        ("batch", None, "batch"),  # a key that this version does not have
    ):
        header = {**plan.header, name: value}
        if value is None:
            del header[name]
        with pytest.raises(UnusableInput, match=f"another {said} .*never mixed: name") as refused:
            study.run(replace(plan, header=header), out)
        assert "\n" not in str(refused.value)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(UnusableInput, match="not an empty folder"):
        study.run(plan, tmp_path / "full")


def line_of(change) -> bytes:
    """A line of a journal with this in place of what a task found."""
    counts = dict.fromkeys(measure.COUNTS, 1) | {"differing": {"layer": [0, 1]}}
    record = {"setting": "key", "start": 0, "stop": 8, "counts": counts}
    change(record, record["counts"])
    return workers._line(record).encode()


WRONG_LINES = {
    "cut": b'deadbeef {"setting": "k',
    "another check": b'00000000 {"a": 1}\n',
    "no text": b"\xff\xfe\x00\n",
    "empty": b"\n",
    "no JSON": b"%08x {\n" % zlib.crc32(b"{"),
    "a list": b"%08x []\n" % zlib.crc32(b"[]"),
    "deep": b"%08x %s\n" % (zlib.crc32(b"[" * 100_000), b"[" * 100_000),
    "no start": line_of(lambda r, c: r.pop("start")),
    "no counts": line_of(lambda r, c: r.pop("counts")),
    "no images": line_of(lambda r, c: c.pop("images")),
    "a key that is a list": line_of(lambda r, c: r.update(setting=[])),
    "a share": line_of(lambda r, c: c.update(same=0.5)),
    "true": line_of(lambda r, c: r.update(start=True)),
    "less than none": line_of(lambda r, c: c.update(right=-1)),
    "a pair of one": line_of(lambda r, c: c["differing"].update(layer=[1])),
    "differing layers in a list": line_of(lambda r, c: c.update(differing=[["layer", 1, 2]])),
}


@pytest.mark.parametrize("name", WRONG_LINES)
def test_a_wrong_line_is_done_again_or_refused(name, vgg, tmp_path):
    """At the end it may be cut, so its task is done again; elsewhere someone wrote into it."""
    plan, out = planned(vgg, "[accumulators]\nbits = 12\nhow = 'wrap'\n"), tmp_path / "out"
    rows, path = study.run(plan, out), out / workers.JOURNAL
    lines = path.read_bytes().splitlines(keepends=True)
    assert workers._result(workers._record(line_of(lambda r, c: None))) is not None
    path.write_bytes(b"".join(lines[:-1]) + WRONG_LINES[name])
    assert study.run(plan, out) == rows
    assert path.read_bytes() == b"".join(lines)
    middle = b"".join([*lines[:2], WRONG_LINES[name].rstrip(b"\n") + b"\n", *lines[2:]])
    path.write_bytes(middle)
    with pytest.raises(UnusableInput, match=r"journal.txt: line 3 is damaged; name") as refused:
        study.run(plan, out)
    assert "\n" not in str(refused.value) and path.read_bytes() == middle


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"my own notes\n", b"%08x 5\n" % zlib.crc32(b"5"), None]
)
def test_a_file_that_is_no_journal_is_refused_and_kept(content, vgg, tmp_path):
    path = tmp_path / "out" / workers.JOURNAL
    if content is None:
        path.mkdir(parents=True)
    else:
        path.parent.mkdir()
        path.write_bytes(content)
    argv = ["study", str(vgg[0]), "--data", str(vgg[1]), "--workers", "0", "--accumulators", "12"]
    with pytest.raises(UnusableInput, match=rf"^{re.escape(str(path))}: no .* --out$") as refused:
        cli.main([*argv, "--out", str(path.parent)])
    assert "\n" not in str(refused.value)
    assert path.is_dir() if content is None else path.read_bytes() == content
    assert [p.name for p in path.parent.iterdir()] == [workers.JOURNAL]


def test_a_study_that_found_nothing_leaves_nothing(vgg, tmp_path, monkeypatch):
    plan = planned(vgg[:2], "[accumulators]\nbits = 14\nhow = 'wrap'\n", images=8)

    def nobody(*args):
        raise UnusableInput("no scheduler there")
        yield

    with monkeypatch.context() as patched:
        patched.setattr(study, "here", nobody)
        with pytest.raises(UnusableInput, match="no scheduler there"):
            study.run(plan, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    study.run(plan, tmp_path / "out")
    with monkeypatch.context() as patched:  # what is there stays
        patched.setattr(study, "here", nobody)
        study.run(plan, tmp_path / "out")
    assert (tmp_path / "out" / workers.JOURNAL).exists()


def test_one_study_at_a_time_writes_to_a_folder(vgg, tmp_path):
    pytest.importorskip("fcntl")
    plan = planned(vgg, "[accumulators]\nbits = 12\nhow = 'wrap'\n")
    with (
        workers.journal(tmp_path / "out", plan.header),
        pytest.raises(UnusableInput, match="another study is writing"),
    ):
        study.run(plan, tmp_path / "out")


# --- workers


def dask():
    needs(workers.there(), "Dask's distributed")
    import distributed

    return distributed


FARMED = """
[accumulators]
bits = [12, 14]
how = "wrap"
sensitivity = 8
[[analog]]
adc_bits = 7
adc_noise = 0.5
programming = "proportional"
sigma = 0.05
seed = [0, 1]
[[analog]]
design = "PCM core"
calibrated = 4
images = 10
"""


@pytest.fixture(scope="module")
def farmed(vgg, tmp_path_factory) -> tuple[study.Plan, tuple[str, str, str]]:
    """A smaller study, and what this process makes of it."""
    plan = planned(vgg, FARMED)
    return plan, outputs(plan, study.run(plan, tmp_path_factory.mktemp("farmed") / "out"))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_bytes_are_the_same_whoever_works(count, farmed, tmp_path):
    dask()
    plan, wanted = farmed
    assert outputs(plan, study.run(plan, tmp_path / "out", processes=count)) == wanted


@pytest.mark.parametrize("count", [1, 2])
def test_a_killed_workers_work_is_done_again(count, farmed, tmp_path):
    distributed = dask()
    plan, wanted = farmed
    with distributed.LocalCluster(
        n_workers=count, threads_per_worker=1, processes=True, dashboard_address=None,
        silence_logs="CRITICAL",
    ) as cluster:  # fmt: skip
        killed = []

        def killing(results, title, total, done):
            for i, result in enumerate(results):
                if i == 2:
                    with distributed.Client(cluster) as client:
                        pids = client.run(os.getpid)
                    killed.append(min(pids.values()))
                    os.kill(killed[0], signal.SIGKILL)
                yield result

        rows = study.run(
            plan, tmp_path / "out", scheduler=cluster.scheduler_address, progress=killing
        )
    assert killed and outputs(plan, rows) == wanted


def test_a_lost_scheduler_is_one_line(monkeypatch):
    def lost(*args):
        yield ("key", 0, 1), {}
        raise OSError("Connection reset by peer")

    monkeypatch.setattr(workers, "_by_dask", lost)
    results = workers.by_dask(None, None, [], None)
    assert next(results) == (("key", 0, 1), {})
    with pytest.raises(UnusableInput, match=r"scheduler is lost \(Connection reset.*run again"):
        next(results)
    # one that comes back soon enough is no loss; one that does not is
    monkeypatch.setattr(workers, "LOSS", 0.3)
    client = SimpleNamespace(status="connecting")
    threading.Timer(0.1, setattr, (client, "status", "running")).start()
    workers._require_scheduler(client)
    for status in ("connecting", "closed"):
        with pytest.raises(UnusableInput, match=r"scheduler is lost .*finished is kept.*again"):
            workers._require_scheduler(SimpleNamespace(status=status))
    level = logging.getLogger("distributed").level
    with workers._quiet():
        assert not logging.getLogger("distributed").isEnabledFor(logging.ERROR)
    assert logging.getLogger("distributed").level == level


def test_a_scheduler_that_dies_is_noticed_within_seconds(farmed, tmp_path):
    dask()
    plan, wanted = farmed
    at, quiet = tmp_path / "at.json", dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    scheduler = subprocess.Popen(
        [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1",
         "--port", "0", "--no-dashboard", "--scheduler-file", at], **quiet)  # fmt: skip
    worker = subprocess.Popen(
        [sys.executable, "-m", "distributed.cli.dask_worker", "--scheduler-file", at,
         "--nthreads", "1", "--no-nanny", "--no-dashboard"], env=environment, **quiet)  # fmt: skip
    try:
        while not at.exists() or not at.read_text():
            assert scheduler.poll() is None
            time.sleep(0.05)
        died: list[float] = []

        def killing(results, title, total, done):
            for i, result in enumerate(results):
                yield result
                if i == 2:
                    scheduler.kill()
                    died.append(time.monotonic())

        address = json.loads(at.read_text())["address"]
        with pytest.raises(UnusableInput, match=r"scheduler is lost .*what is finished is kept"):
            study.run(plan, tmp_path / "out", scheduler=address, progress=killing)
        assert time.monotonic() - died[0] < 30  # five seconds, and what a busy machine takes
    finally:
        for process in (scheduler, worker):
            process.kill()
            process.wait()
    kept = (tmp_path / "out" / workers.JOURNAL).read_bytes().count(b"\n") - 1
    assert kept >= 3
    assert outputs(plan, study.run(plan, tmp_path / "out")) == wanted


def test_a_worker_of_another_version_is_refused(farmed, tmp_path, monkeypatch):
    distributed = dask()
    plan, _ = farmed
    monkeypatch.setattr(workers, "versions", lambda: {"numpy": "0"})
    with (
        distributed.LocalCluster(
            n_workers=1, processes=False, dashboard_address=None, silence_logs="CRITICAL"
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        monkeypatch.setattr(client, "run", lambda _: {"w": {"numpy": "1"}})
        with pytest.raises(UnusableInput, match="a worker has numpy 1, this process 0"):
            list(workers.by_dask(client, plan.job, study.tasks(plan), None))


def test_without_dask_the_message_says_what_to_install(vgg, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "distributed", None)
    toml = tmp_path / "few.toml"
    toml.write_text("[accumulators]\nbits = 12\nhow = 'wrap'\n")
    argv = ["study", str(vgg[0]), "--data", str(vgg[1]), "--out", str(tmp_path / "out")]
    argv += ["--settings", str(toml)]
    for more in (["--workers", "2"], ["--scheduler", "tcp://127.0.0.1:9"]):
        with pytest.raises(UnusableInput, match=r"pip install 'qlinear\[study\]', or --workers 0"):
            cli.main([*argv, *more])
    assert not (tmp_path / "out").exists()
    assert cli.main(argv) == 0
    assert "pip install 'qlinear[study]'" in capsys.readouterr().err


# --- the command and the report


def test_the_command_writes_a_report_that_loads_nothing(vgg, tmp_path, capsys):
    out = tmp_path / "out"
    argv = ["study", str(vgg[0]), "--data", str(vgg[1]), "--out", str(out), "--workers", "0"]
    assert cli.main([*argv, "--accumulators", "12,14,20", "--weights", "3", "--batch", "8"]) == 0
    printed = capsys.readouterr().out
    assert "Proven, for every input" in printed and "of its standard errors" in printed
    files = {workers.JOURNAL, "report.html", "results.csv", "results.json"}
    assert {path.name for path in out.iterdir()} == files
    text = (out / "report.html").read_text()
    assert not re.findall(r"(?:src|href)=[\"'](?!data:|#)", text)
    assert "http" not in text.replace("http://www.w3.org", "")
    assert text.count("<svg") >= 1 and "</html>" in text
    found = json.loads((out / "results.json").read_text())
    assert found["study"]["model"] == settings.identity(load(vgg[0]))
    assert str(tmp_path) not in json.dumps(found) and str(tmp_path) not in text
    assert (out / "results.csv").read_text().count("\n") == len(found["rows"]) + 1
    with pytest.raises(SystemExit):
        cli.main(["study", "--print-settings"])
    assert capsys.readouterr().out == settings.DEFAULT.read_text()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (dict(y=np.zeros(3, int)), "y has shape (3,), for 24 images"),
        (dict(y=np.zeros(24)), "y has type float64: whole numbers needed"),
        (dict(y=np.full(24, -1)), "y holds -1: classes count from 0"),
        (dict(y=np.full(24, 2**63, np.uint64)), "y holds 9223372036854775808: classes"),
        (dict(x=np.zeros((24, 3, 9, 9), np.float32)), "does not fit input x"),
        (dict(x=np.full((24, 3, 16, 16), np.nan, np.float32)), "not finite"),
        (dict(x=None, z=np.zeros(3)), "holds z, not x or x"),
    ],
)
def test_data_that_do_not_fit_are_refused(change, said, vgg, tmp_path):
    held = {"x": np.load(vgg[1])["x"], **change}
    np.savez(tmp_path / "d.npz", **{k: v for k, v in held.items() if v is not None})
    model = load(vgg[0])
    said = said.replace("not x or x", f"not {next(iter(model.inputs))} or x")
    with pytest.raises(UnusableInput, match=re.escape(said)):
        study.read_data(model, tmp_path / "d.npz")


def test_what_cannot_be_studied_is_refused(vgg, tmp_path):
    model = load(MODELS / "resnet8.onnx")
    images, labels = load_samples()
    np.savez(tmp_path / "d.npz", x=images, y=labels)
    data = study.read_data(model, tmp_path / "d.npz")
    asked = [Setting("accumulators", (("bits", 12), ("how", "wrap")))]
    with pytest.raises(UnusableInput, match="no layer that could vary"):
        study.plan(model, data, asked)
    with pytest.raises(UnusableInput, match="no output 'nope'"):
        study.plan(load(vgg[0]), study.read_data(load(vgg[0]), vgg[1]), asked, output="nope")
    toml = tmp_path / "files.toml"
    onnx.save(quantized("lenet", "QOperator-int8-int8"), tmp_path / "lenet.onnx")
    toml.write_text("[files]\nfile = 'lenet.onnx'\n")
    with pytest.raises(UnusableInput, match="its inputs are not those of"):
        planned((*vgg[:2], toml))


def test_labels_are_classes_of_the_output(vgg, tmp_path):
    held = np.load(vgg[1])
    np.savez(tmp_path / "d.npz", x=held["x"], labels=np.where(np.arange(24) < 8, 3, 10))
    with pytest.raises(UnusableInput, match="a label is 10, output y has 10 classes"):
        planned((vgg[0], tmp_path / "d.npz"), "[accumulators]\nbits = 18\n")
    planned((vgg[0], tmp_path / "d.npz"), "[accumulators]\nbits = 18\n", images=8)


@pytest.mark.parametrize(
    ("op", "attributes", "shape"),
    [
        ("ReduceMax", dict(keepdims=0), r"\(\) for 8 images"),
        ("ReduceMax", dict(keepdims=1, axes=[0]), r"\(1, 10\) for 8 images"),
        ("Transpose", dict(perm=[1, 0]), r"\(10, 1\) for 1 image"),
    ],
)
def test_an_output_has_an_axis_of_images(op, attributes, shape, vgg, tmp_path):
    proto = onnx.load(vgg[0])
    end = onnx.helper.make_node(op, [proto.graph.output[0].name], ["end"], **attributes)
    proto.graph.node.append(end)
    proto.graph.output[0].CopyFrom(onnx.ValueInfoProto(name="end"))
    proto.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    onnx.save(proto, tmp_path / "m.onnx")
    some = dict(batch=10) if op == "Transpose" else {}  # as many images as classes
    with pytest.raises(UnusableInput, match=shape):
        planned((tmp_path / "m.onnx", vgg[1]), "[accumulators]\nbits = 18\n", **some)


def test_a_file_that_is_no_zip_ends_in_one_line(vgg, tmp_path):
    (tmp_path / "d.npz").write_bytes(b"junk")
    command = [sys.executable, "-m", "qlinear", "study", vgg[0], "--data", tmp_path / "d.npz"]
    done = subprocess.run([*command, "--out", tmp_path / "out"], capture_output=True, text=True,
                          cwd=ROOT)  # fmt: skip
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "d.npz" in done.stderr
    assert not (tmp_path / "out").exists()


def test_exact_is_the_first_row(alone):
    assert alone[1][0].setting == replace(Setting(EXACT), images=24)


def test_a_layer_of_a_network_is_the_convolution_that_it_is():
    model = load(MODELS / "resnet8_int8.onnx")
    x = load_samples()[0][:2].astype(np.float32)
    values = engine.run(model, x)
    layers, left = arithmetic.layers_of(model)
    assert len(layers) == 10 and not left
    for layer in layers.values():
        y = qc.stages(layer.as_image(values[layer.x_name]), layer.conv).y
        assert (layer.as_output(y, values[layer.x_name]) == values[layer.y_name]).all()


# --- the book's own


def test_the_books_settings_are_those_of_its_record(tmp_path):
    """Every row of models/hardware.json, in its order, from a setting of study/hardware.py."""
    from study import hardware

    record = json.loads((MODELS / "hardware.json").read_text())
    counts = dict.fromkeys(measure.COUNTS, 1)
    asked = sorted(settings.read(hardware.SETTINGS), key=hardware.order)
    measured = ("accuracy", "lost", "gained", "differing")
    for section, made_of in (
        ("accumulators", hardware.accumulators),
        ("requantization", hardware.requantization),
    ):
        rows = [made_of(study.Row(s, counts, {}, {})) for s in asked if s.section == section]
        assert len(rows) == len(record[section])
        for ours, theirs in zip(rows, record[section], strict=True):
            assert list(ours) == list(theirs)
            assert all(ours[k] == theirs[k] for k in theirs if k not in measured), (ours, theirs)
    said = [said for said, _ in hardware.narrower(tmp_path, MODELS)]
    kept = [{k: v for k, v in row.items() if k not in measured} for row in record["bit_widths"]]
    assert said == kept
    assert hardware.bounds(load(MODELS / "resnet8_int8.onnx")) == record["bounds"]
    for section in ("accumulators", "requantization", "bit_widths"):
        for row in record[section]:  # what was lost and gained adds up to the accuracy
            right = round(record["exact"] * record["images"]) - row["lost"] + row["gained"]
            assert right == round(row["accuracy"] * record["images"]), row


def test_a_requantizer_is_that_of_the_chapters():
    from study import hardware

    model = load(MODELS / "resnet8_int8.onnx")
    images, labels = load_samples()
    data = study.Data("samples", {"image": images[:2]}, labels[:2])
    asked = [s for s in settings.read(hardware.SETTINGS) if s.section == "requantization"][:2]
    plan = study.plan(model, data, asked, batch=2)
    at = measure.ready(plan.job)
    values = engine.run(model, images[:2].astype(np.float32))
    for setting in asked:
        found = measure.measure(at, setting, study.batch_of(plan, 0, 2))["differing"]
        for name, layer in at.layers.items():
            acc = qc.stages(layer.as_image(values[layer.x_name]), layer.conv).acc
            factor, zero = layer.conv.factor, layer.conv.y_zero_point
            bits = setting["multiplier_bits"]
            way = requantizers.fixed_point(factor, bits) if bits else None
            parts = way or requantizers.power_of_two(factor)
            y = requantizers.requantize_fixed(acc, *parts, zero, "half up")
            wrong = layer.as_output(y, values[layer.x_name]) != values[layer.y_name]
            assert found[name] == [int(wrong.sum()), wrong.size]
