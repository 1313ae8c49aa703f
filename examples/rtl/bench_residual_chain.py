"""Convolution, requantization and residual addition in a row; each waits for others at times."""

import random

import golden
import numpy as np
import streams

BLOCK, POSITIONS = "residual_chain", 24
LATENCY = 7  # clocks from an element's last pair to its sum with the shortcut
FIELDS = ("first", "last", "bias", "x", "w", "mantissa", "shift")


def joined() -> tuple[dict, dict]:
    """The first addition whose input A is a convolution's output, and that convolution."""
    convs = {layer["name"]: layer for layer in golden.layers("QLinearConv")}
    for layer in golden.layers("com.microsoft.QLinearAdd"):
        for edge in golden.manifest()["edges"]:
            if edge["to"] == layer["name"] and edge["input"] == "A" and edge["from"] in convs:
                return layer, convs[edge["from"]]
    raise AssertionError("the vectors hold no addition of a convolution's output")


@streams.bench
async def residual_chain(dut):
    port, rng = streams.ports(dut, BLOCK), random.Random(0)
    add, conv = joined()
    constants, image, sums = golden.arrays(add, "pairs"), golden.arrays(conv), golden.arrays(add)
    for name in ("factor_a", "factor_b", "constant"):
        port(name).value = int(constants[name])
    port("y_zero_point").value = golden.zero(conv, "y")
    await streams.start(dut, port, ["in", "b"], "c")

    x, factors = golden.padded(conv, image["x"]), golden.factors(conv)
    _, channels, height, width = image["acc"].shape
    places = [(0, 0), (height - 1, width - 1)]
    places += [(rng.randrange(height), rng.randrange(width)) for _ in range(POSITIONS - 2)]
    words, shortcut, expected, names = [], [], [], []
    for row, column in places:
        for m in range(channels):  # the next element is another channel's: so is its factor
            pairs = golden.products(conv, x, m, row, column)
            words += golden.element(int(image["bias"][m]), pairs, *factors[m])
            shortcut.append((int(sums["B"][0, m, row, column]),))
            expected.append(int(sums["y"][0, m, row, column]))
            names.append(f"{add['name']}, channel {m}, row {row}, column {column}")

    # the first position at full rate: one pair a clock
    taps = len(words) // len(expected)
    sources = [streams.Source("in", FIELDS, words[: taps * channels]),
               streams.Source("b", ("b",), shortcut[:channels])]  # fmt: skip
    counts = await streams.exchange(dut, port, sources, "c", expected[:channels], names.__getitem__)
    assert counts["clocks"] == taps * channels + LATENCY and not counts["in"], counts

    # all, with a shortcut and a taker that are late for more elements than the chain holds
    sources = [streams.Source("in", FIELDS, words, rate=0.97),
               streams.Source("b", ("b",), shortcut, rate=0.008)]  # fmt: skip
    stalled = await streams.exchange(
        dut, port, sources, "c", expected, names.__getitem__, seed=2, rate=0.01
    )
    assert stalled["in"] and stalled["b"] and stalled["c"], stalled
    outputs = int(np.prod(image["acc"].shape))
    return dict(
        latency=LATENCY,
        checked=[
            f"{conv['name']} and {add['name']}: {len(expected)} of {outputs} outputs of image "
            f"0, {channels} channels at {len(places)} positions, {len(words)} products",
            f"{stalled['in']} clocks of pairs, {stalled['b']} of the shortcut and {stalled['c']} "
            "of results that waited; the first position at full rate too, one product a clock",
        ],
        not_checked=[
            f"the other {outputs - len(expected)} outputs of image 0, every other image and the "
            "network's other blocks",
            "accumulators at their bounds: the benches of the parts give them",
        ],
    )
