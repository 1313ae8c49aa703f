"""Gaussian draws that depend on where they are used, not on when: noise of conversions.

A conversion's draw is a function of a key, the image, the position, the tile, the digit and the
column. So batches, threads and the order of work change no number, and compiled loops draw what
NumPy does. A 64-bit word is SplitMix64's finalizer of a counter; each half of it makes one draw,
the sum of two entries of a table.

The table holds a number for each of the 4,096 slices of a Gaussian that are equally likely: the
fourth root of the mean fourth power there, all times what makes the variance of the sum of two 1.
The sum's distribution function is within 2e-4 of a Gaussian's everywhere, and its tail within 1% up
to 3.5 standard deviations; at 4 it is 4% too thin, at 4.5 some 15%, and it ends at 5.4.
"""

from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np

from qlinear.errors import UnusableInput

ENTRIES = 4096
GOLDEN = 0x9E3779B97F4A7C15  # 2**64 over the golden ratio: SplitMix64's step
FIRST, SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


@dataclass(frozen=True)
class Reads:
    """Which noise conversions draw: of which run, and from which image on.

    The same seed gives the same noise to the same image and layer, however images are batched.
    Layers are told apart by their weights, so two that share them draw the same.
    """

    seed: int
    first: int = 0  # index of the batch's first image

    def __post_init__(self):
        for name in ("seed", "first"):
            if getattr(self, name) < 0:
                raise UnusableInput(f"{name} is {getattr(self, name)}: 0 or more needed")


Noise = np.random.Generator | Reads


@lru_cache(maxsize=1)
def table() -> np.ndarray:
    """A number for each slice of a Gaussian, the least first, of variance one half: float32."""
    normal = NormalDist()
    cuts = np.array([normal.inv_cdf(k / ENTRIES) for k in range(1, ENTRIES)])
    heights = np.array([normal.pdf(cut) for cut in cuts])
    # the integral of z**4 times the density from -inf to z is 3 F(z) - (z**3 + 3 z) f(z)
    parts = np.diff((cuts**3 + 3 * cuts) * heights, prepend=0.0, append=0.0)
    roots = np.maximum(3 - ENTRIES * parts, 0) ** 0.25
    roots = (roots + roots[::-1]) / 2  # symmetric to the last bit
    roots[: ENTRIES // 2] *= -1
    return (roots / np.sqrt(2 * np.mean(roots**2))).astype(np.float32)


def mixed(counters: np.ndarray) -> np.ndarray:
    """SplitMix64's finalizer: uint64 of any shape."""
    z = counters ^ counters >> np.uint64(30)
    z = z * np.uint64(FIRST)
    z ^= z >> np.uint64(27)
    z = z * np.uint64(SECOND)
    return z ^ z >> np.uint64(31)


def key_of(noise: Noise, layer: int) -> tuple[int, int]:
    """The key of a layer's draws at this call, and the index of its first image.

    A generator gives another key at every call; :class:`Reads` the same for the same layer.

    Args:
        layer: a number that other layers do not have.
    """
    if isinstance(noise, Reads):
        state = np.random.SeedSequence([noise.seed, layer]).generate_state(1, np.uint64)
        return int(state[0]), noise.first
    return int(noise.integers(1 << 64, dtype=np.uint64)), 0


def bases(key: tuple[int, int], images: int, positions: int) -> np.ndarray:
    """Where the counters of every output position begin: uint64 (images, positions)."""
    start, first = key
    places = np.arange(first * positions, (first + images) * positions, dtype=np.uint64)
    begun = mixed(np.uint64(start) + (places + np.uint64(1)) * np.uint64(GOLDEN))
    return begun.reshape(images, positions)


def halves(columns: int) -> int:
    """How many words the draws of so many columns take."""
    return (columns + 1) // 2


def normals(starts: np.ndarray, begin: int, columns: int) -> np.ndarray:
    """A draw for each column: float32 (images, columns, positions).

    Args:
        starts: from :func:`bases`.
        begin: words that were used before, of tiles and digits.
    """
    half, entries = halves(columns), table()
    steps = np.arange(begin + 1, begin + half + 1, dtype=np.uint64) * np.uint64(GOLDEN)
    words = mixed(starts[:, None, :] + steps[:, None])
    words = np.concatenate([words, words >> np.uint64(32)], axis=1)[:, :columns]
    last = np.uint64(ENTRIES - 1)
    return entries[words & last] + entries[words >> np.uint64(12) & last]
