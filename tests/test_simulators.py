"""Wires that are resistors, and what other simulators say of the same arrays."""

import json
from dataclasses import replace

import numpy as np
import pytest
from conftest import MODELS

from qlinear.errors import UnusableInput
from qlinear.hardware import analog, devices, wires
from qlinear.hardware.analog import MAPPINGS, OFFSET, PAIR, Array
from qlinear.hardware.devices import DAY, INDEPENDENT, PCM, Device
from study import others, quantize, simulators
from study.provenance import sha256

RECORD = json.loads((MODELS / "simulators.json").read_text())


# --- wires ------------------------------------------------------------------------------------


def by_currents(cells: np.ndarray, wire: float, word_wire: float) -> np.ndarray:
    """What each column gets for a volt on one word line, from the cells' currents, not from nodes.

    The voltage across a cell is that of its driver, less what every cell's current drops over the
    segments that both use.
    """
    columns, rows = cells.shape
    c, k = np.divmod(np.arange(cells.size), rows)
    line = (k[:, None] == k) * word_wire * (np.minimum(c[:, None], c) + 1)
    column = (c[:, None] == c) * wire * (rows - np.maximum(k[:, None], k))
    own = cells.ravel()
    currents = np.linalg.solve(np.eye(own.size) + own[:, None] * (line + column), np.diag(own))
    given = currents.reshape(columns, rows, columns, rows).sum(axis=2)  # volts on a whole line
    return given.sum(axis=1)


def test_one_cell_by_hand():
    # two segments and a cell in a row
    for solve in (wires.nodal, wires.seen):
        seen = solve(np.array([[2.0]]), 4.0, 0.3, 0.2)
        assert seen == pytest.approx(4 / (1 / 0.5 + 0.3 + 0.2), rel=1e-12)


def test_two_by_two_by_hand():
    """Columns 0 and 1, rows 0 and 1; a volt on word line 0, word line 1 at 0 V."""
    (a, b), (c, d) = cells = np.array([[1.0, 0.5], [0.25, 0.75]])  # cells[column][row]
    r, w = 0.1, 0.2  # of a bit line's segment, and of a word line's
    # the current of every cell: its conductance times the volts that the wires leave it
    law = [
        [1 + a * (w + 2 * r), a * r, a * w, 0],
        [b * r, 1 + b * (w + r), 0, b * w],
        [c * w, 0, 1 + c * (2 * w + 2 * r), c * r],
        [0, d * w, d * r, 1 + d * (2 * w + r)],
    ]
    currents = np.linalg.solve(law, [a, 0, c, 0])
    wanted = [currents[0] + currents[1], currents[2] + currents[3]]
    assert currents[1] < 0  # the cell on the line at 0 V drains its bit line
    for solve in (wires.nodal, wires.seen):
        assert solve(cells, 1.0, r, w)[:, 0] == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize(("wire", "word_wire"), [(1e-5, 1e-5), (3e-2, 1e-2), (0.5, 2.0)])
def test_the_fast_form_is_the_plain_one(wire, word_wire):
    rng = np.random.default_rng(0)
    for shape in ((1, 6), (6, 1), (5, 7), (8, 4)):
        cells = rng.uniform(0, 3, shape)
        cells[rng.random(shape) < 0.2] = 0
        plain = wires.nodal(cells, 3.0, wire, word_wire)
        assert wires.seen(cells, 3.0, wire, word_wire) == pytest.approx(plain, rel=1e-9, abs=1e-12)
        currents = 3 * by_currents(cells / 3, wire, word_wire)
        assert plain == pytest.approx(currents, rel=1e-9, abs=1e-12)


def test_limits():
    cells = np.random.default_rng(1).uniform(0, 3, (6, 40))
    assert wires.seen(cells, 3.0, 0.0, 0.0) == pytest.approx(cells, rel=1e-12)
    # ideal word lines: the ladder of each column alone
    ladder = devices.through_wire(cells, 3.0, 2e-3)
    assert wires.seen(cells, 3.0, 2e-3, 0.0) == pytest.approx(ladder, rel=1e-6)
    # ideal bit lines: the same of each word line, seen from its other end; row by row
    crossed = devices.through_wire(cells.T[:, ::-1], 3.0, 2e-3)[:, ::-1].T
    assert wires.seen(cells, 3.0, 0.0, 2e-3) == pytest.approx(crossed, rel=1e-6)
    # a cell never seems to conduct more for its wires, nor less than with more of them
    both = wires.seen(cells, 3.0, 2e-3, 2e-3)
    assert both.sum() < min(ladder.sum(), crossed.sum())
    # turned round, drivers and converters change places: the same circuit (reciprocity)
    turned = wires.seen(cells.T[::-1, ::-1], 3.0, 1e-3, 2e-3)
    straight = wires.seen(cells, 3.0, 2e-3, 1e-3)
    assert straight == pytest.approx(turned.T[::-1, ::-1], rel=1e-9)


def layer(rng: np.random.Generator, M: int = 8, taps: int = 70) -> tuple[np.ndarray, np.ndarray]:
    columns = rng.integers(0, 256, (1, taps, 5)).astype(np.int32)
    return columns, rng.integers(-127, 128, (M, taps)).astype(np.int32)


@pytest.mark.parametrize("mapping", MAPPINGS)
def test_arrays_with_wires_both_ways(mapping):
    columns, rows = layer(np.random.default_rng(2))
    zero = np.zeros(8, np.int32)
    cell_bits = 1 if mapping == analog.TWOS_COMPLEMENT else 2
    array = Array(rows=50, columns=16, mapping=mapping, cell_bits=cell_bits)
    errors = []
    for device in (
        Device(on_off=50),
        Device(on_off=50, wire=1e-4),
        Device(on_off=50, wire=1e-4, word_wire=1e-12),
        Device(on_off=50, wire=1e-4, word_wire=1e-4),
    ):
        found = analog.array_sum(columns, rows, zero, replace(array, device=device))
        errors.append(np.abs(found - rows @ columns).mean())
    assert errors[0] == 0
    assert errors[1] == pytest.approx(errors[2], rel=1e-3)
    assert errors[2] < errors[3]
    across = replace(array, device=Device(on_off=50, word_wire=1e-4))
    alone = np.abs(analog.array_sum(columns, rows, zero, across) - rows @ columns).mean()
    assert 0 < alone < errors[3]


def test_a_word_line_is_as_long_as_a_crossbar_has_columns():
    _, rows = layer(np.random.default_rng(3))
    device = Device(on_off=100, wire=1e-4, word_wire=1e-4)
    array = Array(cell_bits=8, device=device)
    short, long = (analog.programmed(rows, replace(array, columns=n))[0].held for n in (4, 128))
    assert short.shape == long.shape == (1, 8, 70)
    # the first crossbar's columns see less on their word lines; the second begins anew
    levels = rows + 128 + array.device.base(255)
    full = 255 + array.device.base(255)
    assert long[0] == pytest.approx(wires.seen(levels, full, 1e-4, 1e-4), rel=1e-5)
    for one in (slice(0, 4), slice(4, 8)):
        wanted = wires.seen(levels[one], full, 1e-4, 1e-4)
        assert short[0, one] == pytest.approx(wanted, rel=1e-5)
    assert (short.sum(axis=2) > long.sum(axis=2)).all()
    # slices lie side by side, a line after the other: four of two bits in two crossbars of 16
    sliced = replace(array, cell_bits=2, columns=16)
    held = analog.programmed(rows, sliced)[0].held
    cells = analog.mapped(rows, sliced).cells + device.base(3)
    wanted = wires.seen(cells.reshape(32, 70)[16:], 3 + device.base(3), 1e-4, 1e-4)
    assert held.reshape(32, 70)[16:] == pytest.approx(wanted, rel=1e-5)


def test_the_sides_of_a_pair_have_drivers_of_their_own():
    _, rows = layer(np.random.default_rng(4))
    device = Device(on_off=100, wire=1e-4, word_wire=1e-4)
    (tile,) = analog.programmed(rows, Array(mapping=PAIR, cell_bits=8, device=device))
    base = device.base(127)
    plus, minus = (
        wires.seen(side + base, 127 + base, 1e-4, 1e-4) for side in analog.differential(rows)
    )
    assert tile.held[0] == pytest.approx(plus - minus, abs=1e-4)


def test_unusable_wires_are_refused():
    for value in (-1.0, float("nan"), float("inf")):
        with pytest.raises(UnusableInput, match="word_wire is"):
            Device(word_wire=value)
    assert not Device(word_wire=1e-5).exact


def test_drift_depends_on_what_a_cell_was_to_hold():
    """Cells of one target drift alike, though their programming erred apart."""
    targets = np.full(50_000, 5)
    device = Device(PCM, seconds=DAY)
    start, now = devices.programmed(targets, 127, device, np.random.default_rng(0))
    drifted = -np.log(now[start > 0] / start[start > 0]) / np.log(1 + DAY / devices.PCM_START)
    held = start[start > 0]
    assert held.std() > 0.2 * held.mean()
    assert abs(np.corrcoef(drifted, held)[0, 1]) < 0.02
    assert drifted.mean() == pytest.approx(-0.0155 * np.log(5 / 127) + 0.0244, rel=0.02)


# --- the record -------------------------------------------------------------------------------


def test_the_record_is_of_these_settings_and_this_model():
    assert RECORD["layers"] == list(others.LAYERS)
    assert RECORD["recorded"]["models"] == {
        quantize.MIXED: sha256((MODELS / quantize.MIXED).read_bytes())
    }
    assert {"crosssim", "aihwkit", "scipy", "torch", "numpy"} <= set(RECORD["recorded"]["versions"])
    assert set(RECORD["recorded"]["sources"]) == {"crosssim", "aihwkit"}
    assert tuple(RECORD["our_fit"]) == devices._PCM
    assert len(RECORD["exact"]) == 3 * 2 * 2 * 2 and len(RECORD["converters"]) == 3 * 2 * 3
    assert {(r["error"], r["mapping"]) for r in RECORD["cells"]} == {
        (e, m) for e in others.ERRORS for m in (OFFSET, PAIR)
    }


def test_where_the_models_are_equal_the_numbers_are():
    for row in RECORD["exact"]:
        assert [row[name] for name in ("crosssim", "ours", "aihwkit") if name in row].count(0) >= 2
        assert not row["crosssim"] and not row["ours"] and not row.get("aihwkit")
    assert sum("aihwkit" in row for row in RECORD["exact"]) == 3
    assert not any(row["differing"] for row in RECORD["converters"])
    assert {bool(row["changed"]) for row in RECORD["converters"] if row["bits"] == 9} == {False}
    assert {bool(row["changed"]) for row in RECORD["converters"] if row["bits"] < 9} == {True}
    for row in RECORD["cells"]:
        assert row["same_cells"] == 0 and row["changed"] > 0.9 * row["elements"]
        assert row["same_draws"] < 1e-6  # of the greatest conductance: float32 against float64
    assert RECORD["pcm_same_draws"]["after_a_day_and_read"] < 1e-4  # µS of 25
    for row in [*RECORD["wires"], RECORD["gated"]]:
        assert row["largest"] < 0.05 and abs(row["crosssim"]) > 50
    for row in RECORD["wires"]:
        assert row["library"] < 1  # rounded accumulators from float32 cells
    assert not any(row["differing_elsewhere"] for row in RECORD["one_conversion"])


def apart(one: dict, other: dict, what: str) -> float:
    """How many standard errors."""
    return abs(one[what] - other[what]) / np.hypot(one[f"{what}_error"], other[f"{what}_error"])


def test_chips_that_each_drew_for_itself_agree():
    """Within four standard errors, of 20 chips each; where the models differ, they do not."""
    for row in RECORD["cells"]:
        ours = row["ours_with_their_fit"] if row["error"] == PCM else row["ours"]
        assert apart(ours, row["crosssim"], "mean") < 4
        assert apart(ours, row["crosssim"], "std") < 4
    for row in RECORD["aged"]:
        for what in ("mean", "std", "gain"):
            assert apart(row["ours_in_their_way"], row["aihwkit"], what) < 4, row
    old = RECORD["aged"][-1]
    assert old["seconds"] == DAY and old["corrected"]
    assert apart(old["ours"], old["aihwkit"], "gain") > 4


# --- the script -------------------------------------------------------------------------------


def test_what_is_absent_is_said_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(others, "NEEDED", ("json", "no_such_simulator"))
    with pytest.raises(UnusableInput, match=r"absent: CrossSim in .*; no_such_simulator") as error:
        simulators.main(["--crosssim", str(tmp_path), "--out", str(tmp_path / "x.json")])
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_bad_out_is_refused_first(tmp_path):
    with pytest.raises(UnusableInput, match="nowhere"):
        simulators.main(["--crosssim", "x", "--out", str(tmp_path / "nowhere" / "x.json")])


def test_what_crosssim_cannot_is_refused():
    for array in (Array(mapping=analog.FLIPPED), Array(cell_bits=3)):
        with pytest.raises(UnusableInput, match="not for CrossSim"):
            others.crosssim(array)


def test_draws_that_were_drawn_before():
    given = np.arange(6, dtype=np.float32)
    drawn = simulators.Drawn(given, given)
    assert (drawn.standard_normal((2, 3), np.float32).ravel() == given).all()
    device = Device(INDEPENDENT, sigma=0.1, bounded=False)
    _, cells = devices.programmed(np.full(6, 3), 10, device, drawn)
    assert cells == pytest.approx(3 + given, rel=1e-6)
