"""The parts of a convolution: where its windows lie, what its sums may reach, its running sums."""

import threading

import numpy as np
import pytest
from conftest import examples
from hypothesis import given
from test_qlinear_conv import convs, record, tie_inputs
from threadpoolctl import ThreadpoolController

from qlinear.explain import work
from qlinear.operators import qlinear_conv as qc
from qlinear.operators import qlinear_conv_fast as fast
from qlinear.operators import threads
from qlinear.ort import run_operator

F = np.float32


@pytest.mark.parametrize(
    ("size", "kernel", "attributes", "begin", "end", "out"),
    [
        ((5,), (3,), {}, (0,), (0,), (3,)),
        ((5,), (3,), dict(auto_pad="VALID", pads=[9, 9]), (0,), (0,), (3,)),
        ((5,), (3,), dict(pads=[1, 2]), (1,), (2,), (6,)),
        ((5,), (3,), dict(dilations=[2]), (0,), (0,), (1,)),
        ((5,), (3,), dict(strides=[2]), (0,), (0,), (2,)),
        ((6,), (3,), dict(strides=[2]), (0,), (0,), (2,)),
        ((5,), (2,), dict(auto_pad="SAME_UPPER"), (0,), (1,), (5,)),
        ((5,), (2,), dict(auto_pad="SAME_LOWER"), (1,), (0,), (5,)),
        ((5,), (4,), dict(auto_pad="SAME_UPPER"), (1,), (2,), (5,)),
        ((5,), (4,), dict(auto_pad="SAME_LOWER"), (2,), (1,), (5,)),
        ((6,), (4,), dict(auto_pad="SAME_UPPER", strides=[2]), (1,), (1,), (3,)),
        ((7,), (4,), dict(auto_pad="SAME_UPPER", strides=[3]), (1,), (2,), (3,)),
        ((5,), (1,), dict(auto_pad="SAME_UPPER", strides=[3]), (0,), (0,), (2,)),
        ((5, 6), (3, 2), dict(pads=[1, 2, 3, 4]), (1, 2), (3, 4), (7, 11)),
        ((5, 6), (3, 2), dict(strides=[2, 3], dilations=[1, 2]), (0, 0), (0, 0), (2, 2)),
        ((4, 5, 6), (1, 2, 3), dict(pads=[0, 0, 0, 1, 1, 1]), (0,) * 3, (1,) * 3, (5, 5, 5)),
    ],
)
def test_where_the_windows_lie(size, kernel, attributes, begin, end, out):
    geo = qc.geometry((2, 3, *size), (4, 3, *kernel), **attributes)
    assert (geo.begin, geo.end, geo.out) == (begin, end, out)
    assert geo.kernel == kernel and geo.group == 1
    same = qc.geometry((2, 3, *size), (4, 3, *kernel), kernel_shape=list(kernel), **attributes)
    assert same == geo
    # ONNX Runtime's output has that shape
    zero, one = np.int8(0), F(1)
    x, w = np.zeros((2, 3, *size), np.int8), np.zeros((4, 3, *kernel), np.int8)
    inputs = dict(x=x, xs=one, xz=zero, w=w, ws=one, wz=zero, ys=one, yz=zero)
    attributes = {k: v for k, v in attributes.items() if k != "pads" or max(v) < 9}
    assert run_operator("QLinearConv", inputs, **attributes).shape == (2, 4, *out)


def test_spans_and_groups():
    geo = qc.geometry((1, 4, 9, 9), (6, 2, 3, 1), dilations=[2, 3], group=2)
    assert geo.spans == (5, 1) and geo.group == 2 and geo.dilations == (2, 3)
    assert qc.geometry((0, 4, 9), (6, 4, 3)).out == (7,)  # no image is no error


def ranged(B=None) -> qc.Conv:
    """Weights 3, -2 and, for the second channel, 1, 0; inputs -128 to 127 less 100."""
    return qc.Conv(
        F(1), np.int8(100), np.int8([[[3, -2]], [[1, 0]]]), F(1), np.int8(0), F(1), np.int8(0), B
    )


def test_ranges_by_hand():
    # x - 100 lies in -228 ... 27
    low, high = ranged().sum_range()
    assert low.tolist() == [3 * -228 - 2 * 27, -228]
    assert high.tolist() == [3 * 27 + 2 * 228, 27]
    assert low.dtype == high.dtype == np.int64
    conv = ranged(np.int32([1000, -50]))
    assert conv.bias.tolist() == [1000, -50] and ranged().bias.tolist() == [0, 0]
    low, high = conv.accumulator_range()
    assert low.tolist() == [-738 + 1000, -228 - 50]
    assert high.tolist() == [537 + 1000, 27 - 50]
    # a register that starts from 0 or from the bias holds both ends of both
    low, high = conv.register_range()
    assert low.tolist() == [-738, -278] and high.tolist() == [1537, 27]


def test_a_range_past_int32_does_not_wrap():
    w = np.full((1, 70_000, 1), -128, np.int8)
    low, high = qc.sum_range(w, np.int8(127), np.dtype(np.uint8), np.uint8(0))
    assert low.tolist() == [-255 * 255 * 70_000] and high.tolist() == [0]


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_sums_that_pass_24_bits_on_the_negative_side_alone(dtype):
    """Their greatest value, 0, says nothing; every sum is odd, so that float32 would lose it."""
    info, taps = np.iinfo(dtype), 1023
    x = np.full((1, taps, 1), info.max, dtype)
    w = np.full((2, taps, 1), -127, np.int8)
    zero = dtype(info.min)
    geo = qc.geometry(x.shape, w.shape)
    low, high = qc.sum_range(w, np.int8(0), x.dtype, zero)
    assert high.max() == 0 and low.min() < -(2**24)
    for accumulate in (qc.accumulate, fast.accumulate):
        found = accumulate(x, zero, w, np.int8(0), geo)
        assert found.dtype == np.int32 and found.ravel().tolist() == [255 * -127 * taps] * 2


@examples(100)
@given(convs())
def test_every_way_to_the_sums_agrees(case):
    """The plain sums, the float ones, the loops, and the worked element."""
    x, conv = case[0]["x"], record(*case)
    geo = conv.geometry(x.shape)
    plain = qc.stages(x, conv)
    zeros = conv.x_zero_point, conv.w, conv.w_zero_point
    assert (fast.accumulate(plain.padded, *zeros, geo) == plain.sums).all()
    assert qc.stages(x, conv, accumulate=fast.accumulate).y.tolist() == plain.y.tolist()
    for n, m, *at in {(0,) * plain.y.ndim, tuple(size - 1 for size in plain.y.shape)}:
        loops = qc.accumulate_loops(plain.padded, *zeros, geo, n, m, tuple(at))
        assert loops[-1] == plain.sums[n, m, *at] and len(loops) == conv.w[0].size
        element = work(x, conv, n, m, tuple(at))
        assert element.running.tolist() == loops
        assert (element.acc, element.y) == (plain.acc[n, m, *at], plain.y[n, m, *at])


def test_a_worked_element_rounds_ties_to_even():
    inputs = tie_inputs()  # every odd accumulator is on a tie
    theirs = run_operator("QLinearConv", inputs)
    conv = record(inputs)
    elements = [work(inputs["x"], conv, 0, m, (0, 0)) for m in range(64)]
    assert [e.y for e in elements] == theirs.ravel().tolist()
    assert elements[33].scaled == 0.5 and elements[33].rounded == 0
    assert elements[35].scaled == 1.5 and elements[35].rounded == 2


def test_a_scalar_may_come_as_an_array_of_one_element():
    rng = np.random.default_rng(0)
    inputs = dict(
        x=rng.integers(-128, 128, (1, 2, 5)).astype(np.int8), x_scale=F(0.1),
        x_zero_point=np.int8(3), w=rng.integers(-128, 128, (1, 2, 3)).astype(np.int8),
        w_scale=F(0.2), w_zero_point=np.int8(0), y_scale=F(3), y_zero_point=np.int8(-7),
    )  # fmt: skip
    theirs = run_operator("QLinearConv", inputs)
    one = {k: v if k in "xw" else v.reshape(1) for k, v in inputs.items()}
    for function in (qc.qlinear_conv, fast.qlinear_conv):
        assert function(**one).tolist() == function(**inputs).tolist() == theirs.tolist()


def test_sums_wrap_with_the_bias_too():
    assert qc.add_bias(np.int32([[[5]]]), None).tolist() == [[[5]]]
    top = np.full((1, 2, 1), 2**31 - 1, np.int32)
    found = qc.add_bias(top, np.int32([1, 0]))
    assert found.dtype == np.int32 and found.ravel().tolist() == [-(2**31), 2**31 - 1]


@pytest.mark.parametrize("images", [1, 2, 5])
def test_the_fast_convolution_does_every_image(images):
    """Of a batch whose images differ, whatever fits the cache."""
    rng = np.random.default_rng(images)
    inputs = dict(
        x=rng.integers(0, 256, (images, 2, 6, 7)).astype(np.uint8), x_scale=F(0.1),
        x_zero_point=np.uint8(3), w=rng.integers(-128, 128, (4, 1, 3, 2)).astype(np.int8),
        w_scale=F(0.02), w_zero_point=np.int8(1), y_scale=F(3), y_zero_point=np.uint8(99),
        B=rng.integers(-9, 9, 4).astype(np.int32),
    )  # fmt: skip
    for attributes in (dict(group=2), dict(group=2, strides=[2, 1], pads=[1, 0, 1, 1])):
        theirs = run_operator("QLinearConv", inputs, **attributes)
        assert fast.qlinear_conv(**inputs, **attributes).tolist() == theirs.tolist()
        for cache in (1, 1500, 4000):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(fast, "CACHE", cache)
                patch.setattr(fast, "BLOCK", cache % 97)
                assert fast.qlinear_conv(**inputs, **attributes).tolist() == theirs.tolist()


def test_the_folded_sum_and_its_bound_by_hand():
    w = np.int8([[[3, -2]], [[1, 0]]])
    weights, constant = fast.folded(100, w, np.int8([1, 0]), None)
    assert weights.tolist() == [[2, -3], [1, 0]] and constant.tolist() == [100, -100]
    assert fast.folded(100, w, np.int8([1, 0]), np.int32([7, 8]))[1].tolist() == [107, -92]
    # |2| + |-3| times 128 or 255, and the constant
    assert fast.largest_sum(weights, constant, np.dtype(np.int8)) == 5 * 128 + 100
    assert fast.largest_sum(weights, constant, np.dtype(np.uint8)) == 5 * 255 + 100
    far = np.int64([0, -(10**6)])
    assert fast.largest_sum(weights, far, np.dtype(np.int8)) == 128 + 10**6


@pytest.mark.parametrize(
    ("pads", "strides", "size", "wide"),
    [
        ([0, 0, 0, 0], [1, 1], (4, 5), (2, 5)),  # rows run on: 5 positions, of which 3 are kept
        ([1, 1, 1, 1], [1, 1], (6, 6), (4, 6)),  # neighbouring rows share one column of padding
        ([1, 2, 1, 1], [1, 1], (6, 7), (4, 7)),
        ([1, 1, 1, 1], [2, 1], (6, 7), (2, 5)),  # at other strides nothing is dropped
    ],
)
def test_how_a_padded_image_lies_in_memory(pads, strides, size, wide):
    geo = qc.geometry((1, 1, 4, 5), (1, 1, 3, 3), pads=pads, strides=strides)
    lay = fast.layout((4, 5), geo)
    assert (lay.size, lay.wide, lay.pitch) == (size, wide, (size[1], 1))
    assert lay.count == wide[0] * wide[1]
    assert lay.beyond == 2 * size[1] + 2  # the last tap lies two rows and two elements further
    if max(strides) == 1:
        assert lay.positions == ((lay.count, 1),)
    else:
        assert lay.positions == ((2, 2 * size[1]), (5, 1))


def planned(size, weights=(2, 1, 3, 3)):
    """The plan of a convolution of images of this size, without padding."""
    zero = np.int8(0)
    conv = qc.Conv(F(1), zero, np.ones(weights, np.int8), F(1), zero, F(1), zero)
    return fast.plan(conv, fast.packed(conv), (1, weights[1], *size))


@pytest.mark.parametrize(
    ("size", "blocks"),
    [
        ((4, 25), 1),  # 100 positions are one block
        ((4, 26), 2),
        ((6, 40), 2),  # halves of 3 rows: an odd number is not halved again
        ((8, 100), 8),
        ((7, 90), 1),
    ],
)
def test_blocks_are_of_about_100_positions(size, blocks):
    assert planned(size, (2, 1, 1, 1)).blocks == blocks


@pytest.mark.parametrize(
    ("cache", "images", "held", "copied"),
    [
        # an image takes 4 bytes for each of 2 x 10 sums and 20 for itself; its columns 360
        (1, 9, 1, 1),  # one image, where nothing fits
        (600, 9, 3, 1),
        (1000, 9, 5, 2),
        (1200, 9, 6, 3),
        (1200, 2, 2, 2),  # never more than there are
        (2400, 9, 9, 6),
    ],
)
def test_a_thread_holds_as_many_images_as_its_cache(monkeypatch, cache, images, held, copied):
    monkeypatch.setattr(fast, "CACHE", cache)
    plan = planned((4, 5))
    assert (plan.layout.count, plan.plane, plan.taps) == (10, 20, 9)
    memory = fast.buffers(plan, images)
    assert memory.acc.shape == (held, 2, 10) and memory.inside.shape == (held, 1, 4, 5)
    assert memory.copied.shape == (copied, 1, 1, 3, 3, 10)
    assert memory.columns.shape == (copied, 1, 1, 10, 10)  # with the input that is always 1
    assert (memory.columns[:, :, :, 9] == 1).all()
    assert memory.acc.dtype == memory.columns.dtype == memory.copied.dtype == F
    assert memory.windows.dtype == np.int8 and not memory.windows.flags.writeable


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_threads_share_a_batch_in_equal_parts(monkeypatch, count):
    monkeypatch.setattr(threads, "THREADS", 3)
    calls, names = [], set()

    def work(first, last):
        calls.append((first, last))
        names.add(threading.get_ident())
        blas = ThreadpoolController().select(user_api="blas").info()
        held.update(library["num_threads"] for library in blas)
        barrier.wait(timeout=30)  # each part in a thread of its own

    held, parts = set(), min(count, 3)
    barrier = threading.Barrier(parts)
    with ThreadpoolController().limit(limits=2, user_api="blas"):
        threads.share(work, count)
        after = {v["num_threads"] for v in ThreadpoolController().select(user_api="blas").info()}
    wanted = {1: [(0, 1)], 2: [(0, 1), (1, 2)], 3: [(0, 1), (1, 2), (2, 3)]}
    assert sorted(calls) == wanted.get(count, [(0, 2), (2, 4), (4, 7)])
    assert len(names) == parts
    if parts > 1:
        assert held <= {1}  # which keep BLAS to one thread each
    assert after <= {2}


def test_who_comes_while_threads_share_works_alone(monkeypatch):
    monkeypatch.setattr(threads, "THREADS", 2)
    inner = []

    def outer(first, last):
        if first == 0:
            threads.share(lambda *part: inner.append(part), 8)

    caller = threading.Thread(target=threads.share, args=(outer, 2), daemon=True)
    caller.start()
    caller.join(timeout=30)
    assert not caller.is_alive() and inner == [(0, 8)]
    inner.clear()
    threads.share(lambda *part: inner.append(part), 8)  # and afterwards they share again
    assert sorted(inner) == [(0, 4), (4, 8)]


def test_a_part_that_fails_fails_the_whole(monkeypatch):
    monkeypatch.setattr(threads, "THREADS", 2)

    def fails(first, last):
        if first:
            raise ValueError("the second part")

    with pytest.raises(ValueError, match="the second part"):
        threads.share(fails, 2)


def test_every_stage_by_hand():
    conv = qc.Conv(
        F(0.5), np.int8(1), np.int8([[[2, -1]], [[100, 0]]]), F([1, 2]), np.int8(0), F(1),
        np.int8(10), np.int32([3, 0]), dict(pads=[1, 0]),
    )  # fmt: skip
    st = qc.stages(np.int8([[[5, -3]]]), conv)
    assert st.padded.tolist() == [[[1, 5, -3]]] and st.padded.dtype == np.int8
    # 0 and 4, then 4 and -4, by 2 and -1, and by 100 and 0
    assert st.sums.tolist() == [[[-4, 12], [0, 400]]] and st.sums.dtype == np.int32
    assert st.acc.tolist() == [[[-1, 15], [0, 400]]] and st.acc.dtype == np.int32
    assert st.factor.tolist() == [0.5, 1] and st.factor.dtype == F
    assert st.scaled.tolist() == [[[-0.5, 7.5], [0, 400]]] and st.scaled.dtype == F
    assert st.rounded.tolist() == [[[10, 18], [10, 410]]] and st.rounded.dtype == F
    assert st.y.tolist() == [[[10, 18], [10, 127]]] and st.y.dtype == np.int8


def test_per_tensor_weights_have_a_factor_for_each_channel():
    conv = ranged()
    assert conv.factor.tolist() == [1, 1] and conv.factor.flags.c_contiguous
