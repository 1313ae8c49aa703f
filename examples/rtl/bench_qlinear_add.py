"""The residual addition: all 65,536 pairs of inputs with the constants of every addition."""

import golden
import streams

BLOCK = "qlinear_add"
LATENCY = 2  # clocks from a pair to its sum


@streams.bench
async def qlinear_add(dut):
    port = streams.ports(dut, BLOCK)
    for name in ("factor_a", "factor_b", "constant"):
        port(name).value = 0
    await streams.start(dut, port, ["a", "b"], "c")
    layers, waits, pairs = golden.layers("com.microsoft.QLinearAdd"), 0, 0
    for layer in layers:
        found = golden.arrays(layer, "pairs")
        for name in ("factor_a", "factor_b", "constant"):
            port(name).value = int(found[name])
        a, b, c = (found[name].tolist() for name in ("a", "b", "c"))

        def where(i, layer=layer, a=a, b=b):
            return f"{layer['name']}, a {a[i]}, b {b[i]}"

        # some with all three waiting for the others
        few = slice(None, None, 41)
        sources = [streams.Source(name, (name,), [(v,) for v in values[few]], rate=rate)
                   for name, values, rate in (("a", a, 0.5), ("b", b, 0.7))]  # fmt: skip
        counts = await streams.exchange(
            dut, port, sources, "c", c[few], lambda i: where(41 * i), seed=1, rate=0.5
        )
        assert counts["a"] and counts["b"] and counts["c"], counts
        waits += counts["a"] + counts["b"] + counts["c"]

        # all at full rate: one result a clock
        sources = [streams.Source(name, (name,), [(v,) for v in values])
                   for name, values in (("a", a), ("b", b))]  # fmt: skip
        counts = await streams.exchange(dut, port, sources, "c", c, where)
        assert counts == {"clocks": len(c) + LATENCY}, counts
        pairs += len(c)
    return dict(
        latency=LATENCY,
        checked=[
            f"{pairs} sums: all 65536 pairs of a and b for each of {len(layers)} additions",
            f"one result a clock; every 41st pair also with {waits} clocks at which a word waited",
        ],
        not_checked=["scales other than the network's; uint8"],
    )
