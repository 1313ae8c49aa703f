"""Whole networks of the usual kinds, in every form that the quantizer writes, end in PASS."""

from collections import Counter

import numpy as np
import pytest
from conftest import COUNTED, quantizes
from networks import DYNAMIC, FORMS, NETWORKS, quantized

from qlinear import ort
from qlinear.fuse import fuse
from qlinear.inputs import Feed
from qlinear.onnx_model import from_proto
from qlinear.validate import Verdict, validate

# ONNX Runtime leaves these in float: layers of 16-bit activations or 4-bit weights, and, in QDQ
# form, transposed convolutions
IN_FLOAT = ("int16", "int4")


def verdict_of(name: str, form: str) -> Verdict:
    x = np.random.default_rng(1).normal(0, 1, (2, *NETWORKS[name][1])).astype(np.float32)
    return validate(from_proto(quantized(name, form)), [Feed({"x": x}, "random")])


@quantizes
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_passes_in_every_form(name):
    for form in FORMS:
        verdict = verdict_of(name, form)
        coverage = verdict.coverage
        assert verdict.status == "PASS", (form, coverage.left_out)
        COUNTED.update(Counter({c.operator: c.elements for c in verdict.tensors}))
        assert coverage.quantized == coverage.recomputed > 0
        borrowed = coverage.mac - coverage.mac_recomputed
        if any(width in form for width in IN_FLOAT):
            assert borrowed > 0, form
        elif name == "u_net":
            assert borrowed == coverage.float.get("ConvTranspose", 0) == 1, form
        elif name == "transformer" and form in DYNAMIC:
            assert borrowed == 2, form  # the products of two activations, which have no weights
        else:
            assert borrowed == 0, (form, coverage.float)


@quantizes
def test_weights_of_files_with_16_bits_are_not_fused_into_matmulnbits():
    # that would round the activations to 8 bits
    model = from_proto(quantized("autoencoder", "QDQ-int16-int8"))
    made = ort.optimized(model, ort.Settings((ort.INT8_QDQ,)))
    assert "MatMulNBits" in {node.op_type for node in made.graph.node}
    network = fuse(model)
    assert ort.UNFUSED in network.settings.entries
    assert "MatMulNBits" not in {node.op_type for node in network.graph.nodes}
    # where integer layers are fused too, those are what the verdict is about
    assert ort.UNFUSED not in fuse(from_proto(quantized("vgg", "QDQ-int8-int8"))).settings.entries
