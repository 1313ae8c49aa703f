"""The global average pool: two images, and a channel of pixels for every threshold of its sum."""

import random

import golden
import numpy as np
import streams

BLOCK = "qlinear_global_average_pool"
LATENCY = 5  # clocks from a channel's last pixel to its mean


def pixels_of(total: int, count: int, low: int, high: int, rng: random.Random) -> list[int]:
    """So many pixels from low to high with this sum, unequal and in no order."""
    pixels = [total // count] * count
    for i in rng.sample(range(count), total % count):
        pixels[i] += 1
    for _ in range(count):  # move something from one to another
        i, j = rng.randrange(count), rng.randrange(count)
        if i != j:
            step = rng.randint(0, min(pixels[i] - low, high - pixels[j]))
            pixels[i], pixels[j] = pixels[i] - step, pixels[j] + step
    return pixels


@streams.bench
async def qlinear_global_average_pool(dut):
    port, rng = streams.ports(dut, BLOCK), random.Random(0)
    (layer,) = golden.layers("com.microsoft.QLinearGlobalAveragePool")
    zero, count = golden.zero(layer, "x"), int(np.prod(layer["shapes"]["X"][2:]))
    ((mantissa, shift),) = golden.factors(layer)
    fixed = dict(mantissa=mantissa, shift=shift, y_zero_point=golden.zero(layer, "y"))
    for name, value in fixed.items():
        port(name).value = value
    await streams.start(dut, port, ["x"], "y")

    channels = []  # centred pixels, y, name
    for part in ("thresholds", "corners"):
        found = golden.arrays(layer, part)
        for total, y in zip(found["acc"].tolist(), found["y"].tolist(), strict=True):
            pixels = pixels_of(total, count, -128 - zero, 127 - zero, rng)
            assert sum(pixels) == total and -128 <= min(pixels) + zero <= max(pixels) + zero <= 127
            channels.append((pixels, y, f"{part}, sum {total}"))
    images = golden.manifest()["images"]
    for image in range(images):
        found = golden.arrays(layer, f"image{image:02d}")
        rows = found["X"].reshape(-1, count).astype(int) - zero
        for m, (row, y) in enumerate(zip(rows.tolist(), found["y"].ravel().tolist(), strict=True)):
            channels.append((row, y, f"image {image}, channel {m}"))

    # the last image, with a taker so late that the pixels wait
    few = channels[-(len(channels) // (images + 8)) :]
    source = streams.Source("x", ("x",), [(p,) for one in few for p in one[0]], rate=0.9)
    expected, names = ([one[i] for one in few] for i in (1, 2))
    stalled = await streams.exchange(
        dut, port, [source], "y", expected, names.__getitem__, seed=1, rate=0.01
    )
    assert stalled["x"] and stalled["y"], stalled

    # all at full rate: one pixel a clock
    expected, names = ([one[i] for one in channels] for i in (1, 2))
    words = [(pixel,) for pixels, _, _ in channels for pixel in pixels]
    source = streams.Source("x", ("x",), words)
    counts = await streams.exchange(dut, port, [source], "y", expected, names.__getitem__)
    assert counts == {"clocks": len(words) + LATENCY}, counts

    sums = len(channels) - images * layer["shapes"]["X"][1]
    return dict(
        latency=LATENCY,
        checked=[
            f"{images} images of {layer['shapes']['X'][1]} channels, and {sums} thresholds and "
            f"corners of the sum: {len(words)} pixels",
            f"one pixel a clock; {len(few)} channels also with "
            f"{stalled['x']} clocks of pixels and {stalled['y']} of results that waited",
        ],
        not_checked=[
            "the other sums between thresholds: equal if y never decreases",
            f"channels of another number of pixels than {count}; uint8; other images",
        ],
    )
