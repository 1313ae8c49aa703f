"""Convolution, requantization and residual addition in a row; each waits for others at times."""

import random

import golden
import numpy as np
import streams

BLOCK, FIELDS = "residual_chain", ("first", "last", "bias", "x", "w", "mantissa", "shift")
LATENCY = 7  # clocks from an element's last pair to its sum with the shortcut
PRODUCTS = 25_000  # of a layer, about


def joined() -> dict[str, tuple[dict, str, dict]]:
    """An addition, the name of its input that a convolution gives, and that convolution.

    The first where all channels have one factor, and the first where each has its own: there the
    factor of another channel would be noticed.
    """
    convs = {layer["name"]: layer for layer in golden.layers("QLinearConv")}
    adds = {layer["name"]: layer for layer in golden.layers("com.microsoft.QLinearAdd")}
    found = {}
    for edge in golden.manifest()["edges"]:
        if edge["to"] in adds and edge["from"] in convs:
            conv = convs[edge["from"]]
            kind = "per-channel" if len(set(golden.factors(conv))) > 1 else "per-tensor"
            found.setdefault(kind, (adds[edge["to"]], edge["input"], conv))
    assert found, "the vectors hold no addition of a convolution's output"
    return found


def vectors(add: dict, given: str, conv: dict, rng: random.Random) -> tuple[list, ...]:
    """Words of the pairs and of the shortcut, the sums, their names: all channels of a position."""
    image, sums = golden.arrays(conv), golden.arrays(add)
    x, factors = golden.padded(conv, image["x"]), golden.factors(conv)
    other = sums["B" if given == "A" else "A"]
    _, channels, height, width = image["acc"].shape
    count = max(2, PRODUCTS // image["w"].size)
    places = [(0, 0), (height - 1, width - 1)]
    places += [(rng.randrange(height), rng.randrange(width)) for _ in range(count - 2)]
    words, shortcut, expected, names = [], [], [], []
    for row, column in places:
        for m in range(channels):
            pairs = golden.products(conv, x, m, row, column)
            words += golden.element(int(image["bias"][m]), pairs, *factors[m])
            shortcut.append((int(other[0, m, row, column]),))
            expected.append(int(sums["y"][0, m, row, column]))
            names.append(f"{add['name']}, channel {m}, row {row}, column {column}")
    return words, shortcut, expected, names


@streams.bench
async def residual_chain(dut):
    port, rng = streams.ports(dut, BLOCK), random.Random(0)
    for name in ("factor_a", "factor_b", "constant", "y_zero_point"):
        port(name).value = 0
    await streams.start(dut, port, ["in", "b"], "c")
    checked, kinds = [], joined()
    for kind, (add, given, conv) in kinds.items():
        constants, ends = golden.arrays(add, "pairs"), "ab" if given == "A" else "ba"
        for name, end in zip("ab", ends, strict=True):
            port(f"factor_{name}").value = int(constants[f"factor_{end}"])
        port("constant").value = int(constants["constant"])
        port("y_zero_point").value = golden.zero(conv, "y")
        words, shortcut, expected, names = vectors(add, given, conv, rng)

        # all, with a shortcut and a taker that are late for more elements than the chain holds
        taps = len(words) // len(expected)
        sources = [streams.Source("in", FIELDS, words, rate=0.97),
                   streams.Source("b", ("b",), shortcut, rate=1.2 / taps)]  # fmt: skip
        waited = await streams.exchange(
            dut, port, sources, "c", expected, names.__getitem__, seed=2, rate=1.5 / taps
        )
        assert waited["in"] and waited["b"] and waited["c"], waited

        # some again, at full rate: one pair a clock
        few = len(expected) // 8
        sources = [streams.Source("in", FIELDS, words[: few * taps]),
                   streams.Source("b", ("b",), shortcut[:few])]  # fmt: skip
        counts = await streams.exchange(dut, port, sources, "c", expected[:few], names.__getitem__)
        assert counts["clocks"] == few * taps + LATENCY and not counts["in"], counts
        checked += [
            f"{conv['name']} ({kind}) and {add['name']}: {len(expected)} of "
            f"{int(np.prod(conv['shapes']['acc']))} outputs of image 0, {len(words)} products; "
            f"{waited['in']} clocks of pairs, {waited['b']} of the shortcut and {waited['c']} of "
            f"sums that waited; {few} outputs at full rate too, one product a clock",
        ]
    missing = sorted({"per-channel", "per-tensor"} - set(kinds))
    return dict(
        latency=LATENCY,
        checked=checked,
        not_checked=[
            "the other outputs of image 0, every other image, the network's other blocks",
            "accumulators at their bounds: the benches of the parts give them",
            *(f"a {kind} convolution: the vectors hold none" for kind in missing),
        ],
    )
