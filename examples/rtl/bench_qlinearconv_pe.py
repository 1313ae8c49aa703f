"""The processing element: accumulators of every convolution, and bounds of the widest channels."""

import random

import golden
import numpy as np
import streams

BLOCK, FIELDS = "qlinearconv_pe", ("first", "last", "bias", "x", "w")
SOME = 12  # outputs of a layer
LATENCY = 1  # clocks from an element's last pair to its sum


def of_image(layer: dict, rng: random.Random) -> list[tuple]:
    """Some outputs of image 0: the corners, where padding is, and others; words, acc and name."""
    found, image = [], golden.arrays(layer)
    x, (_, channels, height, width) = golden.padded(layer, image["x"]), image["acc"].shape
    ends = [(row, column) for row in (0, height - 1) for column in (0, width - 1)]
    others = [(rng.randrange(height), rng.randrange(width)) for _ in range(SOME - len(ends))]
    for row, column in ends + others:
        m = rng.randrange(channels)
        pairs = golden.products(layer, x, m, row, column)
        words = golden.element(int(image["bias"][m]), pairs)
        where = f"{layer['name']}, channel {m}, row {row}, column {column}"
        found.append((words, int(image["acc"][0, m, row, column]), where))
    return found


def of_bounds(layer: dict) -> list[tuple]:
    """The windows that give the layer's least and its greatest accumulator."""
    found, windows, constants = [], golden.arrays(layer, "windows"), golden.arrays(layer)
    for at in (int(np.argmin(windows["acc"])), int(np.argmax(windows["acc"]))):
        m, acc = int(windows["channel"][at]), int(windows["acc"][at])
        x = windows["x"][at].astype(int) - golden.zero(layer, "x")
        w = constants["w"][m].astype(int) - int(constants["w_zero_point"][m])
        pairs = list(zip(x.ravel().tolist(), w.ravel().tolist(), strict=True))
        words = golden.element(int(constants["bias"][m]), pairs)
        found.append((words, acc, f"{layer['name']}, channel {m}, a bound"))
    return found


def short(rng: random.Random) -> list[tuple]:
    """Elements of one to three pairs, one right after the other, with the ends of both ranges."""
    found = []
    for i in range(300):
        pairs = [(rng.choice([-255, 255, rng.randint(-255, 255)]), rng.choice([-128, 127, 0, 1]))
                 for _ in range(rng.randint(1, 3))]  # fmt: skip
        bias = rng.randint(-(2**20), 2**20)
        acc = bias + sum(x * w for x, w in pairs)
        found.append((golden.element(bias, pairs), acc, f"short element {i}"))
    return found


@streams.bench
async def qlinearconv_pe(dut):
    rng, layers = random.Random(0), golden.layers("QLinearConv")
    image = [one for layer in layers for one in of_image(layer, rng)]
    bounds = [one for layer in layers for one in of_bounds(layer)]
    elements = image + bounds + short(rng)
    words = [word for words, _, _ in elements for word in words]
    expected, names = ([one[i] for one in elements] for i in (1, 2))
    port = streams.ports(dut, BLOCK)
    await streams.start(dut, port, ["in"], "acc")

    # short elements, with both sides waiting for the other
    few = elements[-300:]
    source = streams.Source("in", FIELDS, [word for one in few for word in one[0]], rate=0.6)
    sums, labels = ([one[i] for one in few] for i in (1, 2))
    stalled = await streams.exchange(
        dut, port, [source], "acc", sums, labels.__getitem__, seed=1, rate=0.4
    )
    assert stalled["in"] and stalled["acc"], stalled

    # all at full rate, one pair a clock
    source = streams.Source("in", FIELDS, words)
    counts = await streams.exchange(dut, port, [source], "acc", expected, names.__getitem__)
    assert counts == {"clocks": len(words) + LATENCY}, counts

    outputs = sum(int(np.prod(layer["shapes"]["acc"])) for layer in layers)
    return dict(
        latency=LATENCY,
        checked=[
            f"{len(image)} accumulators of image 0 in {len(layers)} layers, {len(bounds)} bounds "
            f"of the layers' widest channels, 300 short elements: {len(words)} products",
            f"one product a clock; the short elements also with {stalled['in']} clocks of pairs "
            f"and {stalled['acc']} of sums that waited",
        ],
        not_checked=[
            f"the other {outputs - len(image)} accumulators of image 0, and every other image",
            "weights with zero points other than 0; accumulators of more than 22 bits",
        ],
    )
