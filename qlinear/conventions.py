"""Requantization as other runtimes and designs write it: what to program, and what comes out.

A :class:`Convention` has three parts. ``factor`` is the one number a channel that its users compute
from the three scales, in their precision. ``encode`` makes of it the constants that are programmed,
in the convention's own sign and order. ``requantize`` is stage 2 with these constants. All but the
factor is integers, so each is exact on every machine.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from qlinear.errors import UnusableInput
from qlinear.hardware import requantizers
from qlinear.operators import arithmetic as ar
from qlinear.operators.qlinear_conv import Conv

Constants = dict[str, np.ndarray]


@dataclass(frozen=True)
class Convention:
    """One way to write and to compute stage 2."""

    name: str
    title: str
    sentence: str  # what it does, for a reader who knows ONNX's names
    factor: Callable[..., np.ndarray]  # of x_scale, w_scale, y_scale; float32 or float64
    encode: Callable[[np.ndarray, np.ndarray], Constants]  # of factor (M,) and y_zero_point
    requantize: Callable[..., np.ndarray]  # of acc, the constants by name, y_zero_point
    constants: dict[str, str]  # name of a constant: its type and sign, as its users write it
    url: str
    source: str  # file and function

    def program(self, conv: Conv, factor: np.ndarray | None = None) -> Constants:
        """The constants of a layer's channels, each (M,) or (M, n).

        Args:
            factor: to encode instead of the convention's own, float32 or float64 (M,).

        Raises:
            UnusableInput: a factor is outside what the convention can hold; it names the channel.
        """
        factor = self.factor_of(conv) if factor is None else factor
        try:
            return self.encode(factor, conv.y_zero_point)
        except UnusableInput as error:
            raise UnusableInput(f"{self.name}: {error}") from None

    def factor_of(self, conv: Conv) -> np.ndarray:
        """x_scale * w_scale / y_scale of each channel in the convention's precision: (M,)."""
        factor = self.factor(conv.x_scale, conv.w_scale, conv.y_scale)
        return np.ascontiguousarray(np.broadcast_to(factor, len(conv.w)))

    def of_layer(self, conv: Conv, factor: np.ndarray | None = None) -> Callable:
        """Stage 2 of a layer: int32 accumulators (N, M, ...) to the type of ``y_zero_point``."""
        constants = self.program(conv, factor)
        return partial(self.requantize, **constants, y_zero_point=conv.y_zero_point)


# --- the factor


def in_float64(x_scale: np.ndarray, w_scale: np.ndarray, y_scale: np.ndarray) -> np.ndarray:
    """x_scale * w_scale / y_scale of float32 scales, computed in float64."""
    x_scale, w_scale, y_scale = (np.asarray(s, np.float64) for s in (x_scale, w_scale, y_scale))
    return x_scale * w_scale / y_scale


def by_reciprocal(x_scale: np.ndarray, w_scale: np.ndarray, y_scale: np.ndarray) -> np.ndarray:
    """(w_scale * x_scale) * (1 / y_scale) in float32, rounded after each of the three."""
    x_scale, w_scale, y_scale = (np.asarray(s, np.float32) for s in (x_scale, w_scale, y_scale))
    return (w_scale * x_scale) * (np.float32(1) / y_scale)


def require_factor(factor: np.ndarray, least: float, below: float) -> None:
    """Refuse a factor outside [least, below).

    Raises:
        UnusableInput: the message names the first channel.
    """
    outside = np.flatnonzero(~((factor >= least) & (factor < below)))
    if outside.size:
        m = outside[0]
        raise UnusableInput(
            f"channel {m} has the factor {factor[m]:.9g}: at least {least:g} and less than "
            f"{below:g} needed"
        )


# --- float32


def encode_float(factor: np.ndarray, y_zero_point: np.ndarray) -> Constants:
    """The factor itself."""
    return {"multiplier": factor.astype(np.float32)}


def requantize_float(
    acc: np.ndarray, multiplier: np.ndarray, y_zero_point: np.ndarray
) -> np.ndarray:
    """float32(acc) * multiplier, to the nearest integer, ties to even, plus the zero point."""
    return ar.requantize(acc, multiplier, y_zero_point)


# --- a multiplier of 31 bits (Q31)


def encode_left(factor: np.ndarray, y_zero_point: np.ndarray) -> Constants:
    """A 31-bit multiplier; shift is to the left where it is positive, to the right else.

    A factor below 2**-32 becomes multiplier 0, shift 0.
    """
    require_factor(factor, 0, 2.0**30)
    multiplier, right = requantizers.fixed_point(factor, 31, half_up=True)
    tiny = 31 - right < -31
    return {
        "multiplier": np.where(tiny, 0, multiplier).astype(np.int32),
        "shift": np.where(tiny, 0, 31 - right).astype(np.int32),
    }


def encode_right(factor: np.ndarray, y_zero_point: np.ndarray) -> Constants:
    """A 31-bit multiplier; shift is what is left to shift right after its upper half is taken."""
    require_factor(factor, 2.0**-32, 1)
    multiplier, right = requantizers.fixed_point(factor.astype(np.float32), 31)
    return {"multiplier": multiplier.astype(np.int32), "shift": (right - 31).astype(np.int32)}


def encode_whole(factor: np.ndarray, y_zero_point: np.ndarray) -> Constants:
    """A 31-bit multiplier; shift is the whole shift to the right."""
    require_factor(factor, 2.0**-32, 2.0**30)
    multiplier, right = requantizers.fixed_point(factor.astype(np.float32), 31)
    return {"multiplier": multiplier.astype(np.int32), "shift": right.astype(np.int32)}


def two_roundings_left(
    acc: np.ndarray,
    multiplier: np.ndarray,
    shift: np.ndarray,
    y_zero_point: np.ndarray,
    rounding: str = "half away",
) -> np.ndarray:
    """Two roundings, with a shift that is to the right where it is negative."""
    return requantizers.requantize_gemmlowp(
        acc, *_wide(multiplier, 31 - shift), y_zero_point, rounding
    )


def two_roundings_right(
    acc: np.ndarray, multiplier: np.ndarray, shift: np.ndarray, y_zero_point: np.ndarray
) -> np.ndarray:
    """Two roundings, with what is left to shift right."""
    return requantizers.requantize_gemmlowp(acc, *_wide(multiplier, 31 + shift), y_zero_point)


def one_rounding_left(
    acc: np.ndarray, multiplier: np.ndarray, shift: np.ndarray, y_zero_point: np.ndarray
) -> np.ndarray:
    """One rounding, half up, with a shift that is to the right where it is negative."""
    return requantizers.requantize_fixed(acc, *_wide(multiplier, 31 - shift), y_zero_point)


def one_rounding_whole(
    acc: np.ndarray, multiplier: np.ndarray, shift: np.ndarray, y_zero_point: np.ndarray
) -> np.ndarray:
    """One rounding, half up, with the whole shift to the right."""
    return requantizers.requantize_fixed(acc, *_wide(multiplier, shift), y_zero_point)


def _wide(multiplier: np.ndarray, shift: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.asarray(multiplier, np.int64), np.asarray(shift, np.int64)


# --- narrower multipliers


def encode_reduced(factor: np.ndarray, y_zero_point: np.ndarray) -> Constants:
    """The 31-bit multiplier rounded to 15 bits (Q15), half up, at most 2**15 - 1; its shift."""
    require_factor(factor, 0, 2.0**8)
    made = encode_left(factor, y_zero_point)
    reduced = np.minimum((made["multiplier"].astype(np.int64) + (1 << 15)) >> 16, 0x7FFF)
    return {"multiplier": reduced.astype(np.int32), "shift": made["shift"]}


def one_rounding_reduced(
    acc: np.ndarray, multiplier: np.ndarray, shift: np.ndarray, y_zero_point: np.ndarray
) -> np.ndarray:
    """One rounding, half up, of the product with a 15-bit multiplier."""
    return requantizers.requantize_fixed(acc, *_wide(multiplier, 15 - shift), y_zero_point)


def encode_mantissa(factor: np.ndarray, y_zero_point: np.ndarray) -> Constants:
    """The 24-bit mantissa of the float32 factor, and the whole shift to the right."""
    require_factor(factor, 2.0**-32, 2.0**8)
    mantissa, shift = requantizers.float32_parts(factor)
    return {"multiplier": mantissa.astype(np.int32), "shift": shift.astype(np.int32)}


def encode_16(factor: np.ndarray, y_zero_point: np.ndarray) -> Constants:
    """A 15-bit multiplier, half up, and how far to shift the accumulator left before the product.

    That is negative for a factor below 1/2: the accumulator is shifted right.
    """
    require_factor(factor, 2.0**-32, 2.0**8)
    multiplier, right = requantizers.fixed_point(factor.astype(np.float32), 15, half_up=True)
    return {"multiplier": multiplier.astype(np.int32), "shift": (15 - right).astype(np.int32)}


def requantize_16(
    acc: np.ndarray, multiplier: np.ndarray, shift: np.ndarray, y_zero_point: np.ndarray
) -> np.ndarray:
    """The accumulator is shifted first, half up, and saturated to 16 bits; then the product."""
    multiplier, shift = (ar.per_channel(v, acc.ndim) for v in _wide(multiplier, shift))
    left = acc.astype(np.int64) << np.maximum(shift, 0)
    # shift_right wants one bit at least: twice the value, by one more, is the same number
    narrow = requantizers.shift_right(2 * left, np.maximum(-shift, 0) + 1, "half up")
    narrow = np.clip(narrow, -(1 << 15), (1 << 15) - 1)
    upper = requantizers.shift_right(narrow * multiplier, np.int64(15), "half up")
    return ar.saturate(upper + int(y_zero_point), np.asarray(y_zero_point).dtype)


# --- NVDLA: an offset before the product


def encode_nvdla(factor: np.ndarray, y_zero_point: np.ndarray) -> Constants:
    """Offset, scale and truncate of the output converter.

    The scale register is int16, so 15 bits are the widest positive multiplier. There is no addition
    behind the shift: the zero point goes into the offset, in units of the accumulator, rounded.
    """
    if np.asarray(y_zero_point).dtype != np.int8:
        raise UnusableInput("y is uint8: int8 needed, to which its output converter saturates")
    require_factor(factor, 2.0**-23, 2.0**14)  # so that the offset has 32 bits
    scale, truncate = requantizers.fixed_point(factor, 15)
    offset = np.rint(-int(y_zero_point) * np.ldexp(1.0, truncate) / scale)
    return {
        "offset": offset.astype(np.int64).astype(np.int32),
        "multiplier": scale.astype(np.int32),
        "shift": truncate.astype(np.int32),
    }


def requantize_nvdla(
    acc: np.ndarray,
    offset: np.ndarray,
    multiplier: np.ndarray,
    shift: np.ndarray,
    y_zero_point: np.ndarray,
) -> np.ndarray:
    """((acc - offset) * multiplier) >> shift, ties away from zero, saturated."""
    zero = np.asarray(y_zero_point)
    centred = acc.astype(np.int64) - ar.per_channel(np.asarray(offset, np.int64), acc.ndim)
    nothing = np.zeros((), zero.dtype)
    return requantizers.requantize_fixed(centred, *_wide(multiplier, shift), nothing, "half away")


# --- FINN: thresholds


def encode_thresholds(factor: np.ndarray, y_zero_point: np.ndarray) -> Constants:
    """For each level above the lowest the least accumulator that reaches it: int32 (M, 255).

    (k - 1/2) / factor in float32, rounded up.
    """
    require_factor(factor, 2.0**-32, 2.0**8)
    zero = np.asarray(y_zero_point)
    lowest = int(np.iinfo(zero.dtype).min)
    levels = np.arange(lowest + 1, lowest + 256) - int(zero) - 0.5
    edges = np.ceil(levels.astype(np.float32) / factor.astype(np.float32)[:, None])
    info = np.iinfo(np.int32)
    return {"thresholds": edges.astype(np.float64).clip(info.min, info.max).astype(np.int32)}


def requantize_thresholds(
    acc: np.ndarray, thresholds: np.ndarray, y_zero_point: np.ndarray
) -> np.ndarray:
    """The lowest value plus the number of thresholds that the accumulator reaches."""
    zero = np.asarray(y_zero_point)
    lowest = int(np.iinfo(zero.dtype).min)
    counts = [
        np.searchsorted(thresholds[m], acc[:, m].ravel(), "right").reshape(acc[:, m].shape)
        for m in range(acc.shape[1])
    ]
    return (np.stack(counts, axis=1) + lowest).astype(zero.dtype)


# --- the list

_LEFT = {
    "multiplier": "int32, 2^30 to 2^31 - 1 (Q31)",
    "shift": "int32, positive to the left, negative to the right",
}
_Q31_RIGHT = {
    "multiplier": _LEFT["multiplier"],
    "shift": "int32, 0 to 31, to the right after the upper half is taken",
}
_FLOAT = {"multiplier": "float32"}
_GITHUB = "https://github.com/"
_TWO = (
    "The upper half of acc * multiplier is rounded half up; that is shifted right and rounded "
    "again, ties away from zero."
)
_ONE = "acc * multiplier is kept whole and rounded once, half up."

#: Every :class:`Convention` by its name on the command line.
CONVENTIONS = {
    c.name: c
    for c in (
        Convention(
            "onnxruntime", "ONNX Runtime",
            "float32(acc) * multiplier, rounded to the nearest integer, ties to even.",
            ar.requantization_scale, encode_float, requantize_float, _FLOAT,
            f"{_GITHUB}microsoft/onnxruntime",
            "onnxruntime/core/mlas/lib/quantize.cpp, MlasRequantizeOutput",
        ),
        Convention(
            "gemmlowp", "gemmlowp",
            _TWO, ar.requantization_scale, encode_right, two_roundings_right, _Q31_RIGHT,
            f"{_GITHUB}google/gemmlowp",
            "doc/quantization_example.cc, QuantizeMultiplierSmallerThanOne; "
            "fixedpoint/fixedpoint.h, SaturatingRoundingDoublingHighMul and RoundingDivideByPOT",
        ),
        Convention(
            "tflite", "TensorFlow Lite, two roundings",
            _TWO, in_float64, encode_left, two_roundings_left, _LEFT,
            f"{_GITHUB}tensorflow/tensorflow",
            "tensorflow/lite/kernels/internal: quantization_util.cc, QuantizeMultiplier; "
            "common.cc, MultiplyByQuantizedMultiplier",
        ),
        Convention(
            "tflite-optimized", "TensorFlow Lite, optimized kernels on x86",
            "The upper half of acc * multiplier is rounded half up; that is shifted right and "
            "rounded again, half up.",
            in_float64, encode_left, partial(two_roundings_left, rounding="half up"), _LEFT,
            f"{_GITHUB}google/ruy",
            "ruy/kernel_avx512.cc, Kernel8bitAvx512, apply_multiplier (TensorFlow Lite's products)",
        ),
        Convention(
            "tflite-single", "TensorFlow Lite, single rounding",
            f"{_ONE} What TFLITE_SINGLE_ROUNDING builds.",
            in_float64, encode_left, one_rounding_left, _LEFT,
            f"{_GITHUB}tensorflow/tensorflow",
            "tensorflow/lite/kernels/internal: quantization_util.cc, QuantizeMultiplier; "
            "common.cc, MultiplyByQuantizedMultiplier under TFLITE_SINGLE_ROUNDING",
        ),
        Convention(
            "cmsis-nn", "CMSIS-NN, two roundings",
            _TWO, in_float64, encode_left, two_roundings_left, _LEFT,
            f"{_GITHUB}ARM-software/CMSIS-NN",
            "Include/arm_nnsupportfunctions.h, arm_nn_requantize",
        ),
        Convention(
            "cmsis-nn-single", "CMSIS-NN, single rounding",
            f"{_ONE} What CMSIS_NN_USE_SINGLE_ROUNDING builds.",
            in_float64, encode_left, one_rounding_left, _LEFT,
            f"{_GITHUB}ARM-software/CMSIS-NN",
            "Include/arm_nnsupportfunctions.h, arm_nn_requantize under "
            "CMSIS_NN_USE_SINGLE_ROUNDING",
        ),
        Convention(
            "cmsis-nn-s16", "CMSIS-NN and TensorFlow Lite, 16-bit activations",
            "The multiplier is reduced to 15 bits; the product is rounded once, half up.",
            in_float64, encode_reduced, one_rounding_reduced,
            {"multiplier": "int32, 2^14 to 2^15 - 1 (Q15)", "shift": _LEFT["shift"]},
            f"{_GITHUB}ARM-software/CMSIS-NN",
            "Include/arm_nnsupportfunctions.h, REDUCE_MULTIPLIER and arm_nn_requantize_s64",
        ),
        Convention(
            "xnnpack-fp32", "XNNPACK, fp32",
            "float32(acc) * multiplier, saturated, then rounded, ties to even.",
            ar.requantization_scale, encode_float, requantize_float, _FLOAT,
            f"{_GITHUB}google/XNNPACK",
            "src/xnnpack/requantization.h, xnn_qs8_requantize_fp32",
        ),
        Convention(
            "xnnpack-rndnu", "XNNPACK, rndnu",
            f"{_ONE} The multiplier is the mantissa of the float32 factor.",
            ar.requantization_scale, encode_mantissa, one_rounding_whole,
            {"multiplier": "int32, 2^23 to 2^24 - 1", "shift": "uint32, 16 to 55, to the right"},
            f"{_GITHUB}google/XNNPACK",
            "src/xnnpack/requantization.h, xnn_qs8_requantize_rndnu",
        ),
        Convention(
            "xnnpack-rndnu16", "XNNPACK, rndnu16",
            "acc is shifted first, rounded half up and saturated to 16 bits; the upper half of its "
            "product with a 15-bit multiplier is rounded half up.",
            ar.requantization_scale, encode_16, requantize_16,
            {"multiplier": "int16, 2^14 to 2^15 - 1 (Q15)",
             "shift": "int32, of acc, before the product: positive to the left"},
            f"{_GITHUB}google/XNNPACK",
            "src/xnnpack/requantization.h, xnn_qu8_requantize_rndnu16",
        ),
        Convention(
            "qnnpack", "QNNPACK",
            f"{_TWO} The multiplier is the mantissa of the float32 factor, times 128.",
            ar.requantization_scale, encode_right, two_roundings_right, _Q31_RIGHT,
            f"{_GITHUB}pytorch/QNNPACK",
            "src/qnnpack/requantization.h, qnnp_compute_scalar_requantization_params and "
            "qnnp_q31_requantize",
        ),
        Convention(
            "pytorch-qnnpack", "PyTorch's copy of QNNPACK",
            "float32(acc) * multiplier, ties to even; the multiplier is the product of the scales "
            "times the reciprocal of y_scale.",
            by_reciprocal, encode_float, requantize_float, _FLOAT,
            f"{_GITHUB}pytorch/pytorch",
            "aten/src/ATen/native/quantized/cpu/QnnpackUtils.h, generate_requantization_scales",
        ),
        Convention(
            "fbgemm", "FBGEMM, float",
            "float32(acc) * multiplier, rounded to the nearest integer, ties to even.",
            ar.requantization_scale, encode_float, requantize_float, _FLOAT,
            f"{_GITHUB}pytorch/FBGEMM",
            "include/fbgemm/OutputProcessing-inl.h, ReQuantizeOutput::f; "
            "include/fbgemm/QuantUtils.h, Requantize",
        ),
        Convention(
            "fbgemm-fixed", "FBGEMM, fixed point",
            f"{_ONE} The shift is the whole one.",
            ar.requantization_scale, encode_whole, one_rounding_whole,
            {"multiplier": _LEFT["multiplier"], "shift": "int, the whole shift to the right"},
            f"{_GITHUB}pytorch/FBGEMM",
            "src/QuantUtils.cc, ChooseRequantizationMultiplier and SaturatingRoundingMulWithShift",
        ),
        Convention(
            "nvdla", "NVDLA, output converter",
            "An offset is subtracted from acc, which holds the zero point; the product with a "
            "15-bit multiplier is shifted right, ties away from zero.",
            in_float64, encode_nvdla, requantize_nvdla,
            {"offset": "int32, in units of acc", "multiplier": "int16, 2^14 to 2^15 - 1",
             "shift": "6 bits, to the right (truncate)"},
            f"{_GITHUB}nvdla/hw",
            "vmod/nvdla/sdp/NV_NVDLA_SDP_HLS_C_int.v and vmod/vlibs/NV_NVDLA_HLS_shiftrightsatsu.v "
            "(branch nv_small)",
        ),
        Convention(
            "finn", "FINN, thresholds",
            "The output is the lowest value plus the number of thresholds that acc reaches; they "
            "are (k - 1/2) / factor in float32, rounded up.",
            ar.requantization_scale, encode_thresholds, requantize_thresholds,
            {"thresholds": "int32, 255 a channel, ascending"},
            f"{_GITHUB}Xilinx/finn",
            "src/finn/transformation: qonnx/qonnx_activation_handlers.py, QuantIdentityHandler; "
            "streamline/absorb.py, AbsorbMulIntoMultiThreshold; streamline/round_thresholds.py",
        ),
    )
}  # fmt: skip


def convention(name: str) -> Convention:
    """The convention of that name.

    Raises:
        UnusableInput: there is none; the message lists those that there are.
    """
    if name not in CONVENTIONS:
        raise UnusableInput(f"no convention {name!r}; there are {', '.join(CONVENTIONS)}")
    return CONVENTIONS[name]


# --- how far from ONNX Runtime


def differing(one: np.ndarray, other: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """On how many accumulators of each channel two monotone requantizers differ.

    Between the thresholds of one level the first has reached it and the second has not. The same
    accumulator lies between those of two levels only where the outputs are two apart, so the
    intervals are joined, not added up.

    Args:
        one, other: thresholds (M, 255), as from :func:`qlinear.hardware.proofs.thresholds`.
        low, high: the range (M,) that they are of.

    Returns:
        int64 (M,).
    """
    first, last = np.minimum(one, other), np.maximum(one, other)  # [first, last) differs
    last = np.minimum(last, high[:, None] + 1)
    # both are sorted, so the part of an interval that no earlier one covers begins at their end
    covered = np.maximum.accumulate(last, axis=1)
    before = np.concatenate([low[:, None], covered[:, :-1]], axis=1)
    return np.maximum(last - np.maximum(first, before), 0).sum(axis=1)
