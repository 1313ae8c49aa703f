"""A crossbar whose wires are resistors: what its cells seem to conduct, seen from the converters.

The circuit is that of CrossSim 3.2 (``simulator/circuits/array/NonInterleaved_InputSource.py``),
which it solves by iteration and we exactly. A word line is driven at one end, and has a segment
before each column; column 0 is nearest to its driver. A bit line has a segment after each row; the
last one ends in a converter, which holds it at 0 V; row 0 is farthest from it. A cell joins its
word line to its bit line, and a word line that is off is held at 0 V, so its cells drain the bit
lines. There are no transistors that would cut them off. Rows and columns that a layer does not use
are not there.

Nothing in it depends on the inputs but linearly. So a crossbar with such wires is one without, with
other cells: what column c gets for each volt on word line k alone.

:func:`nodal` writes Kirchhoff's current law down for every node. :func:`seen` gives the same within
a relative 1e-9 and takes hundreds of rows and columns. For ideal word lines
:func:`~qlinear.hardware.devices.through_wire` is enough.
"""

import numpy as np

from qlinear.hardware.devices import Device, through_wire


def through(cells: np.ndarray, full: float, device: Device, columns: int) -> np.ndarray:
    """The cells of a tile as its converters see them, unchanged where wires are ideal.

    The columns of a side, line after line, fill one crossbar after the other; the two sides of a
    pair lie in different ones, with a driver each.

    Args:
        cells: float32 (sides, lines, M, rows), in levels.
        full: the greatest conductance in levels.
        columns: of a crossbar.
    """
    if not device.word_wire:
        return through_wire(cells, full, device.wire) if device.wire else cells
    found = np.empty((len(cells), cells[0, ..., 0].size, cells.shape[-1]), np.float32)
    for side, all_columns in zip(found, cells.reshape(found.shape), strict=True):
        for start in range(0, len(side), columns):
            one = slice(start, start + columns)
            side[one] = seen(all_columns[one], full, device.wire, device.word_wire)
    return found.reshape(cells.shape)


def nodal(cells: np.ndarray, full: float, wire: float, word_wire: float) -> np.ndarray:
    """The plain form: the currents out of each node are 0 in sum, solved for the voltages.

    Two unknowns for each cell, in a dense matrix: for small crossbars.

    Args:
        cells: (columns, rows), in levels.
        full: the greatest conductance in levels.
        wire, word_wire: resistance of a segment times the greatest conductance, above 0.

    Returns:
        float64 (columns, rows), in levels.
    """
    columns, rows = cells.shape
    word = np.arange(columns * rows).reshape(columns, rows)  # the nodes on word lines
    bit = word + word.size  # and on bit lines
    law = np.zeros((2 * word.size, 2 * word.size))
    driven = np.zeros((2 * word.size, rows))

    def join(a: int, b: int, conductance: float) -> None:
        law[a, a] += conductance
        law[b, b] += conductance
        law[a, b] -= conductance
        law[b, a] -= conductance

    for c in range(columns):
        for k in range(rows):
            join(word[c, k], bit[c, k], cells[c, k] / full)
            if c:
                join(word[c - 1, k], word[c, k], 1 / word_wire)
            else:  # the driver, a volt on one word line after the other
                law[word[c, k], word[c, k]] += 1 / word_wire
                driven[word[c, k], k] = 1 / word_wire
            if k + 1 < rows:
                join(bit[c, k], bit[c, k + 1], 1 / wire)
            else:  # the converter, at 0 V
                law[bit[c, k], bit[c, k]] += 1 / wire
    volts = np.linalg.solve(law, driven)
    return volts[bit[:, -1]] / wire * full


def seen(cells: np.ndarray, full: float, wire: float, word_wire: float) -> np.ndarray:
    """What :func:`nodal` returns, one row after the other; either resistance may be 0.

    Seen from the bit lines, a word line is a current source for each column with a matrix of
    conductances beside them. Rows add up; a segment of the bit lines then divides both, as in
    :func:`~qlinear.hardware.devices.through_wire`, but by a matrix: word lines couple columns.

    Args:
        cells, full, wire, word_wire: as in :func:`nodal`.

    Returns:
        float64 (columns, rows), in levels.
    """
    columns, rows = cells.shape
    shares = cells.astype(np.float64) / full
    unit = np.eye(columns)
    # the resistance that the ways from the driver to two columns have in common
    near = np.arange(1, columns + 1)
    common = word_wire * np.minimum(near[:, None], near)
    beside = np.zeros((columns, columns))
    out = np.zeros((columns, rows))
    for k in range(rows):
        own = shares[:, k]
        # the currents i of a word line at 1 V: i = own * (1 - common @ i - volts of the bit lines)
        line = np.linalg.solve(unit + own[:, None] * common, np.diag(own))
        beside += line
        out[:, k] = line.sum(axis=1)
        both = np.concatenate([beside, out[:, : k + 1]], axis=1)
        both = np.linalg.solve(unit + wire * beside, both)
        beside, out[:, : k + 1] = both[:, :columns], both[:, columns:]
    return out * full
