"""What is prepared once serves every call: other batches, sizes, threads; never old values."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from conftest import MODELS, examples
from hypothesis import given
from hypothesis import strategies as st
from test_qlinear_conv import convs
from threadpoolctl import ThreadpoolController

from qlinear.engine import compute, run, steps
from qlinear.errors import UnusableInput
from qlinear.inputs import load_samples
from qlinear.onnx_model import load
from qlinear.operators import OPERATORS, PREPARED, threads
from qlinear.operators import qlinear_add as qa
from qlinear.operators import qlinear_conv as qc
from qlinear.operators import qlinear_conv_fast as fast

F = np.float32
IMAGES = load_samples()[0].astype(F)


def constants(**changes) -> dict:
    rng = np.random.default_rng(0)
    return {
        **dict(x_scale=F(0.1), x_zero_point=np.int8(-7), y_scale=F(2), y_zero_point=np.int8(5)),
        **dict(w=rng.integers(-128, 128, (6, 2, 3, 3)).astype(np.int8), w_scale=F(0.02)),
        **dict(w_zero_point=np.int8(3), B=rng.integers(-999, 999, 6).astype(np.int32)),
        **changes,
    }


def image(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-128, 128, shape).astype(np.int8)


@examples(60)
@given(convs(), st.lists(st.integers(0, 5), min_size=1, max_size=4))
def test_a_prepared_convolution_equals_the_plain_one_at_every_call(case, batches):
    inputs, attributes = case
    x = inputs["x"]
    given_ = {k: v for k, v in inputs.items() if k != "x"}
    prepared = fast.prepare(**given_, **attributes)
    rng, info = np.random.default_rng(len(batches)), np.iinfo(x.dtype)
    for images in batches:
        batch = rng.integers(info.min, info.max + 1, (images, *x.shape[1:])).astype(x.dtype)
        wanted = qc.qlinear_conv(batch, **given_, **attributes)
        found = prepared(batch)
        assert found.dtype == wanted.dtype and (found == wanted).all()


def test_sizes_take_turns_and_few_plans_are_kept():
    attributes = dict(pads=[1, 1, 1, 1], strides=[2, 1], group=2)
    prepared = fast.prepare(**constants(), **attributes)
    shapes = [(2, 4, 8 + i, 9) for i in range(fast.SIZES + 2)]
    for turn in range(2):
        for shape in shapes:
            x = image(turn, *shape)
            assert (prepared(x) == qc.qlinear_conv(x, **constants(), **attributes)).all()
    (plans,) = (c.cell_contents for c in prepared.__closure__ if isinstance(c.cell_contents, dict))
    assert 0 < len(plans) <= fast.SIZES
    with pytest.raises(UnusableInput, match=r"x has shape \(3, 5, 8, 9\)"):
        prepared(image(0, 3, 5, 8, 9))
    with pytest.raises(UnusableInput, match="x_zero_point has type int8 but x uint8"):
        prepared(image(0, *shapes[0]).view(np.uint8))


def test_results_are_the_callers_own():
    """A later call changes no earlier result, nor what a caller does to one a later call."""
    prepared = fast.prepare(**constants(), group=2)
    first = prepared(image(1, 3, 4, 9, 9))
    before = first.copy()
    second = prepared(image(2, 3, 4, 9, 9))
    assert (first == before).all() and (first != second).any()
    assert not np.shares_memory(first, second) and first.flags.owndata
    second[:] = 77
    assert (prepared(image(1, 3, 4, 9, 9)) == before).all()


def test_many_threads_call_one_prepared_convolution():
    attributes = dict(group=2, pads=[1] * 4)
    prepared = fast.prepare(**constants(), **attributes)
    inputs = [image(i, 1 + i % 3, 4, 8, 8 + i % 2) for i in range(12)]
    wanted = [qc.qlinear_conv(x, **constants(), **attributes) for x in inputs]
    barrier = threading.Barrier(6)

    def work(_) -> bool:
        barrier.wait(timeout=30)
        return all((prepared(x) == y).all() for x, y in [*zip(inputs, wanted, strict=True)] * 20)

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(work, range(6)))


@pytest.mark.parametrize(
    ("weights", "size", "small"),
    [
        ((64, 64, 3, 3), (8, 8), True),  # one call of 64 * 577 * 64 positions
        ((16, 16, 3, 3), (32, 32), False),  # calls of few positions, which BLAS never divides
        ((512, 512, 3, 3), (15, 15), False),  # much work, which is worth its threads
    ],
)
def test_blas_is_held_to_one_thread_where_an_image_is_little_work(weights, size, small):
    zero = np.int8(0)
    conv = qc.Conv(F(1), zero, np.ones(weights, np.int8), F(1), zero, F(1), zero, None,
                   dict(pads=[1] * 4))  # fmt: skip
    assert fast.plan(conv, fast.packed(conv), (1, weights[1], *size)).small == small


def test_one_part_of_little_work_holds_blas_to_one_thread():
    held: dict[bool, set] = {}

    def work(first, last):
        assert (first, last) == (0, 1)
        blas = ThreadpoolController().select(user_api="blas").info()
        held[small] = {library["num_threads"] for library in blas}

    with ThreadpoolController().limit(limits=2, user_api="blas"):
        for small in (True, False):
            threads.share(work, 1, small=small)
    if held[False]:  # there is a BLAS that can be held
        assert held[True] == {1}


# --- additions

SUM = (F(0.1), np.int8(3), F(0.07), np.int8(-4), F(0.11), np.int8(9))


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_an_addition_reads_a_table_once_that_is_worth_it(monkeypatch, dtype):
    scale_zero = [v if v.dtype == F else v.astype(dtype) for v in map(np.asarray, SUM)]
    prepared = qa.prepare(*scale_zero)
    A, B = np.meshgrid(*[np.arange(256, dtype=np.uint8).view(dtype)] * 2)
    one = B[:1, :1]
    direct, exchanged = prepared(A, B), qa.qlinear_add(one, *scale_zero[:2], A, *scale_zero[2:])
    made = []
    real = qa.qlinear_add
    monkeypatch.setattr(qa, "qlinear_add", lambda *given: made.append(1) or real(*given))
    for _ in range(2):
        assert (prepared(A, B) == direct).all() and prepared(A, B).dtype == dtype
        # where A is one element the operands change places: a table of its own
        assert (prepared(one, A) == exchanged).all()
        assert (prepared(A[:3, :5].T, B[:3, :5].T) == direct[:3, :5].T).all()  # not contiguous
    assert len(made) == 2
    with pytest.raises(UnusableInput, match="B_zero_point"):
        prepared(A, B.view(np.int8 if dtype is np.uint8 else np.uint8))


# --- the engine


@pytest.fixture
def model():
    return load(MODELS / "resnet8_int8.onnx")


def test_the_constants_of_a_model_cannot_be_written(model):
    assert not any(value.flags.writeable for value in model.constants.values())
    assert model.prepared == {}
    assert replace(model).prepared is not model.prepared


def test_a_run_prepares_once_and_later_runs_agree(model, monkeypatch):
    made = []
    for function, (prepare, positions) in PREPARED.items():

        def counted(*given, prepare=prepare, **attributes):
            made.append(prepare)
            return prepare(*given, **attributes)

        monkeypatch.setitem(PREPARED, function, (counted, positions))
    first = run(model, IMAGES[:2])
    assert len(made) == len(model.prepared) == 12  # 9 convolutions, 3 additions
    for x in (IMAGES[2:3], IMAGES[:2]):
        again = run(model, x)
    assert len(made) == 12
    assert all((again[name] == first[name]).all() for name in first)
    list(steps(model, {"image": IMAGES[:1]}))
    assert len(made) == 12  # a walk takes what a run prepared


def test_constants_that_can_change_are_never_kept(model):
    node = model.node("block2_conv1_quant")
    name = model.name_of(node, "w")
    values = {node.inputs[0]: image(0, 1, 16, 32, 32)}
    before = compute(model, node, values)
    w = model.constants[name].copy()
    loose = replace(model, constants={**model.constants, name: w})
    assert (compute(loose, node, values) == before).all() and loose.prepared == {}
    w ^= 64
    changed = compute(loose, node, values)
    assert (changed != before).any()
    # another array under the same name, other attributes, a constant that is fed
    w.flags.writeable = False
    model.constants[name] = w
    assert (compute(model, node, values) == changed).all()
    other = replace(node, attributes={**node.attributes, "strides": [1, 1]})
    assert compute(model, other, values).shape != changed.shape
    assert (compute(model, node, {**values, name: w ^ 64}) == before).all()
    assert (compute(model, node, values) == changed).all()


def test_another_table_of_operators_is_used_as_it_is(model):
    run(model, IMAGES[:1])
    plain = {**OPERATORS, ("", "QLinearConv"): lambda x, *given, **attributes: x[:, :1] * 0}
    node = model.node("stem_quant")
    assert not compute(model, node, {node.inputs[0]: image(0, 1, 3, 32, 32)}, plain).any()
