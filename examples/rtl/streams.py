"""Streams of words with valid and ready, clock by clock, and what the benches share."""

import json
import os
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge, ReadOnly

STUCK = 3000  # clocks without a word on any stream


@dataclass(frozen=True)
class Source:
    """Words that go into a block."""

    name: str  # of the ports NAME_valid and NAME_ready
    fields: tuple[str, ...]  # the ports of a word
    words: Sequence[tuple[int, ...]]
    rate: float = 1.0  # how likely a word is offered at a clock


def ports(dut, block: str) -> Callable:
    """The port of a block by its name; all blocks stand side by side (run.py)."""
    return lambda name: getattr(dut, f"{block}_{name}")


async def start(dut, port: Callable, sources: Sequence[str], sink: str) -> None:
    """Start the clock and reset the block."""
    dut.clk.value = 0
    Clock(dut.clk, 2, unit="ns").start()
    for name in sources:
        port(f"{name}_valid").value = 0
    port(f"{sink}_ready").value = 0
    dut.reset.value = 1
    for _ in range(3):
        await FallingEdge(dut.clk)
    dut.reset.value = 0


async def exchange(
    dut,
    port: Callable,
    sources: Sequence[Source],
    sink: str,
    expected: Sequence[int],
    where: Callable[[int], str],
    *,
    seed: int = 0,
    rate: float = 1.0,
    trace: list | None = None,
) -> Counter:
    """Feed every word and compare every result at once, in order.

    The block may neither lose, repeat nor change a word, must keep a result while it is not taken,
    and give nothing more afterwards. Everything is driven and read while the clock is low.

    Args:
        sink: the port of the results; its handshake is SINK_valid and SINK_ready.
        where: words for the message about result i.
        rate: how likely a result is taken at a clock.
        trace: gets a record of every clock.

    Returns:
        the number of clocks, and for each stream those at which a word waited.
    """
    assert len(expected), "there is nothing to compare"
    rng, counts = random.Random(seed), Counter()
    at, offered = [0] * len(sources), [False] * len(sources)
    handles = [
        (port(f"{s.name}_valid"), port(f"{s.name}_ready"), [port(field) for field in s.fields])
        for s in sources
    ]
    valid, ready, result = port(f"{sink}_valid"), port(f"{sink}_ready"), port(sink)
    bits, got, held, idle = len(result), 0, None, 0
    while got < len(expected):
        for k, (source, (offers, _, fields)) in enumerate(zip(sources, handles, strict=True)):
            if not offered[k]:
                left = at[k] < len(source.words)
                offered[k] = left and (source.rate == 1 or rng.random() < source.rate)
                offers.value = int(offered[k])
                if offered[k]:
                    for field, value in zip(fields, source.words[at[k]], strict=True):
                        field.value = value
        taking = rate == 1 or rng.random() < rate
        ready.value = int(taking)
        await ReadOnly()
        if trace is not None:
            trace.append(_clock(port, sources, sink))
        idle += 1
        for k, (_, takes, _) in enumerate(handles):
            if offered[k] and int(takes.value):
                at[k], offered[k], idle = at[k] + 1, False, 0
            elif offered[k]:
                counts[sources[k].name] += 1
        if int(valid.value):
            value = signed(int(result.value), bits)
            assert held in (None, value), f"{where(got)}: {held} became {value} while it waited"
            if taking:
                assert value == expected[got], f"{where(got)}: {value}, expected {expected[got]}"
                got, held, idle = got + 1, None, 0
            else:
                held, counts[sink] = value, counts[sink] + 1
        else:
            assert held is None, f"{where(got)}: {held} was withdrawn before it was taken"
        counts["clocks"] += 1
        assert idle < STUCK, f"{where(got)}: no word moved for {STUCK} clocks"
        await FallingEdge(dut.clk)
    assert at == [len(s.words) for s in sources], f"words taken: {at}"
    ready.value = 1
    for _ in range(12):  # more than any block is deep
        await FallingEdge(dut.clk)
        assert not int(valid.value), f"a result too many: {signed(int(result.value), bits)}"
    return counts


def _clock(port: Callable, sources: Sequence[Source], sink: str) -> dict[str, int | None]:
    """The handshakes of one clock, and the words that are offered with them."""
    found = {}
    for name, fields in [*((s.name, s.fields[:1]) for s in sources), (sink, (sink,))]:
        found |= {f"{name}_{end}": int(port(f"{name}_{end}").value) for end in ("valid", "ready")}
        for field in fields:
            value = port(field).value if found[f"{name}_valid"] else None
            found[field] = None if value is None else signed(int(value), len(port(field)))
    return found


def signed(value: int, bits: int) -> int:
    return value - (1 << bits) if value >> (bits - 1) else value


def bench(run: Callable) -> Callable:
    """A cocotb test that leaves what it found for run.py, or the message of its failure.

    ``run`` returns a dictionary of which ``checked`` and ``not_checked`` are lists of lines.
    """

    @wraps(run)
    async def test(dut) -> None:
        path = Path(os.environ["REPORTS"]) / f"{run.__name__}.json"
        try:
            found = await run(dut)
        except Exception as error:
            message = (
                str(error).splitlines()[0] if isinstance(error, AssertionError) else repr(error)
            )
            path.write_text(json.dumps({"block": run.__name__, "failure": message}))
            raise
        path.write_text(json.dumps({"block": run.__name__, **found}))

    return cocotb.test()(test)
