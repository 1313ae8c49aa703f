"""The requantizer: every threshold and corner of every channel, at full rate and with stalls."""

import golden
import numpy as np
import streams

BLOCK, FIELDS = "requantizer", ("acc", "mantissa", "shift")
KINDS = ("corners", "thresholds")  # corners first: they hold the ties
LATENCY = 4  # clocks from an accumulator to its result


def between(thresholds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Accumulators in the middle between two neighbours of equal output, some of every channel."""
    channel, acc, y = (thresholds[name] for name in ("channel", "acc", "y"))
    inside = (channel[1:] == channel[:-1]) & (y[1:] == y[:-1]) & (acc[1:] - acc[:-1] > 1)
    at = np.flatnonzero(inside)[::16]
    middle = (acc[at].astype(np.int64) + acc[at + 1]) // 2
    return {"channel": channel[at], "acc": middle, "y": y[at]}


@streams.bench
async def requantizer(dut):
    port = streams.ports(dut, BLOCK)
    port("y_zero_point").value = 0
    await streams.start(dut, port, ["acc"], "y")
    layers, compared, waits = golden.layers(*golden.REQUANTIZES), dict.fromkeys(KINDS, 0), 0
    compared["between"], channels = 0, 0
    for layer in layers:
        factors = golden.factors(layer)
        channels += len(factors)
        port("y_zero_point").value = golden.zero(layer, "y")
        parts = {kind: golden.arrays(layer, kind) for kind in KINDS}
        parts["between"] = between(parts["thresholds"])
        for kind, part in parts.items():
            accs, of = part["acc"].tolist(), part["channel"].tolist()
            words = [(acc, *factors[m]) for acc, m in zip(accs, of, strict=True)]

            def where(i, layer=layer, accs=accs, of=of):
                return f"{layer['name']}, channel {of[i]}, acc {accs[i]}"

            # thresholds at full rate, one result a clock; the others with both sides waiting for
            # the other
            rate = 1.0 if kind == "thresholds" else 0.6
            source = streams.Source("acc", FIELDS, words, rate=rate)
            counts = await streams.exchange(
                dut, port, [source], "y", part["y"].tolist(), where, seed=len(words), rate=rate
            )
            if rate == 1:
                assert counts == {"clocks": len(words) + LATENCY}, counts
            else:
                assert counts["acc"] and counts["y"], counts
                waits += counts["acc"] + counts["y"]
            compared[kind] += len(words)
    return dict(
        latency=LATENCY,
        checked=[
            f"{channels} channels of {len(layers)} layers: {compared['thresholds']} thresholds "
            f"and neighbours, {compared['corners']} corners, {compared['between']} "
            "accumulators between",
            f"one result a clock; corners and those between with {waits} clocks at which a word "
            "waited",
        ],
        not_checked=[
            "the other accumulators between thresholds: equal if y never decreases",
            "factors other than the network's; uint8; |acc| from 2**21 on",
        ],
        trace=await traced(dut, port),
    )


async def traced(dut, port) -> dict:
    """Five accumulators of a row, and a taker that is late for the first result: every clock."""
    convs = golden.layers("QLinearConv")
    layer = next((one for one in convs if one["name"] == "block1_conv2_quant"), convs[0])
    image, m = golden.arrays(layer), min(5, layer["parameters"]["C_OUT"] - 1)
    height, width = image["acc"].shape[2:]
    row, columns = min(10, height - 1), slice(min(12, max(width - 5, 0)), None)
    accs, ys = (image[name][0, m, row, columns][:5].tolist() for name in ("acc", "y"))
    port("y_zero_point").value = golden.zero(layer, "y")
    words, clocks = [(acc, *golden.factors(layer)[m]) for acc in accs], []
    source = streams.Source("acc", FIELDS, words)
    await streams.exchange(dut, port, [source], "y", ys, str, seed=1220, rate=0.6, trace=clocks)
    return {"layer": layer["name"], "channel": m, "row": row, "column": columns.start,
            "clocks": clocks}  # fmt: skip
